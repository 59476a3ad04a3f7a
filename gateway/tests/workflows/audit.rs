//! Exports: built, sealed and kept wholly or not at all.
//! Who enters: operators.
//! What leaves: a directory of read-only files that verifies, or no directory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use gateway::services::audit::bundles::ExportPlan;
use gateway::workflows;
use sagas::{Scope, StartRequest};
use serde_json::json;

use crate::common::house::house;
use crate::world::{Seen, Stage, Story, proven};

/// How many bundles were kept and half made when a round was first looked at.
struct Exports(std::sync::Mutex<std::collections::HashMap<u64, (usize, usize)>>);

impl Story for Exports {
    fn request(&self, _: &Stage, _: u64) -> StartRequest {
        StartRequest::new("audit.seal_export", Scope::Appliance, &ExportPlan {}).unwrap()
    }

    fn seen<'a>(&'a self, stage: &'a Stage, round: u64) -> Seen<'a> {
        Box::pin(async move {
            let exports = stage.standing.directory.path().join("exports");
            let names: Vec<_> =
                fs::read_dir(exports).into_iter().flatten().map(|it| it.unwrap().file_name()).collect();
            let (half, whole): (Vec<_>, Vec<_>) =
                names.iter().partition(|name| name.to_string_lossy().starts_with('.'));
            let before = *self.0.lock().unwrap().entry(round).or_insert((whole.len(), half.len()));
            json!({ "kept": whole.len() - before.0, "half": half.len() - before.1 })
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_holds_in_every_cell() {
    let (stage, ()) = Stage::set(async |_| ()).await;
    let definition = workflows::audit::seal_export(&stage.standing.house.audit).unwrap();
    proven(stage, Exports(std::sync::Mutex::default()), &definition).await;
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
