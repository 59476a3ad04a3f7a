//! While two CAs are trusted: nobody who was in is out, and whoever comes is let in without a restart.
//! Who enters: clients of the old CA, with open connections and new ones; clients of the new CA.
//! What leaves: one process all along, a server that both kinds of clients know, and the whole story on the ledger.

use promises::people::sign_p256;
use promises::programs::{said, tool};
use promises::{Appliance, Hardware, Load, Plan, Protocol, evidence, get, post};
use serde_json::{Value, json};

use crate::{certificates, enrolled_now, is_not_let_in, trusting, works};

#[tokio::test]
async fn clients_of_the_old_ca_go_on_and_those_of_the_new_one_connect_without_a_restart() {
    let mut house = Appliance::start().await;
    let old = house.member("acme").await;
    let key = old.create_key("release", "p256").await;
    let (open, pid, operator) = (old.connect(Protocol::H2).await, house.daemon().pid(), house.operator());
    let first = operator.authorities().await[0]["fingerprint"].clone();
    let second = operator.rotate_ca().await;
    let (_, new) = enrolled_now(&operator, &old, "second").await;
    works(&new, &key).await;
    works(&old, &key).await;
    open.send(sign_p256(&key, b"on the connection from before")).await.unwrap().expect(200);
    let line = operator.authorities().await;
    assert_eq!(line.len(), 2, "{line:?}");
    assert_eq!(line[0]["fingerprint"], first);
    assert_eq!((&line[0]["issues"], &line[0]["clients"]), (&json!(["server"]), &json!(1)));
    assert_eq!(line[1]["fingerprint"], json!(second));
    assert_eq!((&line[1]["issues"], &line[1]["clients"]), (&json!(["clients"]), &json!(1)));
    assert_eq!((house.daemon().pid(), house.daemon().has_ended()), (pid, None));
    house.terminate().await;
    house.serve().await;
    for member in [&old, &new] {
        works(member, &key).await;
    }
    assert_eq!(house.operator().authorities().await, line, "a restart changed the line");
    evidence::verifies(&mut house).await;
}

#[tokio::test]
async fn a_client_that_knows_only_the_old_ca_verifies_the_server_and_a_new_one_is_given_both() {
    let house = Appliance::start().await;
    let old = house.member("acme").await;
    house.operator().rotate_ca().await;
    assert_eq!(certificates(&old.identity.ca).len(), 1, "what it was given before there were two");
    old.ask(get("/v1/keys")).await.expect(200);
    let (_, new) = enrolled_now(&house.operator(), &old, "second").await;
    let both = certificates(&new.identity.ca);
    assert_eq!(both.len(), 2);
    assert_eq!(both[0], old.identity.ca, "the oldest comes first");
    let served = house.operator().ask(get("/v1/ca")).await.expect(200).text();
    assert_eq!(served, new.identity.ca);
    trusting(&new, &both[0]).ask(get("/v1/keys")).await.expect(200);
    // The counter-check: verification does look at the CA.
    let refused = trusting(&new, &both[1]).try_ask(get("/v1/keys")).await;
    assert!(refused.is_err(), "a server of the old CA was taken for one of the new");
}

#[tokio::test]
async fn foreign_programs_verify_the_server_by_the_old_bundle_and_by_the_new_one() {
    let house = Appliance::start().await;
    let old = house.member("acme").await;
    house.operator().rotate_ca().await;
    let (_, new) = enrolled_now(&house.operator(), &old, "second").await;
    for (name, member) in [("old", &old), ("new", &new)] {
        let files = member.identity.files(&house.path(name));
        let answered = promises::foreign::curl(&house.door(), &files, "/health/live", &["--fail", "-i"]);
        assert!(answered.status.success(), "{name}: {answered:?}");
        let mut verify = tool("openssl", "openssl");
        verify.args(["verify", "-purpose", "sslclient", "-CAfile"]).arg(&files.ca).arg(&files.certificate);
        let verified = verify.output().unwrap();
        assert!(verified.status.success(), "{name}: {verified:?}");
    }
}

#[tokio::test]
async fn a_rotation_under_load_costs_no_request() {
    let mut house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let load = Load { connections: 4, ..Load::of(&member, &house.door(), &key) }.start();
    for name in ["second", "third"] {
        house.operator().rotate_ca().await;
        let (_, new) = enrolled_now(&house.operator(), &member, name).await;
        works(&new, &key).await;
    }
    let tally = load.stop().await;
    assert_eq!(tally.failed, 0, "{:?}", tally.refused);
    assert!(!tally.signed.is_empty(), "a test without load proves nothing");
    evidence::verifies(&mut house).await;
}

#[tokio::test]
async fn each_step_of_a_rotation_is_told_under_the_name_of_who_asked() {
    let mut house = Appliance::start().await;
    let answer = house.operator().ask(post("/v1/authorities", Value::Null)).await.expect(201);
    let told = house.operator().entries(&format!("request_id={}", answer.request_id())).await;
    let actions: Vec<_> = told.iter().filter_map(|entry| entry["action"].as_str()).collect();
    assert_eq!(actions, ["ca.order", "ca.draft", "ca.rotate"]);
    assert_eq!(told[2]["object"], answer.json()["fingerprint"]);
    assert_eq!(answer.entry(), told[2]["seq"].as_u64());
    for entry in &told {
        assert!(entry["actor"].as_str().unwrap().starts_with("operator"), "{entry}");
    }
    evidence::verifies(&mut house).await;
}

#[tokio::test]
async fn rotations_at_the_same_moment_make_as_many_cas_as_they_say() {
    let house = Appliance::start().await;
    let operator = house.operator();
    let rotate = || operator.ask(post("/v1/authorities", Value::Null));
    let (one, two, three) = tokio::join!(rotate(), rotate(), rotate());
    let mut made = 0;
    for answer in [one, two, three] {
        match answer.status {
            201 => made += 1,
            _ => drop(answer.refused(409, "wrong_state")),
        }
    }
    assert!(made >= 1);
    assert_eq!(operator.authorities().await.len(), 1 + made);
}

#[tokio::test]
async fn there_is_an_end_to_the_cas_that_are_trusted_at_once() {
    let house = Appliance::start().await;
    let operator = house.operator();
    for _ in 0..3 {
        operator.rotate_ca().await;
    }
    operator.ask(post("/v1/authorities", Value::Null)).await.refused(409, "wrong_state");
    let first = operator.authorities().await[0]["fingerprint"].as_str().unwrap().to_owned();
    operator.retire_ca(&first).await.expect(200);
    operator.rotate_ca().await;
}

#[tokio::test]
async fn a_tpm_that_holds_the_keys_makes_a_new_ca_as_well() {
    let mut house = Plan::with(Hardware::Tpm).start().await;
    let old = house.member("acme").await;
    let key = old.create_key("release", "p256").await;
    house.operator().rotate_ca().await;
    house.terminate().await;
    house.serve().await;
    let (_, new) = enrolled_now(&house.operator(), &old, "second").await;
    works(&new, &key).await;
    works(&old, &key).await;
    let first = house.operator().authorities().await[0]["fingerprint"].as_str().unwrap().to_owned();
    house.operator().retire_ca(&first).await.expect(200);
    works(&new, &key).await;
    is_not_let_in(&trusting(&old, &new.identity.ca)).await;
    evidence::verifies(&mut house).await;
}

#[tokio::test]
async fn the_command_line_rotates_and_brings_the_bundle_beside_a_certificate_up_to_date() {
    let house = Appliance::start().await;
    house.operator().create_workspace("acme").await;
    let out = house.path("client");
    let out_text = out.display().to_string();
    let run = |arguments: &[&str]| {
        let output = house.cli(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        said(&output)
    };
    run(&["-w", "acme", "client", "enroll", "one", "--out", &out_text]);
    let bundle = || certificates(&std::fs::read_to_string(out.join("ca.pem")).unwrap());
    assert_eq!(bundle().len(), 1);
    let rotated: Value = serde_json::from_str(&run(&["--json", "ca", "rotate"])).unwrap();
    run(&["-w", "acme", "client", "enroll", "two", "--out", &out_text]);
    assert_eq!(bundle().len(), 2);
    run(&["-w", "acme", "client", "enroll", "three", "--out", &out_text]);
    assert_eq!(bundle().len(), 2, "a CA that was there was written again");
    let list: Value = serde_json::from_str(&run(&["--json", "ca", "list"])).unwrap();
    assert_eq!(list["authorities"][1]["fingerprint"], rotated["fingerprint"]);
    assert!(run(&["ca", "list"]).contains("trusted"));
    let first = list["authorities"][0]["fingerprint"].as_str().unwrap();
    assert!(run(&["ca", "retire", first, "--yes"]).contains("clients revoked"));
    let second = rotated["fingerprint"].as_str().unwrap();
    let refused = house.cli(&["ca", "retire", second, "--yes"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
}
