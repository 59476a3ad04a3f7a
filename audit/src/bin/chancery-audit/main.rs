//! `chancery-audit`: checks ledgers, exports and receipts offline, without the appliance and its token.
//! Who enters: a security team, with files and the keys it wrote down.
//! What leaves: a verdict in words or JSON, and an exit code: 0 verified, 1 does not verify, 2 could not be checked.

mod commands;
mod signed;
mod words;

use std::path::PathBuf;
use std::process::ExitCode;

use audit::NoteKey;
use clap::{Args, CommandFactory, Parser, Subcommand};

/// Verify Chancery ledgers, exports and receipts offline.
#[derive(Parser)]
#[command(name = "chancery-audit", version, about, after_help = EXIT_CODES)]
struct Arguments {
    /// Answer with one JSON object instead of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes:
  0  everything that could be checked holds
  1  something does not hold: altered, cut off, forked, or signed by nobody you named
  2  nothing could be checked: wrong usage, or a file that cannot be read";

#[derive(Subcommand)]
enum Command {
    /// Compute everything anew from a ledger file, an export or an excerpt, as a directory or an archive
    Verify {
        /// The evidence.
        evidence: PathBuf,
        #[command(flatten)]
        trust: TrustArguments,
        /// The attestation key written down at enrolment (PEM). It is a demand: every checkpoint must be attested by it.
        #[arg(long, value_name = "FILE")]
        ak: Option<PathBuf>,
        /// The first checkpoint that the TPM holds, where the log is older than its TPM.
        #[arg(long, value_name = "STEP", default_value_t = 1)]
        hardware_since: u64,
        /// A checkpoint kept from an earlier visit; the log must contain it.
        #[arg(long, value_name = "FILE")]
        checkpoint: Option<PathBuf>,
    },
    /// Make a receipt for one entry from evidence
    Prove {
        /// The evidence.
        evidence: PathBuf,
        /// The entry's number.
        entry: u64,
    },
    /// Check a receipt that someone was handed, and whether a file and its signature are those that it tells of
    Check {
        /// The receipt (JSON).
        receipt: PathBuf,
        #[command(flatten)]
        trust: TrustArguments,
        #[command(flatten)]
        held: signed::Held,
    },
    /// Show one entry as it was written
    Show {
        /// The evidence.
        evidence: PathBuf,
        /// The entry's number.
        entry: u64,
    },
    /// Write a manual page for each command into a directory; the installer does
    #[command(hide = true)]
    Manual {
        /// The directory, which must be there.
        directory: PathBuf,
    },
    /// Compare two pieces of evidence about one log
    Diff {
        /// The older evidence.
        first: PathBuf,
        /// The newer evidence.
        second: PathBuf,
    },
}

#[derive(Args)]
struct TrustArguments {
    /// A verifier key written down at enrolment (`name+id+key`); may be given several times. Each that bears a name of the
    /// log is a demand: its line must be there, on every checkpoint.
    #[arg(long = "key", value_name = "VKEY")]
    keys: Vec<NoteKey>,
}

/// How a command ended when it ended at all.
pub(crate) enum Verdict {
    Holds(String),
    DoesNotHold(String),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(Verdict::Holds(answer)) => {
            print!("{answer}");
            ExitCode::SUCCESS
        }
        Ok(Verdict::DoesNotHold(answer)) => {
            print!("{answer}");
            ExitCode::from(1)
        }
        Err(fault) => {
            eprintln!("chancery-audit: {}", words::with_causes(&*fault));
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<Verdict, Box<dyn std::error::Error>> {
    let json = arguments.json;
    match &arguments.command {
        Command::Verify { evidence, trust, ak, hardware_since, checkpoint } => {
            let pins =
                commands::Pins { keys: &trust.keys, ak: ak.as_deref(), hardware_since: *hardware_since };
            commands::verify(evidence, &pins, checkpoint.as_deref(), json)
        }
        Command::Prove { evidence, entry } => commands::prove(evidence, *entry),
        Command::Check { receipt, trust, held } => commands::check(receipt, &trust.keys, held, json),
        Command::Show { evidence, entry } => commands::show(evidence, *entry, json),
        Command::Manual { directory } => {
            clap_mangen::generate_to(Arguments::command(), directory)?;
            Ok(Verdict::Holds(String::new()))
        }
        Command::Diff { first, second } => commands::diff(first, second, json),
    }
}
