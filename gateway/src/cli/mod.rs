//! The operator's command line: one word for a thing, one for what to do with it.
//! Who enters: operators at a shell, and scripts with `--json`.
//! What leaves: words or JSON on standard output, problems on standard error, and an exit code that tells them apart.

/// Says a line on standard output.
macro_rules! say {
    ($($words:tt)*) => { $crate::cli::show::write(&format!("{}\n", format_args!($($words)*))) };
}
/// Says something on standard output, without ending the line.
macro_rules! say_on {
    ($($words:tt)*) => { $crate::cli::show::write(&format!($($words)*)) };
}

mod ask;
mod asking;
#[cfg(feature = "dev")]
mod dev;
mod enrol;
mod events;
mod files;
mod following;
mod import;
mod local;
mod run;
mod saga;
mod show;
mod words;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

pub use self::run::Failure;

/// Exit codes, the same for every command.
pub mod code {
    /// Done.
    pub const DONE: u8 = 0;
    /// The appliance refused, or a signature does not verify.
    pub const REFUSED: u8 = 1;
    /// The command line is not right.
    pub const USAGE: u8 = 2;
    /// The daemon does not answer.
    pub const UNREACHABLE: u8 = 3;
    /// The configuration is not right.
    pub const CONFIGURATION: u8 = 4;
    /// The daemon could not start or had to stop.
    pub const FAILED: u8 = 5;
    /// The daemon could not start, and trying again would do harm or no good: a wrong PIN burns the token's lock-out.
    pub const NEEDS_A_PERSON: u8 = 6;
}

const DEFAULT_CONFIG: &str = "/etc/chancery/chancery.toml";

/// Chancery: signs with keys that never leave the hardware, and writes down every signature before it is made.
#[derive(Debug, Parser)]
#[command(
    name = "chancery",
    version,
    propagate_version = true,
    after_help = "Exit codes: 0 done, 1 refused or not valid, 2 usage, 3 daemon unreachable, 4 configuration, 5 could not start, 6 needs a person (such as a wrong PIN)."
)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every command understands.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// The configuration file.
    #[arg(long, global = true, env = "CHANCERY_CONFIG", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// The daemon's local socket, where it is not the configuration's.
    #[arg(long, global = true, env = "CHANCERY_SOCKET")]
    pub socket: Option<PathBuf>,
    /// The workspace to act in, by name or id.
    #[arg(long, short, global = true, env = "CHANCERY_WORKSPACE")]
    pub workspace: Option<String>,
    /// JSON instead of words.
    #[arg(long, global = true)]
    pub json: bool,
}

impl Common {
    /// For commands that act in a workspace.
    fn in_workspace(&self) -> Result<Self, Failure> {
        match self.workspace {
            Some(_) => Ok(self.clone()),
            None => {
                let words = "say which workspace: --workspace NAME, or CHANCERY_WORKSPACE in the environment";
                Err(Failure::new(code::USAGE, "usage", words))
            }
        }
    }

    /// For commands about the appliance as a whole: a workspace in the environment does not concern them.
    fn outside_workspaces(&self) -> Self {
        Self { workspace: None, ..self.clone() }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new appliance: root key, master key, CA and ledger, in an empty state directory.
    Init,
    /// Serve until told to stop.
    Serve,
    /// Start a whole simulated appliance (SoftHSM, swtpm, daemon) in a directory of its own.
    #[cfg(feature = "dev")]
    Dev(dev::DevArgs),
    /// How the appliance is, and why.
    Status,
    /// The configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// The token and the TPM.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Workspaces.
    #[command(subcommand)]
    Workspace(words::WorkspaceCommand),
    /// Clients and their certificates.
    #[command(subcommand)]
    Client(words::ClientCommand),
    /// The certificate authorities that issue for clients and server.
    #[command(subcommand)]
    Ca(words::CaCommand),
    /// API keys of a workspace.
    #[command(subcommand)]
    Apikey(words::ApiKeyCommand),
    /// Signing keys of a workspace.
    #[command(subcommand)]
    Key(words::KeyCommand),
    /// Sign a file of any size, standard input, or a digest.
    Sign(words::SignArgs),
    /// Verify a signature of a file; exit code 1 if it is not valid.
    Verify(words::VerifyArgs),
    /// The ledger.
    #[command(subcommand)]
    Audit(words::AuditCommand),
    /// Workflow runs.
    #[command(subcommand)]
    Saga(saga::SagaCommand),
    /// What happens, in order: of a workspace with --workspace, of everybody without.
    Events(events::EventsArgs),
    /// Where requests go, and why.
    #[command(subcommand)]
    Route(following::RouteCommand),
    /// Follow a request by its id, or by its trace's.
    Trace(following::TraceArgs),
    /// Print the completion script for a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write a manual page for each command into a directory; the installer does.
    #[command(hide = true)]
    Manual {
        /// The directory, which must be there.
        directory: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say everything that is wrong with it, also before the first start.
    Check {
        /// The user whom the daemon runs as, by name or number; `chancery` by default where root asks and there is that user.
        #[arg(long)]
        user: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// What the token and the TPM can do. Works without the daemon for its own user.
    Probe,
    /// Seal the master key anew, to the machine's present state.
    Reseal,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Init => run::init(&cli.common),
        Command::Serve => run::serve(&cli.common),
        #[cfg(feature = "dev")]
        Command::Dev(args) => dev::run(&args).map_err(Failure::from),
        Command::Config(ConfigCommand::Check { user }) => run::check_config(&cli.common, user.as_deref()),
        Command::Token(TokenCommand::Probe) => run::probe(&cli.common),
        Command::Token(TokenCommand::Reseal) => ask::reseal(&cli.common),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "chancery", &mut std::io::stdout());
            Ok(())
        }
        Command::Manual { directory } => clap_mangen::generate_to(Cli::command(), &directory)
            .map_err(|why| Failure::because(code::FAILED, "no_manual", &why)),
        Command::Status => ask::status(&cli.common),
        Command::Workspace(command) => ask::workspace(&cli.common, command),
        Command::Client(command) => ask::client(&cli.common, command),
        Command::Ca(command) => ask::ca(&cli.common, command),
        Command::Apikey(command) => ask::api_key(&cli.common, command),
        Command::Key(command) => ask::key(&cli.common, command),
        Command::Sign(args) => files::sign(&cli.common, &args),
        Command::Verify(args) => files::verify(&cli.common, &args),
        Command::Audit(command) => ask::audit(&cli.common, command),
        Command::Saga(command) => saga::saga(&cli.common, command),
        Command::Events(args) => events::events(&cli.common, args),
        Command::Route(command) => following::route(&cli.common, command),
        Command::Trace(args) => following::trace(&cli.common, &args),
    };
    match outcome {
        Ok(()) => ExitCode::from(code::DONE),
        Err(failure) => failure.tell(cli.common.json),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_holds_together() {
        super::Cli::command().debug_assert();
    }
}
