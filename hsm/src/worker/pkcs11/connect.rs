//! Opens a module, finds the token by its serial, logs in exactly once.
//! Enters: the configuration.
//! Leaves: a logged-in token with one session per lane, or what a person has to change.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::{Limit, Slot, TokenInfo};
use hsm::backend::{Backend, Lane};
use hsm::serve::LANES_MAX;
use hsm::{RootPin, StartRefused, TokenConfig};

use super::once::OneCall;
use super::{Desk, Shared, Token, fault, pin, probe, roots};

/// Loads the module, finds the token, logs in, probes.
///
/// # Errors
/// What a person has to change, or what may heal when the token comes back.
pub(crate) fn connect(
    config: &TokenConfig,
    root: Option<&RootPin>,
) -> Result<Box<dyn Backend>, StartRefused> {
    let TokenConfig::Pkcs11 { module: path, serial, label, pin_file, threads, .. } = config else {
        return Err(StartRefused::Device("this is no PKCS#11 token".to_owned()));
    };
    let module = load(path)?;
    let (slot, info) = find_token(&module, serial, label.as_deref())?;
    let sentinel = open(&module, slot)?;
    log_in(&sentinel, &info, pin_file)?;
    let shared = Arc::new(Shared {
        module: module.clone(),
        slot,
        serial: serial.clone(),
        label: label.clone(),
        objects: Mutex::new(()),
        handles: RwLock::new(HashMap::new()),
        root: Mutex::new(roots::known(root)),
    });
    let once = OneCall::load(path, &sentinel).map_err(|fault| refuse_module(path, fault))?;
    let desks = (0..lanes_wanted(*threads, &info))
        .map(|_| Ok(Desk { session: open(&module, slot)?, once: once.clone(), shared: shared.clone() }))
        .collect::<Result<Vec<_>, StartRefused>>()?;
    let mut probe = probe::look(&module, slot, &info, &sentinel, desks.len());
    probe.foreign.extend(desks.first().map(Desk::other_roots).unwrap_or_default());
    let lanes = desks.into_iter().map(|desk| Box::new(desk) as Box<dyn Lane>).collect();
    Ok(Box::new(Token { module, sentinel, lanes, probe }))
}

fn load(path: &Path) -> Result<Pkcs11, StartRefused> {
    if !path.exists() {
        return Err(refuse_module(path, "there is no such file; install it or correct the path".to_owned()));
    }
    let module = Pkcs11::new(path)
        .map_err(|_| refuse_module(path, "it is no PKCS#11 module for this system".to_owned()))?;
    match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(module),
        Err(Error::Pkcs11(RvError::CantLock, _)) => Err(refuse_module(
            path,
            "it cannot be used from several threads; ask its vendor for a version that can".to_owned(),
        )),
        Err(fault) => {
            Err(StartRefused::Device(format!("the module does not initialise: {}", fault::name(&fault))))
        }
    }
}

fn refuse_module(path: &Path, fault: String) -> StartRefused {
    StartRefused::Module { module: path.display().to_string(), fault }
}

/// Slots move when readers are replugged or tokens added; the serial does not. Where it is blank or shared, the label says which one is
/// meant, if no other has it.
fn find_token(module: &Pkcs11, serial: &str, label: Option<&str>) -> Result<(Slot, TokenInfo), StartRefused> {
    let slots = module.get_slots_with_token().map_err(device)?;
    let mut present = Vec::new();
    let mut matching = Vec::new();
    for slot in slots {
        let info = match module.get_token_info(slot) {
            Ok(info) => info,
            Err(fault) => {
                // It may be ours; whoever looks for it has to know why it was passed by.
                present.push(format!(
                    "one in slot {} that cannot be read: {}",
                    slot.id(),
                    fault::name(&fault)
                ));
                continue;
            }
        };
        if info.token_initialized() {
            let shown =
                if info.serial_number().trim().is_empty() { "no serial" } else { info.serial_number() };
            present.push(format!("{} ({})", shown.trim(), info.label().trim()));
            if is_meant(&info, serial, label) {
                matching.push((slot, info));
            }
        }
    }
    match (matching.pop(), matching.is_empty()) {
        (Some(found), true) => Ok(found),
        (Some(_), false) => {
            let advice = match label {
                None => "say by `label` which one is meant",
                Some(_) => "give them labels of their own, or remove all but one",
            };
            let present = present.join(", ");
            Err(StartRefused::Device(format!(
                "several tokens with serial `{}` are present ({present}); {advice}",
                serial.trim()
            )))
        }
        (None, _) => Err(StartRefused::TokenAbsent {
            serial: serial.to_owned(),
            present: if present.is_empty() { "none is".to_owned() } else { present.join(", ") },
        }),
    }
}

/// The serial, and the label as well where one is configured.
pub(super) fn is_meant(info: &TokenInfo, serial: &str, label: Option<&str>) -> bool {
    info.serial_number().trim() == serial.trim()
        && label.is_none_or(|label| info.label().trim() == label.trim())
}

/// Sessions are never closed by themselves: closing the last one logs out, and closing races in some modules.
fn open(module: &Pkcs11, slot: Slot) -> Result<Session, StartRefused> {
    module.open_rw_session_no_drop(slot).map_err(|fault| match fault {
        Error::Pkcs11(RvError::SessionCount, _) => {
            StartRefused::Device("the token gives no further session; lower `threads`".to_owned())
        }
        other => device(other),
    })
}

/// The one C_Login of this worker's life.
fn log_in(session: &Session, info: &TokenInfo, pin_file: &Path) -> Result<(), StartRefused> {
    if info.user_pin_locked() || !info.user_pin_initialized() {
        return Err(StartRefused::PinLocked);
    }
    if info.user_pin_final_try() {
        return Err(StartRefused::PinLastTry);
    }
    let outcome = {
        let pin = pin::read(pin_file)?;
        session.login(UserType::User, Some(&pin))
    };
    match outcome {
        Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
        Err(Error::Pkcs11(
            RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange | RvError::PinExpired,
            _,
        )) => Err(StartRefused::PinWrong { file: pin_file.display().to_string() }),
        Err(Error::Pkcs11(RvError::PinLocked | RvError::UserPinNotInitialized, _)) => {
            Err(StartRefused::PinLocked)
        }
        Err(other) => Err(device(other)),
    }
}

fn lanes_wanted(threads: Option<usize>, info: &TokenInfo) -> usize {
    let wanted = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let given = match info.max_rw_session_count() {
        // One is the sentinel's.
        Limit::Max(most) => usize::try_from(most).unwrap_or(LANES_MAX).saturating_sub(1),
        Limit::Unavailable | Limit::Infinite => LANES_MAX,
    };
    wanted.min(given).clamp(1, LANES_MAX)
}

fn device(error: Error) -> StartRefused {
    StartRefused::Device(format!("the token does not open: {}", fault::name(&error)))
}
