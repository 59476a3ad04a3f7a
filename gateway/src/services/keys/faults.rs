//! What a token's failure means to a step: try again, find out, unwind, or call for a person.
//! Who enters: token errors, in steps of workflows.
//! What leaves: one of the four classes, in words that may be kept and shown.

use crate::api::Code;
use hsm::{Refusal, TokenError};
use sagas::{Reason, RemoteFault};

/// Sorts a token's failure.
pub fn token(error: TokenError) -> RemoteFault {
    let words = words(&error);
    match error {
        TokenError::Busy { .. } | TokenError::Gone { .. } | TokenError::Expired => RemoteFault::later(words),
        TokenError::OutcomeUnknown => RemoteFault::unknown(words),
        TokenError::Unsupported { .. } => refused(Code::TokenCannot, words),
        TokenError::Refused(Refusal::TokenFull) => refused(Code::TokenFull, words),
        TokenError::Refused(Refusal::NotRecoverable) => refused(Code::NotRecoverable, words),
        TokenError::Refused(Refusal::WrongImport | Refusal::ImportBroken) => {
            refused(Code::ImportRefused, words)
        }
        TokenError::Refused(_) | TokenError::WrongKey { .. } | TokenError::KeyMissing { .. } => {
            refused(Code::TokenRefused, words)
        }
    }
}

/// What may be kept of a token's failure and shown to whoever asked; what the device said of it goes to the log.
pub fn words(error: &TokenError) -> String {
    if !error.retry_is_safe() {
        tracing::warn!(%error, "the token did not do its part of a workflow");
    }
    error.outward()
}

fn refused(code: Code, words: String) -> RemoteFault {
    RemoteFault::Business(Reason::new(code, words))
}
