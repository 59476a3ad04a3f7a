/* A PKCS#11 module that serves as SoftHSM does, and meanwhile tries to get out.
 * Enters: a plan in the file that HOSTILE_PLAN names, one `name value` a line:
 *   module (SoftHSM's), report (where to write), ledger, directory (of the state), socket (of the operators), victim (a process; 0 for the parent),
 *   mapped (an address in the victim), port (of somebody else on loopback),
 *   device (the port of the token itself, which is no attack).
 * Leaves: the report, one `attack result` a line, where the result is `ok` or the name of the refusal; `done` at its end.
 * Built with -DALONE it is a program that tries the same from outside, which shows that each attack works where no wall stands.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static char module[512], report[512], ledger[512], directory[512], socket_path[512];
static int victim, port, device;
static FILE *out;

static unsigned long mapped;

static void read_plan(void) {
    const char *name = getenv("HOSTILE_PLAN");
    FILE *plan = name ? fopen(name, "r") : NULL;
    char key[32], value[480];
    while (plan && fscanf(plan, "%31s %479s", key, value) == 2) {
        char *to = !strcmp(key, "module") ? module : !strcmp(key, "report") ? report : !strcmp(key, "ledger") ? ledger
                 : !strcmp(key, "directory") ? directory : !strcmp(key, "socket") ? socket_path : NULL;
        if (to) strcpy(to, value);
        if (!strcmp(key, "victim")) victim = atoi(value);
        if (!strcmp(key, "device")) device = atoi(value);
        if (!strcmp(key, "mapped")) mapped = strtoul(value, NULL, 0);
        if (!strcmp(key, "port")) port = atoi(value);
    }
    if (plan) fclose(plan);
    /* A daemon is not there yet when the plan is written: it is whoever started us. */
    if (!victim) victim = getppid();
}

static void tell(const char *attack, long result) {
    fprintf(out, "%s %s\n", attack, result >= 0 ? "ok" : strerrorname_np(errno));
    fflush(out);
}
static const char *in_state(const char *name) {
    static char path[600];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}
static const char *of_victim(const char *file) {
    static char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", victim, file);
    return path;
}

/* Some address that is mapped there: the plan carries it, as a debugger would read it from the maps. */
static void *stack_of_victim(void) { return (void *)mapped; }

static long closed(int fd) { return fd < 0 ? -1 : close(fd); }

static void files(void) {
    tell("ledger.read", closed(open(ledger, O_RDONLY)));
    tell("ledger.write", closed(open(ledger, O_RDWR)));
    tell("ledger.append", closed(open(ledger, O_WRONLY | O_APPEND)));
    tell("ledger.link", link(ledger, in_state("linked")));
    tell("ledger.rename", rename(ledger, in_state("renamed")) ? -1 : rename(in_state("renamed"), ledger));
    tell("ledger.mode", chmod(ledger, 0644));
    tell("ledger.owner", chown(ledger, (uid_t)-1, getgid()));
    tell("ledger.truncate", truncate(ledger, 1));
    struct timespec times[2] = { { 1, 0 }, { 1, 0 } };
    tell("ledger.times", utimensat(AT_FDCWD, ledger, times, 0));
    tell("state.list", closed(open(directory, O_RDONLY | O_DIRECTORY)));
    tell("state.create", closed(open(in_state("planted"), O_WRONLY | O_CREAT, 0600)));
    tell("state.mkdir", mkdir(in_state("made"), 0700));
    tell("state.symlink", symlink("/etc", in_state("pointer")));
    tell("state.mode", chmod(directory, 0755));
    tell("ledger.delete", unlink(ledger));
    tell("host.temporary", closed(open("/tmp", O_RDONLY | O_DIRECTORY)));
    tell("host.root", closed(open("/", O_RDONLY | O_DIRECTORY)));
    tell("host.shadow", closed(open("/etc/shadow", O_RDONLY)));
}

static void memory(void) {
    int fd = open(of_victim("mem"), O_RDWR);
    tell("daemon.memory", closed(fd));
    tell("daemon.environment", closed(open(of_victim("environ"), O_RDONLY)));
    tell("daemon.maps", closed(open(of_victim("maps"), O_RDONLY)));
    tell("daemon.descriptors", closed(open(of_victim("fd"), O_RDONLY | O_DIRECTORY)));
    char byte;
    struct iovec here = { &byte, 1 }, there = { stack_of_victim(), 1 };
    tell("daemon.readv", process_vm_readv(victim, &here, 1, &there, 1, 0));
    tell("daemon.writev", process_vm_writev(victim, &here, 0, &there, 0, 0));
    tell("daemon.seize", ptrace(PTRACE_SEIZE, victim, 0, 0) ? -1 : 0);
    ptrace(PTRACE_INTERRUPT, victim, 0, 0);
    ptrace(PTRACE_DETACH, victim, 0, 0);
}

static void processes(void) {
    tell("daemon.kill", kill(victim, 0));
    tell("daemon.tgkill", syscall(SYS_tgkill, victim, victim, 0));
    tell("daemon.queue", sigqueue(victim, 0, (union sigval){ 0 }));
    tell("everybody.kill", kill(-victim, 0) && errno == ESRCH ? 0 : kill(-victim, 0));
    int handle = syscall(SYS_pidfd_open, victim, 0);
    tell("daemon.pidfd", closed(handle));
    struct rlimit now;
    tell("daemon.prlimit", prlimit(victim, RLIMIT_NOFILE, NULL, &now));
    cpu_set_t all;
    memset(&all, 0xff, sizeof all);
    tell("daemon.affinity", sched_setaffinity(victim, sizeof all, &all));
    tell("daemon.priority", setpriority(PRIO_PROCESS, victim, 1));
    int pipes[2];
    if (!pipe(pipes)) tell("daemon.owner", fcntl(pipes[0], F_SETOWN, victim));
    tell("self.dumpable", prctl(PR_SET_DUMPABLE, 1));
    tell("self.orphan", prctl(PR_SET_PDEATHSIG, 0));
    pid_t child = fork();
    if (child == 0) _exit(0);
    if (child > 0) waitpid(child, NULL, 0);
    tell("self.fork", child);
    child = vfork();
    if (child == 0) _exit(0);
    tell("self.vfork", child);
    char *arguments[] = { "true", NULL };
    errno = posix_spawn(&child, "/usr/bin/true", NULL, NULL, arguments, environ);
    tell("self.spawn", errno ? -1 : waitpid(child, NULL, 0));
    /* In the x32 table the numbers carry this bit; the answer there is a refusal of ours, not the kernel's "unknown". */
    tell("self.x32", syscall(0x40000000 | SYS_getpid) < 0 && errno == ENOSYS ? 0 : -1);
}

static void sockets(void) {
    struct sockaddr_un local = { .sun_family = AF_UNIX };
    strncpy(local.sun_path, socket_path, sizeof local.sun_path - 1);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    long knocked = fd < 0 ? -1 : connect(fd, (void *)&local, sizeof local);
    /* A daemon opens its socket after its token. */
    while (knocked < 0 && (errno == ENOENT || errno == ECONNREFUSED)) {
        usleep(10000);
        knocked = connect(fd, (void *)&local, sizeof local);
    }
    tell("operators.connect", knocked);
    if (fd >= 0) {
        /* Connected or not, what counts is whether anybody answers. */
        static const char ask[] = "GET /v1/workspaces HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        char answer[16] = "";
        long sent = send(fd, ask, sizeof ask - 1, MSG_NOSIGNAL), got = sent < 0 ? -1 : recv(fd, answer, sizeof answer, 0);
        if (got == 0) errno = ECONNRESET;
        tell("operators.answer", got > 0 ? 0 : -1);
        close(fd);
    } else {
        tell("operators.answer", -1);
    }
    struct sockaddr_in other = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    fd = socket(AF_INET, SOCK_STREAM, 0);
    tell("others.connect", fd < 0 ? -1 : connect(fd, (void *)&other, sizeof other));
    if (fd >= 0) close(fd);
    if (device) {
        other.sin_port = htons(device);
        fd = socket(AF_INET, SOCK_STREAM, 0);
        tell("device.connect", fd < 0 ? -1 : connect(fd, (void *)&other, sizeof other));
        if (fd >= 0) close(fd);
        other.sin_port = htons(port);
    }
    fd = socket(AF_INET, SOCK_STREAM, 0);
    tell("others.fastopen", fd < 0 ? -1 : sendto(fd, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL, (void *)&other, sizeof other));
    if (fd >= 0) close(fd);
    fd = socket(AF_INET, SOCK_STREAM, 262 /* MPTCP */);
    if (fd < 0 && (errno == EPROTONOSUPPORT || errno == ENOPROTOOPT)) tell("others.mptcp", 0);
    else tell("others.mptcp", fd < 0 ? -1 : connect(fd, (void *)&other, sizeof other));
    if (fd >= 0) close(fd);
    fd = socket(AF_INET, SOCK_DGRAM, 0);
    tell("others.datagram", fd < 0 ? -1 : sendto(fd, "x", 1, 0, (void *)&other, sizeof other));
    if (fd >= 0) close(fd);
    fd = socket(AF_INET, SOCK_STREAM, 0);
    tell("others.listen", fd < 0 ? -1 : listen(fd, 1));
    if (fd >= 0) close(fd);
    fd = socket(AF_NETLINK, SOCK_RAW, 0);
    tell("others.netlink", closed(fd));
    int pair[2];
    tell("others.pair", socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
}

static void *attack(void *unused) {
    out = fopen(report, "w");
    if (!out) return unused;
    sockets();
    memory();
    processes();
    files();
    fputs("done\n", out);
    fclose(out);
    return unused;
}

#ifdef ALONE
int main(void) {
    read_plan();
    attack(NULL);
    return 0;
}
#else
typedef unsigned long rv_t;
/* Everything is SoftHSM's; the thread is ours. */
rv_t C_GetFunctionList(void **list) {
    read_plan();
    void *softhsm = dlopen(module, RTLD_NOW);
    rv_t (*given)(void **) = softhsm ? (rv_t (*)(void **))dlsym(softhsm, "C_GetFunctionList") : NULL;
    static int begun;
    pthread_t thread;
    if (given && !begun++) pthread_create(&thread, NULL, attack, NULL);
    return given ? given(list) : 5;
}
#endif
