//! The operators' socket: the kernel's word on who calls, against the list of user ids.

use promises::plan::Hardware;
use promises::{Plan, get};

#[tokio::test]
async fn a_user_id_that_is_no_operators_is_not_answered() {
    let mut house = Plan::with(Hardware::Token).set("operators.uids", vec![12345_i64]).init();
    house.serve().await;
    let why = house.operator().try_ask(get("/v1/status")).await.err();
    assert!(why.is_some(), "somebody else's user id was answered");
    assert!(house.log().contains("not an operator; connection closed"), "{}", house.log());
}
