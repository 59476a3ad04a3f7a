//! The seccomp filters of the worker: what Landlock does not reach.
//! Enters: whether there are sockets, and of which family.
//! Leaves: filters that no thread of this process can take off.

use std::collections::BTreeMap;

use hsm::StartRefused;
use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

/// Refused calls by number; a call without rules is refused whatever it asks.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Installs the filters. Everything that they do not name is allowed: a vendor's module may need any of it, and a filter that breaks
/// modules gets switched off.
///
/// # Errors
/// The kernel refused one.
pub(super) fn install(network: bool, sockets: bool) -> Result<(), StartRefused> {
    let made = || -> Result<(Rules, Rules), seccompiler::BackendError> {
        let mut refused: Rules = ALWAYS.iter().chain(ARCH).map(|call| (*call, Vec::new())).collect();
        of_processes(&mut refused)?;
        of_sockets(&mut refused, network, sockets)?;
        // The C library falls back to `clone`, whose flags a filter can read.
        let unknown = [(libc::SYS_clone3, Vec::new())].into_iter().collect();
        Ok((refused, unknown))
    };
    let (refused, unknown) = made().map_err(|fault| StartRefused::Sandbox(fault.to_string()))?;
    apply(refused, libc::EPERM)?;
    apply(unknown, libc::ENOSYS)?;
    refuse_second_table()
}

fn apply(rules: Rules, errno: i32) -> Result<(), StartRefused> {
    let refuse = |fault: String| StartRefused::Sandbox(fault);
    let arch: TargetArch = std::env::consts::ARCH
        .try_into()
        .map_err(|_| refuse("this processor is not supported".to_owned()))?;
    let action = SeccompAction::Errno(errno.cast_unsigned());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, arch)
        .map_err(|fault| refuse(fault.to_string()))?;
    let program: BpfProgram =
        filter.try_into().map_err(|fault: seccompiler::BackendError| refuse(fault.to_string()))?;
    seccompiler::apply_filter_all_threads(&program).map_err(|fault| refuse(fault.to_string()))
}

/// The x32 table has numbers of its own for the same calls, which no rule by number would meet.
#[cfg(target_arch = "x86_64")]
fn refuse_second_table() -> Result<(), StartRefused> {
    const LOAD_NUMBER: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    const ANSWER: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const X32_BIT: u32 = 0x4000_0000;
    let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
    let program = [
        sock_filter { code: LOAD_NUMBER, jt: 0, jf: 0, k: 0 },
        sock_filter { code: JUMP_IF_AT_LEAST, jt: 0, jf: 1, k: X32_BIT },
        sock_filter { code: ANSWER, jt: 0, jf: 0, k: refused },
        sock_filter { code: ANSWER, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
    ];
    seccompiler::apply_filter_all_threads(&program).map_err(|fault| StartRefused::Sandbox(fault.to_string()))
}

#[cfg(not(target_arch = "x86_64"))]
fn refuse_second_table() -> Result<(), StartRefused> {
    Ok(())
}

/// Another process is neither made, signalled, hurried nor looked into. The process itself may do all that to itself.
fn of_processes(rules: &mut Rules) -> Result<(), seccompiler::BackendError> {
    let own = u64::from(std::process::id());
    let other = |argument| is(argument, SeccompCmpOp::Ne, own);
    for call in [libc::SYS_kill, libc::SYS_tgkill, libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo] {
        rules.insert(call, vec![all([other(0)?])?]);
    }
    // Zero is the process, or the thread, itself.
    rules.insert(libc::SYS_prlimit64, vec![all([other(0)?, is(0, SeccompCmpOp::Ne, 0)?])?]);
    for call in [
        libc::SYS_sched_setaffinity,
        libc::SYS_sched_setscheduler,
        libc::SYS_sched_setparam,
        libc::SYS_sched_setattr,
    ] {
        rules.insert(call, vec![all([is(0, SeccompCmpOp::Ne, 0)?])?]);
    }
    for call in [libc::SYS_setpriority, libc::SYS_ioprio_set] {
        rules.insert(call, vec![all([is(1, SeccompCmpOp::Ne, 0)?])?]);
    }
    // A thread is made with this flag, a process without it.
    let process = SeccompCmpOp::MaskedEq(libc::CLONE_THREAD as u64);
    rules.insert(libc::SYS_clone, vec![all([is(0, process, 0)?])?]);
    // The kernel would send a signal in our name to whoever is named as owner.
    let owners = [libc::F_SETOWN, F_SETOWN_EX, F_SETSIG]
        .map(|what| is(1, SeccompCmpOp::Eq, what as u64).and_then(|it| all([it])));
    rules.insert(libc::SYS_fcntl, owners.into_iter().collect::<Result<_, _>>()?);
    // What this process gave up at its start: it would be dumpable, traceable, or outlive the daemon.
    let undone = [libc::PR_SET_DUMPABLE, libc::PR_SET_PTRACER, libc::PR_SET_PDEATHSIG];
    let undone = undone.map(|what| is(0, SeccompCmpOp::Eq, what as u64).and_then(|it| all([it])));
    rules.insert(libc::SYS_prctl, undone.into_iter().collect::<Result<_, _>>()?);
    // Standard error may be an operator's terminal, and this types into it.
    let typing =
        [libc::TIOCSTI, libc::TIOCLINUX].map(|what| is(1, SeccompCmpOp::Eq, what).and_then(|it| all([it])));
    rules.insert(libc::SYS_ioctl, typing.into_iter().collect::<Result<_, _>>()?);
    Ok(())
}

/// No sockets at all, or streams of the families that the token needs, and nobody is ever waited for.
fn of_sockets(rules: &mut Rules, network: bool, sockets: bool) -> Result<(), seccompiler::BackendError> {
    for call in [libc::SYS_bind, libc::SYS_listen, libc::SYS_accept, libc::SYS_accept4] {
        rules.insert(call, Vec::new());
    }
    // A pair of datagram sockets could be turned to another address; one of streams is tied to its other end.
    rules.insert(libc::SYS_socketpair, not_a_stream()?);
    if !network && !sockets {
        rules.insert(libc::SYS_socket, Vec::new());
        rules.insert(libc::SYS_connect, Vec::new());
        return Ok(());
    }
    let mut families = Vec::new();
    if network {
        families.extend([libc::AF_INET, libc::AF_INET6]);
    }
    if sockets {
        families.push(libc::AF_UNIX);
    }
    let foreign = families
        .iter()
        .map(|family| is(0, SeccompCmpOp::Ne, *family as u64))
        .collect::<Result<Vec<_>, _>>()?;
    let mut socket = vec![all(foreign)?];
    socket.extend(not_a_stream()?);
    // Landlock knows the ports of TCP, and of no other protocol that has streams.
    let plain = [0, libc::IPPROTO_TCP].map(|protocol| is(2, SeccompCmpOp::Ne, protocol as u64));
    socket.push(all(plain.into_iter().collect::<Result<Vec<_>, _>>()?)?);
    rules.insert(libc::SYS_socket, socket);
    // To send with the opening of a connection is to connect, past Landlock.
    let fast = |argument| is(argument, SeccompCmpOp::MaskedEq(FASTOPEN), FASTOPEN);
    rules.insert(libc::SYS_sendto, vec![all([fast(3)?])?]);
    rules.insert(libc::SYS_sendmsg, vec![all([fast(2)?])?]);
    rules.insert(libc::SYS_sendmmsg, vec![all([fast(3)?])?]);
    Ok(())
}

/// A rule for each type of socket but streams; the flags beside the type are not looked at.
fn not_a_stream() -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let types = (0..=TYPE_MASK).filter(|kind| *kind != libc::SOCK_STREAM as u64);
    types.map(|kind| all([is(1, SeccompCmpOp::MaskedEq(TYPE_MASK), kind)?])).collect()
}

fn is(argument: u8, what: SeccompCmpOp, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, what, value)
}

fn all(conditions: impl Into<Vec<SeccompCondition>>) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(conditions.into())
}

const TYPE_MASK: u64 = 0xf;
const FASTOPEN: u64 = libc::MSG_FASTOPEN as u64;
const F_SETSIG: i32 = 10;
const F_SETOWN_EX: i32 = 15;

/// What no token library needs, and what an attacker inside one would reach for next. `io_uring` is here because it opens sockets
/// without passing this filter; the calls that change modes, owners, times and lengths by name, because Landlock does not see them.
const ALWAYS: &[c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_tkill,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_kcmp,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
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
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_open_by_handle_at,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_truncate,
    libc::SYS_fchmodat,
    SYS_FCHMODAT2,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
];

/// The same number on every processor; younger than the C library's list.
const SYS_FCHMODAT2: c_long = 452;

/// Older names of the same, on this processor only.
#[cfg(target_arch = "x86_64")]
const ARCH: &[c_long] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
];
#[cfg(not(target_arch = "x86_64"))]
const ARCH: &[c_long] = &[];
