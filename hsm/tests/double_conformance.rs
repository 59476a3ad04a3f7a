//! The promises of every token, kept by the double: what tests elsewhere rely on behaves as hardware does.
//! Enters: a fresh double per test.
//! Leaves: proof, or the name of the promise that was broken.

mod conformance;

use hsm::{Double, Token};

conformance!(subject, unsupported: UNSUPPORTED);

/// The double does all of it.
const UNSUPPORTED: [&str; 0] = [];

async fn subject() -> (Token, ()) {
    let token = Token::double(Double::new());
    conformance::until_ready(&token, std::time::Duration::from_secs(5)).await;
    (token, ())
}
