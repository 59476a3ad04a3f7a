//! Waits that protect somebody, votes that come too late, and pauses that grow.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use audit::Told;
use sagas::{
    AFTER_REBOOT_MIN, CLOCK_SETTLES_IN, Definition, Later, Refused, Ruling, State, Undo, Verb, Workflow,
};

use crate::actions;
use crate::common::{Input, SECOND, Sample, end, engine, mixed, operator, request, until, vote};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A notice of a day before something that cannot be undone.
fn with_notice() -> Definition {
    Workflow::define("sample.notice")
        .version(1)
        .input::<Input>()
        .local(
            "announce",
            |_, cx, _, ()| Ok(Told::new((), cx.entry("thing.announced", "x"))),
            Undo::none("nothing"),
        )
        .wait(
            "notice",
            |step| step.until(|_, ()| DAY, |_, _, _, ()| Ok(Ruling::Passed((), Vec::new()))).protective(),
            Undo::none("waiting changes nothing"),
        )
        .pivot_local("destroy", |_, cx, _, ()| Ok(Told::new((), cx.entry("thing.destroyed", "x"))))
        .build()
        .unwrap()
}

async fn at_notice(sample: &Sample) -> (sagas::Engine, sagas::SagaKey) {
    let engine = engine(sample, vec![with_notice()]).await;
    let key = engine.launch(request("sample.notice", 1)).await.unwrap().key;
    until(&engine, &key, State::Waiting).await;
    (engine, key)
}

/// Looks so often that whatever was due has been done.
async fn settled(engine: &sagas::Engine, key: &sagas::SagaKey) -> &'static str {
    for _ in 0..50 {
        engine.tick();
        engine.wait(key, Duration::from_millis(1)).await.unwrap();
    }
    engine.show(key).await.unwrap().unwrap().summary.state
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_put_forward_shortens_no_notice() {
    let sample = Sample::new("");
    let (engine, key) = at_notice(&sample).await;
    sample.clock.put_forward(DAY * 30);
    assert_eq!(settled(&engine, &key).await, "waiting");
    assert!(actions(&sample).await.iter().all(|action| action != "thing.destroyed"));
    sample.clock.advance(DAY - SECOND);
    assert_eq!(settled(&engine, &key).await, "waiting");
    sample.clock.advance(SECOND * 2);
    assert_eq!(end(&engine, &key).await.state, State::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_put_back_lengthens_no_notice() {
    let sample = Sample::new("");
    let (engine, key) = at_notice(&sample).await;
    sample.clock.put_back(DAY * 30);
    assert_eq!(settled(&engine, &key).await, "waiting");
    sample.clock.advance(DAY + SECOND);
    engine.tick();
    assert_eq!(end(&engine, &key).await.state, State::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_undone_waits_until_the_clocks_have_agreed_for_an_hour() {
    let sample = Sample::new("");
    let (engine, key) = at_notice(&sample).await;
    sample.clock.advance(DAY - SECOND * 60);
    sample.clock.put_forward(DAY);
    assert_eq!(settled(&engine, &key).await, "waiting");
    sample.clock.advance(SECOND * 120);
    assert_eq!(
        settled(&engine, &key).await,
        "backoff",
        "the notice is over, and the clocks have not settled"
    );
    let entries = sample.ledger().read(|view| view.entries(&audit::EntryFilter::default())).await.unwrap();
    assert_eq!(entries.iter().filter(|entry| entry.action == "clock.jumped").count(), 1);
    sample.clock.advance(CLOCK_SETTLES_IN);
    engine.tick();
    assert_eq!(end(&engine, &key).await.state, State::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn time_in_which_the_machine_was_off_does_not_count_and_an_hour_is_left_after_it() {
    let sample = Sample::new("");
    let (engine_before, key) = at_notice(&sample).await;
    sample.clock.advance(DAY - SECOND * 60);
    engine_before.tick();
    assert_eq!(settled(&engine_before, &key).await, "waiting");
    engine_before.close().await;
    sample.clock.reboot(DAY * 5);
    let engine = engine(&sample, vec![with_notice()]).await;
    sample.clock.advance(SECOND * 120);
    assert_eq!(settled(&engine, &key).await, "waiting", "an hour is left after a reboot");
    sample.clock.advance(AFTER_REBOOT_MIN);
    engine.tick();
    assert_eq!(end(&engine, &key).await.state, State::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vote_after_the_end_of_its_wait_does_not_count_however_late_it_is_heard() {
    let sample = Sample::new("");
    // One driver, so that the run is not looked at while another one holds it.
    let (gate, entered) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
    let held = held_up(&gate, &entered);
    let mut parts = sample.parts_with(vec![mixed(&sample.outside), held]);
    parts.limits.running_max = 1;
    let engine = sagas::Engine::start(parts).await.unwrap();
    let key = engine.launch(request("sample.mixed", 1)).await.unwrap().key;
    until(&engine, &key, State::Waiting).await;
    vote(&engine, &key, 1).await;
    engine.launch(request("sample.held", 2)).await.unwrap();
    entered.notified().await;
    // The wait's minute is over, the run's own hour is not.
    sample.clock.advance(SECOND * 120);
    vote(&engine, &key, 2).await;
    gate.notify_one();
    let end = end(&engine, &key).await;
    assert_eq!((end.state, end.code.as_deref()), (State::Compensated, Some("deadline")));
    assert!(actions(&sample).await.contains(&"workflow.signal_late".to_owned()));
}

fn held_up(gate: &Arc<tokio::sync::Notify>, entered: &Arc<tokio::sync::Notify>) -> Definition {
    let (gate, entered) = (gate.clone(), entered.clone());
    Workflow::define("sample.held")
        .version(1)
        .input::<Input>()
        .local("one", |_, cx, _, ()| Ok(Told::new((), cx.entry("thing.one", "x"))), Undo::none("nothing"))
        .remote(
            "held",
            |step| {
                step.within(SECOND * 60)
                    .act(move |_, _, (), _| {
                        let (gate, entered) = (gate.clone(), entered.clone());
                        async move {
                            entered.notify_one();
                            gate.notified().await;
                            Ok(())
                        }
                    })
                    .probe(|_, _, ()| async { sagas::Probe::NotApplied })
            },
            Undo::none("nothing"),
        )
        .pivot_local("two", |_, cx, _, ()| Ok(Told::new((), cx.entry("thing.two", "x"))))
        .build()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_was_begun_is_undone_also_after_a_person_has_retried_it() {
    let (sample, orders, undos) =
        (Sample::new(""), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let engine = engine(&sample, vec![ordered_once(&orders, &undos)]).await;
    let key = engine.launch(request("sample.ordered", 1)).await.unwrap().key;
    until(&engine, &key, State::Backoff).await;
    sample.clock.advance(SECOND * 60);
    until(&engine, &key, State::StuckForward).await;
    // A person comes the next day, when the run's own time is over.
    sample.clock.advance(DAY);
    engine.operate(&key, Verb::Retry, operator(), "next day").await.unwrap();
    assert_eq!(end(&engine, &key).await.state, State::Compensated);
    assert_eq!((orders.load(Ordering::SeqCst), undos.load(Ordering::SeqCst)), (2, 1));
}

/// A call whose first order commits and which then says "later"; its second order is a defect.
fn ordered_once(orders: &Arc<AtomicUsize>, undos: &Arc<AtomicUsize>) -> Definition {
    let (orders, undos) = (orders.clone(), undos.clone());
    Workflow::define("sample.ordered")
        .version(1)
        .input::<Input>()
        .deadline(SECOND * 600)
        .local("one", |_, cx, _, ()| Ok(Told::new((), cx.entry("thing.one", "x"))), Undo::none("nothing"))
        .remote(
            "two",
            |step| {
                step.within(SECOND)
                    .order(move |_, cx, _, ()| match orders.fetch_add(1, Ordering::SeqCst) {
                        0 => Ok(Told::new((), cx.entry("thing.order", "x"))),
                        _ => Err(Refused::Bug("a defect".to_owned())),
                    })
                    .act(|_, _, (), _| async { Err::<(), _>(sagas::RemoteFault::later("not now")) })
                    .probe(|_, _, ()| async { sagas::Probe::NotApplied })
            },
            Undo::local(move |_, cx, _: &Input, (): &()| {
                undos.fetch_add(1, Ordering::SeqCst);
                Ok(Told::new((), cx.entry("thing.undone", "x")))
            }),
        )
        .pivot_local("three", |_, cx, _, ()| Ok(Told::new((), cx.entry("thing.three", "x"))))
        .build()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_says_later_is_tried_after_pauses_that_grow() {
    for back in [false, true] {
        let (sample, tries) = (Sample::new(""), Arc::new(AtomicUsize::new(0)));
        let engine = engine(&sample, vec![saying_later(&tries, back)]).await;
        let key = engine.launch(request("sample.later", 1)).await.unwrap().key;
        for _ in 0..100 {
            engine.wait(&key, Duration::from_millis(1)).await.unwrap();
            sample.clock.advance(SECOND);
            engine.tick();
        }
        let tried = tries.load(Ordering::SeqCst);
        assert!((3..=12).contains(&tried), "{tried} tries in 100 s, going back: {back}");
        let told = actions(&sample).await;
        assert!(told.iter().any(|action| action == "workflow.retry"), "{told:?}");
    }
}

/// The order of a call, or a local undo, that says "not now" for ever.
fn saying_later(tries: &Arc<AtomicUsize>, back: bool) -> Definition {
    let (ordering, undoing) = (tries.clone(), tries.clone());
    let later = |tries: &AtomicUsize| {
        tries.fetch_add(1, Ordering::SeqCst);
        Later::new("not now")
    };
    Workflow::define("sample.later")
        .version(1)
        .input::<Input>()
        .local(
            "one",
            |_, cx, _, ()| Ok(Told::new((), cx.entry("thing.one", "x"))),
            Undo::local(move |_, _, _: &Input, (): &()| Err(Refused::Later(later(&undoing)))),
        )
        .remote(
            "two",
            |step| {
                step.within(SECOND)
                    .order(move |_, _, _, ()| match back {
                        true => Err::<Told<()>, _>(Refused::business("no", "a rule says no")),
                        false => Err(Refused::Later(later(&ordering))),
                    })
                    .act(|_, _, (), _| async { Ok(()) })
                    .probe(|_, _, ()| async { sagas::Probe::NotApplied })
            },
            Undo::none("nothing"),
        )
        .pivot_local("three", |_, cx, _, ()| Ok(Told::new((), cx.entry("thing.three", "x"))))
        .build()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_over_goes_with_everything_about_it_and_one_that_lives_stays() {
    let sample = Sample::new("");
    let engine = engine(&sample, vec![mixed(&sample.outside), with_notice()]).await;
    let lives = engine.launch(request("sample.notice", 9)).await.unwrap().key;
    let mut over = Vec::new();
    for round in 0..3 {
        let key = engine.launch(request("sample.mixed", round)).await.unwrap().key;
        until(&engine, &key, State::Waiting).await;
        vote(&engine, &key, 2).await;
        assert_eq!(end(&engine, &key).await.state, State::Succeeded);
        over.push(key);
    }
    static FORGOTTEN: AtomicUsize = AtomicUsize::new(0);
    let others = |_: &mut audit::Tx<'_>, _: &sagas::SagaKey| {
        FORGOTTEN.fetch_add(1, Ordering::SeqCst);
        Ok(())
    };
    assert_eq!(engine.sweep(DAY * 30, others).await.unwrap(), 0);
    // By the wall clock: what is kept for people goes by their calendar.
    sample.clock.put_forward(DAY * 31);
    assert_eq!(engine.sweep(DAY * 30, others).await.unwrap(), 3);
    assert_eq!(FORGOTTEN.load(Ordering::SeqCst), 3);
    for key in &over {
        assert!(engine.show(key).await.unwrap().is_none());
        assert!(engine.log(key, 0, 10).await.unwrap().is_empty());
    }
    assert!(engine.show(&lives).await.unwrap().is_some());
    let again = engine.launch(request("sample.mixed", 0)).await.unwrap().key;
    until(&engine, &again, State::Waiting).await;
    assert!(
        engine.locks().await.unwrap().iter().filter(|lock| lock.saga == again).all(|lock| lock.fence > 1)
    );
}
