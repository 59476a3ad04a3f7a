//! Destroying a key of several versions while the token fails in between, and while the clock is put forward.
//! Who enters: `key.destroy` over a key that was rotated, in an engine whose clock the test moves.
//! What leaves: a key that is gone, or one that waits; never one that is called enabled and is half gone.

use std::sync::Mutex;
use std::time::Duration;

use gateway::ids::WorkspaceId;
use gateway::workflows;
use hsm::double::DoubleFault;
use sagas::testing::Heard;
use sagas::{Catalog, Engine, EngineParts, Origin, SagaKey, SignalRequest, VerbRefused};
use serde_json::json;

use crate::common::house::Standing;
use crate::keys::{Destroying, shown};
use crate::keys_in_and_out::votes;
use crate::world::{Stage, Story as _};

const LOOK: Duration = Duration::from_millis(2);
const LOOKS_MAX: usize = 20_000;

/// A key of two versions whose destruction is announced.
struct Announced {
    stage: Stage,
    workspace: WorkspaceId,
    key: String,
    engine: Engine,
    run: SagaKey,
}

async fn rotated_key(standing: &Standing) -> (WorkspaceId, String) {
    let operator = standing.operator();
    let made = operator.post("/v1/workspaces", json!({ "name": "acme" })).await.json();
    let within = operator.with("chancery-workspace", "acme");
    let key = within.post("/v1/keys", json!({ "name": "release", "kind": "p256" })).await.json();
    let key = key["id"].as_str().unwrap().to_owned();
    let rotated = within.post_nothing(&format!("/v1/keys/{key}/rotate")).await;
    assert_eq!(rotated.json()["latest_version"], 2, "{rotated:?}");
    (made["id"].as_str().unwrap().parse().unwrap(), key)
}

impl Announced {
    async fn agreed() -> Self {
        let (stage, (workspace, key)) = Stage::set(rotated_key).await;
        let definition = workflows::keys::destroy(&stage.standing.house.keys).unwrap();
        let catalog = Catalog::new(vec![definition]).unwrap();
        let engine = Engine::start(EngineParts { catalog, ..stage.parts() }).await.unwrap();
        let story =
            Destroying { workspace: workspace.clone(), keys: vec![key.clone()], places: Mutex::default() };
        let by = Origin { actor: "operator:0".to_owned(), ..Origin::default() };
        let run = engine.launch(story.request(&stage, 0).origin(by)).await.unwrap().key;
        let announced = Self { stage, workspace, key, engine, run };
        announced.until("waiting", "signing.await_approvals").await;
        for Heard { name, dedupe, payload } in votes(&announced.stage, &announced.workspace).await {
            let vote = SignalRequest::new(announced.run.clone(), name, dedupe.clone(), &payload).unwrap();
            let by = Origin { actor: dedupe, ..Origin::default() };
            announced.engine.signal(vote.origin(by)).await.unwrap();
        }
        announced.until("waiting", "keys.await_cooling").await;
        announced
    }

    async fn until(&self, state: &str, step: &str) {
        for _ in 0..LOOKS_MAX {
            let shown = self.engine.show(&self.run).await.unwrap().unwrap().summary;
            if shown.state == state && shown.step.unwrap_or_default() == step {
                return;
            }
            self.engine.wait(&self.run, LOOK).await.unwrap();
        }
        panic!(
            "it does not come: {:?} {:?}",
            self.engine.show(&self.run).await,
            self.engine.log(&self.run, 0, 50).await
        );
    }

    /// Time passes; nothing else.
    fn after(&self, seconds: u64) {
        self.stage.advance(Duration::from_secs(seconds));
        self.engine.tick();
    }

    async fn state_of_the_key(&self) -> String {
        shown(&self.stage, &self.workspace, &self.key).await["state"].as_str().unwrap().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_which_one_version_is_gone_is_not_called_off_and_is_destroyed() {
    let announced = Announced::agreed().await;
    let held = announced.stage.standing.double.keys_held();
    // The first version goes, and the answer is lost; then the token is away.
    announced.stage.standing.double.next(DoubleFault::LoseAfter);
    announced.after(61);
    announced.until("backoff", "keys.hsm_destroy").await;
    assert_eq!(announced.stage.standing.double.keys_held(), held - 1);
    let by = Origin { actor: "operator:0".to_owned(), ..Origin::default() };
    let called_off = announced.engine.cancel(&announced.run, by, "keep it").await;
    assert!(
        matches!(called_off, Err(audit::WriteRefused::Rejected(VerbRefused::PastPivot { .. }))),
        "{called_off:?}"
    );
    assert_eq!(announced.state_of_the_key().await, "destroying");
    while announced.engine.show(&announced.run).await.unwrap().unwrap().summary.state != "succeeded" {
        announced.after(60);
        announced.engine.wait(&announced.run, LOOK).await.unwrap();
    }
    assert_eq!(announced.state_of_the_key().await, "destroyed");
    assert_eq!(announced.stage.standing.double.keys_held(), held - 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_under_notice_is_not_destroyed_by_a_clock_that_is_put_forward() {
    let announced = Announced::agreed().await;
    let held = announced.stage.standing.double.keys_held();
    announced.stage.put_forward(Duration::from_secs(10 * 24 * 3600));
    for _ in 0..50 {
        announced.engine.tick();
        announced.engine.wait(&announced.run, LOOK).await.unwrap();
    }
    assert_eq!(announced.state_of_the_key().await, "destruction_pending");
    assert_eq!(announced.stage.standing.double.keys_held(), held);
}
