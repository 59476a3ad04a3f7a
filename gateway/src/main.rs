//! The program `chancery`: the daemon and the operator's command line.
//! Who enters: arguments.
//! What leaves: an exit code.

fn main() -> std::process::ExitCode {
    gateway::cli::main()
}
