//! The appliance's face to the network: TLS 1.3 only, a client certificate always, replaceable while it runs.
//! Who enters: the server's certificate and key, the CAs whose clients may connect.
//! What leaves: acceptors for new connections; a face that does not build leaves the last good one in place.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use tokio_rustls::TlsAcceptor;

use super::enrolled::Enrolled;
use crate::api::Directory;

/// What a face is made of.
pub struct FaceParts {
    /// The server's certificate, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its private key.
    pub key: PrivateKeyDer<'static>,
    /// The CAs that issue client certificates.
    pub client_cas: Vec<CertificateDer<'static>>,
}

/// Why a face cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FaceRefused {
    /// Server certificate and key are no pair, or the key's kind is unknown.
    #[error("the server certificate and its key cannot be used together")]
    Certificate(#[source] rustls::Error),
    /// A client CA is not a CA certificate.
    #[error("a client CA certificate cannot be used")]
    ClientCa(#[source] rustls::Error),
    /// No client could ever connect.
    #[error("there is no usable client CA")]
    NoClientCa(#[source] rustls::server::VerifierBuilderError),
}

/// The face that new connections see.
#[derive(Clone)]
pub struct TlsFace {
    current: Arc<RwLock<Arc<rustls::ServerConfig>>>,
    directory: Arc<dyn Directory>,
}

impl TlsFace {
    /// The first face; handshakes ask the directory who is enrolled.
    ///
    /// # Errors
    /// The parts do not go together.
    pub fn new(parts: FaceParts, directory: Arc<dyn Directory>) -> Result<Self, FaceRefused> {
        let config = Arc::new(server_config(parts, &directory)?);
        Ok(Self { current: Arc::new(RwLock::new(config)), directory })
    }

    /// Puts on another face; open connections keep theirs.
    ///
    /// # Errors
    /// The parts do not go together; the present face stays.
    pub fn replace(&self, parts: FaceParts) -> Result<(), FaceRefused> {
        let config = Arc::new(server_config(parts, &self.directory)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// An acceptor with the present face.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn server_config(
    parts: FaceParts,
    directory: &Arc<dyn Directory>,
) -> Result<rustls::ServerConfig, FaceRefused> {
    let mut roots = RootCertStore::empty();
    for ca in parts.client_cas {
        roots.add(ca).map_err(FaceRefused::ClientCa)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chains = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(FaceRefused::NoClientCa)?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(FaceRefused::Certificate)?
        .with_client_cert_verifier(Arc::new(Enrolled::new(chains, Arc::clone(directory))))
        .with_single_cert(parts.chain, parts.key)
        .map_err(FaceRefused::Certificate)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // No tickets: each connection proves its certificate anew, and nothing about clients is kept for resumption.
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}
