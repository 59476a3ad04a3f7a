//! `chancery dev`: a whole appliance with simulated hardware (SoftHSM, swtpm), in a directory of its own.
//! Who enters: developers and demonstrations.
//! What leaves: the very daemon that production runs, on loopback, ready for use; everything is gone when it ends.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use simulators::{SimulatorError, SoftHsm, Swtpm};
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, code};

/// What to simulate, and where.
#[derive(Debug, Args)]
pub(super) struct DevArgs {
    /// The directory for everything; must be new or empty. A temporary one if absent.
    #[arg(long)]
    state: Option<PathBuf>,
    /// Where the API listens.
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: std::net::SocketAddr,
    /// Keys and anchor in the software HSM alone.
    #[arg(long)]
    no_tpm: bool,
    /// Seal at least this often, in seconds.
    #[arg(long, default_value_t = 5)]
    seal_seconds: u64,
    /// Run this program once the appliance is ready, with CHANCERY_CONFIG, CHANCERY_URL and CHANCERY_STATE set; end with it.
    #[arg(long, num_args = 1.., trailing_var_arg = true, allow_hyphen_values = true)]
    then: Vec<String>,
}

/// Why there is no simulated appliance.
#[derive(Debug, thiserror::Error)]
pub(super) enum DevRefused {
    /// Somebody uses the directory.
    #[error("{} is not empty; name a new directory", .0.display())]
    NotEmpty(PathBuf),
    /// Files or processes.
    #[error("cannot {what}")]
    Machine {
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// SoftHSM or swtpm.
    #[error("the hardware could not be simulated")]
    Simulator(#[from] SimulatorError),
    /// A part of the daemon ended early.
    #[error("`chancery {0}` did not succeed; its words are above")]
    Ended(&'static str),
    /// The daemon was not ready in time.
    #[error("the daemon was not ready in time; `chancery status` says why")]
    NotReady,
    /// The program given with `--then` failed.
    #[error("the program ended with {0}")]
    Then(ExitStatus),
}

impl From<DevRefused> for Failure {
    fn from(refused: DevRefused) -> Self {
        Self::because(code::FAILED, "dev", &refused)
    }
}

const READY_WAIT_MAX: Duration = Duration::from_secs(30);

/// Runs the simulated appliance until it is interrupted, or until the program given with `--then` has ended.
///
/// # Errors
/// A part could not be started.
pub(super) fn run(args: &DevArgs) -> Result<(), DevRefused> {
    let ending = Ending::watch()?;
    let home = Home::make(args)?;
    let hsm = SoftHsm::create(home.path("hsm"), "chancery-dev")?;
    let tpm = if args.no_tpm { None } else { Some(Swtpm::start(home.path("tpm"))?) };
    home.write_config(args, &hsm, tpm.as_ref())?;
    println!("state      {}", home.root.display());
    println!("token      SoftHSM, serial {}", hsm.serial());
    println!("TPM        {}", tpm.as_ref().map_or_else(|| "none".to_owned(), Swtpm::tcti));
    home.chancery("init")
        .stdout(Stdio::null())
        .status()
        .map_err(machine("start `chancery init`"))
        .and_then(succeeded("init"))?;
    let mut daemon = home.serve()?;
    ending.tell(daemon.0.id());
    let url = daemon.url()?;
    home.wait_until_ready(&mut daemon)?;
    println!("listening  {url} (mutual TLS 1.3)");
    match args.then.split_first() {
        Some((program, rest)) => home.then(&url, program, rest, &ending),
        None => home.stay(&url, &mut daemon, &ending),
    }
}

/// The directory of the appliance, with the names of what lies in it.
struct Home {
    root: PathBuf,
    temporary: bool,
}

/// The daemon, asked to end when this goes, and waited for.
struct Daemon(Child);

impl Home {
    fn make(args: &DevArgs) -> Result<Self, DevRefused> {
        let root = match &args.state {
            // Sockets and children need the whole path.
            Some(root) => std::path::absolute(root).map_err(machine("find the directory"))?,
            None => std::env::temp_dir().join(format!("chancery-dev-{}", std::process::id())),
        };
        // Somebody's files would lie among ours, and ours would be taken for theirs.
        if std::fs::read_dir(&root).is_ok_and(|mut files| files.next().is_some()) {
            return Err(DevRefused::NotEmpty(root));
        }
        let home = Self { root, temporary: args.state.is_none() };
        let mut private = std::fs::DirBuilder::new();
        private.recursive(true).mode(0o700);
        private.create(&home.root).map_err(machine("create the directory"))?;
        private.create(home.path("state")).map_err(machine("create the state directory"))?;
        private.create(home.path("tpm-auth")).map_err(machine("create the TPM's directory"))?;
        Ok(home)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn write_config(&self, args: &DevArgs, hsm: &SoftHsm, tpm: Option<&Swtpm>) -> Result<(), DevRefused> {
        let (worker, uid) = (worker(), rustix::process::geteuid().as_raw());
        let environment: String =
            hsm.env().iter().map(|(name, value)| format!("{name} = {value:?}\n")).collect();
        let mut text = format!(
            "state_directory = {:?}\nsocket = {:?}\n\n[api]\nlisten = \"{}\"\nnames = [\"localhost\", \"127.0.0.1\"]\n\n\
             [operators]\nuids = [{uid}]\n\n\
             [token]\nkind = \"pkcs11\"\nmodule = {:?}\nserial = {:?}\npin_file = {:?}\nworker = {worker:?}\n\
             [token.sandbox]\nwrite = [{:?}]\n\
             [token.environment]\n{environment}\n[ledger]\norigin = \"localhost/chancery/dev\"\nseal_seconds = {}\n\n\
             [log]\nformat = \"text\"\nfilter = \"warn\"\n",
            self.path("state"),
            self.path("chancery.sock"),
            args.listen,
            hsm.module(),
            hsm.serial(),
            hsm.pin_file(),
            hsm.tokens(),
            args.seal_seconds,
        );
        if let Some(tpm) = tpm {
            let auth = self.path("tpm-auth").join("index.auth");
            text.push_str(&format!(
                "\n[tpm]\nkind = \"tpm\"\ntcti = {:?}\nindex_auth_file = {auth:?}\nworker = {worker:?}\n",
                tpm.tcti()
            ));
        }
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.config());
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(machine("write chancery.toml; is the directory new?"))
    }

    fn config(&self) -> PathBuf {
        self.path("chancery.toml")
    }

    fn chancery(&self, verb: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap_or_else(|_| "chancery".into()));
        command.arg(verb).arg("--config").arg(self.config());
        command
    }

    fn serve(&self) -> Result<Daemon, DevRefused> {
        let spawned = self.chancery("serve").stdout(Stdio::piped()).spawn();
        spawned.map(Daemon).map_err(machine("start `chancery serve`"))
    }

    fn wait_until_ready(&self, daemon: &mut Daemon) -> Result<(), DevRefused> {
        let end = Instant::now() + READY_WAIT_MAX;
        while Instant::now() < end {
            if daemon.0.try_wait().map_err(machine("watch the daemon"))?.is_some() {
                return Err(DevRefused::Ended("serve"));
            }
            let status = self.chancery("status").stdout(Stdio::null()).stderr(Stdio::null()).status();
            if status.map_err(machine("ask the daemon"))?.success() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(DevRefused::NotReady)
    }

    fn then(&self, url: &str, program: &str, rest: &[String], ending: &Ending) -> Result<(), DevRefused> {
        let mut command = Command::new(program);
        command.args(rest).env("CHANCERY_CONFIG", self.config()).env("CHANCERY_STATE", &self.root);
        let spawned = command.env("CHANCERY_URL", url).spawn();
        let mut child = spawned.map_err(machine("start the program given with --then"))?;
        ending.tell(child.id());
        let status = child.wait().map_err(machine("wait for the program given with --then"))?;
        if status.success() || ending.is_asked() { Ok(()) } else { Err(DevRefused::Then(status)) }
    }

    fn stay(&self, url: &str, daemon: &mut Daemon, ending: &Ending) -> Result<(), DevRefused> {
        let secret = self.credentials()?;
        let file = |name: &str| self.path("client").join(name).display().to_string();
        println!("\nIn another shell, as an operator:\n  export CHANCERY_CONFIG={}", self.config().display());
        println!("  chancery status\n  chancery -w {PLAYGROUND} key list");
        println!("\nAs a program, with a client certificate and an API key of workspace `{PLAYGROUND}`:");
        println!("  export CHANCERY_URL={url} CHANCERY_TOKEN={secret}");
        println!(
            "  export CHANCERY_CACERT={} CHANCERY_CERT={} CHANCERY_KEY={}",
            file("ca.pem"),
            file("first.pem"),
            file("first.key")
        );
        println!("  {CURL}");
        println!("\nIt runs until you press Ctrl-C.");
        // The daemon drains when it is told to end; this waits for it.
        let ended = daemon.0.wait().map_err(machine("wait for the daemon"))?;
        if ending.is_asked() { Ok(()) } else { succeeded("serve")(ended) }
    }

    /// A workspace with a key, a client and an API key, so that the first request can be sent at once.
    fn credentials(&self) -> Result<String, DevRefused> {
        let client = self.path("client").display().to_string();
        let mut made = String::new();
        for words in [
            vec!["workspace", "create", PLAYGROUND],
            vec!["key", "create", "release", "-w", PLAYGROUND],
            vec!["client", "enroll", "first", "-w", PLAYGROUND, "--out", &client],
            vec![
                "--json",
                "-w",
                PLAYGROUND,
                "apikey",
                "create",
                "first",
                "--scope",
                "sign",
                "--scope",
                "keys:read",
                "--scope",
                "verify",
            ],
        ] {
            let output = self.chancery(words[0]).args(&words[1..]).stderr(Stdio::inherit()).output();
            let output = output.map_err(machine("start `chancery`"))?;
            succeeded("workspace, key, client or apikey")(output.status)?;
            made = String::from_utf8_lossy(&output.stdout).into_owned();
        }
        let answer: serde_json::Value = serde_json::from_str(&made).unwrap_or_default();
        Ok(answer["secret"].as_str().unwrap_or_default().to_owned())
    }
}

const PLAYGROUND: &str = "playground";
const CURL: &str = "curl --cacert $CHANCERY_CACERT --cert $CHANCERY_CERT --key $CHANCERY_KEY -H \"Authorization: Bearer $CHANCERY_TOKEN\" \\\n    \
    -H 'Content-Type: application/json' -d '{\"scheme\":\"ecdsa-sha256\",\"message\":\"aGVsbG8=\"}' $CHANCERY_URL/v1/keys/release/sign";

/// Whether somebody asked us to end, as a supervisor does; then what we started is told, and everything is cleaned up behind it.
#[derive(Clone, Default)]
struct Ending(Arc<(AtomicBool, Mutex<Vec<u32>>)>);

impl Ending {
    fn watch() -> Result<Self, DevRefused> {
        let ending = Self::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(machine("listen for signals"))?;
        let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
        let signals =
            runtime.block_on(async { kinds.map(signal).into_iter().collect::<Result<Vec<_>, _>>() });
        let mut signals = signals.map_err(machine("listen for signals"))?;
        let told = ending.clone();
        std::thread::spawn(move || {
            runtime.block_on(async {
                if let [terminate, interrupt, hang_up] = &mut signals[..] {
                    tokio::select! {
                        _ = terminate.recv() => {}
                        _ = interrupt.recv() => {}
                        _ = hang_up.recv() => {}
                    }
                }
            });
            told.0.0.store(true, Ordering::SeqCst);
            let started = told.0.1.lock().unwrap_or_else(PoisonError::into_inner);
            started.iter().for_each(|pid| end(*pid));
        });
        Ok(ending)
    }

    fn is_asked(&self) -> bool {
        self.0.0.load(Ordering::SeqCst)
    }

    /// Has a process told when we are to end; at once, if we are already.
    fn tell(&self, pid: u32) {
        self.0.1.lock().unwrap_or_else(PoisonError::into_inner).push(pid);
        if self.is_asked() {
            end(pid);
        }
    }
}

fn end(pid: u32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid.cast_signed()) {
        // One that has ended by itself needs no telling.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

impl Daemon {
    /// The first line it prints says where it listens.
    fn url(&mut self) -> Result<String, DevRefused> {
        let stdout = self.0.stdout.take().ok_or(DevRefused::Ended("serve"))?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).map_err(machine("read where the daemon listens"))?;
        let url = line.trim().strip_prefix("serving on ").ok_or(DevRefused::Ended("serve"))?;
        // The certificate names localhost; an address would do as well.
        Ok(url.replace("127.0.0.1", "localhost"))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.temporary {
            // Left behind, it would only take up room.
            let _ = std::fs::remove_dir_all(&self.root);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let (Ok(None), Some(pid)) =
            (self.0.try_wait(), rustix::process::Pid::from_raw(self.0.id().cast_signed()))
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

/// The worker lies beside this program.
fn worker() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.parent().unwrap_or(Path::new("/usr/libexec/chancery")).join("chancery-hsm")
}

fn machine(what: &'static str) -> impl Fn(std::io::Error) -> DevRefused {
    move |source| DevRefused::Machine { what, source }
}

fn succeeded(verb: &'static str) -> impl Fn(ExitStatus) -> Result<(), DevRefused> {
    move |status| if status.success() { Ok(()) } else { Err(DevRefused::Ended(verb)) }
}
