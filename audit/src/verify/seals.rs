//! The seal inspector: checkpoints, anchor steps and TPM statements against the roots that the entries truly give.
//! Who enters: the verifier's walk, each time it reaches the size of a checkpoint.
//! What leaves: what is sealed and by whom, or the first seal that does not hold.

use crate::attest::check_attestation;
use crate::check::Finding;
use crate::checkpoint::Checkpoint;
use crate::export::AnchorFacts;
use crate::hardware::Attestation;
use crate::leaf::{Hash, Leaf};
use crate::merkle::Frontier;
use crate::note::{Note, NoteKey};
use crate::sealing::verdict::{UNWRITTEN, extend, step_digest};

use super::source::{Source, Unreadable};
use super::{Stop, Trust};

/// The tier of a checkpoint that no hardware step stands behind.
const SIGNATURE_ONLY: &str = "signature";
/// The tier of a checkpoint that a TPM holds.
pub(super) const HARDWARE_TIER: &str = "tpm-nv";

/// Walks the anchors beside the entries, by step.
pub(crate) struct Seals<'s> {
    source: &'s Source,
    keys: &'s [NoteKey],
    trust: Trust,
    ak: Option<Vec<u8>>,
    next: Option<AnchorFacts>,
    /// The steps that the entries themselves tell of.
    told: u64,
    identity: Option<String>,
    /// The TPM index that the first statement is about.
    index_name: Option<Vec<u8>>,
    value: Hash,
    pub(crate) seen: Seen,
}

/// What the seals so far amount to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Seen {
    pub(crate) checkpoints: u64,
    pub(crate) covered: u64,
    pub(crate) attested: u64,
    pub(crate) tier: Option<String>,
    pub(crate) signers: Vec<String>,
    pub(crate) ak_bundled: bool,
}

impl<'s> Seals<'s> {
    pub(crate) fn new(
        source: &'s Source,
        keys: &'s [NoteKey],
        trust: Trust,
        pinned_ak: Option<Vec<u8>>,
    ) -> Result<Self, Unreadable> {
        let next = source.anchor_after(0)?;
        let bundled = if pinned_ak.is_none() { source.export_ak()? } else { None };
        let seen = Seen { ak_bundled: pinned_ak.is_none(), ..Seen::default() };
        let ak = pinned_ak.or(bundled);
        Ok(Self {
            source,
            keys,
            trust,
            ak,
            next,
            told: 0,
            identity: None,
            index_name: None,
            value: UNWRITTEN,
            seen,
        })
    }

    /// The entry was taken into the tree, which now stands at `frontier`.
    pub(crate) fn entry(&mut self, leaf: &Leaf<'_>, frontier: &Frontier) -> Result<(), Stop> {
        if leaf.action == "audit.anchor" {
            self.told_step(leaf)?;
        }
        while let Some(anchor) = self.next.take_if(|anchor| anchor.line.size <= frontier.size()) {
            self.inspect(&anchor, frontier)?;
            self.next = self.source.anchor_after(anchor.line.k)?;
        }
        Ok(())
    }

    /// All entries were taken: nothing may be left over on either side.
    pub(crate) fn end(&mut self, size: u64) -> Result<(), Stop> {
        if let Some(anchor) = &self.next {
            let (k, covered) = (anchor.line.k, anchor.line.size);
            return Err(seal(format!(
                "the log ends after {size} entries, but checkpoint {k} covers {covered}: entries were cut off"
            )));
        }
        let kept = self.seen.checkpoints;
        if self.told > kept {
            return Err(seal(format!(
                "the entries tell of checkpoint {}, but the newest one kept is checkpoint {kept}: seals were removed",
                self.told
            )));
        }
        Ok(())
    }

    /// Each confirmed step left an entry, in order, so that steps cannot vanish together with their neighbours.
    fn told_step(&mut self, leaf: &Leaf<'_>) -> Result<(), Stop> {
        let expected = self.told + 1;
        if leaf.object != format!("checkpoint/{expected}") {
            return Err(seal(format!(
                "entry {}: it tells of `{}`, expected `checkpoint/{expected}`",
                leaf.seq, leaf.object
            )));
        }
        self.told = expected;
        Ok(())
    }

    fn inspect(&mut self, anchor: &AnchorFacts, frontier: &Frontier) -> Result<(), Stop> {
        let line = &anchor.line;
        let expected = self.seen.checkpoints + 1;
        if line.k != expected {
            return Err(seal(format!(
                "checkpoint {expected} is missing: the next one is checkpoint {}",
                line.k
            )));
        }
        if line.size != frontier.size() {
            let passed = frontier.size();
            return Err(seal(format!(
                "checkpoint {} covers {} entries, but the one before it already covered {passed}",
                line.k, line.size
            )));
        }
        let checkpoint = self.checkpoint(anchor)?;
        let (origin, root) = (self.source.origin(), frontier.root());
        if checkpoint.origin != origin || checkpoint.size != line.size {
            return Err(seal(format!(
                "checkpoint {}: its note is about {} entries of `{}`, expected {} of `{origin}`",
                line.k, checkpoint.size, checkpoint.origin, line.size
            )));
        }
        if checkpoint.root != root {
            return Err(seal(format!(
                "checkpoint {}: the signed root is {}, the first {} entries give {}",
                line.k,
                hex::encode(checkpoint.root),
                line.size,
                hex::encode(root)
            )));
        }
        self.step(anchor, &checkpoint)?;
        self.seen.checkpoints = line.k;
        self.seen.covered = line.size;
        self.seen.tier = Some(line.tier.clone());
        Ok(())
    }

    fn checkpoint(&mut self, anchor: &AnchorFacts) -> Result<Checkpoint, Stop> {
        let k = anchor.line.k;
        let bad = |why: String| seal(format!("checkpoint {k}: {why}"));
        let note = Note::parse(anchor.note.as_bytes()).map_err(|why| bad(why.to_string()))?;
        if self.trust != Trust::ChainOnly {
            let signers = note.verify(self.keys).map_err(|why| bad(why.to_string()))?;
            required_lines(self.source.origin(), self.keys, &signers, &anchor.line.tier).map_err(bad)?;
            self.seen.signers = signers.iter().map(|key| key.name().to_owned()).collect();
        }
        Checkpoint::parse(note.text()).map_err(|why| bad(why.to_string()))
    }

    /// The step the hardware took for this checkpoint.
    fn step(&mut self, anchor: &AnchorFacts, checkpoint: &Checkpoint) -> Result<(), Stop> {
        let line = &anchor.line;
        let differs = |what: &str, expected: &str, found: &str| {
            seal(format!("checkpoint {}: {what} is {found}, expected {expected}", line.k))
        };
        let before = hex::encode(self.value);
        if line.before != before {
            return Err(differs("the anchor's value before the step", &before, &line.before));
        }
        if line.tier != SIGNATURE_ONLY {
            self.value = extend(&self.value, &step_digest(line.k, line.size, &checkpoint.body_hash()));
        }
        let after = hex::encode(self.value);
        if line.after != after {
            return Err(differs("the anchor's value after the step", &after, &line.after));
        }
        match (&self.identity, &line.identity) {
            (Some(pinned), Some(now)) if pinned != now => {
                return Err(differs("the anchor's identity", pinned, now));
            }
            (None, Some(first)) => self.identity = Some(first.clone()),
            _ => {}
        }
        self.attestation(anchor, checkpoint)
    }

    fn attestation(&mut self, anchor: &AnchorFacts, checkpoint: &Checkpoint) -> Result<(), Stop> {
        let k = anchor.line.k;
        let (Some(statement), Some(signature)) = (&anchor.statement, &anchor.signature) else {
            return match anchor.line.tier.as_str() {
                HARDWARE_TIER => {
                    Err(seal(format!("checkpoint {k}: the TPM's statement about it is missing")))
                }
                _ => Ok(()),
            };
        };
        if self.ak.is_none() {
            self.ak.clone_from(&anchor.ak);
        }
        let key =
            self.ak.clone().ok_or_else(|| seal(format!("checkpoint {k}: no attestation key is known")))?;
        if anchor.ak.as_ref().is_some_and(|stored| *stored != key) {
            return Err(seal(format!(
                "checkpoint {k}: it was attested by another key than the ones before, or the one given"
            )));
        }
        let attestation = Attestation { statement: statement.clone(), signature: signature.clone(), key };
        let index = self.index_name.as_deref();
        let statement = check_attestation(&attestation, index, &self.value, &checkpoint.body_hash())
            .map_err(|why| seal(format!("checkpoint {k}: {why}")))?;
        self.index_name.get_or_insert(statement.index_name);
        self.seen.attested += 1;
        Ok(())
    }
}

/// The log's own name must be among the signers: a key of another log proves nothing here. Where a TPM holds the anchor
/// and its note key is known, that key must have signed too: the log's own key alone may have been stolen.
pub(super) fn required_lines(
    origin: &str,
    known: &[NoteKey],
    signers: &[&NoteKey],
    tier: &str,
) -> Result<(), String> {
    let own = |key: &NoteKey| {
        key.name().strip_prefix(origin).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if !signers.iter().any(|key| own(key)) {
        return Err(format!(
            "it is signed by `{}`, which is no key of `{origin}`",
            signers.first().map_or("nobody", |key| key.name())
        ));
    }
    let hardware = format!("{origin}/tpm");
    let known = known.iter().any(|key| key.name() == hardware);
    if tier == HARDWARE_TIER && known && !signers.iter().any(|key| key.name() == hardware) {
        return Err(format!("the hardware line `{hardware}` is missing"));
    }
    Ok(())
}

fn seal(message: String) -> Stop {
    Stop::Finding(Finding::Seal(message))
}
