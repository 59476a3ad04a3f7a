//! Promises of the TPM back-end, kept on a real swtpm, one per test.
//! In come lanes, connected as the worker connects them.
//! Out goes trust in each file of this folder; what needs a supervisor is promised in the crate's own tests.

mod anchor;
mod bus;
mod connect;
mod keys;
mod wrap;

use std::path::Path;
use std::process::Command;

use hsm::backend::{Backend, Lane};
use hsm::{AnchorStep, Hash, KeyId, TokenConfig};
use simulators::Swtpm;
use tempfile::TempDir;

const ID: KeyId = KeyId([7; 16]);

/// A machine with a TPM in it.
struct Machine {
    tpm: Swtpm,
    config: TokenConfig,
    dir: TempDir,
}

impl Machine {
    fn new() -> Self {
        Self::with(|_| ())
    }

    fn with(change: impl FnOnce(&mut TokenConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tpm = Swtpm::start(dir.path().join("tpm")).unwrap();
        let auth = dir.path().join("index.auth");
        let text = serde_json::json!({ "kind": "tpm", "tcti": tpm.tcti(), "index_auth_file": auth });
        let mut config = serde_json::from_value(text).unwrap();
        change(&mut config);
        Self { tpm, config, dir }
    }

    fn seal_to(&mut self, registers: &[u8]) {
        if let TokenConfig::Tpm { pcrs, .. } = &mut self.config {
            *pcrs = registers.to_vec();
        }
    }

    fn connect(&self) -> Box<dyn Backend> {
        super::connect(&self.config, None).unwrap()
    }

    fn lane(&self) -> Box<dyn Lane> {
        self.connect().lanes().unwrap().pop().unwrap()
    }

    fn handles(&self, range: u32) -> u32 {
        let answer = self.capability(1, range);
        u32::from_be_bytes(answer[15..19].try_into().unwrap())
    }

    fn lockout_counter(&self) -> u32 {
        const LOCKOUT_COUNTER: u32 = 0x20e;
        self.property(LOCKOUT_COUNTER)
    }

    fn last_shutdown_was_orderly(&self) -> bool {
        const STARTUP_CLEAR: u32 = 0x201;
        const ORDERLY: u32 = 1 << 31;
        self.property(STARTUP_CLEAR) & ORDERLY != 0
    }

    fn property(&self, wanted: u32) -> u32 {
        let answer = self.capability(6, wanted);
        assert_eq!(u32::from_be_bytes(answer[19..23].try_into().unwrap()), wanted);
        u32::from_be_bytes(answer[23..27].try_into().unwrap())
    }

    fn capability(&self, capability: u32, property: u32) -> Vec<u8> {
        let mut command = vec![0x80, 0x01, 0, 0, 0, 22, 0, 0, 0x01, 0x7a];
        for word in [capability, property, 1] {
            command.extend(word.to_be_bytes());
        }
        self.tpm.command(&command).unwrap()
    }
}

fn step(k: u64, before: [u8; 32]) -> AnchorStep {
    let by = Hash::Sha256.digest(&k.to_be_bytes()).try_into().unwrap();
    let after = Hash::Sha256.digest(&[before, by].concat()).try_into().unwrap();
    AnchorStep { k, size: k, root: [0; 32], digest: by, before, after }
}

fn tool(tpm: &Swtpm, line: &str, dir: &Path) {
    assert!(tool_says_yes(tpm, line, dir), "{line} failed");
}

fn tool_says_yes(tpm: &Swtpm, line: &str, dir: &Path) -> bool {
    let line = line.replace("FILE", &dir.display().to_string());
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap())
        .args(words)
        .env("TPM2TOOLS_TCTI", tpm.tcti())
        .output()
        .expect("tpm2-tools is not installed: run `apt-get install tpm2-tools`");
    eprintln!("{line}: {}", String::from_utf8_lossy(&output.stderr));
    output.status.success()
}
