//! What waits for approval as people read it: what happens, what exactly is asked for, who has said what.
//! Who enters: the `approval` of a run, as the API gives it.
//! What leaves: lines for a terminal, in which nothing that a requester wrote can pass for something else.

use std::fmt::Write as _;

use serde_json::Value;

/// Draws the approval of a run.
pub fn text(approval: &Value) -> String {
    let mut out = String::new();
    // Writing into a String does not fail.
    let _ = draw(&mut out, approval);
    out
}

fn draw(out: &mut String, approval: &Value) -> std::fmt::Result {
    let mut lines = vec![
        ("what happens".to_owned(), plain(&approval["consequence"])),
        ("asked by".to_owned(), asked_by(approval)),
        (
            "needs".to_owned(),
            format!("{} others, until {}", plain(&approval["needs"]), plain(&approval["expires"])),
        ),
        ("policy version".to_owned(), plain(&approval["policy_version"])),
    ];
    flatten(&mut lines, "", &approval["request"]);
    lines.push(("digest of all this".to_owned(), plain(&approval["digest"])));
    for vote in approval["votes"].as_array().into_iter().flatten() {
        let lapsed =
            vote["lapsed"].as_str().map(|why| format!(" (counts no more: {why})")).unwrap_or_default();
        let said = format!("{} at {}{lapsed}", plain(&vote["verdict"]), plain(&vote["at"]));
        lines.push((format!("vote of {}", plain(&vote["approver"])), said));
    }
    let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    writeln!(out, "\nwhat others are asked to agree to:")?;
    lines.iter().try_for_each(|(name, value)| writeln!(out, "  {name:width$}  {value}"))
}

fn asked_by(approval: &Value) -> String {
    let withdrawn = approval["withdrawn"].as_str().map(|why| format!(", who {why}: nothing will be done"));
    format!("{}{}", plain(&approval["initiator"]), withdrawn.unwrap_or_default())
}

/// One line for each fact, by its path; nothing is left out.
fn flatten(lines: &mut Vec<(String, String)>, path: &str, value: &Value) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(facts) => facts.iter().for_each(|(name, fact)| flatten(lines, &below(name), fact)),
        Value::Array(items) if !items.is_empty() => {
            items
                .iter()
                .enumerate()
                .for_each(|(at, item)| flatten(lines, &below(&(at + 1).to_string()), item));
        }
        Value::Null => lines.push((path.to_owned(), "none".to_owned())),
        fact => lines.push((path.to_owned(), plain(fact))),
    }
}

/// Text without quotes, and without characters that a terminal acts on or that turn the reading direction round.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.chars().flat_map(harmless).collect(),
        other => other.to_string(),
    }
}

fn harmless(letter: char) -> Vec<char> {
    match letter {
        '"' | '\'' => vec![letter],
        letter => letter.escape_debug().collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_fact_stands_on_a_line_and_none_can_pass_for_another() {
        let approval = json!({
            "consequence": "one signature is made", "initiator": "operator:0", "needs": 2, "policy_version": 3,
            "expires": "2026-12-01T12:00:00Z", "digest": "00ff",
            "request": {
                "key": { "name": "release", "version": 2 }, "context": "harmless\n  digest of all this  11ee \u{202e}\u{1b}[2J",
                "digests": ["aa", "bb"], "intent": null,
            },
            "votes": [{ "approver": "operator:1", "verdict": "approve", "at": "then", "lapsed": "was revoked" }],
        });
        let text = text(&approval);
        for line in [
            "  what happens        one signature is made",
            "  needs               2 others, until 2026-12-01T12:00:00Z",
            "  key.name            release",
            "  digests.2           bb",
            "  intent              none",
            "  digest of all this  00ff",
            "  vote of operator:1  approve at then (counts no more: was revoked)",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}\n{text}");
        }
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("  digest of all this")).count(), 1, "{text}");
    }
}
