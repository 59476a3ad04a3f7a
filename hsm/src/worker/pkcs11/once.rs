//! C_SignInit and C_Sign, once each: the usual wrapper asks for the length first, which a network token answers by another round trip.
//! Enters: an open session, a key's handle, a mechanism, bytes.
//! Leaves: a signature in a buffer that is large enough for any.

#![allow(
    unsafe_code,
    reason = "PKCS#11 is a C interface; this file calls two of its functions and nothing else here does"
)]

use std::path::Path;
use std::sync::Arc;

use cryptoki::context::Function;
use cryptoki::error::{Error, Rv};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use cryptoki_sys::{
    CK_FUNCTION_LIST, CK_MECHANISM, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_SESSION_INFO, CK_ULONG,
    CKR_OK, Pkcs11,
};

/// How a session signs: by two calls, or by the wrapper's three where the two are not to be had.
#[derive(Clone)]
pub(super) struct OneCall(Option<Functions>);

/// The two functions, and the module that keeps them in memory.
#[derive(Clone)]
struct Functions {
    init: unsafe extern "C" fn(CK_SESSION_HANDLE, *mut CK_MECHANISM, CK_OBJECT_HANDLE) -> CK_RV,
    sign: unsafe extern "C" fn(CK_SESSION_HANDLE, *mut u8, CK_ULONG, *mut u8, *mut CK_ULONG) -> CK_RV,
    _module: Arc<Pkcs11>,
}

impl OneCall {
    /// Finds the functions in a module that is loaded already, if the list of functions that it gives now knows the sessions of the list that
    /// the wrapper holds. Some modules (p11-kit's) give everybody who asks an instance of its own, which knows no session but its own.
    ///
    /// # Errors
    /// In words, when this is no module at all.
    pub(super) fn load(path: &Path, session: &Session) -> Result<Self, String> {
        let lacking = || "it does not export C_Sign; this is no PKCS#11 module".to_owned();
        // SAFETY: the library was loaded before, so no initialiser runs now.
        let module = unsafe { Pkcs11::new(path) }.map_err(|_| lacking())?;
        if module.C_GetFunctionList.is_err() {
            return Err(lacking());
        }
        let mut list: *mut CK_FUNCTION_LIST = std::ptr::null_mut();
        // SAFETY: the function exists and writes one pointer.
        let given = unsafe { module.C_GetFunctionList(&raw mut list) };
        if given != CKR_OK || list.is_null() {
            return Err(lacking());
        }
        // SAFETY: the standard says that a list given with CKR_OK stays valid as long as the module is loaded.
        let list = unsafe { *list };
        let (Some(init), Some(sign)) = (list.C_SignInit, list.C_Sign) else { return Err(lacking()) };
        let mut info = CK_SESSION_INFO { slotID: 0, state: 0, flags: 0, ulDeviceError: 0 };
        // SAFETY: the function writes the structure it is given and nothing else.
        let known = list.C_GetSessionInfo.map(|ask| unsafe { ask(session.handle(), &raw mut info) });
        let same = known == Some(CKR_OK);
        Ok(Self(same.then(|| Functions { init, sign, _module: Arc::new(module) })))
    }

    /// Signs. The flag beside the error says whether signing proper had begun.
    ///
    /// # Errors
    /// What the module answered.
    pub(super) fn sign(
        &self,
        session: &Session,
        mechanism: &Mechanism<'_>,
        key: ObjectHandle,
        input: &[u8],
    ) -> Result<Vec<u8>, (Error, bool)> {
        match &self.0 {
            Some(functions) => functions.sign(session, mechanism, key, input),
            None => session.sign(mechanism, key, input).map_err(|fault| {
                let begun = !matches!(&fault, Error::Pkcs11(_, Function::SignInit));
                (fault, begun)
            }),
        }
    }
}

impl Functions {
    fn sign(
        &self,
        session: &Session,
        mechanism: &Mechanism<'_>,
        key: ObjectHandle,
        input: &[u8],
    ) -> Result<Vec<u8>, (Error, bool)> {
        let mut mechanism: CK_MECHANISM = mechanism.into();
        // SAFETY: the mechanism and what it points to outlive the call; the session is ours alone.
        let begun = unsafe { (self.init)(session.handle(), &raw mut mechanism, key.handle()) };
        read(begun, Function::SignInit).map_err(|fault| (fault, false))?;
        let mut made = vec![0; SIGNATURE_BYTES_MAX];
        let mut len = SIGNATURE_BYTES_MAX as CK_ULONG;
        // SAFETY: input is only read, whatever its type in C says; `len` bytes of `made` are writable.
        let signed = unsafe {
            let input_len = input.len() as CK_ULONG;
            (self.sign)(
                session.handle(),
                input.as_ptr().cast_mut(),
                input_len,
                made.as_mut_ptr(),
                &raw mut len,
            )
        };
        read(signed, Function::Sign).map_err(|fault| (fault, true))?;
        made.truncate(usize::try_from(len).unwrap_or(SIGNATURE_BYTES_MAX));
        Ok(made)
    }
}

fn read(value: CK_RV, function: Function) -> Result<(), Error> {
    match Rv::from(value) {
        Rv::Ok => Ok(()),
        Rv::Error(value) => Err(Error::Pkcs11(value, function)),
    }
}

/// RSA-4096.
const SIGNATURE_BYTES_MAX: usize = 512;
