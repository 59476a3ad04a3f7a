//! A saga as a picture of text: one line per step, what went wrong, what a person can do next.
//! Who enters: a [`Detail`].
//! What leaves: lines for a terminal.

use std::fmt::Write as _;

use crate::view::{Detail, StepView};

/// Draws a saga.
///
/// `✓` taken, `●` being taken, `·` ahead, `↩` undone, `–` nothing to undo, `✗` stuck; `◆` stands before the pivot.
pub fn picture(detail: &Detail) -> String {
    let mut out = String::new();
    // Writing into a String does not fail.
    let _ = draw(&mut out, detail);
    out
}

fn draw(out: &mut String, detail: &Detail) -> std::fmt::Result {
    let summary = &detail.summary;
    writeln!(out, "{} v{}  {}  {}", summary.workflow, summary.version, summary.id, summary.state)?;
    let place = summary.workspace.as_deref().unwrap_or("the appliance");
    write!(out, "started by {} in {place}", summary.actor)?;
    match detail.request.as_str() {
        "" => writeln!(out)?,
        request => writeln!(out, ", request {request}")?,
    }
    if let Some(parent) = &detail.parent {
        writeln!(out, "child of {parent}")?;
    }
    writeln!(out)?;
    let widest = detail.steps.iter().map(|step| step.name.len()).max().unwrap_or_default();
    for step in &detail.steps {
        draw_step(out, step, widest)?;
    }
    if let Some(error) = &summary.error {
        writeln!(out, "\nwhy: {error}")?;
    }
    if detail.cancelled {
        writeln!(out, "it was asked to turn round")?;
    }
    if !detail.advice.is_empty() {
        writeln!(out, "\nwhat you can do:")?;
        detail.advice.iter().try_for_each(|advice| writeln!(out, "  - {advice}"))?;
    }
    Ok(())
}

fn draw_step(out: &mut String, step: &StepView, widest: usize) -> std::fmt::Result {
    let glyph = match step.state {
        "done" => '✓',
        "current" => '●',
        "undone" => '↩',
        "skipped" => '–',
        "stuck" => '✗',
        _ => '·',
    };
    let pivot = if step.pivot { '◆' } else { ' ' };
    let mut notes = Vec::new();
    match (step.state, step.attempts) {
        ("ahead", _) => {}
        (state, attempts) if attempts > 1 => notes.push(format!("{state}, {attempts} attempts")),
        (state, _) => notes.push(state.to_owned()),
    }
    if step.undo_attempts > 1 {
        notes.push(format!("{} attempts to undo", step.undo_attempts));
    }
    if let (Some(error), "current" | "stuck") = (&step.error, step.state) {
        notes.push(error.clone());
    }
    let line = format!("  {glyph} {pivot} {:widest$}  {:7}  {}", step.name, step.kind, notes.join("; "));
    writeln!(out, "{}", line.trim_end())
}
