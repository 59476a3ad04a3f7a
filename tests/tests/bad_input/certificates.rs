//! Certificates that should not get in, and one that loses its right while it is inside.
//! Who enters: strangers, forgers, thieves, yesterday's clients.
//! What leaves: refused handshakes, or problems with a code that says which of these the caller is.

use promises::foreign::openssl_connects;
use promises::insider::forge;
use promises::people::sign_p256;
use promises::programs::{complained, said};
use promises::{Appliance, GIVEN_UP, Identity, Member, Protocol, delete, eventually, get};

/// A handshake refused by the server shows itself at the first exchange: with TLS 1.3 the client is done before.
async fn is_not_let_in(member: &Member, identity: &Identity) {
    let refused = member.with_identity(identity).try_ask(get("/health/live")).await;
    assert!(refused.is_err(), "it was answered: {refused:?}");
    member.ask(get("/health/live")).await.expect(204);
}

#[tokio::test]
async fn a_client_without_certificate_is_not_let_in() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let stream = house.door().tls(member.identity.nameless()).await.unwrap();
    let answered = match promises::Connection::over(stream, Protocol::H1, None).await {
        Ok(connection) => connection.send(get("/health/live")).await,
        Err(why) => Err(why),
    };
    assert!(answered.is_err(), "it was answered: {answered:?}");
    member.ask(get("/health/live")).await.expect(204);
}

#[tokio::test]
async fn a_certificate_of_another_ca_with_the_same_name_is_not_let_in() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    is_not_let_in(&member, &Identity::forged(&member.identity.ca)).await;
}

#[tokio::test]
async fn an_expired_certificate_is_not_let_in() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let expired = forge(house.hsm.as_ref().unwrap(), &member.identity.ca, &house.path(""), -9, -1);
    is_not_let_in(&member, &expired).await;
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_yet_is_not_let_in() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let early = forge(house.hsm.as_ref().unwrap(), &member.identity.ca, &house.path(""), 1, 9);
    is_not_let_in(&member, &early).await;
}

#[tokio::test]
async fn a_certificate_of_our_ca_that_nobody_enrolled_is_hung_up_on_before_http() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let unknown = forge(house.hsm.as_ref().unwrap(), &member.identity.ca, &house.path(""), -1, 9);
    let thief = member.with_identity(&unknown);
    for ask in [sign_p256(&key, b"stolen"), get("/health/live"), get("/v1/openapi.json")] {
        assert!(thief.try_ask(ask).await.is_err(), "it was answered");
    }
    // RFC 8446 section 6: access_denied is alert 49.
    let files = unknown.files(&house.path("thief"));
    let told = openssl_connects(&house.door(), &files, &["-ign_eof"]);
    assert!(complained(&told).contains("alert number 49"), "{}", complained(&told));
}

#[tokio::test]
async fn a_revoked_certificate_is_told_so_and_hung_up_on_before_http() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let operator = house.operator().acting_in(&member.workspace);
    operator.ask(delete(format!("/v1/clients/{}", member.client))).await.expect(204);
    for ask in [sign_p256(&key, b"too late"), get("/health/live"), get("/v1/openapi.json")] {
        assert!(member.try_ask(ask).await.is_err(), "it was answered");
    }
    // RFC 8446 section 6: certificate_revoked is alert 44.
    let files = member.identity.files(&house.path("revoked"));
    let told = openssl_connects(&house.door(), &files, &["-ign_eof"]);
    assert!(complained(&told).contains("alert number 44"), "{}", complained(&told));
}

#[tokio::test]
async fn a_revoked_client_loses_its_open_connections_at_once_and_others_keep_theirs() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let operator = house.operator().acting_in(&member.workspace);
    let (client, other) = operator.enrol("second").await;
    let leaver = member.with_identity(&other);
    let (mine, h1, h2) = (
        member.connect(Protocol::H2).await,
        leaver.connect(Protocol::H1).await,
        leaver.connect(Protocol::H2).await,
    );
    for connection in [&mine, &h1, &h2] {
        connection.send(get("/v1/keys")).await.unwrap().expect(200);
    }
    operator.ask(delete(format!("/v1/clients/{client}"))).await.expect(204);
    for connection in [&h1, &h2] {
        let cut = || async { connection.send(get("/health/live")).await.is_err().then_some(()) };
        // Nothing else ends a connection that is in use.
        eventually("the connection is cut", GIVEN_UP, cut).await;
    }
    mine.send(get("/v1/keys")).await.unwrap().expect(200);
}

#[tokio::test]
async fn tls_1_2_is_refused_and_tls_1_3_is_not() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let files = member.identity.files(&house.path("openssl"));
    let old = openssl_connects(&house.door(), &files, &["-tls1_2"]);
    assert!(!old.status.success(), "a handshake came about:\n{}", said(&old));
    let words = complained(&old).to_lowercase();
    assert!(words.contains("protocol version"), "refused for another reason:\n{words}");
    let new = openssl_connects(&house.door(), &files, &["-tls1_3"]);
    assert!(new.status.success() && said(&new).contains("TLSv1.3"), "{}{}", said(&new), complained(&new));
}
