//! Who may finish a handshake: whoever has a certificate of our CA that is enrolled here and stands. All others are hung up on
//! before they have said anything.
//! Who enters: the certificate that a handshake has just proved.
//! What leaves: leave to go on, or the alert that says why not (RFC 8446 section 6.2).

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use crate::api::{CertificateHash, ClientStanding, Directory};

/// A verifier of chains that also asks the directory.
pub(super) struct Enrolled {
    chains: Arc<dyn ClientCertVerifier>,
    directory: Arc<dyn Directory>,
}

impl Enrolled {
    /// Asks `chains` first, and then whether the client stands.
    pub(super) fn new(chains: Arc<dyn ClientCertVerifier>, directory: Arc<dyn Directory>) -> Self {
        Self { chains, directory }
    }
}

impl ClientCertVerifier for Enrolled {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chains.verify_client_cert(end_entity, intermediates, now)?;
        let hash = CertificateHash::of(end_entity);
        let why = match self.directory.client(&hash) {
            // That its workspace is closed is told in words, over HTTP.
            ClientStanding::Enrolled(_) => return Ok(verified),
            ClientStanding::Expired => CertificateError::Expired,
            ClientStanding::Revoked => CertificateError::Revoked,
            ClientStanding::Unknown => CertificateError::ApplicationVerificationFailure,
        };
        tracing::info!(certificate = %hash, ?why, "the client's certificate does not stand");
        Err(why.into())
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chains.root_hint_subjects()
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

impl std::fmt::Debug for Enrolled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Enrolled(..)")
    }
}
