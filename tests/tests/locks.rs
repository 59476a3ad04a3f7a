//! Locks that clients lease: one holder at a time, fences that only grow, and nothing taken from a new holder by an old one.
//! Who enters: members of temporary appliances.
//! What leaves: leases and refusals; fences compared across releases, expiries and restarts.

use std::time::Duration;

use promises::{Answer, Appliance, Member, eventually, evidence, get, post};
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
    eventually("the lease's end", Duration::from_secs(10), expired).await;
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
