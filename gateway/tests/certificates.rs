//! Certificates and the clock: what has ended counts no more, what does not hold now is renewed, and an end is told months before.
//! Who enters: a house under a clock that the test sets: ahead, back, and past every end.
//! What leaves: refusals, other certificates, and words in the readiness.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use audit::Clock;
use common::house::{Standing, config_in, house_under};
use gateway::api::exchange::done;
use gateway::api::guard::may;
use gateway::api::{self, Caller, Client, Guard, InWorkspace, Origin, Scopes};
use gateway::ca::Validity;
use gateway::face::{Dressing, read_or_issue};
use gateway::ids::RequestId;
use gateway::services::keys::Change;
use serde_json::json;

const DAY: u64 = 24 * 3600 * 1_000_000;

/// The machine's clock at the start, and then whatever a test makes of it.
#[derive(Debug)]
struct Set(AtomicU64);

impl Set {
    fn right() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(audit::MachineClock::new().unix_us())))
    }

    fn put(&self, micros: u64) {
        self.0.store(micros, Ordering::SeqCst);
    }

    fn ahead(&self, days: u64) {
        self.0.fetch_add(days * DAY, Ordering::SeqCst);
    }
}

impl Clock for Set {
    fn unix_us(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn monotonic(&self) -> Duration {
        audit::MachineClock::new().monotonic()
    }

    fn boot(&self) -> audit::Boot {
        audit::MachineClock::new().boot()
    }
}

async fn dressed(standing: &Standing) -> Dressing {
    let line = standing.house.authorities.present();
    read_or_issue(&config_in(standing.directory.path()), &standing.house, &line).await.unwrap()
}

fn validity(dressing: &Dressing) -> Validity {
    dressing.validity.expect("a certificate")
}

/// The part of the readiness about certificates, with the server showing this one.
async fn told(standing: &Standing, shown: Validity) -> (bool, &'static str, String) {
    standing.house.authorities.show(Some(shown));
    standing.house.health.look(&standing.house.probes).await;
    let parts = standing.house.health.readiness(true).parts;
    let part = parts.into_iter().find(|part| part.part == "certificates").expect("the part");
    (part.ready, part.code, part.detail.unwrap_or_default())
}

#[tokio::test]
async fn an_ended_client_certificate_is_refused_on_the_connection_that_it_opened() {
    let clock = Set::right();
    let standing = house_under(clock.clone()).await;
    let program = standing.program("acme", &["keys:manage", "keys:read"]).await;
    assert_eq!(program.asker.get("/v1/keys").await.status, 200);
    clock.ahead(89);
    assert_eq!(program.asker.get("/v1/keys").await.status, 200);
    clock.ahead(2);
    for _ in 0..2 {
        let answer = program.asker.get("/v1/keys").await;
        assert_eq!(
            (answer.status, answer.json()["code"].clone()),
            (403, json!("client_expired")),
            "{answer:?}"
        );
        // What has ended stays ended when the clock goes back.
        clock.put(audit::MachineClock::new().unix_us());
    }
}

#[tokio::test]
async fn nothing_is_written_for_a_certificate_that_ended_after_the_guard_saw_it() {
    let clock = Set::right();
    let standing = house_under(clock.clone()).await;
    let program = standing.program("acme", &["keys:manage", "keys:read"]).await;
    let made = program.asker.post("/v1/keys", json!({ "name": "release", "kind": "p256" })).await;
    assert_eq!(made.status, 201, "{made:?}");
    let client =
        Client { id: program.client.parse().unwrap(), workspace: program.workspace.parse().unwrap() };
    let api_key = program.api_key.parse().unwrap();
    let caller = Caller::Program(api::Program { client, api_key, scopes: Scopes::LegacyWildcard });
    let permit: gateway::api::guard::Permit<may::KeysManage> = InWorkspace::check(Ok(&caller)).unwrap();
    let origin = Origin {
        request: RequestId::new(&standing.house.ground.dice),
        ip: None,
        user_agent: String::new(),
        deadline: Instant::now() + Duration::from_secs(10),
        urgent: false,
        fences: Vec::new(),
        once: None,
    };
    clock.ahead(91);
    let refused = standing.house.keys.change(&permit, &origin, "release", Change::Disable, done).await;
    let words = format!("{:?}", refused.expect_err("it was written"));
    assert!(words.contains("ClientWithdrawn"), "{words}");
}

#[tokio::test]
async fn a_server_certificate_from_the_future_is_renewed_once_the_clock_is_right() {
    let clock = Set::right();
    let right = clock.unix_us();
    let standing = house_under(clock.clone()).await;
    let now = || standing.house.ground.now();
    let first = dressed(&standing).await;
    assert!(first.fits && validity(&first).holds(now()));
    clock.ahead(100);
    let future = dressed(&standing).await;
    assert!(future.fits && validity(&future).holds(now()));
    clock.put(right);
    assert!(!validity(&future).holds(now()), "this proves nothing");
    let (ready, code, _) = told(&standing, validity(&future)).await;
    assert_eq!((ready, code), (false, "server_not_valid"), "nobody is told that no client can connect");
    let again = dressed(&standing).await;
    assert!(again.fits && validity(&again).holds(now()), "it shows a certificate from the future");
    let (ready, code, detail) = told(&standing, validity(&again)).await;
    assert_eq!((ready, code), (true, "valid"), "{detail}");
    // And then it is left alone.
    let kept = dressed(&standing).await;
    assert_eq!(kept.parts.chain, again.parts.chain);
}

#[tokio::test]
async fn near_its_end_a_ca_bounds_what_it_issues_and_after_it_nothing_is_issued() {
    let clock = Set::right();
    let standing = house_under(clock.clone()).await;
    let ends = standing.house.authorities.present().client_issuer().not_after();
    let micros = u64::try_from(ends.micros()).unwrap();
    clock.put(micros - 10 * DAY);
    let last = dressed(&standing).await;
    assert_eq!(validity(&last).until, ends, "the server's certificate outlives its CA");
    assert_eq!(dressed(&standing).await.parts.chain, last.parts.chain, "another of the same end was issued");
    let (ready, code, detail) = told(&standing, validity(&last)).await;
    assert_eq!((ready, code), (true, "ends_soon"), "{detail}");
    assert!(detail.contains("chancery ca rotate") && detail.contains(&ends.to_string()), "{detail}");
    let program = standing.program("acme", &["keys:read"]).await;
    assert_eq!(program.asker.get("/v1/keys").await.status, 200);
    clock.put(micros + DAY);
    let late = dressed(&standing).await;
    assert!(!late.fits, "a certificate by a CA that has ended is called right");
    let (ready, code, _) = told(&standing, validity(&late)).await;
    assert_eq!((ready, code), (false, "server_not_valid"));
    let refused = standing.enrol("acme", "late").await;
    assert_eq!(refused.status, 409, "{refused:?}");
    assert!(refused.json()["detail"].as_str().unwrap().contains("chancery ca rotate"), "{refused:?}");
}
