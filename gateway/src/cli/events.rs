//! The command that follows what happens: page after page, and on, for as long as somebody listens.
//! Who enters: a cursor, a topic.
//! What leaves: a line for each event, or its JSON; with `--follow` until the reader goes.

use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::local::Ask;
use super::{Common, Failure, show};

/// Which events.
#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    /// After the event of this number; from the oldest that is kept if absent.
    #[arg(long)]
    after: Option<u64>,
    /// Of this topic only, such as key.rotated, or of all that begin with these words, such as key.
    #[arg(long)]
    topic: Option<String>,
    /// Of this workflow run only.
    #[arg(long)]
    run: Option<String>,
    /// Stay, and show what happens next, also over a restart of the daemon.
    #[arg(long)]
    follow: bool,
}

/// Below the patience that every question of the command line brings along.
const WAIT_SECONDS: u64 = 50;
/// A daemon that restarts is back soon.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// A daemon that has just begun, or is about to end, says one of these.
const NOT_NOW: [&str; 6] =
    ["unreachable", "stopping", "overloaded", "service_isolated", "deadline_passed", "ledger_frozen"];

/// With --workspace its own, without everybody's.
pub(super) fn events(common: &Common, args: EventsArgs) -> Result<(), Failure> {
    let mut after = args.after;
    let mut page = ask(&args, common, after).send(common)?;
    loop {
        let (all, next) = (page["events"].as_array().cloned().unwrap_or_default(), page["next"].as_u64());
        if show(common, &all).is_err() || next.is_none() || (all.is_empty() && !args.follow) {
            // Nobody reads any more, or there is no more to read.
            return Ok(());
        }
        after = next;
        page = go_on(&args, common, after)?;
    }
}

/// The next page. Whoever follows outlives the daemon; the cursor says where they were.
fn go_on(args: &EventsArgs, common: &Common, after: Option<u64>) -> Result<Value, Failure> {
    let mut told = false;
    loop {
        match ask(args, common, after).send(common) {
            Err(failure) if args.follow && NOT_NOW.contains(&failure.word.as_str()) => {
                if !told {
                    eprintln!("chancery: {} (going on when it is back)", failure.text);
                    told = true;
                }
                std::thread::sleep(ASK_AGAIN);
            }
            answered => return answered,
        }
    }
}

fn ask(args: &EventsArgs, common: &Common, after: Option<u64>) -> Ask {
    let base = if common.workspace.is_some() { "/v1/events" } else { "/v1/events-everywhere" };
    let after = after.map(|number| number.to_string());
    let pairs = [("after", &after), ("topic", &args.topic), ("workflow", &args.run)];
    let pairs: Vec<_> = pairs.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))).collect();
    let ask = Ask::get(format!("{base}?{}", serde_html_form::to_string(pairs).unwrap_or_default()));
    if args.follow { ask.waiting(WAIT_SECONDS) } else { ask }
}

/// One line for each event; an error when nobody reads any more.
fn show(common: &Common, events: &[Value]) -> std::io::Result<()> {
    events.iter().try_for_each(|event| {
        let line = if common.json { event.to_string() } else { line(event, common.workspace.is_none()) };
        show::written(&format!("{line}\n"))
    })
}

fn line(event: &Value, everywhere: bool) -> String {
    let text = |field: &str| show::plain(&event[field]);
    let facts = event["facts"].as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let facts: Vec<_> = facts.map(|(name, value)| format!("{name}={}", show::plain(value))).collect();
    let whose = if everywhere { format!("  {}", text("workspace")) } else { String::new() };
    let line = format!(
        "{}  {}{whose}  {}  {}  {}",
        text("number"),
        text("time"),
        text("topic"),
        text("subject"),
        facts.join(" ")
    );
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_a_line_that_cannot_paint_the_terminal() {
        let event = json!({ "number": 17001, "time": "2026-01-31T12:00:00Z", "topic": "key.rotated", "subject": "key_1",
            "facts": { "version": 2, "reason": null, "words": "\u{1b}[31m" }, "workspace": null });
        assert_eq!(
            line(&event, false),
            "17001  2026-01-31T12:00:00Z  key.rotated  key_1  version=2 words=\u{fffd}[31m"
        );
        assert_eq!(
            line(&event, true),
            "17001  2026-01-31T12:00:00Z  -  key.rotated  key_1  version=2 words=\u{fffd}[31m"
        );
    }
}
