//! Commands on objects and sessions: create, load, use, seal, prove.
//! In come structures by reference and handles of other objects.
//! Out go structures by value and new handles, which flush themselves.

use std::ptr::{null, null_mut};
use std::sync::Arc;

use tss_esapi::constants::tss::{TPM2_ALG_SHA256 as SHA256, TPM2_RH_NULL};
use tss_esapi_sys as sys;
use tss_esapi_sys::{
    ESYS_TR_NONE as NONE, TPM2B_ATTEST, TPM2B_AUTH, TPM2B_DATA, TPM2B_DIGEST, TPM2B_MAX_BUFFER,
    TPM2B_PRIVATE, TPM2B_PUBLIC, TPM2B_SENSITIVE_CREATE, TPM2B_SENSITIVE_DATA, TPML_PCR_SELECTION,
    TPMT_SIG_SCHEME, TPMT_SIGNATURE, TPMT_TK_HASHCHECK,
};

use super::super::fault::{Rc, patiently};
use super::{
    Auth, CONTINUE_SESSION, Esys, Handle, Hides, Hierarchy, Out, SessionKind, aes_128_cfb, beside,
    null_scheme, null_ticket,
};

impl Esys {
    /// Reaches an object or index that stays in the TPM, by its TPM handle.
    pub(in super::super) fn persistent(self: &Arc<Self>, tpm_handle: u32) -> Result<Handle, Rc> {
        let mut tr = NONE;
        call!(self.Esys_TR_FromTPMPublic(tpm_handle, NONE, NONE, NONE, &mut tr))?;
        Ok(self.handle(tr, false))
    }

    pub(in super::super) fn create_primary(
        self: &Arc<Self>,
        hierarchy: Hierarchy,
        auth: Auth<'_>,
        template: &TPM2B_PUBLIC,
    ) -> Result<Handle, Rc> {
        let (mut tr, mut public, mut data) = (NONE, Out::<TPM2B_PUBLIC>::new(), Out::new());
        let (mut hash, mut ticket) = (Out::new(), Out::new());
        let (sensitive, outside, pcrs) =
            (TPM2B_SENSITIVE_CREATE::default(), TPM2B_DATA::default(), Default::default());
        call!(self.Esys_CreatePrimary(
            hierarchy.tr(),
            auth.tr(),
            NONE,
            NONE,
            &sensitive,
            template,
            &outside,
            &pcrs,
            &mut tr,
            public.slot(),
            data.slot(),
            hash.slot(),
            ticket.slot(),
        ))?;
        Ok(self.handle(tr, true))
    }

    /// Keeps an object of either hierarchy across restarts; it is the owner who allows it (TPM 2.0 part 3, section 28.5).
    pub(in super::super) fn keep(
        self: &Arc<Self>,
        object: &Handle,
        auth: Auth<'_>,
        persistent: u32,
    ) -> Result<Handle, Rc> {
        let mut tr = NONE;
        let owner = Hierarchy::Owner.tr();
        call!(self.Esys_EvictControl(owner, object.tr, auth.tr(), NONE, NONE, persistent, &mut tr))?;
        Ok(self.handle(tr, false))
    }

    /// Makes an object under a parent; it comes back as two blobs and is not loaded.
    pub(in super::super) fn create(
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
            parent.tr,
            auth.tr(),
            NONE,
            NONE,
            sensitive,
            template,
            &outside,
            &pcrs,
            private.slot(),
            public.slot(),
            data.slot(),
            hash.slot(),
            ticket.slot(),
        ))?;
        Ok((private.take()?, public.take()?))
    }

    pub(in super::super) fn load(
        self: &Arc<Self>,
        parent: &Handle,
        auth: Auth<'_>,
        private: &TPM2B_PRIVATE,
        public: &TPM2B_PUBLIC,
    ) -> Result<Handle, Rc> {
        let mut tr = NONE;
        call!(self.Esys_Load(parent.tr, auth.tr(), NONE, NONE, private, public, &mut tr))?;
        Ok(self.handle(tr, true))
    }

    pub(in super::super) fn read_public(
        &self,
        object: &Handle,
        session: Option<&Handle>,
    ) -> Result<TPM2B_PUBLIC, Rc> {
        let (mut public, mut name, mut qualified) = (Out::new(), Out::new(), Out::new());
        call!(self.Esys_ReadPublic(
            object.tr,
            beside(session),
            NONE,
            NONE,
            public.slot(),
            name.slot(),
            qualified.slot()
        ))?;
        public.take()
    }

    /// True when this is the public area that the library itself took the object for, and agrees on salts with. It asked the TPM for
    /// it once, by a command of its own, which somebody between us and the TPM may have answered otherwise than ours.
    pub(in super::super) fn takes_it_for(&self, object: &Handle, area: &[u8]) -> Result<bool, Rc> {
        let (mut bytes, mut len) = (null_mut(), 0);
        call!(self.Esys_TR_Serialize(object.tr, &mut bytes, &mut len))?;
        if bytes.is_null() {
            return Err(Rc::NO_ANSWER);
        }
        // SAFETY: on success the library has allocated and written `len` bytes, which are freed once, here.
        let taken = unsafe {
            let taken = std::slice::from_raw_parts(bytes, len as usize).to_vec();
            sys::Esys_Free(bytes.cast());
            taken
        };
        // The area stands at the end, behind its length.
        let area = [&(area.len() as u16).to_be_bytes(), area].concat();
        Ok(taken.ends_with(&area))
    }

    pub(in super::super) fn sign(
        &self,
        key: &Handle,
        digest: &TPM2B_DIGEST,
        scheme: &TPMT_SIG_SCHEME,
    ) -> Result<TPMT_SIGNATURE, Rc> {
        let mut signature = Out::new();
        let ticket = null_ticket();
        call!(self.Esys_Sign(
            key.tr,
            sys::ESYS_TR_PASSWORD,
            NONE,
            NONE,
            digest,
            scheme,
            &ticket,
            signature.slot()
        ))?;
        signature.take()
    }

    pub(in super::super) fn hmac(
        &self,
        key: &Handle,
        auth: Auth<'_>,
        text: &TPM2B_MAX_BUFFER,
    ) -> Result<TPM2B_DIGEST, Rc> {
        let mut tag = Out::new();
        call!(self.Esys_HMAC(key.tr, auth.tr(), NONE, NONE, text, SHA256, tag.slot()))?;
        tag.take()
    }

    /// States by the attestation key that another key is loaded here, and by its name what it may do (TPM 2.0 part 3, section 18.2).
    pub(in super::super) fn certify(
        &self,
        key: &Handle,
        attestation_key: &Handle,
        challenge: &TPM2B_DATA,
    ) -> Result<(TPM2B_ATTEST, TPMT_SIGNATURE), Rc> {
        let (mut attest, mut signature) = (Out::new(), Out::new());
        let scheme = null_scheme();
        call!(self.Esys_Certify(
            key.tr,
            attestation_key.tr,
            sys::ESYS_TR_PASSWORD,
            sys::ESYS_TR_PASSWORD,
            NONE,
            challenge,
            &scheme,
            attest.slot(),
            signature.slot(),
        ))?;
        Ok((attest.take()?, signature.take()?))
    }

    /// Begins an HMAC over more than one buffer. The sequence takes a slot until [`Esys::hmac_finish`].
    pub(in super::super) fn hmac_begin(self: &Arc<Self>, key: &Handle) -> Result<Handle, Rc> {
        let (mut tr, auth) = (NONE, TPM2B_AUTH::default());
        call!(self.Esys_HMAC_Start(key.tr, sys::ESYS_TR_PASSWORD, NONE, NONE, &auth, SHA256, &mut tr))?;
        Ok(self.handle(tr, true))
    }

    pub(in super::super) fn hmac_more(&self, sequence: &Handle, text: &TPM2B_MAX_BUFFER) -> Result<(), Rc> {
        call!(self.Esys_SequenceUpdate(sequence.tr, sys::ESYS_TR_PASSWORD, NONE, NONE, text))
    }

    pub(in super::super) fn hmac_finish(&self, mut sequence: Handle) -> Result<TPM2B_DIGEST, Rc> {
        let (mut tag, mut ticket) = (Out::new(), Out::<TPMT_TK_HASHCHECK>::new());
        let (nothing, null) = (TPM2B_MAX_BUFFER::default(), TPM2_RH_NULL);
        call!(self.Esys_SequenceComplete(
            sequence.tr,
            sys::ESYS_TR_PASSWORD,
            NONE,
            NONE,
            &nothing,
            null,
            tag.slot(),
            ticket.slot(),
        ))?;
        // The TPM flushes a sequence that it completes, and the library forgets its handle.
        sequence.spent = true;
        tag.take()
    }

    pub(in super::super) fn unseal(
        &self,
        object: &Handle,
        auth: Auth<'_>,
    ) -> Result<TPM2B_SENSITIVE_DATA, Rc> {
        let mut data = Out::new();
        call!(self.Esys_Unseal(object.tr, auth.tr(), NONE, NONE, data.slot()))?;
        data.take()
    }

    /// Opens a session whose secret is agreed with `salt_key`, so that who listens on the bus learns nothing. It encrypts the first
    /// parameter in the direction given, of every command it is used in.
    pub(in super::super) fn session(
        self: &Arc<Self>,
        salt_key: &Handle,
        kind: SessionKind,
        hides: Hides,
    ) -> Result<Handle, Rc> {
        let mut tr = NONE;
        let symmetric = aes_128_cfb();
        call!(self.Esys_StartAuthSession(
            salt_key.tr,
            NONE,
            NONE,
            NONE,
            NONE,
            null(),
            kind as u8,
            &symmetric,
            SHA256,
            &mut tr,
        ))?;
        let session = self.handle(tr, true);
        self.hide(&session, hides)?;
        Ok(session)
    }

    /// Changes what a session hides of the next commands.
    pub(in super::super) fn hide(&self, session: &Handle, hides: Hides) -> Result<(), Rc> {
        call!(self.Esys_TRSess_SetAttributes(session.tr, CONTINUE_SESSION | hides as u8, 0xff))
    }

    /// Adds registers to a policy, at their present values.
    pub(in super::super) fn policy_pcr(
        &self,
        session: &Handle,
        expected: &TPM2B_DIGEST,
        pcrs: &TPML_PCR_SELECTION,
    ) -> Result<(), Rc> {
        call!(self.Esys_PolicyPCR(session.tr, NONE, NONE, NONE, expected, pcrs))
    }

    /// Sets the value that authorises the owner's deeds: making things persistent, defining indices.
    pub(in super::super) fn set_owner_auth(&self, value: &TPM2B_AUTH) -> Result<(), Rc> {
        call!(self.Esys_TR_SetAuth(Hierarchy::Owner.tr(), value))
    }
}
