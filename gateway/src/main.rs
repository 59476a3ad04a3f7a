//! The program `chancery`: the daemon and the operator's command line.
//! Who enters: arguments.
//! What leaves: an exit code.

/// A request makes and drops some hundred small allocations on several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    gateway::cli::main()
}
