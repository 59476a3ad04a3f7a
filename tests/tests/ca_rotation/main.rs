//! The CA of an appliance is replaced while it works: the new one beside the old one, and then without it.
//! Who enters: clients of both, operators, a thief with the old key.
//! What leaves: who is let in at each moment, on the wire and on the ledger.

mod overlap;
mod retirement;

use promises::people::sign_p256;
use promises::{Identity, Member, Operator, get};

/// It connects anew and signs.
async fn works(member: &Member, key: &str) {
    member.ask(sign_p256(key, b"work goes on")).await.expect(200);
}

/// The handshake ends without an answer: with TLS 1.3 the client sees that at its first exchange.
async fn is_not_let_in(member: &Member) {
    let answered = member.try_ask(get("/health/live")).await;
    assert!(answered.is_err(), "it was answered: {answered:?}");
}

/// Another client of the member's workspace, enrolled now.
async fn enrolled_now(operator: &Operator, member: &Member, name: &str) -> (String, Member) {
    let (id, identity) = operator.acting_in(&member.workspace).enrol(name).await;
    (id, member.with_identity(&identity))
}

/// The certificates of a bundle, one by one.
fn certificates(bundle: &str) -> Vec<String> {
    const END: &str = "-----END CERTIFICATE-----\n";
    bundle.split_inclusive(END).map(str::to_owned).collect()
}

/// The same client with other CAs to know servers by.
fn trusting(member: &Member, ca: &str) -> Member {
    let identity: Identity = member.identity.trusting(ca);
    member.with_identity(&identity)
}
