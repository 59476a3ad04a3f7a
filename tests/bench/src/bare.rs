//! The bare token: a loop over PKCS#11 with nothing around it, one thread and session for each processor.
//! Who enters: the benchmark, with a kind of key.
//! What leaves: signatures a second, the figure everything else is compared with.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::{Attribute, KeyType, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use serde::{Deserialize, Serialize};
use simulators::SoftHsm;

use crate::load::Trouble;

/// Where the token is.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct At {
    module: PathBuf,
    serial: String,
    pin_file: PathBuf,
}

/// Measures in a process of its own: the module reads its configuration from the environment it was started with.
pub(crate) fn measure(hsm: &SoftHsm, kind: &str, duration: Duration) -> Result<f64, Trouble> {
    let at = At {
        module: hsm.module().to_owned(),
        serial: hsm.serial().to_owned(),
        pin_file: hsm.pin_file().to_owned(),
    };
    let words =
        ["--bare".to_owned(), kind.to_owned(), duration.as_millis().to_string(), serde_json::to_string(&at)?];
    let output = Command::new(std::env::current_exe()?)
        .args(words)
        .envs(hsm.env())
        .stderr(Stdio::inherit())
        .output()?;
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// The other side of [`measure`]: prints the rate.
pub(crate) fn answer(words: &[String]) -> Result<(), Trouble> {
    let [kind, millis, at] = words else {
        return Err("--bare takes a kind, milliseconds and where the token is".into());
    };
    let kind =
        crate::KINDS.iter().map(|(kind, _)| *kind).find(|known| known == kind).ok_or("no such kind")?;
    let token = BareToken::open(&serde_json::from_str(at)?)?;
    println!("{}", token.rate(kind, Duration::from_millis(millis.parse()?))?);
    Ok(())
}

/// The token that the gateway uses too, opened by this process for itself.
struct BareToken {
    module: Pkcs11,
    serial: String,
    /// Logs in for the whole process.
    login: Session,
}

const P256_OID: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const ED25519_OID: [u8; 5] = [0x06, 0x03, 0x2b, 0x65, 0x70];
/// DigestInfo of SHA-256 (RFC 8017 section 9.2, note 1).
const SHA256_INFO: [u8; 19] = [
    0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00,
    0x04, 0x20,
];

pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl BareToken {
    fn open(at: &At) -> Result<Self, Trouble> {
        let module = Pkcs11::new(&at.module)?;
        module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
        let login = session(&module, &at.serial)?;
        let pin = std::fs::read_to_string(&at.pin_file)?;
        login.login(UserType::User, Some(&AuthPin::new(pin.trim().to_owned().into())))?;
        Ok(Self { module, serial: at.serial.clone(), login })
    }

    /// Signs as fast as it goes, and says how fast that was.
    fn rate(&self, kind: &'static str, duration: Duration) -> Result<f64, Trouble> {
        let key = generate(&self.login, kind)?;
        let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
        let mut sessions = Vec::new();
        for _ in 0..threads() {
            sessions.push(session(&self.module, &self.serial)?);
        }
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let (stop_at, counted) = (&stop, &count);
            let start = |session| scope.spawn(move || sign_until(session, kind, key, stop_at, counted));
            let going: Vec<_> = sessions.into_iter().map(start).collect();
            std::thread::sleep(duration);
            stop.store(true, Ordering::Relaxed);
            going.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a thread panicked")?)
        })?;
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let signed = count.load(Ordering::Relaxed) as f64;
        Ok(signed / begun.elapsed().as_secs_f64())
    }
}

fn sign_until(
    session: Session,
    kind: &str,
    key: ObjectHandle,
    stop: &AtomicBool,
    count: &AtomicU64,
) -> Result<(), Trouble> {
    let digest: Vec<u8> = (0..32).collect();
    let (mechanism, input) = match kind {
        "ed25519" => (Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure)), digest),
        "rsa-2048" => (Mechanism::RsaPkcs, [&SHA256_INFO[..], &digest].concat()),
        _ => (Mechanism::Ecdsa, digest),
    };
    while !stop.load(Ordering::Relaxed) {
        session.sign(&mechanism, key, &input)?;
        count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn session(module: &Pkcs11, serial: &str) -> Result<Session, Trouble> {
    for slot in module.get_slots_with_initialized_token()? {
        if module.get_token_info(slot)?.serial_number().trim() == serial {
            return Ok(module.open_rw_session(slot)?);
        }
    }
    Err("the token is not there".into())
}

fn generate(session: &Session, kind: &str) -> Result<ObjectHandle, Trouble> {
    let private = [
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Sign(true),
    ];
    let public =
        |more: Vec<Attribute>| [vec![Attribute::Token(false), Attribute::Verify(true)], more].concat();
    let (mechanism, public) = match kind {
        "ed25519" => (
            Mechanism::EccEdwardsKeyPairGen,
            public(vec![Attribute::KeyType(KeyType::EC_EDWARDS), Attribute::EcParams(ED25519_OID.to_vec())]),
        ),
        "rsa-2048" => (
            Mechanism::RsaPkcsKeyPairGen,
            public(vec![Attribute::ModulusBits(2048.into()), Attribute::PublicExponent(vec![1, 0, 1])]),
        ),
        _ => (Mechanism::EccKeyPairGen, public(vec![Attribute::EcParams(P256_OID.to_vec())])),
    };
    Ok(session.generate_key_pair(&mechanism, &public, &private)?.1)
}
