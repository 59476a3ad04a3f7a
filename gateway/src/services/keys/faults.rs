//! What a token's failure means to a step: try again, find out, unwind, or call for a person.
//! Who enters: token errors, in steps of workflows.
//! What leaves: one of the four classes, in words that may be kept and shown.

use crate::api::Code;
use hsm::{Refusal, TokenError};
use sagas::{Reason, RemoteFault};

/// Sorts a token's failure.
pub fn token(error: TokenError) -> RemoteFault {
    let words = error.to_string();
    match error {
        TokenError::Busy { .. } | TokenError::Gone { .. } | TokenError::Expired => RemoteFault::later(words),
        TokenError::OutcomeUnknown => RemoteFault::unknown(words),
        TokenError::Unsupported { .. } => refused(Code::TokenCannot, words),
        TokenError::Refused(Refusal::TokenFull) => refused(Code::TokenFull, words),
        TokenError::Refused(Refusal::NotRecoverable) => refused(Code::NotRecoverable, words),
        TokenError::Refused(Refusal::WrongImport | Refusal::ImportBroken) => {
            refused(Code::ImportRefused, words)
        }
        TokenError::KeyMissing { .. } => refused(Code::TokenKeyMissing, words),
        TokenError::WrongKey { .. } => refused(Code::TokenKeyMismatch, words),
        TokenError::Refused(_) => refused(Code::TokenRefused, words),
    }
}

fn refused(code: Code, words: String) -> RemoteFault {
    RemoteFault::Business(Reason::new(code, words))
}
