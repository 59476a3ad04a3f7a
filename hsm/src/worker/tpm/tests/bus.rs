//! The bus: who listens there learns no secret of ours, and who answers there in the TPM's place is found out.
//! In come lanes that reach a fresh swtpm over a tapped wire.
//! Out goes proof, or the name of the promise that was broken.

use std::path::Path;
use std::sync::Arc;

use hsm::backend::{Anchor, Fault, Keks, Keys, Seal};
use hsm::{Kek, KeyId, KeyKind, KeyRef, Refusal, RootPin, Scheme, TokenConfig};
use simulators::{Bus, Swtpm};

use super::super::connect::open_lane;
use super::super::lane::TpmLane;
use super::{ID, Machine, step, tool};

const OWNER: &[u8] = b"the owner's own authorisation";
const MASTER: [u8; 32] = [0xA5; 32];
const KEK_ID: KeyId = KeyId([9; 16]);

/// Command codes (TPM 2.0 part 2, section 6.5.2).
const CREATE: u32 = 0x153;
const CREATE_PRIMARY: u32 = 0x131;
const GET_CAPABILITY: u32 = 0x17A;
const LOAD: u32 = 0x157;
const NV_DEFINE_SPACE: u32 = 0x12A;
const NV_READ: u32 = 0x14E;
const NV_READ_PUBLIC: u32 = 0x169;
const PCR_READ: u32 = 0x17E;
const READ_PUBLIC: u32 = 0x173;
const START_AUTH_SESSION: u32 = 0x176;

fn on_the_bus(machine: &Machine, bus: &Bus) -> TokenConfig {
    let mut config = machine.config.clone();
    if let TokenConfig::Tpm { tcti, .. } = &mut config {
        *tcti = bus.tcti();
    }
    config
}

fn owned(machine: &mut Machine) {
    let dir = machine.dir.path().to_owned();
    let text = std::str::from_utf8(OWNER).unwrap().replace(' ', "-");
    tool(&machine.tpm, &format!("tpm2_changeauth -Q -c owner {text}"), &dir);
    let file = dir.join("owner.auth");
    write_private(&file, text.as_bytes());
    if let TokenConfig::Tpm { owner_auth_file, .. } = &mut machine.config {
        *owner_auth_file = Some(file);
    }
}

fn write_private(file: &Path, text: &[u8]) {
    use std::os::unix::fs::OpenOptionsExt;
    let mut out = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).unwrap();
    std::io::Write::write_all(&mut out, text).unwrap();
}

fn lane(config: &TokenConfig) -> TpmLane {
    open_lane(config, None).unwrap()
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn begins(command: &[u8], code: u32) -> bool {
    command.get(6..10) == Some(&code.to_be_bytes())
}

/// TPM2_StartAuthSession names the key of the salt first.
fn agreed_with_the_root(bus: &Bus) -> bool {
    contains(&bus.seen(), &[START_AUTH_SESSION.to_be_bytes(), 0x8100_0001_u32.to_be_bytes()].concat())
}

fn commands_seen(bus: &Bus, code: u32) -> bool {
    bus.commands().contains(&code)
}

/// The whole life of an appliance as far as secrets go: enrolling, sealing, wrapping for a workspace, a restart, other registers.
#[test]
fn a_listener_on_the_bus_learns_no_secret_of_an_appliances_whole_life() {
    let mut machine = Machine::new();
    owned(&mut machine);
    let bus = Bus::to(&machine.tpm).unwrap();
    let config = on_the_bus(&machine, &bus);
    let mut secrets: Vec<(&str, Vec<u8>)> = vec![
        ("the owner's authorisation", OWNER.split(|byte| *byte == b' ').collect::<Vec<_>>().join(&b'-')),
        ("the master key", MASTER.to_vec()),
    ];

    let mut enrolling = lane(&config);
    enrolling.ensure_root().unwrap();
    let wrapped = enrolling.wrap(&MASTER, b"master").unwrap();
    let first = step(1, [0; 32]);
    enrolling.advance(&first).unwrap();
    enrolling.count_up().unwrap();
    let kek = enrolling.create_kek(KEK_ID, "").unwrap();
    let data_key = enrolling.wrap_under(&kek, &MASTER, b"row").unwrap();
    drop(enrolling);

    let mut started = lane(&config);
    assert_eq!(started.unwrap(&wrapped, b"master").unwrap().as_slice(), MASTER);
    assert_eq!(started.unwrap_under(&kek, &data_key, b"row").unwrap().as_slice(), MASTER);
    started.advance(&step(2, first.after)).unwrap();
    secrets.push(("the key that closes the master key", started.layer_key(&wrapped).unwrap().to_vec()));
    secrets.push(("the key of a workspace", started.kek_layer_key(&kek, &data_key).unwrap().to_vec()));
    drop(started);

    let mut other = config.clone();
    if let TokenConfig::Tpm { pcrs, .. } = &mut other {
        *pcrs = vec![4, 7];
    }
    let mut resealed = lane(&other);
    resealed.read().unwrap();
    secrets.push(("the authorisation of the anchor", resealed.index_auth.as_ref().unwrap().to_vec()));
    drop(resealed);

    let seen = bus.seen();
    assert!(contains(&seen, &first.digest), "the tap heard nothing, so this proves nothing");
    for code in [CREATE, CREATE_PRIMARY, NV_DEFINE_SPACE] {
        assert!(commands_seen(&bus, code), "0x{code:x} never went over the bus");
    }
    for (what, secret) in secrets {
        assert!(!contains(&seen, &secret), "{what} went over the bus in the clear");
    }
}

#[test]
fn random_bytes_are_not_those_that_went_over_the_bus() {
    let machine = Machine::new();
    let bus = Bus::to(&machine.tpm).unwrap();
    let drawn = lane(&on_the_bus(&machine, &bus)).random(64).unwrap();
    let seen = bus.seen();
    assert!(drawn.chunks(32).all(|piece| !contains(&seen, piece)));
}

#[test]
fn another_storage_root_than_the_recorded_one_gets_no_session() {
    let (home, abroad) = (Machine::new(), Machine::new());
    let root = lane(&home.config).ensure_root().unwrap();
    lane(&abroad.config).ensure_root().unwrap();
    let bus = Bus::to(&abroad.tpm).unwrap();
    let pin = RootPin { id: root.id, check: root.check };
    let config = on_the_bus(&abroad, &bus);
    let refused = match open_lane(&config, Some(&pin)) {
        Ok(mut lane) => lane.wrap(&MASTER, b"").unwrap_err(),
        Err(fault) => fault,
    };
    assert!(
        matches!(&refused, Fault::Refused(Refusal::Other(why)) if why.contains("not the one")),
        "{refused:?}"
    );
    assert!(commands_seen(&bus, READ_PUBLIC), "nobody was asked, so this proves nothing");
    assert!(!agreed_with_the_root(&bus), "a salt was agreed with a stranger");
}

/// The library asks for the root's public key by a command of its own. Whoever answers that one with his key, and ours truly, would know
/// every salt.
#[test]
fn a_stranger_who_answers_the_librarys_own_question_is_found_out() {
    let (home, his) = (Machine::new(), Machine::new());
    let root = lane(&home.config).ensure_root().unwrap();
    lane(&his.config).ensure_root().unwrap();
    let bus = Bus::to(&home.tpm).unwrap();
    let his_tpm = Swtpm::socket(&his.tpm);
    let mut asked = 0;
    bus.forge(move |command, answer| {
        if begins(command, READ_PUBLIC) && command.ends_with(&0x8100_0001_u32.to_be_bytes()) {
            asked += 1;
            // The library asks first, then we do.
            if asked % 2 == 1 {
                return ask(&his_tpm, command);
            }
        }
        answer
    });
    let pin = RootPin { id: root.id, check: root.check };
    let config = on_the_bus(&home, &bus);
    let outcome = open_lane(&config, Some(&pin)).and_then(|mut lane| lane.wrap(&MASTER, b"").map(drop));
    assert!(outcome.is_err(), "a secret was closed under a stranger's salt");
    assert!(!agreed_with_the_root(&bus), "a salt was agreed with a stranger");
}

fn ask(tpm: &Path, command: &[u8]) -> Vec<u8> {
    use std::io::{Read, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(tpm).unwrap();
    stream.write_all(command).unwrap();
    let mut answer = vec![0; 4096];
    let len = stream.read(&mut answer).unwrap();
    answer.truncate(len);
    answer
}

/// An answer to TPM2_GetCapability that names no handle at all: no more data, TPM_CAP_HANDLES, none.
const NO_HANDLES: [u8; 19] = [0x80, 0x01, 0, 0, 0, 19, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];

/// An appliance with an anchor that any program may read, which is the weaker way, and a hand on the bus of its next worker.
struct Enrolled {
    machine: Machine,
    pin: RootPin,
    wrapped: Vec<u8>,
    key: KeyRef,
    kek: Kek,
    data_key: Vec<u8>,
}

impl Enrolled {
    fn new() -> Self {
        let machine = Machine::with(|config| {
            if let TokenConfig::Tpm { index_auth_file, .. } = config {
                *index_auth_file = None;
            }
        });
        let mut first = lane(&machine.config);
        let root = first.ensure_root().unwrap();
        first.advance(&step(1, [0; 32])).unwrap();
        let wrapped = first.wrap(&MASTER, b"master").unwrap();
        let key = first.generate(ID, KeyKind::P256, "").unwrap().key;
        let kek = first.create_kek(KEK_ID, "").unwrap();
        let data_key = first.wrap_under(&kek, &MASTER, b"row").unwrap();
        drop(first);
        let pin = RootPin { id: root.id, check: root.check };
        Self { machine, pin, wrapped, key, kek, data_key }
    }

    /// What each deed comes to is the truth or a refusal, whatever the hand does. How many were refused.
    fn decides_nothing_wrong(
        &self,
        what: &str,
        hand: impl FnMut(&[u8], Vec<u8>) -> Vec<u8> + Send + 'static,
    ) -> usize {
        let head = lane(&self.machine.config).read().unwrap().head.unwrap();
        let bus = Bus::to(&self.machine.tpm).unwrap();
        bus.forge(hand);
        let Ok(mut lane) = open_lane(&on_the_bus(&self.machine, &bus), Some(&self.pin)) else { return 5 };
        let mut refused = 0;
        match lane.read() {
            Ok(reading) => {
                assert_eq!((reading.head, reading.missing), (Some(head), false), "{what}: the anchor")
            }
            Err(_) => refused += 1,
        }
        match lane.unwrap(&self.wrapped, b"master") {
            Ok(secret) => assert_eq!(secret.as_slice(), MASTER, "{what}: the master key"),
            Err(_) => refused += 1,
        }
        match lane.unwrap_under(&self.kek, &self.data_key, b"row") {
            Ok(secret) => assert_eq!(secret.as_slice(), MASTER, "{what}: a workspace's key"),
            Err(_) => refused += 1,
        }
        // A signature is held against the recorded public key by the daemon; here it is enough that another key is not taken for it.
        refused += usize::from(lane.sign(&self.key, Scheme::EcdsaSha256, &[1; 32]).is_err());
        refused += usize::from(lane.advance(&step(2, head)).is_err());
        refused
    }
}

#[test]
fn who_hides_what_stands_in_the_tpm_stops_the_work_and_decides_nothing() {
    let enrolled = Enrolled::new();
    assert_eq!(enrolled.decides_nothing_wrong("nobody", |_, answer| answer), 0, "it does not work unforged");
    let enrolled = Enrolled::new();
    // The root alone, as if the TPM had never been enrolled, with an anchor that he makes up; then all that there is.
    let handles = |range: u32| [0, 0, 0, 1].into_iter().chain(range.to_be_bytes()).collect::<Vec<u8>>();
    let (root, everything) = (handles(0x8100_0001), vec![0, 0, 0, 1]);
    for (what, hidden) in [("the root is hidden", root), ("all is hidden", everything)] {
        let refused = enrolled.decides_nothing_wrong(what, move |command, mut answer| {
            if begins(command, GET_CAPABILITY) && contains(command, &hidden) {
                return NO_HANDLES.to_vec();
            }
            if begins(command, NV_READ) && answer.len() > 30 {
                answer[20] ^= 1;
            }
            answer
        });
        assert!(refused > 0, "{what}: nothing was refused, so nothing was forged");
    }
}

/// Bits of the answer turned one after the other: the handle, the name, the sizes, and what vouches for them.
#[test]
fn a_forged_answer_to_a_load_is_never_taken_for_the_object() {
    let enrolled = Enrolled::new();
    let mut refused = 0;
    for place in (6..60).step_by(6) {
        refused += enrolled.decides_nothing_wrong("a load", move |command, mut answer| {
            if begins(command, LOAD) && answer.len() > place {
                answer[place] ^= 1;
            }
            answer
        });
    }
    assert!(refused > 0, "nothing was refused, so nothing was forged");
}

/// Each answer by which something is decided, with one bit of it turned on the way.
#[test]
fn an_answer_that_decides_something_is_not_taken_from_somebody_else() {
    type Deed = fn(&mut TpmLane) -> Result<(), Fault>;
    let deeds: [(&str, u32, Deed); 6] = [
        ("whether there is an anchor", GET_CAPABILITY, |lane| lane.read().map(drop)),
        ("a key that is loaded", LOAD, |lane| {
            let made = lane.generate(ID, KeyKind::P256, "")?;
            lane.sign(&made.key, Scheme::EcdsaSha256, &[1; 32]).map(drop)
        }),
        ("a new key", CREATE, |lane| lane.generate(ID, KeyKind::P256, "").map(drop)),
        ("the registers", PCR_READ, |lane| lane.wrap(&MASTER, b"").map(drop)),
        ("the anchor's attributes", NV_READ_PUBLIC, |lane| lane.read().map(drop)),
        ("the definition of an index", NV_DEFINE_SPACE, |lane| lane.count_up().map(drop)),
    ];
    for (what, code, deed) in deeds {
        let machine = Machine::new();
        let mut enrolling = lane(&machine.config);
        let root = enrolling.ensure_root().unwrap();
        enrolling.advance(&step(1, [0; 32])).unwrap();
        drop(enrolling);
        let bus = Bus::to(&machine.tpm).unwrap();
        let pin = RootPin { id: root.id, check: root.check };
        let mut lane = open_lane(&on_the_bus(&machine, &bus), Some(&pin)).unwrap();
        let turned = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let by = Arc::clone(&turned);
        bus.forge(move |command, mut answer| {
            // Only what a session stands beside: the library asks some things for itself first, and believes nothing of them.
            if begins(command, code) && command.starts_with(&[0x80, 0x02]) && answer.len() > 40 {
                by.store(true, std::sync::atomic::Ordering::SeqCst);
                answer[30] ^= 1;
            }
            answer
        });
        let outcome = deed(&mut lane);
        assert!(
            turned.load(std::sync::atomic::Ordering::SeqCst),
            "{what}: went over the bus without a session"
        );
        assert!(outcome.is_err(), "{what}: a forged answer was believed");
    }
}
