//! Every sample workflow is taken through every cell: each step failing in each way, each undo, each commit to die after.
//! Who enters: the samples of `common`.
//! What leaves: proofs; a cell that fails says which, at which round, and how the world differs.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

mod common;

use common::{Sample, fan, fan_pivot, mixed, parent, plain_local, remote_pivot};
use sagas::Definition;
use sagas::testing::{Proof, expected_cells, prove};

async fn proven(sample: &Sample, definition: &Definition) -> Proof {
    match prove(sample, definition).await {
        Ok(proof) => {
            assert_eq!(proof.coverage.count(), expected_cells(definition).len());
            proof
        }
        Err(why) => panic!("{why}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_of_local_steps_holds_in_every_cell() {
    let sample = Sample::new("sample.plain");
    let proof = proven(&sample, &plain_local("sample.plain")).await;
    assert_eq!(proof.commits, 1, "local steps alone take one commit");
    assert_eq!(proof.told, ["thing.put", "thing.put", "thing.put"], "each round was held against this");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_of_all_kinds_holds_in_every_cell() {
    let sample = Sample::new("sample.mixed");
    let proof = proven(&sample, &mixed(&sample.outside)).await;
    assert!(proof.commits >= 4);
    assert_eq!(proof.told, ["thing.put"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_whose_pivot_is_outside_holds_in_every_cell() {
    let sample = Sample::new("sample.remote_pivot");
    proven(&sample, &remote_pivot(&sample.outside)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_that_fans_out_holds_in_every_cell() {
    let sample = Sample::new("sample.fan");
    let proof = proven(&sample, &fan(&sample.outside)).await;
    assert!(proof.commits > 20, "each item has an order and an outcome");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_whose_pivot_fans_out_holds_in_every_cell() {
    let sample = Sample::new("sample.fan_pivot");
    proven(&sample, &fan_pivot(&sample.outside)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_with_a_child_holds_in_every_cell() {
    let mut sample = Sample::new("sample.parent");
    sample.others.push(|| plain_local("sample.child"));
    proven(&sample, &parent()).await;
}
