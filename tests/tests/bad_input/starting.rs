//! What must keep a daemon from starting, with words that say what to do.
//! Who enters: wrong PINs, wrong configurations, state directories open to others, a second daemon.
//! What leaves: an exit code of its own kind for each, and nothing changed.

use std::os::unix::fs::{PermissionsExt, chown};

use promises::people::sign_p256;
use promises::programs::{complained, tool};
use promises::{Appliance, Hardware, Plan};

const CONFIGURATION: i32 = 4;
const FAILED: i32 = 5;
const NEEDS_A_PERSON: i32 = 6;

#[tokio::test]
async fn a_wrong_pin_is_tried_exactly_once_and_the_right_one_works_afterwards() {
    let mut house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    house.terminate().await;
    let pin_file = house.hsm.as_ref().unwrap().pin_file().to_owned();
    let right = std::fs::read(&pin_file).unwrap();
    std::fs::write(&pin_file, "000000").unwrap();
    drop(tool("strace", "strace"));
    let trace = house.path("execs");
    let watched = ["strace", "-f", "-qq", "-e", "trace=execve", "-o"].map(Into::into);
    let prefix: Vec<_> = watched.into_iter().chain([trace.clone().into_os_string()]).collect();
    let ended = house.try_serve_under(&prefix).await.expect_err("it serves with a wrong PIN");
    assert_eq!(ended.code(), Some(NEEDS_A_PERSON), "{}", house.log());
    let started = std::fs::read_to_string(&trace).unwrap();
    let workers =
        started.lines().filter(|line| line.contains("chancery-hsm") && line.contains("execve(")).count();
    assert_eq!(workers, 1, "the worker was started again with the same wrong PIN:\n{started}");
    assert!(house.log().to_lowercase().contains("pin"), "{}", house.log());
    std::fs::write(&pin_file, right).unwrap();
    house.serve().await;
    member.ask(sign_p256(&key, b"not locked out")).await.expect(200);
}

/// One meaning for a code, whichever command ends with it.
#[tokio::test]
async fn exit_codes_mean_the_same_for_init_serve_and_probe() {
    let mut house = Plan::with(Hardware::Token).init();
    let (pin_file, serial) = {
        let hsm = house.hsm.as_ref().unwrap();
        (hsm.pin_file().to_owned(), hsm.serial().to_owned())
    };
    let right = std::fs::read(&pin_file).unwrap();
    let commands: [&[&str]; 3] = [&["init"], &["token", "probe"], &["serve"]];
    let ledger = house.ledger();
    let codes = |house: &Appliance, commands: &[&[&str]]| -> Vec<(Option<i32>, String)> {
        let each = commands.iter().map(|command| {
            // An appliance that is there ends `init` before it looks at the token.
            let aside = ledger.with_extension("aside");
            let is_init = command[0] == "init";
            if is_init {
                std::fs::rename(&ledger, &aside).unwrap();
            }
            let output = house.cli(command);
            if is_init {
                std::fs::rename(&aside, &ledger).unwrap();
            }
            (output.status.code(), complained(&output))
        });
        each.collect()
    };
    std::fs::write(&pin_file, "").unwrap();
    for (code, words) in codes(&house, &commands) {
        assert_eq!(code, Some(CONFIGURATION), "an empty PIN file: {words}");
    }
    std::fs::write(&pin_file, &right).unwrap();
    std::fs::set_permissions(&pin_file, std::fs::Permissions::from_mode(0o644)).unwrap();
    for (code, words) in codes(&house, &commands) {
        assert_eq!(code, Some(CONFIGURATION), "a PIN file that is open to others: {words}");
        assert!(words.contains("chmod 0400"), "{words}");
    }
    std::fs::set_permissions(&pin_file, std::fs::Permissions::from_mode(0o400)).unwrap();
    std::fs::write(&pin_file, "000000").unwrap();
    for (code, words) in codes(&house, &commands) {
        assert_eq!(code, Some(NEEDS_A_PERSON), "a wrong PIN: {words}");
    }
    std::fs::write(&pin_file, &right).unwrap();
    // Another token, or none yet: it may be plugged in later. `serve` waits for that.
    house.set("token.serial", "0000000000000000");
    for (code, words) in codes(&house, &commands[..2]) {
        assert_eq!(code, Some(FAILED), "a serial that is not there: {words}");
        assert!(words.contains(&serial), "it does not say which token is there: {words}");
    }
}

#[tokio::test]
async fn a_pin_that_became_wrong_while_serving_is_not_tried_again_and_again() {
    let mut house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let pin_file = house.hsm.as_ref().unwrap().pin_file().to_owned();
    let right = std::fs::read(&pin_file).unwrap();
    std::fs::write(&pin_file, "000000").unwrap();
    let worker = house.daemon().token_worker().await;
    promises::daemon::kill(worker, rustix::process::Signal::KILL);
    let operator = house.operator();
    let refused = || async {
        let answer = operator.ask(promises::get("/health/ready")).await.json();
        let token = answer["parts"].as_array()?.iter().find(|part| part["part"] == "token")?.clone();
        (token["code"] == "refused").then_some(token)
    };
    promises::eventually("the token is told as refused", promises::appliance::READY_MAX, refused).await;
    member.ask(sign_p256(&key, b"no")).await.refused(503, "token_refused");
    assert_eq!(house.daemon().workers(), [], "a worker goes on trying");
    std::fs::write(&pin_file, right).unwrap();
    house.terminate().await;
    house.serve().await;
    member.ask(sign_p256(&key, b"yes")).await.expect(200);
}

#[tokio::test]
async fn a_configuration_with_unknown_keys_is_told_all_that_is_wrong_at_once() {
    let house = Plan::with(Hardware::Token).init();
    let good = std::fs::read_to_string(house.config_file()).unwrap();
    let bad =
        good.replace("seal_seconds", "seal_second").replace("[log]", "[logs]") + "\n[market]\nopen = true\n";
    std::fs::write(house.config_file(), bad).unwrap();
    for arguments in [&["config", "check"][..], &["serve"][..]] {
        let output = house.cli(arguments);
        assert_eq!(output.status.code(), Some(CONFIGURATION));
        let words = complained(&output).replace(&house.config_file().display().to_string(), "CONFIG");
        let lines = words.lines().map(|line| {
            match line.trim_start().strip_prefix("line ").and_then(|rest| rest.split_once(": ")) {
                Some((number, told)) if number.parse::<usize>().is_ok() => format!("  line LINE: {told}\n"),
                _ => format!("{line}\n"),
            }
        });
        assert_eq!(lines.collect::<String>(), GOLDEN, "of {arguments:?}");
    }
}

const GOLDEN: &str = "chancery: CONFIG:
  line LINE: `ledger.seal_second` is unknown; did you mean `seal_seconds`?
  line LINE: `logs` is unknown; did you mean `log`?
  line LINE: `market` is unknown; known are state_directory, socket, api, operators, token, tpm, ledger, rates, log, backups, retention, traces, monitoring, upstream
";

#[tokio::test]
async fn a_state_directory_that_others_can_enter_is_refused() {
    let house = Plan::with(Hardware::Token).init();
    for mode in [0o750, 0o705, 0o777] {
        std::fs::set_permissions(house.state(), std::fs::Permissions::from_mode(mode)).unwrap();
        let output = house.cli(&["serve"]);
        assert_eq!(output.status.code(), Some(CONFIGURATION));
        let words = complained(&output);
        assert!(words.contains(&format!("mode {mode:04o}")) && words.contains("set it to 0700"), "{words}");
    }
}

#[tokio::test]
async fn a_state_directory_of_another_user_is_refused() {
    assert!(rustix::process::geteuid().is_root(), "run this as root: only root can give a directory away");
    let house = Plan::with(Hardware::Token).init();
    chown(house.state(), Some(12345), None).unwrap();
    let output = house.cli(&["serve"]);
    assert_eq!(output.status.code(), Some(CONFIGURATION));
    assert!(complained(&output).contains("owned by user 12345"), "{}", complained(&output));
}

#[tokio::test]
async fn a_second_daemon_on_the_same_state_is_refused_and_the_first_goes_on() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let output = house.cli(&["serve"]);
    assert_eq!(output.status.code(), Some(FAILED), "{}", complained(&output));
    assert!(complained(&output).contains("ledger"), "{}", complained(&output));
    member.ask(sign_p256(&key, b"undisturbed")).await.expect(200);
    house.operator().ask(promises::get("/v1/status")).await.expect(200);
}

#[tokio::test]
async fn an_appliance_is_made_once_and_served_only_once_made() {
    let house = Plan::with(Hardware::Token).init();
    let again = house.cli(&["init"]);
    assert!(!again.status.success(), "it was made twice");
    std::fs::rename(house.ledger(), house.path("elsewhere.db")).unwrap();
    let output = house.cli(&["serve"]);
    assert_eq!(output.status.code(), Some(NEEDS_A_PERSON));
    assert!(complained(&output).contains("chancery init"), "{}", complained(&output));
    assert!(!house.ledger().exists(), "a missing ledger was quietly made anew");
}
