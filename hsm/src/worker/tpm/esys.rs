//! The one room with foreign-function code: a safe face for the TPM software stack's ESYS library.
//! In come the other files of this folder, with commands as plain structures and handles that clean up after themselves.
//! Out go answers by value, or the TPM's own response code. No pointer leaves this file.
//!
//! Why not the `Context` of `tss-esapi`: version 7 cannot extend or certify an NV index, cannot be given a TCTI string such as
//! `swtpm:path=...`, and lends its inner context to nobody; a second context would block on a TPM that takes one connection. Its types are used throughout.
#![allow(unsafe_code, reason = "libtss2-esys is a C library; every call into it stands in this file")]

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::ptr::{null, null_mut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tss_esapi::constants::tss::{
    TPM2_ALG_AES, TPM2_ALG_CFB, TPM2_ALG_NULL, TPM2_ALG_SHA256 as SHA256, TPM2_RH_NULL, TPM2_ST_HASHCHECK,
    TPM2_SU_CLEAR as SU_CLEAR,
};
use tss_esapi_sys as sys;
use tss_esapi_sys::{
    ESYS_TR_NONE as NONE, TPM2B_ATTEST, TPM2B_AUTH, TPM2B_DATA, TPM2B_DIGEST, TPM2B_MAX_BUFFER,
    TPM2B_MAX_NV_BUFFER, TPM2B_NAME, TPM2B_NV_PUBLIC, TPM2B_PRIVATE, TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE, TPM2B_SENSITIVE_DATA, TPML_DIGEST, TPML_PCR_SELECTION, TPMS_CAPABILITY_DATA,
    TPMT_SIG_SCHEME, TPMT_SIGNATURE, TPMT_SYM_DEF, TPMT_TK_HASHCHECK,
};

use zeroize::Zeroize;

use super::rc::{Rc, patiently};

/// An open connection to one TPM. Commands go one at a time, whoever asks.
pub(super) struct Esys {
    raw: Mutex<Raw>,
}

/// A TPM resource in use. Dropping it gives the slot back: transient objects and sessions are flushed, others forgotten.
pub(super) struct Handle {
    esys: Arc<Esys>,
    tr: u32,
    flush: bool,
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
    /// None.
    Nothing = 0,
    /// What goes to the TPM.
    Command = 0x20,
    /// What comes from it.
    Response = 0x40,
}

const CONTINUE_SESSION: u8 = 0x01;

struct Raw {
    esys: *mut sys::ESYS_CONTEXT,
    tcti: *mut sys::TSS2_TCTI_CONTEXT,
}

// SAFETY: the library keeps no thread-local state; a context may move between threads as long as one at a time uses it,
// and the mutex around `Raw` sees to that.
unsafe impl Send for Raw {}

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

impl Esys {
    /// Opens a TPM by its TCTI string, such as `device:/dev/tpmrm0` or `swtpm:path=/run/x.sock`.
    pub(super) fn open(tcti: &str) -> Result<Arc<Self>, Rc> {
        let name = CString::new(tcti).map_err(|_| Rc::BAD_TCTI)?;
        let mut raw = Raw { esys: null_mut(), tcti: null_mut() };
        // SAFETY: both calls fill the pointer they are given or leave it null; `Raw` closes what was opened, in its drop.
        Rc::check(unsafe { sys::Tss2_TctiLdr_Initialize(name.as_ptr(), &mut raw.tcti) })?;
        Rc::check(unsafe { sys::Esys_Initialize(&mut raw.esys, raw.tcti, null_mut()) })?;
        Ok(Arc::new(Self { raw: Mutex::new(raw) }))
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

    pub(super) fn capability(&self, capability: u32, first: u32, count: u32) -> Result<TPMS_CAPABILITY_DATA, Rc> {
        let (mut data, mut more) = (Out::new(), 0);
        call!(self.Esys_GetCapability(NONE, NONE, NONE, capability, first, count, &mut more, data.slot()))?;
        data.take()
    }

    pub(super) fn pcr_read(&self, selection: &TPML_PCR_SELECTION) -> Result<(TPML_PCR_SELECTION, TPML_DIGEST), Rc> {
        let (mut counter, mut read, mut values) = (0, Out::new(), Out::new());
        call!(self.Esys_PCR_Read(NONE, NONE, NONE, selection, &mut counter, read.slot(), values.slot()))?;
        Ok((read.take()?, values.take()?))
    }

    /// Reaches an object or index that stays in the TPM, by its TPM handle.
    pub(super) fn persistent(self: &Arc<Self>, tpm_handle: u32) -> Result<Handle, Rc> {
        let mut tr = NONE;
        call!(self.Esys_TR_FromTPMPublic(tpm_handle, NONE, NONE, NONE, &mut tr))?;
        Ok(self.handle(tr, false))
    }

    /// Reaches a transient object that someone left behind, in order to flush it.
    pub(super) fn leftover(self: &Arc<Self>, tpm_handle: u32) -> Result<Handle, Rc> {
        let mut handle = self.persistent(tpm_handle)?;
        handle.flush = true;
        Ok(handle)
    }

    pub(super) fn create_primary(
        self: &Arc<Self>,
        hierarchy: Hierarchy,
        template: &TPM2B_PUBLIC,
    ) -> Result<Handle, Rc> {
        let (mut tr, mut public, mut data) = (NONE, Out::<TPM2B_PUBLIC>::new(), Out::new());
        let (mut hash, mut ticket) = (Out::new(), Out::new());
        let (sensitive, outside, pcrs) = (TPM2B_SENSITIVE_CREATE::default(), TPM2B_DATA::default(), Default::default());
        call!(self.Esys_CreatePrimary(
            hierarchy.tr(), sys::ESYS_TR_PASSWORD, NONE, NONE, &sensitive, template, &outside, &pcrs,
            &mut tr, public.slot(), data.slot(), hash.slot(), ticket.slot(),
        ))?;
        Ok(self.handle(tr, true))
    }

    /// Keeps an object of either hierarchy across restarts; it is the owner who allows it (TPM 2.0 part 3, section 28.5).
    pub(super) fn keep(self: &Arc<Self>, object: &Handle, persistent: u32) -> Result<Handle, Rc> {
        let mut tr = NONE;
        let owner = Hierarchy::Owner.tr();
        call!(self.Esys_EvictControl(owner, object.tr, sys::ESYS_TR_PASSWORD, NONE, NONE, persistent, &mut tr))?;
        Ok(self.handle(tr, false))
    }

    /// Makes an object under a parent; it comes back as two blobs and is not loaded.
    pub(super) fn create(
        &self,
        parent: &Handle,
        auth: Auth<'_>,
        sensitive: &TPM2B_SENSITIVE_CREATE,
        template: &TPM2B_PUBLIC,
    ) -> Result<(TPM2B_PRIVATE, TPM2B_PUBLIC), Rc> {
        let (mut private, mut public, mut data) = (Out::new(), Out::new(), Out::new());
        let (mut hash, mut ticket) = (Out::new(), Out::new());
        let (outside, pcrs) = (TPM2B_DATA::default(), TPML_PCR_SELECTION::default());
        call!(self.Esys_Create(
            parent.tr, auth.tr(), NONE, NONE, sensitive, template, &outside, &pcrs,
            private.slot(), public.slot(), data.slot(), hash.slot(), ticket.slot(),
        ))?;
        Ok((private.take()?, public.take()?))
    }

    pub(super) fn load(
        self: &Arc<Self>,
        parent: &Handle,
        private: &TPM2B_PRIVATE,
        public: &TPM2B_PUBLIC,
    ) -> Result<Handle, Rc> {
        let mut tr = NONE;
        call!(self.Esys_Load(parent.tr, sys::ESYS_TR_PASSWORD, NONE, NONE, private, public, &mut tr))?;
        Ok(self.handle(tr, true))
    }

    pub(super) fn read_public(&self, object: &Handle) -> Result<TPM2B_PUBLIC, Rc> {
        let (mut public, mut name, mut qualified) = (Out::new(), Out::new(), Out::new());
        call!(self.Esys_ReadPublic(object.tr, NONE, NONE, NONE, public.slot(), name.slot(), qualified.slot()))?;
        public.take()
    }

    pub(super) fn sign(
        &self,
        key: &Handle,
        digest: &TPM2B_DIGEST,
        scheme: &TPMT_SIG_SCHEME,
    ) -> Result<TPMT_SIGNATURE, Rc> {
        let mut signature = Out::new();
        let ticket = null_ticket();
        call!(self.Esys_Sign(key.tr, sys::ESYS_TR_PASSWORD, NONE, NONE, digest, scheme, &ticket, signature.slot()))?;
        signature.take()
    }

    pub(super) fn hmac(&self, key: &Handle, text: &TPM2B_MAX_BUFFER) -> Result<TPM2B_DIGEST, Rc> {
        let mut tag = Out::new();
        call!(self.Esys_HMAC(key.tr, sys::ESYS_TR_PASSWORD, NONE, NONE, text, SHA256, tag.slot()))?;
        tag.take()
    }

    /// Begins an HMAC over more than one buffer. The sequence takes a slot until [`Esys::hmac_finish`].
    pub(super) fn hmac_begin(self: &Arc<Self>, key: &Handle) -> Result<Handle, Rc> {
        let (mut tr, auth) = (NONE, TPM2B_AUTH::default());
        call!(self.Esys_HMAC_Start(key.tr, sys::ESYS_TR_PASSWORD, NONE, NONE, &auth, SHA256, &mut tr))?;
        Ok(self.handle(tr, true))
    }

    pub(super) fn hmac_more(&self, sequence: &Handle, text: &TPM2B_MAX_BUFFER) -> Result<(), Rc> {
        call!(self.Esys_SequenceUpdate(sequence.tr, sys::ESYS_TR_PASSWORD, NONE, NONE, text))
    }

    pub(super) fn hmac_finish(&self, mut sequence: Handle) -> Result<TPM2B_DIGEST, Rc> {
        let (mut tag, mut ticket) = (Out::new(), Out::<TPMT_TK_HASHCHECK>::new());
        let (nothing, null) = (TPM2B_MAX_BUFFER::default(), TPM2_RH_NULL);
        call!(self.Esys_SequenceComplete(
            sequence.tr, sys::ESYS_TR_PASSWORD, NONE, NONE, &nothing, null, tag.slot(), ticket.slot(),
        ))?;
        // The TPM flushed the sequence itself and the library forgot its handle.
        sequence.tr = NONE;
        tag.take()
    }

    pub(super) fn unseal(&self, object: &Handle, auth: Auth<'_>) -> Result<TPM2B_SENSITIVE_DATA, Rc> {
        let mut data = Out::new();
        call!(self.Esys_Unseal(object.tr, auth.tr(), NONE, NONE, data.slot()))?;
        data.take()
    }

    /// Opens a session whose secret is agreed with `salt_key`, so that who listens on the bus learns nothing. It encrypts the first
    /// parameter in the direction given, of every command it is used in.
    pub(super) fn session(
        self: &Arc<Self>,
        salt_key: &Handle,
        kind: SessionKind,
        hides: Hides,
    ) -> Result<Handle, Rc> {
        let mut tr = NONE;
        let symmetric = aes_128_cfb();
        call!(self.Esys_StartAuthSession(
            salt_key.tr, NONE, NONE, NONE, NONE, null(), kind as u8, &symmetric, SHA256, &mut tr,
        ))?;
        let session = self.handle(tr, true);
        call!(self.Esys_TRSess_SetAttributes(tr, CONTINUE_SESSION | hides as u8, 0xff))?;
        Ok(session)
    }

    pub(super) fn policy_pcr(&self, session: &Handle, pcrs: &TPML_PCR_SELECTION) -> Result<(), Rc> {
        let current = TPM2B_DIGEST::default();
        call!(self.Esys_PolicyPCR(session.tr, NONE, NONE, NONE, &current, pcrs))
    }

    pub(super) fn policy_digest(&self, session: &Handle) -> Result<TPM2B_DIGEST, Rc> {
        let mut digest = Out::new();
        call!(self.Esys_PolicyGetDigest(session.tr, NONE, NONE, NONE, digest.slot()))?;
        digest.take()
    }
}

// The continuation: NV indices and attestation.
impl Esys {
    /// Sets the value that authorises uses of an index from now on; it stays on this side of the bus.
    pub(super) fn set_index_auth(&self, index: &Handle, value: &TPM2B_AUTH) -> Result<(), Rc> {
        call!(self.Esys_TR_SetAuth(index.tr, value))
    }

    /// Sets the value that authorises the owner's deeds: making things persistent, defining indices.
    pub(super) fn set_owner_auth(&self, value: &TPM2B_AUTH) -> Result<(), Rc> {
        call!(self.Esys_TR_SetAuth(Hierarchy::Owner.tr(), value))
    }

    pub(super) fn nv_define(&self, auth: &TPM2B_AUTH, public: &TPM2B_NV_PUBLIC) -> Result<(), Rc> {
        let mut tr = NONE;
        let owner = Hierarchy::Owner.tr();
        call!(self.Esys_NV_DefineSpace(owner, sys::ESYS_TR_PASSWORD, NONE, NONE, auth, public, &mut tr))?;
        // The library made a handle that nobody wants: it is forgotten here, the index stays.
        call!(self.Esys_TR_Close(&mut tr))
    }

    pub(super) fn nv_public(&self, index: &Handle) -> Result<(TPM2B_NV_PUBLIC, TPM2B_NAME), Rc> {
        let (mut public, mut name) = (Out::new(), Out::new());
        call!(self.Esys_NV_ReadPublic(index.tr, NONE, NONE, NONE, public.slot(), name.slot()))?;
        Ok((public.take()?, name.take()?))
    }

    pub(super) fn nv_extend(&self, index: &Handle, auth: Auth<'_>, data: &TPM2B_MAX_NV_BUFFER) -> Result<(), Rc> {
        call!(self.Esys_NV_Extend(index.tr, index.tr, auth.tr(), NONE, NONE, data))
    }

    pub(super) fn nv_increment(&self, index: &Handle, auth: Auth<'_>) -> Result<(), Rc> {
        call!(self.Esys_NV_Increment(index.tr, index.tr, auth.tr(), NONE, NONE))
    }

    pub(super) fn nv_read(&self, index: &Handle, auth: Auth<'_>, size: u16) -> Result<TPM2B_MAX_NV_BUFFER, Rc> {
        let mut data = Out::new();
        call!(self.Esys_NV_Read(index.tr, index.tr, auth.tr(), NONE, NONE, size, 0, data.slot()))?;
        data.take()
    }

    /// Has the attestation key sign the whole content of an index. The key has no value of its own; the index has.
    pub(super) fn nv_certify(
        &self,
        key: &Handle,
        index: &Handle,
        auth: Auth<'_>,
        qualifying: &TPM2B_DATA,
        size: u16,
    ) -> Result<(TPM2B_ATTEST, TPMT_SIGNATURE), Rc> {
        let (mut attest, mut signature) = (Out::new(), Out::new());
        let scheme = null_scheme();
        call!(self.Esys_NV_Certify(
            key.tr, index.tr, index.tr, sys::ESYS_TR_PASSWORD, auth.tr(), NONE,
            qualifying, &scheme, size, 0, attest.slot(), signature.slot(),
        ))?;
        Ok((attest.take()?, signature.take()?))
    }

    pub(super) fn quote(
        &self,
        key: &Handle,
        qualifying: &TPM2B_DATA,
        pcrs: &TPML_PCR_SELECTION,
    ) -> Result<(TPM2B_ATTEST, TPMT_SIGNATURE), Rc> {
        let (mut attest, mut signature) = (Out::new(), Out::new());
        let scheme = null_scheme();
        call!(self.Esys_Quote(
            key.tr, sys::ESYS_TR_PASSWORD, NONE, NONE, qualifying, &scheme, pcrs, attest.slot(), signature.slot(),
        ))?;
        Ok((attest.take()?, signature.take()?))
    }

    fn handle(self: &Arc<Self>, tr: u32, flush: bool) -> Handle {
        Handle { esys: Arc::clone(self), tr, flush }
    }

    /// A thread that panicked between two commands leaves the context usable, so poison is not passed on.
    fn raw(&self) -> MutexGuard<'_, Raw> {
        self.raw.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self, tr: &mut u32, flush: bool) -> Result<(), Rc> {
        if flush { call!(self.Esys_FlushContext(*tr)) } else { call!(self.Esys_TR_Close(tr)) }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.tr == NONE {
            return;
        }
        // A TPM that is gone has forgotten the slot already, so there is nothing to do about a failure.
        let _ = self.esys.release(&mut self.tr, self.flush);
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // SAFETY: both functions accept what `open` filled in, null included in the first case by the check; nothing uses it afterwards.
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
        }
    }
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
