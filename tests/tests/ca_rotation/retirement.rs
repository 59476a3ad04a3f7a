//! When the old CA is retired: what it issued is worth nothing at once, and nobody else notices.
//! Who enters: its clients, on open connections and new ones, in two workspaces; clients of its successor.
//! What leaves: refused handshakes, a revocation for each client on the ledger, a server that shows another certificate.

use promises::daemon::kill;
use promises::insider::forge;
use promises::people::sign_p256;
use promises::{Appliance, GIVEN_UP, Protocol, eventually, evidence, get, post};
use rusqlite::Connection as Database;
use rustix::process::Signal;
use serde_json::json;

use crate::{certificates, enrolled_now, is_not_let_in, trusting, works};

async fn first_of(house: &Appliance) -> String {
    house.operator().authorities().await[0]["fingerprint"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_retired_ca_takes_its_clients_with_it_at_once_and_others_go_on() {
    let mut house = Appliance::start().await;
    let (acme, globex) = (house.member("acme").await, house.member("globex").await);
    let key = acme.create_key("release", "p256").await;
    let (operator, pid) = (house.operator(), house.daemon().pid());
    operator.rotate_ca().await;
    let (_, new) = enrolled_now(&operator, &acme, "second").await;
    let (h1, h2) = (acme.connect(Protocol::H1).await, globex.connect(Protocol::H2).await);
    let mine = new.connect(Protocol::H2).await;
    for connection in [&h1, &h2, &mine] {
        connection.send(get("/v1/keys")).await.unwrap().expect(200);
    }
    let retired = operator.retire_ca(&first_of(&house).await).await.expect(200).json();
    assert_eq!((&retired["clients_revoked"], &retired["in_use"]), (&json!(2), &json!(true)));
    for connection in [&h1, &h2] {
        let cut = || async { connection.send(get("/health/live")).await.is_err().then_some(()) };
        // Nothing else ends a connection that is in use.
        eventually("the connection is cut", GIVEN_UP, cut).await;
    }
    // With the new bundle, so that it is the server who refuses and not the client.
    let bundle = new.identity.ca.clone();
    for old in [&acme, &globex] {
        is_not_let_in(&trusting(old, &bundle)).await;
    }
    mine.send(sign_p256(&key, b"on the connection from before")).await.unwrap().expect(200);
    works(&new, &key).await;
    assert_eq!((house.daemon().pid(), house.daemon().has_ended()), (pid, None));
    house.terminate().await;
    house.serve().await;
    works(&new, &key).await;
    is_not_let_in(&trusting(&acme, &bundle)).await;
    evidence::verifies(&mut house).await;
}

#[tokio::test]
async fn a_retirement_is_told_once_for_the_ca_and_once_for_each_client_in_its_own_workspace() {
    let mut house = Appliance::start().await;
    let (acme, globex) = (house.member("acme").await, house.member("globex").await);
    let operator = house.operator();
    operator.rotate_ca().await;
    let (kept, _) = enrolled_now(&operator, &acme, "second").await;
    let first = first_of(&house).await;
    let answer = operator.retire_ca(&first).await.expect(200);
    let told = operator.entries(&format!("request_id={}", answer.request_id())).await;
    assert_eq!((&told[0]["action"], &told[0]["object"]), (&json!("ca.retire"), &json!(first)));
    assert_eq!(answer.entry(), told[0]["seq"].as_u64());
    let revoked: Vec<_> = told[1..].iter().map(|entry| (&entry["action"], &entry["object"])).collect();
    for client in [&acme.client, &globex.client] {
        assert!(revoked.contains(&(&json!("client.revoke"), &json!(client))), "{told:?}");
    }
    assert_eq!(revoked.len(), 2, "{told:?}");
    for member in [&acme, &globex] {
        let here = operator.acting_in(&member.workspace);
        let own = here.ask(get("/v1/audit/entries?action=client.revoke")).await.expect(200).json();
        let own: Vec<_> = own["entries"].as_array().unwrap().iter().map(|entry| &entry["object"]).collect();
        assert_eq!(own, [&json!(member.client)], "a workspace sees its own clients and no others");
    }
    let clients = operator.acting_in(&acme.workspace).ask(get("/v1/clients")).await.expect(200).json();
    for client in clients["clients"].as_array().unwrap() {
        let state = if client["id"] == json!(kept) { "enrolled" } else { "revoked" };
        assert_eq!(client["state"], state, "{client}");
    }
    evidence::verifies(&mut house).await;
}

#[tokio::test]
async fn the_only_trusted_ca_is_never_retired_and_no_other_twice() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let (operator, first) = (house.operator(), first_of(&house).await);
    operator.retire_ca(&first).await.refused(409, "only_trusted_ca");
    member.ask(get("/v1/keys")).await.expect(200);
    operator.retire_ca(&"0".repeat(64)).await.refused(404, "not_found");
    operator.retire_ca("no-hash").await.refused(404, "not_found");
    let second = operator.rotate_ca().await;
    operator.retire_ca(&first).await.expect(200);
    operator.retire_ca(&first).await.refused(409, "wrong_state");
    operator.retire_ca(&second).await.refused(409, "only_trusted_ca");
    let told = operator.entries("action=ca.retire").await;
    assert_eq!(told.len(), 1, "a refused retirement is on the ledger: {told:?}");
}

#[tokio::test]
async fn the_server_shows_a_certificate_of_the_next_oldest_ca() {
    let house = Appliance::start().await;
    let old = house.member("acme").await;
    let operator = house.operator();
    let second = operator.rotate_ca().await;
    let (_, new) = enrolled_now(&operator, &old, "second").await;
    let both = certificates(&new.identity.ca);
    operator.retire_ca(&first_of(&house).await).await.expect(200);
    let line = operator.authorities().await;
    assert_eq!((&line[0]["state"], &line[0]["issues"]), (&json!("retired"), &json!([])));
    assert_eq!(line[1]["fingerprint"], json!(second));
    assert_eq!(line[1]["issues"], json!(["clients", "server"]));
    assert_eq!(operator.ask(get("/v1/ca")).await.expect(200).text(), both[1]);
    trusting(&new, &both[1]).ask(get("/v1/keys")).await.expect(200);
    let refused = trusting(&new, &both[0]).try_ask(get("/v1/keys")).await;
    assert!(refused.is_err(), "the server still shows a certificate of the retired CA");
}

#[tokio::test]
async fn whoever_has_the_key_of_a_retired_ca_is_not_let_in_any_more() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let thief = forge(house.hsm.as_ref().unwrap(), &member.identity.ca, &house.path(""), -1, 9);
    let thief = member.with_identity(&thief);
    is_not_let_in(&thief).await;
    let operator = house.operator();
    operator.rotate_ca().await;
    let (_, new) = enrolled_now(&operator, &member, "second").await;
    operator.retire_ca(&first_of(&house).await).await.expect(200);
    is_not_let_in(&trusting(&thief, &new.identity.ca)).await;
    new.ask(get("/v1/keys")).await.expect(200);
}

#[tokio::test]
async fn a_new_ca_can_be_retired_as_well_and_the_old_one_issues_again() {
    let house = Appliance::start().await;
    let old = house.member("acme").await;
    let key = old.create_key("release", "p256").await;
    let operator = house.operator();
    let second = operator.rotate_ca().await;
    let (_, new) = enrolled_now(&operator, &old, "second").await;
    operator.retire_ca(&second).await.expect(200);
    works(&old, &key).await;
    is_not_let_in(&new).await;
    let (_, newer) = enrolled_now(&operator, &old, "third").await;
    assert_eq!(newer.identity.ca, old.identity.ca);
    works(&newer, &key).await;
}

#[tokio::test]
async fn an_enrolment_that_a_retirement_overtakes_comes_to_nothing() {
    let mut house = Appliance::start().await;
    let member = house.member("acme").await;
    let (operator, here) = (house.operator(), house.operator().acting_in(&member.workspace));
    let second = operator.rotate_ca().await;
    let worker = house.daemon().token_worker().await;
    kill(worker, Signal::STOP);
    let (_, csr) = promises::identity::request();
    let enrol = post("/v1/clients", json!({ "name": "late", "csr": csr }));
    let enrolling = tokio::spawn({
        let here = here.clone();
        async move { here.ask(enrol).await }
    });
    let told = async |action: &str, times: usize| {
        let told = || async { operator.entries(&format!("action={action}")).await.get(times - 1).cloned() };
        eventually(action, GIVEN_UP, told).await.0
    };
    assert_eq!(told("client.draft", 2).await["detail"]["after"]["authority"], json!(second));
    let retiring = tokio::spawn({
        let operator = operator.clone();
        async move { operator.retire_ca(&second).await }
    });
    told("ca.retire", 1).await;
    assert!(!enrolling.is_finished(), "a stopped token signed");
    kill(worker, Signal::CONT);
    enrolling.await.unwrap().refused(409, "wrong_state");
    assert_eq!(retiring.await.unwrap().expect(200).json()["clients_revoked"], 1);
    let clients = here.ask(get("/v1/clients")).await.expect(200).json();
    let late = clients["clients"].as_array().unwrap().iter().find(|one| one["name"] == "late").unwrap();
    assert_eq!((&late["state"], &late["certificate_hash"]), (&json!("revoked"), &json!(null)));
    member.ask(get("/v1/keys")).await.expect(200);
    evidence::verifies(&mut house).await;
}

/// As an earlier version left it: the row says nothing of a CA, for there was one.
#[tokio::test]
async fn clients_enrolled_before_there_were_successors_belong_to_the_first_ca() {
    let mut house = Appliance::start().await;
    let old = house.member("acme").await;
    house.terminate().await;
    let database = Database::open(house.ledger()).unwrap();
    assert_eq!(database.execute("UPDATE clients SET authority = NULL", []).unwrap(), 1);
    drop(database);
    house.serve().await;
    let operator = house.operator();
    assert_eq!(operator.authorities().await[0]["clients"], 1);
    old.ask(get("/v1/keys")).await.expect(200);
    operator.rotate_ca().await;
    let (_, new) = enrolled_now(&operator, &old, "second").await;
    let retired = operator.retire_ca(&first_of(&house).await).await.expect(200).json();
    assert_eq!(retired["clients_revoked"], 1);
    is_not_let_in(&trusting(&old, &new.identity.ca)).await;
    new.ask(get("/v1/keys")).await.expect(200);
}
