//! Answers as people read them: tables for lists, lines for single things.
//! Who enters: the daemon's JSON and the columns that matter.
//! What leaves: text with aligned columns; or, with `--json`, the JSON as it came.

use std::io::Write;

use serde_json::Value;

/// Writes text to standard output. A reader that has gone, such as `head`, is no fault of ours.
pub(super) fn write(text: &str) {
    let _ = written(text);
}

/// The same for whoever goes on and on, and must know when the reader has gone.
pub(super) fn written(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// Prints a list as a table, or the whole answer as JSON.
pub(super) fn table(as_json: bool, answer: &Value, list: &str, columns: &[&str]) {
    if as_json {
        return say!("{answer}");
    }
    let rows = answer[list].as_array().cloned().unwrap_or_default();
    if rows.is_empty() {
        return say!("none");
    }
    say_on!("{}", table_text(&rows, columns));
    if !answer["next"].is_null() {
        say!("(more: --after {})", plain(&answer["next"]));
    }
}

/// Prints the named fields of one thing, or the whole answer as JSON.
pub(super) fn fields(as_json: bool, answer: &Value, names: &[&str]) {
    if as_json {
        return say!("{answer}");
    }
    let width = names.iter().map(|name| name.len()).max().unwrap_or_default();
    for name in names.iter().filter(|name| !answer[**name].is_null()) {
        say!("{:width$}  {}", name.replace('_', " "), plain(&answer[*name]));
    }
}

/// Prints a sentence, or the answer as JSON.
pub(super) fn sentence(as_json: bool, answer: &Value, text: &str) {
    match (as_json, answer.is_null()) {
        (true, true) => say!("{{\"ok\":true}}"),
        (true, false) => say!("{answer}"),
        (false, _) => say!("{text}"),
    }
}

fn table_text(rows: &[Value], columns: &[&str]) -> String {
    let heading: Vec<String> = columns.iter().map(|name| name.replace('_', " ").to_uppercase()).collect();
    let cells = rows.iter().map(|row| columns.iter().map(|name| plain(&row[*name])).collect());
    let lines: Vec<Vec<String>> = std::iter::once(heading).chain(cells).collect();
    let width = |at: usize| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let padded: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A value in words. Control characters from outside never reach a terminal.
pub(super) fn plain(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    };
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_line_up_and_absent_values_are_dashes() {
        let rows =
            [json!({ "id": "key_1", "last_used": null }), json!({ "id": "key_22", "last_used": "2026" })];
        assert_eq!(table_text(&rows, &["id", "last_used"]), "ID      LAST USED\nkey_1   -\nkey_22  2026\n");
    }

    #[test]
    fn a_name_cannot_paint_the_terminal() {
        assert_eq!(plain(&json!("\u{1b}[31mred")), "\u{fffd}[31mred");
    }
}
