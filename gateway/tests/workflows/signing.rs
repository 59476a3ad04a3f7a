//! Signing by request: proven step by step, and promised over the API: who agrees, to what exactly, under which policy.
//! Who enters: definitions over a world that dies and comes back; members of a workspace with keys of their own.
//! What leaves: proofs; answers, entries and signatures, compared.

use std::time::Duration;

use audit::{SqlFault, Told, View};
use base64::Engine;
use gateway::ids::WorkspaceId;
use gateway::moment::Moment;
use gateway::services::signing::approvals;
use gateway::services::signing::changes::{self, ChangePlan, Staged};
use sagas::testing::{Proof, World, expected_cells, prove, renumbered};
use sagas::{Definition, Origin, SignalRequest, StartRequest, State, Undo, Workflow};
use serde_json::{Value, json};

use crate::common::house::{Answer, Program, Standing, house};
use crate::sign_world::{Proven, SignWorld};
use crate::world::tells;

async fn proven(what: Proven) -> (SignWorld, Proof) {
    let world = SignWorld::new(what).await;
    let definition = world.definition();
    match prove(&world, &definition).await {
        Ok(proof) => {
            assert_eq!(proof.coverage.count(), expected_cells(&definition).len());
            assert_eq!(proof.told, tells(definition.name()), "what {} tells others", definition.name());
            world.the_ledger_verifies().await;
            (world, proof)
        }
        Err(why) => panic!("{why}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_holds_in_every_cell() {
    let (world, proof) = proven(Proven::Request).await;
    assert!(world.signatures() > 0 && proof.commits >= 4, "{proof:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_holds_in_every_cell() {
    let (world, proof) = proven(Proven::Batch).await;
    assert!(world.signatures() > 0 && proof.commits >= 9, "{proof:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_policy_holds_in_every_cell() {
    proven(Proven::Change).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_a_policy_holds_in_every_cell() {
    proven(Proven::Key).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vote_under_a_policy_that_no_longer_holds_counts_for_nothing() {
    let world = SignWorld::new(Proven::Request).await;
    let engine = world.engine(vec![world.definition(), change_behind_ones_back()]).await;
    let asked = engine.launch(world.request(1)).await.expect("a start");
    let ballot = world.ballot_soon().await;
    // The same change by its own workflow would have called the request off; here nobody does.
    world.succeeds(&engine, "test.change_behind", &world.change(61)).await;
    let before = world.signatures();
    let yes = SignalRequest::new(asked.key.clone(), "approve", "voter", &ballot).expect("a signal");
    let by = Origin { actor: "operator:2".to_owned(), ..Origin::default() };
    engine.signal(yes.origin(by)).await.expect("a vote");
    let end = engine.wait(&asked.key, Duration::from_secs(30)).await.expect("a ledger").expect("an end");
    assert_eq!((end.state, end.code.as_deref()), (State::Compensated, Some("policy_refused")), "{end:?}");
    assert_eq!(world.signatures(), before);
    assert_eq!(world.told("approval.vote", "not counted: the policy has changed").await, 1);
    engine.close().await;
}

/// An appliance that was set back to an older build, while a request waits that only the newer one can read.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_changes_beside_a_request_whose_definition_this_build_lacks() {
    let world = SignWorld::new(Proven::Request).await;
    let newer = || renumbered(world.definition(), 99);
    let engine = world.engine(vec![newer()]).await;
    let asked = engine.launch(world.request(1)).await.expect("a start").key;
    let ballot = world.ballot_soon().await;
    engine.close().await;

    let older = world.engine(vec![world.definition(), world.policy_change()]).await;
    let change =
        StartRequest::new("signing.policy_change", world.scope(), &world.change(61)).expect("a wish");
    let change = older.launch(change.origin(operator(1))).await.expect("a start").key;
    let yes = SignalRequest::new(change.clone(), "approve", "voter", &world.ballot_soon_of(true).await);
    older.signal(yes.expect("a signal").origin(operator(2))).await.expect("a vote");
    let end = loop {
        if let Some(end) = older.wait(&change, Duration::from_millis(5)).await.expect("a ledger") {
            break end;
        }
        world.clock().advance(Duration::from_secs(1));
        older.tick();
    };
    assert_eq!(end.state, State::Succeeded, "{end:?}");
    let shown = older.show(&asked).await.expect("a ledger").expect("the request").summary;
    assert_eq!((shown.state, shown.version), ("waiting", 99), "this build turned what it cannot read");
    older.close().await;

    // The build that can read it looks at the policy before it counts anybody's word.
    let (engine, before) = (world.engine(vec![newer()]).await, world.signatures());
    let yes = SignalRequest::new(asked.clone(), "approve", "voter", &ballot).expect("a signal");
    engine.signal(yes.origin(operator(2))).await.expect("a vote");
    let end = engine.wait(&asked, Duration::from_secs(30)).await.expect("a ledger").expect("an end");
    assert_eq!((end.state, end.code.as_deref()), (State::Compensated, Some("policy_refused")), "{end:?}");
    assert_eq!(world.signatures(), before);
    engine.close().await;
}

fn operator(number: u32) -> Origin {
    Origin { actor: format!("operator:{number}"), ..Origin::default() }
}

/// A change of policy without agreement and without consequences for what waits.
fn change_behind_ones_back() -> Definition {
    Workflow::define("test.change_behind")
        .version(1)
        .input::<ChangePlan>()
        .local(
            "stage",
            |tx, cx, plan, ()| changes::stage(tx, cx, plan),
            Undo::local(|tx, cx, plan, ()| changes::discard(tx, cx, plan)),
        )
        .local(
            "look",
            |_, cx, _, staged: &Staged| {
                let mut staged = staged.clone();
                staged.asked.approvals = 0;
                Ok(Told::new(staged, cx.entry("test.look", "policy")))
            },
            Undo::none("looking changes nothing"),
        )
        .pivot_local("activate", |tx, cx, plan, staged: &Staged| changes::activate(tx, cx, plan, staged))
        .build()
        .expect("a definition")
}

/// A workspace with a key, its first policy set by the operator, and as many members as asked for.
async fn ring(policy: Value, members: usize) -> (Standing, Vec<Program>) {
    let standing = house().await;
    let scopes =
        ["sign", "verify", "keys:manage", "keys:read", "workflows:read", "workflows:manage", "approve"];
    let mut programs = Vec::new();
    for _ in 0..members {
        programs.push(standing.program("acme", &scopes).await);
    }
    let made = programs[0].asker.post("/v1/keys", json!({ "name": "release", "kind": "p256" })).await;
    assert_eq!(made.status, 201, "{made:?}");
    if policy != Value::Null {
        let operator = standing.operator().with("chancery-workspace", "acme").with("prefer", "wait=20");
        let change = json!({ "scope": "workspace", "policy": policy });
        let changed = operator.post("/v1/workflows/signing.policy_change", change).await;
        assert_eq!(changed.status, 200, "{changed:?}");
    }
    (standing, programs)
}

fn digest(byte: u8) -> String {
    base64::engine::general_purpose::STANDARD.encode([byte; 32])
}

/// Asks for a signature of the digest of this byte.
async fn ask(by: &Program, byte: u8, nonce: &str, wait: &str) -> Answer {
    let wanted =
        json!({ "scheme": "ecdsa-sha256", "digest": digest(byte), "nonce": nonce, "intent": "release" });
    by.asker.with("prefer", wait).post("/v1/keys/release/signatures", wanted).await
}

async fn sign(by: &Program) -> Answer {
    by.asker.post("/v1/keys/release/sign", json!({ "scheme": "ecdsa-sha256", "digest": digest(1) })).await
}

/// The run, once it stands in this state.
async fn run_in(by: &Program, at: &str, state: &str) -> Value {
    let found = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            let run = by.asker.get(at).await.json();
            if run["state"] == state && (state != "waiting" || run["approval"] != Value::Null) {
                return run;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    match found.await {
        Ok(run) => run,
        Err(_) => panic!("it is not {state}: {}", by.asker.get(at).await.json()),
    }
}

async fn vote(by: &Program, at: &str, verdict: &str, run: &Value) -> Answer {
    let (digest, version) = (&run["approval"]["digest"], &run["approval"]["policy_version"]);
    let ballot = json!({ "verdict": verdict, "digest": digest, "policy_version": version });
    by.asker.post(&format!("{at}/approvals"), ballot).await
}

#[tokio::test]
async fn without_a_policy_one_signs_directly_and_a_request_passes_at_once() {
    let (_standing, programs) = ring(Value::Null, 1).await;
    assert_eq!(sign(&programs[0]).await.status, 200);
    let signed = ask(&programs[0], 2, "one", "wait=20").await;
    assert_eq!(signed.status, 201, "{signed:?}");
    let check =
        json!({ "scheme": "ecdsa-sha256", "digest": digest(2), "signature": signed.json()["signature"] });
    let verdict = programs[0].asker.post("/v1/keys/release/verify", check).await.json();
    assert_eq!((&verdict["valid"], &signed.json()["use"]), (&json!(true), &json!(2)));
}

#[tokio::test]
async fn a_request_is_signed_once_others_agree_and_not_by_the_one_who_asked() {
    let (_standing, programs) = ring(json!({ "direct": false, "approvals": 2 }), 3).await;
    assert_eq!(sign(&programs[0]).await.code(), "policy_refused");
    let asked = ask(&programs[0], 1, "one", "wait=0").await;
    assert_eq!(asked.status, 202, "{asked:?}");
    let at = asked.header("location").to_owned();
    let run = run_in(&programs[0], &at, "waiting").await;
    assert_eq!(vote(&programs[0], &at, "approve", &run).await.code(), "own_request");
    let mut stale = run.clone();
    stale["approval"]["policy_version"] = json!(0);
    assert_eq!(vote(&programs[1], &at, "approve", &stale).await.code(), "stale_approval", "another policy");
    stale = run.clone();
    stale["approval"]["digest"] = json!("00");
    assert_eq!(vote(&programs[1], &at, "approve", &stale).await.code(), "stale_approval", "another request");
    assert_eq!(vote(&programs[1], &at, "approve", &run).await.status, 200);
    assert_eq!(uses(&programs[0]).await, 0, "one of two is no quorum");
    assert_eq!(vote(&programs[2], &at, "approve", &run).await.status, 200);
    let run = run_in(&programs[0], &at, "succeeded").await;
    assert_eq!(uses(&programs[0]).await, 1);
    let check =
        json!({ "scheme": "ecdsa-sha256", "digest": digest(1), "signature": run["result"]["signature"] });
    assert_eq!(programs[0].asker.post("/v1/keys/release/verify", check).await.json()["valid"], true);
}

/// How often the key was used.
async fn uses(by: &Program) -> u64 {
    by.asker.get("/v1/keys/release").await.json()["uses"].as_u64().expect("a count")
}

#[tokio::test]
async fn a_refusal_or_a_cancellation_ends_a_request_and_gives_its_use_back() {
    let policy = json!({ "direct": true, "approvals": 1, "limit": { "uses": 1, "per_seconds": 2_592_000 } });
    let (_standing, programs) = ring(policy, 2).await;
    for (nonce, called_off) in [("one", false), ("two", true)] {
        let at = ask(&programs[0], 1, nonce, "wait=0").await.header("location").to_owned();
        let run = run_in(&programs[0], &at, "waiting").await;
        assert_eq!(sign(&programs[1]).await.code(), "policy_refused", "the one use is reserved");
        let ended = match called_off {
            true => programs[0].asker.post(&format!("{at}/cancel"), json!({ "reason": "no longer" })).await,
            false => vote(&programs[1], &at, "refuse", &run).await,
        };
        assert!(ended.status < 300, "{ended:?}");
        run_in(&programs[0], &at, "compensated").await;
    }
    assert_eq!(sign(&programs[1]).await.status, 200, "the use is free again");
    assert_eq!(sign(&programs[1]).await.code(), "policy_refused", "and now it is used up");
}

#[tokio::test]
async fn the_same_content_is_signed_once_under_a_nonce_for_ever() {
    let (_standing, programs) = ring(Value::Null, 1).await;
    assert_eq!(ask(&programs[0], 1, "one", "wait=20").await.status, 201);
    let again = ask(&programs[0], 1, "one", "wait=20").await;
    assert_eq!((again.status, again.code().as_str()), (409, "nonce_used"), "{again:?}");
    assert_eq!(
        ask(&programs[0], 2, "one", "wait=20").await.status,
        201,
        "another content is another signature"
    );
}

#[tokio::test]
async fn two_requests_under_one_nonce_do_not_wait_side_by_side() {
    let (_standing, programs) = ring(json!({ "direct": true, "approvals": 1 }), 1).await;
    let first = ask(&programs[0], 1, "one", "wait=0").await;
    let second = ask(&programs[0], 2, "one", "wait=0").await;
    assert_eq!((second.status, second.code().as_str()), (409, "resource_locked"), "{second:?}");
    let holder = first.header("location").rsplit('/').next().unwrap().to_owned();
    assert!(second.json()["detail"].as_str().unwrap().contains(&holder), "{second:?} does not name {holder}");
}

#[tokio::test]
async fn a_policy_without_quorum_lets_nothing_pass_and_no_member_changes_it() {
    let (_standing, programs) = ring(json!({ "direct": false }), 2).await;
    assert_eq!(ask(&programs[0], 1, "one", "wait=20").await.code(), "policy_refused");
    let open = json!({ "scope": "workspace", "policy": { "direct": true, "approvals": 0 } });
    let change =
        programs[0].asker.with("prefer", "wait=20").post("/v1/workflows/signing.policy_change", open).await;
    assert_eq!(change.json()["state"], "compensated", "{change:?}");
    assert_eq!(sign(&programs[1]).await.code(), "policy_refused");
}

#[tokio::test]
async fn a_policy_names_schemes_and_intents() {
    let policy = json!({ "direct": true, "approvals": 0, "schemes": ["ed25519"], "intents": ["firmware"] });
    let (_standing, programs) = ring(policy, 1).await;
    assert_eq!(sign(&programs[0]).await.code(), "policy_refused");
    assert_eq!(ask(&programs[0], 1, "one", "wait=20").await.code(), "policy_refused");
}

#[tokio::test]
async fn a_change_takes_the_quorum_of_the_present_policy_and_calls_off_what_waits_under_it() {
    let (_standing, programs) = ring(json!({ "direct": false, "approvals": 1 }), 2).await;
    let waiting = ask(&programs[0], 1, "one", "wait=0").await.header("location").to_owned();
    let seen = run_in(&programs[0], &waiting, "waiting").await;
    let wider = json!({ "scope": "workspace", "policy": { "direct": true, "approvals": 0 } });
    let change = programs[0].asker.post("/v1/workflows/signing.policy_change", wider).await;
    let at = change.header("location").to_owned();
    let run = run_in(&programs[0], &at, "waiting").await;
    assert_eq!(sign(&programs[0]).await.code(), "policy_refused", "not yet in force");
    assert_eq!(vote(&programs[0], &at, "approve", &run).await.code(), "own_request");
    assert_eq!(vote(&programs[1], &at, "approve", &run).await.status, 200);
    let changed = run_in(&programs[0], &at, "succeeded").await;
    run_in(&programs[0], &waiting, "compensated").await;
    assert_eq!(changed["result"]["called_off"][0], json!(waiting.rsplit('/').next().unwrap()));
    let late = vote(&programs[1], &waiting, "approve", &seen).await;
    assert_eq!((late.status, late.code().as_str()), (409, "wrong_state"), "{late:?}");
    assert_eq!(sign(&programs[0]).await.status, 200, "in force");
    let kept = programs[0].asker.get("/v1/policies").await.json();
    let states: Vec<_> = kept["policies"].as_array().unwrap().iter().map(|it| it["state"].clone()).collect();
    assert_eq!(states, [json!("retired"), json!("active")]);
}

#[tokio::test]
async fn a_change_for_one_key_calls_off_what_waits_for_it_and_nothing_of_another() {
    let (_standing, programs) = ring(json!({ "direct": false, "approvals": 1 }), 2).await;
    let made = programs[0].asker.post("/v1/keys", json!({ "name": "other", "kind": "p256" })).await;
    let key = made.json()["id"].as_str().unwrap().to_owned();
    let waiting = ask(&programs[0], 1, "one", "wait=0").await.header("location").to_owned();
    run_in(&programs[0], &waiting, "waiting").await;
    let wanted =
        json!({ "scheme": "ecdsa-sha256", "digest": digest(1), "nonce": "other", "intent": "release" });
    let asked = programs[0].asker.with("prefer", "wait=0").post("/v1/keys/other/signatures", wanted).await;
    let others = asked.header("location").to_owned();
    run_in(&programs[0], &others, "waiting").await;
    let mut called_off = Vec::new();
    for approvals in [1, 1] {
        let policy = json!({ "direct": false, "approvals": approvals });
        let change = json!({ "scope": key, "policy": policy });
        let at = programs[0].asker.post("/v1/workflows/signing.policy_change", change).await;
        let at = at.header("location").to_owned();
        let run = run_in(&programs[0], &at, "waiting").await;
        assert_eq!(vote(&programs[1], &at, "approve", &run).await.status, 200);
        let changed = run_in(&programs[0], &at, "succeeded").await;
        called_off.extend(changed["result"]["called_off"].as_array().unwrap().clone());
    }
    assert_eq!(called_off, [json!(others.rsplit('/').next().unwrap())]);
    run_in(&programs[0], &others, "compensated").await;
    run_in(&programs[0], &waiting, "waiting").await;
}

#[tokio::test]
async fn the_first_policy_takes_one_other_person() {
    let (_standing, programs) = ring(Value::Null, 2).await;
    let first = json!({ "scope": "workspace", "policy": { "direct": false, "approvals": 1 } });
    let change = programs[0].asker.post("/v1/workflows/signing.policy_change", first).await;
    let at = change.header("location").to_owned();
    let run = run_in(&programs[0], &at, "waiting").await;
    assert_eq!(run["approval"]["needs"], 1);
    assert_eq!(sign(&programs[0]).await.status, 200, "nothing holds yet");
    assert_eq!(vote(&programs[1], &at, "approve", &run).await.status, 200);
    run_in(&programs[0], &at, "succeeded").await;
    assert_eq!(sign(&programs[0]).await.code(), "policy_refused");
}

#[tokio::test]
async fn what_stands_about_a_vote_goes_with_its_run_and_not_before() {
    let (standing, programs) = ring(json!({ "direct": false, "approvals": 1 }), 2).await;
    let mut runs = Vec::new();
    for nonce in ["over", "open"] {
        let asked = ask(&programs[0], 1, nonce, "wait=0").await;
        let at = asked.header("location").to_owned();
        runs.push((at.clone(), run_in(&programs[0], &at, "waiting").await));
    }
    let [(over, run), (open, _)] = runs.as_slice() else { panic!("two runs") };
    assert_eq!(vote(&programs[1], over, "approve", run).await.status, 200);
    run_in(&programs[0], over, "succeeded").await;
    let workspace: WorkspaceId = programs[0].workspace.parse().unwrap();
    let stands = async |at: &str| {
        let (workspace, run) = (workspace.clone(), at.rsplit('/').next().unwrap().to_owned());
        let look = move |view: &View<'_>| {
            let asked = approvals::pending(view, &workspace, &run)?.is_some();
            let now = Moment::from_micros(i64::MAX);
            Ok::<_, SqlFault>((asked, approvals::standing(view, &workspace, &run, now)?.len()))
        };
        standing.house.ground.ledger.read(look).await.unwrap()
    };
    assert_eq!((stands(over).await, stands(open).await), ((true, 1), (true, 0)));
    standing.house.runs.sweep(Duration::from_secs(3600)).await.unwrap();
    assert_eq!(stands(over).await, (true, 1), "its time is not over");
    standing.house.runs.sweep(Duration::ZERO).await.unwrap();
    assert_eq!((stands(over).await, stands(open).await), ((false, 0), (true, 0)));
}

#[tokio::test]
async fn a_change_can_be_vetoed_while_its_time_lock_runs() {
    let policy = json!({ "direct": false, "approvals": 1, "timelock_seconds": 3600 });
    let (_standing, programs) = ring(policy, 3).await;
    let wider = json!({ "scope": "workspace", "policy": { "direct": true, "approvals": 0 } });
    let change = programs[0].asker.post("/v1/workflows/signing.policy_change", wider).await;
    let at = change.header("location").to_owned();
    let run = run_in(&programs[0], &at, "waiting").await;
    assert_eq!(vote(&programs[1], &at, "approve", &run).await.status, 200);
    assert_eq!(vote(&programs[2], &at, "refuse", &run).await.status, 200, "a veto");
    run_in(&programs[0], &at, "compensated").await;
    assert_eq!(sign(&programs[0]).await.code(), "policy_refused");
}

#[tokio::test]
async fn a_key_comes_with_its_policy_and_both_policies_hold() {
    let (_standing, programs) = ring(json!({ "direct": true, "approvals": 0 }), 1).await;
    let strict = json!({ "name": "root", "kind": "p256", "policy": { "direct": false, "approvals": 2 } });
    assert_eq!(programs[0].asker.post("/v1/keys", strict).await.status, 201);
    let order = json!({ "scheme": "ecdsa-sha256", "digest": digest(1) });
    assert_eq!(programs[0].asker.post("/v1/keys/root/sign", order).await.code(), "policy_refused");
    assert_eq!(
        sign(&programs[0]).await.status,
        200,
        "the other key stands under the workspace's policy alone"
    );
    let holds = programs[0].asker.get("/v1/policies/root").await.json();
    assert_eq!((&holds["policy"]["approvals"], &holds["policy"]["direct"]), (&json!(2), &json!(false)));
}

#[tokio::test]
async fn a_batch_is_agreed_to_by_its_root_and_reports_each_item() {
    let (_standing, programs) = ring(json!({ "direct": false, "approvals": 1 }), 2).await;
    let items: Vec<_> = (1..=3).map(|byte| json!({ "digest": digest(byte) })).collect();
    let wanted = json!({ "key": "release", "scheme": "ecdsa-sha256", "items": items, "nonce": "one" });
    let mut wrong = wanted.clone();
    wrong["merkle_root"] = json!("00");
    let refused = programs[0].asker.post("/v1/workflows/signing.batch", wrong).await;
    assert_eq!(
        (refused.status, refused.json()["pointer"].clone()),
        (422, json!("/merkle_root")),
        "{refused:?}"
    );
    let asked = programs[0].asker.post("/v1/workflows/signing.batch", wanted).await;
    let at = asked.header("location").to_owned();
    let run = run_in(&programs[0], &at, "waiting").await;
    assert_eq!(vote(&programs[1], &at, "approve", &run).await.status, 200);
    let report = run_in(&programs[0], &at, "succeeded").await["result"].clone();
    assert_eq!(report["signed"], 3, "{report}");
    for (at, byte) in (1..=3).enumerate() {
        let signature = &report["items"][at]["signed"]["signature"];
        let check = json!({ "scheme": "ecdsa-sha256", "digest": digest(byte), "signature": signature });
        assert_eq!(programs[0].asker.post("/v1/keys/release/verify", check).await.json()["valid"], true);
    }
}

#[tokio::test]
async fn what_a_batch_does_not_sign_is_said_and_given_back() {
    let policy = json!({ "direct": true, "approvals": 1, "limit": { "uses": 2, "per_seconds": 2_592_000 } });
    let (_standing, programs) = ring(policy, 2).await;
    let items: Vec<_> = (1..=2).map(|byte| json!({ "digest": digest(byte) })).collect();
    let wanted = json!({ "key": "release", "scheme": "ecdsa-sha256", "items": items, "nonce": "one" });
    for (verb, signed) in [("disable", 0), ("enable", 2)] {
        let asked = programs[0].asker.post("/v1/workflows/signing.batch", wanted.clone()).await;
        let at = asked.header("location").to_owned();
        let run = run_in(&programs[0], &at, "waiting").await;
        assert_eq!(sign(&programs[0]).await.status / 100, 4, "both uses are reserved");
        let changed = programs[0].asker.ask("POST", &format!("/v1/keys/release/{verb}"), None).await;
        assert_eq!(changed.status, 200, "{changed:?}");
        assert_eq!(vote(&programs[1], &at, "approve", &run).await.status, 200);
        let report = run_in(&programs[0], &at, "succeeded").await["result"].clone();
        assert_eq!(report["signed"], signed, "{report}");
        if signed == 0 {
            assert_eq!(report["items"][1]["refused"]["code"], "key_unusable", "{report}");
        }
    }
    assert_eq!(sign(&programs[0]).await.code(), "policy_refused", "now both are used");
}

#[tokio::test]
async fn a_request_for_a_key_that_is_disabled_meanwhile_ends_unsigned() {
    let (_standing, programs) = ring(json!({ "direct": true, "approvals": 1 }), 2).await;
    let at = ask(&programs[0], 1, "one", "wait=0").await.header("location").to_owned();
    let run = run_in(&programs[0], &at, "waiting").await;
    assert_eq!(programs[0].asker.ask("POST", "/v1/keys/release/disable", None).await.status, 200);
    assert_eq!(vote(&programs[1], &at, "approve", &run).await.status, 200);
    let ended = run_in(&programs[0], &at, "compensated").await;
    assert!(ended["error"].as_str().unwrap_or_default().contains("disabled"), "{ended}");
    assert_eq!(uses(&programs[0]).await, 0);
}

#[tokio::test]
async fn a_lost_signature_is_made_again_and_the_counter_shows_both() {
    let (standing, programs) = ring(Value::Null, 1).await;
    standing.double.next(hsm::double::DoubleFault::LoseAfter);
    let signed = ask(&programs[0], 1, "one", "wait=30").await;
    assert_eq!(signed.status, 201, "{signed:?}");
    assert_eq!((&signed.json()["use"], uses(&programs[0]).await), (&json!(2), 2));
    let operator = standing.operator().with("chancery-workspace", "acme");
    let failed = operator.get("/v1/audit/entries?action=key.sign_failed").await.json();
    let outcomes: Vec<_> =
        failed["entries"].as_array().unwrap().iter().map(|it| &it["detail"]["after"]["outcome"]).collect();
    assert_eq!(outcomes, ["outcome_unknown"], "the order that came to nothing is told: {failed}");
    assert_eq!(standing.house.keys.check_counters().await.expect("a ledger"), 0, "and so does the ledger");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_signs_is_a_span_below_its_request_with_the_tokens_work_below_it() {
    let (standing, programs) = ring(Value::Null, 1).await;
    let made = ask(&programs[0], 1, "n-1", "wait=20").await;
    assert_eq!(made.status, 201, "{made:?}");
    let followed = standing.operator().get(&format!("/v1/traces/{}", made.header("request-id"))).await.json();
    let story = followed["requests"][0]["story"].as_array().unwrap().clone();
    let span =
        |what: &str| story.iter().find(|line| line["what"] == what).unwrap_or_else(|| panic!("{story:?}"));
    let step = span("run signing.request keys.hsm_sign");
    assert_eq!((&step["ended"], &span("token.sign")["parent"]), (&json!("done"), &step["reference"]));
    let above = story.iter().find(|line| line["reference"] == step["parent"]);
    assert_eq!(
        above.map(|line| &line["source"]),
        Some(&json!("span")),
        "a span of the request itself: {story:?}"
    );
    span("run signing.request signing.record_signature");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_items_of_a_batch_are_spans_with_the_tokens_work_below_them_and_the_others_are_counted() {
    let (standing, programs) = ring(Value::Null, 1).await;
    let items: Vec<_> = (1..=70).map(|byte| json!({ "digest": digest(byte) })).collect();
    let wanted = json!({ "key": "release", "scheme": "ecdsa-sha256", "items": items, "nonce": "one" });
    let asked = programs[0].asker.post("/v1/workflows/signing.batch", wanted).await;
    run_in(&programs[0], asked.header("location"), "succeeded").await;
    let followed =
        standing.operator().get(&format!("/v1/traces/{}", asked.header("request-id"))).await.json();
    let story = followed["requests"][0]["story"].as_array().unwrap().clone();
    let spans = |what: &str| story.iter().filter(|line| line["what"] == what).cloned().collect::<Vec<_>>();
    for item in [1, 64] {
        let seen = spans(&format!("run signing.batch keys.hsm_sign_items, item {item}"));
        assert_eq!(seen.len(), 1, "item {item}: {story:?}");
        let below =
            spans("token.sign").iter().filter(|token| token["parent"] == seen[0]["reference"]).count();
        assert_eq!((below, &seen[0]["ended"]), (1, &json!("done")), "item {item}");
    }
    assert!(spans("run signing.batch keys.hsm_sign_items, item 65").is_empty());
    assert_eq!(spans("others signing.batch keys.hsm_sign_items")[0]["ended"], "6 more items");
    assert_eq!(spans("run signing.batch keys.hsm_sign_items").len(), 1, "and the step as a whole");
}
