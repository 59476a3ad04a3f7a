//! The server's certificate: from files of the operator, or issued by the appliance's own CA and kept sealed.
//! Who enters: `serve`, at start, whenever it is told to read anew, and when the line of CAs has changed.
//! What leaves: what a TLS face is made of. While the ledger is frozen a kept certificate still serves reads.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use audit::Told;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::appliance::store;
use crate::boundary::tls::{FaceParts, FaceRefused};
use crate::ca::authorities::Line;
use crate::ca::{CaRefused, Subject, Validity, complete};
use crate::config::{ApiConfig, Config};
use crate::custody::{CustodyRefused, OwnSecret};
use crate::limits::TOKEN_CALL_WAIT_MAX;
use crate::moment::Moment;
use crate::services::ground::{LedgerRefused, Telling};
use crate::wiring::House;

/// Why the server has no certificate.
#[derive(Debug, thiserror::Error)]
pub enum FaceUnmade {
    /// The parts do not go together.
    #[error(transparent)]
    Refused(#[from] FaceRefused),
    /// A configured certificate or key file.
    #[error("{path} holds no usable certificate or key")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// The CA did not issue it.
    #[error("the CA did not issue the server's certificate")]
    Certificate(#[source] CaRefused),
    /// Its own key could not be made.
    #[error("no key for the server could be made")]
    Key(#[source] rcgen::Error),
    /// The kept key cannot be sealed or opened.
    #[error(transparent)]
    Custody(#[from] CustodyRefused),
    /// The ledger did not take the certificate's entry.
    #[error(transparent)]
    Ledger(#[from] LedgerRefused),
}
crate::refused_by_ledger!(FaceUnmade);

type Face = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// The parts of a face over a line of CAs.
pub struct Dressing {
    /// The parts.
    pub parts: FaceParts,
    /// The certificate is the one that it should be; false where a kept one has to do until another can be issued.
    pub fits: bool,
    /// From when to when the certificate holds.
    pub validity: Option<Validity>,
}

/// A self-issued certificate as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    certificate: Vec<u8>,
    /// The certificate of its issuer; absent where that is the appliance's first CA.
    #[serde(default)]
    issuer: Option<Vec<u8>>,
    names: Vec<String>,
    not_after: Moment,
    key: OwnSecret,
}

const LIVES: Duration = Duration::from_secs(90 * 24 * 3600);
/// With less than this left a new one is made, and also when it does not hold now: a start under a clock that was ahead leaves one from
/// the future behind.
const RENEWED_BEFORE: Duration = Duration::from_secs(30 * 24 * 3600);

/// The configured files, else the kept certificate, else a new one; over the roots of this line.
///
/// # Errors
/// None of them is to be had.
pub async fn read_or_issue(config: &Config, house: &House, line: &Line) -> Result<Dressing, FaceUnmade> {
    let ((chain, key), fits) = match (&config.api.server_certificate, &config.api.server_key) {
        (Some(certificate), Some(key)) => (from_files(certificate, key)?, true),
        _ => own(&config.api, house, line).await?,
    };
    let client_cas = line.trusted().map(|one| CertificateDer::from(one.certificate().to_vec())).collect();
    let validity = chain.first().and_then(|certificate| Validity::of(certificate));
    Ok(Dressing { parts: FaceParts { chain, key, client_cas }, fits, validity })
}

fn from_files(certificate: &Path, key: &Path) -> Result<Face, FaceUnmade> {
    let refused = |path: &Path| {
        let path = path.to_owned();
        move |source| FaceUnmade::File { path, source }
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(refused(certificate))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(refused(key))?;
    Ok((chain, key))
}

async fn own(api: &ApiConfig, house: &House, line: &Line) -> Result<(Face, bool), FaceUnmade> {
    let Some(kept) = kept(house).await?.filter(|kept| kept.names == api.names) else {
        return Ok((issue(api, house, line).await?, true));
    };
    let now = house.ground.now();
    let issuer = line.server_issuer_at(now);
    let of_its_issuer = kept.issuer(line) == issuer.certificate();
    let (holds, lasts) = match Validity::of(&kept.certificate) {
        // Near the end of the CA no other certificate would last longer.
        Some(validity) => {
            let best = now.plus(LIVES).min(issuer.not_after());
            (validity.holds(now), validity.until > now.plus(RENEWED_BEFORE) || validity.until >= best)
        }
        None => (false, false),
    };
    if of_its_issuer && holds && lasts {
        return Ok((open(house, &kept, line)?, true));
    }
    match issue(api, house, line).await {
        Ok(face) => Ok((face, true)),
        // An ageing certificate is better than none, should a new one be refused.
        Err(why) => {
            tracing::warn!(%why, "the server keeps the certificate it has");
            Ok((open(house, &kept, line)?, of_its_issuer && holds))
        }
    }
}

impl Kept {
    fn issuer<'a>(&'a self, line: &'a Line) -> &'a [u8] {
        self.issuer.as_deref().unwrap_or_else(|| line.first().certificate())
    }
}

async fn kept(house: &House) -> Result<Option<Kept>, FaceUnmade> {
    let stored = house.ground.read::<_, FaceUnmade>(|view| Ok(store::get(view, store::SERVER_FACE)?)).await?;
    Ok(stored.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

fn open(house: &House, kept: &Kept, line: &Line) -> Result<Face, FaceUnmade> {
    let key = house.custody.open_own(store::SERVER_FACE, &kept.key)?;
    Ok(face(kept.certificate.clone(), kept.issuer(line), key.to_vec()))
}

fn face(certificate: Vec<u8>, issuer: &[u8], pkcs8: Vec<u8>) -> Face {
    let chain = vec![CertificateDer::from(certificate), CertificateDer::from(issuer.to_vec())];
    (chain, PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8)))
}

/// Has the CA issue a certificate for a new key. The order is recorded, then signed, then the result is kept.
/// If we stop in between, the next start finds nothing kept and issues another.
async fn issue(api: &ApiConfig, house: &House, line: &Line) -> Result<Face, FaceUnmade> {
    let issuer = line.server_issuer_at(house.ground.now());
    let key = rcgen::KeyPair::generate().map_err(FaceUnmade::Key)?;
    let ground = &house.ground;
    let common_name = api.names.first().map_or("chancery", String::as_str);
    let subject =
        Subject { common_name, organization: ground.ledger.origin(), from: ground.now(), lives: LIVES };
    let draft = issuer.draft_server(&api.names, &key, &subject, &ground.dice);
    let draft = draft.map_err(FaceUnmade::Certificate)?;
    let (order, not_after) = (issuer.order(&draft, Instant::now() + TOKEN_CALL_WAIT_MAX), draft.not_after);
    let after = json!({ "names": api.names, "serial": draft.serial, "not_after": not_after, "authority": issuer.fingerprint() });
    let recorded = ground.write::<_, FaceUnmade>(Telling::own(None), move |_, telling| {
        let entry =
            telling.entry("appliance.server_certificate", "server", |detail| detail.after(after.clone()));
        Ok(Told::new(order.clone(), entry))
    });
    let certificate =
        complete(&house.signer, recorded.await?, draft).await.map_err(FaceUnmade::Certificate)?;
    let pkcs8 = key.serialize_der();
    let sealed = house.custody.seal_own(store::SERVER_FACE, &pkcs8)?;
    let kept = Kept {
        certificate: certificate.clone(),
        issuer: Some(issuer.certificate().to_vec()),
        names: api.names.clone(),
        not_after,
        key: sealed,
    };
    keep(house, kept).await?;
    Ok(face(certificate, issuer.certificate(), pkcs8))
}

async fn keep(house: &House, kept: Kept) -> Result<(), FaceUnmade> {
    let hash = crate::api::CertificateHash::of(&kept.certificate).to_string();
    let bytes = serde_json::to_vec(&kept).map_err(|_| LedgerRefused::Fault(None))?;
    let recorded = house.ground.write::<_, FaceUnmade>(Telling::own(None), move |tx, telling| {
        store::replace(tx, store::SERVER_FACE, &bytes)?;
        let after = json!({ "certificate": hash.clone() });
        Ok(Told::new(
            (),
            telling.entry("appliance.server_certificate_kept", "server", |detail| detail.after(after)),
        ))
    });
    recorded.await.map(drop)
}
