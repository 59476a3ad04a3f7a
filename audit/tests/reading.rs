//! Promises about the reading desk: each filter alone and together, in both orders, page by page.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]

mod common;

use audit::{Entry, EntryFilter, EntryOrder, EntryScope, Ledger, SqlFault, StoredEntry, Told};
use common::{House, workspace};

/// Four workspaces (one of them the appliance), three actors, two actions, seven objects, a minute apart.
async fn filled(house: &House) -> Ledger {
    let ledger = house.open();
    for n in 0..200_u64 {
        house.clock.set(1_000_000 * n);
        let work = move |_: &mut audit::Tx<'_>| {
            let entry = Entry::new(if n % 2 == 0 { "sign" } else { "key.create" })
                .actor(["user:alice", "user:bob", "client:batch"][(n % 3) as usize])
                .object(format!("key/{}", n % 7))
                .request(if n % 5 == 0 { String::new() } else { format!("req-{}", n / 2) });
            let entry = match n % 4 {
                0 => entry,
                other => entry.workspace(&workspace(["a", "b", "c"][other as usize - 1])),
            };
            Ok::<_, SqlFault>(Told::new((), entry))
        };
        ledger.write(work).await.unwrap();
    }
    ledger
}

fn filters() -> Vec<EntryFilter> {
    let mut filters = Vec::new();
    let scopes = [
        EntryScope::Everything,
        EntryScope::Workspace(workspace("b")),
        EntryScope::Workspace(workspace("none")),
    ];
    for scope in scopes {
        for bits in 0..64_u32 {
            let when = |bit: u32, text: &str| (bits >> bit & 1 == 1).then(|| text.to_owned());
            filters.push(EntryFilter {
                scope: scope.clone(),
                action: when(0, "sign"),
                object: when(1, "key/3"),
                actor: when(2, "user:bob"),
                request_id: when(3, "req-43"),
                since_us: (bits >> 4 & 1 == 1).then_some(20_000_000),
                until_us: (bits >> 5 & 1 == 1).then_some(150_000_000),
                ..EntryFilter::default()
            });
        }
    }
    filters
}

/// The filter, written down a second time in plain words.
fn passes(filter: &EntryFilter, entry: &StoredEntry) -> bool {
    let is = |asked: &Option<String>, has: &str| asked.as_deref().is_none_or(|asked| asked == has);
    let scope = match &filter.scope {
        EntryScope::Everything => true,
        EntryScope::Workspace(workspace) => workspace.as_str() == entry.workspace,
    };
    scope
        && is(&filter.action, &entry.action)
        && is(&filter.object, &entry.object)
        && is(&filter.actor, &entry.actor)
        && is(&filter.request_id, &entry.request_id)
        && filter.since_us.is_none_or(|since| entry.time_us >= since)
        && filter.until_us.is_none_or(|until| entry.time_us < until)
}

async fn numbers(ledger: &Ledger, filter: EntryFilter) -> Vec<u64> {
    let entries = ledger.read(move |view| view.entries(&filter)).await.unwrap();
    entries.iter().map(|entry| entry.seq).collect()
}

#[tokio::test]
async fn every_filter_shows_exactly_what_passes_it_in_both_orders_and_in_pages() {
    let house = House::new();
    let ledger = filled(&house).await;
    let all = ledger.read(|view| view.entries(&EntryFilter::default())).await.unwrap();
    assert_eq!(all.len(), 200);
    for filter in filters() {
        let mut expected: Vec<u64> = all.iter().filter(|it| passes(&filter, it)).map(|it| it.seq).collect();
        for order in [EntryOrder::OldestFirst, EntryOrder::NewestFirst] {
            let filter = EntryFilter { order, limit: 3, ..filter.clone() };
            let mut paged: Vec<u64> = Vec::new();
            loop {
                let page =
                    numbers(&ledger, EntryFilter { after_seq: paged.last().copied(), ..filter.clone() })
                        .await;
                assert!(page.len() <= 3);
                if page.is_empty() {
                    break;
                }
                paged.extend(page);
            }
            assert_eq!(paged, expected, "{filter:?}");
            expected.reverse();
        }
    }
}

#[tokio::test]
async fn a_page_is_never_longer_than_its_bound() {
    let house = House::new();
    let ledger = filled(&house).await;
    for (limit, shown) in [(0, 200), (7, 7), (u32::MAX, 200)] {
        assert_eq!(numbers(&ledger, EntryFilter { limit, ..EntryFilter::default() }).await.len(), shown);
    }
}
