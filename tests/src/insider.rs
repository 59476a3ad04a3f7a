//! An insider: somebody who stole the token's PIN and signs certificates with the CA's own key, past the daemon.
//! Who enters: tests of what a certificate of the right CA is worth when the ledger does not know it.
//! What leaves: identities that every TLS library accepts and no appliance ever issued.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::Command;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    SignatureAlgorithm, SigningKey,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use simulators::SoftHsm;
use time::{Duration, OffsetDateTime};

use crate::identity::Identity;
use crate::programs::{succeeds, tool};

/// The CA's key, used from outside.
struct StolenKey {
    module: PathBuf,
    conf: PathBuf,
    pin: String,
    work: PathBuf,
    point: Vec<u8>,
    id: RefCell<Option<String>>,
}

/// A client certificate of the appliance's own CA, made behind its back, valid between these days from now.
pub fn forge(hsm: &SoftHsm, ca: &str, work: &Path, from_days: i64, to_days: i64) -> Identity {
    let ca_der = CertificateDer::from_pem_slice(ca.as_bytes()).expect("the CA's certificate");
    let stolen = StolenKey {
        module: hsm.module().to_owned(),
        conf: hsm.conf(),
        pin: std::fs::read_to_string(hsm.pin_file()).expect("the PIN"),
        work: work.to_owned(),
        point: p256_point(&ca_der),
        id: RefCell::default(),
    };
    let issuer = Issuer::from_ca_cert_der(&ca_der, stolen).expect("an issuer");
    let key = KeyPair::generate().expect("a key pair");
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now + Duration::days(from_days), now + Duration::days(to_days));
    let certificate = params.signed_by(&key, &issuer).expect("a certificate signed with the stolen key");
    Identity { certificate: certificate.pem(), key: key.serialize_pem(), ca: ca.to_owned() }
}

/// The point of the CA's P-256 key, which follows a fixed SPKI prefix (RFC 5480).
fn p256_point(der: &[u8]) -> Vec<u8> {
    const PREFIX: [u8; 11] = [0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04];
    let at = der.windows(PREFIX.len()).position(|part| part == PREFIX).expect("a P-256 CA");
    der[at + PREFIX.len() - 1..][..65].to_vec()
}

impl PublicKeyData for StolenKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for StolenKey {
    /// The thief does not know which object is the CA's key, and tries them all.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let known = self.id.borrow().clone();
        for id in known.map_or_else(|| self.private_keys(), |id| vec![id]) {
            let signature = self.sign_with(&id, message);
            if UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point)
                .verify(message, &signature)
                .is_ok()
            {
                self.id.replace(Some(id));
                return Ok(signature);
            }
        }
        Err(rcgen::Error::RemoteKeyError)
    }
}

impl StolenKey {
    fn pkcs11_tool(&self) -> Command {
        let mut command = tool("pkcs11-tool", "opensc");
        command.env("SOFTHSM2_CONF", &self.conf).arg("--module").arg(&self.module);
        command.args(["--login", "--pin", &self.pin]);
        command
    }

    fn private_keys(&self) -> Vec<String> {
        let listing = succeeds(self.pkcs11_tool().args(["--list-objects", "--type", "privkey"]));
        listing
            .lines()
            .filter_map(|line| line.trim().strip_prefix("ID:"))
            .map(|id| id.trim().to_owned())
            .collect()
    }

    fn sign_with(&self, id: &str, message: &[u8]) -> Vec<u8> {
        let (input, output) = (self.work.join("tbs.sha256"), self.work.join("tbs.sig"));
        std::fs::write(&input, Sha256::digest(message)).expect("write the digest");
        let mut command = self.pkcs11_tool();
        command.args(["--sign", "--mechanism", "ECDSA", "--signature-format", "openssl", "--id", id]);
        command.arg("--input-file").arg(&input).arg("--output-file").arg(&output);
        // Keys of other kinds refuse; that only says it is not this one.
        match command.output() {
            Ok(ended) if ended.status.success() => std::fs::read(&output).unwrap_or_default(),
            _ => Vec::new(),
        }
    }
}
