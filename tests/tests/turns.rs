//! Workspaces share a token by turns: whoever has slow things to do waits for itself and for nobody else.

use std::time::Duration;

use promises::people::sign_p256;
use promises::{Appliance, get, post};
use serde_json::json;

/// Pairs that take a token seconds each.
const PAIRS: usize = 12;

#[tokio::test]
async fn a_workspace_that_has_many_slow_keys_made_stops_nobody_elses_signatures() {
    let house = Appliance::start().await;
    let (acme, bank) = (house.member("acme").await, house.member("bank").await);
    let key = bank.create_key("release", "p256").await;
    let asking: Vec<_> = (0..PAIRS)
        .map(|pair| {
            let (acme, body) = (acme.clone(), json!({ "name": format!("slow-{pair}"), "kind": "rsa-4096" }));
            tokio::spawn(async move { acme.try_ask(post("/v1/keys", body)).await })
        })
        .collect();
    let begun = || async {
        let runs = acme.ask(get("/v1/workflows?workflow=key.generate")).await.expect(200).json();
        (runs["workflows"].as_array().expect("a list").len() == PAIRS).then_some(())
    };
    promises::eventually("all of them are under way", Duration::from_secs(60), begun).await;
    for number in 0..10_u8 {
        bank.ask(sign_p256(&key, &[number])).await.expect(200);
    }
    let runs = acme.ask(get("/v1/workflows?workflow=key.generate")).await.expect(200).json();
    let runs = runs["workflows"].as_array().expect("a list");
    let under_way = runs.iter().filter(|run| run["state"] != "succeeded").count();
    assert!(under_way > 0, "the pairs were made before the signatures, so nothing is shown");
    assert!(runs.iter().all(|run| run["state"] != "stuck_forward"), "{runs:?}");
    asking.iter().for_each(tokio::task::JoinHandle::abort);
}
