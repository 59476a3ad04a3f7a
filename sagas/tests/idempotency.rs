//! A request that is sent twice has one effect and one answer, whatever is lost, raced, crashed or swept in between.
//! Who enters: requests with keys; a ledger that is closed and opened anew.
//! What leaves: the same answer, byte for byte; or the plain word that there is none to give.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use audit::{Entry, Told, WriteRefused};
use common::{Input, SECOND, Sample, scope};
use sagas::idempotency::{
    Answer, Claim, ClaimRefused, Fingerprint, Held, Idempotency, Keep, Key, RequestParts, Standing, Whose,
};
use sagas::limits::{ANSWER_BYTES_MAX, KEYS_SWEPT_MAX};
use sagas::testing::{TestSeal, World as _};
use sagas::{Cipher, Engine, SagaKey, Seal, StartRequest};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// The first length that is not kept whole.
const LONG: usize = ANSWER_BYTES_MAX + 1;

fn book(sample: &Sample) -> Idempotency {
    Idempotency::new(Arc::new(TestSeal), sample.clock.clone())
}

fn whose(principal: &str) -> Whose {
    Whose { scope: scope(), principal: principal.to_owned() }
}

async fn claim(sample: &Sample, principal: &str, body: &[u8]) -> Claim {
    claim_kept(sample, principal, body, Keep { long: DAY, bytes_max: None }).await
}

async fn claim_kept(sample: &Sample, principal: &str, body: &[u8], kept: Keep) -> Claim {
    let parts = RequestParts { method: "POST", route: "/v1/things", body, ..RequestParts::default() };
    let key = Key::parse(b"\"k-1\"").unwrap();
    book(sample).claim(whose(principal), key, Fingerprint::of(&parts), kept).await.unwrap()
}

async fn claim_under(book: &Idempotency, principal: &str, key: &str, body: &[u8]) -> Claim {
    let parts = RequestParts { method: "POST", route: "/v1/things", body, ..RequestParts::default() };
    let key = Key::parse(key.as_bytes()).unwrap();
    let kept = Keep { long: DAY, bytes_max: None };
    book.claim(whose(principal), key, Fingerprint::of(&parts), kept).await.unwrap()
}

fn answer(body: &[u8]) -> Answer {
    Answer {
        status: 201,
        headers: vec![("location".to_owned(), "/v1/things/1".to_owned())],
        body: body.to_vec(),
        location: Some("/v1/things/1".to_owned()),
    }
}

/// What a command does with where its request stands.
#[derive(Debug)]
#[allow(dead_code, reason = "read by whoever reads the failure of a test")]
enum No {
    Stands(Standing),
    Claim(ClaimRefused),
}

impl From<ClaimRefused> for No {
    fn from(refused: ClaimRefused) -> Self {
        Self::Claim(refused)
    }
}

/// The seal of tests, which notes for what places it has sealed.
#[derive(Clone, Default)]
struct Places(Arc<Mutex<Vec<String>>>);

struct Noting(Arc<dyn Cipher>, Places);

impl Seal for Places {
    fn cipher<'a>(&'a self, scope: Option<&'a audit::Workspace>) -> sagas::CipherAnswer<'a> {
        Box::pin(async move {
            let inner = TestSeal.cipher(scope).await?;
            Ok(Arc::new(Noting(inner, self.clone())) as Arc<dyn Cipher>)
        })
    }
}

impl Cipher for Noting {
    fn seal(&self, place: &str, plain: &[u8]) -> Result<Vec<u8>, sagas::SealFault> {
        self.1.0.lock().unwrap().push(place.to_owned());
        self.0.seal(place, plain)
    }

    fn open(&self, place: &str, sealed: &[u8]) -> Result<sagas::Plain, sagas::SealFault> {
        self.0.open(place, sealed)
    }
}

type Work = fn(&mut audit::Tx<'_>, &Claim, Held) -> Result<(), ClaimRefused>;

/// One transaction: claim, effect, and whatever the work does with the claim.
async fn attempt(sample: &Sample, claim: &Claim, work: Work) -> Result<Standing, Standing> {
    let (claim, name) = (claim.clone(), format!("effect{}", sample.things().await.len()));
    let ledger = sample.ledger();
    let written = ledger.write(move |tx| {
        let standing = claim.take(tx)?;
        let held = match &standing {
            Standing::Fresh(held) | Standing::Resume(held) => *held,
            _ => return Err(No::Stands(standing)),
        };
        if matches!(standing, Standing::Fresh(_)) {
            common::put_thing(tx, &name).map_err(ClaimRefused::Sql)?;
        }
        work(tx, &claim, held)?;
        Ok(Told::new(standing, Entry::new("thing.make")))
    });
    match written.await {
        Ok(recorded) => Ok(recorded.into_value()),
        Err(WriteRefused::Rejected(No::Stands(standing))) => Err(standing),
        Err(other) => panic!("{other:?}"),
    }
}

const FINISH: Work = |tx, claim, held| claim.finish(tx, held, &answer(b"made"), None);
const NOTHING: Work = |_, _, _| Ok(());

fn replayed(standing: Result<Standing, Standing>) -> sagas::idempotency::Replay {
    match standing {
        Err(Standing::Finished(replay)) => replay,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_request_sent_twice_has_one_effect_and_the_same_answer_byte_for_byte() {
    let sample = Sample::new("");
    let same = claim(&sample, "key:1", b"{}").await;
    assert!(matches!(attempt(&sample, &same, FINISH).await, Ok(Standing::Fresh(_))));
    for _ in 0..3 {
        let replay = replayed(attempt(&sample, &same, FINISH).await);
        assert_eq!((replay.answer, replay.whole, replay.secret_available), (answer(b"made"), true, None));
    }
    assert_eq!(sample.things().await.len(), 1);
}

#[tokio::test]
async fn the_same_key_with_another_request_is_refused_and_shows_nothing() {
    let sample = Sample::new("");
    attempt(&sample, &claim(&sample, "key:1", b"{}").await, FINISH).await.unwrap();
    let other = claim(&sample, "key:1", b"{ }").await;
    assert_eq!(attempt(&sample, &other, FINISH).await, Err(Standing::OtherRequest));
    assert_eq!(sample.things().await.len(), 1);
}

#[tokio::test]
async fn two_principals_with_one_key_do_not_meet() {
    let sample = Sample::new("");
    attempt(&sample, &claim(&sample, "key:1", b"{}").await, FINISH).await.unwrap();
    assert!(attempt(&sample, &claim(&sample, "key:2", b"{}").await, FINISH).await.is_ok());
}

#[tokio::test]
async fn two_keys_of_one_principal_do_not_meet() {
    let sample = Sample::new("");
    let (one, two) = (
        claim_under(&book(&sample), "key:1", "k-1", b"{}").await,
        claim_under(&book(&sample), "key:1", "k-2", b"{}").await,
    );
    assert!(matches!(attempt(&sample, &one, FINISH).await, Ok(Standing::Fresh(_))));
    assert!(matches!(attempt(&sample, &two, FINISH).await, Ok(Standing::Fresh(_))));
    assert_eq!(sample.things().await.len(), 2);
}

#[tokio::test]
async fn a_look_says_where_a_request_stands_and_claims_nothing() {
    let sample = Sample::new("");
    let same = claim(&sample, "key:1", b"{}").await;
    let look = async |claim: &Claim| {
        let claim = claim.clone();
        sample.ledger().read(move |view| Ok::<_, audit::SqlFault>(claim.find(view))).await.unwrap().unwrap()
    };
    assert_eq!(look(&same).await, None);
    assert_eq!(look(&same).await, None, "the look before has claimed nothing");
    attempt(&sample, &same, NOTHING).await.unwrap();
    assert!(matches!(look(&same).await, Some(Standing::InFlight { .. })));
    assert_eq!(look(&claim(&sample, "key:1", b"{ }").await).await, Some(Standing::OtherRequest));
    sample.clock.advance(SECOND * 30);
    assert!(matches!(look(&same).await, Some(Standing::Resume(_))));
    attempt(&sample, &same, FINISH).await.unwrap();
    assert!(matches!(look(&same).await, Some(Standing::Finished(_))));
    sample.clock.advance(DAY);
    assert_eq!(look(&same).await, None, "its time is over");
}

#[tokio::test]
async fn each_part_of_an_answer_is_sealed_for_its_own_place() {
    let sample = Sample::new("");
    let places = Places::default();
    let book = Idempotency::new(Arc::new(places.clone()), sample.clock.clone());
    // Pairs that would be one if principal and key were only strung together.
    for (principal, key) in [("key:1", "k"), ("key:1", "k2"), ("key:2", "k"), ("a", "b/c"), ("a/b", "c")] {
        let same = claim_under(&book, principal, key, b"{}").await;
        attempt(&sample, &same, |tx, claim, held| {
            claim.finish(tx, held, &answer(b"without"), Some(&b"with s3cret".to_vec().into()))
        })
        .await
        .unwrap();
        assert_eq!(replayed(attempt(&sample, &same, FINISH).await).answer.body, b"with s3cret");
    }
    let sealed = places.0.lock().unwrap().clone();
    let different: std::collections::BTreeSet<_> = sealed.iter().collect();
    assert_eq!((sealed.len(), different.len()), (10, 10), "a body and a secret each: {sealed:?}");
}

#[tokio::test]
async fn what_is_refused_in_the_transaction_of_the_claim_leaves_the_key_free() {
    let sample = Sample::new("");
    let same = claim(&sample, "key:1", b"{}").await;
    let refused: Work = |_, _, _| Err(ClaimRefused::Superseded);
    let (ledger, again) = (sample.ledger(), same.clone());
    let written = ledger.write(move |tx| match again.take(tx)? {
        Standing::Fresh(held) => {
            common::put_thing(tx, "effect").map_err(ClaimRefused::Sql)?;
            refused(tx, &again, held)?;
            Ok::<_, ClaimRefused>(Told::new((), Entry::new("thing.make")))
        }
        other => panic!("{other:?}"),
    });
    assert!(matches!(written.await, Err(WriteRefused::Rejected(ClaimRefused::Superseded))));
    assert!(sample.things().await.is_empty());
    assert!(matches!(attempt(&sample, &same, FINISH).await, Ok(Standing::Fresh(_))));
}

#[tokio::test]
async fn a_duplicate_in_flight_hears_until_when_and_a_later_one_goes_on() {
    let sample = Sample::new("");
    let same = claim(&sample, "key:1", b"{}").await;
    attempt(&sample, &same, NOTHING).await.unwrap();
    assert!(matches!(attempt(&sample, &same, NOTHING).await, Err(Standing::InFlight { .. })));
    sample.clock.advance(SECOND * 30);
    assert!(matches!(attempt(&sample, &same, FINISH).await, Ok(Standing::Resume(_))));
    assert_eq!(sample.things().await.len(), 1, "the effect is the first one's");
}

#[tokio::test]
async fn a_crash_between_effect_and_answer_leaves_the_answer_that_came_with_the_effect() {
    let sample = Sample::new("");
    let same = claim(&sample, "key:1", b"{}").await;
    const PROVIDE: Work = |tx, claim, held| claim.provide(tx, held, &answer(b"just made"), None);
    attempt(&sample, &same, PROVIDE).await.unwrap();
    assert!(
        matches!(attempt(&sample, &same, FINISH).await, Err(Standing::InFlight { .. })),
        "it still lives"
    );
    sample.reopen().await;
    sample.clock.advance(SECOND * 31);
    let same = claim(&sample, "key:1", b"{}").await;
    assert_eq!(replayed(attempt(&sample, &same, FINISH).await).answer, answer(b"just made"));
    assert_eq!(sample.things().await.len(), 1);
}

#[tokio::test]
async fn the_answer_that_was_given_stands_over_the_one_that_was_provided() {
    let sample = Sample::new("");
    let same = claim(&sample, "key:1", b"{}").await;
    let both: Work = |tx, claim, held| {
        claim.provide(tx, held, &answer(b"just made"), None)?;
        claim.finish(tx, held, &answer(b"made"), None)
    };
    attempt(&sample, &same, both).await.unwrap();
    assert_eq!(replayed(attempt(&sample, &same, FINISH).await).answer, answer(b"made"));
}

#[tokio::test]
async fn the_answer_that_was_given_stands_over_the_workflow_that_gave_it() {
    let sample = Sample::new("");
    let same = claim(&sample, "key:1", b"{}").await;
    let both: Work = |tx, claim, held| {
        let saga = SagaKey { scope: scope(), id: format!("wf_{:032x}", 1).parse().unwrap() };
        claim.attach(tx, held, &saga)?;
        claim.finish(tx, held, &answer(b"made"), None)
    };
    attempt(&sample, &same, both).await.unwrap();
    assert_eq!(replayed(attempt(&sample, &same, FINISH).await).answer, answer(b"made"));
}

#[tokio::test]
async fn a_claim_that_was_taken_over_answers_no_more() {
    let sample = Sample::new("");
    let same = claim(&sample, "key:1", b"{}").await;
    let Ok(Standing::Fresh(slow)) = attempt(&sample, &same, NOTHING).await else { panic!("not fresh") };
    sample.clock.advance(SECOND * 31);
    attempt(&sample, &same, NOTHING).await.unwrap();
    let late = same.clone();
    let ledger = sample.ledger();
    let written = ledger.write(move |tx| {
        late.finish(tx, slow, &answer(b"late"), None)?;
        Ok::<_, ClaimRefused>(Told::new((), Entry::new("thing.answer")))
    });
    assert!(matches!(written.await, Err(WriteRefused::Rejected(ClaimRefused::Superseded))));
}

#[tokio::test]
async fn an_answer_of_500_is_not_kept_and_the_same_key_goes_on_at_once() {
    let sample = Sample::new("");
    let same = claim(&sample, "key:1", b"{}").await;
    attempt(&sample, &same, |tx, claim, held| claim.let_go(tx, held)).await.unwrap();
    assert!(matches!(attempt(&sample, &same, FINISH).await, Ok(Standing::Resume(_))));
    assert_eq!(sample.things().await.len(), 1);
}

#[tokio::test]
async fn a_refusal_by_business_rules_is_kept_like_any_answer() {
    let sample = Sample::new("");
    let same = claim(&sample, "key:1", b"{}").await;
    let denied: Work =
        |tx, claim, held| claim.finish(tx, held, &Answer { status: 409, ..answer(b"denied") }, None);
    attempt(&sample, &same, denied).await.unwrap();
    assert_eq!(replayed(attempt(&sample, &same, FINISH).await).answer.status, 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hundred_first_requests_one_has_the_effect() {
    let sample = Arc::new(Sample::new(""));
    let same = claim(&sample, "key:1", b"{}").await;
    let all: Vec<_> = (0..200)
        .map(|_| {
            let (sample, same) = (sample.clone(), same.clone());
            tokio::spawn(async move { attempt(&sample, &same, FINISH).await })
        })
        .collect();
    let mut fresh = 0;
    for one in all {
        match one.await.unwrap() {
            Ok(Standing::Fresh(_)) => fresh += 1,
            other => assert_eq!(replayed(other).answer, answer(b"made")),
        }
    }
    assert_eq!((fresh, sample.things().await.len()), (1, 1));
}

#[tokio::test]
async fn a_one_time_secret_is_given_again_for_ten_minutes_and_then_said_to_be_gone() {
    let sample = Sample::new("");
    let same = claim(&sample, "key:1", b"{}").await;
    attempt(&sample, &same, |tx, claim, held| {
        claim.finish(tx, held, &answer(b"without"), Some(&b"with s3cret".to_vec().into()))
    })
    .await
    .unwrap();
    let replay = replayed(attempt(&sample, &same, FINISH).await);
    assert_eq!((replay.answer.body, replay.secret_available), (b"with s3cret".to_vec(), Some(true)));
    let keeps = async |same: &sagas::idempotency::Claim| {
        let same = same.clone();
        sample.ledger().read(move |view| same.keeps_secret(view)).await.unwrap()
    };
    sample.clock.advance(SECOND * 599);
    assert_eq!(replayed(attempt(&sample, &same, FINISH).await).secret_available, Some(true));
    book(&sample).sweep(&sample.ledger()).await.unwrap();
    assert!(keeps(&same).await, "its time is not over");
    sample.clock.advance(SECOND);
    // Not shown any more, whenever it is swept; and swept from the row, not only hidden.
    let replay = replayed(attempt(&sample, &same, FINISH).await);
    assert_eq!((replay.answer.body, replay.secret_available), (b"without".to_vec(), Some(false)));
    assert!(keeps(&same).await);
    book(&sample).sweep(&sample.ledger()).await.unwrap();
    assert!(!keeps(&same).await);
    let replay = replayed(attempt(&sample, &same, FINISH).await);
    assert_eq!((replay.answer.body, replay.secret_available), (b"without".to_vec(), Some(false)));
}

#[tokio::test]
async fn of_a_long_answer_it_is_kept_that_it_was_given_and_the_request_is_not_carried_out_again() {
    let sample = Sample::new("");
    let same = claim(&sample, "key:1", b"{}").await;
    attempt(&sample, &same, |tx, claim, held| claim.finish(tx, held, &answer(&vec![b'x'; LONG]), None))
        .await
        .unwrap();
    let replay = replayed(attempt(&sample, &same, FINISH).await);
    assert_eq!((replay.whole, replay.answer.body.len(), replay.answer.status), (false, 0, 201));
    assert_eq!(replay.answer.location.as_deref(), Some("/v1/things/1"));
    let homeless: Work = |tx, claim, held| {
        claim.finish(tx, held, &Answer { location: None, ..answer(&vec![b'x'; LONG]) }, None)
    };
    let other = claim(&sample, "key:2", b"{}").await;
    attempt(&sample, &other, homeless).await.unwrap();
    let things = sample.things().await.len();
    let replay = replayed(attempt(&sample, &other, FINISH).await);
    assert_eq!((replay.whole, replay.answer.status, sample.things().await.len()), (false, 201, things));
}

#[tokio::test]
async fn an_answer_of_the_greatest_length_is_given_again_whole() {
    let sample = Sample::new("");
    let same = claim(&sample, "key:1", b"{}").await;
    attempt(&sample, &same, |tx, claim, held| claim.finish(tx, held, &answer(&vec![b'x'; LONG - 1]), None))
        .await
        .unwrap();
    assert_eq!(replayed(attempt(&sample, &same, FINISH).await).answer.body.len(), LONG - 1);
}

#[tokio::test]
async fn what_was_authorised_is_taken_back_only_when_nothing_came_of_it() {
    let sample = Sample::new("");
    let lost: Work = |tx, claim, held| claim.provide(tx, held, &answer(b"lost"), None);
    let (gone, open) = (claim(&sample, "key:1", b"{}").await, claim(&sample, "key:2", b"{}").await);
    for same in [&gone, &open] {
        attempt(&sample, same, lost).await.unwrap();
    }
    book(&sample).release(&sample.ledger()).await.unwrap();
    assert_eq!(replayed(attempt(&sample, &open, FINISH).await).answer.body, b"lost");
    let (ledger, again) = (sample.ledger(), claim(&sample, "key:3", b"{}").await);
    let claimed = again.clone();
    ledger
        .write_unaudited("a test", move |tx| match claimed.take(tx)? {
            Standing::Fresh(held) => {
                claimed.provide(tx, held, &answer(b"lost"), None)?;
                claimed.take_back(tx, held)
            }
            other => panic!("{other:?}"),
        })
        .await
        .unwrap();
    assert!(matches!(attempt(&sample, &again, FINISH).await, Ok(Standing::Resume(_))));
}

#[tokio::test]
async fn keys_whose_time_is_over_go_some_at_a_time_and_all_of_them() {
    let sample = Sample::new("");
    let keys = KEYS_SWEPT_MAX + 2;
    for key in 0..keys {
        let same = claim(&sample, &format!("key:{key}"), b"{}").await;
        attempt(&sample, &same, FINISH).await.unwrap();
    }
    sample.clock.advance(DAY);
    assert_eq!(book(&sample).sweep(&sample.ledger()).await.unwrap(), keys);
}

#[tokio::test]
async fn after_its_time_a_key_is_free_again_and_the_sweeper_forgets_it() {
    let sample = Sample::new("");
    let same = claim(&sample, "key:1", b"{}").await;
    attempt(&sample, &same, FINISH).await.unwrap();
    sample.clock.advance(DAY);
    assert!(matches!(attempt(&sample, &same, FINISH).await, Ok(Standing::Fresh(_))));
    sample.clock.advance(DAY);
    assert_eq!(book(&sample).sweep(&sample.ledger()).await.unwrap(), 1);
}

/// What one claim leads to, and the bytes that its workspace is said to keep by then.
async fn finished(sample: &Sample, claim: Claim, body: &'static [u8]) -> Result<(), ClaimRefused> {
    let ledger = sample.ledger();
    let write = ledger.write(move |tx| {
        let (Standing::Fresh(held) | Standing::Resume(held)) = claim.take(tx)? else { unreachable!() };
        // What was provided first is counted once, as what takes its place.
        claim.provide(tx, held, &answer(&[b'p'; 2_000]), None)?;
        claim.finish(tx, held, &answer(body), None)?;
        Ok(Told::new((), Entry::new("thing.make")))
    });
    match write.await {
        Ok(_) => Ok(()),
        Err(WriteRefused::Rejected(refused)) => Err(refused),
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_workspace_keeps_so_many_bytes_of_answers_and_other_workspaces_are_not_asked() {
    static BODY: [u8; 1_000] = [b'x'; 1_000];
    let sample = Sample::new("");
    // Two rows of 1 KiB with bodies of 1,000 bytes lie below it, and the third is refused.
    let bounded = Keep { long: DAY, bytes_max: Some(4_000) };
    let full = |refused| matches!(refused, Err(ClaimRefused::Full));
    for principal in ["key:1", "key:2"] {
        let claim = claim_kept(&sample, principal, b"{}", bounded).await;
        finished(&sample, claim, &BODY).await.unwrap();
    }
    let third = claim_kept(&sample, "key:3", b"{}", bounded).await;
    assert!(full(finished(&sample, third.clone(), &BODY).await));
    let look = third.clone();
    let looked = sample.ledger().read(move |view| look.check_room(view)).await;
    assert!(matches!(looked, Err(audit::ReadRefused::Rejected(ClaimRefused::Full))));
    // What was answered before is answered, and others have their own share.
    let first = claim_kept(&sample, "key:1", b"{}", bounded).await;
    assert_eq!(replayed(attempt(&sample, &first, FINISH).await).answer.body, BODY);
    let unbounded = claim_kept(&sample, "operator:0", b"{}", Keep { bytes_max: None, ..bounded }).await;
    finished(&sample, unbounded, &BODY).await.unwrap();
    let elsewhere = Whose { scope: sagas::Scope::Appliance, principal: "key:3".to_owned() };
    let (key, parts) = (Key::parse(b"k-1").unwrap(), RequestParts::default());
    let claim = book(&sample).claim(elsewhere, key, Fingerprint::of(&parts), bounded).await.unwrap();
    finished(&sample, claim, &BODY).await.unwrap();
    // When their time is over there is room again, for just as many.
    sample.clock.advance(DAY);
    assert_eq!(book(&sample).sweep(&sample.ledger()).await.unwrap(), 4);
    for principal in ["key:3", "key:4"] {
        let claim = claim_kept(&sample, principal, b"{}", bounded).await;
        finished(&sample, claim, &BODY).await.unwrap();
    }
    let last = claim_kept(&sample, "key:5", b"{}", bounded).await;
    assert!(full(finished(&sample, last, &BODY).await));
}

#[tokio::test]
async fn a_refusal_is_kept_for_a_day_also_where_an_answer_is_kept_for_thirty() {
    let sample = Sample::new("");
    let thirty = Keep { long: 30 * DAY, bytes_max: None };
    let refuse: Work =
        |tx, claim, held| claim.finish(tx, held, &Answer { status: 422, ..answer(b"no") }, None);
    let unknown: Work = |tx, claim, held| {
        claim.finish(tx, held, &Answer { status: 503, ..answer(b"the outcome is not known") }, None)
    };
    for (principal, work) in [("key:1", FINISH), ("key:2", refuse), ("key:3", unknown)] {
        attempt(&sample, &claim_kept(&sample, principal, b"{}", thirty).await, work).await.unwrap();
    }
    sample.clock.advance(DAY);
    assert_eq!(book(&sample).sweep(&sample.ledger()).await.unwrap(), 1);
    for (principal, body) in [("key:1", b"made".as_slice()), ("key:3", b"the outcome is not known")] {
        let claim = claim_kept(&sample, principal, b"{}", thirty).await;
        assert_eq!(replayed(attempt(&sample, &claim, FINISH).await).answer.body, body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_of_a_workflows_start_attaches_to_it_and_lives_as_long_as_it() {
    let sample = Sample::new("sample.mixed");
    let engine = Engine::start(sample.parts_with(vec![common::mixed(&sample.outside)])).await.unwrap();
    let start = engine
        .prepare(StartRequest::new("sample.mixed", scope(), &Input { round: 1 }).unwrap())
        .await
        .unwrap();
    let same = claim(&sample, "key:1", b"{}").await;
    let (starting, first) = (start.clone(), same.clone());
    let ledger = sample.ledger();
    let written = ledger.write(move |tx| match first.take(tx).unwrap() {
        Standing::Fresh(held) => {
            first.attach(tx, held, starting.key()).unwrap();
            starting.commit(tx)
        }
        other => panic!("{other:?}"),
    });
    written.await.unwrap();
    engine.begun(&start);
    assert_eq!(attempt(&sample, &same, FINISH).await, Err(Standing::Attached(start.key().clone())));
    // Its record outlives its time while the workflow lives.
    let waits = async || engine.show(start.key()).await.unwrap().unwrap().summary.state == "waiting";
    while !waits().await {
        tokio::task::yield_now().await;
    }
    sample.clock.advance(SECOND * 59);
    engine.close().await;
    sample.clock.advance(DAY * 2);
    assert_eq!(book(&sample).sweep(&sample.ledger()).await.unwrap(), 0);
    assert_eq!(attempt(&sample, &same, FINISH).await, Err(Standing::Attached(start.key().clone())));
}

#[tokio::test]
async fn a_claim_of_the_run_before_is_let_go_at_the_start_and_an_answer_stays() {
    let sample = Sample::new("");
    let (cut_off, answered) = (claim(&sample, "key:1", b"{}").await, claim(&sample, "key:2", b"{}").await);
    attempt(&sample, &cut_off, NOTHING).await.unwrap();
    attempt(&sample, &answered, FINISH).await.unwrap();
    assert!(matches!(attempt(&sample, &cut_off, NOTHING).await, Err(Standing::InFlight { .. })));
    assert_eq!(book(&sample).release(&sample.ledger()).await.unwrap(), 1);
    assert!(matches!(attempt(&sample, &cut_off, FINISH).await, Ok(Standing::Resume(..))), "without a clock");
    assert_eq!(book(&sample).release(&sample.ledger()).await.unwrap(), 0, "each once");
    assert_eq!(replayed(attempt(&sample, &answered, FINISH).await).answer, answer(b"made"));
}

#[tokio::test]
async fn replays_are_counted_one_by_one_and_anew_for_a_key_that_begins_again() {
    let sample = Sample::new("");
    let same = claim(&sample, "key:1", b"{}").await;
    attempt(&sample, &same, FINISH).await.unwrap();
    let count = async || {
        let claim = same.clone();
        sample.ledger().write_unaudited("a count", move |tx| claim.count_replay(tx)).await.unwrap()
    };
    assert_eq!((count().await, count().await, count().await), (1, 2, 3));
    sample.clock.advance(DAY);
    assert!(matches!(attempt(&sample, &same, FINISH).await, Ok(Standing::Fresh(_))));
    assert_eq!(count().await, 1);
}
