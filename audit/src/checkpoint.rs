//! The room of checkpoints (C2SP tlog-checkpoint v1.0.0) and of proofs that carry one (C2SP tlog-proof).
//! Who enters: the size and root of the log; notes and proofs from anywhere.
//! What leaves: exact texts to sign, and checked checkpoints and proofs.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::leaf::{Hash, sha256};
use crate::merkle;
use crate::note::{Note, NoteKey, NoteRefused};

/// How far a log had come: its name, size and root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log.
    pub origin: String,
    /// Entries covered.
    pub size: u64,
    /// RFC 6962 root over them.
    pub root: Hash,
}

/// Why this is no checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a checkpoint: {0}")]
pub struct NotACheckpoint(&'static str);

impl Checkpoint {
    /// The text that is signed.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root))
    }

    /// SHA-256 of the text: what attestations carry and anchor steps are made from.
    pub fn body_hash(&self) -> Hash {
        sha256(&[self.text().as_bytes()])
    }

    /// Reads the text of a note. Exactly three lines: extension lines are refused, since nobody vouches for them.
    pub fn parse(text: &str) -> Result<Self, NotACheckpoint> {
        let mut lines =
            text.strip_suffix('\n').ok_or(NotACheckpoint("it does not end with a newline"))?.split('\n');
        let (Some(origin), Some(size), Some(root), None) =
            (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(NotACheckpoint("it does not have exactly three lines"));
        };
        if origin.is_empty() || origin.contains(|it: char| it.is_whitespace() || it == '+') {
            return Err(NotACheckpoint("its first line is not an origin"));
        }
        let root = STANDARD.decode(root).ok().and_then(|it| Hash::try_from(it).ok());
        Ok(Self {
            origin: origin.to_owned(),
            size: decimal(size).ok_or(NotACheckpoint("its second line is not a size"))?,
            root: root.ok_or(NotACheckpoint("its third line is not a root"))?,
        })
    }

    /// Reads a signed note as a checkpoint, and says which of the known keys signed it.
    pub fn open<'k>(
        note: &[u8],
        known: &'k [NoteKey],
    ) -> Result<(Self, Vec<&'k NoteKey>), CheckpointRefused> {
        let note = Note::parse(note)?;
        let signers = note.verify(known)?;
        Ok((Self::parse(note.text())?, signers))
    }
}

/// Why a signed checkpoint is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointRefused {
    /// The note around it.
    #[error(transparent)]
    Note(#[from] NoteRefused),
    /// The text inside.
    #[error(transparent)]
    Text(#[from] NotACheckpoint),
}

/// Digits without a leading zero.
fn decimal(text: &str) -> Option<u64> {
    let plain = text == "0" || (!text.starts_with('0') && !text.is_empty());
    (plain && text.bytes().all(|it| it.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

const PROOF_HEADER: &str = "c2sp.org/tlog-proof@v1\n";

/// That an entry is in the log: index, path from leaf to root, and the signed checkpoint with that root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The entry's place.
    pub index: u64,
    /// Hashes from leaf to root.
    pub path: Vec<Hash>,
    /// The signed checkpoint.
    pub note: Note,
}

/// Why a proof is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofRefused {
    /// It does not have the form of a proof.
    #[error("not a log proof: {0}")]
    Malformed(&'static str),
    /// Its checkpoint is not acceptable.
    #[error("its checkpoint is not acceptable")]
    Checkpoint(#[from] CheckpointRefused),
    /// The path leads elsewhere.
    #[error("the path from entry {index} does not lead to the root of the checkpoint over {size} entries")]
    WrongPath {
        /// Which entry.
        index: u64,
        /// The checkpoint's size.
        size: u64,
    },
}

impl Proof {
    /// Reads the text form.
    pub fn parse(bytes: &[u8]) -> Result<Self, ProofRefused> {
        let bad = ProofRefused::Malformed;
        let text = std::str::from_utf8(bytes).map_err(|_| bad("it is not UTF-8"))?;
        let mut rest =
            text.strip_prefix(PROOF_HEADER).ok_or(bad("it does not begin with its header line"))?;
        // An extra line is nobody's word: it is not covered by any signature, so it is skipped.
        if rest.starts_with("extra ") {
            rest = rest.split_once('\n').ok_or(bad("it ends too early"))?.1;
        }
        let (index, mut rest) = rest.split_once('\n').ok_or(bad("it ends too early"))?;
        let index = index.strip_prefix("index ").and_then(decimal).ok_or(bad("it has no index line"))?;
        let mut path = Vec::new();
        loop {
            let (line, after) =
                rest.split_once('\n').ok_or(bad("no empty line stands before the checkpoint"))?;
            rest = after;
            if line.is_empty() {
                break;
            }
            let hash = STANDARD.decode(line).ok().and_then(|it| Hash::try_from(it).ok());
            path.push(hash.ok_or(bad("a line of the path is not a hash"))?);
            if path.len() > 64 {
                return Err(bad("its path is longer than any tree is high"));
            }
        }
        let note = Note::parse(rest.as_bytes()).map_err(CheckpointRefused::from)?;
        Ok(Self { index, path, note })
    }

    /// Checks signatures and path for a leaf; says which checkpoint holds it and who signed that.
    pub fn check<'k>(
        &self,
        leaf_hash: &Hash,
        known: &'k [NoteKey],
    ) -> Result<(Checkpoint, Vec<&'k NoteKey>), ProofRefused> {
        let signers = self.note.verify(known).map_err(CheckpointRefused::from)?;
        let checkpoint = Checkpoint::parse(self.note.text()).map_err(CheckpointRefused::from)?;
        let Checkpoint { size, root, .. } = checkpoint;
        if !merkle::check_inclusion(leaf_hash, self.index, size, &self.path, &root) {
            return Err(ProofRefused::WrongPath { index: self.index, size });
        }
        Ok((checkpoint, signers))
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{PROOF_HEADER}index {}", self.index)?;
        for hash in &self.path {
            writeln!(f, "{}", STANDARD.encode(hash))?;
        }
        write!(f, "\n{}", self.note)
    }
}
