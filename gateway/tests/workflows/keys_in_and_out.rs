//! Keys that come in, go out and come back: wholly, with proof of what they are, or not at all.
//! Who enters: a key made outside, wrapped as the token asks for it.
//! What leaves: a key that signs and says that it was imported; or nothing, and no wrapping key either.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded};
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gateway::ids::{SigningKeyId, WorkspaceId};
use gateway::services::keys::backup::BackupPlan;
use gateway::services::keys::incoming::ImportPlan;
use gateway::services::keys::restoring::RestorePlan;
use gateway::workflows;
use hsm::KeyKind;
use rcgen::{KeyPair, PublicKeyData};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use sagas::testing::Heard;
use sagas::{Engine, EngineParts, Origin, Scope, StartRequest, State};
use serde_json::{Value as Json, json};

use crate::common::house::{Asker, Program, Standing, fresh, house};
use crate::world::{Seen, Stage, Story, now, proven};

/// `RSA-OAEP(AES-256 key) | AES-KWP(PKCS#8)`.
fn wrapped(pem: &str, key: &KeyPair) -> String {
    let spki = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).unwrap();
    let under = OaepPublicEncryptingKey::new(PublicEncryptingKey::from_der(spki.as_ref()).unwrap()).unwrap();
    let (aes, plain) = ([7; 32], key.serialize_der());
    let mut first = vec![0; under.ciphertext_size()];
    under.encrypt(&OAEP_SHA256_MGF1SHA256, &aes, &mut first, None).unwrap();
    let mut second = vec![0; plain.len() + 16];
    let second =
        AesKek::new(&AES_256, &aes).unwrap().wrap_with_padding(&plain, &mut second).unwrap().to_vec();
    STANDARD.encode([first, second].concat())
}

struct Import {
    workspace: WorkspaceId,
    key: KeyPair,
}

impl Import {
    async fn shown(&self, stage: &Stage, round: u64) -> Json {
        let within = stage.standing.operator().with("chancery-workspace", self.workspace.as_str());
        within.get(&format!("/v1/keys/k{round}")).await.json()
    }
}

impl Story for Import {
    fn request(&self, stage: &Stage, round: u64) -> StartRequest {
        let plan = ImportPlan {
            workspace: self.workspace.clone(),
            key: SigningKeyId::new(&stage.standing.house.ground.dice),
            name: format!("k{round}").parse().unwrap(),
            kind: KeyKind::P256,
            expected: self.key.subject_public_key_info(),
        };
        StartRequest::new("key.import", Scope::Workspace(self.workspace.on_ledger().clone()), &plan).unwrap()
    }

    fn answer(&self, stage: &Stage, _: &str, round: u64) -> Vec<Heard> {
        let shown = now(self.shown(stage, round));
        let Some(pem) = shown["incoming"]["pem"].as_str() else { return Vec::new() };
        let payload = json!({ "wrapped": wrapped(pem, &self.key) });
        vec![Heard { name: "blob", dedupe: "once".to_owned(), payload }]
    }

    fn seen<'a>(&'a self, stage: &'a Stage, round: u64) -> Seen<'a> {
        Box::pin(async move {
            let shown = self.shown(stage, round).await;
            let version = &shown["versions"][0];
            json!({ "state": shown["state"], "workflow": shown["workflow"], "incoming": shown["incoming"],
                "origin": version["provenance"]["origin"], "fingerprint": version["fingerprint"] })
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn importing_a_key_holds_in_every_cell() {
    let (stage, workspace) = Stage::set(async |standing| {
        let made = standing.operator().post("/v1/workspaces", json!({ "name": "acme" })).await;
        made.json()["id"].as_str().unwrap().parse::<WorkspaceId>().unwrap()
    })
    .await;
    let definition = workflows::custody_of_keys::import(&stage.standing.house.keys).unwrap();
    let story = Import { workspace, key: KeyPair::generate().unwrap() };
    proven(stage, story, &definition).await;
}

/// Votes of two others on what waits in the newest request of a workspace.
pub(crate) async fn votes(stage: &Stage, workspace: &WorkspaceId) -> Vec<Heard> {
    let within = stage.standing.operator().with("chancery-workspace", workspace.as_str());
    let opened = within.get("/v1/audit/entries?action=approval.open&newest_first=true&limit=1").await.json();
    let Some(digest) = opened["entries"][0]["detail"]["after"]["digest"].as_str() else { return Vec::new() };
    let payload = json!({ "digest": digest, "policy_version": 0 });
    // Each voter is another operator, and none of them the one who asked.
    let vote =
        || Heard { name: "approve", dedupe: fresh("operator:1").replace('-', "0"), payload: payload.clone() };
    vec![vote(), vote()]
}

async fn shown(stage: &Stage, workspace: &WorkspaceId, key: &str) -> Json {
    let within = stage.standing.operator().with("chancery-workspace", workspace.as_str());
    within.get(&format!("/v1/keys/{key}")).await.json()
}

/// The version of a key that signs, and its fingerprint.
pub(crate) async fn latest(stage: &Stage, workspace: &WorkspaceId, key: &str) -> (i64, String) {
    let key = shown(stage, workspace, key).await;
    let latest = key["latest_version"].as_i64().unwrap();
    let versions = key["versions"].as_array().unwrap();
    let version = versions.iter().find(|it| it["version"] == latest).unwrap();
    (latest, version["fingerprint"].as_str().unwrap().to_owned())
}

fn files(stage: &Stage) -> usize {
    std::fs::read_dir(stage.standing.directory.path().join("backups")).map_or(0, Iterator::count)
}

/// A workspace with a recoverable key.
pub(crate) async fn recoverable(standing: &Standing) -> (WorkspaceId, SigningKeyId) {
    let operator = standing.operator();
    let made = operator.post("/v1/workspaces", json!({ "name": "acme" })).await.json();
    let within = operator.with("chancery-workspace", "acme");
    let key =
        within.post("/v1/keys", json!({ "name": "root", "kind": "p256", "recoverable": true })).await.json();
    (made["id"].as_str().unwrap().parse().unwrap(), key["id"].as_str().unwrap().parse().unwrap())
}

struct Backing {
    workspace: WorkspaceId,
    key: SigningKeyId,
    files: Mutex<HashMap<u64, usize>>,
}

impl Story for Backing {
    fn request(&self, stage: &Stage, _: u64) -> StartRequest {
        let (version, fingerprint) = now(latest(stage, &self.workspace, "root"));
        let (workspace, key) = (self.workspace.clone(), self.key.clone());
        let plan = BackupPlan { workspace, key, version, fingerprint };
        StartRequest::new("key.backup", Scope::Workspace(self.workspace.on_ledger().clone()), &plan).unwrap()
    }

    fn answer(&self, stage: &Stage, _: &str, _: u64) -> Vec<Heard> {
        now(votes(stage, &self.workspace))
    }

    fn seen<'a>(&'a self, stage: &'a Stage, round: u64) -> Seen<'a> {
        Box::pin(async move {
            let there = files(stage);
            let before = *self.files.lock().unwrap().entry(round).or_insert(there);
            json!({ "files": there - before, "key": shown(stage, &self.workspace, "root").await })
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn backing_a_key_up_holds_in_every_cell() {
    let (stage, (workspace, key)) = Stage::set(recoverable).await;
    let definition = workflows::custody_of_keys::backup(&stage.standing.house.keys).unwrap();
    proven(stage, Backing { workspace, key, files: Mutex::default() }, &definition).await;
}

struct Restoring {
    workspace: WorkspaceId,
    key: SigningKeyId,
    backup: String,
    latest: Mutex<HashMap<u64, i64>>,
}

impl Story for Restoring {
    fn request(&self, stage: &Stage, _: u64) -> StartRequest {
        let (workspace, key, backup) = (self.workspace.clone(), self.key.clone(), self.backup.clone());
        let scope = Scope::Workspace(workspace.on_ledger().clone());
        let (latest, fingerprint) = now(latest(stage, &workspace, "root"));
        let (version, latest_fingerprint) = (1, fingerprint.clone());
        let plan = RestorePlan { workspace, key, backup, version, fingerprint, latest, latest_fingerprint };
        StartRequest::new("key.restore", scope, &plan).unwrap()
    }

    fn answer(&self, stage: &Stage, _: &str, _: u64) -> Vec<Heard> {
        now(votes(stage, &self.workspace))
    }

    fn seen<'a>(&'a self, stage: &'a Stage, round: u64) -> Seen<'a> {
        Box::pin(async move {
            let key = shown(stage, &self.workspace, "root").await;
            let latest = key["latest_version"].as_i64().unwrap();
            let before = *self.latest.lock().unwrap().entry(round).or_insert(latest);
            let versions = i64::try_from(key["versions"].as_array().unwrap().len()).unwrap();
            let newest = &key["versions"].as_array().unwrap().last().unwrap()["fingerprint"];
            json!({ "more": latest - before, "versions": versions - before, "newest": newest, "state": key["state"] })
        })
    }
}

/// Asks for a workflow of a key and has two others agree.
pub(crate) async fn agreed(standing: &Standing, workflow: &str, form: Json) -> Json {
    let scopes = ["workflows:manage", "workflows:read", "keys:manage", "keys:read", "approve"];
    let asker = standing.program("acme", &scopes).await.asker;
    let others = [standing.program("acme", &scopes).await, standing.program("acme", &scopes).await];
    let started = asker.post(&format!("/v1/workflows/{workflow}"), form).await;
    assert_eq!(started.status, 202, "{started:?}");
    let path = started.header("location").to_owned();
    let mut run = asker.get(&path).await.json();
    while run["approval"]["digest"].is_null() {
        run = asker.get(&path).await.json();
    }
    let ballot = json!({ "verdict": "approve", "digest": run["approval"]["digest"], "policy_version": 0 });
    let own = asker.post(&format!("{path}/approvals"), ballot.clone()).await;
    assert_eq!(own.code(), "own_request", "{own:?}");
    for other in &others {
        let voted = other.asker.post(&format!("{path}/approvals"), ballot.clone()).await;
        assert_eq!(voted.status, 200, "{voted:?}");
    }
    ended(&asker, path.rsplit('/').next().unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn restoring_a_key_holds_in_every_cell() {
    let (stage, (workspace, key, backup)) = Stage::set(async |standing| {
        let (workspace, key) = recoverable(standing).await;
        let run = agreed(standing, "key.backup", json!({ "key": "root" })).await;
        assert_eq!(run["state"], "succeeded", "{run}");
        (workspace, key, run["id"].as_str().unwrap().to_owned())
    })
    .await;
    let definition = workflows::custody_of_keys::restore(&stage.standing.house.keys).unwrap();
    proven(stage, Restoring { workspace, key, backup, latest: Mutex::default() }, &definition).await;
}

#[tokio::test]
async fn only_a_recoverable_key_is_backed_up_and_its_copy_comes_back_as_the_same_key() {
    let standing = house().await;
    let _ = recoverable(&standing).await;
    let run = agreed(&standing, "key.backup", json!({ "key": "root" })).await;
    assert_eq!(run["state"], "succeeded", "{run}");
    let restored = agreed(&standing, "key.restore", json!({ "backup": run["id"] })).await;
    assert_eq!(restored["state"], "succeeded", "{restored}");
    let within = standing.operator().with("chancery-workspace", "acme");
    let key = within.get("/v1/keys/root").await.json();
    assert_eq!(
        (&key["latest_version"], &key["versions"][1]["provenance"]["origin"]),
        (&json!(2), &json!("restored"))
    );
    assert_eq!(key["versions"][0]["fingerprint"], key["versions"][1]["fingerprint"]);
    within.post("/v1/keys", json!({ "name": "stays", "kind": "p256" })).await;
    let refused = within.post("/v1/workflows/key.backup", json!({ "key": "stays" })).await;
    assert_eq!((refused.status, refused.code().as_str()), (409, "not_recoverable"), "{refused:?}");
}

#[tokio::test]
async fn a_backup_that_was_changed_on_disk_is_not_restored() {
    let standing = house().await;
    let _ = recoverable(&standing).await;
    let run = agreed(&standing, "key.backup", json!({ "key": "root" })).await;
    let held = standing.double.keys_held();
    for file in std::fs::read_dir(standing.directory.path().join("backups")).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.push(b' ');
        std::fs::write(&path, bytes).unwrap();
    }
    let restored = agreed(&standing, "key.restore", json!({ "backup": run["id"] })).await;
    assert_eq!(
        (&restored["state"], standing.double.keys_held()),
        (&json!("compensated"), held),
        "{restored}"
    );
}

#[tokio::test]
async fn the_backups_of_a_destroyed_key_go_with_the_keys_they_are_wrapped_under() {
    let standing = house().await;
    let (workspace, key) = recoverable(&standing).await;
    let held = standing.double.ceremony_keys_held();
    let run = agreed(&standing, "key.backup", json!({ "key": "root" })).await;
    assert_eq!(
        (&run["state"], standing.double.ceremony_keys_held()),
        (&json!("succeeded"), held + 1),
        "{run}"
    );
    let backups = standing.directory.path().join("backups");
    assert_eq!(std::fs::read_dir(&backups).unwrap().count(), 1);
    for twice in [1, 2] {
        let keys = standing.house.keys.clone();
        assert_eq!(keys.delete_backups(workspace.clone(), key.clone()).await, Ok(1), "the {twice}. time");
        assert_eq!(std::fs::read_dir(&backups).unwrap().count(), 0);
        assert_eq!(standing.double.ceremony_keys_held(), held);
    }
}

/// An import that waits for its blob: the workflow's id, and for what the key has to be wrapped.
async fn begun(program: &Program, key: &KeyPair) -> (String, String) {
    let form = json!({ "name": "brought", "kind": "p256", "public_key": key.public_key_pem() });
    let started = program.asker.post("/v1/workflows/key.import", form).await;
    assert_eq!(started.status, 202, "{started:?}");
    let id = started.header("location").rsplit('/').next().unwrap().to_owned();
    (id, wrapping(&program.asker).await)
}

async fn wrapping(asker: &Asker) -> String {
    for _ in 0..100_000 {
        if let Some(pem) = asker.get("/v1/keys/brought").await.json()["incoming"]["pem"].as_str() {
            return pem.to_owned();
        }
    }
    panic!("no wrapping key is shown");
}

pub(crate) async fn ended(asker: &Asker, id: &str) -> Json {
    for _ in 0..100_000 {
        let run = asker.get(&format!("/v1/workflows/{id}")).await.json();
        if ["succeeded", "compensated"].contains(&run["state"].as_str().unwrap_or_default()) {
            return run;
        }
    }
    panic!("it does not end: {:?}", asker.get(&format!("/v1/workflows/{id}")).await);
}

const SCOPES: [&str; 5] = ["keys:manage", "keys:read", "sign", "workflows:manage", "workflows:read"];

#[tokio::test]
async fn an_imported_key_signs_and_says_where_it_comes_from() {
    let standing = house().await;
    let program = standing.program("acme", &SCOPES).await;
    let held = standing.double.ceremony_keys_held();
    let key = KeyPair::generate().unwrap();
    let (id, pem) = begun(&program, &key).await;
    let path = format!("/v1/workflows/{id}/blob");
    let rubbish = program.asker.post(&path, json!({ "wrapped": "?" })).await;
    assert_eq!(rubbish.status, 422, "{rubbish:?}");
    let brought = program.asker.post(&path, json!({ "wrapped": wrapped(&pem, &key) })).await;
    assert_eq!(brought.status, 202, "{brought:?}");
    assert_eq!(ended(&program.asker, &id).await["state"], "succeeded");
    let shown = program.asker.get("/v1/keys/brought").await.json();
    assert_eq!(
        (&shown["state"], &shown["versions"][0]["provenance"]["origin"]),
        (&json!("enabled"), &json!("imported"))
    );
    assert_eq!(standing.double.ceremony_keys_held(), held, "the wrapping key is still there");
    let order = json!({ "scheme": "ecdsa-sha256", "message": STANDARD.encode("hello") });
    assert_eq!(program.asker.post("/v1/keys/brought/sign", order).await.status, 200);
}

#[tokio::test]
async fn a_key_that_is_not_the_announced_one_leaves_nothing_behind() {
    let standing = house().await;
    let program = standing.program("acme", &SCOPES).await;
    let held = (standing.double.keys_held(), standing.double.ceremony_keys_held());
    let (announced, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let (id, pem) = begun(&program, &announced).await;
    program
        .asker
        .post(&format!("/v1/workflows/{id}/blob"), json!({ "wrapped": wrapped(&pem, &other) }))
        .await;
    assert_eq!(ended(&program.asker, &id).await["state"], "compensated");
    assert_eq!(program.asker.get("/v1/keys/brought").await.status, 404);
    assert_eq!((standing.double.keys_held(), standing.double.ceremony_keys_held()), held);
}

#[tokio::test]
async fn an_older_version_comes_back_only_if_that_is_said_and_shown_to_those_who_agree() {
    let standing = house().await;
    let _ = recoverable(&standing).await;
    let backup = agreed(&standing, "key.backup", json!({ "key": "root" })).await;
    let within = standing.operator().with("chancery-workspace", "acme");
    assert_eq!(within.post_nothing("/v1/keys/root/rotate").await.status, 201);
    let key = within.get("/v1/keys/root").await.json();
    let fingerprints: Vec<_> =
        key["versions"].as_array().unwrap().iter().map(|it| &it["fingerprint"]).collect();
    let form = json!({ "backup": backup["id"] });
    let refused = within.post("/v1/workflows/key.restore", form).await;
    assert_eq!((refused.status, refused.code().as_str()), (409, "wrong_state"), "{refused:?}");
    assert_eq!(refused.json()["pointer"], "/older_version", "{refused:?}");
    let said =
        agreed(&standing, "key.restore", json!({ "backup": backup["id"], "older_version": true })).await;
    assert_eq!(said["state"], "succeeded", "{said}");
    let request = &said["approval"]["request"];
    assert_eq!(
        (&request["is_older"], &request["fingerprint"], &request["key"]["fingerprint"]),
        (&json!(true), fingerprints[0], fingerprints[1]),
        "{said}"
    );
    let consequence = said["approval"]["consequence"].as_str().unwrap();
    assert!(
        consequence.contains("OLDER version 1") && consequence.contains("version 2 is taken out"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_agreed_to_for_one_version_is_not_done_for_another() {
    let (stage, (workspace, key)) = Stage::set(recoverable).await;
    let (version, fingerprint) = latest(&stage, &workspace, "root").await;
    let catalog = stage.standing.house.workflows.clone();
    let engine = Engine::start(EngineParts { catalog, ..stage.parts() }).await.unwrap();
    let scope = Scope::Workspace(workspace.on_ledger().clone());
    let operator = || Origin { actor: "operator:0".to_owned(), ..Origin::default() };
    // Asked for when another version signed.
    let plan = BackupPlan { workspace: workspace.clone(), key, version, fingerprint: "00".repeat(32) };
    for plan in [BackupPlan { version: 2, fingerprint: fingerprint.clone(), ..plan.clone() }, plan] {
        let wish = StartRequest::new("key.backup", scope.clone(), &plan).unwrap().origin(operator());
        let run = engine.launch(wish).await.unwrap().key;
        let end = engine.wait(&run, Duration::from_secs(30)).await.unwrap().expect("an end");
        assert_eq!((end.state, end.code.as_deref()), (State::Compensated, Some("wrong_state")), "{end:?}");
    }
    assert_eq!(files(&stage), 0);
    engine.close().await;
}
