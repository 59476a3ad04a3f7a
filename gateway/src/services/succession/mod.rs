//! The succession of the appliance's CAs: a new one takes over without a restart, an old one is retired with its clients.
//! Who enters: operators; the start, with an order that a crash left open.
//! What leaves: a line of authorities that the ledger tells of, and a face to the network that has followed it.

mod make;
pub mod routes;
pub mod wire;

use std::sync::Arc;

use audit::{Told, Tx};
use hsm::{Token, TokenError};
use serde_json::json;
use tokio::sync::Mutex;

use super::devices::{self, Devices};
use super::ground::{Ground, LedgerRefused, Say, Telling};
use crate::api::{CertificateHash, OperatorPermit, Origin, Problem, Reply};
use crate::appliance::succession::{self, LineRefused, LineUnusable, RecordedLine};
use crate::ca::authorities::{Authorities, Line, Standing};
use crate::ca::{Authority, CaRefused};
use crate::limits::FACE_WAIT_MAX;
use crate::refused_by_ledger;
use crate::signer::Signer;

/// Why the succession went no further.
#[derive(Debug, thiserror::Error)]
pub enum SuccessionRefused {
    /// The line may not change like this.
    #[error(transparent)]
    Line(#[from] LineRefused),
    /// The token did not make the key, or we do not know.
    #[error("the token did not make the key of the new authority")]
    Token(#[source] TokenError),
    /// While the token is away nobody knows what it holds of a rotation that came to nothing.
    #[error("a rotation that came to nothing cannot be settled while the token is away")]
    Unsettled,
    /// The certificate was not made.
    #[error("the certificate of the new authority was not made")]
    Certificate(#[from] CaRefused),
    /// The recorded line cannot be used.
    #[error("the recorded line of authorities cannot be used")]
    Unusable(#[from] LineUnusable),
    /// The ledger did not take or give it.
    #[error(transparent)]
    Ledger(#[from] LedgerRefused),
}
refused_by_ledger!(SuccessionRefused);

/// An authority as operators see it.
pub struct Member {
    /// Certificate, key and times.
    pub authority: Authority,
    /// Where it stands.
    pub standing: Standing,
    /// It issues for clients.
    pub issues_clients: bool,
    /// It issues for the server.
    pub issues_server: bool,
    /// How many enrolled clients have a certificate of it.
    pub clients: u64,
}

/// What came of a rotation.
pub struct Rotated {
    /// The successor's fingerprint.
    pub fingerprint: CertificateHash,
    /// New handshakes accept it already.
    pub in_use: bool,
}

/// What came of a retirement.
pub struct Retired {
    /// Its fingerprint.
    pub fingerprint: CertificateHash,
    /// How many clients were revoked with it.
    pub clients_revoked: usize,
    /// New handshakes refuse it already.
    pub in_use: bool,
}

/// The service.
pub struct Succession {
    ground: Ground,
    token: Token,
    signer: Signer,
    devices: Arc<Devices>,
    authorities: Authorities,
    // Held while the line changes, so that each change is published before the next one begins.
    turn: Mutex<()>,
}

impl Succession {
    /// The service on its ground.
    pub fn new(
        ground: Ground,
        token: Token,
        signer: Signer,
        devices: Arc<Devices>,
        authorities: Authorities,
    ) -> Self {
        Self { ground, token, signer, devices, authorities, turn: Mutex::default() }
    }

    /// Every authority there ever was, oldest first.
    ///
    /// # Errors
    /// The ledger gave nothing.
    pub async fn list(&self, _: &OperatorPermit) -> Result<Vec<Member>, SuccessionRefused> {
        let issued = self.ground.read::<_, SuccessionRefused>(|view| Ok(devices::issued(view)?)).await?;
        let line = self.authorities.present();
        let of = |authority: &Authority| {
            let (name, is_first) = (authority.fingerprint(), line.is_first(&authority.fingerprint()));
            let own = issued.iter().filter(|(issuer, _)| issuer.map_or(is_first, |issuer| issuer == name));
            own.map(|(_, clients)| clients).sum()
        };
        let member = |(authority, standing): &(Authority, Standing)| Member {
            authority: authority.clone(),
            standing: *standing,
            issues_clients: authority.fingerprint() == line.client_issuer().fingerprint(),
            issues_server: authority.fingerprint() == line.server_issuer_at(self.ground.now()).fingerprint(),
            clients: of(authority),
        };
        Ok(line.members().iter().map(member).collect())
    }

    /// Makes a successor, which issues for clients from now on. Its elders stay trusted until they are retired.
    ///
    /// # Errors
    /// One is being made already, there are too many, or token or ledger did not do it.
    pub async fn rotate(
        &self,
        by: &OperatorPermit,
        origin: &Origin,
        say: impl Say<Rotated> + Clone,
    ) -> Result<Reply, SuccessionRefused> {
        let _turn = self.turn.try_lock().map_err(|_| LineRefused::UnderWay)?;
        let telling = Telling::operator(by, None, origin);
        let (reply, line) = self.succeed(&telling, say.clone()).await?;
        let fingerprint = self.publish(&line)?;
        let in_use = self.authorities.come_to_be_worn(FACE_WAIT_MAX).await;
        said_again(&reply, say(&Rotated { fingerprint, in_use }))
    }

    /// Retires an authority and revokes every client that it issued. Once this has answered, they are out.
    ///
    /// # Errors
    /// There is no such one that is trusted, it is the only one, or the ledger did not do it.
    pub async fn retire(
        &self,
        by: &OperatorPermit,
        origin: &Origin,
        fingerprint: CertificateHash,
        say: impl Say<Retired> + Clone,
    ) -> Result<Reply, SuccessionRefused> {
        let _turn = self.turn.lock().await;
        let (telling, now) = (Telling::operator(by, None, origin), self.ground.now());
        let is_first = self.authorities.present().is_first(&fingerprint);
        let act = move |tx: &mut Tx<'_>, telling: &Telling| {
            let line = succession::change::<SuccessionRefused>(tx, |line| line.retire(&fingerprint, now))?;
            let (revoked, entries) = devices::revoke_issued(tx, &fingerprint, is_first, telling)?;
            let after = json!({ "state": "retired", "clients_revoked": entries.len() });
            let entry = telling.entry("ca.retire", fingerprint.to_string(), |detail| {
                detail.before(json!({ "state": "trusted" })).after(after)
            });
            Ok(Told::many((line, revoked, entries.len()), entry, entries))
        };
        let retired = move |clients_revoked, in_use| Retired { fingerprint, clients_revoked, in_use };
        let kept = say.clone();
        let in_between =
            move |(_, _, clients): &(_, Vec<CertificateHash>, _)| kept(&retired(*clients, false));
        // If we stop after this, the next start finds the line without it and its clients revoked.
        let (reply, recorded) =
            self.ground.answer_so_far::<_, SuccessionRefused>(telling, act, in_between).await?;
        let (line, revoked, clients_revoked) = recorded.into_value();
        self.devices.cut_off(&revoked);
        self.publish(&line)?;
        let in_use = self.authorities.come_to_be_worn(FACE_WAIT_MAX).await;
        said_again(&reply, say(&retired(clients_revoked, in_use)))
    }

    /// Makes the recorded line the present one, and names its youngest.
    fn publish(&self, recorded: &RecordedLine) -> Result<CertificateHash, SuccessionRefused> {
        let line: Line = recorded.line()?;
        let youngest = line.members().last().map(|(authority, _)| authority.fingerprint());
        let youngest = youngest.unwrap_or_else(|| line.client_issuer().fingerprint());
        self.authorities.replace(line);
        Ok(youngest)
    }
}

/// The answer as it is once the network has seen the change, under the entry that tells of it. What was kept with the change
/// said that it was not in use yet.
fn said_again(kept: &Reply, said: Result<Reply, Problem>) -> Result<Reply, SuccessionRefused> {
    let said = said.map_err(LedgerRefused::Unsaid)?;
    Ok(Reply { entry: kept.entry, ..said })
}
