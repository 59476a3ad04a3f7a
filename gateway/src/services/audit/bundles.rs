//! Bundles: everything an outsider needs to check the log, built under an effect's name, sealed, and kept so that it is not written again.
//! Who enters: the steps of `audit.seal_export` and of `workspace.close`, inside their transactions and calls.
//! What leaves: a directory of read-only files, durable on disk; its digest on the ledger. It is not encrypted: only the daemon's own
//! user reads it, and it holds what the ledger tells, never a key.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use audit::export::export;
use audit::{Entry, Told};
use sagas::{EffectId, Never, Probe, RemoteFault, StepContext};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::Audit;

/// The input of `audit.seal_export`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExportPlan {}

/// A bundle that was built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// The effect that built it, as hex: its name on disk.
    pub name: String,
    /// Entries it covers.
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

/// Says that an export begins; its bundle contains this entry.
pub fn freeze_range(cx: &StepContext) -> Told<()> {
    Told::new((), cx.entry("audit.export", format!("workflow/{}", cx.saga.id)))
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
pub fn record(cx: &StepContext, stored: &Stored) -> Told<Stored> {
    Told::new(stored.clone(), told(cx, "audit.export.stored", &stored.bundle))
}

fn told(cx: &StepContext, action: &'static str, bundle: &Bundle) -> Entry {
    let after = json!({ "bundle": bundle.name, "size": bundle.size, "sha256": bundle.digest });
    cx.entry_with(action, format!("export-{}", bundle.name), |detail| detail.after(after))
}

impl Audit {
    /// Seals what is new, and writes all that the checkpoint covers. Built again, it replaces what a call cut short left.
    ///
    /// # Errors
    /// Ledger, hardware or disk did not do their part: tried again.
    pub async fn build(self: Arc<Self>, effect: EffectId) -> Result<Bundle, RemoteFault> {
        // A call that was given up on goes on to its end; the next one waits for it, and then builds anew.
        let building = tokio::spawn(async move {
            let _alone = self.building.lock().await;
            self.build_alone(effect).await
        });
        building.await.map_err(|why| RemoteFault::later(why.to_string()))?.map_err(RemoteFault::later)
    }

    async fn build_alone(&self, effect: EffectId) -> Result<Bundle, String> {
        let (name, making) = (hex::encode(effect.short()), self.making(effect));
        let kept = self.kept(&name);
        if kept.exists() {
            // What is in its place stays as it is, however late a call comes.
            return of(name, &kept).map_err(|why| why.to_string());
        }
        self.keeper.seal().await.map_err(|why| why.to_string())?;
        fs::create_dir_all(&self.exports).and_then(|()| remove(&making)).map_err(|why| why.to_string())?;
        export(&self.ground.ledger, &self.keys, &making).await.map_err(|why| why.to_string())?;
        of(name, &making).map_err(|why| why.to_string())
    }

    /// Deletes what was built or kept under an effect's name; nothing there is as good as deleted.
    ///
    /// # Errors
    /// The disk did not do it: tried again.
    pub async fn delete(self: Arc<Self>, effect: EffectId) -> Result<(), RemoteFault<Never>> {
        let _alone = self.building.lock().await;
        let name = hex::encode(effect.short());
        let gone = remove(&self.making(effect)).and_then(|()| remove(&self.kept(&name)));
        gone.map_err(|why| RemoteFault::later(why.to_string()))
    }

    /// Seals once more, so that a checkpoint covers the entry with the bundle's digest.
    ///
    /// # Errors
    /// Ledger or hardware did not do their part: tried again.
    pub async fn sign_checkpoint(self: Arc<Self>, bundle: Bundle) -> Result<Bundle, RemoteFault> {
        self.keeper.seal().await.map_err(|why| RemoteFault::later(why.to_string()))?;
        Ok(bundle)
    }

    /// Makes a bundle's files read-only and durable, and puts it in its place. Twice is once.
    ///
    /// # Errors
    /// The disk did not do it: tried again.
    pub async fn keep(self: Arc<Self>, bundle: Bundle) -> Result<Stored, RemoteFault> {
        let (making, directory) = (self.exports.join(making_name(&bundle.name)), self.kept(&bundle.name));
        let kept = || -> io::Result<()> {
            if making.exists() && !directory.exists() {
                make_last(&making)?;
                fs::rename(&making, &directory)?;
            }
            File::open(&self.exports)?.sync_all()
        };
        kept().map_err(|why| RemoteFault::later(why.to_string()))?;
        Ok(Stored { bundle, directory })
    }

    /// Whether the bundle is in its place.
    pub async fn was_kept(self: Arc<Self>, bundle: Bundle) -> Probe<Stored> {
        let directory = self.kept(&bundle.name);
        match directory.try_exists() {
            Ok(true) => Probe::Applied(Stored { bundle, directory }),
            Ok(false) => Probe::NotApplied,
            Err(why) => Probe::Unknown(why.to_string()),
        }
    }

    /// Asks for a seal soon.
    pub fn seal_soon(&self) {
        self.keeper.hurry();
    }

    fn making(&self, effect: EffectId) -> PathBuf {
        self.exports.join(making_name(&hex::encode(effect.short())))
    }

    fn kept(&self, name: &str) -> PathBuf {
        self.exports.join(format!("export-{name}"))
    }
}

/// A bundle as it lies on disk. The second line of a checkpoint is the number of entries it covers.
fn of(name: String, directory: &Path) -> io::Result<Bundle> {
    let checkpoint = fs::read_to_string(directory.join("checkpoint"))?;
    let size = checkpoint.lines().nth(1).and_then(|line| line.parse().ok());
    let size = size.ok_or_else(|| io::Error::other("the checkpoint says no size"))?;
    Ok(Bundle { name, size, digest: digest(directory)? })
}

fn making_name(name: &str) -> String {
    format!(".making-{name}")
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Every file below a directory, sorted.
fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut found, mut open) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next)? {
            let path = entry?.path();
            if path.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    Ok(found)
}

/// SHA-256 over names and contents, each behind its length.
fn digest(directory: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    for file in files(directory)? {
        let name = file.strip_prefix(directory).map_err(io::Error::other)?.to_string_lossy().into_owned();
        for part in [name.into_bytes(), fs::read(&file)?] {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part);
        }
    }
    Ok(hex::encode(hash.finalize()))
}

/// Read-only files in directories of one's own, all of it on disk when this returns: files first, then the directories that name them.
fn make_last(directory: &Path) -> io::Result<()> {
    let mut folders = std::collections::BTreeSet::from([directory.to_owned()]);
    for file in files(directory)? {
        fs::set_permissions(&file, Permissions::from_mode(0o400))?;
        File::open(&file)?.sync_all()?;
        let above = file.ancestors().skip(1).take_while(|folder| folder.starts_with(directory));
        folders.extend(above.map(Path::to_owned));
    }
    for folder in folders.iter().rev() {
        fs::set_permissions(folder, Permissions::from_mode(0o700))?;
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}
