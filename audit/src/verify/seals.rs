//! Checkpoints, anchor steps and TPM statements against the entries, and against what the keys in the reader's hand demand.
//! Who enters: the walk over the entries, the verifier's and the daemon's, each time it has taken one.
//! What leaves: what is sealed and by whom, or the first seal that does not hold.

use crate::attest::check_attestation;
use crate::check::Finding;
use crate::checkpoint::Checkpoint;
use crate::export::{AnchorFacts, AnchorLine};
use crate::hardware::Attestation;
use crate::leaf::{Hash, Leaf, sha256};
use crate::merkle::Frontier;
use crate::note::{Note, NoteKey};
use crate::sealing::verdict::{UNWRITTEN, extend, step_digest};

use super::Trust;

/// The tier of a checkpoint that no hardware step stands behind.
const SIGNATURE_ONLY: &str = "signature";
/// The tier of a checkpoint that a TPM holds.
pub(super) const HARDWARE_TIER: &str = "tpm-nv";
/// All tiers, the weakest first. A log may rise; nothing honest ever takes it down again.
const TIERS: [&str; 3] = [SIGNATURE_ONLY, "token-object", HARDWARE_TIER];
/// The act of confirming a step.
const ANCHOR_ACTION: &str = "audit.anchor";

/// Where the steps of the anchor are read, in order.
pub(crate) trait Steps {
    /// Why they cannot be.
    type Fault;
    /// The next confirmed step after `k`.
    fn after(&self, k: u64) -> Result<Option<AnchorFacts>, Self::Fault>;
}

/// Why the seals were not followed further.
pub(crate) enum Halted<F> {
    Finding(Finding),
    Fault(F),
}

impl<F> From<Finding> for Halted<F> {
    fn from(finding: Finding) -> Self {
        Self::Finding(finding)
    }
}

/// What is asked of every step, whatever the evidence says about itself.
#[derive(Debug, Clone)]
pub(crate) struct Demands {
    pub(crate) origin: String,
    pub(crate) keys: Vec<NoteKey>,
    pub(crate) trust: Trust,
    /// The attestation key that the reader brought.
    pub(crate) ak: Option<Vec<u8>>,
    /// The first step that the TPM must hold when a key of it was brought.
    pub(crate) hardware_since: u64,
    /// Whether the entry that tells of the newest step must be there: it commits together with the step, but an export
    /// ends before it.
    pub(crate) newest_told: bool,
}

/// Walks the steps beside the entries.
#[derive(Debug)]
pub(crate) struct Seals {
    demands: Demands,
    ak: Option<Vec<u8>>,
    next: Option<AnchorFacts>,
    /// The newest step that the entries tell of.
    told: u64,
    /// The newest step that was inspected, until its entry came.
    untold: Option<AnchorFacts>,
    tier: usize,
    identity: Option<String>,
    counter: Option<u64>,
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
    /// Steps whose entry was there but without its detail, so that the two could not be compared.
    pub(crate) uncompared: u64,
    /// The text of the newest checkpoint.
    pub(crate) newest: Option<String>,
}

impl Demands {
    fn hardware_name(&self) -> String {
        format!("{}/tpm", self.origin)
    }

    /// Whether the reader brought a key of the TPM, which makes the TPM a demand.
    fn wants_hardware(&self, k: u64) -> bool {
        let name = self.hardware_name();
        let pinned = self.trust == Trust::Pinned && self.keys.iter().any(|key| key.name() == name);
        k >= self.hardware_since && (pinned || self.ak.is_some())
    }

    /// Checks a note's lines; `hardware` says whether the TPM's is among those that must be there.
    fn lines<'k>(&'k self, note: &Note, hardware: bool) -> Result<Vec<&'k NoteKey>, String> {
        let signers = note.verify(&self.keys).map_err(|why| why.to_string())?;
        required_lines(&self.origin, &self.keys, &signers, hardware)?;
        Ok(signers)
    }
}

impl Seals {
    /// `bundled_ak` came with the evidence, and is asked for nothing where the reader brought one.
    pub(crate) fn new(demands: Demands, bundled_ak: Option<Vec<u8>>) -> Self {
        let seen = Seen { ak_bundled: demands.ak.is_none(), ..Seen::default() };
        let ak = demands.ak.clone().or(bundled_ak);
        Self {
            demands,
            ak,
            next: None,
            told: 0,
            untold: None,
            tier: 0,
            identity: None,
            counter: None,
            index_name: None,
            value: UNWRITTEN,
            seen,
        }
    }

    /// Looks for the next step; called before the first entry, and wherever the evidence is opened again.
    pub(crate) fn look<S: Steps>(&mut self, steps: &S) -> Result<(), Halted<S::Fault>> {
        if self.next.is_none() {
            self.next = steps.after(self.seen.checkpoints).map_err(Halted::Fault)?;
        }
        Ok(())
    }

    /// The entry was taken into the tree, which now stands at `frontier`.
    pub(crate) fn entry<S: Steps>(
        &mut self,
        leaf: &Leaf<'_>,
        payload: Option<&[u8]>,
        frontier: &Frontier,
        steps: &S,
    ) -> Result<(), Halted<S::Fault>> {
        if leaf.action == ANCHOR_ACTION {
            self.told_step(leaf, payload)?;
        }
        while let Some(anchor) = self.next.take_if(|anchor| anchor.line.size <= frontier.size()) {
            self.inspect(&anchor, frontier)?;
            self.next = steps.after(anchor.line.k).map_err(Halted::Fault)?;
            self.untold = Some(anchor);
        }
        Ok(())
    }

    /// All entries were taken: nothing may be left over on either side, and nothing that was demanded be missing.
    pub(crate) fn end(&mut self, size: u64) -> Result<(), Finding> {
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
        if self.untold.is_some() && (self.demands.newest_told || self.told == kept) {
            return Err(seal(format!(
                "checkpoint {kept} was confirmed, but no entry behind it tells of it: entries were cut off"
            )));
        }
        if self.demands.trust == Trust::Pinned && kept == 0 {
            return Err(seal("the keys given have signed nothing here: there is no checkpoint".to_owned()));
        }
        if self.demands.ak.is_some() && self.seen.attested == 0 {
            return Err(seal("the attestation key given vouches for no checkpoint here".to_owned()));
        }
        Ok(())
    }

    /// Each confirmed step left an entry, in order, so that steps cannot vanish together with their neighbours, and the
    /// entry says what the step was, so that none can be made to look like a weaker one.
    fn told_step(&mut self, leaf: &Leaf<'_>, payload: Option<&[u8]>) -> Result<(), Finding> {
        let expected = self.told + 1;
        if leaf.object != format!("checkpoint/{expected}") {
            return Err(seal(format!(
                "entry {}: it tells of `{}`, expected `checkpoint/{expected}`",
                leaf.seq, leaf.object
            )));
        }
        self.told = expected;
        match (self.untold.take_if(|anchor| anchor.line.k == expected), payload) {
            (Some(anchor), Some(payload)) => compare_told(&anchor, self.ak.as_deref(), leaf.seq, payload),
            (Some(_), None) => {
                self.seen.uncompared += 1;
                Ok(())
            }
            // The step itself is missing; that is found when the next one comes, or at the end.
            (None, _) => Ok(()),
        }
    }

    fn inspect(&mut self, anchor: &AnchorFacts, frontier: &Frontier) -> Result<(), Finding> {
        let line = &anchor.line;
        let expected = self.seen.checkpoints + 1;
        if line.k != expected {
            return Err(seal(format!(
                "checkpoint {expected} is missing: the next one is checkpoint {}",
                line.k
            )));
        }
        if let Some(before) = &self.untold {
            return Err(seal(format!(
                "checkpoint {} was confirmed, but no entry before checkpoint {expected} tells of it",
                before.line.k
            )));
        }
        if line.size != frontier.size() {
            let passed = frontier.size();
            return Err(seal(format!(
                "checkpoint {} covers {} entries, but the one before it already covered {passed}",
                line.k, line.size
            )));
        }
        self.tier(line)?;
        let checkpoint = self.checkpoint(anchor)?;
        self.covers(line, &checkpoint, frontier)?;
        self.step(anchor, &checkpoint)?;
        self.seen.checkpoints = line.k;
        self.seen.covered = line.size;
        self.seen.tier = Some(line.tier.clone());
        self.seen.newest = Some(checkpoint.text());
        Ok(())
    }

    /// What a step says to be held by is nobody's word but the file's: it may not fall below what was there before it,
    /// nor below what the reader's keys demand.
    fn tier(&mut self, line: &AnchorLine) -> Result<(), Finding> {
        let AnchorLine { k, tier, .. } = line;
        let Some(rank) = TIERS.iter().position(|known| known == tier) else {
            return Err(seal(format!("checkpoint {k}: there is no tier `{tier}`")));
        };
        if rank < self.tier {
            let before = TIERS.get(self.tier).copied().unwrap_or_default();
            return Err(seal(format!(
                "checkpoint {k}: it is held by `{tier}`, the one before by `{before}`, and no log goes back to a weaker one"
            )));
        }
        if tier != HARDWARE_TIER && self.demands.wants_hardware(*k) {
            return Err(seal(format!(
                "checkpoint {k}: it is held by `{tier}`, but a key of the TPM was given, so a TPM must hold it"
            )));
        }
        self.tier = rank;
        Ok(())
    }

    fn covers(&self, line: &AnchorLine, checkpoint: &Checkpoint, frontier: &Frontier) -> Result<(), Finding> {
        let (origin, root) = (&self.demands.origin, frontier.root());
        if checkpoint.origin != *origin || checkpoint.size != line.size {
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
        Ok(())
    }

    fn checkpoint(&mut self, anchor: &AnchorFacts) -> Result<Checkpoint, Finding> {
        let AnchorLine { k, tier, .. } = &anchor.line;
        let bad = |why: String| seal(format!("checkpoint {k}: {why}"));
        let note = Note::parse(anchor.note.as_bytes()).map_err(|why| bad(why.to_string()))?;
        if self.demands.trust != Trust::ChainOnly {
            let signers = self.demands.lines(&note, tier == HARDWARE_TIER).map_err(bad)?;
            self.seen.signers = signers.into_iter().map(|key| key.name().to_owned()).collect();
        }
        Checkpoint::parse(note.text()).map_err(|why| bad(why.to_string()))
    }

    /// The file by itself that public tools read must be the newest checkpoint, and signed like it.
    pub(crate) fn newest(&self, note: &Note) -> Result<(), Finding> {
        let bad = |why: String| seal(format!("the file `checkpoint`: {why}"));
        if self.seen.newest.as_deref() != Some(note.text()) {
            return Err(bad("it is not the newest checkpoint".to_owned()));
        }
        if self.demands.trust == Trust::ChainOnly {
            return Ok(());
        }
        let hardware = self.seen.tier.as_deref() == Some(HARDWARE_TIER);
        self.demands.lines(note, hardware).map(drop).map_err(bad)
    }

    /// The step the hardware took for this checkpoint.
    fn step(&mut self, anchor: &AnchorFacts, checkpoint: &Checkpoint) -> Result<(), Finding> {
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
        if let Some(pinned) = &self.identity
            && line.identity.as_ref() != Some(pinned)
        {
            let now = line.identity.as_deref().unwrap_or("missing");
            return Err(differs("the anchor's identity", pinned, now));
        }
        if let Some(counted) = self.counter
            && line.counter.is_none_or(|now| now < counted)
        {
            let now = line.counter.map_or("missing".to_owned(), |now| now.to_string());
            return Err(differs("the start counter", &format!("at least {counted}"), &now));
        }
        self.identity.clone_from(&line.identity);
        self.counter = line.counter;
        self.attestation(anchor, checkpoint)
    }

    fn attestation(&mut self, anchor: &AnchorFacts, checkpoint: &Checkpoint) -> Result<(), Finding> {
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

/// What the entry about a step says, against the step as it is kept. The entry is in the log, so it is under the next
/// checkpoint; the kept step is a row or a line of a file that nothing else covers.
pub(crate) fn compare_told(
    anchor: &AnchorFacts,
    ak: Option<&[u8]>,
    seq: u64,
    payload: &[u8],
) -> Result<(), Finding> {
    use serde_json::Value;
    let line = &anchor.line;
    let told: Value = serde_json::from_slice(payload).unwrap_or_default();
    let digest = |bytes: &[u8]| Value::from(hex::encode(sha256(&[bytes])));
    let ak = anchor.ak.as_deref().or(ak).filter(|_| anchor.statement.is_some());
    let kept = [
        ("k", Value::from(line.k)),
        ("size", Value::from(line.size)),
        ("tier", Value::from(line.tier.as_str())),
        ("value", Value::from(line.after.as_str())),
        ("identity", line.identity.as_deref().map_or(Value::Null, Value::from)),
        ("counter", line.counter.map_or(Value::Null, Value::from)),
        ("attestation_sha256", anchor.statement.as_deref().map_or(Value::Null, digest)),
        ("ak_sha256", ak.map_or(Value::Null, digest)),
    ];
    for (field, kept) in kept {
        let told = told.get(field).unwrap_or(&Value::Null);
        if *told != kept {
            return Err(seal(format!(
                "checkpoint {}: its {field} is {kept}, entry {seq} tells of {told}",
                line.k
            )));
        }
    }
    Ok(())
}

/// The log's own lines must be there: a key of another log proves nothing here, and each key that the reader brought
/// under a name of this log is a demand, not an offer. `hardware` says whether the TPM's line is demanded as well: a key
/// in the token alone may have been used by whoever held its PIN.
pub(crate) fn required_lines(
    origin: &str,
    known: &[NoteKey],
    signers: &[&NoteKey],
    hardware: bool,
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
    let tpm = format!("{origin}/tpm");
    // By name and not by key: one that was replaced has the same name as the one before it.
    for name in known.iter().filter(|key| own(key)).map(NoteKey::name) {
        if (name != tpm || hardware) && !signers.iter().any(|key| key.name() == name) {
            let kind = if name == tpm { "hardware line" } else { "line of" };
            return Err(format!("the {kind} `{name}` is missing"));
        }
    }
    Ok(())
}

fn seal(message: String) -> Finding {
    Finding::Seal(message)
}
