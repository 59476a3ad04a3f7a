//! Stories of keys: made, rotated, brought in, backed up, restored, destroyed.
//! Who enters: the owner of a workspace, and two others who may approve.
//! What leaves: a key more or less, a version more, a backup more; or none of it, and never half of one.

use promises::{Hardware, Outside, post};
use serde_json::json;

use crate::stage::Stage;
use crate::story::{Story, Turn};
use crate::trouble::{Defect, Lack, Late};

const AN_HOUR: u64 = 3600;
const GENERATED_LATE: Late = Late { at: "keys.hsm_generate", after: AN_HOUR };

/// A stage with one key that may be backed up.
async fn with_a_key(story: &'static str, hardware: Hardware) -> Option<(Stage, String)> {
    with_a_key_of("p256", story, hardware).await
}

async fn with_a_key_of(kind: &str, story: &'static str, hardware: Hardware) -> Option<(Stage, String)> {
    let stage = Stage::set(story, hardware).await?;
    let form = json!({ "name": "release", "kind": kind, "recoverable": hardware == Hardware::Token });
    let key = stage.owner.ask(post("/v1/keys", form)).await.expect(201).json();
    Some((stage, key["id"].as_str().expect("an id").to_owned()))
}

/// The same with a backup of the key.
async fn with_a_backup(story: &'static str) -> Option<(Stage, String, String)> {
    let (mut stage, key) = with_a_key(story, Hardware::Token).await?;
    let backup = backup(&key).told(&mut stage).await;
    Some((stage, key, backup))
}

fn backup(key: &str) -> Story {
    Story::of("key.backup", json!({ "key": key }))
}

fn restore(backup: &str) -> Story {
    Story::of("key.restore", json!({ "backup": backup }))
}

fn making() -> Story {
    making_of("release")
}

fn making_of(name: &str) -> Story {
    Story::of("key.generate", json!({ "name": name, "kind": "p256" }))
}

fn rotation(key: &str) -> Story {
    Story::of("key.rotate", json!({ "key": key, "overlap_seconds": AN_HOUR }))
}

fn destruction(key: &str) -> Story {
    Story::of("key.destroy", json!({ "key": key, "days": 1, "reason": "old" }))
}

fn import(announced: &Outside) -> Story {
    Story::of(
        "key.import",
        json!({ "name": "brought", "kind": "p256", "public_key": announced.public_key() }),
    )
}

#[tokio::test]
async fn a_key_in_the_making_is_made_once_whatever_commit_the_power_goes_after() {
    let Some(stage) = Stage::set("key.generate", Hardware::Token).await else { return };
    making().holds_after_every_commit(stage).await;
}

#[tokio::test]
async fn a_key_in_the_making_over_a_tpm_is_made_once_whatever_commit_the_power_goes_after() {
    let Some(stage) = Stage::set("key.generate over a TPM", Hardware::Tpm).await else { return };
    making().holds_after_every_commit(stage).await;
}

#[tokio::test]
async fn a_key_in_the_making_that_is_too_late_leaves_nothing_whatever_commit_the_power_goes_after() {
    let Some(mut stage) = Stage::set("key.generate too late", Hardware::Token).await else { return };
    making_of("another").told(&mut stage).await;
    making().turning(Turn::TooLate(GENERATED_LATE)).holds_after_every_commit(stage).await;
}

#[tokio::test]
async fn a_key_in_the_making_over_a_tpm_that_is_too_late_leaves_nothing_whatever_commit_the_power_goes_after()
{
    let Some(mut stage) = Stage::set("key.generate over a TPM too late", Hardware::Tpm).await else { return };
    making_of("another").told(&mut stage).await;
    making().turning(Turn::TooLate(GENERATED_LATE)).holds_after_every_commit(stage).await;
}

#[tokio::test]
async fn a_key_in_the_making_that_an_operator_has_unwound_leaves_nothing_whatever_commit_the_power_goes_after()
 {
    let Some(stage) = Stage::set("key.generate unwound", Hardware::Token).await else { return };
    let stage = stage.spoilt(Defect::KeysStayUnmade);
    making().turning(Turn::Unwound).holds_after_every_commit(stage).await;
}

#[tokio::test]
async fn a_rotation_adds_one_version_whatever_commit_the_power_goes_after() {
    let Some((stage, key)) = with_a_key("key.rotate", Hardware::Token).await else { return };
    rotation(&key).holds_after_every_commit(stage).await;
}

#[tokio::test]
async fn a_rotation_over_a_tpm_adds_one_version_whatever_commit_the_power_goes_after() {
    let Some((stage, key)) = with_a_key("key.rotate over a TPM", Hardware::Tpm).await else { return };
    rotation(&key).holds_after_every_commit(stage).await;
}

#[tokio::test]
async fn a_rotation_called_off_adds_none_whatever_commit_the_power_goes_after() {
    let Some((stage, key)) = with_a_key("key.rotate called off", Hardware::Token).await else { return };
    rotation(&key).turning(Turn::CalledOff("keys.await_overlap")).holds_after_every_commit(stage).await;
}

#[tokio::test]
async fn a_rotation_over_a_tpm_called_off_adds_none_whatever_commit_the_power_goes_after() {
    let Some((stage, key)) = with_a_key("key.rotate over a TPM called off", Hardware::Tpm).await else {
        return;
    };
    rotation(&key).turning(Turn::CalledOff("keys.await_overlap")).holds_after_every_commit(stage).await;
}

#[tokio::test]
async fn a_key_that_comes_in_is_taken_once_whatever_commit_the_power_goes_after() {
    let Some(stage) = Stage::set("key.import", Hardware::Token).await else { return };
    let outside = Outside::make();
    import(&outside).bringing(outside).holds_after_every_commit(stage).await;
}

#[tokio::test]
async fn a_key_that_is_not_the_announced_one_leaves_nothing_whatever_commit_the_power_goes_after() {
    let Some(stage) = Stage::set("key.import refused", Hardware::Token).await else { return };
    let story = import(&Outside::make()).bringing(Outside::make()).turning(Turn::ByItself);
    story.holds_after_every_commit(stage).await;
}

#[tokio::test]
async fn an_import_called_off_leaves_nothing_whatever_commit_the_power_goes_after() {
    let Some(stage) = Stage::set("key.import called off", Hardware::Token).await else { return };
    let story = import(&Outside::make()).turning(Turn::CalledOff("keys.await_wrapped_blob"));
    story.holds_after_every_commit(stage).await;
}

#[tokio::test]
async fn a_backup_is_made_once_whatever_commit_the_power_goes_after() {
    let Some((stage, key)) = with_a_key("key.backup", Hardware::Token).await else { return };
    backup(&key).holds_after_every_commit(stage).await;
}

#[tokio::test]
async fn a_backup_refused_leaves_nothing_whatever_commit_the_power_goes_after() {
    let Some((stage, key)) = with_a_key("key.backup refused", Hardware::Token).await else { return };
    backup(&key).turning(Turn::Refused("signing.await_approvals")).holds_after_every_commit(stage).await;
}

#[tokio::test]
async fn a_backup_that_does_not_prove_itself_leaves_nothing_whatever_commit_the_power_goes_after() {
    let made = with_a_key_of("rsa-2048", "key.backup in vain", Hardware::Token).await;
    let Some((stage, key)) = made else { return };
    let stage = stage.lacking(Lack::RsaSignatures);
    backup(&key).turning(Turn::ByItself).holds_after_every_commit(stage).await;
}

#[tokio::test]
async fn a_restored_key_that_does_not_prove_itself_leaves_nothing_whatever_commit_the_power_goes_after() {
    let made = with_a_key_of("rsa-2048", "key.restore in vain", Hardware::Token).await;
    let Some((mut stage, key)) = made else { return };
    let backup = backup(&key).told(&mut stage).await;
    let stage = stage.lacking(Lack::RsaSignatures);
    restore(&backup).turning(Turn::ByItself).holds_after_every_commit(stage).await;
}

#[tokio::test]
async fn a_key_is_restored_once_whatever_commit_the_power_goes_after() {
    let Some((stage, _, backup)) = with_a_backup("key.restore").await else { return };
    restore(&backup).holds_after_every_commit(stage).await;
}

#[tokio::test]
async fn a_backup_that_was_tampered_with_restores_nothing_whatever_commit_the_power_goes_after() {
    let Some((stage, _, backup)) = with_a_backup("key.restore refused").await else { return };
    let files = std::fs::read_dir(stage.house.state().join("backups")).expect("backups").flatten();
    files.for_each(|file| std::fs::write(file.path(), "something else").expect("tamper with it"));
    restore(&backup).turning(Turn::ByItself).holds_after_every_commit(stage).await;
}

#[tokio::test]
async fn a_key_goes_with_its_backups_whatever_commit_the_power_goes_after() {
    let Some((stage, key, _)) = with_a_backup("key.destroy").await else { return };
    destruction(&key).holds_after_every_commit(stage).await;
}

#[tokio::test]
async fn a_destruction_called_off_leaves_the_key_whatever_commit_the_power_goes_after() {
    let Some((stage, key, _)) = with_a_backup("key.destroy called off").await else { return };
    destruction(&key).turning(Turn::CalledOff("keys.await_cooling")).holds_after_every_commit(stage).await;
}

#[tokio::test]
async fn a_destruction_refused_leaves_the_key_whatever_commit_the_power_goes_after() {
    let Some((stage, key, _)) = with_a_backup("key.destroy refused").await else { return };
    destruction(&key).turning(Turn::Refused("signing.await_approvals")).holds_after_every_commit(stage).await;
}
