//! Who a client shows itself as in the TLS handshake: certificate, key, and the CA it trusts.
//! Who enters: operators' answers to enrolments; tests that forge.
//! What leaves: client configurations, PEM files for foreign programs, and forgeries of every kind.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};

use crate::wire::Protocol;

/// A certificate with its key and the CAs that vouch for the server, all PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// The CAs whose servers it trusts.
    pub ca: String,
}

/// The files a foreign program is given.
#[derive(Clone, Debug)]
pub struct Files {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The CA.
    pub ca: PathBuf,
}

/// A key made here, with the request for its certificate; both PEM.
pub fn request() -> (String, String) {
    let key = KeyPair::generate().expect("a key pair");
    let params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
    let request = params.serialize_request(&key).and_then(|csr| csr.pem()).expect("a request");
    (key.serialize_pem(), request)
}

impl Identity {
    /// A client of a CA that is not the appliance's, though it says so: same names, another key.
    pub fn forged(ca: &str) -> Self {
        let (mine, authority) =
            (KeyPair::generate().expect("a key pair"), KeyPair::generate().expect("a key pair"));
        let der = CertificateDer::from_pem_slice(ca.as_bytes()).expect("the CA's certificate");
        // The forger copies what a certificate shows and cannot copy the key behind it.
        let issuer = Issuer::from_ca_cert_der(&der, authority).expect("an issuer");
        let mut params = CertificateParams::new(vec!["client".to_owned()]).expect("parameters");
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&mine, &issuer).expect("a certificate");
        Self { certificate: certificate.pem(), key: mine.serialize_pem(), ca: ca.to_owned() }
    }

    /// Trusts the servers of another CA.
    pub fn trusting(&self, ca: &str) -> Self {
        Self { ca: ca.to_owned(), ..self.clone() }
    }

    /// Writes it down for foreign programs.
    pub fn files(&self, directory: &Path) -> Files {
        std::fs::create_dir_all(directory).expect("a directory for the identity");
        let files = Files {
            certificate: directory.join("client.pem"),
            key: directory.join("client.key"),
            ca: directory.join("ca.pem"),
        };
        for (path, text) in
            [(&files.certificate, &self.certificate), (&files.key, &self.key), (&files.ca, &self.ca)]
        {
            std::fs::write(path, text).expect("write the identity");
        }
        files
    }

    /// As the TLS client needs it.
    pub fn client_config(&self, protocol: Protocol) -> Arc<ClientConfig> {
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a private key");
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes());
        let chain = chain.collect::<Result<Vec<_>, _>>().expect("a certificate");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]).expect("TLS 1.3");
        let config = config.with_root_certificates(self.roots()).with_client_auth_cert(chain, key);
        let mut config = config.expect("a certificate with its own key");
        config.alpn_protocols = vec![protocol.alpn().to_vec()];
        Arc::new(config)
    }

    /// A client that shows no certificate at all.
    pub fn nameless(&self) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]).expect("TLS 1.3");
        Arc::new(config.with_root_certificates(self.roots()).with_no_client_auth())
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        for ca in CertificateDer::pem_slice_iter(self.ca.as_bytes()) {
            roots.add(ca.expect("a CA's certificate")).expect("a usable CA");
        }
        roots
    }
}

/// A server certificate of a CA of our own, as an operator with a PKI would bring one: certificate, key, CA.
pub fn server_files(name: &str) -> (String, String, String) {
    let authority = KeyPair::generate().expect("a key pair");
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "an operator's own CA");
    let ca = params.self_signed(&authority).expect("a CA");
    let issuer = Issuer::new(params, authority);
    let key = KeyPair::generate().expect("a key pair");
    let server = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
    let certificate = server.signed_by(&key, &issuer).expect("a certificate");
    (certificate.pem(), key.serialize_pem(), ca.pem())
}
