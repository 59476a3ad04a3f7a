//! Commands that follow requests: where one would go and why, and what became of one.
//! Who enters: a path, or an id from an answer, a log line or an entry.
//! What leaves: tables and little trees; or, with `--json`, the JSON as it came.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::local::Ask;
use super::{Common, Failure, code, show};

/// What to ask of the routes.
#[derive(Debug, Subcommand)]
pub(super) enum RouteCommand {
    /// List prefixes, services, guards and breakers.
    List,
    /// Explain where a request would go: which prefixes were considered, which won, and why.
    Explain {
        /// The path, as a client would send it.
        path: String,
        /// The method.
        #[arg(long, default_value = "GET")]
        method: String,
    },
}

/// Which request to follow.
#[derive(Debug, Args)]
pub(super) struct TraceArgs {
    /// A request's id (`req_...`), or a trace's (32 hexadecimal digits).
    id: String,
}

pub(super) fn route(common: &Common, command: RouteCommand) -> Result<(), Failure> {
    let common = &common.outside_workspaces();
    match command {
        RouteCommand::List => {
            let answer = Ask::get("/v1/routes").send(common)?;
            show::table(
                common.json,
                &answer,
                "routes",
                &["prefix", "service", "breaker", "routes", "endpoints"],
            );
        }
        RouteCommand::Explain { path, method } => {
            let query = serde_html_form::to_string([("path", path), ("method", method)]).unwrap_or_default();
            let answer = Ask::get(format!("/v1/routes/explain?{query}")).send(common)?;
            let fields =
                ["method", "path", "outcome", "why", "service", "route", "guard", "allow", "breaker"];
            show::fields(common.json, &answer, &fields);
            let any = answer["considered"].as_array().is_some_and(|all| !all.is_empty());
            if any && !common.json {
                say!("");
                show::table(false, &answer, "considered", &["prefix", "service", "wins", "why"]);
            }
        }
    }
    Ok(())
}

pub(super) fn trace(common: &Common, args: &TraceArgs) -> Result<(), Failure> {
    let common = &common.outside_workspaces();
    if !args.id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err(Failure::new(code::USAGE, "usage", "an id is `req_...`, or 32 hexadecimal digits"));
    }
    let answer = Ask::get(format!("/v1/traces/{}", args.id)).send(common)?;
    if common.json {
        say!("{answer}");
        return Ok(());
    }
    let requests = answer["requests"].as_array().cloned().unwrap_or_default();
    for (at, request) in requests.iter().enumerate() {
        if at > 0 {
            say!("");
        }
        show::fields(false, request, &["request_id", "trace_id"]);
        say!("began       {}", show::plain(&request["story"][0]["time"]));
        say!("");
        say!("{:>12} {:>12}  told by   what", "at", "took");
        request["story"].as_array().into_iter().flatten().for_each(show_line);
    }
    Ok(())
}

/// A line of the story: when, how long, who tells it, what; a span as deep as it lies.
fn show_line(line: &Value) {
    let millis = |field: &str| {
        let micros = line[field].as_u64();
        micros.map(|micros| format!("{}.{:03} ms", micros / 1000, micros % 1000)).unwrap_or_default()
    };
    let text = |field: &str| line[field].as_str().map(|_| show::plain(&line[field])).unwrap_or_default();
    let depth = usize::try_from(line["depth"].as_u64().unwrap_or_default()).unwrap_or_default();
    let (at, took, source, what) = (millis("at_us"), millis("took_us"), text("source"), text("what"));
    let more = match source.as_str() {
        "span" if !text("ended").is_empty() => format!(" ({})", text("ended")),
        "ledger" => format!(" (entry {})", text("reference")),
        "workflow" => format!(" ({})", text("reference")),
        _ => String::new(),
    };
    say!("{at:>12} {took:>12}  {source:<8}  {:indent$}{what}{more}", "", indent = depth * 2);
}
