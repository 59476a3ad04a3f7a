//! The room of requests that are sent twice: one effect, one answer, whatever was lost on the way.
//! Who enters: the boundary with a key and a fingerprint; commands with their own transactions.
//! What leaves: the word whether a request is fresh, answered, in flight, to be resumed, or not the same one.

mod fingerprint;
mod key;
mod rows;
mod words;

use std::sync::Arc;
use std::time::Duration;

use audit::{Clock, Ledger, SqlFault, Tx, View, WriteRefused};

pub use fingerprint::{Fingerprint, RequestParts};
pub use key::{Key, NotAKey};
pub(crate) use rows::STATEMENTS;
pub use words::{Answer, ClaimRefused, Held, Keep, Replay, Standing, Whose};

use crate::ids::SagaKey;
use crate::limits::{ANSWER_BYTES_MAX, CLAIM_LEASE, KEYS_SWEPT_MAX, REFUSAL_KEPT, SECRET_KEPT};
use crate::seal::{Cipher, Plain, Seal, SealFault};
use rows::{Row, State, Stored};

/// Makes claims.
#[derive(Clone)]
pub struct Idempotency {
    seal: Arc<dyn Seal>,
    clock: Arc<dyn Clock>,
}

/// A request with its key, ready for any transaction.
#[derive(Clone)]
pub struct Claim {
    whose: Whose,
    key: Key,
    fingerprint: Fingerprint,
    kept: Keep,
    cipher: Arc<dyn Cipher>,
    clock: Arc<dyn Clock>,
}

impl Idempotency {
    /// Over the seal that also seals sagas.
    pub fn new(seal: Arc<dyn Seal>, clock: Arc<dyn Clock>) -> Self {
        Self { seal, clock }
    }

    /// Prepares a request's claim.
    ///
    /// # Errors
    /// That the key for answers is not at hand.
    pub async fn claim(
        &self,
        whose: Whose,
        key: Key,
        fingerprint: Fingerprint,
        kept: Keep,
    ) -> Result<Claim, SealFault> {
        let cipher = self.seal.cipher(whose.scope.workspace()).await?;
        Ok(Claim { whose, key, fingerprint, kept, cipher, clock: self.clock.clone() })
    }

    /// Removes what nobody may ask for any more, so many keys in one transaction, and secrets whose ten minutes are over. Says
    /// how many keys went.
    ///
    /// # Errors
    /// Why the ledger did not take it; what went before stays gone.
    pub async fn sweep(&self, ledger: &Ledger) -> Result<usize, WriteRefused<SqlFault>> {
        let (now_us, mut gone) = (self.clock.unix_us(), 0);
        let why = "secrets whose time is over; that they were shown was told when they were";
        ledger.write_unaudited(why, move |tx| rows::wipe_secrets(tx, now_us)).await?;
        loop {
            let why = "keys whose time is over; their effects were told when they happened";
            let some = ledger.write_unaudited(why, move |tx| rows::sweep(tx, now_us, KEYS_SWEPT_MAX)).await?;
            gone += some;
            if some < KEYS_SWEPT_MAX {
                return Ok(gone);
            }
        }
    }

    /// Lets go of every claim that a request before this start of the process held: whoever holds the ledger knows that
    /// none of them lives. To be called before the first request is let in. Says how many there were.
    ///
    /// # Errors
    /// Why the ledger did not take it; then the claims run out by the clock.
    pub async fn release(&self, ledger: &Ledger) -> Result<usize, WriteRefused<SqlFault>> {
        let why = "claims of requests that died with their process; what they did was told when it was done";
        ledger.write_unaudited(why, |tx| rows::release(tx)).await
    }
}

impl Claim {
    /// Who claims it.
    pub fn whose(&self) -> &Whose {
        &self.whose
    }

    /// The key that is claimed.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Where the request stands, without claiming anything: for a look before the work.
    ///
    /// # Errors
    /// What does not open, or what the database said.
    pub fn find(&self, view: &View<'_>) -> Result<Option<Standing>, ClaimRefused> {
        let now_us = self.now_us();
        let Some(row) = rows::row(view, &self.whose, &self.key)? else { return Ok(None) };
        match self.judge(view, &row, now_us)? {
            // Free again: whoever takes it next makes it so.
            Standing::Fresh(_) => Ok(None),
            standing => Ok(Some(standing)),
        }
    }

    /// Whether there is room for the answer of one more request; asked before anything is done, since afterwards it is too late.
    ///
    /// # Errors
    /// [`ClaimRefused::Full`], or what the database said.
    pub fn check_room(&self, view: &View<'_>) -> Result<(), ClaimRefused> {
        match self.kept.bytes_max {
            Some(bytes_max) if rows::held_bytes(view, &self.whose)? >= bytes_max => Err(ClaimRefused::Full),
            _ => Ok(()),
        }
    }

    /// Claims the key, in the transaction of the effect. Only [`Standing::Fresh`] and [`Standing::Resume`] permit the
    /// effect; with any other the closure refuses, and nothing of it remains.
    ///
    /// # Errors
    /// What does not open, or what the database said.
    pub fn take(&self, tx: &mut Tx<'_>) -> Result<Standing, ClaimRefused> {
        let now_us = self.now_us();
        // Epochs begin at the time: a claim from before the key was swept fits no claim from after it.
        let first = i64::try_from(now_us).unwrap_or(i64::MAX / 2);
        if rows::insert(tx, &self.fresh_row(first, now_us))? {
            self.check_room(tx)?;
            return Ok(Standing::Fresh(Held { epoch: first }));
        }
        let Some(row) = rows::row(tx, &self.whose, &self.key)? else {
            return Err(ClaimRefused::Superseded);
        };
        match self.judge(tx, &row, now_us)? {
            Standing::Fresh(held) => {
                self.check_room(tx)?;
                rows::renew(tx, &self.fresh_row(held.epoch, now_us))?;
                Ok(Standing::Fresh(held))
            }
            Standing::Resume(held) => {
                self.moved(rows::take_over(tx, &self.whose, &self.key, row.epoch, claim_until(now_us))?)?;
                Ok(Standing::Resume(held))
            }
            standing => Ok(standing),
        }
    }

    /// Keeps an answer in the transaction that makes it true, for the case that no other comes: should the process stop
    /// before [`finish`](Self::finish), this is what the request is answered with. Until then it goes on being in flight.
    /// One that has been taken over provides nothing, so its effect does not happen either.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    pub fn provide(
        &self,
        tx: &mut Tx<'_>,
        held: Held,
        answer: &Answer,
        with_secret: Option<&Plain>,
    ) -> Result<(), ClaimRefused> {
        self.keep(tx, held, (answer, with_secret), State::Claimed)
    }

    /// Makes a workflow the answer, in the transaction that starts it.
    ///
    /// # Errors
    /// That another request has taken over, or what the database said.
    pub fn attach(&self, tx: &mut Tx<'_>, held: Held, saga: &SagaKey) -> Result<(), ClaimRefused> {
        self.moved(rows::attach(tx, &self.whose, &self.key, held.epoch, saga)?)
    }

    /// Keeps the answer, for good. An answer of 500 and above is not for keeping: [`let_go`](Self::let_go) instead. Of one
    /// whose body shows a secret once, `with_secret` is that body: it is kept for ten minutes, and `answer` for as long as any.
    ///
    /// # Errors
    /// That another request has taken over, or what the database said.
    pub fn finish(
        &self,
        tx: &mut Tx<'_>,
        held: Held,
        answer: &Answer,
        with_secret: Option<&Plain>,
    ) -> Result<(), ClaimRefused> {
        self.keep(tx, held, (answer, with_secret), State::Finished)
    }

    /// Lets the next request with the key go on at once. What was provided meanwhile stays the answer.
    ///
    /// # Errors
    /// That another request has taken over, or what the database said.
    pub fn let_go(&self, tx: &mut Tx<'_>, held: Held) -> Result<(), ClaimRefused> {
        self.moved(rows::let_go(tx, &self.whose, &self.key, held.epoch)?)
    }

    /// The same where what was provided has turned out not to be so: nothing of the request happened, and the next one with
    /// the key is carried out.
    ///
    /// # Errors
    /// That another request has taken over, or what the database said.
    pub fn take_back(&self, tx: &mut Tx<'_>, held: Held) -> Result<(), ClaimRefused> {
        self.moved(rows::take_back(tx, &self.whose, &self.key, held.epoch)?)
    }

    /// Counts an answer that was given again, and says how often it was by now; never, if it was swept meanwhile.
    ///
    /// # Errors
    /// What the database said.
    pub fn count_replay(&self, tx: &mut Tx<'_>) -> Result<u64, SqlFault> {
        rows::count_replay(tx, &self.whose, &self.key)
    }

    /// Whether a one-time secret still stands in the row: for tests of its end.
    ///
    /// # Errors
    /// What the database said.
    #[cfg(any(test, feature = "double"))]
    pub fn keeps_secret(&self, view: &View<'_>) -> Result<bool, SqlFault> {
        let stored = rows::row(view, &self.whose, &self.key)?.and_then(|row| row.stored);
        Ok(stored.is_some_and(|stored| stored.secret_sealed.is_some()))
    }

    fn keep(
        &self,
        tx: &mut Tx<'_>,
        held: Held,
        (answer, secret): (&Answer, Option<&Plain>),
        state: State,
    ) -> Result<(), ClaimRefused> {
        let now_us = self.now_us();
        // Of a longer one it is kept that it was given: a request that was carried out is never carried out again.
        let body = match answer.body.len() <= ANSWER_BYTES_MAX {
            true => Some(self.cipher.seal(&self.place("body"), &answer.body)?),
            false => None,
        };
        let secret = secret.map(|body| self.cipher.seal(&self.place("secret"), body)).transpose()?;
        let stored = Stored {
            status: answer.status,
            headers: serde_json::to_string(&answer.headers)?,
            location: answer.location.clone(),
            body_sealed: body,
            secret_until_us: secret.is_some().then(|| now_us + micros(SECRET_KEPT)),
            secret_sealed: secret,
            until_us: match answer.status {
                // Nothing was done, so nothing is lost when it is asked anew.
                400..500 => now_us + micros(REFUSAL_KEPT),
                _ => u64::MAX,
            },
        };
        self.moved(rows::keep(tx, &self.whose, &self.key, held.epoch, (&stored, state))?)
    }

    /// The one place that decides, for a look and for a claim.
    fn judge(&self, view: &View<'_>, row: &Row, now_us: u64) -> Result<Standing, ClaimRefused> {
        let lives = match &row.saga {
            Some(saga) => crate::store::saga(view, saga)?.is_some_and(|saga| !saga.state.is_over()),
            None => false,
        };
        let finished = row.state == State::Finished;
        let working = !finished && row.claim_until_us > now_us;
        if row.expires_us <= now_us && !lives && !working {
            return Ok(Standing::Fresh(Held { epoch: row.epoch + 1 }));
        }
        if row.fingerprint != self.fingerprint.0 {
            return Ok(Standing::OtherRequest);
        }
        Ok(match (&row.stored, &row.saga) {
            (Some(stored), _) if finished => Standing::Finished(self.replay(stored, now_us)?),
            (_, Some(saga)) => Standing::Attached(saga.clone()),
            _ if working => Standing::InFlight { until_us: row.claim_until_us },
            // Whoever worked on it stopped after the effect.
            (Some(stored), _) => Standing::Finished(self.replay(stored, now_us)?),
            (None, None) => Standing::Resume(Held { epoch: row.epoch + 1 }),
        })
    }

    fn replay(&self, stored: &Stored, now_us: u64) -> Result<Replay, ClaimRefused> {
        let secret = stored.secret_sealed.as_ref();
        let secret = secret.filter(|_| stored.secret_until_us.is_some_and(|until| until > now_us));
        let body = match (secret, &stored.body_sealed) {
            (Some(sealed), _) => self.cipher.open(&self.place("secret"), sealed)?.to_vec(),
            (None, Some(sealed)) => self.cipher.open(&self.place("body"), sealed)?.to_vec(),
            (None, None) => Vec::new(),
        };
        let headers = serde_json::from_str(&stored.headers)?;
        let answer = Answer { status: stored.status, headers, body, location: stored.location.clone() };
        let whole = stored.body_sealed.is_some();
        let secret_available = stored.secret_until_us.map(|_| secret.is_some());
        Ok(Replay { answer, whole, secret_available })
    }

    fn fresh_row(&self, epoch: i64, now_us: u64) -> Row {
        Row {
            whose: self.whose.clone(),
            key: self.key.clone(),
            fingerprint: self.fingerprint.0,
            epoch,
            claim_until_us: claim_until(now_us),
            saga: None,
            state: State::Claimed,
            stored: None,
            kept_us: micros(self.kept.long),
            expires_us: now_us + micros(self.kept.long),
        }
    }

    fn place(&self, what: &str) -> String {
        let Whose { scope, principal } = &self.whose;
        // Lengths keep `a` + `b/c` and `a/b` + `c` apart.
        format!("idempotency/{scope}/{}/{principal}/{}/{what}", principal.len(), self.key.as_str())
    }

    fn moved(&self, moved: bool) -> Result<(), ClaimRefused> {
        if moved { Ok(()) } else { Err(ClaimRefused::Superseded) }
    }

    fn now_us(&self) -> u64 {
        self.clock.unix_us()
    }
}

fn claim_until(now_us: u64) -> u64 {
    now_us + micros(CLAIM_LEASE)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX / 4)
}
