//! What the TPM signs, checked by programs that know nothing of this product.
//! Enters: statements about anchor and boot, made through the real worker.
//! Leaves: the verdict of openssl and of tpm2-tools.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod conformance;
mod tpm;

use std::path::Path;
use std::process::Command;

use conformance::{fresh_id, soon};
use hsm::{AnchorStep, Fingerprint, Hash, KeyKind, KeyRef, TokenError};
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssl_confirms_that_a_key_lives_in_this_tpm_for_its_own_challenge_only() {
    let (machine, dir) = (Machine::new(), tempfile::tempdir().unwrap());
    let token = machine.start().await;
    let made = token.generate(fresh_id(), KeyKind::P256, "k", soon()).await.unwrap();
    let said = token.attest(&made.key, [5; 32], soon()).await.unwrap().expect("a TPM makes statements");
    let quote = token.quote([5; 32], soon()).await.unwrap().expect("a TPM makes statements");
    let swapped = KeyRef { fingerprint: Fingerprint([0; 32]), ..made.key.clone() };
    let refused = token.attest(&swapped, [5; 32], soon()).await;
    assert!(matches!(refused, Err(TokenError::WrongKey { .. })), "{refused:?}");
    let absent = KeyRef { blob: Vec::new(), ..made.key.clone() };
    let refused = token.attest(&absent, [5; 32], soon()).await;
    assert_eq!(refused, Err(TokenError::KeyMissing { id: made.key.id }));
    token.close().await;
    assert_eq!(said.ak_spki_der, quote.ak_spki_der, "the same key says both");
    keep(dir.path(), &said.ak_spki_der, &said.attest, &said.signature_der);
    assert!(run(dir.path(), "openssl dgst -sha256 -verify ak.pem -signature signature statement", "openssl"));
    let forged = [&said.attest[..said.attest.len() - 1], &[said.attest.last().unwrap() ^ 1]].concat();
    std::fs::write(dir.path().join("statement"), forged).unwrap();
    assert!(!run(
        dir.path(),
        "openssl dgst -sha256 -verify ak.pem -signature signature statement",
        "openssl"
    ));
    assert_certifies(&said.attest, [5; 32], &said.public_area);
    // The public area ends with the point, and so does the SPKI: x and y, each behind a length here.
    let (x, y) = made.public.spki_der[made.public.spki_der.len() - 64..].split_at(32);
    assert!(said.public_area.ends_with(&[&[0, 32], x, &[0, 32], y].concat()));
    assert_eq!(
        u32::from_be_bytes(said.public_area[4..8].try_into().unwrap()) & BORN_AND_FIXED,
        BORN_AND_FIXED
    );
}

/// fixedTPM, fixedParent, sensitiveDataOrigin (TPMA_OBJECT, TPM 2.0 part 2, section 8.3).
const BORN_AND_FIXED: u32 = 1 << 1 | 1 << 4 | 1 << 5;

/// Reads TPMS_ATTEST as the specification has it (part 2, section 10.12.12): magic, type CERTIFY, signer, challenge, clock, firmware, name.
fn assert_certifies(attest: &[u8], challenge: [u8; 32], public_area: &[u8]) {
    assert_eq!(attest[..6], [0xff, 0x54, 0x43, 0x47, 0x80, 0x17], "TPM_GENERATED, TPM_ST_ATTEST_CERTIFY");
    let sized = |bytes: &[u8]| usize::from(u16::from_be_bytes(bytes[..2].try_into().unwrap()));
    let rest = &attest[6 + 2 + sized(&attest[6..])..];
    assert_eq!((sized(rest), &rest[2..34]), (32, challenge.as_slice()));
    let name = &rest[34 + 17 + 8..];
    let digest = Hash::Sha256.digest(public_area);
    assert_eq!(
        name[2..2 + sized(name)],
        [&[0x00, 0x0b], digest.as_slice()].concat(),
        "its name is its public area's hash"
    );
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
