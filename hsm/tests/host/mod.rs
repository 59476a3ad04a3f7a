//! A host with one SoftHSM token, and the tools to mistreat it.
//! Enters: what a test wants changed.
//! Leaves: configurations, signals, facts from /proc.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use hsm::{KeyId, Limits, Sandbox, TokenConfig};
use rustix::process::{Pid, Signal, kill_process};
use simulators::SoftHsm;

/// One token in its own directory.
pub struct Host {
    pub soft: SoftHsm,
    pub dir: tempfile::TempDir,
}

/// The fields of a PKCS#11 configuration, to be changed by a test.
pub struct Fields {
    pub module: PathBuf,
    pub serial: String,
    pub label: Option<String>,
    pub pin_file: PathBuf,
    pub worker: PathBuf,
    pub environment: BTreeMap<String, String>,
    pub threads: usize,
    pub limits: Limits,
    pub network: bool,
    pub sandbox: Sandbox,
}

impl Host {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let soft = SoftHsm::create(dir.path().join("soft"), "chancery").unwrap();
        Self { soft, dir }
    }

    pub fn config(&self) -> TokenConfig {
        self.config_with(|_| {})
    }

    pub fn config_with(&self, change: impl FnOnce(&mut Fields)) -> TokenConfig {
        let mut fields = Fields {
            module: self.soft.module().to_path_buf(),
            serial: self.soft.serial().to_owned(),
            label: None,
            pin_file: self.soft.pin_file().to_path_buf(),
            worker: env!("CARGO_BIN_EXE_chancery-hsm").into(),
            environment: self.soft.env().into_iter().collect(),
            threads: 2,
            limits: Limits::default(),
            network: false,
            sandbox: Sandbox { write: vec![self.soft.tokens()], ..Sandbox::default() },
        };
        change(&mut fields);
        let Fields {
            module,
            serial,
            label,
            pin_file,
            worker,
            environment,
            threads,
            limits,
            network,
            sandbox,
        } = fields;
        TokenConfig::Pkcs11 {
            module,
            serial,
            label,
            pin_file,
            threads: Some(threads),
            network,
            sandbox,
            worker,
            environment,
            limits,
        }
    }

    /// Puts an object without name and label into the token, as a call that is cut off may leave one.
    pub fn leave_a_stray(&self) {
        let (file, pin) = (self.dir.path().join("stray"), fs::read_to_string(self.soft.pin_file()).unwrap());
        fs::write(&file, "half of something").unwrap();
        let mut tool = Command::new("pkcs11-tool");
        tool.envs(self.soft.env()).arg("--module").arg(self.soft.module()).args(["--login", "--pin", &pin]);
        let written = tool.args(["--type", "data", "--write-object"]).arg(&file).output().unwrap();
        assert!(written.status.success(), "{written:?}");
    }

    /// The same token behind OpenSC's spy, which writes down every call.
    pub fn spied_config(&self) -> TokenConfig {
        let places = [
            "/usr/lib/x86_64-linux-gnu/pkcs11-spy.so",
            "/usr/lib/aarch64-linux-gnu/pkcs11-spy.so",
            "/usr/lib64/pkcs11-spy.so",
        ];
        let Some(spy) = places.iter().map(PathBuf::from).find(|place| place.exists()) else {
            panic!("pkcs11-spy.so is not there; install the package opensc");
        };
        self.config_with(|config| {
            config.environment.insert("PKCS11SPY".to_owned(), config.module.display().to_string());
            config.environment.insert("PKCS11SPY_OUTPUT".to_owned(), self.spy_log().display().to_string());
            config.sandbox.read.push(config.module.clone());
            config.sandbox.write.push(self.spy_directory());
            config.module = spy;
        })
    }

    /// How often C_Login was called.
    pub fn logins(&self) -> usize {
        let log = fs::read_to_string(self.spy_log()).unwrap();
        log.lines().filter(|line| line.ends_with(": C_Login")).count()
    }

    fn spy_log(&self) -> PathBuf {
        self.spy_directory().join("spy.log")
    }

    fn spy_directory(&self) -> PathBuf {
        let directory = self.dir.path().join("spy");
        fs::create_dir_all(&directory).unwrap();
        directory
    }

    pub fn write_pin(&self, pin: &[u8]) {
        fs::write(self.soft.pin_file(), pin).unwrap();
    }

    pub fn set_pin_mode(&self, mode: u32) {
        fs::set_permissions(self.soft.pin_file(), Permissions::from_mode(mode)).unwrap();
    }

    /// A second token with the same label; its serial and PIN file.
    pub fn twin(&self) -> (String, PathBuf) {
        let before = self.serials();
        let mut tool = Command::new("softhsm2-util");
        tool.envs(self.soft.env()).args(["--init-token", "--free", "--label", self.soft.label()]);
        assert!(tool.args(["--pin", "13572468", "--so-pin", "24681357"]).output().unwrap().status.success());
        let serial = self.serials().into_iter().find(|serial| !before.contains(serial)).unwrap();
        let pin_file = self.dir.path().join("twin.pin");
        fs::write(&pin_file, "13572468").unwrap();
        fs::set_permissions(&pin_file, Permissions::from_mode(0o400)).unwrap();
        (serial, pin_file)
    }

    fn serials(&self) -> Vec<String> {
        let mut tool = Command::new("softhsm2-util");
        let listing = tool.envs(self.soft.env()).arg("--show-slots").output().unwrap().stdout;
        let listing = String::from_utf8(listing).unwrap();
        let serials = listing.lines().filter_map(|line| line.trim().strip_prefix("Serial number:"));
        serials.map(|serial| serial.trim().to_owned()).filter(|serial| !serial.is_empty()).collect()
    }

    /// Deletes a key's objects with a foreign tool, as an operator's mistake would.
    pub fn delete_key(&self, id: KeyId) {
        for class in ["privkey", "pubkey"] {
            self.delete_half(id, class);
        }
    }

    /// Deletes one half of a pair.
    pub fn delete_half(&self, id: KeyId, class: &str) {
        self.tool(&["--delete-object", "--type", class, "--id", &id.to_string()]);
    }

    /// What a foreign tool says of each object of this name, sorted.
    pub fn describe(&self, id: KeyId) -> Vec<String> {
        let listing = self.tool(&["--list-objects"]);
        let mut objects: Vec<String> = Vec::new();
        for line in listing.lines() {
            match objects.last_mut() {
                Some(object) if line.starts_with(' ') => object.extend(["\n", line]),
                _ => objects.push(line.to_owned()),
            }
        }
        objects.retain(|object| object.contains(&id.to_string()));
        objects.sort();
        objects
    }

    /// What kind of object each of them is.
    pub fn objects(&self, id: KeyId) -> Vec<String> {
        let heads = self.describe(id).into_iter();
        heads.map(|object| object.split(';').next().unwrap_or_default().to_owned()).collect()
    }

    /// Writes an AES key of known value, as someone with the PIN could.
    pub fn plant_secret_key(&self, id: KeyId, value: &[u8]) {
        let file = self.dir.path().join("planted");
        fs::write(&file, value).unwrap();
        let path = file.display().to_string();
        let id = id.to_string();
        let written = ["--write-object", &path, "--type", "secrkey", "--key-type", "AES:32", "--id", &id];
        self.tool(&[&written[..], &["--private"]].concat());
    }

    /// Somebody's certificate, DER.
    pub fn certificate(&self) -> String {
        let (key, file) = (self.dir.path().join("somebody.key"), self.dir.path().join("somebody.der"));
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        openssl
            .args(["-subj", "/CN=somebody", "-outform", "DER", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&file);
        let made = openssl.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        file.display().to_string()
    }

    /// What somebody without the PIN does with the token.
    pub fn stranger(&self, arguments: &[&str]) {
        let mut tool = Command::new("pkcs11-tool");
        tool.envs(self.soft.env()).arg("--module").arg(self.soft.module());
        let done = tool.args(["--token-label", self.soft.label()]).args(arguments).output().unwrap();
        let told = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "pkcs11-tool {arguments:?}: {told}");
    }

    /// A file of these bytes, for tools that want one.
    pub fn file(&self, name: &str, bytes: &[u8]) -> String {
        let file = self.dir.path().join(name);
        fs::write(&file, bytes).unwrap();
        file.display().to_string()
    }

    /// What somebody with the PIN does with it.
    pub fn tool(&self, arguments: &[&str]) -> String {
        let pin = fs::read_to_string(self.soft.pin_file()).unwrap();
        let mut tool = Command::new("pkcs11-tool");
        tool.envs(self.soft.env()).arg("--module").arg(self.soft.module());
        match tool.args(["--login", "--pin", &pin]).args(arguments).output() {
            Ok(done) => {
                let told = String::from_utf8_lossy(&done.stderr);
                assert!(done.status.success(), "pkcs11-tool {arguments:?}: {told}");
                String::from_utf8(done.stdout).unwrap()
            }
            Err(fault) => panic!("pkcs11-tool does not run ({fault}); install the package opensc"),
        }
    }
}

/// A worker process, a child of this one.
pub struct Worker(Pid);

/// The one worker that this process has.
pub fn worker() -> Worker {
    let children = children();
    assert_eq!(children.len(), 1, "one worker; run by cargo nextest, which gives each test its own process");
    Worker(Pid::from_raw(children[0]).unwrap())
}

impl Worker {
    pub fn signal(&self, signal: Signal) {
        kill_process(self.0, signal).unwrap();
    }

    pub fn is_alive(&self) -> bool {
        Path::new(&format!("/proc/{}", self.0.as_raw_nonzero())).exists()
    }

    pub fn status(&self) -> String {
        self.proc("status")
    }

    pub fn limit(&self, name: &str) -> String {
        let limits = self.proc("limits");
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().to_owned()
    }

    pub fn environment(&self) -> Vec<String> {
        let names = self.proc("environ");
        names.split_terminator('\0').map(|pair| pair.split('=').next().unwrap().to_owned()).collect()
    }

    /// Clock ticks of processor time used so far.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = self.proc("stat");
        let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// Which of our own open files the worker holds, apart from its socket, its board and the log. Files that this test was itself
    /// started with, such as a job server's pipe, are not ours.
    pub fn inherited(&self) -> Vec<PathBuf> {
        let usual = |path: &PathBuf| {
            let name = path.to_string_lossy();
            name.starts_with("/dev/") || name.starts_with("/memfd:")
        };
        let ours: Vec<_> = open_files("self").into_iter().filter(|(number, _)| is_ours(number)).collect();
        let theirs = open_files(&self.0.as_raw_nonzero().to_string());
        let shared =
            theirs.into_iter().filter(|(_, path)| ours.iter().any(|(_, own)| own == path) && !usual(path));
        shared.map(|(_, path)| path).collect()
    }

    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.0.as_raw_nonzero())).unwrap()
    }
}

fn open_files(pid: &str) -> Vec<(String, PathBuf)> {
    let dir = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(Result::unwrap);
    dir.filter_map(|entry| Some((entry.file_name().into_string().ok()?, fs::read_link(entry.path()).ok()?)))
        .collect()
}

/// Opened by this process, whose every file closes on exec.
fn is_ours(number: &str) -> bool {
    let facts = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
    let flags = facts.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or_default();
    u32::from_str_radix(flags.trim(), 8).is_ok_and(|flags| flags & 0o2_000_000 != 0)
}

/// What this process holds.
#[derive(Debug)]
pub struct Held {
    pub descriptors: usize,
    pub threads: usize,
    pub children: usize,
}

pub fn held() -> Held {
    let count = |dir: &str| fs::read_dir(dir).unwrap().count();
    Held {
        descriptors: count("/proc/self/fd"),
        threads: count("/proc/self/task"),
        children: children().len(),
    }
}

fn children() -> Vec<i32> {
    let mut found = Vec::new();
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let list = fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default();
        found.extend(list.split_whitespace().map(|pid| pid.parse::<i32>().unwrap()));
    }
    found
}
