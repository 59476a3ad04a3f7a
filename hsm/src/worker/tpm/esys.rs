//! The one room with foreign-function code: a safe face for the TPM software stack's ESYS library.
//! In come the other files of this folder, with commands as plain structures and handles that clean up after themselves.
//! Out go answers by value, or the TPM's own response code. No pointer leaves this room.
//!
//! Why not the `Context` of `tss-esapi`: version 7 cannot extend or certify an NV index, cannot be given a TCTI string such as
//! `swtpm:path=...`, and lends its inner context to nobody; a second context would block on a TPM that takes one connection.
//! Its types are used throughout.
#![allow(unsafe_code, reason = "libtss2-esys is a C library; every call into it stands in this room")]

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tss_esapi::constants::tss::{
    TPM2_ALG_AES, TPM2_ALG_CFB, TPM2_ALG_NULL, TPM2_CAP_ECC_CURVES, TPM2_CAP_HANDLES,
    TPM2_CAP_TPM_PROPERTIES, TPM2_RH_NULL, TPM2_ST_HASHCHECK, TPM2_SU_CLEAR as SU_CLEAR,
};
use tss_esapi_sys as sys;
use tss_esapi_sys::{
    ESYS_TR_NONE as NONE, TPM2B_DIGEST, TPML_DIGEST, TPML_PCR_SELECTION, TPMS_CAPABILITY_DATA,
    TPMT_SIG_SCHEME, TPMT_SYM_DEF, TPMT_TK_HASHCHECK,
};
use zeroize::Zeroize;

use super::fault::{Rc, patiently};

/// Calls one function of the library with the context in front, waiting out what the TPM calls temporary.
///
/// SAFETY of every use below: the context is open while `Raw` lives; argument pointers come from references that outlive the call; result
/// pointers come from [`Out`], which owns what the library allocates.
macro_rules! call {
    ($self:ident.$function:ident($($argument:expr),* $(,)?)) => {{
        let raw = $self.raw();
        patiently(|| unsafe { sys::$function(raw.esys, $($argument),*) })
    }};
}

mod nv;
mod objects;

/// An open connection to one TPM. Commands go one at a time, whoever asks.
pub(super) struct Esys {
    raw: Mutex<Raw>,
    /// One entry for each [`Handle`]. The library knows a persistent object or index once, however often it is reached, and forgets
    /// it at the first close; so only the last handle closes.
    open: Mutex<Vec<u32>>,
}

/// A TPM resource in use. Dropping it gives the slot back: transient objects and sessions are flushed, others forgotten.
pub(super) struct Handle {
    esys: Arc<Esys>,
    tr: u32,
    flush: bool,
    /// The TPM has flushed it already.
    spent: bool,
}

/// Who authorises a command.
#[derive(Clone, Copy)]
pub(super) enum Auth<'a> {
    /// The authorisation value that was set on the handle (an empty one if none was), sent in the clear.
    Password,
    /// A session: the value is proven, not sent, and the first parameter travels encrypted if the session says so.
    Session(&'a Handle),
}

/// The hierarchies this product uses.
#[derive(Clone, Copy)]
pub(super) enum Hierarchy {
    /// Storage root, NV indices.
    Owner,
    /// The attestation key.
    Endorsement,
    /// Of this power cycle alone: asks for no authorisation, ever.
    Null,
}

/// What a session is for (TPM_SE).
#[derive(Clone, Copy)]
pub(super) enum SessionKind {
    /// Proves knowledge of an authorisation value.
    Hmac = 0,
    /// Proves a state of the machine.
    Policy = 1,
}

/// Which parameter a session encrypts, by its bit in TPMA_SESSION (TPM 2.0 part 2, section 8.4).
#[derive(Clone, Copy)]
pub(super) enum Hides {
    /// None of them.
    Nothing = 0,
    /// What goes to the TPM.
    Command = 0x20,
    /// What comes from it.
    Response = 0x40,
    /// None, but the answer is authenticated all the same: for commands that nothing authorises and whose answer begins with no
    /// buffer that could be encrypted.
    AuditOnly = 0x80,
}

const CONTINUE_SESSION: u8 = 0x01;

/// The daemon kills a worker whose call outlives its deadline, so no time-out is needed here.
const WAIT_FOR_EVER: i32 = -1;

struct Raw {
    esys: *mut sys::ESYS_CONTEXT,
    tcti: *mut sys::TSS2_TCTI_CONTEXT,
}

// SAFETY: the library keeps no thread-local state; a context may move between threads as long as one at a time uses it,
// and the mutex around `Raw` sees to that.
unsafe impl Send for Raw {}

impl Esys {
    /// Opens a TPM by its TCTI string, such as `device:/dev/tpmrm0` or `swtpm:path=/run/x.sock`.
    pub(super) fn connect(tcti: &str) -> Result<Arc<Self>, Rc> {
        let name = CString::new(tcti).map_err(|_| Rc::BAD_TCTI)?;
        let mut raw = Raw { esys: null_mut(), tcti: null_mut() };
        // SAFETY: both calls fill the pointer they are given or leave it null; `Raw` closes what was opened, in its drop.
        Rc::check(unsafe { sys::Tss2_TctiLdr_Initialize(name.as_ptr(), &mut raw.tcti) })?;
        Rc::check(unsafe { sys::Esys_Initialize(&mut raw.esys, raw.tcti, null_mut()) })?;
        Ok(Arc::new(Self { raw: Mutex::new(raw), open: Mutex::default() }))
    }

    pub(super) fn startup(&self) -> Result<(), Rc> {
        call!(self.Esys_Startup(SU_CLEAR))
    }

    /// Tells the TPM that the next loss of power is meant, so that it counts nothing against anyone.
    pub(super) fn shutdown(&self) -> Result<(), Rc> {
        call!(self.Esys_Shutdown(NONE, NONE, NONE, SU_CLEAR))
    }

    pub(super) fn random(&self, count: u16) -> Result<TPM2B_DIGEST, Rc> {
        let mut bytes = Out::new();
        call!(self.Esys_GetRandom(NONE, NONE, NONE, count, bytes.slot()))?;
        bytes.take()
    }

    /// Flushes an object or session that someone left behind. ESYS only flushes what it made itself, so this one command is put
    /// together here, byte for byte, and handed to the connection below it (TPM 2.0 part 3, section 28.4).
    pub(super) fn flush_leftover(&self, tpm_handle: u32) -> Result<(), Rc> {
        let mut command = [0x80, 0x01, 0, 0, 0, 14, 0, 0, 0x01, 0x65, 0, 0, 0, 0];
        command[10..].copy_from_slice(&tpm_handle.to_be_bytes());
        let (mut answer, mut length) = ([0u8; 64], 64);
        let raw = self.raw();
        // SAFETY: every TCTI context begins with this structure; both calls stay within the lengths they are given.
        unsafe {
            let common = &*raw.tcti.cast::<sys::TSS2_TCTI_CONTEXT_COMMON_V1>();
            let (Some(transmit), Some(receive)) = (common.transmit, common.receive) else {
                return Err(Rc::NO_ANSWER);
            };
            Rc::check(transmit(raw.tcti, command.len() as _, command.as_ptr()))?;
            Rc::check(receive(raw.tcti, &mut length, answer.as_mut_ptr(), WAIT_FOR_EVER))?;
        }
        answer[6..].first_chunk().map_or(Err(Rc::NO_ANSWER), |code| Rc::check(u32::from_be_bytes(*code)))
    }

    /// The handles in use, from `first` to the end of its range. The session vouches for the answer.
    pub(super) fn handles(&self, first: u32, session: Option<&Handle>) -> Result<Vec<u32>, Rc> {
        // SAFETY: the union holds what was asked for; the library checked the count against the array's length.
        let list = unsafe { self.capability(TPM2_CAP_HANDLES, first, session)?.data.handles };
        Ok(list.handle.into_iter().take(list.count as usize).collect())
    }

    /// Properties by number, from `first` on.
    pub(super) fn properties(&self, first: u32) -> Result<Vec<(u32, u32)>, Rc> {
        // SAFETY: as above.
        let list = unsafe { self.capability(TPM2_CAP_TPM_PROPERTIES, first, None)?.data.tpmProperties };
        Ok(list
            .tpmProperty
            .into_iter()
            .take(list.count as usize)
            .map(|one| (one.property, one.value))
            .collect())
    }

    /// The elliptic curves it knows, by number.
    pub(super) fn curves(&self) -> Result<Vec<u16>, Rc> {
        // SAFETY: as above.
        let list = unsafe { self.capability(TPM2_CAP_ECC_CURVES, 0, None)?.data.eccCurves };
        Ok(list.eccCurves.into_iter().take(list.count as usize).collect())
    }

    /// Reads registers. The TPM may read fewer than asked for; one at a time it always reads. The session vouches for the answer.
    pub(super) fn pcr_read(
        &self,
        session: Option<&Handle>,
        selection: &TPML_PCR_SELECTION,
    ) -> Result<TPML_DIGEST, Rc> {
        let (mut counter, mut read, mut values) = (0, Out::<TPML_PCR_SELECTION>::new(), Out::new());
        let session = beside(session);
        call!(self.Esys_PCR_Read(session, NONE, NONE, selection, &mut counter, read.slot(), values.slot()))?;
        values.take()
    }

    fn capability(
        &self,
        capability: u32,
        first: u32,
        session: Option<&Handle>,
    ) -> Result<TPMS_CAPABILITY_DATA, Rc> {
        let (mut data, mut more, count) = (Out::new(), 0, 128);
        let by = beside(session);
        call!(self.Esys_GetCapability(by, NONE, NONE, capability, first, count, &mut more, data.slot()))?;
        data.take()
    }

    fn handle(self: &Arc<Self>, tr: u32, flush: bool) -> Handle {
        self.open().push(tr);
        Handle { esys: Arc::clone(self), tr, flush, spent: false }
    }

    /// A thread that panicked between two commands leaves the context usable, so poison is not passed on.
    fn raw(&self) -> MutexGuard<'_, Raw> {
        self.raw.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> MutexGuard<'_, Vec<u32>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Strikes one handle off the list and says whether it was the last one to its object.
    fn was_last(&self, tr: u32) -> bool {
        let mut open = self.open();
        if let Some(place) = open.iter().position(|one| *one == tr) {
            open.swap_remove(place);
        }
        !open.contains(&tr)
    }

    fn release(&self, tr: &mut u32, flush: bool) -> Result<(), Rc> {
        if flush { call!(self.Esys_FlushContext(*tr)) } else { call!(self.Esys_TR_Close(tr)) }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.esys.was_last(self.tr) && !self.spent {
            // A TPM that is gone has forgotten the slot already, so there is nothing to do about a failure.
            let _ = self.esys.release(&mut self.tr, self.flush);
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // SAFETY: both functions accept what `connect` filled in, null included in the first case by the check; nothing uses it afterwards.
        unsafe {
            if !self.esys.is_null() {
                sys::Esys_Finalize(&mut self.esys);
            }
            if !self.tcti.is_null() {
                sys::Tss2_TctiLdr_Finalize(&mut self.tcti);
            }
        }
    }
}

/// A result that the library allocates and this side must free.
struct Out<T>(*mut T);

impl<T: Copy> Out<T> {
    fn new() -> Self {
        Self(null_mut())
    }

    fn slot(&mut self) -> *mut *mut T {
        &mut self.0
    }

    fn take(self) -> Result<T, Rc> {
        // SAFETY: either null or one `T` that the library wrote in full; it is copied here and freed in drop.
        unsafe { self.0.as_ref() }.copied().ok_or(Rc::NO_ANSWER)
    }
}

impl<T> Drop for Out<T> {
    fn drop(&mut self) {
        // SAFETY: null, or allocated by the library and not freed yet. What it holds may be secret, so it is wiped byte by byte first.
        unsafe {
            if !self.0.is_null() {
                std::slice::from_raw_parts_mut(self.0.cast::<MaybeUninit<u8>>(), size_of::<T>()).zeroize();
            }
            sys::Esys_Free(self.0.cast());
        }
    }
}

impl Auth<'_> {
    fn tr(self) -> u32 {
        match self {
            Self::Password => sys::ESYS_TR_PASSWORD,
            Self::Session(session) => session.tr,
        }
    }
}

impl Hierarchy {
    fn tr(self) -> u32 {
        match self {
            Self::Owner => sys::ESYS_TR_RH_OWNER,
            Self::Endorsement => sys::ESYS_TR_RH_ENDORSEMENT,
            Self::Null => sys::ESYS_TR_RH_NULL,
        }
    }
}

/// A session that authorises nothing and stands beside the command, to encrypt or authenticate it.
fn beside(session: Option<&Handle>) -> u32 {
    session.map_or(NONE, |session| session.tr)
}

fn aes_128_cfb() -> TPMT_SYM_DEF {
    let (key_bits, mode) = (sys::TPMU_SYM_KEY_BITS { aes: 128 }, sys::TPMU_SYM_MODE { aes: TPM2_ALG_CFB });
    TPMT_SYM_DEF { algorithm: TPM2_ALG_AES, keyBits: key_bits, mode }
}

/// "As the key says": attestation keys carry their scheme.
fn null_scheme() -> TPMT_SIG_SCHEME {
    TPMT_SIG_SCHEME { scheme: TPM2_ALG_NULL, ..Default::default() }
}

/// "This digest was not made inside the TPM", which an unrestricted key may sign.
fn null_ticket() -> TPMT_TK_HASHCHECK {
    TPMT_TK_HASHCHECK { tag: TPM2_ST_HASHCHECK, hierarchy: TPM2_RH_NULL, digest: TPM2B_DIGEST::default() }
}
