//! The line of the appliance's authorities as recorded: the first from `init`, then each successor, and one on order.
//! Who enters: the wiring, at start; the succession service, inside a ledger transaction.
//! What leaves: the line after a change that may happen, or why it may not.

use audit::{SqlFault, Tx, View};
use hsm::KeyId;
use serde::{Deserialize, Serialize};

use super::{Facts, OwnKey, store};
use crate::api::CertificateHash;
use crate::ca::authorities::{Line, NobodyTrusted, Standing};
use crate::ca::{Authority, CaRefused};
use crate::limits::AUTHORITIES_TRUSTED_MAX;
use crate::moment::Moment;

/// One authority as recorded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecordedAuthority {
    /// Its key.
    pub key: OwnKey,
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
    /// Where it stands.
    pub standing: Standing,
}

/// The line as recorded. Until the first rotation there is no such record, and the line is the first authority alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecordedLine {
    /// Oldest first.
    pub authorities: Vec<RecordedAuthority>,
    /// The key of the successor that is being made; at a start it can only be a leftover.
    pub on_order: Option<KeyId>,
}

/// Why the line does not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineRefused {
    /// No authority has this fingerprint.
    #[error("no such authority")]
    NoSuchAuthority,
    /// It is retired already.
    #[error("the authority is retired already")]
    RetiredAlready,
    /// Without it no client could connect.
    #[error("it is the only trusted authority")]
    OnlyTrusted,
    /// Another successor is on order.
    #[error("a successor is being made already")]
    UnderWay,
    /// The order was closed meanwhile.
    #[error("the successor is no longer on order")]
    NotOnOrder,
    /// Each is a root that every handshake may have to try.
    #[error("as many authorities are trusted as may be")]
    TooManyTrusted,
}

/// The recorded line cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LineUnusable {
    /// A key's record.
    #[error(transparent)]
    Record(#[from] super::BadRecord),
    /// A certificate.
    #[error(transparent)]
    Certificate(#[from] CaRefused),
    /// Nobody is trusted.
    #[error(transparent)]
    Nobody(#[from] NobodyTrusted),
}

/// The recorded line; `None` where `init` was not finished.
///
/// # Errors
/// The ledger cannot be read, or the record is none.
pub fn read(view: &View<'_>) -> Result<Option<RecordedLine>, SqlFault> {
    let unreadable = |_| SqlFault::Malformed { column: 0 };
    if let Some(kept) = store::get(view, store::AUTHORITIES)? {
        return serde_json::from_slice(&kept).map(Some).map_err(unreadable);
    }
    let (facts, certificate) = (store::get(view, store::FACTS)?, store::get(view, store::CA_CERTIFICATE)?);
    let (Some(facts), Some(certificate)) = (facts, certificate) else { return Ok(None) };
    let Facts { ca: key, .. } = serde_json::from_slice(&facts).map_err(unreadable)?;
    let first = RecordedAuthority { key, certificate, standing: Standing::Trusted };
    Ok(Some(RecordedLine { authorities: vec![first], on_order: None }))
}

/// Changes the recorded line, if it may.
///
/// # Errors
/// The ledger did not do it, or the change says why it may not.
pub fn change<E: From<SqlFault> + From<LineRefused>>(
    tx: &Tx<'_>,
    change: impl FnOnce(&mut RecordedLine) -> Result<(), LineRefused>,
) -> Result<RecordedLine, E> {
    let mut line = read(tx)?.ok_or(SqlFault::Malformed { column: 0 })?;
    change(&mut line)?;
    let bytes = serde_json::to_vec(&line).map_err(|_| SqlFault::Malformed { column: 0 })?;
    store::replace(tx, store::AUTHORITIES, &bytes)?;
    Ok(line)
}

/// Does the authority still issue, as the ledger sees it in this very transaction?
///
/// # Errors
/// The ledger cannot be read.
pub fn is_trusted(tx: &Tx<'_>, fingerprint: &CertificateHash) -> Result<bool, SqlFault> {
    Ok(read(tx)?.is_some_and(|line| {
        line.trusted().any(|authority| CertificateHash::of(&authority.certificate) == *fingerprint)
    }))
}

impl RecordedLine {
    fn trusted(&self) -> impl Iterator<Item = &RecordedAuthority> {
        self.authorities.iter().filter(|authority| authority.standing == Standing::Trusted)
    }

    /// Puts a successor on order.
    ///
    /// # Errors
    /// Another is, or there is no room for one more.
    pub fn order(&mut self, key: KeyId) -> Result<(), LineRefused> {
        if self.on_order.is_some() {
            return Err(LineRefused::UnderWay);
        }
        if self.trusted().count() >= AUTHORITIES_TRUSTED_MAX {
            return Err(LineRefused::TooManyTrusted);
        }
        self.on_order = Some(key);
        Ok(())
    }

    /// Strikes the order: nothing comes of it.
    ///
    /// # Errors
    /// It is not on order.
    pub fn strike(&mut self, key: KeyId) -> Result<(), LineRefused> {
        self.on_order.take_if(|ordered| *ordered == key).map(drop).ok_or(LineRefused::NotOnOrder)
    }

    /// The successor is made and takes its place.
    ///
    /// # Errors
    /// It is not on order any more.
    pub fn succeed(&mut self, key: OwnKey, certificate: Vec<u8>) -> Result<(), LineRefused> {
        self.strike(key.key.id)?;
        self.authorities.push(RecordedAuthority { key, certificate, standing: Standing::Trusted });
        Ok(())
    }

    /// Retires an authority.
    ///
    /// # Errors
    /// There is no such one, it is retired already, or nobody trusted would be left.
    pub fn retire(&mut self, fingerprint: &CertificateHash, at: Moment) -> Result<(), LineRefused> {
        let trusted = self.trusted().count();
        let named = |one: &&mut RecordedAuthority| CertificateHash::of(&one.certificate) == *fingerprint;
        let found = self.authorities.iter_mut().find(named).ok_or(LineRefused::NoSuchAuthority)?;
        match (found.standing, trusted) {
            (Standing::Retired { .. }, _) => Err(LineRefused::RetiredAlready),
            (Standing::Trusted, ..=1) => Err(LineRefused::OnlyTrusted),
            (Standing::Trusted, _) => {
                found.standing = Standing::Retired { at };
                Ok(())
            }
        }
    }

    /// The line ready for use.
    ///
    /// # Errors
    /// A record cannot be used.
    pub fn line(&self) -> Result<Line, LineUnusable> {
        let mut members = Vec::new();
        for recorded in &self.authorities {
            let (key, public) = (recorded.key.signing("CA")?, recorded.key.public());
            members.push((Authority::new(recorded.certificate.clone(), key, public)?, recorded.standing));
        }
        Ok(Line::new(members)?)
    }
}

#[cfg(test)]
mod tests {
    use hsm::{Fingerprint, KeyKind, KeyRef};

    use super::*;

    fn own(id: u8) -> OwnKey {
        let key = KeyRef {
            id: KeyId([id; 16]),
            kind: KeyKind::P256,
            fingerprint: Fingerprint([id; 32]),
            blob: vec![],
        };
        OwnKey { key, spki_der: vec![id] }
    }

    fn line_of(ids: &[u8]) -> RecordedLine {
        let recorded = |id: &u8| RecordedAuthority {
            key: own(*id),
            certificate: vec![*id],
            standing: Standing::Trusted,
        };
        RecordedLine { authorities: ids.iter().map(recorded).collect(), on_order: None }
    }

    fn name(id: u8) -> CertificateHash {
        CertificateHash::of(&[id])
    }

    #[test]
    fn the_last_that_is_trusted_is_never_retired() {
        let (mut line, now) = (line_of(&[1, 2]), Moment::from_micros(7));
        assert_eq!(line.retire(&name(1), now), Ok(()));
        assert_eq!(line.retire(&name(1), now), Err(LineRefused::RetiredAlready));
        assert_eq!(line.retire(&name(2), now), Err(LineRefused::OnlyTrusted));
        assert_eq!(line.retire(&name(3), now), Err(LineRefused::NoSuchAuthority));
        assert_eq!(line.trusted().count(), 1);
    }

    #[test]
    fn one_successor_at_a_time_is_on_order_and_only_that_one_succeeds() {
        let mut line = line_of(&[1]);
        assert_eq!(line.order(KeyId([2; 16])), Ok(()));
        assert_eq!(line.order(KeyId([3; 16])), Err(LineRefused::UnderWay));
        assert_eq!(line.succeed(own(3), vec![3]), Err(LineRefused::NotOnOrder));
        assert_eq!(line.succeed(own(2), vec![2]), Ok(()));
        assert_eq!(line.strike(KeyId([2; 16])), Err(LineRefused::NotOnOrder));
        assert_eq!(line.authorities.len(), 2);
    }

    #[test]
    fn there_is_an_end_to_the_number_of_those_trusted() {
        let mut line = line_of(&[0; AUTHORITIES_TRUSTED_MAX]);
        assert_eq!(line.order(KeyId([9; 16])), Err(LineRefused::TooManyTrusted));
    }

    #[test]
    fn a_recorded_line_reads_back_as_itself() {
        let mut line = line_of(&[1, 2]);
        line.retire(&name(1), Moment::from_micros(1_000_000)).unwrap();
        let text = serde_json::to_string(&line).unwrap();
        let read: RecordedLine = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        assert_eq!(read.authorities[0].standing, Standing::Retired { at: Moment::from_micros(1_000_000) });
    }
}
