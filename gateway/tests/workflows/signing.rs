//! Signing by request: proven step by step, and promised over the API: who agrees, to what exactly, under which policy.
//! Who enters: definitions over a world that dies and comes back; members of a workspace with keys of their own.
//! What leaves: proofs; answers, entries and signatures, compared.

use sagas::testing::{Proof, expected_cells, prove};

use crate::sign_world::{Proven, SignWorld};

async fn proven(what: Proven) -> (SignWorld, Proof) {
    let world = SignWorld::new(what).await;
    let definition = world.definition();
    match prove(&world, &definition).await {
        Ok(proof) => {
            assert_eq!(proof.coverage.count(), expected_cells(&definition).len());
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
