//! The one place where refusals become problems that callers see: stable codes, words that say what to do next, times to
//! come back.
//! Who enters: every refusal of a service, of the ledger, of the token.
//! What leaves: problems; causes go to the log only.

mod beneath;
mod rooms;
mod workflows;

use std::time::Duration;

const SHORTLY: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(5);

/// An error with its causes, for the log.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
