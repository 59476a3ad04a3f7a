//! An appliance of one's own: simulated hardware, configuration, the real daemon, all in one temporary directory.
//! Who enters: tests, with a plan.
//! What leaves: a house to ask, to torment, to stop and start again; everything is gone when it is dropped.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use rustix::process::Signal;
use simulators::{SoftHsm, Swtpm};
use tempfile::TempDir;
use toml::{Table, Value};

use crate::daemon::Daemon;
use crate::disk::SmallDisk;
use crate::people::{Member, Operator, SCOPES};
use crate::plan::{self, Hardware, Plan};
use crate::programs::{program, succeeds};
use crate::wait::eventually;
use crate::wire::Door;

/// A simulated appliance.
pub struct Appliance {
    // In the order in which they have to go: the daemon before its disk, everything before the directory.
    daemon: Option<Daemon>,
    /// The software HSM.
    pub hsm: Option<SoftHsm>,
    /// The software TPM.
    pub tpm: Option<Swtpm>,
    /// The small disk, if the plan asked for one.
    pub disk: Option<SmallDisk>,
    config: Table,
    environment: Vec<(String, String)>,
    door: Door,
    directory: TempDir,
}

/// The name of every test's log.
pub const ORIGIN: &str = "localhost/chancery/promises";
/// What tests allow an appliance until it is ready; bounds that are promises are asserted by name.
pub const READY_MAX: Duration = Duration::from_secs(30);

impl Appliance {
    /// With a token alone, serving.
    pub async fn start() -> Self {
        Plan::with(Hardware::Token).start().await
    }

    /// With a token and a TPM beside it, serving.
    pub async fn with_tpm() -> Self {
        Plan::with(Hardware::TokenAndTpm).start().await
    }

    /// Made from a plan, not yet serving.
    pub(crate) fn init(plan: Plan) -> Self {
        let house = Self::prepare(plan);
        succeeds(&mut house.command(&["init"]));
        house
    }

    /// Hardware and configuration of a plan, and nothing made of them.
    pub(crate) fn prepare(plan: Plan) -> Self {
        let directory = tempfile::Builder::new().prefix("promise-").tempdir().expect("a temporary directory");
        let home = directory.path();
        let disk = plan.disk.map(|(part, bytes)| SmallDisk::mount(&home.join(part), bytes));
        let hsm = (plan.hardware != Hardware::Tpm)
            .then(|| SoftHsm::create(home.join("hsm"), "promises").unwrap_or_else(|why| panic!("{why}")));
        let tpm = (plan.hardware != Hardware::Token)
            .then(|| Swtpm::start(home.join("tpm")).unwrap_or_else(|why| panic!("{why}")));
        let state = home.join("state");
        private_directory(&state);
        private_directory(&home.join("tpm-auth"));
        let mut config = config(home, &state, hsm.as_ref(), tpm.as_ref());
        for (key, value) in plan.settings {
            plan::set(&mut config, &key, value);
        }
        let door = Door::at(([127, 0, 0, 1], 9).into());
        let environment = plan.environment;
        let house = Self { daemon: None, hsm, tpm, disk, config, environment, door, directory };
        house.write_config();
        house
    }

    /// A file or directory of the appliance.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The state directory.
    pub fn state(&self) -> PathBuf {
        PathBuf::from(self.config["state_directory"].as_str().expect("the state directory"))
    }

    /// The ledger's file.
    pub fn ledger(&self) -> PathBuf {
        self.state().join("ledger.db")
    }

    /// The configuration's file.
    pub fn config_file(&self) -> PathBuf {
        self.path("chancery.toml")
    }

    /// Changes a key of the configuration; a restart or a SIGHUP makes it count.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        plan::set(&mut self.config, key, value.into());
        self.write_config();
    }

    /// A variable for the daemons to come.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.retain(|(own, _)| own != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Where it listens, now and after restarts.
    pub fn door(&self) -> Door {
        self.door.clone()
    }

    /// The daemon.
    pub fn daemon(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("a serving appliance")
    }

    /// The person at the local socket.
    pub fn operator(&self) -> Operator {
        Operator::at(self.path("chancery.sock"))
    }

    /// A new workspace with one client and one API key that has every scope.
    pub async fn member(&self, name: &str) -> Member {
        self.member_with(name, &SCOPES).await
    }

    /// A new workspace with one client and one API key.
    pub async fn member_with(&self, name: &str, scopes: &[&str]) -> Member {
        self.operator().found(name, scopes, &self.door).await
    }

    /// The command line's program with this appliance's configuration.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("chancery"));
        command.arg("--config").arg(self.config_file()).args(arguments);
        command.envs(self.environment.iter().cloned());
        command
    }

    /// Runs the command line to its end.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the command line")
    }

    /// Serves, and waits until the doors are open.
    pub async fn serve(&mut self) {
        self.serve_under(&[]).await;
    }

    /// Serves under another program, such as strace, which must become or stay the daemon's own process.
    pub async fn serve_under(&mut self, prefix: &[OsString]) {
        if let Err(status) = self.try_serve_under(prefix).await {
            let log = std::fs::read_to_string(self.path("daemon.log")).unwrap_or_default();
            panic!("the daemon did not start ({status}):\n{log}");
        }
    }

    /// Serves, or says how the attempt ended.
    pub async fn try_serve(&mut self) -> Result<(), ExitStatus> {
        self.try_serve_under(&[]).await
    }

    /// Serves under another program, or says how the attempt ended.
    pub async fn try_serve_under(&mut self, prefix: &[OsString]) -> Result<(), ExitStatus> {
        assert!(self.daemon.is_none(), "stop it before starting it again");
        let own = program("chancery").into_os_string();
        let line: Vec<&OsString> = prefix.iter().chain([&own]).collect();
        let mut command = tokio::process::Command::new(line[0]);
        command.args(&line[1..]).arg("--config").arg(self.config_file()).arg("serve");
        command.envs(self.environment.iter().cloned());
        let (mut daemon, address) = Daemon::start(command, &self.path("daemon.log")).await;
        match address {
            Some(address) => {
                self.door.moved(address);
                self.daemon = Some(daemon);
                Ok(())
            }
            None => Err(daemon.ended().await),
        }
    }

    /// Starts the daemon without waiting for anything.
    pub fn begin_to_serve(&mut self) {
        assert!(self.daemon.is_none(), "stop it before starting it again");
        let mut command = tokio::process::Command::new(program("chancery"));
        command.arg("--config").arg(self.config_file()).arg("serve").envs(self.environment.iter().cloned());
        self.daemon = Some(Daemon::begin(command, &self.path("daemon.log")));
    }

    /// Waits until a daemon that was begun listens.
    pub async fn listens(&mut self) {
        match self.daemon().listens().await {
            Some(address) => self.door.moved(address),
            None => panic!("the daemon ended:\n{}", self.log()),
        }
    }

    /// Cuts the power: SIGKILL, no warning.
    pub async fn kill(&mut self) -> ExitStatus {
        self.daemon().signal(Signal::KILL);
        self.ended().await
    }

    /// Stops it as a service manager does, and waits for the drain.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.daemon().signal(Signal::TERM);
        self.ended().await
    }

    /// Waits until the daemon has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let mut daemon = self.daemon.take().expect("a serving appliance");
        daemon.ended().await
    }

    /// Waits until it says that it is ready, and says how long that took.
    pub async fn ready(&self) -> Duration {
        self.ready_within(READY_MAX).await
    }

    /// Waits no longer than this until it is ready.
    pub async fn ready_within(&self, patience: Duration) -> Duration {
        let operator = self.operator();
        let ask = || async { operator.is_ready().await.then_some(()) };
        eventually("ready", patience, ask).await.1
    }

    /// Everything the daemons of this appliance ever wrote to standard error.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    fn write_config(&self) {
        std::fs::write(self.config_file(), self.config.to_string()).expect("write the configuration");
    }
}

fn private_directory(path: &Path) {
    std::fs::create_dir_all(path).expect("create the state directory");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
        .expect("close the state directory");
}

fn config(home: &Path, state: &Path, hsm: Option<&SoftHsm>, tpm: Option<&Swtpm>) -> Table {
    let mut table = Table::new();
    let text = |path: &Path| path.display().to_string();
    let worker = text(&program("chancery-hsm"));
    let mut put = |key: &str, value: Value| plan::set(&mut table, key, value);
    put("state_directory", text(state).into());
    put("socket", text(&home.join("chancery.sock")).into());
    put("operators.uids", vec![i64::from(rustix::process::geteuid().as_raw())].into());
    put("api.listen", "127.0.0.1:0".into());
    put("api.names", vec!["localhost", "127.0.0.1"].into());
    put("ledger.origin", ORIGIN.into());
    put("ledger.seal_seconds", 300.into());
    put("log.filter", "info".into());
    if let Some(hsm) = hsm {
        put("token.kind", "pkcs11".into());
        put("token.module", text(hsm.module()).into());
        put("token.serial", hsm.serial().into());
        put("token.pin_file", text(hsm.pin_file()).into());
        put("token.worker", worker.clone().into());
        put("token.sandbox.write", vec![text(&hsm.tokens())].into());
        for (name, value) in hsm.env() {
            put(&format!("token.environment.{name}"), value.into());
        }
    }
    if let Some(tpm) = tpm {
        let section = if hsm.is_some() { "tpm" } else { "token" };
        put(&format!("{section}.kind"), "tpm".into());
        put(&format!("{section}.tcti"), tpm.tcti().into());
        put(&format!("{section}.index_auth_file"), text(&home.join("tpm-auth/index.auth")).into());
        put(&format!("{section}.worker"), worker.into());
    }
    table
}
