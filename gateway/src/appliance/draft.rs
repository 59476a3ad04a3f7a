//! What an initialisation is about to make, written down before it is made, so that what failed or was cut off can be taken away again.
//! Who enters: `init`, with names that nobody has used before.
//! What leaves: a file beside the ledger that stands until the appliance is whole; the way back to nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use hsm::{KeyId, KeyRef, Presence, RootTag, Token, TokenError};
use serde::{Deserialize, Serialize};

use super::Tokens;
use crate::dice::Dice;
use crate::limits::TOKEN_GENERATE_WAIT_MAX;

/// The names under which an initialisation makes things.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Draft {
    /// Of the root key and the anchor.
    pub tag: RootTag,
    /// Of the key that signs checkpoints.
    pub log: KeyId,
    /// Of the CA's key.
    pub ca: KeyId,
    /// Of the second key that signs checkpoints, where there is a TPM beside the token.
    pub tpm_log: KeyId,
}

/// Why a draft cannot be kept, read or undone.
#[derive(Debug, thiserror::Error)]
pub enum DraftUnusable {
    /// The file cannot be read or written.
    #[error("cannot {deed} {}", file.display())]
    File {
        /// What was tried.
        deed: &'static str,
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is none of ours.
    #[error("{} is not what `chancery init` writes; restore it, or empty the state directory", .0.display())]
    Unreadable(PathBuf),
    /// A token did not take back what was made in it.
    #[error("a token did not take back what an unfinished `chancery init` made in it")]
    Token(#[source] TokenError),
}

impl Draft {
    /// Fresh names.
    pub fn new(dice: &Dice) -> Self {
        let name = || KeyId(dice.throw());
        Self { tag: RootTag(dice.throw()), log: name(), ca: name(), tpm_log: name() }
    }

    /// The draft of an initialisation that was not finished.
    ///
    /// # Errors
    /// There is one that cannot be read.
    pub fn read(directory: &Path) -> Result<Option<Self>, DraftUnusable> {
        let file = directory.join(FILE);
        match fs::read(&file) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map(Some).map_err(|_| DraftUnusable::Unreadable(file))
            }
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DraftUnusable::File { deed: "read", file, source }),
        }
    }

    /// Writes it down, durably, before anything of it is made.
    ///
    /// # Errors
    /// The state directory cannot be written.
    pub fn begin(&self, directory: &Path) -> Result<(), DraftUnusable> {
        let file = directory.join(FILE);
        let written = || {
            let bytes = serde_json::to_vec(self).map_err(io::Error::other)?;
            // Under another name first: a torn draft would undo nothing.
            let beside = directory.join(BESIDE);
            let mut out =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
            out.write_all(&bytes)?;
            out.sync_all()?;
            fs::rename(&beside, &file)?;
            File::open(directory)?.sync_all()
        };
        written().map_err(|source| DraftUnusable::File { deed: "write", file: file.clone(), source })
    }

    /// The appliance is whole from the moment at which the draft is gone.
    ///
    /// # Errors
    /// The state directory cannot be written.
    pub fn end(directory: &Path) -> Result<(), DraftUnusable> {
        remove(&directory.join(FILE))?;
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(|source| DraftUnusable::File { deed: "write", file: directory.join(FILE), source })
    }

    /// Takes away whatever was made under these names, in the tokens and on the disk. Doing it twice is doing it once.
    ///
    /// # Errors
    /// A token or the disk did not let go; the draft still stands, and the next `init` goes on from here.
    pub async fn undo(&self, tokens: &Tokens, ledger: &Path) -> Result<(), DraftUnusable> {
        let mut last = Ok(());
        // What failed may have cost the worker; another one is there in a moment.
        for _ in 0..TRIES_MAX {
            last = self.undo_in(tokens).await;
            match &last {
                Err(error) if error.retry_is_safe() || *error == TokenError::OutcomeUnknown => {}
                _ => break,
            }
        }
        last.map_err(DraftUnusable::Token)?;
        for ending in ["", "-wal", "-shm", ".lock"] {
            let mut name = ledger.as_os_str().to_owned();
            name.push(ending);
            remove(Path::new(&name))?;
        }
        Ok(())
    }
}

impl Draft {
    async fn undo_in(&self, tokens: &Tokens) -> Result<(), TokenError> {
        for id in [self.log, self.ca] {
            destroy(&tokens.keys, id).await?;
        }
        for (_, token) in tokens.each() {
            token.unmake_root(self.tag, soon()).await?;
        }
        Ok(())
    }
}

/// A TPM keeps no keys: one whose blob is gone is gone.
async fn destroy(token: &Token, id: KeyId) -> Result<(), TokenError> {
    match token.presence(id, soon()).await? {
        Presence::Absent => Ok(()),
        Presence::Half => token.destroy_half(id, soon()).await,
        Presence::Whole(public) => {
            let (kind, fingerprint) = (public.kind, public.fingerprint());
            let key = KeyRef { id, kind, fingerprint, blob: Vec::new() }.knowing(&public.spki_der);
            token.destroy(&key, soon()).await
        }
    }
}

fn remove(file: &Path) -> Result<(), DraftUnusable> {
    match fs::remove_file(file) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(DraftUnusable::File { deed: "remove", file: file.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn soon() -> Instant {
    Instant::now() + TOKEN_GENERATE_WAIT_MAX
}

/// Each waits as long as calls wait for a token that is away.
const TRIES_MAX: usize = 5;
const FILE: &str = "init.json";
const BESIDE: &str = "init.json.new";
