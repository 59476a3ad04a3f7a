//! Locks in line: who holds, who waits, and for how long.

use audit::WriteRefused;
use sagas::{OnConflict, StartRefused, State};

use crate::common::{SECOND, Sample, end, engine, mixed, request, until, vote};

#[tokio::test(flavor = "multi_thread")]
async fn a_held_lock_refuses_with_who_holds_it_and_queues_in_the_order_of_coming() {
    let sample = Sample::new("");
    let engine = engine(&sample, vec![mixed(&sample.outside)]).await;
    let holder = engine.launch(request("sample.mixed", 1)).await.unwrap().key;
    match engine.launch(request("sample.mixed", 1)).await {
        Err(WriteRefused::Rejected(StartRefused::Locked(blocker))) => {
            assert_eq!(
                (blocker.saga, blocker.held, blocker.lock.as_str()),
                (holder.clone(), true, "round/1")
            );
        }
        other => panic!("{other:?}"),
    }
    let patient = || request("sample.mixed", 1).on_conflict(OnConflict::Queue(SECOND * 600));
    let second = engine.launch(patient()).await.unwrap();
    let third = engine.launch(patient()).await.unwrap();
    assert_eq!((second.state, third.state), (State::Pending, State::Pending));
    for (now, next) in [(&holder, Some(&second.key)), (&second.key, Some(&third.key)), (&third.key, None)] {
        until(&engine, now, State::Waiting).await;
        if let Some(next) = next {
            assert_eq!(engine.show(next).await.unwrap().unwrap().summary.state, "pending");
        }
        vote(&engine, now, 1).await;
        vote(&engine, now, 2).await;
        assert_eq!(end(&engine, now).await.state, State::Succeeded);
    }
    assert!(engine.locks().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_too_long_for_a_lock_ends_without_having_done_anything() {
    let sample = Sample::new("");
    let engine = engine(&sample, vec![mixed(&sample.outside)]).await;
    let holder = engine.launch(request("sample.mixed", 1)).await.unwrap().key;
    until(&engine, &holder, State::Waiting).await;
    let patient = request("sample.mixed", 1).on_conflict(OnConflict::Queue(SECOND * 5));
    let waiting = engine.launch(patient).await.unwrap().key;
    sample.clock.advance(SECOND * 5);
    engine.tick();
    let end = end(&engine, &waiting).await;
    assert_eq!((end.state, end.code.as_deref()), (State::Compensated, Some("locked")));
    let late = engine.locks().await.unwrap();
    assert!(late.iter().all(|lock| lock.saga == holder), "{late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn patience_for_a_lock_is_on_the_row_from_its_first_commit() {
    let sample = Sample::new("");
    let engine = engine(&sample, vec![mixed(&sample.outside)]).await;
    let holder = engine.launch(request("sample.mixed", 1)).await.unwrap().key;
    until(&engine, &holder, State::Waiting).await;
    let patient = request("sample.mixed", 1).on_conflict(OnConflict::Queue(SECOND * 5));
    let start = engine.prepare(patient).await.unwrap();
    let waiting = start.key().clone();
    // As if the process had died before the engine heard of it: all that is known stands in the row.
    sample.ledger().write(move |tx| start.commit(tx)).await.unwrap();
    sample.clock.advance(SECOND * 5);
    let end = end(&engine, &waiting).await;
    assert_eq!((end.state, end.code.as_deref()), (State::Compensated, Some("locked")));
}
