//! Response codes of the TPM and its software stack: which mean "later", which "no", which "gone".
//! In come 32-bit codes.
//! Out go [`Rc`], and a [`Fault`] that says whether the device is still to be trusted.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use hsm::backend::Fault;
use hsm::{KeyId, Refusal};

/// A response code other than success (TPM 2.0 part 2, section 6.6).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Rc(u32);

impl Rc {
    /// The TCTI string holds a zero byte.
    pub(super) const BAD_TCTI: Self = Self(0x000a_000b);
    /// Success without the answer that belongs to it.
    pub(super) const NO_ANSWER: Self = Self(0x0007_0001);

    /// Splits success from everything else.
    pub(super) fn check(code: u32) -> Result<(), Self> {
        if code == 0 { Ok(()) } else { Err(Self(code)) }
    }

    /// The TPM is there and said something; the connection is well.
    pub(super) fn said_by_tpm(self) -> bool {
        // Layer 0 is the TPM itself, layer 11 and 12 are resource managers that answer in its stead.
        matches!((self.0 >> 16) & 0xff, 0 | 11 | 12) && self.code() != Code::Failure
    }

    /// What it means, whichever handle, session or parameter it was said about.
    pub(super) fn code(self) -> Code {
        const FORMAT_ONE: u32 = 0x080;
        let (code, layer) = (self.0 & 0xfff, (self.0 >> 16) & 0xff);
        if !matches!(layer, 0 | 11 | 12) {
            return Code::Other;
        }
        if code & FORMAT_ONE != 0 { format_one(code & 0x0bf) } else { format_zero(code) }
    }

    /// It is the input that the TPM does not take: altered, or made by another TPM.
    pub(super) fn about_input(self) -> bool {
        const FORMAT_ONE_PARAMETER: u32 = 0x0c0;
        self.said_by_tpm() && self.0 & FORMAT_ONE_PARAMETER == FORMAT_ONE_PARAMETER
    }

    /// The command was not begun, and the same command will work a little later.
    fn passes(self) -> bool {
        self.code() == Code::Later
    }

    /// As the reader of a log or of an answer should see it, when nothing more specific is known.
    pub(super) fn fault(self) -> Fault {
        if !self.said_by_tpm() {
            return Fault::Lost { why: format!("the TPM does not answer ({self})"), harmless: false };
        }
        match self.code() {
            Code::Locked => Refusal::PinLocked.into(),
            Code::WrongAuth => Refusal::PinWrong.into(),
            Code::NoSpace => Refusal::TokenFull.into(),
            Code::Later => Fault::Lost { why: format!("the TPM stays busy ({self})"), harmless: true },
            // It was reset behind a connection that lives on, as by a sleep: keys and sessions in it are gone, and the command did nothing.
            Code::NoSuchHandle | Code::Initialized => {
                Fault::Lost { why: format!("the TPM forgot what was loaded ({self})"), harmless: true }
            }
            _ => Refusal::Other(self.to_string()).into(),
        }
    }
}

/// What a response code means for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    /// Busy, testing itself, or protecting its memory from wear.
    Later,
    /// Not started, or started already.
    Initialized,
    /// In failure mode: only a reset helps.
    Failure,
    /// Dictionary-attack lock-out.
    Locked,
    /// An authorisation value is wrong.
    WrongAuth,
    /// A policy does not hold.
    PolicyFails,
    /// A blob was altered, or made by another TPM.
    Integrity,
    /// Nothing at this handle.
    NoSuchHandle,
    /// An index exists already.
    Defined,
    /// An index has never been written.
    Unwritten,
    /// No room, or no slot.
    NoSpace,
    /// The TPM knows no such algorithm, curve, size or command.
    Unknown,
    /// None of these.
    Other,
}

/// Warnings and version-1 errors.
fn format_zero(code: u32) -> Code {
    match code {
        0x908 | 0x90a | 0x920 | 0x922 | 0x923 => Code::Later,
        0x100 => Code::Initialized,
        0x101 => Code::Failure,
        0x921 => Code::Locked,
        0x128 => Code::PolicyFails,
        0x143 => Code::Unknown,
        0x14a => Code::Unwritten,
        0x14b | 0x902..=0x904 => Code::NoSpace,
        0x910..=0x91e => Code::NoSuchHandle,
        0x14c => Code::Defined,
        _ => Code::Other,
    }
}

/// Errors about a handle, a session or a parameter; which one is masked out.
fn format_one(code: u32) -> Code {
    match code {
        0x08e | 0x0a2 => Code::WrongAuth,
        0x09d => Code::PolicyFails,
        0x09f => Code::Integrity,
        0x08b => Code::NoSuchHandle,
        0x081 | 0x083 | 0x084 | 0x092 | 0x0a6 => Code::Unknown,
        _ => Code::Other,
    }
}

/// How long a temporary refusal is waited out. Self-tests and wear protection take less; the daemon's deadline bounds the whole call.
const PATIENCE: Duration = Duration::from_millis(1500);

/// The first pause; it doubles, so that a busy TPM is not kept busy by being asked.
const PAUSE_MIN: Duration = Duration::from_millis(2);

/// Repeats a command that the TPM declined to begin, until it begins or patience ends.
pub(super) fn patiently(mut command: impl FnMut() -> u32) -> Result<(), Rc> {
    let start = Instant::now();
    let mut pause = PAUSE_MIN;
    loop {
        match Rc::check(command()) {
            Err(rc) if rc.passes() && start.elapsed() < PATIENCE => thread::sleep(pause),
            outcome => return outcome,
        }
        pause = (pause * 2).min(PATIENCE / 8);
    }
}

/// A key that does not load is, to its owner, a key that is not here.
pub(super) fn key_missing(id: KeyId) -> Fault {
    Fault::KeyMissing { id }
}

/// The owner hierarchy wants an authorisation that we were not given, or another one than we were given.
pub(super) fn owner_says_no(rc: Rc, given: bool) -> Fault {
    let advice = match given {
        false => "name a file with its authorisation as `owner_auth_file` while enrolling",
        true => "the one in `owner_auth_file` is not it",
    };
    says_no(rc, "owner", advice)
}

pub(super) fn endorsement_says_no(rc: Rc) -> Fault {
    says_no(rc, "endorsement", "enrol before an authorisation is set on it")
}

fn says_no(rc: Rc, hierarchy: &str, advice: &str) -> Fault {
    match rc.code() {
        Code::WrongAuth => {
            Refusal::Other(format!("the TPM's {hierarchy} hierarchy asks for its authorisation; {advice}"))
                .into()
        }
        _ => rc.fault(),
    }
}

impl From<Rc> for Fault {
    fn from(rc: Rc) -> Self {
        rc.fault()
    }
}

impl fmt::Display for Rc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TPM response code 0x{:08x}", self.0)
    }
}

impl fmt::Debug for Rc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rc(0x{:08x})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_means_the_same_whichever_parameter_it_is_about() {
        assert_eq!(Rc(0x1df).code(), Code::Integrity);
        assert_eq!(Rc(0x9a2).code(), Code::WrongAuth);
        assert_eq!(Rc(0x99d).code(), Code::PolicyFails);
        assert_eq!(Rc(0x18b).code(), Code::NoSuchHandle);
    }

    #[test]
    fn a_broken_connection_is_a_loss_and_may_have_had_its_effect() {
        assert!(matches!(Rc(0x000a_000a).fault(), Fault::Lost { harmless: false, .. }));
    }

    #[test]
    fn what_the_tpm_calls_temporary_is_tried_again_until_it_works() {
        let mut answers = [0x922, 0x920, 0].into_iter();
        assert_eq!(patiently(|| answers.next().unwrap()), Ok(()));
        assert_eq!(answers.next(), None);
    }

    #[test]
    fn a_plain_no_is_not_repeated() {
        let mut asked = 0;
        let outcome = patiently(|| {
            asked += 1;
            0x14a
        });
        assert_eq!((outcome, asked), (Err(Rc(0x14a)), 1));
    }
}
