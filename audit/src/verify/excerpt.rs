//! Evidence as an excerpt: single entries, each with its path to one signed checkpoint.
//! Who enters: the verifier, with a directory or an archive that says to be an excerpt.
//! What leaves: a report, a receipt of one entry, or the first thing that does not hold.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::check::{Finding, check_payload};
use crate::checkpoint::{Checkpoint, Proof};
use crate::export::excerpt::{ABOUT, About, Line, file_name};
use crate::leaf::{Hash, Leaf, leaf_hash, next_chain};
use crate::merkle;
use crate::note::{Note, NoteKey};
use crate::receipt::Receipt;

use super::archive::Files;
use super::report::{Extent, Report};
use super::seals::required_lines;
use super::source::Unreadable;
use super::{NotProvable, Stop, Terms, Trust};

/// An excerpt.
pub struct Excerpt {
    pub(crate) files: Files,
    pub(crate) about: About,
    pub(crate) checkpoint: Checkpoint,
    note: Note,
}

/// One entry as the excerpt shows it.
struct Shown {
    leaf: Vec<u8>,
    salt: Vec<u8>,
    payload: Vec<u8>,
    path: Vec<Hash>,
}

impl Excerpt {
    /// Reads what it says of itself; `None` where it is no excerpt.
    pub(crate) fn open(files: Files) -> Result<Result<Self, Files>, Unreadable> {
        let Some(about) = files.read(ABOUT)? else { return Ok(Err(files)) };
        let about =
            serde_json::from_slice(&about).map_err(|why| Unreadable::Export(format!("`{ABOUT}`: {why}")))?;
        let (note, checkpoint) = files.checkpoint()?;
        Ok(Ok(Self { files, about, checkpoint, note }))
    }

    /// Verifies each entry against the checkpoint, and the checkpoint against the keys.
    pub(super) fn verify(&self, terms: &Terms, progress: impl FnMut(u64)) -> Result<Report, Unreadable> {
        if terms.ak.is_some() {
            let why = "it is an excerpt, which shows no statement of a TPM: give --ak with a whole export";
            return Err(Unreadable::Export(why.into()));
        }
        let bundled = self.files.keys()?;
        let (keys, trust) = match (terms.keys.is_empty(), bundled.is_empty()) {
            (false, _) => (&terms.keys, Trust::Pinned),
            (true, false) => (&bundled, Trust::Bundled),
            // Without a signed root the paths lead nowhere.
            (true, true) => return Err(Unreadable::Export("it brings no key; give one with --key".into())),
        };
        let (mut seen, mut signers) = (0, Vec::new());
        let finding = match self.whole(keys, terms, &mut signers, &mut seen, progress) {
            Ok(()) => None,
            Err(Stop::Finding(finding) | Stop::Unreadable(Unreadable::Malformed(finding))) => Some(finding),
            Err(Stop::Unreadable(unreadable)) => return Err(unreadable),
        };
        Ok(self.report(terms, trust, signers, seen, finding))
    }

    fn whole(
        &self,
        keys: &[NoteKey],
        terms: &Terms,
        signers: &mut Vec<String>,
        seen: &mut u64,
        mut progress: impl FnMut(u64),
    ) -> Result<(), Stop> {
        *signers = self.signed_by(keys)?;
        self.known(terms.known.as_ref())?;
        let mut before: Option<(u64, Hash)> = None;
        self.each(|shown| {
            let (seq, chain) = self.one(shown, before)?;
            before = Some((seq, chain));
            *seen += 1;
            if seen.is_multiple_of(4_096) {
                progress(*seen);
            }
            Ok(())
        })?;
        self.complete(*seen)
    }

    fn signed_by(&self, keys: &[NoteKey]) -> Result<Vec<String>, Finding> {
        let bad = |why: String| Finding::Seal(format!("the checkpoint: {why}"));
        let signers = self.note.verify(keys).map_err(|why| bad(why.to_string()))?;
        // Which tier held it is not shown, so a hardware key that is known must have signed.
        required_lines(&self.checkpoint.origin, keys, &signers, true).map_err(bad)?;
        Ok(signers.iter().map(|key| key.name().to_owned()).collect())
    }

    /// A checkpoint of the same size that the auditor holds must have the same root, and one of another log proves nothing.
    fn known(&self, known: Option<&Checkpoint>) -> Result<(), Finding> {
        let Some(known) = known else { return Ok(()) };
        let here = &self.checkpoint;
        if known.origin != here.origin {
            return Err(Finding::Seal(format!(
                "the checkpoint you hold is of the log `{}`, this is `{}`",
                known.origin, here.origin
            )));
        }
        if known.size == here.size && known.root != here.root {
            let size = known.size;
            return Err(Finding::Seal(format!(
                "the checkpoint you hold over {size} entries has another root than this one: two histories"
            )));
        }
        Ok(())
    }

    /// One entry: its payload, its place, its workspace, its path, and the chain where it stands right behind the one before.
    fn one(&self, shown: &Shown, before: Option<(u64, Hash)>) -> Result<(u64, Hash), Finding> {
        let hash = leaf_hash(&shown.leaf);
        let leaf = self.placed(shown, before)?;
        check_payload(leaf.seq, &leaf, &shown.salt, &shown.payload)?;
        let (seq, Checkpoint { size, root, .. }) = (leaf.seq, &self.checkpoint);
        if !merkle::check_inclusion(&hash, seq, *size, &shown.path, root) {
            return Err(Finding::Seal(format!("entry {seq}: its path does not lead to the signed root")));
        }
        Ok((seq, next_chain(&leaf.prev_chain, &hash)))
    }

    fn placed<'a>(&self, shown: &'a Shown, before: Option<(u64, Hash)>) -> Result<Leaf<'a>, Finding> {
        let About { workspace, from, to, .. } = &self.about;
        let next = before.map_or(*from, |(seq, _)| seq + 1);
        let not_a_leaf = |why: String| Finding::NotALeaf { seq: next, why };
        let leaf = Leaf::decode(&shown.leaf).map_err(|why| not_a_leaf(why.to_string()))?;
        let seq = leaf.seq;
        if leaf.origin != self.checkpoint.origin {
            let (expected, found) = (self.checkpoint.origin.clone(), leaf.origin.to_owned());
            return Err(Finding::Origin { seq, expected, found });
        }
        // Of everybody's entries none may be missing; of one workspace's only the order can be seen.
        let in_order = if workspace.is_none() { seq == next } else { seq >= next };
        if !in_order || seq > *to {
            return Err(Finding::Gap { expected: next, found: seq });
        }
        if let Some(workspace) = workspace.as_ref().filter(|own| **own != leaf.workspace) {
            let (column, signed) = ("workspace", leaf.workspace.to_owned());
            return Err(Finding::Column { seq, column, shown: workspace.clone(), signed });
        }
        if let Some((_, expected)) =
            before.filter(|(last, chain)| last + 1 == seq && *chain != leaf.prev_chain)
        {
            let (expected, found) = (hex::encode(expected), hex::encode(leaf.prev_chain));
            return Err(Finding::Chain { seq, expected, found });
        }
        Ok(leaf)
    }

    /// What it says to show, it shows.
    fn complete(&self, seen: u64) -> Result<(), Stop> {
        let About { workspace, from, to, entries, .. } = &self.about;
        let all =
            to.checked_sub(*from).and_then(|it| it.checked_add(1)).filter(|_| *to < self.checkpoint.size);
        let all = all.ok_or_else(|| Finding::Seal(format!("there is no range from {from} to {to}")))?;
        let wanted = if workspace.is_none() { all } else { *entries };
        if seen == wanted && seen == *entries {
            return Ok(());
        }
        Err(Finding::Seal(format!("{seen} entries are shown, {wanted} should be")).into())
    }

    fn each(&self, mut visit: impl FnMut(&Shown) -> Result<(), Stop>) -> Result<(), Stop> {
        for number in 0..self.about.files {
            let name = file_name(number);
            let file = self.files.require(&name)?;
            let bad = |why: &dyn std::fmt::Display| Unreadable::Export(format!("`{name}`: {why}"));
            for line in file.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let line: Line = serde_json::from_slice(line).map_err(|why| bad(&why))?;
                visit(&Shown::read(&line).map_err(|why| bad(&why))?)?;
            }
        }
        Ok(())
    }

    /// The receipt of one entry.
    pub(super) fn receipt(&self, seq: u64) -> Result<Receipt, NotProvable> {
        let mut found = None;
        let walked = self.each(|shown| {
            if Leaf::decode(&shown.leaf).is_ok_and(|leaf| leaf.seq == seq) {
                let Shown { leaf, salt, payload, path } = shown;
                let proof = Proof { index: seq, path: path.clone(), note: self.note.clone() };
                found =
                    Some(Receipt { leaf: leaf.clone(), salt: salt.clone(), payload: payload.clone(), proof });
            }
            Ok(())
        });
        match walked {
            Ok(()) => found.ok_or(NotProvable::NoEntry(seq)),
            Err(Stop::Finding(finding)) => Err(finding.into()),
            Err(Stop::Unreadable(unreadable)) => Err(unreadable.into()),
        }
    }

    fn report(
        &self,
        terms: &Terms,
        trust: Trust,
        signers: Vec<String>,
        seen: u64,
        finding: Option<Finding>,
    ) -> Report {
        let About { workspace, from, to, .. } = self.about.clone();
        let extent = Extent { workspace, from, to, size: self.checkpoint.size };
        Report {
            verified: finding.is_none(),
            finding: finding.map(|finding| finding.to_string()),
            source: self.files.kind("excerpt").to_owned(),
            origin: self.checkpoint.origin.clone(),
            trust: trust.as_str().to_owned(),
            signers,
            entries: seen,
            covered: seen,
            tail: 0,
            checkpoints: 1,
            attested: 0,
            tier: "not shown".to_owned(),
            root: hex::encode(self.checkpoint.root),
            not_proven: not_proven(trust, terms, &extent),
            excerpt: Some(extent),
        }
    }
}

fn not_proven(trust: Trust, terms: &Terms, extent: &Extent) -> Vec<String> {
    let mut open = Vec::new();
    if trust == Trust::Bundled {
        open.push("that the bundled keys are the appliance's own: compare them, or give --key".to_owned());
    }
    if let Some(workspace) = &extent.workspace {
        open.push(format!("that no entry of `{workspace}` was left out: only a whole export shows that"));
    }
    if terms.known.as_ref().is_some_and(|known| known.size != extent.size) {
        open.push(
            "that the log goes on from the checkpoint you hold: an excerpt cannot show it, a whole export does"
                .to_owned(),
        );
    }
    open.push("what hardware holds the checkpoint: a whole export shows its steps".to_owned());
    open.push(super::report::STATE.to_owned());
    open.push(
        "that what the entries say is true, or that nobody else was shown another log (witnesses)".to_owned(),
    );
    open
}

impl Shown {
    fn read(line: &Line) -> Result<Self, &'static str> {
        let bytes = |text: &str| STANDARD.decode(text).map_err(|_| "a field is not base64");
        let hash = |text: &String| Hash::try_from(bytes(text)?).map_err(|_| "a hash does not have 32 bytes");
        let path = line.path.iter().map(hash).collect::<Result<_, _>>()?;
        Ok(Self { leaf: bytes(&line.leaf)?, salt: bytes(&line.salt)?, payload: bytes(&line.payload)?, path })
    }
}
