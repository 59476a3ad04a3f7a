//! The one place from which the product dials out: TCP, and TLS 1.3 on top of it, within a bounded time.
//! Who enters: rooms that the configuration gave somebody to talk to; nobody else has an address.
//! What leaves: a connected stream whose other end has proven its name; or why there is none.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::TLS13;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::malformed::Malformed;

/// Where somebody listens: `https://host:port`, or `http://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Over TLS.
    pub secure: bool,
}

/// What is needed to trust the other end, and to be trusted by it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustFiles {
    /// The CA of the other end, PEM.
    pub ca: Option<PathBuf>,
    /// Our certificate, PEM.
    pub client_certificate: Option<PathBuf>,
    /// Its key, PEM.
    pub client_key: Option<PathBuf>,
    /// The name in the other end's certificate, where it is not the host's.
    pub server_name: Option<String>,
}

/// Why TLS cannot be spoken with these files.
#[derive(Debug, thiserror::Error)]
pub enum TrustRefused {
    /// A file cannot be read, or is not PEM.
    #[error("{path} cannot be read as PEM")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// No CA was named: there is nobody to trust.
    #[error("no CA is named, so there is nobody to trust")]
    NoCa,
    /// Certificate and key are no pair, or a kind that is not known.
    #[error("the certificates cannot be used together")]
    Unusable(#[source] rustls::Error),
    /// The server's name is none.
    #[error("`{0}` is no server name")]
    Name(String),
}

/// Dials one kind of place.
#[derive(Clone)]
pub struct Dialer {
    tls: Option<Tls>,
    wait: Duration,
}

#[derive(Clone)]
struct Tls {
    connector: TlsConnector,
    name: Option<ServerName<'static>>,
    alpn: &'static [u8],
}

/// A connected stream.
pub enum Stream {
    /// Without TLS: to this machine itself, or where the operator accepted the danger.
    Plain(TcpStream),
    /// Over TLS.
    Secure(Box<TlsStream<TcpStream>>),
}

impl FromStr for Place {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let malformed =
            Malformed { expected: "address (https://host:port or http://host:port, and nothing behind)" };
        let (secure, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(malformed),
        };
        let authority: http::uri::Authority =
            rest.trim_end_matches('/').parse().map_err(|_| malformed.clone())?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        match authority.port_u16() {
            Some(port) if !host.is_empty() && !authority.as_str().contains('@') => {
                Ok(Self { host, port, secure })
            }
            _ => Err(malformed),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

impl Place {
    /// Host and port as a request names them.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// It is this machine by its address; a name may come to mean another.
    pub fn is_loopback(&self) -> bool {
        self.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl Dialer {
    /// Without TLS.
    pub fn plain(wait: Duration) -> Self {
        Self { tls: None, wait }
    }

    /// With TLS 1.3; the other end must show a certificate of the CA, and agree to the protocol.
    ///
    /// # Errors
    /// The files are not there or not right.
    pub fn secure(files: &TrustFiles, alpn: &'static [u8], wait: Duration) -> Result<Self, TrustRefused> {
        let roots = roots(files.ca.as_deref().ok_or(TrustRefused::NoCa)?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(TrustRefused::Unusable)?
            .with_root_certificates(roots);
        let mut config = match (&files.client_certificate, &files.client_key) {
            (Some(certificate), Some(key)) => {
                let (chain, key) = identity(certificate, key)?;
                builder.with_client_auth_cert(chain, key).map_err(TrustRefused::Unusable)?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        let name = files
            .server_name
            .clone()
            .map(|name| ServerName::try_from(name.clone()).map_err(|_| TrustRefused::Name(name)));
        let tls = Tls { connector: TlsConnector::from(Arc::new(config)), name: name.transpose()?, alpn };
        Ok(Self { tls: Some(tls), wait })
    }

    /// Connects, within the time given at the beginning.
    ///
    /// # Errors
    /// Nobody there, not who it should be, or too slow. Nothing of a request has been sent.
    pub async fn dial(&self, place: &Place) -> io::Result<Stream> {
        match tokio::time::timeout(self.wait, self.connect(place)).await {
            Ok(connected) => connected,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("{place} did not accept in time"))),
        }
    }

    async fn connect(&self, place: &Place) -> io::Result<Stream> {
        let stream = TcpStream::connect((place.host.as_str(), place.port)).await?;
        stream.set_nodelay(true)?;
        let tls = match (&self.tls, place.secure) {
            (Some(tls), true) => tls,
            (_, false) => return Ok(Stream::Plain(stream)),
            // What was asked to be secret is never sent in the clear, whoever forgot to say how.
            (None, true) => {
                return Err(io::Error::other(format!("{place} wants TLS, and there is none to dial with")));
            }
        };
        let name = match &tls.name {
            Some(name) => name.clone(),
            None => ServerName::try_from(place.host.clone()).map_err(io::Error::other)?,
        };
        let stream = tls.connector.connect(name, stream).await?;
        // HTTP/1.1 is what a peer without ALPN speaks; anything else has to be agreed upon.
        match stream.get_ref().1.alpn_protocol() {
            Some(agreed) if agreed == tls.alpn => {}
            None if tls.alpn == b"http/1.1" => {}
            _ => return Err(io::Error::other(format!("{place} does not speak the configured protocol"))),
        }
        Ok(Stream::Secure(Box::new(stream)))
    }
}

fn roots(ca: &Path) -> Result<RootCertStore, TrustRefused> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(ca)? {
        roots.add(certificate).map_err(TrustRefused::Unusable)?;
    }
    if roots.is_empty() { Err(TrustRefused::NoCa) } else { Ok(roots) }
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TrustRefused> {
    let refused = |source| TrustRefused::File { path: path.to_owned(), source };
    CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(refused)
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(certificate: &Path, key: &Path) -> Result<Identity, TrustRefused> {
    let refused = |source| TrustRefused::File { path: key.to_owned(), source };
    Ok((chain(certificate)?, PrivateKeyDer::from_pem_file(key).map_err(refused)?))
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Secure(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Secure(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Secure(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Secure(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_scheme_a_host_and_a_port_and_nothing_else() {
        let read = |text: &str| text.parse::<Place>().map(|place| place.to_string()).ok();
        assert_eq!(read("https://ledger.example:8443").as_deref(), Some("https://ledger.example:8443"));
        assert_eq!(read("http://[::1]:80/").as_deref(), Some("http://[::1]:80"));
        for text in [
            "ledger:80",
            "https://ledger",
            "ftp://a:1",
            "https://u@h:1",
            "https://h:1/path",
            "https://h:99999",
            "https://:1",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn what_has_to_be_secret_is_never_dialled_in_the_clear() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let dialer = Dialer::plain(Duration::from_secs(10));
        let place = |secure| Place { host: "127.0.0.1".to_owned(), port, secure };
        assert!(dialer.dial(&place(false)).await.is_ok());
        let refused = dialer.dial(&place(true)).await.map(drop).unwrap_err();
        assert!(refused.to_string().contains("wants TLS"), "{refused}");
    }

    #[test]
    fn only_an_address_is_known_to_be_this_machine() {
        let loopback = |text: &str| text.parse::<Place>().unwrap().is_loopback();
        assert!(loopback("http://127.0.0.1:1") && loopback("http://[::1]:1"));
        assert!(!loopback("http://localhost:1") && !loopback("http://10.0.0.1:1"));
    }
}
