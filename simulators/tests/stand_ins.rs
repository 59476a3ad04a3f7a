//! Promises of the stand-ins, each tried on the real program.
//! In come softhsm2 and swtpm as installed; a missing one fails the test and names its package.
//! Out goes trust in every test that is built on them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail loudly")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use simulators::{SimulatorError, SoftHsm, Swtpm};

#[test]
fn two_installations_of_softhsm_do_not_see_each_other() {
    let (left, right) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let left = SoftHsm::create(left.path(), "house").unwrap();
    let right = SoftHsm::create(right.path(), "house").unwrap();
    assert_ne!(left.serial(), right.serial());
    assert!(slots(&left).contains(left.serial()));
    assert!(!slots(&left).contains(right.serial()));
}

#[test]
fn the_pin_lies_in_a_file_only_its_owner_reads() {
    let dir = tempfile::tempdir().unwrap();
    let hsm = SoftHsm::create(dir.path(), "house").unwrap();
    let mode = std::fs::metadata(hsm.pin_file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(hsm.module().exists());
}

#[test]
fn a_second_token_has_its_own_serial_and_pin() {
    let dir = tempfile::tempdir().unwrap();
    let hsm = SoftHsm::create(dir.path(), "first").unwrap();
    let second = hsm.another_token("second").unwrap();
    assert_ne!(second.serial(), hsm.serial());
    assert_ne!(second.pin_file(), hsm.pin_file());
    assert!(slots(&hsm).contains(second.serial()));
}

#[test]
fn an_unplugged_token_is_gone_and_comes_back_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let hsm = SoftHsm::create(dir.path(), "house").unwrap();
    hsm.unplug().unwrap();
    hsm.unplug().unwrap();
    assert!(!slots(&hsm).contains(hsm.serial()));
    hsm.plug_in().unwrap();
    assert!(slots(&hsm).contains(hsm.serial()));
}

#[test]
fn a_replaced_token_keeps_its_label_and_loses_its_serial() {
    let dir = tempfile::tempdir().unwrap();
    let mut hsm = SoftHsm::create(dir.path(), "house").unwrap();
    let before = hsm.serial().to_owned();
    hsm.replace().unwrap();
    assert_eq!(hsm.label(), "house");
    assert_ne!(hsm.serial(), before);
    assert!(!slots(&hsm).contains(&before));
}

#[test]
fn a_tpm_answers_tools_through_its_tcti_string() {
    let dir = tempfile::tempdir().unwrap();
    let tpm = Swtpm::start(dir.path()).unwrap();
    assert!(tpm2(&tpm, &["tpm2_getrandom", "--hex", "8"]).len() >= 16);
}

#[test]
fn a_tpm_dies_with_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let tpm = Swtpm::start(dir.path()).unwrap();
    let socket = tpm.socket();
    drop(tpm);
    assert!(std::os::unix::net::UnixStream::connect(socket).is_err());
}

#[test]
fn a_tpm_outlives_the_thread_that_started_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_path_buf();
    let tpm = std::thread::spawn(move || Swtpm::start(path).unwrap()).join().unwrap();
    assert!(!read_pcr_7(&tpm).is_empty());
}

#[test]
fn measurements_change_a_pcr_until_the_next_power_cycle() {
    let dir = tempfile::tempdir().unwrap();
    let mut tpm = Swtpm::start(dir.path()).unwrap();
    let clean = read_pcr_7(&tpm);
    tpm.extend_pcr(7, [0x11; 32]).unwrap();
    assert_ne!(read_pcr_7(&tpm), clean);
    tpm.restart().unwrap();
    assert_eq!(read_pcr_7(&tpm), clean);
}

#[test]
fn state_survives_a_power_cut_and_obeys_wipe_and_rollback() {
    let dir = tempfile::tempdir().unwrap();
    let mut tpm = Swtpm::start(dir.path()).unwrap();
    let empty = tpm.snapshot("empty").unwrap();
    tpm2(&tpm, &["tpm2_nvdefine", "0x1800000", "-s", "8"]);
    tpm.restart().unwrap();
    assert!(tpm2(&tpm, &["tpm2_getcap", "handles-nv-index"]).contains("0x1800000"));
    tpm.roll_back(&empty).unwrap();
    assert!(!tpm2(&tpm, &["tpm2_getcap", "handles-nv-index"]).contains("0x1800000"));
    tpm2(&tpm, &["tpm2_nvdefine", "0x1800000", "-s", "8"]);
    tpm.wipe().unwrap();
    assert!(!tpm2(&tpm, &["tpm2_getcap", "handles-nv-index"]).contains("0x1800000"));
}

#[test]
fn a_switched_off_tpm_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut tpm = Swtpm::start(dir.path()).unwrap();
    tpm.kill();
    assert!(matches!(tpm.extend_pcr(7, [0; 32]), Err(SimulatorError::SwitchedOff)));
}

#[test]
fn a_socket_path_too_long_for_the_kernel_is_refused_in_words() {
    let deep = Path::new("/tmp").join("x".repeat(120));
    assert!(matches!(Swtpm::start(&deep), Err(SimulatorError::PathTooLong(_))));
    let _ = std::fs::remove_dir_all(deep);
}

fn slots(hsm: &SoftHsm) -> String {
    let listing = Command::new("softhsm2-util").envs(hsm.env()).arg("--show-slots").output().unwrap();
    String::from_utf8_lossy(&listing.stdout).into_owned()
}

fn read_pcr_7(tpm: &Swtpm) -> String {
    tpm2(tpm, &["tpm2_pcrread", "sha256:7"])
}

fn tpm2(tpm: &Swtpm, words: &[&str]) -> String {
    let output = Command::new(words[0])
        .args(&words[1..])
        .env("TPM2TOOLS_TCTI", tpm.tcti())
        .output()
        .expect("tpm2-tools is not installed: run `apt-get install tpm2-tools`");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn an_upstream_fails_on_the_side_of_its_effect_that_it_was_told() {
    use simulators::Upstream;
    use simulators::upstream::{Behaviour, Speaks};
    let upstream = Upstream::plain(Speaks::Http1).await.unwrap();
    let ask = async || {
        let address = upstream.endpoint().trim_start_matches("http://").to_owned();
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::get("/x").header("host", "a");
        let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
        sender.send_request(request).await.map(|answer| answer.status().as_u16()).ok()
    };
    for (behaviour, status, effects) in [
        (Behaviour::Well, Some(200), 1),
        (Behaviour::FailBefore(503), Some(503), 1),
        (Behaviour::FailAfter(503), Some(503), 2),
        (Behaviour::ResetBefore, None, 2),
        (Behaviour::ResetAfter, None, 3),
    ] {
        upstream.behave(behaviour.clone());
        assert_eq!((ask().await, upstream.effects()), (status, effects), "{behaviour:?}");
    }
    assert_eq!(upstream.arrived(), 5);
}
