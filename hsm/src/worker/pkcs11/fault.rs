//! What a module's return values mean for us.
//! Enters: an error of the module, and whether the call may have had an effect.
//! Leaves: a [`Fault`]: refused, missing, unsupported, or a device that is not to be trusted any further.

use cryptoki::error::{Error, RvError};
use hsm::Refusal;
use hsm::backend::Fault;

use super::Desk;

/// May the failed call have changed or signed something?
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    Possible,
}

/// Reads a module's error.
pub(super) fn read(error: &Error, effect: Effect) -> Fault {
    let name = name(error);
    let Error::Pkcs11(value, _) = error else {
        return lost(&name, effect);
    };
    match value {
        RvError::DeviceMemory => Refusal::TokenFull.into(),
        RvError::TokenWriteProtected | RvError::SessionReadOnly => Refusal::WriteProtected.into(),
        RvError::MechanismInvalid
        | RvError::MechanismParamInvalid
        | RvError::KeySizeRange
        | RvError::CurveNotSupported
        | RvError::DomainParamsInvalid
        | RvError::FunctionNotSupported
        | RvError::TemplateInconsistent
        | RvError::AttributeTypeInvalid
        | RvError::AttributeValueInvalid => Fault::Unsupported { what: name },
        RvError::DataInvalid | RvError::DataLenRange | RvError::KeyTypeInconsistent => {
            Refusal::BadInput("the token does not take it".to_owned()).into()
        }
        RvError::EncryptedDataInvalid | RvError::EncryptedDataLenRange | RvError::SignatureInvalid => {
            Refusal::SealBroken.into()
        }
        RvError::KeyFunctionNotPermitted | RvError::ActionProhibited => {
            Refusal::Other("the key may not be used for this".to_owned()).into()
        }
        // All the rest, from DEVICE_ERROR to values no standard knows: only a fresh worker may speak to the device again.
        _ => lost(&name, effect),
    }
}

/// True when the module says that it failed, and no more. About a key that was to be made that is an answer: none was made (PKCS#11
/// 2.40, section 5.1), and the module goes on.
const fn is_clean_failure(error: &Error) -> bool {
    matches!(
        error,
        Error::Pkcs11(RvError::GeneralError | RvError::FunctionFailed | RvError::VendorDefined(_), _)
    )
}

/// True when nothing was made for certain, so that the same may be asked for in other words.
pub(super) fn made_nothing(error: &Error) -> bool {
    is_clean_failure(error) || !matches!(read(error, Effect::Possible), Fault::Lost { .. })
}

impl Desk {
    /// Why an object was not made. Whoever is still there and logged in has simply said no, which costs nobody else anything.
    pub(super) fn unmade(&self, error: &Error) -> Fault {
        if !is_clean_failure(error) {
            return read(error, Effect::Possible);
        }
        match self.confirm_presence() {
            Ok(()) => Refusal::Failed(name(error)).into(),
            Err(lost) => lost,
        }
    }
}

/// A module's error by the standard's name: `C_Initialize gave GeneralError`.
pub(super) fn name(error: &Error) -> String {
    match error {
        Error::Pkcs11(value, function) => format!("C_{function:?} gave {value:?}"),
        other => other.to_string(),
    }
}

/// True when the module does not know the handle any more: the key was destroyed behind our back, or the handle is stale.
pub(super) const fn is_stale(error: &Error) -> bool {
    matches!(error, Error::Pkcs11(RvError::KeyHandleInvalid | RvError::ObjectHandleInvalid, _))
}

fn lost(why: &str, effect: Effect) -> Fault {
    Fault::Lost { why: why.to_owned(), harmless: effect == Effect::None }
}
