//! What a token's failure is called towards whoever asked.
//! Who enters: errors of the token, in steps of workflows.
//! What leaves: words of our own, which may be kept and shown; what the device said of it goes to the log.

use hsm::TokenError;

/// The error in words that may be kept and shown.
pub fn words_of_token(error: &TokenError) -> String {
    if !error.retry_is_safe() {
        tracing::warn!(%error, "the token did not do its part of a workflow");
    }
    error.outward()
}
