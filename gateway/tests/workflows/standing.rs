//! Authority holds until the commit: whoever asked for something, and whoever agreed to it, must still be able to when it is done.
//! Who enters: each workflow that others agree to, over a clock that the test moves; programs that lose their rights on the way.
//! What leaves: runs that wait on or turn round, with an entry for each vote that counts no longer; nothing signed or changed.

use std::time::Duration;

use gateway::limits::POLICY_EXPIRES_MAX;
use gateway::services::signing::bundle;
use gateway::services::signing::requests::Content;
use sagas::{Engine, EngineParts, Origin, SagaKey, SagaLimits, Scope, SignalRequest, StartRequest, Summary};
use serde_json::{Value as Json, json};

use crate::common::house::{Answer, Asker, Program, Standing};
use crate::keys_in_and_out::agreed;
use crate::world::Stage;

const LONG: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3600);
const LOOK: Duration = Duration::from_millis(20);
const LOOKS_MAX: usize = 1500;

/// The workflows that two others have to agree to.
const AGREED: [&str; 6] =
    ["signing.request", "signing.batch", "signing.policy_change", "key.backup", "key.restore", "key.destroy"];

/// The workflows that nobody has to agree to.
const ALONE: [&str; 3] = ["key.generate", "key.rotate", "key.import"];

/// How somebody loses the right to act.
#[derive(Clone, Copy, Debug)]
enum Loss {
    ApiKey,
    Client,
}

/// A workspace with a key, a policy that asks for two others, a backup, and programs; its workflows run in an engine of our own.
struct Case {
    stage: Stage,
    engine: Engine,
    programs: Vec<Program>,
    key: Json,
    backup: String,
}

async fn setting(standing: &Standing, policy: Json) -> (Vec<Program>, Json, String) {
    let scopes =
        ["sign", "verify", "keys:manage", "keys:read", "workflows:read", "workflows:manage", "approve"];
    let mut programs = Vec::new();
    for _ in 0..4 {
        programs.push(standing.program("acme", &scopes).await);
    }
    let new = json!({ "name": "release", "kind": "p256", "recoverable": true });
    let made = programs[0].asker.post("/v1/keys", new).await;
    assert_eq!(made.status, 201, "{made:?}");
    let backup = agreed(standing, "key.backup", json!({ "key": "release" })).await;
    let operator = standing.operator().with("chancery-workspace", "acme").with("prefer", "wait=20");
    let change = json!({ "scope": "workspace", "policy": policy });
    let changed = operator.post("/v1/workflows/signing.policy_change", change).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    (programs, made.json(), backup["id"].as_str().unwrap().to_owned())
}

impl Case {
    /// Two others have to agree, within an hour, and a change can be vetoed for another.
    async fn new() -> Self {
        let policy =
            json!({ "direct": true, "approvals": 2, "timelock_seconds": 3600, "expires_seconds": 3600 });
        Self::with(policy).await
    }

    async fn with(policy: Json) -> Self {
        let (stage, (programs, key, backup)) =
            Stage::set(async |standing| setting(standing, policy).await).await;
        let catalog = stage.standing.house.workflows.clone();
        // Nothing falls due by itself: what is due is looked for when the test says so.
        let limits = SagaLimits { poll: POLICY_EXPIRES_MAX, ..SagaLimits::default() };
        let engine = Engine::start(EngineParts { catalog, limits, ..stage.parts() }).await.unwrap();
        Self { stage, engine, programs, key, backup }
    }

    fn operator(&self) -> Asker {
        self.stage.standing.operator().with("chancery-workspace", "acme")
    }

    fn scope(&self) -> Scope {
        Scope::Workspace(audit::Workspace::new(&self.programs[0].workspace).unwrap())
    }

    /// A plan as the API would make it.
    fn plan(&self, workflow: &str) -> Json {
        let (workspace, key) = (&self.programs[0].workspace, &self.key["id"]);
        let fingerprint = &self.key["versions"][0]["fingerprint"];
        let content = |byte: u8| Content::Digest(hex::encode([byte; 32]));
        let signing = json!({
            "workspace": workspace, "key": key, "version": 1, "fence": 0, "scheme": "ecdsa-sha256",
            "encoding": "der", "intent": "release", "nonce": "n", "context": "for the test",
        });
        let with = |mut plan: Json, more: Json| {
            plan.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            plan
        };
        match workflow {
            "signing.request" => with(signing, json!({ "content": content(1) })),
            "signing.batch" => {
                let items = [content(1), content(2)];
                let root = bundle::merkle_root(&items).unwrap();
                with(signing, json!({ "items": items, "merkle_root": root }))
            }
            "signing.policy_change" => {
                let policy = json!({ "direct": true, "approvals": 0 });
                json!({ "workspace": workspace, "scope": "workspace", "policy": policy })
            }
            "key.backup" => {
                json!({ "workspace": workspace, "key": key, "version": 1, "fingerprint": fingerprint })
            }
            "key.restore" => json!({
                "workspace": workspace, "key": key, "backup": self.backup, "version": 1, "fingerprint": fingerprint,
                "latest": 1, "latest_fingerprint": fingerprint,
            }),
            "key.destroy" => json!({
                "workspace": workspace, "key": key, "version": 1, "fingerprint": fingerprint, "reason": "old",
                "notice_seconds": 3600,
            }),
            "key.generate" => json!({
                "workspace": workspace, "key": "key_00000000000000000000", "name": "new", "kind": "p256",
                "custody": "non-extractable",
            }),
            "key.rotate" => json!({
                "workspace": workspace, "key": key, "custody": "recoverable", "overlap_seconds": 3600,
            }),
            "key.import" => json!({
                "workspace": workspace, "key": "key_00000000000000000000", "name": "new", "kind": "p256",
                "expected": [0],
            }),
            other => panic!("say what {other} starts with"),
        }
    }

    async fn start(&self, workflow: &str, by: &Program) -> SagaKey {
        let wish = StartRequest::new(workflow, self.scope(), &self.plan(workflow)).unwrap();
        let by = Origin { actor: actor(by), ..Origin::default() };
        self.engine.launch(wish.origin(by)).await.unwrap().key
    }

    async fn vote(&self, run: &SagaKey, decision: &'static str, by: &Program) {
        let opened = self.told(run, "approval.open").await.remove(0);
        let after = &opened["detail"]["after"];
        let ballot = json!({ "digest": after["digest"], "policy_version": after["policy_version"] });
        self.signal(run, decision, &actor(by), &ballot).await;
    }

    async fn signal(&self, run: &SagaKey, decision: &'static str, by: &str, ballot: &Json) {
        let vote = SignalRequest::new(run.clone(), decision, by, ballot).unwrap();
        let by = Origin { actor: by.to_owned(), ..Origin::default() };
        self.engine.signal(vote.origin(by)).await.unwrap();
    }

    async fn withdraw(&self, from: &Program, loss: Loss) {
        let path = match loss {
            Loss::ApiKey => format!("/v1/api-keys/{}", from.api_key),
            Loss::Client => format!("/v1/clients/{}", from.client),
        };
        let revoked = self.operator().ask("DELETE", &path, None).await;
        assert_eq!(revoked.status, 204, "{revoked:?}");
    }

    async fn close_workspace(&self) {
        let path = format!("/v1/workspaces/{}/close", self.programs[0].workspace);
        let closed: Answer = self.stage.standing.operator().ask("POST", &path, None).await;
        assert!(closed.status < 300, "{closed:?}");
    }

    fn after(&self, time: Duration) {
        self.stage.advance(time);
        self.engine.tick();
    }

    async fn summary(&self, run: &SagaKey) -> Summary {
        self.engine.show(run).await.unwrap().unwrap().summary
    }

    async fn until(&self, run: &SagaKey, wanted: impl Fn(&Summary) -> bool) -> Summary {
        for _ in 0..LOOKS_MAX {
            let shown = self.summary(run).await;
            if wanted(&shown) {
                return shown;
            }
            self.engine.wait(run, LOOK).await.unwrap();
        }
        panic!("it does not come: {:?}", self.engine.show(run).await);
    }

    async fn until_at(&self, run: &SagaKey, step: &str) {
        self.until(run, |it| it.state == "waiting" && it.step == Some(step)).await;
    }

    /// The entries of an action about a run, once there are so many.
    async fn until_told(&self, run: &SagaKey, action: &str, times: usize) -> Vec<Json> {
        for _ in 0..LOOKS_MAX {
            let told = self.told(run, action).await;
            if told.len() >= times {
                return told;
            }
            self.engine.wait(run, LOOK).await.unwrap();
        }
        panic!("{action} is not told {times} times: {:?}", self.engine.show(run).await);
    }

    async fn told(&self, run: &SagaKey, action: &str) -> Vec<Json> {
        let entries =
            self.operator().get(&format!("/v1/audit/entries?action={action}&limit=500")).await.json();
        let entries = entries["entries"].as_array().unwrap().clone();
        let id = run.id.to_string();
        let of_run = |entry: &Json| entry["detail"]["workflow_id"] == id || entry.to_string().contains(&id);
        entries.into_iter().filter(of_run).collect()
    }

    /// What none of the workflows may have changed.
    async fn unchanged(&self) -> Json {
        let double = &self.stage.standing.double;
        let key = self.operator().get("/v1/keys/release").await.json();
        json!({
            "keys": double.keys_held(), "signatures": double.signatures_made(), "key": key,
            "policy": self.operator().get("/v1/policies/workspace").await.json(),
            "names": self.operator().get("/v1/keys").await.json()["keys"].as_array().unwrap().len(),
        })
    }

    /// It turned round for this reason, and left everything as it was.
    async fn ends_in_vain(&self, run: &SagaKey, code: &str, before: &Json) {
        let ended = self.until(run, |it| ["compensated", "succeeded"].contains(&it.state)).await;
        assert_eq!(ended.state, "compensated", "{ended:?}");
        let turned = self.told(run, "workflow.unwinding").await;
        assert_eq!(turned[0]["detail"]["code"], code, "{} says why: {turned:?}", ended.workflow);
        assert_eq!(self.unchanged().await, *before, "{} left something behind", ended.workflow);
    }
}

fn actor(program: &Program) -> String {
    format!("{}/{}", program.client, program.api_key)
}

fn outcomes(votes: &[Json]) -> Vec<String> {
    votes.iter().map(|it| it["detail"]["after"]["outcome"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vote_counts_only_while_its_voter_stands() {
    for (at, workflow) in AGREED.into_iter().enumerate() {
        let case = Case::new().await;
        let [asker, first, second, third] = case.programs.as_slice() else { panic!("four programs") };
        let run = case.start(workflow, asker).await;
        case.until_at(&run, "signing.await_approvals").await;
        case.vote(&run, "approve", first).await;
        case.until_told(&run, "approval.vote", 1).await;
        case.withdraw(first, [Loss::ApiKey, Loss::Client][at % 2]).await;
        case.vote(&run, "approve", second).await;
        let votes = case.until_told(&run, "approval.vote", 2).await;
        assert_eq!(outcomes(&votes), ["counted", "counted"], "{workflow}");
        let lapsed = case.told(&run, "approval.lapse").await;
        assert_eq!(lapsed.len(), 1, "{workflow}: {lapsed:?}");
        assert_eq!(lapsed[0]["detail"]["before"]["approver"], actor(first), "{workflow}");
        assert_eq!(case.summary(&run).await.step, Some("signing.await_approvals"), "{workflow}");
        case.vote(&run, "approve", third).await;
        let votes = case.until_told(&run, "approval.vote", 3).await;
        assert_eq!(outcomes(&votes)[2], "counted, and enough", "{workflow}");
        assert_eq!(case.told(&run, "approval.lapse").await.len(), 1, "{workflow}: told once");
        case.until(&run, |it| it.step != Some("signing.await_approvals")).await;
        case.engine.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vote_of_one_who_was_revoked_before_it_was_heard_is_not_counted() {
    let case = Case::new().await;
    let [asker, first, second, _] = case.programs.as_slice() else { panic!("four programs") };
    let run = case.start("signing.request", asker).await;
    case.until_at(&run, "signing.await_approvals").await;
    case.vote(&run, "approve", second).await;
    case.until_told(&run, "approval.vote", 1).await;
    case.withdraw(first, Loss::Client).await;
    case.vote(&run, "approve", first).await;
    let votes = case.until_told(&run, "approval.vote", 2).await;
    assert!(outcomes(&votes)[1].starts_with("not counted: the voter has a client"), "{votes:?}");
    assert_eq!(case.summary(&run).await.step, Some("signing.await_approvals"));
    case.engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn votes_that_lapse_between_agreement_and_order_end_the_run() {
    for (workflow, waits_at) in
        [("signing.policy_change", "signing.await_timelock"), ("key.destroy", "keys.await_cooling")]
    {
        let case = Case::new().await;
        let [asker, first, second, _] = case.programs.as_slice() else { panic!("four programs") };
        let before = case.unchanged().await;
        let run = case.start(workflow, asker).await;
        case.until_at(&run, "signing.await_approvals").await;
        case.vote(&run, "approve", first).await;
        case.vote(&run, "approve", second).await;
        case.until_at(&run, waits_at).await;
        case.withdraw(second, Loss::ApiKey).await;
        case.after(2 * HOUR);
        case.ends_in_vain(&run, "approvals_lapsed", &before).await;
        assert_eq!(case.told(&run, "approval.lapse").await.len(), 1, "{workflow}");
        case.engine.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_that_waits_for_the_token_is_not_made_once_its_votes_have_lapsed() {
    for workflow in ["signing.request", "signing.batch"] {
        let case = Case::new().await;
        let [asker, first, second, _] = case.programs.as_slice() else { panic!("four programs") };
        let run = case.start(workflow, asker).await;
        case.until_at(&run, "signing.await_approvals").await;
        case.vote(&run, "approve", first).await;
        case.until_told(&run, "approval.vote", 1).await;
        let made = case.stage.standing.double.signatures_made();
        case.stage.standing.double.unplug();
        case.vote(&run, "approve", second).await;
        case.until(&run, |it| it.state == "backoff" || it.error.is_some()).await;
        case.withdraw(second, Loss::Client).await;
        case.stage.standing.double.plug_in();
        let over = |it: &Summary| ["compensated", "succeeded"].contains(&it.state);
        for _ in 0..LOOKS_MAX {
            if over(&case.summary(&run).await) {
                break;
            }
            case.after(Duration::from_secs(60));
            case.engine.wait(&run, LOOK).await.unwrap();
        }
        let shown = case.engine.show(&run).await.unwrap().unwrap();
        let why = match workflow {
            "signing.request" => case.told(&run, "workflow.unwinding").await[0]["detail"]["code"].clone(),
            _ => shown.result.clone().unwrap()["items"][0]["refused"]["code"].clone(),
        };
        assert_eq!(why, "approvals_lapsed", "{shown:?}");
        assert_eq!(case.stage.standing.double.signatures_made(), made, "{workflow} was signed");
        case.engine.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_done_for_a_requester_who_could_not_ask_any_more() {
    for (at, workflow) in AGREED.into_iter().enumerate() {
        let case = Case::new().await;
        let [asker, first, ..] = case.programs.as_slice() else { panic!("four programs") };
        let before = case.unchanged().await;
        let run = case.start(workflow, asker).await;
        case.until_at(&run, "signing.await_approvals").await;
        match at % 3 {
            0 => case.withdraw(asker, Loss::ApiKey).await,
            1 => case.withdraw(asker, Loss::Client).await,
            _ => case.close_workspace().await,
        }
        let seen = case.operator().get(&format!("/v1/workflows/{}", run.id)).await.json();
        assert!(seen["approval"]["withdrawn"].is_string(), "approvers see it: {seen}");
        case.vote(&run, "approve", first).await;
        let code = if at % 3 == 2 { "workspace_closed" } else { "requester_withdrawn" };
        case.ends_in_vain(&run, code, &before).await;
        case.engine.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_is_made_for_a_requester_who_could_not_ask_any_more() {
    for workflow in ALONE {
        let case = Case::new().await;
        let before = case.unchanged().await;
        case.withdraw(&case.programs[0], Loss::ApiKey).await;
        let run = case.start(workflow, &case.programs[0]).await;
        if workflow == "key.import" {
            case.until_at(&run, "keys.await_wrapped_blob").await;
            let blob = json!({ "wrapped": "AAAA" });
            case.signal(&run, "blob", "operator:0", &blob).await;
        }
        case.ends_in_vain(&run, "requester_withdrawn", &before).await;
        case.engine.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_is_not_promoted_for_a_requester_who_was_revoked_in_its_overlap() {
    let case = Case::new().await;
    let before = case.unchanged().await;
    let run = case.start("key.rotate", &case.programs[0]).await;
    case.until_at(&run, "keys.await_overlap").await;
    case.withdraw(&case.programs[0], Loss::Client).await;
    case.after(2 * HOUR);
    case.ends_in_vain(&run, "requester_withdrawn", &before).await;
    case.engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_votes_in_time_sign_and_change_nothing() {
    for workflow in ["signing.request", "signing.batch", "signing.policy_change"] {
        let case = Case::new().await;
        let before = case.unchanged().await;
        let run = case.start(workflow, &case.programs[0]).await;
        case.until_at(&run, "signing.await_approvals").await;
        case.vote(&run, "approve", &case.programs[1]).await;
        case.until_told(&run, "approval.vote", 1).await;
        case.after(72 * HOUR);
        case.ends_in_vain(&run, "approval_expired", &before).await;
        case.engine.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_yes_that_comes_after_the_time_to_agree_is_not_counted() {
    for workflow in AGREED {
        let case = Case::new().await;
        let before = case.unchanged().await;
        let run = case.start(workflow, &case.programs[0]).await;
        case.until_at(&run, "signing.await_approvals").await;
        case.vote(&run, "approve", &case.programs[1]).await;
        case.until_told(&run, "approval.vote", 1).await;
        // Nobody looks for what is due, so the vote is what wakes the run.
        case.stage.advance(72 * HOUR);
        case.vote(&run, "approve", &case.programs[2]).await;
        let ended = case.until(&run, |it| ["compensated", "succeeded"].contains(&it.state)).await;
        assert_eq!(ended.state, "compensated", "{ended:?}");
        assert_eq!(case.unchanged().await, before, "{workflow} left something behind");
        case.engine.close().await;
    }
}

/// A veto needs no time to agree: as long as the lock runs there is something to stop.
#[tokio::test(flavor = "multi_thread")]
async fn a_no_in_the_time_lock_is_heard_after_the_time_to_agree() {
    // Longer than the two days in which others have to agree to a change.
    let locked = json!({ "direct": true, "approvals": 2, "timelock_seconds": 3 * 24 * 3600 });
    let case = Case::with(locked).await;
    let [asker, first, second, third] = case.programs.as_slice() else { panic!("four programs") };
    let before = case.unchanged().await;
    let run = case.start("signing.policy_change", asker).await;
    case.until_at(&run, "signing.await_approvals").await;
    case.stage.advance(24 * HOUR);
    case.vote(&run, "approve", first).await;
    case.vote(&run, "approve", second).await;
    case.until_at(&run, "signing.await_timelock").await;
    // The two days are over, and one of the three of the lock is left.
    case.stage.advance(48 * HOUR);
    case.vote(&run, "refuse", third).await;
    case.ends_in_vain(&run, "refused_by_approver", &before).await;
    let votes = case.told(&run, "approval.vote").await;
    let heard = votes.iter().find(|it| it["actor"] == actor(third)).expect("the veto's entry");
    assert_eq!(heard["detail"]["after"]["outcome"], "counted");
    let about = format!("workflow/{}", run.id);
    let opened = case.told(&run, "approval.open").await;
    assert!(votes.iter().chain(&opened).all(|entry| entry["object"] == about.as_str()), "{votes:?}");
    case.engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vote_by_whoever_asked_or_on_another_request_is_told_and_not_counted() {
    let case = Case::new().await;
    let [asker, first, ..] = case.programs.as_slice() else { panic!("four programs") };
    let run = case.start("signing.request", asker).await;
    case.until_at(&run, "signing.await_approvals").await;
    case.vote(&run, "approve", asker).await;
    case.until_told(&run, "approval.vote", 1).await;
    let stale = json!({ "digest": "00", "policy_version": 1 });
    case.signal(&run, "approve", &actor(first), &stale).await;
    let votes = case.until_told(&run, "approval.vote", 2).await;
    let wanted = [
        "not counted: nobody approves what they asked for",
        "not counted: it is about another request or policy",
    ];
    assert_eq!(outcomes(&votes), wanted);
    assert_eq!(votes[0]["actor"], actor(asker));
    assert_eq!(case.summary(&run).await.step, Some("signing.await_approvals"));
    case.engine.close().await;
}

/// Plans a request under a nonce of its own.
fn request(case: &Case, nonce: &str) -> Json {
    let mut plan = case.plan("signing.request");
    plan["nonce"] = json!(nonce);
    plan
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_counts_a_requested_signature_in_the_window_in_which_it_is_made() {
    let case = Case::with(json!({
        "direct": true, "approvals": 1, "expires_seconds": 604_800, "limit": { "uses": 1, "per_seconds": 3600 },
    }))
    .await;
    let [asker, other, ..] = case.programs.as_slice() else { panic!("four programs") };
    let mut runs = Vec::new();
    for nonce in ["one", "two", "three"] {
        let wish = StartRequest::new("signing.request", case.scope(), &request(&case, nonce)).unwrap();
        let by = Origin { actor: actor(asker), ..Origin::default() };
        let run = case.engine.launch(wish.origin(by)).await.unwrap().key;
        case.until_at(&run, "signing.await_approvals").await;
        runs.push(run);
        case.after(HOUR);
    }
    for run in &runs {
        case.vote(run, "approve", other).await;
        case.until_told(run, "approval.vote", 1).await;
    }
    // Windows go by proven time, which differs from this wall clock by a constant.
    let ahead_us = case.stage.unix_us() - case.engine.time().now_us();
    let mut signed_at = Vec::new();
    for run in &runs {
        for _ in 0..LOOKS_MAX {
            if case.summary(run).await.state == "succeeded" {
                break;
            }
            case.after(Duration::from_secs(60));
            case.engine.wait(run, LOOK).await.unwrap();
        }
        let ended = case.summary(run).await;
        assert_eq!(ended.state, "succeeded", "{ended:?}");
        signed_at.push(Duration::from_micros(ended.updated_us - ahead_us).as_secs() / HOUR.as_secs());
    }
    signed_at.sort_unstable();
    assert!(
        signed_at.windows(2).all(|two| two[0] < two[1]),
        "two in one hour, and the limit is one: {signed_at:?}"
    );
    case.engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_put_forward_begins_no_window_of_a_limit() {
    let case = Case::with(json!({
        "direct": true, "approvals": 1, "expires_seconds": 604_800, "limit": { "uses": 1, "per_seconds": 86_400 },
    }))
    .await;
    let [asker, other, ..] = case.programs.as_slice() else { panic!("four programs") };
    let ask = async |nonce: &str| {
        let wish = StartRequest::new("signing.request", case.scope(), &request(&case, nonce)).unwrap();
        let by = Origin { actor: actor(asker), ..Origin::default() };
        case.engine.launch(wish.origin(by)).await.unwrap().key
    };
    let first = ask("one").await;
    case.until_at(&first, "signing.await_approvals").await;
    case.vote(&first, "approve", other).await;
    let ended = case.engine.wait(&first, LONG).await.unwrap().expect("it ends");
    assert_eq!(ended.state, sagas::State::Succeeded, "{ended:?}");
    case.stage.put_forward(HOUR * 24 * 10);
    let ended = case.engine.wait(&ask("two").await, LONG).await.unwrap().expect("it ends");
    assert_eq!((ended.state, ended.code.as_deref()), (sagas::State::Compensated, Some("policy_refused")));
    case.after(HOUR * 24);
    let third = ask("three").await;
    case.until_at(&third, "signing.await_approvals").await;
    case.engine.close().await;
}
