//! What a token's failure means to a step: try again, find out, unwind, or call for a person.
//! Who enters: token errors, in steps of workflows.
//! What leaves: one of the four classes, in words that may be kept and shown.

use hsm::{Refusal, TokenError};
use sagas::{Reason, RemoteFault};

/// Sorts a token's failure.
pub fn token(error: TokenError) -> RemoteFault {
    let words = error.to_string();
    match error {
        TokenError::Busy { .. } | TokenError::Gone { .. } | TokenError::Expired => RemoteFault::later(words),
        TokenError::OutcomeUnknown => RemoteFault::unknown(words),
        TokenError::Unsupported { .. } => refused("token_cannot", words),
        TokenError::Refused(Refusal::TokenFull) => refused("token_full", words),
        TokenError::Refused(Refusal::NotRecoverable) => refused("not_recoverable", words),
        TokenError::Refused(Refusal::WrongImport | Refusal::ImportBroken) => refused("import_refused", words),
        TokenError::Refused(_) | TokenError::WrongKey { .. } | TokenError::KeyMissing { .. } => {
            refused("token_refused", words)
        }
    }
}

fn refused(code: &'static str, words: String) -> RemoteFault {
    RemoteFault::Business(Reason::new(code, words))
}
