//! Bundles: what an outsider needs to check the log, or a part of it, built under an effect's name, sealed, and kept so that it is
//! not written again.
//! Who enters: the steps of `audit.seal_export` and of `workspace.close`, inside their transactions and calls.
//! What leaves: a directory of read-only files, durable on disk, or one file in it that only the recipient opens; its digest on the
//! ledger. Unencrypted it is read by the daemon's own user only; it holds what the ledger tells, never a key.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use audit::export::{Archive, ExportRefused, Exported, Folder, Wanted, export};
use audit::{Entry, Freeze, ReadRefused, RecoverRefused, SealRefused, Told, Tx};
use sagas::{EffectId, Never, PivotFault, PivotProbe, Reason, Refused, RemoteFault, StepContext, Untouched};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Audit;
use super::recipient::{Recipient, Sealed};
use super::shelves;
use crate::api::Code;
use crate::ids::WorkspaceId;
use crate::topics;

/// The file of an encrypted bundle.
pub const ENCRYPTED: &str = "bundle.tar.age";

/// The input of `audit.seal_export`. Nothing named is the whole log, for whoever may read it here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportPlan {
    /// Only this workspace's own entries.
    pub workspace: Option<WorkspaceId>,
    /// From this entry on.
    pub from: Option<u64>,
    /// Up to this entry, itself included.
    pub to: Option<u64>,
    /// Who alone can open it.
    pub recipient: Option<Recipient>,
}

/// A bundle that was built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// The effect that built it, as hex: its name on disk.
    pub name: String,
    /// Entries in it.
    pub entries: u64,
    /// Entries that its checkpoint covers.
    pub size: u64,
    /// SHA-256 over its files, as hex.
    pub digest: String,
}

/// A bundle in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// The bundle.
    pub bundle: Bundle,
    /// Where it is.
    pub directory: PathBuf,
}

impl ExportPlan {
    fn wanted(&self) -> Wanted {
        let workspace = self.workspace.as_ref().map(|workspace| workspace.on_ledger().clone());
        Wanted { workspace, from: self.from, to: self.to }
    }
}

/// Says that an export begins, of what and for whom; a whole one contains this entry. What is asked for must be there by now.
///
/// # Errors
/// There are no such entries.
pub fn freeze_range(tx: &Tx<'_>, cx: &StepContext, plan: &ExportPlan) -> Result<Told<()>, Refused> {
    let size = tx.size()?;
    let last = plan.to.or(plan.from);
    if let Some(last) = last.filter(|last| *last >= size) {
        return Err(Refused::business(
            Code::Invalid,
            format!("there is no entry {last}; the log has {size}"),
        ));
    }
    let object = format!("workflow/{}", cx.saga.id);
    Ok(Told::new((), cx.entry_with("audit.export", object, |detail| detail.after(json!(plan)))))
}

/// Says that the export did not come about.
pub fn unfreeze_range(cx: &StepContext) -> Told<()> {
    Told::new((), cx.entry("audit.export.undone", format!("workflow/{}", cx.saga.id)))
}

/// Tells the digest of what was built, so that the next checkpoint covers it.
pub fn built(cx: &StepContext, bundle: &Bundle) -> Vec<Entry> {
    vec![told(cx, "audit.export.built", bundle)]
}

/// The bundle is in its place.
///
/// # Errors
/// The ledger did not do it.
pub fn record(tx: &Tx<'_>, cx: &StepContext, stored: &Stored) -> Result<Told<Stored>, Refused<Never>> {
    let Bundle { name, entries, size, digest } = &stored.bundle;
    let facts = json!({ "entries": entries, "size": size, "sha256": digest });
    cx.publish(tx, topics::AUDIT_EXPORTED, &format!("export-{name}"), facts)?;
    Ok(Told::new(stored.clone(), told(cx, "audit.export.stored", &stored.bundle)))
}

fn told(cx: &StepContext, action: &'static str, bundle: &Bundle) -> Entry {
    let Bundle { name, entries, size, digest } = bundle;
    let after = json!({ "bundle": name, "entries": entries, "size": size, "sha256": digest });
    cx.entry_with(action, format!("export-{name}"), |detail| detail.after(after))
}

impl Audit {
    /// Looks at the whole ledger, seals what is new, and writes what is wanted of it. Built again, it replaces what a call cut
    /// short left.
    ///
    /// # Errors
    /// Ledger, hardware or disk did not do their part: tried again. Somebody changed the ledger: it is frozen, and nothing is
    /// tried again.
    pub async fn build(self: Arc<Self>, effect: EffectId, plan: ExportPlan) -> Result<Bundle, RemoteFault> {
        // A call that was given up on goes on to its end; the next one waits for it, and then builds anew.
        let building = tokio::spawn(async move {
            let _alone = self.building.lock().await;
            self.build_alone(name_of(effect), plan).await
        });
        building.await.map_err(later)?.map_err(|unbuilt| match unbuilt {
            NotBuilt::NotYet(why) => RemoteFault::later(why),
            NotBuilt::Frozen(freeze) => {
                RemoteFault::Business(Reason::new("ledger_frozen", format!("the ledger is frozen: {freeze}")))
            }
        })
    }

    async fn build_alone(&self, name: String, plan: ExportPlan) -> Result<Bundle, NotBuilt> {
        let kept = self.shelves.kept(&name);
        if kept.exists() {
            // What is in its place stays as it is, however late a call comes.
            let facts = std::fs::read(kept.join(FACTS)).map_err(|why| why.to_string())?;
            let facts = serde_json::from_slice(&facts).map_err(|why| why.to_string())?;
            return Ok(on_disk(move || of(name, facts, &kept)).await?);
        }
        // What leaves the machine as evidence is looked at as its reader will.
        self.keeper.examine_everything().await?;
        self.keeper.seal().await?;
        let making = self.shelves.clear(&name).map_err(|why| why.to_string())?;
        let exported = match plan.recipient {
            None => self.write_plain(plan.wanted(), &making).await?,
            Some(recipient) => self.write_sealed(plan.wanted(), recipient, &making).await?,
        };
        let facts = Facts { entries: exported.entries, size: exported.size };
        let built = on_disk(move || {
            std::fs::write(making.join(FACTS), serde_json::to_vec(&facts)?)?;
            of(name, facts, &making)
        });
        Ok(built.await?)
    }

    async fn write_plain(&self, wanted: Wanted, making: &Path) -> Result<Exported, NotBuilt> {
        let folder = Folder::create(making).map_err(|why| why.to_string())?;
        let exported = export(&self.ground.ledger, &self.keys, wanted, folder).await;
        exported.map(|(exported, _)| exported).map_err(|why| self.not_written(why))
    }

    /// An edit that the export met is no fault that passes.
    fn not_written(&self, why: ReadRefused<ExportRefused>) -> NotBuilt {
        match &why {
            ReadRefused::Rejected(refused) => match self.keeper.freeze_for(refused) {
                Some(freeze) => NotBuilt::Frozen(freeze),
                None => NotBuilt::NotYet(refused.to_string()),
            },
            other => NotBuilt::NotYet(other.to_string()),
        }
    }

    /// The archive goes through the cipher as it is written: nothing of it is ever plain on disk.
    async fn write_sealed(
        &self,
        wanted: Wanted,
        recipient: Recipient,
        making: &Path,
    ) -> Result<Exported, NotBuilt> {
        let path = making.join(ENCRYPTED);
        let opened = std::fs::create_dir(making).and_then(|()| File::create_new(path));
        let sealed = opened.and_then(|file| Sealed::to(&recipient, BufWriter::new(file)));
        let archive = Archive::onto(sealed.map_err(|why| why.to_string())?);
        let exported = export(&self.ground.ledger, &self.keys, wanted, archive).await;
        let (exported, archive) = exported.map_err(|why| self.not_written(why))?;
        on_disk(move || archive.end()?.end()?.into_inner()?.sync_all()).await?;
        Ok(exported)
    }

    /// Deletes what was built or kept under an effect's name; nothing there is as good as deleted.
    ///
    /// # Errors
    /// The disk did not do it: tried again.
    pub async fn delete(self: Arc<Self>, effect: EffectId) -> Result<(), RemoteFault<Never>> {
        let _alone = self.building.lock().await;
        self.shelves.delete(&name_of(effect)).map_err(|why| RemoteFault::later(why.to_string()))
    }

    /// Seals once more, so that a checkpoint covers the entry with the bundle's digest.
    ///
    /// # Errors
    /// Ledger or hardware did not do their part: tried again.
    pub async fn sign_checkpoint(self: Arc<Self>, bundle: Bundle) -> Result<Bundle, RemoteFault> {
        self.keeper.seal().await.map_err(later)?;
        Ok(bundle)
    }

    /// Puts a bundle in its place, as a step that can be taken back.
    ///
    /// # Errors
    /// Somebody changed it since it was built, or the disk does not do it.
    pub async fn keep(self: Arc<Self>, bundle: Bundle) -> Result<Stored, RemoteFault> {
        if !self.is_as_built(&bundle).await.map_err(RemoteFault::later)? {
            return Err(RemoteFault::Business(changed_since()));
        }
        self.put_in_place(bundle).await.map_err(RemoteFault::unknown)
    }

    /// Puts a bundle in its place for good: from then on nothing writes it again.
    ///
    /// # Errors
    /// Somebody changed it since it was built. Or the disk failed: before the bundle was moved, or perhaps after.
    pub async fn store(self: Arc<Self>, bundle: Bundle, untouched: Untouched) -> Result<Stored, PivotFault> {
        match self.is_as_built(&bundle).await {
            Ok(true) => drop(untouched),
            Ok(false) => return Err(untouched.refused(changed_since())),
            Err(why) => return Err(untouched.later(why)),
        }
        self.put_in_place(bundle).await.map_err(PivotFault::unknown)
    }

    /// Whether the bundle is in its place.
    pub async fn was_stored(self: Arc<Self>, bundle: Bundle) -> PivotProbe<Stored> {
        let directory = self.shelves.kept(&bundle.name);
        match directory.try_exists() {
            Ok(there) => PivotProbe::of_one_effect(there.then_some(Stored { bundle, directory })),
            Err(why) => PivotProbe::unknown(why.to_string()),
        }
    }

    async fn is_as_built(&self, bundle: &Bundle) -> Result<bool, String> {
        let (making, kept) = (self.shelves.making(&bundle.name), self.shelves.kept(&bundle.name));
        let there = if kept.exists() { kept } else { making };
        Ok(on_disk(move || shelves::digest(&there)).await? == bundle.digest)
    }

    async fn put_in_place(&self, bundle: Bundle) -> Result<Stored, String> {
        let (shelves, name) = (self.shelves.clone(), bundle.name.clone());
        let directory = on_disk(move || shelves.keep(&name)).await?;
        Ok(Stored { bundle, directory })
    }

    /// Asks for a seal soon.
    pub fn seal_soon(&self) {
        self.keeper.hurry();
    }
}

/// Why no bundle was built.
enum NotBuilt {
    /// Something did not do its part, and may the next time.
    NotYet(String),
    /// The ledger does not verify.
    Frozen(Freeze),
}

impl From<String> for NotBuilt {
    fn from(why: String) -> Self {
        Self::NotYet(why)
    }
}

impl From<RecoverRefused> for NotBuilt {
    fn from(refused: RecoverRefused) -> Self {
        match refused {
            RecoverRefused::Frozen(freeze) => Self::Frozen(freeze),
            other => Self::NotYet(other.to_string()),
        }
    }
}

impl From<SealRefused> for NotBuilt {
    fn from(refused: SealRefused) -> Self {
        match refused {
            SealRefused::Frozen(freeze) => Self::Frozen(freeze),
            other => Self::NotYet(other.to_string()),
        }
    }
}

/// What a bundle says of itself beside its files, whoever can open them; the ledger says the same.
const FACTS: &str = "about.json";

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Facts {
    entries: u64,
    size: u64,
}

/// A bundle as it lies on disk.
fn of(name: String, facts: Facts, directory: &Path) -> io::Result<Bundle> {
    let Facts { entries, size } = facts;
    Ok(Bundle { name, entries, size, digest: shelves::digest(directory)? })
}

fn name_of(effect: EffectId) -> String {
    hex::encode(effect.short())
}

/// Work that waits for the disk, where nobody else waits for it.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|why| why.to_string())?;
    done.map_err(|why| why.to_string())
}

fn later(why: impl std::fmt::Display) -> RemoteFault {
    RemoteFault::later(why.to_string())
}

fn changed_since() -> Reason {
    Reason::new(Code::WrongState, "the bundle on disk is not the one that was built; somebody changed it")
}
