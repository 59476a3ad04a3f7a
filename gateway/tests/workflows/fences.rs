//! Another version takes over, new or restored: whoever still holds the old one writes too late.
//! Who enters: signatures and requests that looked at a key before its copy came back.
//! What leaves: refusals; signatures of the copy; old signatures that verify for ever.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gateway::ids::{SigningKeyId, WorkspaceId};
use gateway::services::ground::Telling;
use gateway::services::keys::{self, KeysRefused};
use serde_json::{Value as Json, json};

use crate::common::house::house;
use crate::keys_in_and_out::{agreed, ended, recoverable};

#[tokio::test]
async fn whoever_held_the_old_copy_writes_too_late_once_a_restored_one_has_taken_over() {
    let standing = house().await;
    let (workspace, id): (WorkspaceId, SigningKeyId) = recoverable(&standing).await;
    let signer = standing.program("acme", &["sign", "verify", "keys:read"]).await.asker;
    let order = json!({ "scheme": "ecdsa-sha256", "message": STANDARD.encode("hello") });
    let early = signer.post("/v1/keys/root/sign", order.clone()).await;
    assert_eq!((early.status, &early.json()["version"]), (200, &json!(1)), "{early:?}");
    let backup = agreed(&standing, "key.backup", json!({ "key": "root" })).await;
    let within = standing.operator().with("chancery-workspace", "acme");
    // Paused here: the card says version 1, under the fence of that moment.
    let card = standing.house.keys.card(&workspace, "root").await.unwrap();
    let restored = agreed(&standing, "key.restore", json!({ "backup": backup["id"] })).await;
    assert_eq!(restored["state"], "succeeded", "{restored}");
    let write = |fence: i64| {
        let (workspace, id, ground) = (workspace.clone(), id.clone(), standing.house.ground.clone());
        async move {
            let counted = ground.write::<_, KeysRefused>(Telling::own(None), move |tx, _| {
                let used = keys::count_uses(tx, &workspace, &id, 1, fence)?;
                Ok(audit::Told::new(used, audit::Entry::new("test.used").workspace(workspace.on_ledger())))
            });
            counted.await.map(|recorded| *recorded.value())
        }
    };
    let late = write(card.row.fence).await;
    assert!(matches!(late, Err(KeysRefused::Fenced)), "{late:?}");
    assert_eq!(write(card.row.fence + 1).await.unwrap(), 2, "a late write was counted");
    let key = within.get("/v1/keys/root").await.json();
    assert_eq!(
        (&key["versions"][0]["replaced"], &key["versions"][1]["replaced"]),
        (&json!(true), &Json::Null)
    );
    let mut old = order.clone();
    old["version"] = json!(1);
    let refused = signer.post("/v1/keys/root/sign", old).await;
    assert_eq!((refused.status, refused.code().as_str()), (409, "key_unusable"), "{refused:?}");
    let now = signer.post("/v1/keys/root/sign", order.clone()).await;
    assert_eq!((now.status, &now.json()["version"]), (200, &json!(2)), "{now:?}");
    for version in [1, 2] {
        let mut check = order.clone();
        check["version"] = json!(version);
        check["signature"] = early.json()["signature"].clone();
        let verified = signer.post("/v1/keys/root/verify", check).await;
        assert_eq!(verified.json()["valid"], json!(true), "the old copy verifies for ever: {verified:?}");
    }
}

#[tokio::test]
async fn once_a_rotation_has_taken_over_no_older_version_signs_and_whoever_held_it_writes_too_late() {
    let standing = house().await;
    let signer = standing.program("acme", &["sign", "verify", "keys:manage", "keys:read"]).await;
    let workspace: WorkspaceId = signer.workspace.parse().unwrap();
    let made = signer.asker.post("/v1/keys", json!({ "name": "release", "kind": "p256" })).await;
    assert_eq!(made.status, 201, "{made:?}");
    let order = json!({ "scheme": "ecdsa-sha256", "message": STANDARD.encode("hello"), "version": 1 });
    assert_eq!(signer.asker.post("/v1/keys/release/sign", order.clone()).await.status, 200);
    let paused = standing.house.keys.card(&workspace, "release").await.unwrap();
    let rotated = signer.asker.post_nothing("/v1/keys/release/rotate").await;
    assert_eq!(rotated.status, 201, "{rotated:?}");
    let refused = signer.asker.post("/v1/keys/release/sign", order).await;
    assert_eq!((refused.status, refused.code().as_str()), (409, "key_unusable"), "{refused:?}");
    let (id, ground) = (paused.row.id.clone(), &standing.house.ground);
    let late = ground.write::<(), KeysRefused>(Telling::own(None), move |tx, _| {
        keys::count_uses(tx, &workspace, &id, 1, paused.row.fence)?;
        panic!("a use under the fence before the rotation was counted");
    });
    assert!(matches!(late.await, Err(KeysRefused::Fenced)));
    let now = json!({ "scheme": "ecdsa-sha256", "message": STANDARD.encode("hello") });
    let signed = signer.asker.post("/v1/keys/release/sign", now).await;
    assert_eq!((signed.status, &signed.json()["version"]), (200, &json!(2)), "{signed:?}");
}

#[tokio::test]
async fn a_request_that_waited_while_a_copy_took_over_is_not_signed_with_the_old_one() {
    let standing = house().await;
    let _ = recoverable(&standing).await;
    let scopes = ["sign", "keys:manage", "keys:read", "workflows:manage", "workflows:read", "approve"];
    let (asker, other) =
        (standing.program("acme", &scopes).await.asker, standing.program("acme", &scopes).await);
    let policy = json!({ "approvals": 1, "direct": false });
    let new = json!({ "name": "guarded", "kind": "p256", "recoverable": true, "policy": policy });
    let made = asker.post("/v1/keys", new).await;
    assert_eq!(made.status, 201, "{made:?}");
    let backup = agreed(&standing, "key.backup", json!({ "key": "guarded" })).await;
    let form = json!({ "key": "guarded", "scheme": "ecdsa-sha256", "message": STANDARD.encode("hello"), "intent": "release", "nonce": "n1" });
    let asked = asker.post("/v1/workflows/signing.request", form).await;
    assert_eq!(asked.status, 202, "{asked:?}");
    let path = asked.header("location").to_owned();
    let restored = agreed(&standing, "key.restore", json!({ "backup": backup["id"] })).await;
    assert_eq!(restored["state"], "succeeded", "{restored}");
    let run = asker.get(&path).await.json();
    let ballot = json!({ "verdict": "approve", "digest": run["approval"]["digest"], "policy_version": run["approval"]["policy_version"] });
    assert_eq!(other.asker.post(&format!("{path}/approvals"), ballot).await.status, 200);
    let ended = ended(&asker, path.rsplit('/').next().unwrap()).await;
    assert_eq!(ended["state"], "compensated", "{ended}");
    assert!(ended["error"].as_str().unwrap().contains("has taken over"), "{ended}");
}
