//! What the TPM signs, checked by programs that know nothing of this product.
//! Enters: statements about anchor and boot, made through the real worker.
//! Leaves: the verdict of openssl and of tpm2-tools.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod conformance;
mod tpm;

use std::path::Path;
use std::process::Command;

use conformance::soon;
use hsm::{AnchorStep, Hash};
use tpm::Machine;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssl_confirms_a_certified_anchor_and_nothing_else() {
    let (machine, dir) = (Machine::new(), tempfile::tempdir().unwrap());
    let token = machine.start().await;
    token.anchor_advance(first_step(), soon()).await.unwrap();
    let made = token.anchor_attest([3; 32], soon()).await.unwrap().expect("a TPM makes statements");
    token.close().await;
    let mut forged = made.attest.clone();
    *forged.last_mut().unwrap() ^= 1;
    keep(dir.path(), &made.ak_spki_der, &made.attest, &made.signature_der);
    std::fs::write(dir.path().join("forged"), forged).unwrap();
    let verify = |statement: &str| {
        let line = format!("openssl dgst -sha256 -verify ak.pem -signature signature {statement}");
        run(dir.path(), &line, "openssl")
    };
    assert!(verify("statement"));
    assert!(!verify("forged"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tpm2_tools_confirm_a_quote_for_its_own_challenge_only() {
    let (machine, dir) = (Machine::new(), tempfile::tempdir().unwrap());
    let token = machine.start().await;
    let made = token.quote([4; 32], soon()).await.unwrap().expect("a TPM makes statements");
    token.close().await;
    keep(dir.path(), &made.ak_spki_der, &made.attest, &made.signature_der);
    let verify = |challenge: [u8; 32]| {
        let challenge = hex::encode(challenge);
        let line = format!("tpm2_checkquote -u ak.pem -m statement -s signature -g sha256 -q {challenge}");
        run(dir.path(), &line, "tpm2-tools")
    };
    assert!(verify([4; 32]));
    assert!(!verify([5; 32]));
}

fn first_step() -> AnchorStep {
    let digest: [u8; 32] = Hash::Sha256.digest(b"step").try_into().unwrap();
    let after = Hash::Sha256.digest(&[[0; 32], digest].concat()).try_into().unwrap();
    AnchorStep { k: 1, size: 1, root: [0; 32], digest, before: [0; 32], after }
}

fn keep(dir: &Path, key: &[u8], statement: &[u8], signature: &[u8]) {
    for (name, bytes) in [("ak.der", key), ("statement", statement), ("signature", signature)] {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
    assert!(run(dir, "openssl pkey -pubin -inform DER -in ak.der -out ak.pem", "openssl"));
}

fn run(dir: &Path, line: &str, package: &str) -> bool {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).current_dir(dir).output();
    let output =
        output.unwrap_or_else(|_| panic!("run `apt-get install {package}`: `{line}` cannot be started"));
    output.status.success()
}
