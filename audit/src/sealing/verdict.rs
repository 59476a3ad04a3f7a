//! The judge: what the ledger remembers against what the hardware remembers, as a pure function.
//! Who enters: recovery, with what it read on both sides.
//! What leaves: one verdict, with the words an operator needs.

use crate::hardware::Reading;
use crate::leaf::{Hash, sha256};
use crate::refused::Freeze;

/// The digest an anchor is extended by: step, size and the checkpoint's text.
pub fn step_digest(k: u64, size: u64, body_hash: &Hash) -> Hash {
    sha256(&[b"chancery.tpm.anchor.v1\n", &k.to_be_bytes(), &size.to_be_bytes(), body_hash])
}

/// The value after a step.
pub fn extend(before: &Hash, digest: &Hash) -> Hash {
    sha256(&[before, digest])
}

/// What an index holds that was never written.
pub const UNWRITTEN: Hash = [0; 32];

/// A step as the ledger remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Its number.
    pub k: u64,
    /// The value before it.
    pub before: Hash,
    /// The value after it.
    pub after: Hash,
}

/// What the ledger remembers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Memory {
    /// The last confirmed step that the hardware took.
    pub last: Option<Mark>,
    /// A step that was begun and not confirmed.
    pub pending: Option<Mark>,
    /// The number of an older confirmed step whose value the hardware shows, if it does.
    pub older: Option<u64>,
    /// What the anchor was at the first step.
    pub identity: Option<Vec<u8>>,
    /// The start counter as last confirmed.
    pub counter: Option<u64>,
    /// A start was begun and not confirmed.
    pub start_pending: bool,
}

/// What the two memories say together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Both agree.
    Intact,
    /// Neither remembers anything: a new ledger on a new anchor.
    Fresh,
    /// The process ended after a step was written down and before the hardware took it: take it now.
    RedoStep,
    /// The process ended after the hardware took a step and before that was confirmed: confirm it.
    ConfirmStep,
    /// The hardware is at an older step of ours: it was taken back, or forgot.
    Regressed {
        /// The step it shows.
        at: u64,
        /// The step we know.
        last: u64,
    },
    /// The hardware has seen a history that this ledger does not contain.
    RolledBackOrForked {
        /// The value we know.
        expected: Hash,
        /// The value it shows.
        found: Hash,
    },
    /// The anchor is gone, or is another one.
    ClearedOrReplaced {
        /// What it was.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The hardware's start counter went back: its state was restored from a copy.
    CounterBehind {
        /// The count we know.
        recorded: u64,
        /// The count it shows.
        found: u64,
    },
    /// The hardware counted starts that this ledger does not know of: the ledger is an older copy.
    CounterAhead {
        /// The count we know.
        recorded: u64,
        /// The count it shows.
        found: u64,
    },
}

/// Judges. Bad news about identity first, then the value, then the counter.
pub fn judge(memory: &Memory, reading: &Reading) -> Verdict {
    if let Some(replaced) = replaced(memory, reading) {
        return replaced;
    }
    let value = judge_value(memory, reading);
    match value {
        Verdict::Intact | Verdict::Fresh | Verdict::RedoStep | Verdict::ConfirmStep => {
            judge_counter(memory, reading).unwrap_or(value)
        }
        bad => bad,
    }
}

fn replaced(memory: &Memory, reading: &Reading) -> Option<Verdict> {
    let differs = |expected: String, found: String| Some(Verdict::ClearedOrReplaced { expected, found });
    let known = memory.identity.as_deref();
    // Before the first step nothing has been set up, and nothing can be missed: the first step sets it up.
    let awaits_first_step = known.is_none() && memory.last.is_none() && memory.counter.is_none();
    if reading.missing && !awaits_first_step {
        return differs(known.map_or("an anchor that was set up".into(), hex::encode), "none".into());
    }
    match known {
        Some(identity) if identity != reading.identity => {
            differs(hex::encode(identity), hex::encode(&reading.identity))
        }
        Some(identity) if memory.last.is_some() && reading.head.is_none() => {
            differs(hex::encode(identity), "the same, but never written".into())
        }
        _ => None,
    }
}

fn judge_value(memory: &Memory, reading: &Reading) -> Verdict {
    // "Never written" is the same as zeros only while nothing has been confirmed.
    let found = reading.head.unwrap_or(UNWRITTEN);
    let expected = memory.last.map_or(UNWRITTEN, |last| last.after);
    let forked = Verdict::RolledBackOrForked { expected, found };
    let step_is = |k: Option<u64>| reading.steps.is_none() || reading.head.is_none() || reading.steps == k;
    if let Some(pending) = memory.pending {
        if found == pending.after && step_is(Some(pending.k)) {
            return Verdict::ConfirmStep;
        }
        if found == pending.before && found == expected && step_is(memory.last.map(|last| last.k)) {
            return Verdict::RedoStep;
        }
    } else if found == expected {
        return match memory.last {
            None => Verdict::Fresh,
            Some(last) if step_is(Some(last.k)) => Verdict::Intact,
            Some(_) => forked,
        };
    }
    match (memory.older, memory.last) {
        (Some(at), Some(last)) => Verdict::Regressed { at, last: last.k },
        _ => forked,
    }
}

fn judge_counter(memory: &Memory, reading: &Reading) -> Option<Verdict> {
    let recorded = memory.counter?;
    let Some(found) = reading.counter else {
        let expected = format!("a start counter at {recorded}");
        return Some(Verdict::ClearedOrReplaced { expected, found: "no start counter".into() });
    };
    let most = recorded.saturating_add(u64::from(memory.start_pending));
    if found < recorded {
        return Some(Verdict::CounterBehind { recorded, found });
    }
    (found > most).then_some(Verdict::CounterAhead { recorded, found })
}

impl Verdict {
    /// The words for the operator, when the verdict is bad.
    pub fn freeze(&self) -> Option<Freeze> {
        let freeze = |what: &str, expected: String, found: String, advice: &str| {
            Some(Freeze { what: what.into(), expected, found, advice: advice.into() })
        };
        const CEREMONY: &str = "reads still work; find out which side is right, then restore it, or open a new log \
            in a restore ceremony";
        match self {
            Self::Intact | Self::Fresh | Self::RedoStep | Self::ConfirmStep => None,
            Self::Regressed { at, last } => freeze(
                "the anchor went back",
                format!("step {last}"),
                format!("step {at}"),
                "the hardware's state was restored from a copy or lost at power failure; reads still work, find out which",
            ),
            Self::RolledBackOrForked { expected, found } => freeze(
                "the ledger is older than its anchor, or another",
                hex::encode(expected),
                hex::encode(found),
                CEREMONY,
            ),
            Self::ClearedOrReplaced { expected, found } => freeze(
                "the anchor is not the one this ledger was sealed to",
                expected.clone(),
                found.clone(),
                "was the TPM cleared or the token exchanged? put the right one back, or anchor anew in a restore ceremony",
            ),
            Self::CounterBehind { recorded, found } => freeze(
                "the start counter went back",
                recorded.to_string(),
                found.to_string(),
                "the hardware's state was restored from a copy; reads still work, find out by whom",
            ),
            Self::CounterAhead { recorded, found } => freeze(
                "the hardware has counted starts this ledger does not know",
                recorded.to_string(),
                found.to_string(),
                CEREMONY,
            ),
        }
    }

    /// The word in the entry that tells of the start.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Intact => "intact",
            Self::Fresh => "fresh",
            Self::RedoStep => "redo-step",
            Self::ConfirmStep => "confirm-step",
            Self::Regressed { .. } => "regressed",
            Self::RolledBackOrForked { .. } => "rolled-back-or-forked",
            Self::ClearedOrReplaced { .. } => "cleared-or-replaced",
            Self::CounterBehind { .. } => "counter-behind",
            Self::CounterAhead { .. } => "counter-ahead",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Hash = [0xa; 32];
    const B: Hash = [0xb; 32];
    const C: Hash = [0xc; 32];
    const ID: &[u8] = b"index";

    fn last(k: u64, after: Hash) -> Option<Mark> {
        Some(Mark { k, before: UNWRITTEN, after })
    }

    fn sealed() -> Memory {
        Memory { last: last(2, A), identity: Some(ID.to_vec()), counter: Some(5), ..Memory::default() }
    }

    fn pending() -> Memory {
        Memory { pending: Some(Mark { k: 3, before: A, after: B }), ..sealed() }
    }

    fn shows(head: Hash) -> Reading {
        Reading { head: Some(head), identity: ID.to_vec(), counter: Some(5), ..Reading::default() }
    }

    fn forked(expected: Hash, found: Hash) -> Verdict {
        Verdict::RolledBackOrForked { expected, found }
    }

    #[test]
    fn every_row_of_the_recovery_table_has_its_verdict() {
        let new = Memory::default();
        let first = Memory { pending: Some(Mark { k: 1, before: UNWRITTEN, after: A }), ..Memory::default() };
        let unwritten = Reading { identity: ID.to_vec(), ..Reading::default() };
        let cases = [
            ("a new ledger on a new anchor", &new, unwritten.clone(), Verdict::Fresh),
            ("a new ledger on a used anchor", &new, shows(A), forked(UNWRITTEN, A)),
            ("the first step, not taken", &first, unwritten.clone(), Verdict::RedoStep),
            ("the first step, taken", &first, shows(A), Verdict::ConfirmStep),
            ("the first step, something else taken", &first, shows(B), forked(UNWRITTEN, B)),
            ("both agree", &sealed(), shows(A), Verdict::Intact),
            ("a step not taken", &pending(), shows(A), Verdict::RedoStep),
            ("a step taken", &pending(), shows(B), Verdict::ConfirmStep),
            ("a step pending, something else taken", &pending(), shows(C), forked(A, C)),
            ("a value nobody knows", &sealed(), shows(C), forked(A, C)),
            (
                "an older value of ours",
                &Memory { older: Some(1), ..sealed() },
                shows(C),
                Verdict::Regressed { at: 1, last: 2 },
            ),
        ];
        for (what, memory, reading, verdict) in cases {
            assert_eq!(judge(memory, &reading), verdict, "{what}");
        }
    }

    #[test]
    fn another_cleared_or_missing_anchor_is_told_before_anything_else() {
        let replaced =
            |reading: Reading| matches!(judge(&sealed(), &reading), Verdict::ClearedOrReplaced { .. });
        assert!(replaced(Reading { missing: true, ..shows(A) }));
        assert!(replaced(Reading { identity: b"other".to_vec(), ..shows(A) }));
        assert!(replaced(Reading { head: None, ..shows(A) }));
        assert!(replaced(Reading { counter: None, ..shows(A) }));
    }

    #[test]
    fn the_start_counter_may_be_one_ahead_only_when_a_start_was_begun() {
        let with = |counter: u64| Reading { counter: Some(counter), ..shows(A) };
        let begun = Memory { start_pending: true, ..sealed() };
        assert_eq!(judge(&sealed(), &with(4)), Verdict::CounterBehind { recorded: 5, found: 4 });
        assert_eq!(judge(&sealed(), &with(6)), Verdict::CounterAhead { recorded: 5, found: 6 });
        assert_eq!(judge(&begun, &with(6)), Verdict::Intact);
        assert_eq!(judge(&begun, &with(7)), Verdict::CounterAhead { recorded: 5, found: 7 });
    }

    #[test]
    fn a_token_object_of_another_step_is_a_fork_even_with_the_right_value() {
        let at = |steps: u64, head: Hash| Reading { steps: Some(steps), ..shows(head) };
        assert_eq!(judge(&sealed(), &at(2, A)), Verdict::Intact);
        assert_eq!(judge(&sealed(), &at(9, A)), forked(A, A));
        assert_eq!(judge(&pending(), &at(3, B)), Verdict::ConfirmStep);
        assert_eq!(judge(&pending(), &at(2, A)), Verdict::RedoStep);
        assert_eq!(judge(&pending(), &at(4, B)), forked(A, B));
    }

    /// A model of the step with a crash after each of its parts, over many steps: no honest state is condemned, and
    /// every older copy of the ledger under a newer anchor is, unless it still holds every step that was taken.
    #[test]
    fn no_honest_crash_is_condemned_and_every_rollback_behind_the_anchor_is() {
        let step = |k: u64, before: &Hash| extend(before, &step_digest(k, k * 10, &[k as u8; 32]));
        let mut states: Vec<(Memory, Hash)> = vec![(Memory::default(), UNWRITTEN)];
        let mut value = UNWRITTEN;
        for k in 1..=12 {
            let (before, after) = (value, step(k, &value));
            let known = states[states.len() - 1].0.clone();
            let begun = Memory { pending: Some(Mark { k, before, after }), ..known };
            states.push((begun.clone(), before));
            states.push((begun.clone(), after));
            let confirmed = Memory { last: Some(Mark { k, before, after }), pending: None, ..begun };
            states.push((Memory { identity: Some(ID.to_vec()), ..confirmed }, after));
            value = after;
        }
        let reading = |value: Hash| Reading {
            head: (value != UNWRITTEN).then_some(value),
            identity: ID.to_vec(),
            ..Reading::default()
        };
        for (at, (memory, value)) in states.iter().enumerate() {
            assert_eq!(judge(memory, &reading(*value)).freeze(), None, "honest state {at}");
            for (later, (_, newer)) in states.iter().enumerate().skip(at + 1) {
                let holds = memory.last.map_or(UNWRITTEN, |last| last.after) == *newer
                    || memory.pending.is_some_and(|pending| pending.after == *newer);
                let condemned = judge(memory, &reading(*newer)).freeze().is_some();
                assert_eq!(condemned, !holds, "the ledger of state {at} under the anchor of state {later}");
            }
        }
    }
}
