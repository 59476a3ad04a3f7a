//! The daemon's handle on one token: typed calls, each with a deadline.
//! Enters: a configuration, then calls from any task.
//! Leaves: results or errors that say whether the same call may be sent again.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::anchor::{AnchorAttestation, AnchorReading, AnchorStep, Quote};
use crate::config::TokenConfig;
use crate::double::Double;
use crate::error::{Refusal, StartRefused, TokenError};
use crate::fairness::Share;
use crate::key::{HmacKeyRef, KeyId, KeyRef, NewKey, PublicKey, RootKey, RootPin, RootTag, SignInput};
use crate::low_s;
use crate::probe::Probe;
use crate::protocol::{Call, Reply, Secret};
use crate::scheme::{KeyKind, Scheme};
use crate::supervisor::{Supervised, TokenState, Workers};

/// One token. Clones share it; the last one dropped ends its worker.
#[derive(Clone, Debug)]
pub struct Token {
    supervised: Supervised,
    /// In whose name its calls are made; the appliance's own stand in no line but the worker's.
    share: Option<Share>,
}

pub(crate) type Answered<T> = Result<T, TokenError>;

impl Token {
    /// Starts a worker and waits until it is ready. A wrong PIN is final: it was tried once and is never tried again.
    ///
    /// # Errors
    /// When the token cannot be used; the message says what to do.
    pub async fn start(config: TokenConfig) -> Result<Self, StartRefused> {
        Self::start_with(config, None).await
    }

    /// The same, for the token of an appliance that was made with this root key: no other is taken for it.
    ///
    /// # Errors
    /// When the token cannot be used; the message says what to do.
    pub async fn start_with(config: TokenConfig, root: Option<RootPin>) -> Result<Self, StartRefused> {
        Supervised::start(config, root).await.map(|supervised| Self { supervised, share: None })
    }

    /// Starts without waiting, for an appliance that was made with this root key: the token is away, with the reason in its state, until
    /// a worker has opened it.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn begin(config: TokenConfig, root: Option<RootPin>) -> Self {
        Self { supervised: Supervised::begin(config, root), share: None }
    }

    /// Every worker from now on is told of this root key.
    pub fn expect_root(&self, root: RootPin) {
        self.supervised.expect_root(Some(root));
    }

    /// Its worker processes, to be told from others.
    #[must_use]
    pub fn workers(&self) -> Workers {
        self.supervised.workers()
    }

    /// A token in memory, driven through the same queue, frames and deadlines.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn double(double: Double) -> Self {
        Self { supervised: Supervised::double(double), share: None }
    }

    /// How it is now.
    #[must_use]
    pub fn state(&self) -> TokenState {
        self.supervised.state()
    }

    /// How it is from now on.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<TokenState> {
        self.supervised.watch()
    }

    /// What it is and can do, as of the last time it was opened.
    #[must_use]
    pub fn probe(&self) -> Arc<Probe> {
        self.supervised.probe()
    }

    /// Makes a key that cannot leave. The id is the caller's: after an unknown outcome the same call is sent again and ends with one key
    /// under that id, the one of the lost call if it was made. A TPM keeps no keys; there the lost one is gone with its blob.
    pub async fn generate(
        &self,
        id: KeyId,
        kind: KeyKind,
        label: &str,
        deadline: Instant,
    ) -> Answered<NewKey> {
        let call = Call::Generate { id, kind, label: label.to_owned() };
        match self.ask(call, deadline).await? {
            Reply::NewKey(made) => Ok(made),
            other => Err(misfit(&other)),
        }
    }

    /// The public half of a key, if the token holds it.
    pub async fn find(&self, id: KeyId, deadline: Instant) -> Answered<Option<PublicKey>> {
        match self.ask(Call::Find { id }, deadline).await? {
            Reply::Found(found) => Ok(found),
            other => Err(misfit(&other)),
        }
    }

    /// Signs. ECDSA gives r then s at full length, over secp256k1 with the lower s; Ed25519 64 bytes, RSA as many as the modulus.
    pub async fn sign(
        &self,
        key: &KeyRef,
        scheme: Scheme,
        input: SignInput,
        deadline: Instant,
    ) -> Answered<Vec<u8>> {
        let input = fit(key.kind, scheme, input)?;
        match self.ask(Call::Sign { key: key.clone(), scheme, input }, deadline).await? {
            Reply::Bytes(mut signature) => {
                if key.kind == KeyKind::Secp256k1 {
                    low_s::normalise(&mut signature);
                }
                Ok(signature)
            }
            other => Err(misfit(&other)),
        }
    }

    /// Makes an HMAC-SHA256 key that cannot leave, or finds the one of this name.
    pub async fn generate_hmac_key(&self, id: KeyId, label: &str, deadline: Instant) -> Answered<HmacKeyRef> {
        match self.ask(Call::GenerateHmacKey { id, label: label.to_owned() }, deadline).await? {
            Reply::HmacKey(made) => Ok(made),
            other => Err(misfit(&other)),
        }
    }

    /// Authenticates data inside the token.
    pub async fn hmac_sha256(&self, key: &HmacKeyRef, data: &[u8], deadline: Instant) -> Answered<[u8; 32]> {
        match self.ask(Call::Hmac { key: key.clone(), data: data.to_vec() }, deadline).await? {
            Reply::Tag(tag) => Ok(tag),
            other => Err(misfit(&other)),
        }
    }

    /// Destroys a key. One that is gone already is success; another key behind the same name is left alone.
    pub async fn destroy(&self, key: &KeyRef, deadline: Instant) -> Answered<()> {
        self.ask(Call::Destroy { key: key.clone() }, deadline).await.and_then(done)
    }

    /// Destroys an HMAC key. One that is gone already is success.
    pub async fn destroy_hmac_key(&self, key: &HmacKeyRef, deadline: Instant) -> Answered<()> {
        self.ask(Call::DestroyHmacKey { key: key.clone() }, deadline).await.and_then(done)
    }

    /// Random bytes from the device.
    pub async fn random(&self, len: usize, deadline: Instant) -> Answered<Vec<u8>> {
        match self.ask(Call::Random { len }, deadline).await? {
            Reply::Bytes(bytes) => Ok(bytes),
            other => Err(misfit(&other)),
        }
    }

    /// Finds the token's root key, or makes it once.
    pub async fn ensure_root(&self, deadline: Instant) -> Answered<RootKey> {
        match self.ask(Call::EnsureRoot, deadline).await? {
            Reply::Root(root) => Ok(root),
            other => Err(misfit(&other)),
        }
    }

    /// Makes the root key of a new appliance, and proves with it all that the appliance will rest on. Asked again with the same tag, it
    /// ends with one root. Every worker from now on is told of it.
    pub async fn make_root(&self, tag: RootTag, deadline: Instant) -> Answered<RootKey> {
        match self.ask(Call::MakeRoot { tag }, deadline).await? {
            Reply::Root(root) => {
                self.supervised.expect_root(Some(root.pin()));
                Ok(root)
            }
            other => Err(misfit(&other)),
        }
    }

    /// Takes away what was made for an appliance that did not come to be: its root key and its anchor. What is gone is success.
    pub async fn unmake_root(&self, tag: RootTag, deadline: Instant) -> Answered<()> {
        self.ask(Call::UnmakeRoot { tag }, deadline).await.and_then(done)?;
        self.supervised.expect_root(None);
        Ok(())
    }

    /// Makes the successor of a root key, or finds it: asked twice, it makes one. What is wrapped from now on is wrapped under the newest;
    /// wrap anew what the old one holds, then [`Token::destroy_root`] it. A TPM has one root and answers `Unsupported`: wrap anew there.
    pub async fn succeed_root(&self, root: &RootKey, deadline: Instant) -> Answered<RootKey> {
        match self.ask(Call::SucceedRoot { id: root.id.clone() }, deadline).await? {
            Reply::Root(root) => {
                self.supervised.succeed_root(&root);
                Ok(root)
            }
            other => Err(misfit(&other)),
        }
    }

    /// Destroys an old root key, and with it all that was wrapped under it. The newest is refused; one that is gone is success.
    pub async fn destroy_root(&self, root: &RootKey, deadline: Instant) -> Answered<()> {
        self.ask(Call::DestroyRoot { id: root.id.clone() }, deadline).await.and_then(done)
    }

    /// Wraps a secret under the root key, bound to `aad`.
    pub async fn wrap(&self, secret: &[u8], aad: &[u8], deadline: Instant) -> Answered<Vec<u8>> {
        let call = Call::Wrap { secret: Secret(secret.to_vec()), aad: aad.to_vec() };
        match self.ask(call, deadline).await? {
            Reply::Bytes(wrapped) => Ok(wrapped),
            other => Err(misfit(&other)),
        }
    }

    /// Opens what [`Token::wrap`] closed, with the same `aad`.
    pub async fn unwrap(
        &self,
        wrapped: &[u8],
        aad: &[u8],
        deadline: Instant,
    ) -> Answered<Zeroizing<Vec<u8>>> {
        let call = Call::Unwrap { wrapped: wrapped.to_vec(), aad: aad.to_vec() };
        match self.ask(call, deadline).await? {
            Reply::Secret(mut secret) => Ok(Zeroizing::new(std::mem::take(&mut secret.0))),
            other => Err(misfit(&other)),
        }
    }

    /// What the token remembers of the ledger.
    pub async fn anchor_read(&self, deadline: Instant) -> Answered<AnchorReading> {
        match self.ask(Call::AnchorRead, deadline).await? {
            Reply::Anchor(reading) => Ok(reading),
            other => Err(misfit(&other)),
        }
    }

    /// One step forward; a step already taken is success.
    pub async fn anchor_advance(&self, step: AnchorStep, deadline: Instant) -> Answered<()> {
        self.ask(Call::AnchorAdvance { step }, deadline).await.and_then(done)
    }

    /// A TPM's signed statement of the anchor; `None` from tokens that make none.
    pub async fn anchor_attest(
        &self,
        qualifying: [u8; 32],
        deadline: Instant,
    ) -> Answered<Option<AnchorAttestation>> {
        match self.ask(Call::AnchorAttest { qualifying }, deadline).await? {
            Reply::Attestation(statement) => Ok(statement),
            other => Err(misfit(&other)),
        }
    }

    /// Increments the TPM's counter; `None` from tokens that have none.
    pub async fn anchor_count(&self, deadline: Instant) -> Answered<Option<u64>> {
        match self.ask(Call::AnchorCount, deadline).await? {
            Reply::Count(count) => Ok(count),
            other => Err(misfit(&other)),
        }
    }

    /// A TPM's signed statement of the machine's state; `None` from tokens that make none.
    pub async fn quote(&self, nonce: [u8; 32], deadline: Instant) -> Answered<Option<Quote>> {
        match self.ask(Call::Quote { nonce }, deadline).await? {
            Reply::Quote(statement) => Ok(statement),
            other => Err(misfit(&other)),
        }
    }

    /// Lets calls in flight end, then ends the worker in order.
    pub async fn close(self) {
        self.supervised.close().await;
    }

    pub(crate) async fn ask(&self, call: Call, deadline: Instant) -> Answered<Reply> {
        let ticket = match &self.share {
            Some(share) => Some(share.turn(&call, deadline).await?),
            None => None,
        };
        self.supervised.ask(call, deadline, ticket).await
    }

    pub(crate) fn in_the_name_of(self, share: Share) -> Self {
        Self { share: Some(share), ..self }
    }
}

/// What goes to the worker: the digest where the scheme has a hash, the message where it has none.
fn fit(kind: KeyKind, scheme: Scheme, input: SignInput) -> Answered<Vec<u8>> {
    if !kind.schemes().contains(&scheme) {
        return Err(bad_input(format!("a {kind} key does not sign {scheme}")));
    }
    match (scheme.hash(), input) {
        (Some(hash), SignInput::Message(message)) => Ok(hash.digest(&message)),
        (Some(hash), SignInput::Digest(digest)) if digest.len() == hash.len() => Ok(digest),
        (Some(hash), SignInput::Digest(digest)) => {
            Err(bad_input(format!("the digest has {} bytes, {scheme} needs {}", digest.len(), hash.len())))
        }
        (None, SignInput::Message(message)) if message.len() <= MESSAGE_BYTES_MAX => Ok(message),
        (None, SignInput::Message(_)) => {
            Err(bad_input(format!("the message is longer than {MESSAGE_BYTES_MAX} bytes")))
        }
        (None, SignInput::Digest(_)) => Err(bad_input(format!("{scheme} signs the message, not its digest"))),
    }
}

const fn bad_input(why: String) -> TokenError {
    TokenError::Refused(Refusal::BadInput(why))
}

pub(crate) fn done(reply: Reply) -> Answered<()> {
    match reply {
        Reply::Done => Ok(()),
        other => Err(misfit(&other)),
    }
}

/// A worker that answers another question than was asked may have done anything.
pub(crate) fn misfit(reply: &Reply) -> TokenError {
    tracing::error!(reply = ?std::mem::discriminant(reply), "the worker answered another question than was asked");
    TokenError::OutcomeUnknown
}

/// A whole message goes to the token only for Ed25519; a frame has room for it.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
