//! Making an appliance while one call of its token, or one command of its TPM, fails: each in turn, before its effect and after it.
//! Who enters: `chancery init`, again and again, until the call that is to fail does not come any more.
//! What leaves: nothing, wherever it failed; and an appliance, when it is run once more.

use std::fs;
use std::path::PathBuf;

use promises::programs::complained;
use promises::{Appliance, Hardware, Plan};
use simulators::{Bus, Strike, Swtpm};

use crate::{init, lying, objects, state};

/// More calls than any initialisation makes; one that gets here never ends.
const CALLS_MAX: usize = 2_000;
/// Unless all are asked for, every so many calls one fails. A prime, so that no kind of call is always passed by.
const SAMPLE: usize = 7;

fn stride() -> usize {
    if std::env::var("CHANCERY_TORTURE").as_deref() == Ok("all") { 1 } else { SAMPLE }
}

/// A token of which one call fails: when the number in a file has come down to nothing.
struct Struck {
    house: Appliance,
    words: PathBuf,
    left: PathBuf,
}

impl Struck {
    fn new() -> Self {
        let (mut house, words) = lying(Plan::with(Hardware::Token));
        let room = house.path("strike");
        fs::create_dir(&room).unwrap();
        let left = room.join("left");
        house.set("token.environment.BAD_MODULE_STRIKE", left.display().to_string());
        let tokens = house.hsm.as_ref().unwrap().tokens().display().to_string();
        house.set("token.sandbox.write", vec![tokens, room.display().to_string()]);
        Self { house, words, left }
    }

    /// From now on the call of this number fails.
    fn at(&self, word: &str, call: usize) {
        fs::write(&self.words, word).unwrap();
        fs::write(&self.left, format!("{call:<8}")).unwrap();
    }

    fn has_struck(&self) -> bool {
        fs::read_to_string(&self.left).unwrap().trim() == "0"
    }

    fn objects(&self) -> Vec<String> {
        objects(self.house.hsm.as_ref().unwrap())
    }
}

/// Fails the call of each number until an initialisation makes fewer calls.
fn fails_at_each_call(word: &str) {
    let clean = Struck::new();
    clean.at(word, 0);
    assert!(init(&clean.house).status.success());
    let whole = clean.objects().len();
    let (mut struck, mut failed) = (Struck::new(), 0);
    for call in (1..CALLS_MAX).step_by(stride()) {
        let when = format!("{word} {call}");
        struck.at(word, call);
        let made = init(&struck.house);
        if !made.status.success() {
            assert!(struck.has_struck(), "{when}: it failed by itself: {}", complained(&made));
            failed += 1;
            assert_eq!(state(&struck.house), [""; 0], "{when}: something is left in the state directory");
            assert_eq!(struck.objects(), [""; 0], "{when}: something is left in the token");
            // The next round runs it again.
            continue;
        }
        // It was got over: another worker was asked, or it concerned a kind of key that can be done without.
        let objects = struck.objects();
        assert_eq!(objects.len(), whole, "{when}: litter in the token: {objects:#?}");
        assert!(!state(&struck.house).contains(&"init.json".to_owned()), "{when}: it is not whole");
        if !struck.has_struck() {
            assert!(failed > 0, "nothing ever failed, so this proves nothing");
            println!("{word}: {failed} failed of {call} calls, every {}", stride());
            return;
        }
        struck = Struck::new();
    }
    panic!("an initialisation makes more than {CALLS_MAX} calls");
}

#[test]
fn an_init_in_which_any_one_call_of_the_token_fails_leaves_nothing_and_is_run_again() {
    fails_at_each_call("strike");
}

#[test]
fn an_init_in_which_any_one_answer_of_the_token_is_lost_leaves_nothing_and_is_run_again() {
    fails_at_each_call("strikelate");
}

/// A TPM of its own for each round, behind a wire on which one command fails.
fn over_a_wire() -> (Appliance, Bus) {
    let mut house = Plan::with(Hardware::Tpm).prepare();
    let bus = Bus::to(house.tpm.as_ref().unwrap()).unwrap();
    house.set("token.tcti", bus.tcti());
    (house, bus)
}

/// The handles of the TPM's NV indices that are not its maker's.
fn indices(tpm: &Swtpm) -> Vec<u32> {
    // TPM2_GetCapability, TPM_CAP_HANDLES, from the first NV index on, at most 64.
    const ASK: [u8; 22] = [0x80, 1, 0, 0, 0, 22, 0, 0, 1, 0x7a, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 64];
    /// The range of certificates and templates that a manufacturer provides.
    const MAKERS: std::ops::Range<u32> = 0x01C0_0000..0x01C1_0000;
    let answer = tpm.command(&ASK).unwrap();
    let handles = answer[19..].chunks_exact(4).map(|word| u32::from_be_bytes(word.try_into().unwrap()));
    handles.filter(|handle| !MAKERS.contains(handle)).collect()
}

/// How many files of the anchor are there.
fn left_beside(house: &Appliance) -> usize {
    fs::read_dir(house.path("tpm-auth")).unwrap().count()
}

fn fails_at_each_command(late: bool) {
    let mut failed = 0;
    for after in (0..CALLS_MAX).step_by(stride()) {
        let when = format!("after {after} commands, late: {late}");
        let (house, bus) = over_a_wire();
        bus.strike(Strike { after, late });
        let made = init(&house);
        if !bus.has_struck() {
            assert!(made.status.success(), "{when}: {}", complained(&made));
            assert!(failed > 0, "nothing ever failed, so this proves nothing");
            println!("late {late}: {failed} failed of {after} commands, every {}", stride());
            return;
        }
        if made.status.success() {
            continue;
        }
        failed += 1;
        assert_eq!(state(&house), [""; 0], "{when}: something is left in the state directory");
        assert_eq!(indices(house.tpm.as_ref().unwrap()), [0; 0], "{when}: an index is left in the TPM");
        assert_eq!(left_beside(&house), 0, "{when}: a file is left beside the TPM");
        let made = init(&house);
        assert!(made.status.success(), "{when}: it cannot be run again: {}", complained(&made));
    }
    panic!("an initialisation makes more than {CALLS_MAX} commands");
}

#[test]
fn an_init_in_which_any_one_command_of_the_tpm_fails_leaves_nothing_and_is_run_again() {
    fails_at_each_command(false);
}

#[test]
fn an_init_in_which_any_one_answer_of_the_tpm_is_lost_leaves_nothing_and_is_run_again() {
    fails_at_each_command(true);
}
