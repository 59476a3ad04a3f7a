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
            let query = serde_urlencoded::to_string([("path", path), ("method", method)]).unwrap_or_default();
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
        show::fields(false, request, &["request_id", "trace_id", "began"]);
        request["spans"].as_array().into_iter().flatten().for_each(show_span);
        if request["told"].as_array().is_some_and(|told| !told.is_empty()) {
            say!("");
            show::table(false, request, "told", &["time", "source", "reference", "what"]);
        }
    }
    Ok(())
}

/// A span on a line of its own, as deep as it lies: when it began, how long it took, what it was.
fn show_span(span: &Value) {
    let millis = |field: &str| {
        let micros = span[field].as_u64().unwrap_or_default();
        format!("{}.{:03}", micros / 1000, micros % 1000)
    };
    let depth = usize::try_from(span["depth"].as_u64().unwrap_or_default()).unwrap_or_default();
    let (began, took) = (millis("began_us"), millis("took_us"));
    let (name, note) =
        (show::plain(&span["name"]), span["note"].as_str().map(|_| show::plain(&span["note"])));
    let note = note.map(|note| format!(" ({note})")).unwrap_or_default();
    say!("{began:>10} ms {took:>10} ms  {:indent$}{name}{note}", "", indent = depth * 2);
}
