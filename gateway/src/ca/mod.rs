//! The appliance's certificate authority: its key is in the token, its certificates are signed through the one door.
//! Who enters: the devices service, with a checked request; the wiring, for the server's own certificate.
//! What leaves: a draft, whose bytes go on the ledger first; then, with the token's signature, a certificate (RFC 5280).

pub mod authorities;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use audit::Recorded;
use hsm::{KeyRef, PublicKey, Scheme, SignInput};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, PublicKeyData, SerialNumber, SignatureAlgorithm,
    SubjectPublicKeyInfo,
};
use time::OffsetDateTime;
use x509_parser::parse_x509_certificate;

use crate::api::CertificateHash;
use crate::crypto::ecdsa_to_der;
use crate::dice::Dice;
use crate::moment::Moment;
use crate::signer::{SignFailed, SignOrder, Signer, SigningKey};

/// Why no certificate came of it.
#[derive(Debug, thiserror::Error)]
pub enum CaRefused {
    /// The request is not PEM, not PKCS#10, or not signed by its own key.
    #[error("the certificate signing request cannot be used")]
    Request(#[source] rcgen::Error),
    /// The certificate could not be put together.
    #[error("the certificate cannot be written")]
    Writing(#[source] rcgen::Error),
    /// The token did not sign it.
    #[error("the certificate was not signed")]
    Signing(#[source] SignFailed),
    /// The authority's own time is over.
    #[error(
        "the certificate authority ended at {until}, and issues nothing any more; make another with `chancery ca rotate`, have the clients trust it, then retire this one with `chancery ca retire`"
    )]
    Ended {
        /// When.
        until: Moment,
    },
    /// The authority's own time has not begun: the clock is behind.
    #[error("the certificate authority begins at {from}, and this machine says it is {now}; set the clock")]
    NotBegun {
        /// When it begins.
        from: Moment,
        /// What the clock says.
        now: Moment,
    },
    /// What was recorded as an authority's certificate is none.
    #[error("the recorded certificate of an authority cannot be read")]
    Unreadable,
}

/// An authority: certificate and key, and what the certificate says of its time.
#[derive(Clone)]
pub struct Authority {
    certificate: Arc<Vec<u8>>,
    key: Arc<SigningKey>,
    public: Arc<PublicKey>,
    fingerprint: CertificateHash,
    made: Moment,
    validity: Validity,
}

/// From when to when a certificate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Its first moment.
    pub from: Moment,
    /// Its last.
    pub until: Moment,
}

/// A certificate that lacks only its signature.
pub struct Draft {
    params: CertificateParams,
    subject_key: SubjectPublicKeyInfo,
    issuer: IssuerOf,
    /// The bytes to be signed.
    pub tbs: Vec<u8>,
    /// The serial number, as hex.
    pub serial: String,
    /// When it ends.
    pub not_after: Moment,
}

/// Who issues: the authority's certificate, or the draft's own subject for the first certificate of all.
#[derive(Clone)]
enum IssuerOf {
    Certificate(Arc<Vec<u8>>, Arc<PublicKey>),
    Itself(Arc<PublicKey>),
}

/// Stands for the token's key while rcgen writes: keeps the bytes, gives back the signature it was given.
struct Stand<'a> {
    public: &'a PublicKey,
    tbs: Mutex<Vec<u8>>,
    signature: &'a [u8],
}

/// How long an authority's certificate lives: longer than anybody should leave it in use.
pub const AUTHORITY_LIVES: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Clocks of clients may be slow by this much.
const BACKDATED: Duration = Duration::from_secs(300);
/// SPKI of P-256: a fixed prefix and the 65 bytes of the point (RFC 5480).
const P256_POINT_BYTES: usize = 65;

impl Authority {
    /// The authority with its recorded certificate and key.
    ///
    /// # Errors
    /// The certificate cannot be read.
    pub fn new(certificate: Vec<u8>, key: Arc<SigningKey>, public: PublicKey) -> Result<Self, CaRefused> {
        let validity = Validity::of(&certificate).ok_or(CaRefused::Unreadable)?;
        let made = validity.from.plus(BACKDATED);
        let fingerprint = CertificateHash::of(&certificate);
        let (certificate, public) = (Arc::new(certificate), Arc::new(public));
        Ok(Self { certificate, key, public, fingerprint, made, validity })
    }

    /// Its certificate, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Where the token finds its key.
    pub fn key(&self) -> &KeyRef {
        &self.key.key
    }

    /// The SHA-256 of its certificate: its name.
    pub fn fingerprint(&self) -> CertificateHash {
        self.fingerprint
    }

    /// When it was made.
    pub fn made(&self) -> Moment {
        self.made
    }

    /// When it ends.
    pub fn not_after(&self) -> Moment {
        self.validity.until
    }

    /// From when to when it holds.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Drafts a client certificate for the key of a signing request; of the request nothing but the key is taken.
    ///
    /// # Errors
    /// The request is not right.
    pub fn draft_client(
        &self,
        csr_pem: &str,
        subject: &Subject<'_>,
        dice: &Dice,
    ) -> Result<Draft, CaRefused> {
        let request = CertificateSigningRequestParams::from_pem(csr_pem).map_err(CaRefused::Request)?;
        let key = SubjectPublicKeyInfo::from_der(&request.public_key.subject_public_key_info())
            .map_err(CaRefused::Request)?;
        self.draft(subject, ExtendedKeyUsagePurpose::ClientAuth, &[], key, dice)
    }

    /// Drafts the certificate of the server itself.
    ///
    /// # Errors
    /// A name that cannot stand in a certificate.
    pub fn draft_server(
        &self,
        names: &[String],
        key: &rcgen::KeyPair,
        subject: &Subject<'_>,
        dice: &Dice,
    ) -> Result<Draft, CaRefused> {
        let key =
            SubjectPublicKeyInfo::from_der(&key.subject_public_key_info()).map_err(CaRefused::Writing)?;
        self.draft(subject, ExtendedKeyUsagePurpose::ServerAuth, names, key, dice)
    }

    fn draft(
        &self,
        subject: &Subject<'_>,
        usage: ExtendedKeyUsagePurpose,
        names: &[String],
        subject_key: SubjectPublicKeyInfo,
        dice: &Dice,
    ) -> Result<Draft, CaRefused> {
        let subject = &self.within_its_time(subject)?;
        let mut params = subject.params(names, dice)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let issuer = IssuerOf::Certificate(Arc::clone(&self.certificate), Arc::clone(&self.public));
        Draft::new(params, subject_key, issuer, subject)
    }

    /// No certificate outlives its authority, and one whose time is over issues none.
    fn within_its_time<'a>(&self, subject: &Subject<'a>) -> Result<Subject<'a>, CaRefused> {
        let (now, Validity { from, until }) = (subject.from, self.validity);
        if now < from {
            return Err(CaRefused::NotBegun { from, now });
        }
        if now >= until {
            return Err(CaRefused::Ended { until });
        }
        Ok(Subject { lives: subject.lives.min(now.until(until)), ..*subject })
    }

    /// The order that signs a draft, to be recorded first.
    pub fn order(&self, draft: &Draft, deadline: std::time::Instant) -> SignOrder {
        order(&self.key, draft, deadline)
    }
}

impl Validity {
    /// Of a certificate, DER.
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let (_, read) = parse_x509_certificate(certificate).ok()?;
        let moment = |seconds: i64| Moment::from_micros(seconds.saturating_mul(1_000_000));
        let validity = read.validity();
        Some(Self {
            from: moment(validity.not_before.timestamp()),
            until: moment(validity.not_after.timestamp()),
        })
    }

    /// It holds at this moment.
    pub fn holds(&self, now: Moment) -> bool {
        self.from <= now && now < self.until
    }
}

/// Drafts the authority's own certificate, signed by itself.
///
/// # Errors
/// The key is not P-256, or the certificate cannot be written.
pub fn draft_authority(public: &PublicKey, subject: &Subject<'_>, dice: &Dice) -> Result<Draft, CaRefused> {
    let mut params = subject.params(&[], dice)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let subject_key = SubjectPublicKeyInfo::from_der(&public.spki_der).map_err(CaRefused::Writing)?;
    Draft::new(params, subject_key, IssuerOf::Itself(Arc::new(public.clone())), subject)
}

/// The order that signs a draft with a key, to be recorded first.
pub fn order(key: &Arc<SigningKey>, draft: &Draft, deadline: std::time::Instant) -> SignOrder {
    let input = SignInput::Message(draft.tbs.clone());
    SignOrder { key: Arc::clone(key), scheme: Scheme::EcdsaSha256, input, deadline, use_number: 0 }
}

/// Signs a draft whose order is on the ledger, and gives the certificate's DER.
///
/// # Errors
/// The token gave no good signature.
pub async fn complete(
    signer: &Signer,
    recorded: Recorded<SignOrder>,
    draft: Draft,
) -> Result<Vec<u8>, CaRefused> {
    let signature = signer.sign(recorded).await.map_err(CaRefused::Signing)?;
    let (der, _) = draft.write(&ecdsa_to_der(&signature.raw)).map_err(CaRefused::Writing)?;
    Ok(der)
}

/// Whom a certificate names, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The common name: for people; machines go by the certificate's hash.
    pub common_name: &'a str,
    /// The organisation: the workspace, or the appliance.
    pub organization: &'a str,
    /// Now.
    pub from: Moment,
    /// How long it lives.
    pub lives: Duration,
}

impl Subject<'_> {
    fn params(&self, names: &[String], dice: &Dice) -> Result<CertificateParams, CaRefused> {
        let mut params = CertificateParams::new(names).map_err(CaRefused::Writing)?;
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, self.organization);
        name.push(DnType::CommonName, self.common_name);
        params.distinguished_name = name;
        let mut serial: [u8; 16] = dice.throw();
        serial[0] = serial[0] & 0x7f | 0x40; // positive, and always 16 bytes (RFC 5280 section 4.1.2.2)
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let second = |moment: Moment| {
            OffsetDateTime::from_unix_timestamp(moment.micros() / 1_000_000)
                .unwrap_or(OffsetDateTime::UNIX_EPOCH)
        };
        params.not_before = second(self.from) - BACKDATED;
        params.not_after = second(self.from.plus(self.lives));
        Ok(params)
    }
}

impl Draft {
    fn new(
        params: CertificateParams,
        subject_key: SubjectPublicKeyInfo,
        issuer: IssuerOf,
        subject: &Subject<'_>,
    ) -> Result<Self, CaRefused> {
        let serial =
            params.serial_number.as_ref().map(|serial| hex::encode(serial.to_bytes())).unwrap_or_default();
        let not_after = subject.from.plus(subject.lives);
        let mut draft = Self { params, subject_key, issuer, tbs: Vec::new(), serial, not_after };
        let (_, tbs) = draft.write(&[]).map_err(CaRefused::Writing)?;
        draft.tbs = tbs;
        Ok(draft)
    }

    /// Writes the certificate around a signature; with none, only the bytes to be signed are of use.
    fn write(&self, signature: &[u8]) -> Result<(Vec<u8>, Vec<u8>), rcgen::Error> {
        let (IssuerOf::Certificate(_, public) | IssuerOf::Itself(public)) = &self.issuer;
        let stand = Stand { public, tbs: Mutex::default(), signature };
        let certificate = match &self.issuer {
            IssuerOf::Itself(_) => {
                self.params.signed_by(&self.subject_key, &Issuer::from_params(&self.params, &stand))?
            }
            IssuerOf::Certificate(der, _) => {
                let issuer = Issuer::from_ca_cert_der(&der.as_slice().into(), &stand)?;
                self.params.signed_by(&self.subject_key, &issuer)?
            }
        };
        let tbs = std::mem::take(&mut *stand.tbs.lock().unwrap_or_else(PoisonError::into_inner));
        Ok((certificate.der().to_vec(), tbs))
    }
}

impl PublicKeyData for &Stand<'_> {
    fn der_bytes(&self) -> &[u8] {
        let spki = &self.public.spki_der;
        &spki[spki.len().saturating_sub(P256_POINT_BYTES)..]
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for &Stand<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        *self.tbs.lock().unwrap_or_else(PoisonError::into_inner) = message.to_vec();
        Ok(self.signature.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use hsm::{KeyId, KeyKind, KeyRef};
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};

    use super::*;
    use crate::crypto::PinnedKey;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    /// An authority that lives from the first day to the hundredth.
    fn authority() -> Authority {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let public = PublicKey { kind: KeyKind::P256, spki_der: pair.subject_public_key_info() };
        let subject = Subject { common_name: "ca", organization: "o", from: day(0), lives: DAY * 100 };
        let mut params = subject.params(&[], &Dice::system()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let certificate = params.self_signed(&pair).unwrap().der().to_vec();
        let key = KeyRef {
            id: KeyId([1; 16]),
            kind: KeyKind::P256,
            fingerprint: public.fingerprint(),
            blob: vec![],
        };
        let pinned = PinnedKey::new(KeyKind::P256, &public.spki_der).unwrap();
        Authority::new(certificate, Arc::new(SigningKey { key, pinned }), public).unwrap()
    }

    fn day(number: u32) -> Moment {
        Moment::from_micros(1_800_000_000_000_000).plus(DAY * number)
    }

    fn issued(authority: &Authority, at: Moment, lives: Duration) -> Result<Draft, CaRefused> {
        let pair = KeyPair::generate().unwrap();
        let subject = Subject { common_name: "c", organization: "o", from: at, lives };
        authority.draft_server(&["localhost".to_owned()], &pair, &subject, &Dice::system())
    }

    #[test]
    fn no_certificate_outlives_its_authority() {
        let authority = authority();
        let early = issued(&authority, day(1), DAY * 90).unwrap();
        assert_eq!(early.not_after, day(91));
        let late = issued(&authority, day(60), DAY * 90).unwrap();
        assert_eq!(late.not_after, authority.not_after());
        let (der, _) = late.write(&[]).unwrap();
        assert_eq!(
            Validity::of(&der).unwrap().until,
            authority.not_after(),
            "what is written is what is told"
        );
    }

    #[test]
    fn an_authority_issues_nothing_outside_of_its_time_and_says_what_to_do() {
        let authority = authority();
        let ended = issued(&authority, day(100), DAY).err().unwrap().to_string();
        assert!(ended.contains("chancery ca rotate"), "{ended}");
        assert!(issued(&authority, day(4000), DAY).is_err());
        let early = issued(&authority, Moment::from_micros(0), DAY).err().unwrap().to_string();
        assert!(early.contains("set the clock"), "{early}");
    }
}
