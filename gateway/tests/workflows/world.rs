//! A house as a world for proofs: its own engine is closed, so that the harness's alone runs; everything else is the real thing.
//! Who enters: a story: what each round starts with, what its waits hear, what is seen of it.
//! What leaves: a world that is held against itself, before and after. A death ends the engine; the ledger stays open, as the
//! engine's own proofs have shown that it comes back from its file.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use gateway::workflows::seal::StateSeal;
use sagas::testing::{Heard, Proof, TestClock, TestDice, World, expected_cells, prove};
use sagas::{Catalog, Deaf, Definition, EngineParts, SagaLimits, StartRequest};
use serde_json::{Value as Json, json};

use crate::common::house::{Standing, house};

pub(crate) type Seen<'a> = Pin<Box<dyn Future<Output = Json> + Send + 'a>>;

/// What a proof is about.
pub(crate) trait Story: Send + Sync + 'static {
    /// What a round starts with.
    fn request(&self, stage: &Stage, round: u64) -> StartRequest;
    /// What a waiting step is told.
    fn answer(&self, _: &Stage, _: &str, _: u64) -> Vec<Heard> {
        Vec::new()
    }
    /// What is seen of a round from outside, without names that differ from round to round.
    fn seen<'a>(&'a self, stage: &'a Stage, round: u64) -> Seen<'a>;
}

/// The house, its engine closed, and a clock that the harness moves.
pub(crate) struct Stage {
    pub(crate) standing: Standing,
    clock: Arc<TestClock>,
    dice: Arc<TestDice>,
    /// Keys in the token when a round was first looked at.
    before: Mutex<HashMap<u64, (usize, usize)>>,
}

struct Theatre<S> {
    stage: Stage,
    story: S,
}

impl Stage {
    /// A stage after `setting` was made through the API.
    pub(crate) async fn set<T>(setting: impl AsyncFnOnce(&Standing) -> T) -> (Self, T) {
        let standing = house().await;
        let made = setting(&standing).await;
        standing.house.ground.runner.close().await;
        let clock = TestClock::new();
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        // Later than whatever the setting has started.
        clock.advance(since - Duration::from_secs(1_700_000_000) + Duration::from_secs(3600));
        let stage = Self { standing, clock, dice: Arc::new(TestDice::seeded(7)), before: Mutex::default() };
        (stage, made)
    }

    /// Moves the clock on.
    pub(crate) fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// The wall clock.
    pub(crate) fn unix_us(&self) -> u64 {
        audit::Clock::unix_us(self.clock.as_ref())
    }

    /// Puts the wall clock forward; no time passes.
    pub(crate) fn put_forward(&self, by: Duration) {
        self.clock.put_forward(by);
    }

    /// What an engine over this stage is made of, but for its catalog.
    pub(crate) fn parts(&self) -> EngineParts {
        let house = &self.standing.house;
        EngineParts {
            ledger: house.ground.ledger.clone(),
            catalog: Catalog::new(Vec::new()).unwrap(),
            seal: Arc::new(StateSeal::new(house.workspaces.clone(), house.custody.clone())),
            clock: self.clock.clone(),
            random: self.dice.clone(),
            limits: SagaLimits::default(),
            observer: Arc::new(Deaf),
        }
    }

    fn held(&self) -> (usize, usize) {
        (self.standing.double.keys_held(), self.standing.double.ceremony_keys_held())
    }
}

impl<S: Story> World for Theatre<S> {
    fn request(&self, round: u64) -> StartRequest {
        let origin = sagas::Origin { actor: "operator:0".to_owned(), ..sagas::Origin::default() };
        self.story.request(&self.stage, round).origin(origin)
    }

    fn answer(&self, step: &str, round: u64) -> Vec<Heard> {
        self.story.answer(&self.stage, step, round)
    }

    async fn snapshot(&self, round: u64) -> Json {
        let held = self.stage.held();
        let before = *self.stage.before.lock().unwrap().entry(round).or_insert(held);
        let more = |now: usize, then: usize| i64::try_from(now).unwrap() - i64::try_from(then).unwrap();
        json!({
            "keys": more(held.0, before.0),
            "ceremony_keys": more(held.1, before.1),
            "seen": self.story.seen(&self.stage, round).await,
        })
    }

    fn parts(&self) -> EngineParts {
        self.stage.parts()
    }

    fn clock(&self) -> Arc<TestClock> {
        self.stage.clock.clone()
    }

    async fn reopen(&self) {}
}

/// Proves a definition over a story, and that the ledger still verifies afterwards.
pub(crate) async fn proven(stage: Stage, story: impl Story, definition: &Definition) -> Proof {
    let theatre = Theatre { stage, story };
    let proof = prove(&theatre, definition).await.unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(proof.coverage.count(), expected_cells(definition).len());
    assert_eq!(proof.told, tells(definition.name()), "what {} tells others", definition.name());
    let house = &theatre.stage.standing.house;
    house.keeper.seal().await.expect("the ledger is sealed");
    house.keeper.examine_everything().await.expect("the ledger verifies");
    assert_eq!(house.ground.ledger.health().standing, audit::Standing::Open, "the ledger does not verify");
    proof
}

/// What others hear of a workflow that is done. Of one that is undone, the proof has shown, they hear that none of it holds.
pub(crate) fn tells(workflow: &str) -> &'static [&'static str] {
    match workflow {
        "workspace.create" => &["workspace.created"],
        "workspace.close" => &["workspace.closing", "approval.wanted", "workspace.closed"],
        "key.generate" => &["key.created"],
        "key.import" => &["key.imported"],
        "key.rotate" => &["key.next_version_announced", "key.rotated"],
        "key.backup" => &["approval.wanted", "key.backed_up"],
        "key.restore" => &["approval.wanted", "key.restored"],
        "key.destroy" => &["key.destruction_announced", "approval.wanted", "key.destroyed"],
        "signing.request" => &["approval.wanted", "signature.made"],
        "signing.batch" => &["approval.wanted", "signature.batch_made"],
        "signing.policy_change" => &["approval.wanted", "policy.changed"],
        "audit.seal_export" => &["audit.exported"],
        other => panic!("say what {other} tells others"),
    }
}

/// Waits for something in the middle of what cannot wait.
pub(crate) fn now<T: Send>(doing: impl Future<Output = T> + Send) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(doing))
}
