//! The commands, one function each.
//! Who enters: `main`, with parsed arguments.
//! What leaves: a verdict with its text, or the reason why nothing could be checked.

use std::error::Error;
use std::fs;
use std::path::Path;

use audit::leaf::Leaf;
use audit::verify::{self, NotProvable, Relation, Source, Terms};
use audit::{Checkpoint, Note, NoteKey, Receipt};
use indicatif::{ProgressBar, ProgressStyle};

use crate::Verdict;
use crate::signed::{Held, NoFit};
use crate::words;

type Outcome = Result<Verdict, Box<dyn Error>>;

/// What the auditor wrote down at enrolment.
pub(crate) struct Pins<'a> {
    pub(crate) keys: &'a [NoteKey],
    pub(crate) ak: Option<&'a Path>,
    pub(crate) hardware_since: u64,
}

pub(crate) fn verify(evidence: &Path, pins: &Pins<'_>, checkpoint: Option<&Path>, json: bool) -> Outcome {
    let keys = pins.keys;
    let ak = match pins.ak {
        Some(path) => Some(verify::spki_of_pem(&read(path)?).ok_or_else(|| not_a(path, "PEM public key"))?),
        None => None,
    };
    let known = checkpoint.map(|path| known_checkpoint(path, keys)).transpose()?;
    let terms = Terms { keys: keys.to_vec(), ak, hardware_since: Some(pins.hardware_since), known };
    let source = Source::open(evidence)?;
    let bar = progress_bar(source.size()?);
    let report = verify::verify(&source, &terms, |done| bar.set_position(done))?;
    bar.finish_and_clear();
    let text = if json { line(&serde_json::to_string(&report)?) } else { report.to_string() };
    Ok(if report.verified { Verdict::Holds(text) } else { Verdict::DoesNotHold(text) })
}

pub(crate) fn prove(evidence: &Path, entry: u64) -> Outcome {
    match verify::prove(&Source::open(evidence)?, entry) {
        Ok(receipt) => Ok(Verdict::Holds(line(&receipt.to_json()))),
        Err(NotProvable::Finding(finding)) => {
            Ok(Verdict::DoesNotHold(line(&format!("DOES NOT VERIFY  {finding}"))))
        }
        Err(other) => Err(other.into()),
    }
}

pub(crate) fn check(receipt: &Path, keys: &[NoteKey], held: &Held, json: bool) -> Outcome {
    if keys.is_empty() {
        return Err("a receipt proves nothing without a key: give --key".into());
    }
    let bytes = read(receipt)?;
    let checked = Receipt::from_json(&bytes).and_then(|receipt| {
        let proven = receipt.check(keys)?;
        Ok(held
            .against(&proven.0, &receipt.payload)
            .map(|fits| words::checked(&receipt, &proven, &fits, json)))
    });
    Ok(match checked {
        Ok(Ok(text)) => Verdict::Holds(text),
        Ok(Err(NoFit::Unreadable(why))) => return Err(why),
        Ok(Err(NoFit::Differs(why))) => does_not_verify(&why, json),
        Err(why) => does_not_verify(&words::with_causes(&why), json),
    })
}

fn does_not_verify(why: &str, json: bool) -> Verdict {
    let object = serde_json::json!({ "verified": false, "finding": why });
    Verdict::DoesNotHold(line(&if json { object.to_string() } else { format!("DOES NOT VERIFY  {why}") }))
}

pub(crate) fn show(evidence: &Path, entry: u64, json: bool) -> Outcome {
    let (leaf, sealed) = verify::entry(&Source::open(evidence)?, entry)?;
    let leaf = Leaf::decode(&leaf)?;
    let payload = sealed.as_ref().map(|(_, payload)| payload.as_slice());
    Ok(Verdict::Holds(if json {
        words::entry_json(&leaf, payload)
    } else {
        words::entry_text(&leaf, payload)
    }))
}

pub(crate) fn diff(first: &Path, second: &Path, json: bool) -> Outcome {
    let relation = verify::compare(&Source::open(first)?, &Source::open(second)?)?;
    let text = line(&if json { serde_json::to_string(&relation)? } else { relation.to_string() });
    Ok(match relation {
        Relation::Same { .. } | Relation::Continues { .. } => Verdict::Holds(text),
        Relation::Shorter { .. } | Relation::Forked { .. } | Relation::Strangers { .. } => {
            Verdict::DoesNotHold(text)
        }
    })
}

/// A checkpoint the auditor kept is the auditor's own word; where keys are given, it must be theirs as well.
fn known_checkpoint(path: &Path, keys: &[NoteKey]) -> Result<Checkpoint, Box<dyn Error>> {
    let note = Note::parse(&read(path)?)?;
    if !keys.is_empty() {
        note.verify(keys)?;
    }
    Ok(Checkpoint::parse(note.text())?)
}

fn progress_bar(entries: u64) -> ProgressBar {
    // Drawn on stderr, and only where that is a terminal.
    let bar = ProgressBar::new(entries);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len} entries, {eta} left")
    {
        bar.set_style(style);
    }
    bar
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    fs::read(path).map_err(|fault| format!("{} cannot be read: {fault}", path.display()).into())
}

pub(crate) fn not_a(path: &Path, what: &str) -> Box<dyn Error> {
    format!("{} is not a {what}", path.display()).into()
}

fn line(text: &str) -> String {
    format!("{text}\n")
}
