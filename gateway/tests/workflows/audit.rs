//! Exports: built, sealed and kept wholly or not at all.
//! Who enters: operators.
//! What leaves: a directory of read-only files that verifies, or no directory.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use gateway::services::audit::bundles::{Bundle, ExportPlan};
use gateway::workflows;
use sagas::{RemoteFault, Scope, StartRequest};
use serde_json::json;

use crate::common::house::house;
use crate::world::{Seen, Stage, Story, proven};

/// The key of the age specification's example: nobody has to open what a proof makes.
const RECIPIENT: &str = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj";

/// What is exported, and how many bundles were kept and half made when a round was first looked at.
struct Exports(ExportPlan, std::sync::Mutex<std::collections::HashMap<u64, (usize, usize)>>);

impl Story for Exports {
    fn request(&self, _: &Stage, _: u64) -> StartRequest {
        StartRequest::new("audit.seal_export", Scope::Appliance, &self.0).unwrap()
    }

    fn seen<'a>(&'a self, stage: &'a Stage, round: u64) -> Seen<'a> {
        Box::pin(async move {
            let exports = stage.standing.directory.path().join("exports");
            let names: Vec<_> =
                fs::read_dir(exports).into_iter().flatten().map(|it| it.unwrap().file_name()).collect();
            let (half, whole): (Vec<_>, Vec<_>) =
                names.iter().partition(|name| name.to_string_lossy().starts_with('.'));
            let before = *self.1.lock().unwrap().entry(round).or_insert((whole.len(), half.len()));
            json!({ "kept": whole.len() - before.0, "half": half.len() - before.1 })
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_holds_in_every_cell() {
    let (stage, ()) = Stage::set(async |_| ()).await;
    let definition = workflows::audit::seal_export(&stage.standing.house.audit).unwrap();
    proven(stage, Exports(ExportPlan::default(), std::sync::Mutex::default()), &definition).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_excerpt_holds_in_every_cell() {
    let (stage, workspace) = Stage::set(async |standing| {
        let made = standing.operator().post("/v1/workspaces", json!({ "name": "acme" })).await.json();
        made["id"].as_str().unwrap().parse().unwrap()
    })
    .await;
    let definition = workflows::audit::seal_export(&stage.standing.house.audit).unwrap();
    let (from, recipient) = (Some(1), Some(RECIPIENT.parse().unwrap()));
    let plan = ExportPlan { workspace: Some(workspace), from, to: None, recipient };
    proven(stage, Exports(plan, std::sync::Mutex::default()), &definition).await;
}

#[tokio::test]
async fn what_cannot_be_exported_is_said_before_anything_is_written() {
    let standing = house().await;
    let operator = standing.operator();
    for (query, status, code, words) in [
        ("recipient=age1nobody", 400, "bad_request", "not a public key of age"),
        ("recipient=ssh-ed25519", 400, "bad_request", "not a public key of age"),
        ("from=5&to=4", 400, "bad_request", "ends before it begins"),
        ("from=-1", 400, "bad_request", "invalid digit"),
        ("workspace=nobody", 404, "not_found", "no such workspace"),
        ("to=4000000", 422, "invalid", "there is no entry 4000000"),
        ("from=4000000", 422, "invalid", "there is no entry 4000000"),
        ("whom=me", 400, "bad_request", "`whom` is unknown"),
    ] {
        let refused = operator.ask("POST", &format!("/v1/audit/export?{query}"), None).await;
        assert_eq!((refused.status, refused.code().as_str()), (status, code), "{query}: {refused:?}");
        assert!(String::from_utf8_lossy(&refused.body).contains(words), "{query}: {refused:?}");
    }
    let exports = standing.directory.path().join("exports");
    assert_eq!(fs::read_dir(exports).into_iter().flatten().count(), 0);
}

#[tokio::test]
async fn a_bundle_that_was_changed_after_its_digest_was_told_is_not_kept_and_a_kept_one_is_never_replaced() {
    let standing = house().await;
    let made = standing.operator().ask("POST", "/v1/audit/export", None).await.json();
    let kept = PathBuf::from(made["directory"].as_str().unwrap());
    let name = kept.file_name().unwrap().to_str().unwrap().strip_prefix("export-").unwrap().to_owned();
    let number = |field: &str| made[field].as_u64().unwrap();
    let digest = made["sha256"].as_str().unwrap().to_owned();
    let bundle = Bundle { name, entries: number("entries"), size: number("size"), digest };
    let making = kept.with_file_name(format!(".making-{}", bundle.name));
    // As it was a moment before it was kept.
    fs::rename(&kept, &making).unwrap();
    fs::set_permissions(making.join("checkpoint"), Permissions::from_mode(0o600)).unwrap();
    let audit = standing.house.audit.clone();
    let honest = fs::read(making.join("checkpoint")).unwrap();
    fs::write(making.join("checkpoint"), b"another").unwrap();
    let refused = audit.clone().keep(bundle.clone()).await;
    assert!(matches!(refused, Err(RemoteFault::Business(_))), "{refused:?}");
    fs::write(making.join("checkpoint"), &honest).unwrap();
    let stored = audit.clone().keep(bundle.clone()).await.unwrap();
    fs::create_dir(&making).unwrap();
    fs::write(making.join("checkpoint"), b"another").unwrap();
    assert_eq!(audit.keep(bundle).await.unwrap(), stored);
    assert_eq!(fs::read(stored.directory.join("checkpoint")).unwrap(), honest);
    assert!(!making.exists(), "the late one is still there");
}

#[tokio::test]
async fn an_export_is_read_only_told_and_covered_by_a_checkpoint() {
    let standing = house().await;
    let operator = standing.operator();
    let made = operator.ask("POST", "/v1/audit/export", None).await;
    assert_eq!(made.status, 201, "{made:?}");
    let directory = PathBuf::from(made.json()["directory"].as_str().unwrap());
    let mode = |path: &str| fs::metadata(directory.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("checkpoint"), mode("")), (0o400, 0o700));
    let told = operator.get("/v1/audit/everything?action=audit.export.built").await.json();
    let entry = &told["entries"][0];
    assert_eq!(entry["detail"]["after"]["sha256"], made.json()["sha256"], "{told}");
    let newest = operator.get("/v1/audit/checkpoint").await.json();
    assert!(
        newest["size"].as_u64().unwrap() > entry["seq"].as_u64().unwrap(),
        "the digest is under a checkpoint"
    );
}
