//! A machine with a TPM in it, and the daemon's side of a token on that machine.
//! Enters: tests of the TPM back-end.
//! Leaves: a running swtpm, a configuration, tokens started from it.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeMap;

use hsm::{Sandbox, Token, TokenConfig};
use simulators::Swtpm;

/// A TPM, and where its owner keeps the files that belong to it.
pub(crate) struct Machine {
    pub(crate) tpm: Swtpm,
    pub(crate) config: TokenConfig,
    _dir: tempfile::TempDir,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tpm = Swtpm::start(dir.path().join("tpm")).unwrap();
        std::fs::create_dir(dir.path().join("auth")).unwrap();
        let config = TokenConfig::Tpm {
            tcti: tpm.tcti(),
            anchor_index: 0x0180_0C00,
            storage_root: 0x8100_0001,
            attestation_key: 0x8101_0C00,
            pcrs: vec![7],
            owner_auth_file: None,
            index_auth_file: Some(dir.path().join("auth/index.auth")),
            network: false,
            sandbox: Sandbox::default(),
            worker: env!("CARGO_BIN_EXE_chancery-hsm").into(),
            environment: BTreeMap::new(),
            limits: hsm::Limits::default(),
        };
        Self { tpm, config, _dir: dir }
    }

    pub(crate) async fn start(&self) -> Token {
        Token::start(self.config.clone()).await.unwrap()
    }

    /// TPM2_PT_LOCKOUT_COUNTER. Needs the TPM to itself.
    pub(crate) fn lockout_counter(&self) -> u32 {
        const GET_LOCKOUT_COUNTER: &str = "8001000000160000017a000000060000020e00000001";
        let answer = self.tpm.command(&hex::decode(GET_LOCKOUT_COUNTER).unwrap()).unwrap();
        u32::from_be_bytes(answer[23..27].try_into().unwrap())
    }
}
