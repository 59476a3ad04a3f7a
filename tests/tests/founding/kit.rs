//! An appliance over p11-kit's proxy: the module through which a system lends its tokens, and which gives each caller functions of its own.
//! Who enters: a real SoftHSM behind the real proxy.
//! What leaves: an appliance that is made, signs, loses its worker, and starts again.

use std::path::PathBuf;

use promises::daemon::kill;
use promises::people::sign_p256;
use promises::{GIVEN_UP, Hardware, Plan, eventually};
use rustix::process::Signal;

use crate::{init, objects};

fn proxy() -> PathBuf {
    let places = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    let found =
        places.iter().map(|place| PathBuf::from(place).join("p11-kit-proxy.so")).find(|path| path.exists());
    found.unwrap_or_else(|| {
        panic!(
            "p11-kit-proxy.so is not installed: run `apt-get install p11-kit p11-kit-modules` and try again"
        )
    })
}

#[tokio::test]
async fn an_appliance_over_p11_kits_proxy_is_made_signs_and_starts_again() {
    let mut house = Plan::with(Hardware::Token).set("token.module", proxy().display().to_string()).prepare();
    let made = init(&house);
    assert!(made.status.success(), "{}", promises::programs::complained(&made));
    assert!(!objects(house.hsm.as_ref().unwrap()).is_empty(), "its keys are in another token");
    house.serve().await;
    house.ready().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    member.ask(sign_p256(&key, b"through the proxy")).await.expect(200);
    kill(house.daemon().token_worker().await, Signal::KILL);
    let signs =
        || async { (member.ask(sign_p256(&key, b"by another worker")).await.status == 200).then_some(()) };
    eventually("another worker signs", GIVEN_UP, signs).await;
    house.terminate().await;
    house.serve().await;
    house.ready().await;
    member.ask(sign_p256(&key, b"after a restart")).await.expect(200);
}
