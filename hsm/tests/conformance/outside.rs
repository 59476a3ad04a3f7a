//! A key made outside any token, and wrapped for one, with the openssl program alone: what a customer does, step by step.
//! Enters: a kind of key; an import key.
//! Leaves: its public half, and the bytes that the token takes.

use std::fs;
use std::path::Path;
use std::process::Command;

use hsm::{ImportKey, KeyKind, Oaep, PublicKey};

/// A private key in files.
pub struct Outside {
    dir: tempfile::TempDir,
    pub public: PublicKey,
}

impl Outside {
    pub fn make(kind: KeyKind) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let how = match kind {
            KeyKind::P256 => "-algorithm EC -pkeyopt ec_paramgen_curve:P-256",
            KeyKind::P384 => "-algorithm EC -pkeyopt ec_paramgen_curve:P-384",
            KeyKind::Secp256k1 => "-algorithm EC -pkeyopt ec_paramgen_curve:secp256k1",
            KeyKind::Ed25519 => "-algorithm ED25519",
            KeyKind::Rsa2048 => "-algorithm RSA -pkeyopt rsa_keygen_bits:2048",
            KeyKind::Rsa3072 => "-algorithm RSA -pkeyopt rsa_keygen_bits:3072",
            KeyKind::Rsa4096 => "-algorithm RSA -pkeyopt rsa_keygen_bits:4096",
        };
        openssl(dir.path(), &format!("genpkey {how} -out key.pem"));
        openssl(dir.path(), "pkcs8 -topk8 -nocrypt -in key.pem -outform DER -out key.p8");
        openssl(dir.path(), "pkey -in key.pem -pubout -outform DER -out key.pub");
        let public = PublicKey { kind, spki_der: fs::read(dir.path().join("key.pub")).unwrap() };
        Self { dir, public }
    }

    /// `RSA-OAEP(AES-256 key) | AES-KWP(PKCS#8)`.
    pub fn wrapped_for(&self, import_key: &ImportKey) -> Vec<u8> {
        let at = |name: &str| self.dir.path().join(name);
        fs::write(at("import.der"), &import_key.public.spki_der).unwrap();
        openssl(self.dir.path(), "rand -out aes 32");
        let hash = match import_key.oaep {
            Oaep::Sha256 => "sha256",
            Oaep::Sha1 => "sha1",
        };
        let oaep =
            format!("-pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:{hash} -pkeyopt rsa_mgf1_md:{hash}");
        let encrypt = "pkeyutl -encrypt -pubin -keyform DER -inkey import.der";
        openssl(self.dir.path(), &format!("{encrypt} {oaep} -in aes -out first"));
        let key = hex::encode(fs::read(at("aes")).unwrap());
        let wrap = "enc -id-aes256-wrap-pad -iv A65959A6 -in key.p8 -out second";
        openssl(self.dir.path(), &format!("{wrap} -K {key}"));
        [fs::read(at("first")).unwrap(), fs::read(at("second")).unwrap()].concat()
    }
}

fn openssl(dir: &Path, line: &str) {
    match Command::new("openssl").args(line.split(' ')).current_dir(dir).output() {
        Ok(done) => {
            let told = String::from_utf8_lossy(&done.stderr);
            assert!(done.status.success(), "openssl {line}: {told}");
        }
        Err(fault) => panic!("openssl does not run ({fault}); install the package openssl"),
    }
}
