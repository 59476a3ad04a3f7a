//! What the token's worker says, and whose turn it is at the token while something is undone.
//! Who enters: every operation that asks the token for something, refused in the device's own words; workspaces that undo much.
//! What leaves: answers and runs without those words; turns at the token for everybody else.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use gateway::ids::WorkspaceId;
use hsm::Refusal;
use hsm::double::DoubleFault;
use rcgen::KeyPair;
use sagas::testing::effect_of_nothing;
use sagas::{Never, RemoteFault};
use serde_json::{Value as Json, json};

use crate::common::house::{Answer, Asker, fresh, house};
use crate::inside::from_inside;
use crate::keys_in_and_out::ended;

const DIGEST: &str = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
/// As a device speaks.
const WORDS: &str = "(C_Sign gave DeviceError in /tmp/softhsm: os error 5)";

/// Every refusal that carries words of the worker.
fn refusals() -> Vec<Refusal> {
    let words = WORDS.to_owned();
    vec![
        Refusal::Failed(words.clone()),
        Refusal::Other(words.clone()),
        Refusal::BadInput(words.clone()),
        Refusal::LooseKey { attribute: words.clone() },
        Refusal::StateChanged { pcrs: words },
    ]
}

/// What is told of an operation that the token refused: the answer, or what the run says of it once it has been undone.
async fn told(by: &Asker, answer: Answer) -> String {
    assert!(answer.status >= 400 || answer.status == 202, "it was not refused: {answer:?}");
    match answer.header("location").rsplit_once('/') {
        Some((_, run)) => {
            let run = ended(by, run).await;
            let steps = run["steps"].as_array().unwrap().iter().map(|step| &step["error"]);
            steps.chain([&run["error"]]).map(Json::to_string).collect::<Vec<_>>().join("; ")
        }
        None => String::from_utf8(answer.body.to_vec()).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_token_says_is_told_to_nobody_who_asks() {
    assert_eq!(from_inside(WORDS).len(), 4, "these words would not be found");
    let standing = house().await;
    let scopes = ["keys:manage", "keys:read", "sign", "workflows:manage", "workflows:read"];
    let (member, operator) = (standing.program("acme", &scopes).await.asker, standing.operator());
    let made = member.post("/v1/keys", json!({ "name": "release", "kind": "p256" })).await;
    assert_eq!(made.status, 201, "{made:?}");
    let import = KeyPair::generate().unwrap().public_key_pem();
    for refusal in refusals() {
        let asks: [(&Asker, &str, Json); 5] = [
            (&member, "/v1/keys/release/sign", json!({ "scheme": "ecdsa-sha256", "digest": DIGEST })),
            (&member, "/v1/keys", json!({ "name": fresh("key"), "kind": "p256" })),
            (&member, "/v1/keys/release/rotate", Json::Null),
            (
                &member,
                "/v1/workflows/key.import",
                json!({ "name": fresh("key"), "kind": "p256", "public_key": import }),
            ),
            (&operator, "/v1/workspaces", json!({ "name": fresh("space") })),
        ];
        for (by, path, body) in asks {
            standing.double.next(DoubleFault::Refuse(refusal.clone()));
            let answer = by.ask("POST", path, (!body.is_null()).then_some(body)).await;
            let told = told(by, answer).await;
            let found = from_inside(&told);
            assert!(found.is_empty(), "{path}: {found:?} stands in what a caller is told: {told}");
            assert!(told.contains("the token refused"), "{path} was refused for something else: {told}");
        }
    }
}

type Undoing<'a> = Pin<Box<dyn Future<Output = Result<(), RemoteFault<Never>>> + 'a>>;
type Undo<'a> = dyn Fn(&WorkspaceId) -> Undoing<'a> + 'a;

/// As often as it takes for the line of a name to be full; the bounds of the line are far below.
const FULL_MAX: usize = 10_000;

#[tokio::test]
async fn undos_of_one_workspace_at_the_token_stand_in_nobody_elses_way() {
    let standing = house().await;
    let house = &standing.house;
    let [crowd, other] = [(); 2].map(|()| WorkspaceId::new(&house.ground.dice).unwrap());
    let nothing = effect_of_nothing();
    let undo: [(&str, &Undo<'_>); 4] = [
        ("a key", &|of| {
            let (keys, of) = (house.keys.clone(), of.clone());
            Box::pin(async move { keys.unmake(&of, nothing).await })
        }),
        ("a wrapping key", &|of| Box::pin(house.keys.clone().unmake_wrapping(of.clone(), nothing))),
        ("a backup key", &|of| Box::pin(house.keys.clone().unmake_backup_key(of.clone(), nothing))),
        ("a workspace's key", &|of| Box::pin(house.workspaces.clone().unmake_kek(of.clone(), nothing))),
    ];
    for (what, undo) in undo {
        // Nothing runs between these: none of them is answered before all of them have come.
        let mut cx = Context::from_waker(Waker::noop());
        let mut crowding = Vec::new();
        let turned_away = loop {
            let mut one = undo(&crowd);
            match one.as_mut().poll(&mut cx) {
                Poll::Pending => crowding.push(one),
                Poll::Ready(turned_away) => break turned_away,
            }
            assert!(crowding.len() < FULL_MAX, "{what}: the line has no end");
        };
        assert!(turned_away.is_err() && crowding.len() > 100, "{what}: {turned_away:?}, {}", crowding.len());
        let mut mine = undo(&other);
        let mine_now = mine.as_mut().poll(&mut cx);
        assert!(mine_now.is_pending(), "{what}: somebody else's undos are in the way: {mine_now:?}");
        drop(crowding);
        assert!(mine.await.is_ok(), "{what}");
    }
}
