//! Commands that are the daemon, or that work without it: init, serve, config check, token probe.
//! Who enters: parsed arguments.
//! What leaves: a running daemon; or a failure with its causes and an exit code.

use std::fmt::Write;
use std::io::IsTerminal;
use std::process::ExitCode;

use serde_json::json;
use tokio::runtime::Runtime;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::local::Ask;
use super::{Common, code};
use crate::config::{Config, ConfigRefused, LogConfig, LogFormat, Viewpoint};
use crate::serve as serving;
use crate::traces::{Lines, in_json};
use crate::wiring::{self, Unbuilt};

/// A command that did not do what it should.
#[derive(Debug)]
pub struct Failure {
    /// The process's exit code.
    pub code: u8,
    /// A stable word.
    pub word: String,
    /// What happened and what to do.
    pub text: String,
    /// What `--json` prints in place of word and text.
    pub document: Option<serde_json::Value>,
}

impl Failure {
    /// A failure of a kind.
    pub fn new(code: u8, word: &str, text: impl Into<String>) -> Self {
        Self { code, word: word.to_owned(), text: text.into(), document: None }
    }

    /// An error with its causes, one to the line.
    pub fn because(code: u8, word: &str, error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(next) = cause {
            // Writing to a string cannot fail.
            let _ = write!(text, "\n  because {next}");
            cause = next.source();
        }
        Self::new(code, word, text)
    }

    /// Tells it, and gives the exit code.
    pub fn tell(self, as_json: bool) -> ExitCode {
        match (as_json, self.document) {
            (true, Some(document)) => say!("{document}"),
            (true, None) => say!("{}", json!({ "error": { "code": self.word, "detail": self.text } })),
            (false, _) => eprintln!("chancery: {}", self.text),
        }
        ExitCode::from(self.code)
    }
}

impl From<ConfigRefused> for Failure {
    fn from(refused: ConfigRefused) -> Self {
        Self::because(code::CONFIGURATION, "configuration", &refused)
    }
}

pub(super) fn check_config(common: &Common, user: Option<&str>) -> Result<(), Failure> {
    let from = Viewpoint::ahead(user).map_err(|why| Failure::because(code::USAGE, "usage", &why))?;
    match Config::read_from(&common.config, &from) {
        Ok(_) if common.json => say!("{}", json!({ "ok": true, "defects": [] })),
        Ok(_) => say!("{}: OK", common.config.display()),
        Err(refused) => {
            let document = json!({ "ok": false, "defects": refused.defects });
            return Err(Failure { document: Some(document), ..refused.into() });
        }
    }
    Ok(())
}

pub(super) fn init(common: &Common) -> Result<(), Failure> {
    let config = Config::read(&common.config)?;
    start_log(&config.log);
    keep_memory_private();
    let made = runtime()?.block_on(wiring::init(&config));
    let made = made.map_err(|why| not_started(&why))?;
    let origin = &config.ledger.origin;
    if common.json {
        say!(
            "{}",
            json!({
                "initialised": config.state_directory, "origin": origin,
                "verifier_keys": made.verifier_keys, "attestation_key": made.attestation_key,
            })
        );
        return Ok(());
    }
    say!("The appliance {origin} is made. Start it with `chancery serve`.");
    say!("Checkpoints verify with these keys; note them where this machine cannot change them:");
    made.verifier_keys.iter().for_each(|key| say!("  {key}"));
    if let Some(fingerprint) = made.attestation_key {
        say!("The TPM's attestation key (SHA-256); compare it with one read out of band:");
        say!("  {fingerprint}");
    }
    Ok(())
}

pub(super) fn serve(common: &Common) -> Result<(), Failure> {
    let config = Config::read(&common.config)?;
    let lines = start_log(&config.log);
    keep_memory_private();
    runtime()?.block_on(async {
        let served = serving::run(&config, lines, |address| say!("serving on https://{address}")).await;
        served.map_err(|why| match why.needs_a_person() {
            true => Failure::because(code::NEEDS_A_PERSON, "needs_a_person", &why),
            false => Failure::because(code::FAILED, "not_serving", &why),
        })
    })
}

pub(super) fn probe(common: &Common) -> Result<(), Failure> {
    let config = match Config::read(&common.config) {
        Ok(config) => config,
        // To whoever may not use the hardware the daemon tells what it found there.
        Err(refused) => return told_by_the_daemon(common).map_err(|_| refused.into()),
    };
    let tokens =
        runtime()?.block_on(wiring::tokens(&config, Default::default())).map_err(|why| not_started(&why))?;
    let probes: Vec<_> = std::iter::once(&tokens.keys).chain(&tokens.tpm).map(hsm::Token::probe).collect();
    match common.json {
        true => say!("{}", json!(probes.iter().map(AsRef::as_ref).collect::<Vec<&hsm::Probe>>())),
        false => probes.iter().for_each(|probe| say!("{probe}")),
    }
    Ok(())
}

fn told_by_the_daemon(common: &Common) -> Result<(), Failure> {
    let ask = Ask::get("/v1/token");
    let ask = if common.json { ask } else { ask.into_text() };
    let answer = ask.send(&common.outside_workspaces())?;
    match answer.as_str() {
        Some(text) => say!("{text}"),
        None => say!("{answer}"),
    }
    Ok(())
}

/// Trying again by itself must not burn the token's lock-out, so a service manager is told not to.
fn not_started(why: &Unbuilt) -> Failure {
    match why.needs_a_person() {
        true => Failure::because(code::NEEDS_A_PERSON, "needs_a_person", why),
        false => Failure::because(code::FAILED, "not_started", why),
    }
}

fn runtime() -> Result<Runtime, Failure> {
    serving::runtime().map_err(|why| Failure::because(code::FAILED, "no_runtime", &why))
}

/// Writes the log to standard error, and gives the memory of those of its lines that tell of a request.
fn start_log(log: &LogConfig) -> Lines {
    let lines = Lines::default();
    let filter = EnvFilter::try_new(&log.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let log_of = tracing_subscriber::registry().with(filter).with(in_json().with_writer(lines.clone()));
    match log.format {
        LogFormat::Json => log_of.with(in_json().with_writer(std::io::stderr)).init(),
        LogFormat::Text => {
            // Colour is for people at a terminal; a file or the journal would keep it as rubbish.
            let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let text = tracing_subscriber::fmt::layer().with_ansi(colour).with_writer(std::io::stderr);
            log_of.with(text).init();
        }
    }
    lines
}

/// A core file would hold the master key, and so would the memory that a process of the same user may read while this one is
/// dumpable. The unit keeps cores away too; here both hold without one.
fn keep_memory_private() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(why) = setrlimit(Resource::Core, none) {
        tracing::warn!(%why, "core files could not be switched off");
    }
    if let Err(why) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%why, "other processes of this user may read the daemon's memory");
    }
}
