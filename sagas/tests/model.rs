//! A model beside the engine: any order of faults, cancellations, crashes and signals; whatever comes, the end is all,
//! nothing, or stuck in words; each effect is there at most once; an undo never comes before its step.
//! Who enters: random schedules. What leaves: the smallest schedule that breaks a promise, if there is one.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use common::{Input, SECOND, Sample, mixed, scope};
use proptest::prelude::*;
use sagas::lock::lease::{LeaseRefused, LeaseRequest, Leases};
use sagas::testing::World as _;
use sagas::testing::inject::{Fault, How, Plan, wrap};
use sagas::{Engine, LogKind, Origin, Phase, SagaKey, SignalRequest, StartRequest, State};

#[derive(Clone, Debug)]
enum Act {
    Vote(u32),
    Cancel,
    Pass(u64),
    Crash,
    Look,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        3 => (1..3_u32).prop_map(Act::Vote),
        1 => Just(Act::Cancel),
        4 => (1..20_u64).prop_map(Act::Pass),
        2 => Just(Act::Crash),
        4 => Just(Act::Look),
    ];
    prop::collection::vec(act, 1..14)
}

fn faults() -> impl Strategy<Value = Vec<Fault>> {
    let how = prop_oneof![
        Just(How::Later),
        Just(How::Closed),
        Just(How::LostBefore),
        Just(How::LostAfter),
        Just(How::Twice),
        Just(How::Refuse),
    ];
    let fault = (0..6_usize, any::<bool>(), how, 1..3_u32).prop_map(|(step, forward, how, times)| {
        let (phase, how) = match (forward, how) {
            // After the pivot nothing refuses, and an undo never does: their types do not let them.
            (true, How::Refuse) if step > 4 => (Phase::Do, How::Later),
            (true, how) => (Phase::Do, how),
            (false, How::Refuse) => (Phase::Undo, How::LostAfter),
            (false, how) => (Phase::Undo, how),
        };
        Fault { step, phase, how, times }
    });
    prop::collection::vec(fault, 0..4)
}

async fn start(sample: &Sample, plan: &Arc<Plan>) -> Engine {
    Engine::start(sample.parts_with(vec![wrap(mixed(&sample.outside), plan)])).await.unwrap()
}

async fn vote(engine: &Engine, key: &SagaKey, vote: u32) {
    // It may be over, or have heard it: both are the caller's loss only.
    let _ = engine.signal(SignalRequest::new(key.clone(), "approve", vote.to_string(), &vote).unwrap()).await;
}

/// The steps in the log in the order they were done and undone: never an undo of what was not begun, never twice, and never
/// a line of an engine that was taken over from.
async fn history_is_lawful(engine: &Engine, key: &SagaKey) {
    let log = engine.log(key, 0, 500).await.unwrap();
    assert!(log.windows(2).all(|pair| pair[0].epoch <= pair[1].epoch), "a late line: {log:#?}");
    let mut begun: BTreeMap<usize, bool> = BTreeMap::new();
    // A try that was rolled back leaves this line alone; its step is undone all the same, which does nothing.
    let mut tried: BTreeSet<usize> = BTreeSet::new();
    for line in &log {
        match (line.phase, line.kind) {
            (Phase::Do, LogKind::Failed) if line.attempt > 0 => {
                tried.insert(line.step);
            }
            (Phase::Do, LogKind::Intent) => {
                begun.entry(line.step).or_insert(false);
            }
            (Phase::Do, LogKind::Done) => {
                assert_ne!(
                    begun.insert(line.step, true),
                    Some(true),
                    "step {} done twice: {log:#?}",
                    line.step
                );
            }
            (Phase::Undo, LogKind::Done) => {
                assert!(
                    begun.remove(&line.step).is_some() || tried.contains(&line.step),
                    "step {} undone but never begun: {log:#?}",
                    line.step
                );
                assert!(begun.keys().all(|other| *other < line.step), "undone out of order: {log:#?}");
            }
            _ => {}
        }
    }
}

async fn play(faults: Vec<Fault>, acts: Vec<Act>) {
    let (sample, plan) = (Sample::new(""), Arc::new(Plan::default()));
    plan.set(faults);
    let mut engine = start(&sample, &plan).await;
    let request = StartRequest::new("sample.mixed", scope(), &Input { round: 1 }).unwrap();
    let key = engine.launch(request).await.unwrap().key;
    for act in acts {
        match act {
            Act::Vote(number) => vote(&engine, &key, number).await,
            // Past the pivot it is refused.
            Act::Cancel => drop(engine.cancel(&key, Origin::default(), "by the model").await),
            Act::Pass(seconds) => {
                sample.clock.advance(SECOND * u32::try_from(seconds).unwrap());
                engine.tick();
            }
            Act::Crash => {
                engine.halt();
                engine.close().await;
                sample.reopen().await;
                engine = start(&sample, &plan).await;
            }
            Act::Look => history_is_lawful(&engine, &key).await,
        }
    }
    plan.heal();
    let end = loop {
        vote(&engine, &key, 2).await;
        if let Some(end) = engine.wait(&key, std::time::Duration::from_millis(2)).await.unwrap() {
            break end;
        }
        sample.clock.advance(SECOND);
        engine.tick();
    };
    history_is_lawful(&engine, &key).await;
    let world = sample.snapshot(1).await.to_string();
    match end.state {
        State::Succeeded => {
            for there in ["\"a\",1", "\"b\",1", "\"p\",1", "\"made\"", "\"published\""] {
                assert!(world.contains(there), "{there} is not in {world}");
            }
        }
        State::Compensated => assert_eq!(world, r#"{"outside":[],"things":[]}"#),
        other => panic!("it ended {other:?}"),
    }
    assert!(engine.locks().await.unwrap().is_empty());
    engine.close().await;
}

#[derive(Clone, Debug)]
enum Claim {
    /// Another engine starts beside those that are there, and takes over what lives. Nobody tells the others.
    Usurp,
    /// One of the engines hears a vote.
    Vote(usize, u32),
    /// One of the engines is asked to call it off.
    Cancel(usize),
    Pass(u64),
    Look,
}

fn claims() -> impl Strategy<Value = Vec<Claim>> {
    let claim = prop_oneof![
        3 => Just(Claim::Usurp),
        3 => (any::<usize>(), 1..3_u32).prop_map(|(by, vote)| Claim::Vote(by, vote)),
        1 => any::<usize>().prop_map(Claim::Cancel),
        4 => (1..20_u64).prop_map(Claim::Pass),
        2 => Just(Claim::Look),
    ];
    prop::collection::vec(claim, 1..14)
}

/// Several engines over one ledger, of which only the last to claim may write. Whatever the others were doing, each step is
/// taken once and undone once, in order. Effects outside are not compared: a call that a usurped engine has already made
/// cannot be called back, which is why the ledger's file is locked against a second daemon.
async fn play_owners(faults: Vec<Fault>, claims: Vec<Claim>) {
    const ENGINES_MAX: usize = 4;
    const LOOKS_MAX: usize = 10_000;
    let (sample, plan) = (Sample::new(""), Arc::new(Plan::default()));
    plan.set(faults);
    let mut engines = vec![start(&sample, &plan).await];
    let request = StartRequest::new("sample.mixed", scope(), &Input { round: 1 }).unwrap();
    let key = engines[0].launch(request).await.unwrap().key;
    for claim in claims {
        let one = |by: usize| &engines[by % engines.len()];
        match claim {
            Claim::Usurp if engines.len() < ENGINES_MAX => engines.push(start(&sample, &plan).await),
            Claim::Usurp => {}
            Claim::Vote(by, number) => vote(one(by), &key, number).await,
            Claim::Cancel(by) => drop(one(by).cancel(&key, Origin::default(), "by the model").await),
            Claim::Pass(seconds) => {
                sample.clock.advance(SECOND * u32::try_from(seconds).unwrap());
                engines.iter().for_each(Engine::tick);
            }
            Claim::Look => history_is_lawful(one(0), &key).await,
        }
    }
    plan.heal();
    let owner = engines.last().unwrap();
    let mut end = None;
    for _ in 0..LOOKS_MAX {
        vote(owner, &key, 2).await;
        end = owner.wait(&key, std::time::Duration::from_millis(2)).await.unwrap();
        if end.is_some() {
            break;
        }
        sample.clock.advance(SECOND);
        engines.iter().for_each(Engine::tick);
    }
    let end = end.unwrap_or_else(|| panic!("it does not end"));
    assert!(owner.locks().await.unwrap().is_empty());
    history_is_lawful(owner, &key).await;
    // Every engine records what came of its calls, or lets go of them, before the world is looked at.
    for engine in engines {
        engine.close().await;
    }
    let things = sample.things().await;
    let has = |name: &str| things.iter().any(|(thing, _)| thing == name);
    match end.state {
        State::Succeeded => assert!(["r1/a", "r1/b", "r1/p"].into_iter().all(has), "{things:?}"),
        State::Compensated => assert!(things.is_empty(), "{things:?}"),
        other => panic!("it ended {other:?}"),
    }
    assert!(things.iter().all(|(_, puts)| *puts == 1), "put twice: {things:?}");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[derive(Clone, Debug)]
enum Move {
    Acquire(usize),
    Release(usize),
    Renew(usize),
    Pass(u64),
    Restart,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        4 => (0..3_usize).prop_map(Move::Acquire),
        2 => (0..3_usize).prop_map(Move::Release),
        2 => (0..3_usize).prop_map(Move::Renew),
        3 => (1..8_u64).prop_map(Move::Pass),
        1 => Just(Move::Restart),
    ];
    prop::collection::vec(one, 1..30)
}

/// Three clients and one name, against a model of two numbers: who holds it, and until when.
async fn play_leases(moves: Vec<Move>) {
    const TTL: u64 = 10;
    let sample = Sample::new("");
    let open = |sample: &Sample| Leases::new(sample.ledger(), sample.clock.clone(), sample.dice.clone());
    let mut all = open(&sample);
    let (mut now, mut holder, mut last_fence) = (0, None::<(usize, u64)>, 0);
    let mut leases: [Option<sagas::lock::lease::Lease>; 3] = Default::default();
    for step in moves {
        let held = holder.filter(|(_, until)| *until > now);
        match step {
            Move::Acquire(client) => {
                let wish = LeaseRequest {
                    scope: scope(),
                    name: "it".to_owned(),
                    holder: format!("client:{client}"),
                    request_key: None,
                    ttl: SECOND * 10,
                    wait: std::time::Duration::ZERO,
                    origin: Origin::default(),
                };
                match (all.acquire(wish).await, held) {
                    (Ok(lease), None) => {
                        assert!(lease.fence > last_fence, "a fence only grows");
                        last_fence = lease.fence;
                        leases[client] = Some(lease);
                        holder = Some((client, now + TTL));
                    }
                    (
                        Err(audit::WriteRefused::Rejected(LeaseRefused::Held { holder, .. })),
                        Some((by, _)),
                    ) => {
                        assert_eq!(holder, format!("client:{by}"));
                    }
                    (other, model) => panic!("{other:?}, but the model says {model:?}"),
                }
            }
            Move::Release(client) => {
                let Some(lease) = leases[client].take() else { continue };
                let freed = all.release(&scope(), "it", lease.lease_id, Origin::default()).await.unwrap();
                // One whose lease ran out may still give it back, as long as nobody else has taken it.
                assert_eq!(freed, holder.is_some_and(|(by, _)| by == client));
                if freed {
                    holder = None;
                }
            }
            Move::Renew(client) => {
                let Some(lease) = &leases[client] else { continue };
                let renewed = all.renew(&scope(), "it", lease.lease_id, SECOND * 10, Origin::default()).await;
                assert_eq!(renewed.is_ok(), held.is_some_and(|(by, _)| by == client));
                if renewed.is_ok() {
                    holder = Some((client, now + TTL));
                }
            }
            Move::Pass(seconds) => {
                now += seconds;
                sample.clock.advance(SECOND * u32::try_from(seconds).unwrap());
            }
            Move::Restart => {
                drop(all);
                sample.reopen().await;
                all = open(&sample);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_end_is_all_or_nothing(faults in faults(), acts in acts()) {
        runtime().block_on(play(faults, acts));
    }

    #[test]
    fn whatever_engines_take_over_from_each_other_each_step_is_taken_once(faults in faults(), claims in claims()) {
        runtime().block_on(play_owners(faults, claims));
    }

    #[test]
    fn whatever_three_clients_do_one_holds_and_fences_only_grow(moves in moves()) {
        runtime().block_on(play_leases(moves));
    }
}
