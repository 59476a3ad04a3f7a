//! The one way in which a string can fail to be what it should be.
//! Who enters: every parser of ids, names, times and words of the API.
//! What leaves: what would have been right, for the caller to read.

/// A string that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {expected}")]
pub struct Malformed {
    /// What would have been right, in words for the caller.
    pub expected: &'static str,
}
