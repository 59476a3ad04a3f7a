//! The words: entries, receipts and errors as people and programs read them.
//! Who enters: the commands, with checked values.
//! What leaves: text with one fact per line, or JSON.

use std::error::Error;

use audit::leaf::Leaf;
use audit::{Checkpoint, NoteKey, Receipt};

use crate::signed::Fits;

/// An error and its causes, each once.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text += &format!(": {inner}");
        cause = inner.source();
    }
    text
}

/// What a receipt has proven: the entry, the checkpoint that covers it, and who signed that.
pub(crate) type Proven<'a> = (Leaf<'a>, Checkpoint, Vec<&'a NoteKey>);

/// The facts that a receipt proves, and what fits them.
pub(crate) fn checked(
    receipt: &Receipt,
    (leaf, checkpoint, signers): &Proven<'_>,
    fits: &Fits,
    json: bool,
) -> String {
    let signers: Vec<_> = signers.iter().map(|key| key.name()).collect();
    if json {
        let mut object = entry_object(leaf, Some(&receipt.payload));
        object["verified"] = true.into();
        object["checkpoint_size"] = checkpoint.size.into();
        object["signers"] = signers.into();
        object["fits"] = fits.object();
        return format!("{object}\n");
    }
    let mut text = format!("VERIFIED  recorded under the checkpoint over {} entries\n", checkpoint.size);
    for signer in signers {
        text += &format!("  signed by    {signer}\n");
    }
    let facts = fits.facts().iter().map(|(name, fact)| format!("  {name:<12} {}\n", harmless(fact)));
    text + &facts.collect::<String>() + &entry_text(leaf, Some(&receipt.payload))
}

/// One entry, one fact per line.
pub(crate) fn entry_text(leaf: &Leaf<'_>, payload: Option<&[u8]>) -> String {
    let facts = [
        ("entry", leaf.seq.to_string()),
        ("log", leaf.origin.to_owned()),
        ("recorded at", time_text(leaf.time_us)),
        ("workspace", or_none(leaf.workspace)),
        ("actor", or_none(leaf.actor)),
        ("action", leaf.action.to_owned()),
        ("object", or_none(leaf.object)),
        ("outcome", leaf.outcome.to_owned()),
        ("request", or_none(leaf.request_id)),
        ("detail", payload.map_or("(left out)".to_owned(), |it| String::from_utf8_lossy(it).into_owned())),
    ];
    facts.iter().map(|(name, fact)| format!("  {name:<12} {}\n", harmless(fact))).collect()
}

/// What an attacker could put into a field must not steer the auditor's terminal.
fn harmless(fact: &str) -> String {
    fact.replace(char::is_control, "\u{fffd}")
}

/// One entry as JSON.
pub(crate) fn entry_json(leaf: &Leaf<'_>, payload: Option<&[u8]>) -> String {
    format!("{}\n", entry_object(leaf, payload))
}

fn entry_object(leaf: &Leaf<'_>, payload: Option<&[u8]>) -> serde_json::Value {
    let detail = payload.map(|it| serde_json::from_slice(it).unwrap_or(serde_json::Value::Null));
    serde_json::json!({
        "seq": leaf.seq,
        "origin": leaf.origin,
        "time": time_text(leaf.time_us),
        "time_us": leaf.time_us,
        "workspace": leaf.workspace,
        "actor": leaf.actor,
        "action": leaf.action,
        "object": leaf.object,
        "outcome": leaf.outcome,
        "request_id": leaf.request_id,
        "detail": detail,
    })
}

/// RFC 3339, to the microsecond.
fn time_text(micros: u64) -> String {
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Days since 1970 to a date, by eras of 400 years that begin in March.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{fraction:06}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    )
}

fn or_none(text: &str) -> String {
    if text.is_empty() { "(none)".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::time_text;

    #[test]
    fn times_are_told_as_dates() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400_000_001, "2000-02-29T00:00:00.000001Z"),
            (1_796_033_264_895_208, "2026-11-30T10:07:44.895208Z"),
            (4_107_542_399_999_999, "2100-02-28T23:59:59.999999Z"),
            (4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(time_text(micros), text);
        }
    }
}
