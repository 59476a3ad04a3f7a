//! The ledger's disk runs full, and has room again.
//! Who enters: a load with a journal, on a disk of a few megabytes.
//! What leaves: nothing signed without a durable entry, clear refusals while it is full, service again without help.

use promises::people::sign_p256;
use promises::{GIVEN_UP, Hardware, Load, Plan, eventually, evidence, get};

const DISK_BYTES: u64 = 16 << 20;

#[tokio::test]
async fn a_full_disk_stops_signing_before_an_entry_is_lost_and_recovers_by_itself() {
    let mut house = Plan::with(Hardware::Token).small_disk("state", DISK_BYTES).start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let pid = house.daemon().pid();
    let load = Load { connections: 4, ..Load::of(&member, &house.door(), &key) }.start();
    for _ in 0..3 {
        let before = load.signed();
        let working = || async { (load.signed() > before + 20).then_some(()) };
        eventually("the load works", GIVEN_UP, working).await;
        house.disk.as_ref().unwrap().fill();
        let refuses = || async {
            let answer = member.ask(sign_p256(&key, b"no room")).await;
            (answer.status != 200).then_some(answer)
        };
        let (refused, _) = eventually("signing stops", GIVEN_UP, refuses).await;
        assert!(refused.refused(503, "ledger_frozen").header("retry-after").is_some());
        member.ask(get("/v1/keys")).await.expect(200);
        house.disk.as_ref().unwrap().free();
        let signs =
            || async { (member.ask(sign_p256(&key, b"room again")).await.status == 200).then_some(()) };
        eventually("signing again", GIVEN_UP, signs).await;
    }
    let tally = load.stop().await;
    assert_eq!(house.daemon().pid(), pid);
    assert!(house.daemon().has_ended().is_none(), "the daemon ended");
    assert_eq!(tally.refused.keys().collect::<Vec<_>>(), ["ledger_frozen"]);
    let entries = house.operator().entries(&format!("action=key.sign&object={key}")).await;
    for one in &tally.signed {
        assert!(
            entries
                .iter()
                .any(|entry| entry["seq"] == one.entry && entry["request_id"] == one.request.as_str())
        );
    }
    evidence::verifies(&mut house).await;
}
