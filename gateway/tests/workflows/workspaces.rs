//! Workspaces: founded and shredded wholly or not at all.
//! Who enters: operators, one who asks and one who agrees.
//! What leaves: a workspace under its own key in the token; or none, and nothing that opens.

use std::time::{Duration, Instant};

use gateway::ids::WorkspaceId;
use gateway::services::workspaces::closing::ClosingPlan;
use gateway::services::workspaces::founding::FoundingPlan;
use gateway::workflows;
use sagas::testing::Heard;
use sagas::{Catalog, Engine, EngineParts, Origin, SagaKey, Scope, SignalRequest, StartRequest, Summary};
use serde_json::{Value as Json, json};

use crate::common::house::{Asker, house};
use crate::world::{Seen, Stage, Story, now, proven};

/// So many rounds no proof of these has.
const ROUNDS_MAX: usize = 160;
/// Between two looks at a run, unless it ends in between; so many of them are half a minute.
const LOOK: Duration = Duration::from_millis(5);
const LOOKS_MAX: usize = 6_000;

fn scope(id: &WorkspaceId) -> Scope {
    Scope::Workspace(id.on_ledger().clone())
}

async fn state(operator: &Asker, name: &str) -> Json {
    let all = operator.get("/v1/workspaces").await.json();
    let mut all = all["workspaces"].as_array().unwrap().iter();
    all.find(|it| it["name"] == name).map_or(Json::Null, |it| it["state"].clone())
}

struct Founding;

impl Story for Founding {
    fn request(&self, stage: &Stage, round: u64) -> StartRequest {
        let workspace = WorkspaceId::new(&stage.standing.house.ground.dice).unwrap();
        let plan = FoundingPlan { workspace: workspace.clone(), name: format!("w{round}").parse().unwrap() };
        StartRequest::new("workspace.create", scope(&workspace), &plan).unwrap()
    }

    fn seen<'a>(&'a self, stage: &'a Stage, round: u64) -> Seen<'a> {
        Box::pin(async move {
            let name = format!("w{round}");
            let rows = stage.standing.house.workspaces.list().await.unwrap();
            let row = rows.iter().find(|row| row.name.as_str() == name);
            let Some(row) = row else { return Json::Null };
            let opens = stage.standing.house.workspaces.data_key(&row.id).await.is_ok();
            json!({ "state": row.state.text(), "opens": opens })
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn founding_a_workspace_holds_in_every_cell() {
    let (stage, ()) = Stage::set(async |_| ()).await;
    let definition = workflows::workspaces::create(&stage.standing.house.workspaces).unwrap();
    proven(stage, Founding, &definition).await;
}

struct Closing(Vec<WorkspaceId>);

impl Closing {
    fn of(&self, round: u64) -> &WorkspaceId {
        &self.0[usize::try_from(round).unwrap()]
    }

    async fn votes(&self, stage: &Stage, round: u64) -> Vec<Heard> {
        let within = stage.standing.operator().with("chancery-workspace", self.of(round).as_str());
        let counted = within.get("/v1/audit/entries?action=approval.vote").await.json();
        if counted["entries"].as_array().is_some_and(|votes| !votes.is_empty()) {
            return Vec::new();
        }
        self.ballots(stage, round).await
    }

    async fn ballots(&self, stage: &Stage, round: u64) -> Vec<Heard> {
        let within = stage.standing.operator().with("chancery-workspace", self.of(round).as_str());
        let opened = within.get("/v1/audit/entries?action=approval.open").await.json();
        let Some(digest) = opened["entries"][0]["detail"]["after"]["digest"].as_str() else {
            return Vec::new();
        };
        let payload = json!({ "digest": digest, "policy_version": 0 });
        // A vote said again is the same vote: however often it is said, it is heard and told once.
        vec![Heard { name: "approve", dedupe: "operator:1".to_owned(), payload }]
    }
}

impl Story for Closing {
    fn request(&self, _: &Stage, round: u64) -> StartRequest {
        let workspace = self.of(round).clone();
        let plan = ClosingPlan {
            workspace: workspace.clone(),
            reason: "no longer needed".to_owned(),
            approvals: 1,
            grace_seconds: 24 * 3600,
        };
        StartRequest::new("workspace.close", scope(&workspace), &plan).unwrap()
    }

    fn answer(&self, stage: &Stage, step: &str, round: u64) -> Vec<Heard> {
        assert_eq!(step, "workspaces.await_grace");
        now(self.votes(stage, round))
    }

    fn seen<'a>(&'a self, stage: &'a Stage, round: u64) -> Seen<'a> {
        Box::pin(async move {
            let house = &stage.standing.house;
            let row = house.workspaces.refresh(self.of(round)).await.unwrap().unwrap();
            json!({ "state": row.state.text(), "opens": house.workspaces.data_key(&row.id).await.is_ok() })
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shredding_a_workspace_holds_in_every_cell() {
    let (stage, made) = Stage::set(async |standing| {
        let operator = standing.operator();
        let mut made = Vec::new();
        for at in 0..ROUNDS_MAX {
            let answer = operator.post("/v1/workspaces", json!({ "name": format!("w{at}") })).await;
            made.push(answer.json()["id"].as_str().unwrap().parse().unwrap());
        }
        made
    })
    .await;
    let house = &stage.standing.house;
    let definition = workflows::workspaces::close(&house.workspaces, &house.audit).unwrap();
    proven(stage, Closing(made), &definition).await;
}

/// A workspace that is about to be closed, in an engine whose clock the test moves.
struct Ending {
    stage: Stage,
    story: Closing,
    engine: Engine,
    key: SagaKey,
}

impl Ending {
    async fn begun() -> Self {
        let (stage, workspace) = Stage::set(async |standing| {
            let made = standing.operator().post("/v1/workspaces", json!({ "name": "acme" })).await.json();
            made["id"].as_str().unwrap().parse().unwrap()
        })
        .await;
        let house = &stage.standing.house;
        let definition = workflows::workspaces::close(&house.workspaces, &house.audit).unwrap();
        let catalog = Catalog::new(vec![definition]).unwrap();
        let engine = Engine::start(EngineParts { catalog, ..stage.parts() }).await.unwrap();
        let story = Closing(vec![workspace]);
        let by = Origin { actor: "operator:0".to_owned(), ..Origin::default() };
        let key = engine.launch(story.request(&stage, 0).origin(by)).await.unwrap().key;
        let ending = Self { stage, story, engine, key };
        ending.until(|it| it.state == "waiting").await;
        ending
    }

    async fn vote(&self, name: &str, by: &str) {
        let mut votes = self.story.ballots(&self.stage, 0).await;
        let Heard { payload, .. } = votes.remove(0);
        let vote = SignalRequest::new(self.key.clone(), name, by, &payload).unwrap();
        let by = Origin { actor: by.to_owned(), ..Origin::default() };
        self.engine.signal(vote.origin(by)).await.unwrap();
    }

    /// Time passes; nothing else.
    fn after(&self, hours: u64) {
        self.stage.advance(Duration::from_secs(hours * 3600));
        self.engine.tick();
    }

    async fn until(&self, wanted: impl Fn(&Summary) -> bool) -> Summary {
        for _ in 0..LOOKS_MAX {
            let shown = self.engine.show(&self.key).await.unwrap().unwrap().summary;
            if wanted(&shown) {
                return shown;
            }
            self.engine.wait(&self.key, LOOK).await.unwrap();
        }
        panic!("it does not come: {:?}", self.engine.show(&self.key).await);
    }

    async fn until_told(&self, action: &str, times: usize) {
        for _ in 0..LOOKS_MAX {
            if self.told(action).await >= times {
                return;
            }
            self.engine.wait(&self.key, LOOK).await.unwrap();
        }
        panic!("{action} is not told: {:?}", self.engine.show(&self.key).await);
    }

    async fn told(&self, action: &str) -> usize {
        let within = self.stage.standing.operator().with("chancery-workspace", self.story.of(0).as_str());
        let entries = within.get(&format!("/v1/audit/entries?action={action}")).await.json();
        entries["entries"].as_array().unwrap().len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_grace_of_a_workspace_begins_whole_when_enough_others_have_agreed_and_not_before() {
    let ending = Ending::begun().await;
    ending.after(11);
    ending.vote("approve", "operator:1").await;
    let due = |it: &Summary| it.due_us.unwrap() / 1_000_000;
    let agreed = ending.until(|it| due(it) > it.updated_us / 1_000_000 + 23 * 3600).await;
    assert_eq!((agreed.state, ending.told("workspace.grace").await), ("waiting", 1));
    ending.after(12);
    ending.vote("approve", "operator:2").await;
    ending.until_told("approval.vote", 2).await;
    assert_eq!((due(&ending.until(|_| true).await), ending.told("workspace.grace").await), (due(&agreed), 1));
    assert_eq!(ending.told("workspace.shred.begin").await, 0, "shredded within its grace");
    ending.after(12);
    ending.until(|it| it.state == "succeeded").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_that_nobody_else_agrees_to_end_stands_after_half_a_day() {
    let ending = Ending::begun().await;
    ending.after(12);
    let ended = ending.until(|it| it.state == "compensated").await;
    assert!(ended.error.as_deref().is_some_and(|why| why.contains("not enough others agreed")), "{ended:?}");
    assert_eq!(state(&ending.stage.standing.operator(), "acme").await, "open");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_no_ends_it_also_in_the_grace() {
    let ending = Ending::begun().await;
    ending.vote("approve", "operator:1").await;
    ending.until_told("workspace.grace", 1).await;
    ending.vote("refuse", "operator:2").await;
    ending.until(|it| it.state == "compensated").await;
    assert_eq!(state(&ending.stage.standing.operator(), "acme").await, "open");
}

#[tokio::test]
async fn a_new_workspace_opens_only_through_its_own_key_in_the_token() {
    let standing = house().await;
    let held = standing.double.ceremony_keys_held();
    let made = standing.operator().post("/v1/workspaces", json!({ "name": "acme" })).await;
    assert_eq!((made.status, standing.double.ceremony_keys_held()), (201, held + 1), "{made:?}");
    let id: WorkspaceId = made.json()["id"].as_str().unwrap().parse().unwrap();
    standing.double.unplug();
    assert!(standing.house.workspaces.data_key(&id).await.is_err(), "it opened without the token");
    standing.double.plug_in();
}

#[tokio::test]
async fn a_name_is_given_to_one_workspace_and_the_second_leaves_no_key_behind() {
    let standing = house().await;
    let operator = standing.operator();
    operator.post("/v1/workspaces", json!({ "name": "acme" })).await;
    let held = standing.double.ceremony_keys_held();
    let second = operator.post("/v1/workspaces", json!({ "name": "acme" })).await;
    assert_eq!((second.status, second.code().as_str()), (409, "name_taken"), "{second:?}");
    assert_eq!(standing.double.ceremony_keys_held(), held);
}

#[tokio::test]
async fn a_workspace_to_be_shredded_is_shut_at_once_and_can_be_kept() {
    let standing = house().await;
    let program = standing.program("acme", &["keys:read"]).await;
    let operator = standing.operator();
    let path = format!("/v1/workspaces/{}/shred", program.workspace);
    let form = json!({ "reason": "gone", "grace_days": 1 });
    let none = operator.post(&path, json!({ "reason": "gone", "grace_days": 1, "approvals": 0 })).await;
    assert_eq!(none.status, 422, "a quorum of nobody: {none:?}");
    let begun = operator.post(&path, form.clone()).await;
    assert_eq!((begun.status, state(&operator, "acme").await), (202, json!("closing")), "{begun:?}");
    assert_eq!(program.asker.get("/v1/keys").await.code(), "workspace_closed");
    let again = operator.post(&path, form).await;
    assert_eq!((again.status, again.code().as_str()), (409, "resource_locked"), "{again:?}");
    assert!(
        String::from_utf8_lossy(&again.body).contains(begun.json()["workflow"].as_str().unwrap()),
        "{again:?}"
    );
    let within = operator.with("chancery-workspace", "acme");
    let cancel = format!("/v1/workflows/{}/cancel", begun.json()["workflow"].as_str().unwrap());
    assert_eq!(within.post(&cancel, json!({ "reason": "kept" })).await.status, 202);
    until_open(&operator).await;
    until_let_in(&program.asker).await;
}

async fn until_open(operator: &Asker) {
    let patience = Instant::now() + Duration::from_secs(30);
    while Instant::now() < patience {
        if state(operator, "acme").await == "open" {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it stays {}", state(operator, "acme").await);
}

async fn until_let_in(asker: &Asker) {
    let patience = Instant::now() + Duration::from_secs(30);
    while Instant::now() < patience {
        if asker.get("/v1/keys").await.status == 200 {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("its programs stay out: {:?}", asker.get("/v1/keys").await);
}

#[tokio::test]
async fn a_workspace_whose_keys_stand_is_not_shredded() {
    let standing = house().await;
    let program = standing.program("acme", &["keys:manage"]).await;
    let key = program.asker.post("/v1/keys", json!({ "name": "release", "kind": "p256" })).await;
    assert_eq!(key.status, 201, "{key:?}");
    let path = format!("/v1/workspaces/{}/shred", program.workspace);
    let refused = standing.operator().post(&path, json!({ "reason": "gone", "grace_days": 1 })).await;
    assert_eq!((refused.status, refused.code().as_str()), (409, "wrong_state"), "{refused:?}");
    assert_eq!(state(&standing.operator(), "acme").await, "open");
}
