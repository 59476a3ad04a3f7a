//! Direct signing at its edges: limits, fences, and the entry that each failure leaves, whatever becomes of whoever asked.
//! Who enters: programs, over a token that makes trouble.
//! What leaves: refusals that did nothing; an entry for each order that came to nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway::admission::Admission;
use gateway::api::guard::{Permit, may};
use gateway::api::{self, Caller, Client, Guard, InWorkspace, Origin, Scopes};
use gateway::ids::RequestId;
use gateway::services::signing::Signing;
use gateway::services::signing::order::SignCommand;
use hsm::double::DoubleFault;
use hsm::{Scheme, SignInput};
use serde_json::{Value as Json, json};

use crate::common::house::{Answer, Program, Standing, house};

const DIGEST: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

/// A program with a key, under a limit of so many uses in a month.
async fn limited(uses: u32) -> (Standing, Program) {
    let standing = house().await;
    let program = standing.program("acme", &["sign", "keys:manage", "keys:read", "locks"]).await;
    let limit = json!({ "uses": uses, "per_seconds": 2_592_000 });
    let policy = json!({ "direct": true, "approvals": 0, "limit": limit });
    let made =
        program.asker.post("/v1/keys", json!({ "name": "release", "kind": "p256", "policy": policy })).await;
    assert_eq!(made.status, 201, "{made:?}");
    (standing, program)
}

async fn sign(by: &Program) -> Answer {
    by.asker.post("/v1/keys/release/sign", json!({ "scheme": "ecdsa-sha256", "digest": DIGEST })).await
}

async fn batch(by: &Program, items: usize) -> Answer {
    let item = json!({ "key": "release", "scheme": "ecdsa-sha256", "digest": DIGEST });
    by.asker.post("/v1/sign-batch", json!({ "items": vec![item; items] })).await
}

async fn entries(standing: &Standing, action: &str) -> Vec<Json> {
    let operator = standing.operator().with("chancery-workspace", "acme");
    let entries = operator.get(&format!("/v1/audit/entries?action={action}&limit=500")).await.json();
    entries["entries"].as_array().unwrap().clone()
}

fn permit(program: &Program) -> Permit<may::Sign> {
    let client =
        Client { id: program.client.parse().unwrap(), workspace: program.workspace.parse().unwrap() };
    let api_key = program.api_key.parse().unwrap();
    let caller = Caller::Program(api::Program { client, api_key, scopes: Scopes::LegacyWildcard });
    InWorkspace::check(Ok(&caller)).unwrap()
}

fn origin(standing: &Standing, patience: Duration) -> Origin {
    Origin {
        request: RequestId::new(&standing.house.ground.dice),
        ip: None,
        user_agent: String::new(),
        deadline: Instant::now() + patience,
        urgent: false,
        fences: Vec::new(),
        once: None,
    }
}

#[tokio::test]
async fn a_batch_counts_each_of_its_items_against_the_limit_or_none() {
    let (standing, program) = limited(2).await;
    let before = standing.double.signatures_made();
    let refused = batch(&program, 3).await;
    assert_eq!((refused.status, refused.code().as_str()), (403, "policy_refused"), "{refused:?}");
    assert_eq!((standing.double.signatures_made(), entries(&standing, "key.sign").await.len()), (before, 0));
    let signed = batch(&program, 2).await;
    assert_eq!(signed.status, 200, "nothing was counted: {signed:?}");
    assert!(
        signed.json()["results"].as_array().unwrap().iter().all(|it| it["signature"].is_string()),
        "{signed:?}"
    );
    assert_eq!(sign(&program).await.code(), "policy_refused", "and now both are used");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_of_a_batch_that_never_reached_the_token_is_told_and_gives_its_use_back() {
    // On a busy machine the time may be over before either is at the token; then both get more of it.
    for patience in [1, 4, 16, 64] {
        match uses_kept_of_a_hanging_batch(Duration::from_secs(patience)).await {
            0 => {}
            kept => return assert_eq!(kept, 1, "only the one that was at the token stays counted"),
        }
    }
    panic!("the use of the one that was at the token does not stay counted");
}

/// Sends a batch of two to a token that hangs, through a door with one place; how many of the two uses stay counted.
async fn uses_kept_of_a_hanging_batch(patience: Duration) -> usize {
    let (standing, program) = limited(2).await;
    let house = &standing.house;
    let signing =
        Signing::new(house.ground.clone(), house.keys.clone(), Admission::new(1), house.signer.clone());
    let command = || SignCommand {
        key: "release".to_owned(),
        version: None,
        scheme: Scheme::EcdsaSha256,
        input: SignInput::Digest(vec![1; 32]),
        context: None,
    };
    // The first holds the only place until the time of both is over.
    standing.double.next(DoubleFault::HangBefore);
    let origin = origin(&standing, patience);
    let commands = vec![command(), command()];
    let outcomes = Arc::new(signing).sign_batch(&permit(&program), &origin, commands).await.unwrap();
    assert!(outcomes.iter().all(Result::is_err), "{outcomes:?}");
    let failed = entries(&standing, "key.sign_failed").await;
    let said = |word: &str| failed.iter().filter(|it| it["detail"]["after"]["outcome"] == word).count();
    assert_eq!(
        (failed.len(), said("outcome_unknown") <= 1, said("not_signed") >= 1),
        (2, true, true),
        "{failed:?}"
    );
    usize::try_from(2 - signs_left(&program).await).unwrap()
}

/// How many more signatures the limit allows; asks until it says no.
async fn signs_left(program: &Program) -> i64 {
    let mut left = 0;
    loop {
        let answer = sign(program).await;
        match (answer.status, answer.code().as_str()) {
            (200, _) => left += 1,
            (403, "policy_refused") => return left,
            // The worker that hung is being replaced.
            (503, _) => tokio::task::yield_now().await,
            other => panic!("{other:?}: {answer:?}"),
        }
        assert!(left <= 2, "the limit does not hold");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_signature_is_told_also_when_its_caller_was_revoked_meanwhile() {
    let (standing, program) = limited(9).await;
    let other = standing.program("other", &["keys:manage"]).await;
    standing.double.next(DoubleFault::HangBefore);
    let signing = tokio::spawn({
        let asker = program.asker.with("chancery-deadline-ms", "60000");
        async move {
            asker.post("/v1/keys/release/sign", json!({ "scheme": "ecdsa-sha256", "digest": DIGEST })).await
        }
    });
    while entries(&standing, "key.sign").await.is_empty() {
        tokio::task::yield_now().await;
    }
    let operator = standing.operator().with("chancery-workspace", "acme");
    let revoked = operator.ask("DELETE", &format!("/v1/api-keys/{}", program.api_key), None).await;
    assert_eq!(revoked.status, 204, "{revoked:?}");
    // Whatever comes to the token next ends the worker, and with it the call that hangs.
    standing.double.next(DoubleFault::DieBefore);
    other.asker.post("/v1/keys", json!({ "name": "another", "kind": "p256" })).await;
    let failed = signing.await.unwrap();
    assert!(failed.status >= 500, "{failed:?}");
    let told = async {
        while entries(&standing, "key.sign_failed").await.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), told).await.expect("the failure is told");
}

#[tokio::test]
async fn each_of_the_fences_that_a_request_carries_is_looked_at() {
    let (standing, program) = limited(9).await;
    let before = standing.double.signatures_made();
    let lease = async |name: &str| {
        let leased = program.asker.post("/v1/locks", json!({ "name": name, "ttl_seconds": 60 })).await;
        assert_eq!(leased.status, 201, "{leased:?}");
        leased.json()
    };
    let (latest, stale) = (lease("latest").await, lease("stale").await);
    let given_back = json!({ "lease_id": stale["lease_id"] });
    assert!(program.asker.post("/v1/locks/stale/release", given_back).await.status < 300);
    lease("stale").await;
    let fence = |name: &str, lease: &Json| format!("{name}={}", lease["fence"]);
    let order = json!({ "scheme": "ecdsa-sha256", "digest": DIGEST });
    let [first, second] = [fence("latest", &latest), fence("stale", &stale)];
    for (one, other) in [(&first, &second), (&second, &first)] {
        let carrying = program.asker.with("chancery-fence", one).with("chancery-fence", other);
        let refused = carrying.post("/v1/keys/release/sign", order.clone()).await;
        assert_eq!((refused.status, refused.code().as_str()), (412, "fenced"), "{one}, {other}: {refused:?}");
    }
    assert_eq!((standing.double.signatures_made(), entries(&standing, "key.sign").await.len()), (before, 0));
    let carrying = program.asker.with("chancery-fence", &first);
    assert_eq!(carrying.post("/v1/keys/release/sign", order).await.status, 200, "the latest alone is enough");
}

#[tokio::test]
async fn what_others_are_asked_about_is_bounded_and_never_too_long_to_be_asked() {
    let (standing, program) = limited(9).await;
    let other =
        standing.program("acme", &["workflows:manage", "workflows:read", "keys:manage", "keys:read"]).await;
    let reason = "x".repeat(1025);
    let destroy = json!({ "key": "release", "days": 1, "reason": reason });
    for refused in [
        program
            .asker
            .post("/v1/keys/release/schedule-destruction", json!({ "days": 1, "reason": reason }))
            .await,
        other.asker.post("/v1/workflows/key.destroy", destroy).await,
        standing
            .operator()
            .post(
                &format!("/v1/workspaces/{}/shred", program.workspace),
                json!({ "reason": reason, "grace_days": 1 }),
            )
            .await,
    ] {
        assert_eq!(
            (refused.status, refused.json()["pointer"].clone()),
            (422, json!("/reason")),
            "{refused:?}"
        );
    }
    // As long as a policy can be: each byte of an intent takes six in JSON.
    let intents: Vec<String> = (0..64).map(|_| "\u{1}".repeat(64)).collect();
    let policy = json!({ "direct": true, "approvals": 0, "intents": intents });
    let change = json!({ "scope": "workspace", "policy": policy });
    let asked = other.asker.post("/v1/workflows/signing.policy_change", change).await;
    assert_eq!(asked.status, 202, "{asked:?}");
    let run = async {
        loop {
            let run = other.asker.get(asked.header("location")).await.json();
            if run["approval"].is_object() || run["state"] != "running" && run["state"] != "pending" {
                return run;
            }
            tokio::task::yield_now().await;
        }
    };
    let run = run.await;
    assert_eq!(run["state"], "waiting", "{}", run["error"]);
    assert_eq!(run["approval"]["request"]["policy"]["intents"].as_array().map(Vec::len), Some(64));
}

#[tokio::test]
async fn no_new_thing_has_a_name_that_could_be_an_id_or_stand_for_all() {
    let standing = house().await;
    let scopes = ["keys:manage", "keys:read", "access:manage", "workflows:manage"];
    let program = standing.program("acme", &scopes).await;
    let operator = standing.operator().with("chancery-workspace", "acme");
    let key = program.asker.post("/v1/keys", json!({ "name": "release", "kind": "p256" })).await.json();
    let csr = rcgen::CertificateParams::new(Vec::<String>::new())
        .and_then(|params| params.serialize_request(&rcgen::KeyPair::generate()?)?.pem())
        .unwrap();
    let public = rcgen::KeyPair::generate().unwrap().public_key_pem();
    let ids =
        [&program.workspace, &program.client, &program.api_key, key["id"].as_str().unwrap(), "workspace"];
    for name in ids {
        let made = [
            standing.operator().post("/v1/workspaces", json!({ "name": name })).await,
            program.asker.post("/v1/keys", json!({ "name": name, "kind": "p256" })).await,
            program.asker.post("/v1/api-keys", json!({ "name": name, "scopes": ["keys:read"] })).await,
            operator.post("/v1/clients", json!({ "name": name, "csr": csr })).await,
            program.asker.post("/v1/workflows/key.generate", json!({ "name": name, "kind": "p256" })).await,
            program
                .asker
                .post(
                    "/v1/workflows/key.import",
                    json!({ "name": name, "kind": "p256", "public_key": public }),
                )
                .await,
        ];
        for answer in made {
            assert_eq!(
                (answer.status, answer.json()["pointer"].clone()),
                (422, json!("/name")),
                "{name}: {answer:?}"
            );
        }
    }
}
