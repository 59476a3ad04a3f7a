//! Making a successor: the order on the ledger, the key in the token, the certificate ordered, signed and kept.
//! Who enters: a rotation; the start, with an order that a crash left open.
//! What leaves: a recorded line with the successor in it, or an order struck from it and nothing left in the token.

use std::time::Instant;

use audit::{Outcome, Recorded, Told, Tx};
use hsm::{KeyId, KeyKind};
use serde_json::json;

use super::{Rotated, Succession, SuccessionRefused};
use crate::api::{CertificateHash, Reply};
use crate::appliance::OwnKey;
use crate::appliance::succession::{self, LineRefused, LineUnusable, RecordedLine};
use crate::ca::{self, Draft, Subject};
use crate::hardware::sweep;
use crate::limits::TOKEN_GENERATE_WAIT_MAX;
use crate::services::ground::{Say, Telling};
use crate::signer::SignOrder;

impl Succession {
    /// Order, key, certificate, place in the line.
    pub(super) async fn succeed(
        &self,
        telling: &Telling,
        say: impl Say<Rotated>,
    ) -> Result<(Reply, RecordedLine), SuccessionRefused> {
        let id = KeyId(self.ground.dice.throw());
        let place = match self.order(telling, id).await {
            // Rotations take turns, so this order is what a failed one left. That it was seen inside a transaction
            // shows that the ledger still writes: what it says stands, and a restart will not say otherwise.
            Err(SuccessionRefused::Line(LineRefused::UnderWay)) => {
                self.close_leftover().await?;
                self.order(telling, id).await?
            }
            outcome => outcome?,
        };
        let (own, certificate) = match self.make(telling, id, place).await {
            Ok(made) => made,
            Err(why) => return Err(self.give_up(telling, id, why).await),
        };
        // A failure here strikes nothing: whether it was written may show only after a restart, and until then the
        // key must stay. The next rotation or start reads the line and knows.
        self.keep(telling, own, certificate, say).await
    }

    async fn give_up(&self, telling: &Telling, id: KeyId, why: SuccessionRefused) -> SuccessionRefused {
        if let Err(left) = self.close(telling, id).await {
            tracing::warn!(%left, "the order of a certificate authority is closed by the next rotation or start");
        }
        why
    }

    /// Gives the successor's place in the line, counted from one.
    /// If we stop after this, the start finds the order, destroys what the token may hold under its name, and closes it.
    async fn order(&self, telling: &Telling, id: KeyId) -> Result<usize, SuccessionRefused> {
        let recorded = self.ground.write::<_, SuccessionRefused>(telling.clone(), move |tx, telling| {
            let line = succession::change::<SuccessionRefused>(tx, |line| line.order(id))?;
            let after = json!({ "token_key": id.to_string() });
            let entry = telling.entry("ca.order", id.to_string(), |detail| detail.after(after));
            Ok(Told::new(line.authorities.len() + 1, entry))
        });
        recorded.await.map(Recorded::into_value)
    }

    async fn make(
        &self,
        telling: &Telling,
        id: KeyId,
        place: usize,
    ) -> Result<(OwnKey, Vec<u8>), SuccessionRefused> {
        let deadline = Instant::now() + TOKEN_GENERATE_WAIT_MAX;
        let label = format!("chancery appliance CA {place}");
        let new = self.token.generate(id, KeyKind::P256, &label, deadline).await;
        let new = new.map_err(SuccessionRefused::Token)?;
        let own = OwnKey { key: new.key, spki_der: new.public.spki_der };
        let draft = self.draft(&own, place)?;
        let order = ca::order(&own.signing("CA").map_err(LineUnusable::from)?, &draft, deadline);
        let recorded = self.record_draft(telling, &own, &draft, order).await?;
        let certificate = ca::complete(&self.signer, recorded, draft).await?;
        Ok((own, certificate))
    }

    /// Named by its place, so that a client which knows several tells them apart by name as well as by key.
    fn draft(&self, own: &OwnKey, place: usize) -> Result<Draft, SuccessionRefused> {
        let subject = Subject {
            common_name: &format!("Chancery CA {place}"),
            organization: self.ground.ledger.origin(),
            from: self.ground.now(),
            lives: ca::AUTHORITY_LIVES,
        };
        Ok(ca::draft_authority(&own.public(), &subject, &self.ground.dice)?)
    }

    /// If we stop after this, there may be a certificate that nobody kept, under a key that the start destroys.
    async fn record_draft(
        &self,
        telling: &Telling,
        own: &OwnKey,
        draft: &Draft,
        order: SignOrder,
    ) -> Result<Recorded<SignOrder>, SuccessionRefused> {
        let id = own.key.id;
        let after = json!({
            "serial": draft.serial,
            "not_after": draft.not_after,
            "key": own.key.fingerprint.to_string(),
        });
        let recorded = self.ground.write::<_, SuccessionRefused>(telling.clone(), move |_, telling| {
            let entry = telling.entry("ca.draft", id.to_string(), |detail| detail.after(after.clone()));
            Ok(Told::new(order.clone(), entry))
        });
        recorded.await
    }

    /// If we stop after this, the next start finds the successor in its place, and the face follows it from there.
    async fn keep(
        &self,
        telling: &Telling,
        own: OwnKey,
        certificate: Vec<u8>,
        say: impl Say<Rotated>,
    ) -> Result<(Reply, RecordedLine), SuccessionRefused> {
        let fingerprint = CertificateHash::of(&certificate);
        let act = move |tx: &mut Tx<'_>, telling: &Telling| {
            let line = succession::change::<SuccessionRefused>(tx, |line| {
                line.succeed(own.clone(), certificate.clone())
            })?;
            let after = json!({ "state": "trusted", "token_key": own.key.id.to_string() });
            let entry = telling.entry("ca.rotate", fingerprint.to_string(), |detail| detail.after(after));
            Ok(Told::new(line, entry))
        };
        let kept = move |_: &RecordedLine| say(&Rotated { fingerprint, in_use: false });
        let (reply, recorded) =
            self.ground.answer_so_far::<_, SuccessionRefused>(telling.clone(), act, kept).await?;
        Ok((reply, recorded.into_value()))
    }

    /// Closes the order that a crash left open. The appliance's own act, so it tells it under its own name.
    ///
    /// # Errors
    /// The ledger gave or took nothing.
    pub async fn recover(&self) -> Result<(), SuccessionRefused> {
        let _turn = self.turn.lock().await;
        self.close_leftover().await
    }

    async fn close_leftover(&self) -> Result<(), SuccessionRefused> {
        let read = self.ground.read::<_, SuccessionRefused>(|view| Ok(succession::read(view)?));
        match read.await?.and_then(|line| line.on_order) {
            Some(id) => self.close(&Telling::own(None), id).await,
            None => Ok(()),
        }
    }

    /// Destroys whatever the token holds under the order's name, then records that nothing came of it.
    async fn close(&self, telling: &Telling, id: KeyId) -> Result<(), SuccessionRefused> {
        if !sweep(&self.token, id).await {
            // The order stays open; the next rotation or start closes it.
            return Err(SuccessionRefused::Unsettled);
        }
        let recorded = self.ground.write::<_, SuccessionRefused>(telling.clone(), move |tx, telling| {
            succession::change::<SuccessionRefused>(tx, |line| line.strike(id))?;
            let after = json!({ "state": "not_made" });
            let entry = telling.entry("ca.order_closed", id.to_string(), |detail| detail.after(after));
            Ok(Told::new((), entry.outcome(Outcome::Failed)))
        });
        let seq = recorded.await?.seq();
        tracing::warn!(seq, "a certificate authority on order was not made");
        Ok(())
    }
}
