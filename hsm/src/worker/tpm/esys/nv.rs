//! Commands on NV indices and attestation: define, extend, count, read, certify, quote.
//! In come structures by reference and handles of indices and keys.
//! Out go structures by value.

use tss_esapi_sys as sys;
use tss_esapi_sys::{
    ESYS_TR_NONE as NONE, TPM2B_ATTEST, TPM2B_AUTH, TPM2B_DATA, TPM2B_MAX_NV_BUFFER, TPM2B_NAME,
    TPM2B_NV_PUBLIC, TPML_PCR_SELECTION, TPMT_SIGNATURE,
};

use super::super::fault::{Rc, patiently};
use super::{Auth, Esys, Handle, Hierarchy, Out, beside, null_scheme};

impl Esys {
    /// Sets the value that authorises uses of an index from now on; it stays on this side of the bus.
    pub(in super::super) fn set_index_auth(&self, index: &Handle, value: &TPM2B_AUTH) -> Result<(), Rc> {
        call!(self.Esys_TR_SetAuth(index.tr, value))
    }

    /// Defines an index. The session proves the owner's authorisation and carries the index's own encrypted: it is the command's
    /// first parameter.
    pub(in super::super) fn nv_define(
        &self,
        session: &Handle,
        value: &TPM2B_AUTH,
        public: &TPM2B_NV_PUBLIC,
    ) -> Result<(), Rc> {
        let mut tr = NONE;
        let owner = Hierarchy::Owner.tr();
        call!(self.Esys_NV_DefineSpace(owner, session.tr, NONE, NONE, value, public, &mut tr))?;
        // The library made a handle that nobody wants: it is forgotten here, the index stays.
        call!(self.Esys_TR_Close(&mut tr))
    }

    /// Takes an index away. The session proves the owner's authorisation.
    pub(in super::super) fn nv_undefine(&self, session: &Handle, mut index: Handle) -> Result<(), Rc> {
        let owner = Hierarchy::Owner.tr();
        call!(self.Esys_NV_UndefineSpace(owner, index.tr, session.tr, NONE, NONE))?;
        // The library forgets the handle with the index.
        index.spent = true;
        Ok(())
    }

    pub(in super::super) fn nv_public(
        &self,
        index: &Handle,
        session: Option<&Handle>,
    ) -> Result<TPM2B_NV_PUBLIC, Rc> {
        let (mut public, mut name) = (Out::new(), Out::<TPM2B_NAME>::new());
        let session = beside(session);
        call!(self.Esys_NV_ReadPublic(index.tr, session, NONE, NONE, public.slot(), name.slot()))?;
        public.take()
    }

    pub(in super::super) fn nv_extend(
        &self,
        index: &Handle,
        auth: Auth<'_>,
        data: &TPM2B_MAX_NV_BUFFER,
    ) -> Result<(), Rc> {
        call!(self.Esys_NV_Extend(index.tr, index.tr, auth.tr(), NONE, NONE, data))
    }

    pub(in super::super) fn nv_increment(&self, index: &Handle, auth: Auth<'_>) -> Result<(), Rc> {
        call!(self.Esys_NV_Increment(index.tr, index.tr, auth.tr(), NONE, NONE))
    }

    pub(in super::super) fn nv_read(
        &self,
        index: &Handle,
        auth: Auth<'_>,
        size: u16,
    ) -> Result<TPM2B_MAX_NV_BUFFER, Rc> {
        let mut data = Out::new();
        call!(self.Esys_NV_Read(index.tr, index.tr, auth.tr(), NONE, NONE, size, 0, data.slot()))?;
        data.take()
    }

    /// Has the attestation key sign the whole content of an index. The key has no value of its own; the index has.
    pub(in super::super) fn nv_certify(
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
            key.tr,
            index.tr,
            index.tr,
            sys::ESYS_TR_PASSWORD,
            auth.tr(),
            NONE,
            qualifying,
            &scheme,
            size,
            0,
            attest.slot(),
            signature.slot(),
        ))?;
        Ok((attest.take()?, signature.take()?))
    }

    pub(in super::super) fn quote(
        &self,
        key: &Handle,
        qualifying: &TPM2B_DATA,
        pcrs: &TPML_PCR_SELECTION,
    ) -> Result<(TPM2B_ATTEST, TPMT_SIGNATURE), Rc> {
        let (mut attest, mut signature) = (Out::new(), Out::new());
        let scheme = null_scheme();
        call!(self.Esys_Quote(
            key.tr,
            sys::ESYS_TR_PASSWORD,
            NONE,
            NONE,
            qualifying,
            &scheme,
            pcrs,
            attest.slot(),
            signature.slot(),
        ))?;
        Ok((attest.take()?, signature.take()?))
    }
}
