//! The appliance under test: the release daemon with SoftHSM and swtpm, in a temporary directory.
//! Who enters: the benchmark, once.
//! What leaves: an address, a client identity, an API key, and the processes whose usage is counted.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use simulators::{SoftHsm, Swtpm};

use crate::load::{Identity, Trouble};

/// The running appliance.
pub(crate) struct Appliance {
    pub(crate) hsm: SoftHsm,
    pub(crate) identity: Identity,
    pub(crate) api_key: String,
    pub(crate) daemon: u32,
    /// From the start of the process to its first answer.
    pub(crate) start_ms: f64,
    config: PathBuf,
    process: Option<Child>,
    _tpm: Swtpm,
    _home: tempfile::TempDir,
}

/// The body of a request to sign: what a client sends that signs a digest, or a short message where the scheme has none.
pub(crate) fn body(scheme: &str) -> String {
    let text = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let field = if scheme == "ed25519" { "message" } else { "digest" };
    format!(r#"{{"scheme":"{scheme}","{field}":"{text}"}}"#)
}

fn beside(name: &str) -> Result<PathBuf, Trouble> {
    let own = std::env::current_exe()?;
    Ok(own.with_file_name(name))
}

impl Appliance {
    pub(crate) fn start() -> Result<Self, Trouble> {
        Self::start_with("", "sign")
    }

    /// With more in its configuration, and an API key of this scope.
    pub(crate) fn start_with(more: &str, scope: &str) -> Result<Self, Trouble> {
        // The ledger must lie on a real disk: a temporary directory may be memory.
        let home = tempfile::tempdir_in(beside("")?.parent().ok_or("no directory")?)?;
        let hsm = SoftHsm::create(home.path().join("hsm"), "bench")?;
        let tpm = Swtpm::start(home.path().join("tpm"))?;
        let config = write_config(home.path(), &hsm, &tpm)?;
        std::fs::OpenOptions::new().append(true).open(&config)?.write_all(more.as_bytes())?;
        run(&config, &["init"])?;
        let (process, address, start_ms) = serve(&config)?;
        run(&config, &["workspace", "create", "bench"])?;
        let (identity, _) = enrol(&config, "bench", "load", address)?;
        let api_key = issue(&config, "bench", scope)?;
        let daemon = process.id();
        Ok(Self {
            hsm,
            identity,
            api_key,
            daemon,
            start_ms,
            config,
            process: Some(process),
            _tpm: tpm,
            _home: home,
        })
    }

    /// Another workspace with a client and an API key of these scopes, set apart by commas.
    pub(crate) fn found(&self, workspace: &str, scope: &str) -> Result<(Identity, String), Trouble> {
        run(&self.config, &["workspace", "create", workspace])?;
        let (identity, _) = enrol(&self.config, workspace, "load", self.identity.address)?;
        Ok((identity, issue(&self.config, workspace, scope)?))
    }

    /// Another client of the workspace `bench`.
    pub(crate) fn enrol(&self, name: &str) -> Result<Identity, Trouble> {
        enrol(&self.config, "bench", name, self.identity.address).map(|(identity, _)| identity)
    }

    /// A client whose certificate was revoked.
    pub(crate) fn revoked(&self, name: &str) -> Result<Identity, Trouble> {
        let (identity, client) = enrol(&self.config, "bench", name, self.identity.address)?;
        run(&self.config, &["-w", "bench", "client", "revoke", "--yes", &client])?;
        Ok(identity)
    }

    /// The ledger's file, for whoever holds the appliance while it is stopped.
    pub(crate) fn ledger(&self) -> PathBuf {
        self.config.with_file_name("state").join("ledger.db")
    }

    /// How many entries the ledger has.
    pub(crate) fn entries(&self) -> Result<u64, Trouble> {
        let status: serde_json::Value = serde_json::from_str(&run(&self.config, &["--json", "status"])?)?;
        status["entries"].as_u64().ok_or_else(|| "no entries in the status".into())
    }

    /// Ends the daemon in order, as the service manager would.
    pub(crate) fn stop(&mut self) -> Result<(), Trouble> {
        let mut process = self.process.take().ok_or("it does not run")?;
        rustix::process::kill_process(pid(&process)?, rustix::process::Signal::TERM)?;
        process.wait()?;
        Ok(())
    }

    /// Ends the daemon between two instructions.
    pub(crate) fn kill(&mut self) -> Result<(), Trouble> {
        let mut process = self.process.take().ok_or("it does not run")?;
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    /// Starts the daemon again; says after how many milliseconds it served.
    pub(crate) fn again(&mut self) -> Result<f64, Trouble> {
        let (process, address, start_ms) = serve(&self.config)?;
        (self.daemon, self.identity.address) = (process.id(), address);
        self.process = Some(process);
        Ok(start_ms)
    }

    pub(crate) fn create_key(&self, kind: &str) -> Result<(), Trouble> {
        run(&self.config, &["-w", "bench", "key", "create", &format!("bench-{kind}"), "--kind", kind])
            .map(drop)
    }

    pub(crate) fn metrics(&self) -> Result<String, Trouble> {
        let socket = self.config.with_file_name("chancery.sock");
        let mut stream = std::os::unix::net::UnixStream::connect(socket)?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: local\r\nConnection: close\r\n\r\n")?;
        Ok(std::io::read_to_string(stream)?)
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// A new client of a workspace, and its id.
fn enrol(
    config: &std::path::Path,
    workspace: &str,
    name: &str,
    address: SocketAddr,
) -> Result<(Identity, String), Trouble> {
    let out = config.with_file_name(format!("client-{workspace}-{name}"));
    let to = out.to_string_lossy();
    let answer = run(config, &["--json", "-w", workspace, "client", "enroll", name, "--out", &to])?;
    let read = |ending: &str| std::fs::read_to_string(out.join(format!("{name}.{ending}")));
    let ca = std::fs::read_to_string(out.join("ca.pem"))?;
    let answer: serde_json::Value = serde_json::from_str(&answer)?;
    let id = answer["id"].as_str().ok_or("no client id")?.to_owned();
    Ok((Identity { ca, certificate: read("pem")?, key: read("key")?, address }, id))
}

/// A new API key of a workspace, with these scopes, set apart by commas.
fn issue(config: &std::path::Path, workspace: &str, scopes: &str) -> Result<String, Trouble> {
    let mut words = vec!["--json", "-w", workspace, "apikey", "create", "load"];
    scopes.split(',').for_each(|scope| words.extend(["--scope", scope]));
    let answer = run(config, &words)?;
    let answer: serde_json::Value = serde_json::from_str(&answer)?;
    Ok(answer["secret"].as_str().ok_or("no secret")?.to_owned())
}

/// Starts the daemon: the process, its address, and the milliseconds until it served.
fn serve(config: &std::path::Path) -> Result<(Child, SocketAddr, f64), Trouble> {
    let begun = Instant::now();
    let mut process = Command::new(beside("chancery")?)
        .arg("serve")
        .arg("--config")
        .arg(config)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(process.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    let address =
        line.trim().strip_prefix("serving on https://").ok_or("the daemon did not start")?.parse()?;
    Ok((process, address, begun.elapsed().as_secs_f64() * 1000.0))
}

fn pid(process: &Child) -> Result<rustix::process::Pid, Trouble> {
    let raw = i32::try_from(process.id())?;
    rustix::process::Pid::from_raw(raw).ok_or_else(|| "no process".into())
}

fn write_config(home: &std::path::Path, hsm: &SoftHsm, tpm: &Swtpm) -> Result<PathBuf, Trouble> {
    let (state, path, worker) = (home.join("state"), home.join("chancery.toml"), beside("chancery-hsm")?);
    let auth = home.join("tpm-auth");
    std::fs::create_dir(&state)?;
    std::fs::create_dir(&auth)?;
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o700))?;
    let environment: String = hsm.env().iter().map(|(name, value)| format!("{name} = {value:?}\n")).collect();
    let text = format!(
        "state_directory = {state:?}\nsocket = {:?}\n[api]\nlisten = \"127.0.0.1:0\"\nnames = [\"localhost\"]\n\
         [token]\nkind = \"pkcs11\"\nmodule = {:?}\nserial = {:?}\npin_file = {:?}\nworker = {worker:?}\n\
         [token.sandbox]\nwrite = [{:?}]\n\
         [token.environment]\n{environment}\
         [tpm]\nkind = \"tpm\"\ntcti = {:?}\nindex_auth_file = {:?}\nworker = {worker:?}\n\
         [ledger]\norigin = \"localhost/bench\"\n[log]\nfilter = \"warn\"\n[rates]\nworkspace = {{ burst = 1000000, per_second = 1000000 }}\n\
         address = {{ burst = 1000000, per_second = 1000000 }}\n",
        home.join("chancery.sock"),
        hsm.module(),
        hsm.serial(),
        hsm.pin_file(),
        hsm.tokens(),
        tpm.tcti(),
        auth.join("index.auth"),
    );
    std::fs::write(&path, text)?;
    Ok(path)
}

fn run(config: &std::path::Path, words: &[&str]) -> Result<String, Trouble> {
    let output = Command::new(beside("chancery")?).arg("--config").arg(config).args(words).output()?;
    if !output.status.success() {
        return Err(format!("chancery {words:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}
