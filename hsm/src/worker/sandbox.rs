//! What the worker gives up before any vendor code runs.
//! Enters: whether the module reaches its device over IP.
//! Leaves: a process that cannot be traced, dumped, raised in privilege, cannot start programs, and, usually, has no network.

use std::collections::BTreeMap;

use hsm::StartRefused;
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Closes the sandbox round this process and every thread it will start.
///
/// # Errors
/// When the kernel refuses a part: the worker does not run half protected.
pub(crate) fn close(network: bool) -> Result<(), StartRefused> {
    limit_process()
        .map_err(|fault| StartRefused::Sandbox(format!("the kernel refused a process limit, {fault}")))?;
    limit_syscalls(network)
}

fn limit_process() -> rustix::io::Result<()> {
    // The daemon's death must not leave a logged-in session behind; its end of the socket closing says the same, more slowly.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    rustix::thread::set_no_new_privs(true)
}

/// Everything else is allowed: a vendor's module may need any of it, and a filter that breaks modules gets switched off.
fn limit_syscalls(network: bool) -> Result<(), StartRefused> {
    let refuse = |fault: String| StartRefused::Sandbox(fault);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = DENIED.iter().map(|call| (*call, Vec::new())).collect();
    if !network {
        let other_family =
            SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, libc::AF_UNIX as u64)
                .and_then(|condition| SeccompRule::new(vec![condition]))
                .map_err(|fault| refuse(fault.to_string()))?;
        rules.insert(libc::SYS_socket, vec![other_family]);
    }
    let arch = std::env::consts::ARCH
        .try_into()
        .map_err(|_| refuse("this processor is not supported".to_owned()))?;
    let filter =
        SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32), arch)
            .map_err(|fault| refuse(fault.to_string()))?;
    let program: BpfProgram =
        filter.try_into().map_err(|fault: seccompiler::BackendError| refuse(fault.to_string()))?;
    seccompiler::apply_filter_all_threads(&program).map_err(|fault| refuse(fault.to_string()))
}

/// What no token library needs, and what an attacker inside one would reach for next. `io_uring` is here because it opens sockets
/// without passing this filter.
const DENIED: [i64; 28] = [
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_open_by_handle_at,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
];

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::TcpListener;
    use std::os::unix::net::UnixStream;
    use std::process::Command;

    /// Runs one of the tests below in a process of its own, since a sandbox once closed does not open.
    fn in_a_process_of_its_own(test: &str) {
        let me = std::env::current_exe().unwrap();
        let told = Command::new(me).args(["--ignored", "--exact", test]).output().unwrap();
        let text = String::from_utf8_lossy(&told.stdout);
        assert!(
            told.status.success() && text.contains("1 passed"),
            "{text}{}",
            String::from_utf8_lossy(&told.stderr)
        );
    }

    #[test]
    fn inside_nothing_is_started_and_no_network_is_reached() {
        in_a_process_of_its_own("sandbox::tests::closed_without_network");
    }

    #[test]
    fn a_module_that_needs_the_network_has_it_and_nothing_more() {
        in_a_process_of_its_own("sandbox::tests::closed_with_network");
    }

    #[test]
    #[ignore = "run by its sibling, in a process of its own"]
    fn closed_without_network() {
        super::close(false).unwrap();
        assert_eq!(TcpListener::bind("127.0.0.1:0").unwrap_err().kind(), ErrorKind::PermissionDenied);
        assert!(UnixStream::pair().is_ok(), "modules speak to their daemons");
        starts_nothing();
    }

    #[test]
    #[ignore = "run by its sibling, in a process of its own"]
    fn closed_with_network() {
        super::close(true).unwrap();
        assert!(TcpListener::bind("127.0.0.1:0").is_ok());
        starts_nothing();
    }

    fn starts_nothing() {
        let started = Command::new("/bin/true").spawn();
        assert_eq!(started.map(|_| ()).unwrap_err().kind(), ErrorKind::PermissionDenied);
        let limit = rustix::process::getrlimit(rustix::process::Resource::Core);
        assert_eq!(limit.current, Some(0));
        assert!(rustix::thread::no_new_privs().unwrap());
    }
}
