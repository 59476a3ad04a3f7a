//! The words: entries, receipts and errors as people and programs read them.
//! Who enters: the commands, with checked values.
//! What leaves: text with one fact per line, or JSON.

use std::error::Error;

use audit::leaf::Leaf;
use audit::{NoteKey, Receipt, ReceiptRefused};

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

/// The facts that a receipt proves.
pub(crate) fn checked_receipt(
    receipt: &Receipt,
    keys: &[NoteKey],
    json: bool,
) -> Result<String, ReceiptRefused> {
    let (leaf, checkpoint, signers) = receipt.check(keys)?;
    let signers: Vec<_> = signers.into_iter().map(NoteKey::name).collect();
    if json {
        let mut object = entry_object(&leaf, Some(&receipt.payload));
        object["verified"] = true.into();
        object["checkpoint_size"] = checkpoint.size.into();
        object["signers"] = signers.into();
        return Ok(format!("{object}\n"));
    }
    let mut text = format!("VERIFIED  recorded under the checkpoint over {} entries\n", checkpoint.size);
    for signer in signers {
        text += &format!("  signed by    {signer}\n");
    }
    Ok(text + &entry_text(&leaf, Some(&receipt.payload)))
}

/// One entry, one fact per line.
pub(crate) fn entry_text(leaf: &Leaf<'_>, payload: Option<&[u8]>) -> String {
    let facts = [
        ("entry", leaf.seq.to_string()),
        ("log", leaf.origin.to_owned()),
        ("told at", format!("{} us since 1970", leaf.time_us)),
        ("workspace", or_none(leaf.workspace)),
        ("actor", or_none(leaf.actor)),
        ("action", leaf.action.to_owned()),
        ("object", or_none(leaf.object)),
        ("outcome", leaf.outcome.to_owned()),
        ("request", or_none(leaf.request_id)),
        ("detail", payload.map_or("(left out)".to_owned(), |it| String::from_utf8_lossy(it).into_owned())),
    ];
    // What an attacker could put into a field must not steer the auditor's terminal.
    facts
        .iter()
        .map(|(name, fact)| format!("  {name:<12} {}\n", fact.replace(char::is_control, "\u{fffd}")))
        .collect()
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

fn or_none(text: &str) -> String {
    if text.is_empty() { "(none)".to_owned() } else { text.to_owned() }
}
