//! Keys whose objects in the token are gone, doubled or somebody else's.
//! Who enters: an appliance, and a foreign tool at its token.
//! What leaves: an answer that says it lasts, and a status that says which key, what is wrong, and what to do.

use std::fs;

use promises::people::sign_p256;
use promises::programs::{succeeds, tool};
use promises::{Appliance, GIVEN_UP, Hardware, Member, Plan, eventually, get};
use serde_json::Value;

fn at_the_token(house: &Appliance, arguments: &[&str]) {
    let hsm = house.hsm.as_ref().unwrap();
    let pin = fs::read_to_string(hsm.pin_file()).unwrap();
    let mut command = tool("pkcs11-tool", "opensc");
    command.envs(hsm.env()).arg("--module").arg(hsm.module()).args(["--token-label", hsm.label()]);
    succeeds(command.args(["--login", "--pin", pin.trim()]).args(arguments));
}

async fn token_key(member: &Member, key: &str) -> String {
    let shown = member.ask(get(format!("/v1/keys/{key}"))).await.expect(200).json();
    shown["versions"][0]["token_key"].as_str().unwrap().to_owned()
}

fn status(house: &Appliance) -> Value {
    let told = house.cli(&["--json", "status"]);
    assert!(told.status.success(), "one key's fault makes the appliance unready");
    serde_json::from_slice(&told.stdout).unwrap()
}

fn words(house: &Appliance, arguments: &[&str]) -> String {
    String::from_utf8(house.cli(arguments).stdout).unwrap()
}

#[tokio::test]
async fn a_key_that_is_gone_from_the_token_is_named_with_its_fault_and_never_said_to_come_back() {
    let mut house = Plan::with(Hardware::Token).start().await;
    let member = house.member("acme").await;
    let (lost, other) =
        (member.create_key("release", "p256").await, member.create_key("other", "p256").await);
    let (lost_id, other_id) = (token_key(&member, &lost).await, token_key(&member, &other).await);
    assert_eq!(status(&house)["keys"], Value::Array(vec![]));
    house.terminate().await;
    at_the_token(&house, &["--delete-object", "--type", "privkey", "--id", &lost_id]);
    house.serve().await;
    house.ready().await;
    let refused = member.ask(sign_p256(&lost, b"no")).await.refused(503, "token_key_missing");
    assert!(refused.header("retry-after").is_none(), "what lasts is said to be over in a moment");
    member.ask(sign_p256(&other, b"as ever")).await.expect(200);

    let named = || async {
        let keys = status(&house)["keys"].clone();
        (keys[0]["key"] == lost.as_str()).then_some(keys)
    };
    let (keys, _) = eventually("the status names the key", GIVEN_UP, named).await;
    assert_eq!(keys.as_array().unwrap().len(), 1, "{keys}");
    assert_eq!((&keys[0]["usable"], &keys[0]["name"]), (&Value::Bool(false), &Value::from("release")));
    assert_eq!(keys[0]["faults"][0]["code"], "private_missing");
    for told in [words(&house, &["status"]), words(&house, &["-w", "acme", "key", "show", "release"])] {
        assert!(told.contains("private_missing") && told.contains("restore"), "{told}");
    }
    assert!(words(&house, &["status"]).contains("SIGNS NOTHING"));
    let shown = member.ask(get(format!("/v1/keys/{other}"))).await.expect(200).json();
    assert_eq!(shown["versions"][0]["faults"], Value::Null, "{shown}");

    // What is there besides is seen while the daemon runs; the next sign with the lost key makes it look.
    at_the_token(&house, &["--keypairgen", "--key-type", "EC:prime256v1", "--id", &other_id, "--label", "x"]);
    at_the_token(&house, &["--keypairgen", "--key-type", "EC:prime256v1", "--id", &lost_id, "--label", "x"]);
    let told = || async {
        member.ask(sign_p256(&lost, b"no")).await.refused(503, "token_key_mismatch");
        let keys = status(&house)["keys"].clone();
        let codes = |at: usize| {
            let faults = keys[at]["faults"].as_array().cloned().unwrap_or_default();
            faults.iter().map(|fault| fault["code"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let wanted = (codes(0) == ["private_mismatch", "public_mismatch"])
            && codes(1) == ["private_doubled", "public_mismatch"];
        (wanted && keys[1]["usable"] == Value::Bool(true)).then_some(())
    };
    eventually("both are named", GIVEN_UP, told).await;
    member.ask(sign_p256(&other, b"as ever")).await.expect(200);
}
