//! Locks that clients lease: one holder at a time, fences that only grow, and nothing taken from a new holder by an old one.
//! Who enters: members of temporary appliances.
//! What leaves: leases and refusals; fences compared across releases, expiries and restarts.

use promises::people::sign_p256;
use promises::{Answer, Appliance, GIVEN_UP, Member, eventually, evidence, get, post};
use serde_json::{Value, json};

async fn acquire(member: &Member, ttl_seconds: u64, wait_seconds: u64) -> Answer {
    let body = json!({ "name": "nightly", "ttl_seconds": ttl_seconds, "wait_seconds": wait_seconds });
    member.ask(post("/v1/locks", body)).await
}

async fn release(member: &Member, lease: &Value) -> Answer {
    member.ask(post("/v1/locks/nightly/release", json!({ "lease_id": lease["lease_id"] }))).await
}

fn fence(lease: &Value) -> i64 {
    lease["fence"].as_i64().unwrap()
}

#[tokio::test]
async fn a_lock_has_one_holder_and_its_fence_grows_through_release_and_restart() {
    let mut house = Appliance::start().await;
    let acme = house.member("acme").await;
    let first = acquire(&acme, 60, 0).await.expect(201).json();
    acquire(&acme, 60, 0).await.refused(409, "lock_held");
    let held = acme.ask(get("/v1/locks")).await.expect(200).json();
    assert_eq!(held["locks"][0]["name"], "nightly");
    assert!(held["locks"][0].get("lease_id").is_none(), "others are shown what releases it");
    release(&acme, &first).await.expect(204);
    let second = acquire(&acme, 60, 0).await.expect(201).json();
    assert!(fence(&second) > fence(&first));
    release(&acme, &first).await.expect(204);
    acquire(&acme, 60, 0).await.refused(409, "lock_held");
    house.kill().await;
    house.serve().await;
    acquire(&acme, 60, 0).await.refused(409, "lock_held");
    release(&acme, &second).await.expect(204);
    let third = acquire(&acme, 60, 0).await.expect(201).json();
    assert!(fence(&third) > fence(&second), "a restart forgot the fence");
    evidence::verifies(&mut house).await;
}

#[tokio::test]
async fn an_expired_lease_is_not_renewed_even_if_nobody_else_has_it() {
    let house = Appliance::start().await;
    let acme = house.member("acme").await;
    let lease = acquire(&acme, 1, 0).await.expect(201).json();
    let renew =
        || post("/v1/locks/nightly/renew", json!({ "lease_id": lease["lease_id"], "ttl_seconds": 1 }));
    acme.ask(renew()).await.expect(200);
    let expired = || async {
        let held = acme.ask(get("/v1/locks")).await.expect(200).json();
        held["locks"].as_array().unwrap().is_empty().then_some(())
    };
    eventually("the lease's end", GIVEN_UP, expired).await;
    acme.ask(renew()).await.refused(410, "lease_expired");
}

#[tokio::test]
async fn who_stands_in_line_gets_the_lock_when_it_is_given_back_and_other_workspaces_do_not_meet() {
    let house = Appliance::start().await;
    let (acme, globex) = (house.member("acme").await, house.member("globex").await);
    let lease = acquire(&acme, 60, 0).await.expect(201).json();
    acquire(&globex, 60, 0).await.expect(201);
    let waiting = tokio::spawn({
        let acme = acme.clone();
        async move {
            let body = json!({ "name": "nightly", "ttl_seconds": 60, "wait_seconds": 20 });
            acme.ask(post("/v1/locks", body).header("chancery-deadline-ms", "25000")).await
        }
    });
    release(&acme, &lease).await.expect(204);
    let next = waiting.await.unwrap().expect(201).json();
    assert!(fence(&next) > fence(&lease));
}

#[tokio::test]
async fn a_holder_that_was_paused_past_its_lease_signs_and_changes_nothing_under_its_old_fence() {
    let mut house = Appliance::start().await;
    let acme = house.member("acme").await;
    let key = acme.create_key("release", "p256").await;
    let under = |lease: &Value, ask: promises::Ask| {
        ask.header("chancery-fence", &format!("nightly={}", fence(lease)))
    };
    let first = acquire(&acme, 600, 0).await.expect(201).json();
    acme.ask(under(&first, sign_p256(&key, b"in time"))).await.expect(200);
    release(&acme, &first).await.expect(204);
    let second = acquire(&acme, 600, 0).await.expect(201).json();
    // It wakes up, believes that it still holds the lease, and goes on where it was.
    let late: [promises::Ask; 5] = [
        sign_p256(&key, b"late"),
        post(format!("/v1/keys/{key}/disable"), Value::Null),
        post("/v1/workflows/key.generate", json!({ "name": "late", "kind": "p256" })),
        post("/v1/api-keys", json!({ "name": "late", "scopes": ["sign"] })),
        post("/v1/locks", json!({ "name": "weekly", "ttl_seconds": 60, "wait_seconds": 0 })),
    ];
    for ask in late {
        acme.ask(under(&first, ask)).await.refused(412, "fenced");
    }
    let guessed =
        sign_p256(&key, b"guessed").header("chancery-fence", &format!("nightly={}", fence(&second) + 1));
    acme.ask(guessed).await.refused(412, "fenced");
    acme.ask(under(&second, sign_p256(&key, b"by the holder"))).await.expect(200);
    let shown = acme.ask(get(format!("/v1/keys/{key}"))).await.expect(200).json();
    assert_eq!((&shown["uses"], &shown["state"]), (&json!(2), &json!("enabled")), "{shown}");
    let malformed = sign_p256(&key, b"x").header("chancery-fence", "nightly");
    acme.ask(malformed).await.refused(400, "bad_request");
    evidence::verifies(&mut house).await;
}

#[tokio::test]
async fn the_fence_of_another_workspace_protects_nothing_here() {
    let house = Appliance::start().await;
    let (acme, globex) = (house.member("acme").await, house.member("globex").await);
    let theirs = acquire(&globex, 600, 0).await.expect(201).json();
    let key = acme.create_key("release", "p256").await;
    let ask = sign_p256(&key, b"x").header("chancery-fence", &format!("nightly={}", fence(&theirs)));
    acme.ask(ask).await.refused(412, "fenced");
}
