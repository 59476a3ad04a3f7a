//! Use counters held against the ledger: a counter and the newest signature's entry must tell the same number.
//! Who enters: the start, before any door opens.
//! What leaves: an alarm for each key whose two numbers differ, on the ledger and in the log; and a counter that never repeats one.

use audit::{EntryFilter, EntryOrder, EntryScope, Outcome, SqlFault, Told, View};
use serde_json::json;

use super::{Keys, KeysRefused, store};
use crate::ids::{SigningKeyId, WorkspaceId};
use crate::services::ground::Telling;

/// A key whose counter is not where its entries are.
#[derive(Clone, Debug)]
struct Gap {
    workspace: WorkspaceId,
    key: SigningKeyId,
    counted: i64,
    told: i64,
}

impl Keys {
    /// Compares every key's counter with its newest entry, and raises an alarm where they differ.
    /// The number of alarms.
    ///
    /// # Errors
    /// The ledger gave or took nothing.
    pub async fn check_counters(&self) -> Result<usize, KeysRefused> {
        let gaps = self.ground.read::<_, KeysRefused>(|view| Ok(gaps(view)?)).await?;
        let count = gaps.len();
        for gap in gaps {
            self.raise_alarm(gap).await?;
        }
        Ok(count)
    }

    /// Tells of the gap, and lets the counter go on from the higher number, so that no use is numbered twice.
    async fn raise_alarm(&self, gap: Gap) -> Result<(), KeysRefused> {
        tracing::error!(key = %gap.key, counted = gap.counted, told = gap.told, "a use counter and the ledger differ: signatures are missing from one of them");
        let telling = Telling::own(Some(&gap.workspace));
        let told = self.ground.write::<_, KeysRefused>(telling, move |tx, telling| {
            store::raise_uses(tx, &gap.workspace, &gap.key, gap.told)?;
            let after = json!({ "counted": gap.counted, "told": gap.told });
            let entry = telling.entry("key.counter_gap", gap.key.as_str(), |detail| detail.after(after));
            Ok(Told::new((), entry.outcome(Outcome::Failed)))
        });
        told.await.map(drop)
    }
}

fn gaps(view: &View<'_>) -> Result<Vec<Gap>, SqlFault> {
    let mut gaps = Vec::new();
    for (workspace, key, counted) in store::counters(view)? {
        let told = newest_use(view, &workspace, &key)?;
        if told != counted {
            gaps.push(Gap { workspace, key, counted, told });
        }
    }
    Ok(gaps)
}

/// The number that the key's newest authorisation tells; 0 if there was none.
fn newest_use(view: &View<'_>, workspace: &WorkspaceId, key: &SigningKeyId) -> Result<i64, SqlFault> {
    let newest = view.entries(&EntryFilter {
        scope: EntryScope::Workspace(workspace.on_ledger().clone()),
        action: Some("key.sign".to_owned()),
        object: Some(key.to_string()),
        order: EntryOrder::NewestFirst,
        limit: 1,
        ..EntryFilter::default()
    })?;
    let payload = newest.first().map(|entry| serde_json::from_slice::<serde_json::Value>(&entry.payload));
    Ok(payload.and_then(Result::ok).and_then(|payload| payload["after"]["use"].as_i64()).unwrap_or(0))
}
