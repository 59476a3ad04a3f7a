//! The narrow joint to encryption at rest: what sagas and idempotency keep of inputs and outputs is sealed.
//! Who enters: the wiring, with a cipher for each scope.
//! What leaves: sealed bytes bound to their place in the tables, and plain bytes that wipe themselves.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use audit::Workspace;
use zeroize::Zeroizing;

/// Plain bytes that are wiped when dropped.
pub type Plain = Zeroizing<Vec<u8>>;

/// What a [`Seal`] answers, when it does.
pub type CipherAnswer<'a> = Pin<Box<dyn Future<Output = Result<Arc<dyn Cipher>, SealFault>> + Send + 'a>>;

/// Gives the cipher of a workspace, or of the appliance.
pub trait Seal: Send + Sync {
    /// The cipher; it may have to be unwrapped by hardware first.
    fn cipher<'a>(&'a self, scope: Option<&'a Workspace>) -> CipherAnswer<'a>;
}

/// Seals and opens at once, so that it can be used inside a transaction.
pub trait Cipher: Send + Sync {
    /// Seals bytes for one place. Opened for another place they must not open.
    fn seal(&self, place: &str, plain: &[u8]) -> Result<Vec<u8>, SealFault>;
    /// Opens what was sealed for this place.
    fn open(&self, place: &str, sealed: &[u8]) -> Result<Plain, SealFault>;
}

/// Why nothing was sealed or opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealFault {
    /// The key is not at hand at the moment; try again.
    #[error("the key is not at hand: {0}")]
    Unavailable(String),
    /// The bytes do not open here: they were changed, moved, or sealed under a key that is gone.
    #[error("what was sealed does not open in this place")]
    DoesNotOpen,
}
