//! The promises of every token, kept by a PKCS#11 module: SoftHSM, through the real worker.
//! Enters: a fresh SoftHSM token per test.
//! Leaves: proof, or the name of the promise that was broken.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod conformance;

use hsm::{Token, TokenConfig};
use simulators::SoftHsm;

conformance!(subject, unsupported: UNSUPPORTED);

/// SoftHSM 2.6 neither wraps nor unwraps Ed25519 keys.
const UNSUPPORTED: [&str; 2] =
    ["an_ed25519_key_made_with_openssl_is_imported", "a_recoverable_ed25519_key_comes_back_from_its_backup"];

async fn subject() -> (Token, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let soft = SoftHsm::create(dir.path(), "conformance").unwrap();
    let config = TokenConfig::Pkcs11 {
        module: soft.module().to_path_buf(),
        serial: soft.serial().to_owned(),
        label: None,
        pin_file: soft.pin_file().to_path_buf(),
        threads: Some(2),
        network: false,
        sandbox: hsm::Sandbox { write: vec![soft.tokens()], ..hsm::Sandbox::default() },
        worker: env!("CARGO_BIN_EXE_chancery-hsm").into(),
        environment: soft.env().into_iter().collect(),
        limits: hsm::Limits::default(),
    };
    (Token::start(config).await.unwrap(), dir)
}
