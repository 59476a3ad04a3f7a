//! A model of one idempotency key: three requests with it, in any order, slow, crashed and late; one effect per life of
//! the key, one answer, and a claim that was taken over neither does nor answers anything more.
//! Who enters: random schedules. What leaves: the smallest one that breaks a promise, if there is one.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use audit::{Entry, Told, WriteRefused};
use common::{SECOND, Sample, scope};
use proptest::prelude::*;
use sagas::idempotency::{
    Answer, Claim, ClaimRefused, Fingerprint, Held, Idempotency, Keep, Key, RequestParts, Standing, Whose,
};
use sagas::testing::{TestSeal, World as _};

const LEASE: u64 = 30;
const KEPT: u64 = 300;

#[derive(Clone, Debug)]
enum Move {
    Take(usize),
    Provide(usize),
    Finish(usize),
    LetGo(usize),
    Pass(u64),
    Sweep,
    Restart,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        5 => (0..3_usize).prop_map(Move::Take),
        2 => (0..3_usize).prop_map(Move::Provide),
        2 => (0..3_usize).prop_map(Move::Finish),
        1 => (0..3_usize).prop_map(Move::LetGo),
        3 => prop_oneof![1..40_u64, Just(KEPT)].prop_map(Move::Pass),
        1 => Just(Move::Sweep),
        1 => Just(Move::Restart),
    ];
    prop::collection::vec(one, 1..30)
}

/// What the key should be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Model {
    Free,
    Claimed { by: usize, until: u64, expires: u64, provided: bool },
    Finished { by: usize, expires: u64 },
}

struct Table {
    sample: Sample,
    held: [Option<Held>; 3],
    model: Model,
    now: u64,
    effects: usize,
}

impl Table {
    async fn claim(&self) -> Claim {
        let whose = Whose { scope: scope(), principal: "key:1".to_owned() };
        let parts = RequestParts { method: "POST", route: "/v1/things", ..RequestParts::default() };
        let key = Key::parse(b"k").unwrap();
        let kept = Keep { long: Duration::from_secs(KEPT), bytes_max: None };
        self.book().claim(whose, key, Fingerprint::of(&parts), kept).await.unwrap()
    }

    fn book(&self) -> Idempotency {
        Idempotency::new(Arc::new(TestSeal), self.sample.clock.clone())
    }

    /// A key whose time is over is free, unless someone is at work on it.
    fn age(&mut self) {
        let over = match self.model {
            Model::Free => false,
            Model::Claimed { until, expires, .. } => expires <= self.now && until <= self.now,
            Model::Finished { expires, .. } => expires <= self.now,
        };
        if over {
            self.model = Model::Free;
        }
    }

    async fn take(&mut self, who: usize) {
        let (claim, ledger) = (self.claim().await, self.sample.ledger());
        let written = ledger.write(move |tx| {
            let standing = claim.take(tx)?;
            Ok::<_, ClaimRefused>(Told::new(standing, Entry::new("thing.begin")))
        });
        let standing = written.await.unwrap().into_value();
        self.age();
        let until = self.now + LEASE;
        match (standing, self.model) {
            (Standing::Fresh(held), Model::Free) => {
                self.held[who] = Some(held);
                self.model = Model::Claimed { by: who, until, expires: self.now + KEPT, provided: false };
            }
            (Standing::InFlight { .. }, Model::Claimed { until, .. }) => assert!(until > self.now),
            (Standing::Resume(held), Model::Claimed { until: ended, expires, provided: false, .. }) => {
                assert!(ended <= self.now);
                self.held[who] = Some(held);
                self.model = Model::Claimed { by: who, until, expires, provided: false };
            }
            (Standing::Finished(replay), Model::Claimed { by, until: ended, provided: true, .. }) => {
                assert!(ended <= self.now);
                assert_eq!(replay.answer.body, format!("by {by}").into_bytes());
            }
            (Standing::Finished(replay), Model::Finished { by, .. }) => {
                assert_eq!(replay.answer.body, format!("by {by}").into_bytes());
            }
            (found, model) => panic!("{found:?}, but the model says {model:?} at {}", self.now),
        }
    }

    /// The effect with its answer, in one transaction.
    async fn provide(&mut self, who: usize) {
        let Some(held) = self.held[who] else { return };
        if matches!(self.model, Model::Claimed { by, provided: true, .. } if by == who) {
            return;
        }
        let (claim, name) = (self.claim().await, format!("effect{}", self.effects));
        let ledger = self.sample.ledger();
        let written = ledger.write(move |tx| {
            common::put_thing(tx, &name)?;
            claim.provide(tx, held, &answer(who), None)?;
            Ok::<_, ClaimRefused>(Told::new((), Entry::new("thing.make")))
        });
        match (written.await, self.model) {
            (Ok(_), Model::Claimed { by, until, expires, provided: false }) if by == who => {
                self.effects += 1;
                self.model = Model::Claimed { by, until, expires, provided: true };
            }
            (Err(WriteRefused::Rejected(ClaimRefused::Superseded)), model) => {
                assert!(!matches!(model, Model::Claimed { by, .. } if by == who), "{model:?}");
            }
            (found, model) => panic!("{found:?}, but the model says {model:?}"),
        }
        assert_eq!(self.sample.things().await.len(), self.effects);
    }

    async fn end(&mut self, who: usize, finish: bool) {
        let Some(held) = self.held[who].take() else { return };
        let (claim, answer) = (self.claim().await, answer(who));
        let ledger = self.sample.ledger();
        let written = ledger.write(move |tx| {
            match finish {
                true => claim.finish(tx, held, &answer, None)?,
                false => claim.let_go(tx, held)?,
            }
            Ok::<_, ClaimRefused>(Told::new((), Entry::new("thing.answer")))
        });
        match (written.await, self.model) {
            (Ok(_), Model::Claimed { by, expires, provided, .. }) if by == who => {
                self.model = match finish {
                    true => Model::Finished { by, expires },
                    false => Model::Claimed { by, until: 0, expires, provided },
                };
            }
            (Err(WriteRefused::Rejected(ClaimRefused::Superseded)), model) => {
                assert!(!matches!(model, Model::Claimed { by, .. } if by == who), "{model:?}");
            }
            (found, model) => panic!("{found:?}, but the model says {model:?}"),
        }
    }
}

fn answer(who: usize) -> Answer {
    Answer { status: 201, headers: Vec::new(), body: format!("by {who}").into_bytes(), location: None }
}

async fn play(moves: Vec<Move>) {
    let sample = Sample::new("");
    let mut table = Table { sample, held: [None; 3], model: Model::Free, now: 0, effects: 0 };
    for step in moves {
        match step {
            Move::Take(who) => table.take(who).await,
            Move::Provide(who) => table.provide(who).await,
            Move::Finish(who) => table.end(who, true).await,
            Move::LetGo(who) => table.end(who, false).await,
            Move::Pass(seconds) => {
                table.now += seconds;
                table.sample.clock.advance(SECOND * u32::try_from(seconds).unwrap());
            }
            Move::Sweep => {
                let swept = table.book().sweep(&table.sample.ledger()).await.unwrap();
                let before = table.model;
                table.age();
                assert!(swept <= 1 && (swept == 0 || table.model == Model::Free), "{before:?}");
                if swept == 1 {
                    // Whoever still holds a claim on the forgotten key will find that it is void.
                    table.model = Model::Free;
                }
            }
            Move::Restart => table.sample.reopen().await,
        }
    }
}

#[tokio::test]
async fn a_claim_from_before_the_key_was_swept_answers_nothing_after_it() {
    play(vec![
        Move::Take(0),
        Move::Pass(KEPT),
        Move::Sweep,
        Move::Take(1),
        Move::Finish(0),
        Move::Finish(1),
        Move::Take(2),
    ])
    .await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_three_requests_do_a_key_has_one_effect_and_one_answer(moves in moves()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(play(moves));
    }
}
