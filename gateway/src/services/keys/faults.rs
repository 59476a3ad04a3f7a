//! What a token's failure means to a step: try again, find out, unwind, or call for a person.
//! Who enters: token errors, in steps of workflows.
//! What leaves: one of the four classes, in words that may be kept and shown.

use hsm::{Refusal, TokenError};
use sagas::{Reason, RemoteFault};

use crate::api::Code;
pub use crate::services::ground::words_of_token as words;

/// Sorts a token's failure.
pub fn token(error: TokenError) -> RemoteFault {
    let text = words(&error);
    match error {
        TokenError::Busy { .. } | TokenError::Gone { .. } | TokenError::Expired => RemoteFault::later(text),
        TokenError::OutcomeUnknown => RemoteFault::unknown(text),
        TokenError::Unsupported { .. } => refused(Code::TokenCannot, text),
        TokenError::Refused(Refusal::TokenFull) => refused(Code::TokenFull, text),
        TokenError::Refused(Refusal::NotRecoverable) => refused(Code::NotRecoverable, text),
        TokenError::Refused(Refusal::WrongImport | Refusal::ImportBroken) => {
            refused(Code::ImportRefused, text)
        }
        TokenError::KeyMissing { .. } => refused(Code::TokenKeyMissing, text),
        TokenError::WrongKey { .. } => refused(Code::TokenKeyMismatch, text),
        TokenError::Refused(_) => refused(Code::TokenRefused, text),
    }
}

fn refused(code: Code, words: String) -> RemoteFault {
    RemoteFault::Business(Reason::new(code, words))
}
