//! A little PKI for upstreams: one CA, a server's certificate, and the certificate of the one client that may come.
//! In comes nothing; everything is made anew for each test.
//! Out go PEM files for a configuration, and the server's side of a mutual handshake.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use rustls::RootCertStore;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use tokio_rustls::TlsAcceptor;

use super::Speaks;
use crate::error::{SimulatorError, While};

/// A CA and what it issued.
pub struct Pki {
    ca: Certificate,
    server: (Certificate, KeyPair),
    client: (Certificate, KeyPair),
}

/// The files that a client of an upstream is given.
#[derive(Clone, Debug)]
pub struct ClientFiles {
    /// The CA of the server.
    pub ca: PathBuf,
    /// The client's certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Pki {
    /// A CA, a server named `localhost` and `127.0.0.1`, and a client.
    pub fn new() -> Result<Self, SimulatorError> {
        make().while_trying("make certificates")
    }

    /// Writes down what a client needs.
    pub fn client_files(&self, directory: &Path) -> Result<ClientFiles, SimulatorError> {
        let name = |name: &str| directory.join(name);
        let files =
            ClientFiles { ca: name("ca.pem"), certificate: name("client.pem"), key: name("client.key") };
        let written = std::fs::create_dir_all(directory)
            .and_then(|()| std::fs::write(&files.ca, self.ca.pem()))
            .and_then(|()| std::fs::write(&files.certificate, self.client.0.pem()))
            .and_then(|()| std::fs::write(&files.key, self.client.1.serialize_pem()));
        written.while_trying(format!("write certificates below {}", directory.display()))?;
        Ok(files)
    }

    /// The server's side: TLS 1.3, and only clients of this CA.
    pub(super) fn acceptor(&self, speaks: Speaks) -> Result<TlsAcceptor, SimulatorError> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone()).map_err(std::io::Error::other).while_trying("trust the CA")?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
        let verifier = verifier.map_err(std::io::Error::other).while_trying("demand client certificates")?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.server.1.serialize_der()));
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map(|builder| builder.with_client_cert_verifier(verifier))
            .and_then(|builder| builder.with_single_cert(vec![self.server.0.der().clone()], key));
        let mut config = config.map_err(std::io::Error::other).while_trying("put on a server's face")?;
        config.alpn_protocols = vec![match speaks {
            Speaks::Http1 => b"http/1.1".to_vec(),
            Speaks::H2 => b"h2".to_vec(),
        }];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn make() -> Result<Pki, std::io::Error> {
    let made = || -> Result<Pki, rcgen::Error> {
        let authority = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&authority)?;
        let issuer = Issuer::new(params, authority);
        let issue = |names: &[&str], usage| -> Result<(Certificate, KeyPair), rcgen::Error> {
            let key = KeyPair::generate()?;
            let mut params =
                CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
            params.extended_key_usages = vec![usage];
            Ok((params.signed_by(&key, &issuer)?, key))
        };
        let server = issue(&["localhost", "127.0.0.1"], ExtendedKeyUsagePurpose::ServerAuth)?;
        let client = issue(&["chancery"], ExtendedKeyUsagePurpose::ClientAuth)?;
        Ok(Pki { ca, server, client })
    };
    made().map_err(std::io::Error::other)
}
