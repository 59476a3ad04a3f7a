//! Leases keep their promises: fences that only grow, renewals that come in time or not at all, a line that is fair.
//! Who enters: holders who pause, crash, come late, or ask twice.
//! What leaves: one holder at a time, and protected writes of that one only.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use audit::{Told, WriteRefused};
use common::{SECOND, Sample, scope};
use sagas::Origin;
use sagas::lock::lease::{Fenced, Lease, LeaseRefused, LeaseRequest, Leases, fence_guard};
use sagas::testing::World as _;

fn leases(sample: &Sample) -> Leases {
    Leases::new(sample.ledger(), sample.clock.clone(), sample.dice.clone())
}

fn wish(holder: &str) -> LeaseRequest {
    LeaseRequest {
        scope: scope(),
        name: "vault".to_owned(),
        holder: holder.to_owned(),
        request_key: None,
        ttl: SECOND * 10,
        wait: Duration::ZERO,
        origin: Origin::default(),
    }
}

fn patient(holder: &str) -> LeaseRequest {
    LeaseRequest { wait: SECOND * 30, ..wish(holder) }
}

async fn refusal(leases: &Leases, wish: LeaseRequest) -> LeaseRefused {
    match leases.acquire(wish).await {
        Err(WriteRefused::Rejected(refused)) => refused,
        other => panic!("{other:?}"),
    }
}

/// A write that is protected by the fence of a lease.
async fn protected_write(sample: &Sample, fence: i64) -> Result<(), Fenced> {
    let ledger = sample.ledger();
    let written = ledger.write(move |tx| {
        fence_guard(tx, &scope(), "vault", fence)?;
        Ok(Told::new((), audit::Entry::new("vault.write")))
    });
    match written.await {
        Ok(_) => Ok(()),
        Err(WriteRefused::Rejected(fenced)) => Err(fenced),
        Err(other) => panic!("{other:?}"),
    }
}

async fn release(leases: &Leases, lease: &Lease) -> bool {
    leases.release(&scope(), &lease.name, lease.lease_id, Origin::default()).await.unwrap()
}

#[tokio::test]
async fn a_fence_grows_through_release_expiry_force_and_restart() {
    let sample = Sample::new("");
    let (all, mut last) = (leases(&sample), 0);
    let grew = |lease: &Lease, last: &mut i64| {
        assert!(lease.fence > *last, "{} after {last}", lease.fence);
        *last = lease.fence;
    };
    let lease = all.acquire(wish("a")).await.unwrap();
    grew(&lease, &mut last);
    assert!(release(&all, &lease).await);
    grew(&all.acquire(wish("b")).await.unwrap(), &mut last);
    sample.clock.advance(SECOND * 11);
    grew(&all.acquire(wish("c")).await.unwrap(), &mut last);
    assert!(all.force_release(&scope(), "vault", Origin::default()).await.unwrap());
    grew(&all.acquire(wish("d")).await.unwrap(), &mut last);
    drop(all);
    sample.clock.advance(SECOND * 11);
    sample.reopen().await;
    grew(&leases(&sample).acquire(wish("e")).await.unwrap(), &mut last);
}

#[tokio::test]
async fn a_second_holder_is_told_who_holds_it_since_when_and_until_when() {
    let sample = Sample::new("");
    let all = leases(&sample);
    let held = all.acquire(wish("a")).await.unwrap();
    match refusal(&all, wish("b")).await {
        LeaseRefused::Held { name, holder, since_us, until_us } => {
            assert_eq!((name.as_str(), holder.as_str()), ("vault", "a"));
            assert_eq!((since_us, until_us), (held.since_us, held.until_us));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(all.list(&scope(), "", 10).await.unwrap(), [held]);
}

#[tokio::test]
async fn a_paused_holder_that_writes_late_is_refused() {
    let sample = Sample::new("");
    let all = leases(&sample);
    let paused = all.acquire(wish("paused")).await.unwrap();
    protected_write(&sample, paused.fence).await.unwrap();
    // It sleeps through its lease, and another takes the name.
    sample.clock.advance(SECOND * 11);
    let next = all.acquire(wish("next")).await.unwrap();
    // It wakes, believes that it still holds the lease, and writes.
    assert!(
        matches!(protected_write(&sample, paused.fence).await, Err(Fenced::Stale { carried, .. }) if carried == paused.fence)
    );
    protected_write(&sample, next.fence).await.unwrap();
    assert!(protected_write(&sample, next.fence + 1).await.is_err(), "a fence that nobody was given");
}

#[tokio::test]
async fn a_forced_release_fences_the_holder_at_once() {
    let sample = Sample::new("");
    let all = leases(&sample);
    let lease = all.acquire(wish("a")).await.unwrap();
    assert!(all.force_release(&scope(), "vault", Origin::default()).await.unwrap());
    assert!(protected_write(&sample, lease.fence).await.is_err(), "before anyone else has it");
}

#[tokio::test]
async fn a_renewal_after_the_expiry_is_refused_even_if_nobody_took_it() {
    let sample = Sample::new("");
    let all = leases(&sample);
    let lease = all.acquire(wish("a")).await.unwrap();
    sample.clock.advance(SECOND * 9);
    let renewed = all.renew(&scope(), "vault", lease.lease_id, SECOND * 10, Origin::default()).await.unwrap();
    assert_eq!((renewed.fence, renewed.until_us), (lease.fence, lease.until_us + 9_000_000));
    sample.clock.advance(SECOND * 10);
    let late = all.renew(&scope(), "vault", lease.lease_id, SECOND * 10, Origin::default()).await;
    assert!(matches!(late, Err(WriteRefused::Rejected(LeaseRefused::Expired))), "{late:?}");
}

#[tokio::test]
async fn a_stale_release_leaves_the_new_holder_alone() {
    let sample = Sample::new("");
    let all = leases(&sample);
    let old = all.acquire(wish("old")).await.unwrap();
    sample.clock.advance(SECOND * 11);
    let new = all.acquire(wish("new")).await.unwrap();
    assert!(!release(&all, &old).await);
    assert_eq!(all.list(&scope(), "", 10).await.unwrap(), [new]);
}

#[tokio::test]
async fn asked_again_with_its_key_the_holder_gets_the_same_lease_and_without_it_none() {
    let sample = Sample::new("");
    let all = leases(&sample);
    let keyed = LeaseRequest { request_key: Some("k1".to_owned()), ..wish("a") };
    let lease = all.acquire(keyed.clone()).await.unwrap();
    assert_eq!(all.acquire(keyed.clone()).await.unwrap(), lease);
    assert!(matches!(refusal(&all, wish("a")).await, LeaseRefused::Held { .. }));
    let other = LeaseRequest { holder: "b".to_owned(), ..keyed };
    assert!(matches!(refusal(&all, other).await, LeaseRefused::Held { .. }), "a key is its holder's own");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_are_served_in_the_order_in_which_they_came() {
    let sample = Sample::new("");
    let all = leases(&sample);
    let mut held = all.acquire(wish("first")).await.unwrap();
    let served = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut waiting = Vec::new();
    for holder in ["second", "third", "fourth"] {
        let (all, served) = (all.clone(), served.clone());
        let standing = waiting.len() as i64;
        waiting.push(tokio::spawn(async move {
            let lease = all.acquire(patient(holder)).await.unwrap();
            served.lock().unwrap().push(holder);
            lease
        }));
        // Each stands in line before the next comes.
        until(async || {
            sagas::lock::lease::waiting(&sample.ledger(), &scope(), "vault", 0).await == standing + 1
        })
        .await;
    }
    for waiter in waiting {
        assert!(release(&all, &held).await);
        held = waiter.await.unwrap();
    }
    assert_eq!(*served.lock().unwrap(), ["second", "third", "fourth"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_loses_patience_gives_up_the_place_and_who_comes_later_cannot_pass_by() {
    let sample = Sample::new("");
    let all = leases(&sample);
    let held = all.acquire(wish("a")).await.unwrap();
    let hasty = LeaseRequest { wait: Duration::from_millis(30), ..wish("hasty") };
    assert!(matches!(refusal(&all, hasty).await, LeaseRefused::Held { .. }));
    let waiter = tokio::spawn({
        let all = all.clone();
        async move { all.acquire(patient("waiter")).await }
    });
    until(async || sagas::lock::lease::waiting(&sample.ledger(), &scope(), "vault", 0).await == 1).await;
    assert!(release(&all, &held).await);
    let lease = waiter.await.unwrap().unwrap();
    assert_eq!(lease.holder, "waiter");
    assert!(matches!(refusal(&all, wish("late")).await, LeaseRefused::Held { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_stood_in_line_when_the_process_died_stands_in_nobodys_way() {
    let sample = Sample::new("");
    let all = leases(&sample);
    all.acquire(wish("a")).await.unwrap();
    let waiter = tokio::spawn({
        let all = all.clone();
        async move { all.acquire(patient("waiter")).await }
    });
    until(async || sagas::lock::lease::waiting(&sample.ledger(), &scope(), "vault", 0).await == 1).await;
    waiter.abort();
    sample.reopen().await;
    sample.clock.advance(SECOND * 11);
    let all = leases(&sample);
    // The lease of the dead is over, and so is the place in line, which would last for another twenty seconds.
    let refused = refusal(&all, wish("b")).await;
    assert!(matches!(refused, LeaseRefused::InLine), "{refused}");
    assert_eq!(all.clear_lines().await.unwrap(), 1);
    assert_eq!(all.acquire(wish("b")).await.unwrap().holder, "b");
}

#[tokio::test]
async fn a_name_that_nobody_has_held_for_a_day_goes_and_comes_back_with_a_higher_fence() {
    let sample = Sample::new("");
    let all = leases(&sample);
    let mut last = 0;
    for name in ["one", "two", "vault"] {
        for _ in 0..3 {
            let lease = all.acquire(LeaseRequest { name: name.to_owned(), ..wish("a") }).await.unwrap();
            last = lease.fence;
            sample.clock.advance(SECOND * 11);
        }
    }
    let held = all.acquire(LeaseRequest { name: "held".to_owned(), ttl: SECOND * 3600, ..wish("a") }).await;
    assert_eq!(all.sweep().await.unwrap(), 0, "a day has not passed");
    sample.clock.advance(SECOND * 24 * 3600);
    assert_eq!(all.sweep().await.unwrap(), 3, "and the held one's has not");
    assert!(protected_write(&sample, last).await.is_err(), "a fence of a name that went is of the past");
    assert!(all.acquire(wish("b")).await.unwrap().fence > last);
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_no_longer_when_the_turn_comes_gets_nothing_and_the_next_in_line_does() {
    let sample = Sample::new("");
    let all = leases(&sample);
    let may = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&may);
    let short_lived =
        all.as_long_as(Arc::new(
            move |_| {
                if asked.load(Ordering::SeqCst) { Ok(()) } else { Err("revoked".into()) }
            },
        ));
    let held = all.acquire(wish("a")).await.unwrap();
    let waiting = async |count| {
        until(async || sagas::lock::lease::waiting(&sample.ledger(), &scope(), "vault", 0).await == count)
            .await;
    };
    let revoked = tokio::spawn({
        let all = short_lived.clone();
        async move { refusal(&all, patient("revoked")).await }
    });
    waiting(1).await;
    let next = tokio::spawn({
        let all = all.clone();
        async move { all.acquire(patient("next")).await }
    });
    waiting(2).await;
    may.store(false, Ordering::SeqCst);
    assert!(release(&all, &held).await);
    assert!(matches!(revoked.await.unwrap(), LeaseRefused::NotAllowed(_)));
    let lease = next.await.unwrap().unwrap();
    let renewed = short_lived.renew(&scope(), "vault", lease.lease_id, SECOND * 10, Origin::default()).await;
    assert!(matches!(renewed, Err(WriteRefused::Rejected(LeaseRefused::NotAllowed(_)))));
    assert!(release(&all, &lease).await, "and nothing of the refusals was left behind");
}

#[tokio::test]
async fn a_crashed_holder_holds_until_its_lease_is_over_and_no_longer() {
    let sample = Sample::new("");
    leases(&sample).acquire(wish("crashed")).await.unwrap();
    sample.reopen().await;
    let all = leases(&sample);
    assert!(matches!(refusal(&all, wish("b")).await, LeaseRefused::Held { .. }));
    sample.clock.advance(SECOND * 10);
    assert_eq!(all.acquire(wish("b")).await.unwrap().holder, "b");
}

#[tokio::test]
async fn one_workspace_does_not_meet_the_leases_of_another() {
    let sample = Sample::new("");
    let all = leases(&sample);
    all.acquire(wish("a")).await.unwrap();
    let other = sagas::Scope::Workspace(audit::Workspace::new("other").unwrap());
    all.acquire(LeaseRequest { scope: other.clone(), ..wish("b") }).await.unwrap();
    assert_eq!(all.list(&other, "", 10).await.unwrap().len(), 1);
    assert!(matches!(
        refusal(&all, LeaseRequest { ttl: SECOND / 2, ..wish("c") }).await,
        LeaseRefused::Bad(_)
    ));
}

async fn until(condition: impl AsyncFn() -> bool) {
    while !condition().await {
        tokio::task::yield_now().await;
    }
}
