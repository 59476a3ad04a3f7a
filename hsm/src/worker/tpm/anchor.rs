//! The ledger's head in NV: an extend index that nobody can set, and beside it a counter that nobody can turn back.
//! In come steps, in order, after they are durable in the database.
//! Out go readings, and refusals when the index does not stand where a step begins.

use aws_lc_rs::digest::{Context, SHA256, digest};
use hsm::backend::{Anchor, Fault};
use hsm::{AnchorReading, AnchorStep, Refusal};
use tss_esapi::constants::tss::{TPM2_ALG_SHA256, TPM2_NT_COUNTER, TPM2_NT_EXTEND};
use tss_esapi_sys::{TPM2B_AUTH, TPM2B_MAX_NV_BUFFER, TPM2B_NV_PUBLIC, TPMS_NV_PUBLIC};

use super::esys::{Auth, Handle, Hides};
use super::fault::{Code, Rc};
use super::lane::TpmLane;

/// One of the two indices.
#[derive(Clone, Copy)]
pub(super) enum Index {
    /// SHA-256 over everything it was ever extended by.
    Head,
    /// Eight bytes that only grow.
    Counter,
}

/// Attributes of both (TPMA_NV, TPM 2.0 part 2, section 13.4): used by their own authorisation, exempt from the lock-out, and not
/// orderly, for orderly indices live in RAM: after a power cut a counter jumps and an extend index is empty.
const AUTH_WRITE: u32 = 1 << 2;
const AUTH_READ: u32 = 1 << 18;
const NO_DA: u32 = 1 << 25;
/// Set by the TPM at the first write.
const WRITTEN: u32 = 1 << 29;

impl Anchor for TpmLane {
    fn read(&mut self) -> Result<AnchorReading, Fault> {
        let identity = self.identity()?;
        let counter = self.counter()?;
        let Some(index) = self.index(Index::Head)? else {
            return Ok(AnchorReading { head: None, steps: None, counter, identity, missing: true });
        };
        let head = self.content(&index, Index::Head)?.and_then(|bytes| bytes.try_into().ok());
        Ok(AnchorReading { head, steps: None, counter, identity, missing: false })
    }

    fn advance(&mut self, step: &AnchorStep) -> Result<(), Fault> {
        let stands = match self.index(Index::Head)? {
            Some(head) => self.content(&head, Index::Head)?,
            None => None,
        };
        let stands = stands.unwrap_or_else(|| vec![0; 32]);
        if stands == step.after {
            return Ok(());
        }
        if stands != step.before {
            return Err(Refusal::AnchorElsewhere.into());
        }
        check_arithmetic(step)?;
        let head = self.index_or_new(Index::Head)?;
        self.extend(&head, &step.digest)?;
        // A head that is not what was computed means that someone else extends it too: the ledger must hear of it.
        match self.content(&head, Index::Head)? {
            Some(now) if now == step.after => Ok(()),
            _ => Err(Refusal::AnchorElsewhere.into()),
        }
    }
}

impl TpmLane {
    /// Counts one up and says where the counter stands.
    pub(super) fn count_up(&mut self) -> Result<u64, Fault> {
        let counter = self.index_or_new(Index::Counter)?;
        self.in_session(|lane, auth| lane.esys.nv_increment(&counter, auth))?;
        self.counter()?.ok_or_else(|| Refusal::Other("the TPM's counter does not count".to_owned()).into())
    }

    /// The index, if it is defined, refused if it is not as we define it.
    pub(super) fn index(&mut self, which: Index) -> Result<Option<Handle>, Fault> {
        let place = self.place(which);
        let Some(index) = self.standing(place)? else { return Ok(None) };
        let session = self.witness(Hides::Response)?;
        let found = self.esys.nv_public(&index, session.as_deref())?.nvPublic;
        let wanted = self.definition(which).nvPublic;
        let same = found.attributes & !WRITTEN == wanted.attributes
            && (found.dataSize, found.nameAlg) == (wanted.dataSize, wanted.nameAlg);
        if !same {
            let why = format!(
                "the NV index 0x{place:08x} is not ours (its attributes are 0x{:08x})",
                found.attributes
            );
            return Err(Refusal::Other(format!("{why}; configure another `anchor_index`")).into());
        }
        if let Some(value) = self.index_auth()? {
            self.esys.set_index_auth(&index, &value)?;
        }
        Ok(Some(index))
    }

    /// What the index holds; `None` before its first write.
    pub(super) fn content(&mut self, index: &Handle, which: Index) -> Result<Option<Vec<u8>>, Fault> {
        let session = self.witness(Hides::Response)?;
        if self.esys.nv_public(index, session.as_deref())?.nvPublic.attributes & WRITTEN == 0 {
            return Ok(None);
        }
        let data = self.in_session(|lane, auth| lane.esys.nv_read(index, auth, which.size()))?;
        Ok(data.buffer.get(..usize::from(data.size)).map(<[u8]>::to_vec))
    }

    /// Runs a command that the index's own value authorises, proven in a session, which also vouches for the answer.
    pub(super) fn in_session<T>(
        &mut self,
        command: impl FnOnce(&Self, Auth<'_>) -> Result<T, Rc>,
    ) -> Result<T, Fault> {
        let session = match self.index_auth()? {
            // As a password it would be sent.
            Some(_) => Some(self.hmac(Hides::Nothing)?),
            None => self.witness(Hides::Nothing)?,
        };
        let auth = session.as_deref().map_or(Auth::Password, Auth::Session);
        command(self, auth).map_err(|rc| match rc.code() {
            Code::WrongAuth => {
                let why = "the anchor index does not accept the authorisation in `index_auth_file`";
                Refusal::Other(format!("{why}; restore the file that belongs to this TPM")).into()
            }
            _ => rc.fault(),
        })
    }

    /// Defines what is missing. The authorisation is durable in its file before the index is defined by it.
    fn index_or_new(&mut self, which: Index) -> Result<Handle, Fault> {
        if let Some(index) = self.index(which)? {
            return Ok(index);
        }
        self.root_or_new()?;
        let auth = self.index_auth_or_new()?.unwrap_or_default();
        // If we stop here, the file is read again at the next start, and the index is defined by the same value.
        let session = self.hmac(Hides::Command)?;
        match self.esys.nv_define(&session, &auth, &self.definition(which)) {
            Err(rc) if rc.code() != Code::Defined => return Err(self.owner_says_no(rc)),
            _ => {}
        }
        let defined = self.index(which)?;
        defined.ok_or_else(|| Refusal::Other("the TPM lost an index it has just defined".to_owned()).into())
    }

    /// Defines the anchor's index and takes it away again, where there is none: what would fail at the first seal fails here.
    pub(super) fn try_anchor(&mut self) -> Result<(), Fault> {
        for which in [Index::Head, Index::Counter] {
            if self.index(which)?.is_some() {
                continue;
            }
            let session = self.hmac(Hides::Command)?;
            self.esys
                .nv_define(&session, &TPM2B_AUTH::default(), &self.definition(which))
                .map_err(|rc| self.owner_says_no(rc))?;
            self.undefine(which)?;
        }
        Ok(())
    }

    /// Takes both indices away, and the file with their authorisation.
    pub(super) fn remove_anchor(&mut self) -> Result<(), Fault> {
        self.undefine(Index::Head)?;
        self.undefine(Index::Counter)?;
        self.forget_index_auth()
    }

    fn undefine(&mut self, which: Index) -> Result<(), Fault> {
        let Some(index) = self.standing(self.place(which))? else { return Ok(()) };
        let session = self.hmac(Hides::Nothing)?;
        self.esys.nv_undefine(&session, index).map_err(|rc| self.owner_says_no(rc))
    }

    fn extend(&mut self, head: &Handle, by: &[u8; 32]) -> Result<(), Fault> {
        let mut data = TPM2B_MAX_NV_BUFFER { size: 32, ..Default::default() };
        data.buffer[..32].copy_from_slice(by);
        self.in_session(|lane, auth| lane.esys.nv_extend(head, auth, &data))
    }

    fn counter(&mut self) -> Result<Option<u64>, Fault> {
        let Some(counter) = self.index(Index::Counter)? else { return Ok(None) };
        let bytes = self.content(&counter, Index::Counter)?;
        Ok(bytes.and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes))
    }

    /// Another chip has another serial; the same chip, once cleared, has another storage root.
    fn identity(&mut self) -> Result<Vec<u8>, Fault> {
        let root = match self.root_id() {
            Ok(root) => root,
            Err(Fault::Refused(Refusal::RootMissing)) => Vec::new(),
            Err(fault) => return Err(fault),
        };
        let mut hash = Context::new(&SHA256);
        hash.update(b"chancery.tpm.identity.v1\n");
        hash.update(self.serial.as_bytes());
        hash.update(&root);
        Ok(hash.finish().as_ref().to_vec())
    }

    fn place(&self, which: Index) -> u32 {
        match which {
            Index::Head => self.setup.anchor_index,
            Index::Counter => self.setup.anchor_index + 1,
        }
    }

    fn definition(&self, which: Index) -> TPM2B_NV_PUBLIC {
        const KIND_SHIFT: u32 = 4;
        let kind = match which {
            Index::Head => u32::from(TPM2_NT_EXTEND),
            Index::Counter => u32::from(TPM2_NT_COUNTER),
        };
        let public = TPMS_NV_PUBLIC {
            nvIndex: self.place(which),
            nameAlg: TPM2_ALG_SHA256,
            attributes: AUTH_WRITE | AUTH_READ | NO_DA | kind << KIND_SHIFT,
            authPolicy: Default::default(),
            dataSize: which.size(),
        };
        TPM2B_NV_PUBLIC { size: 0, nvPublic: public }
    }
}

impl Index {
    pub(super) const fn size(self) -> u16 {
        match self {
            Self::Head => 32,
            Self::Counter => 8,
        }
    }
}

fn check_arithmetic(step: &AnchorStep) -> Result<(), Fault> {
    if digest(&SHA256, &[step.before, step.digest].concat()).as_ref() == step.after {
        return Ok(());
    }
    Err(Refusal::BadInput("the step's `after` is not the hash of its `before` and `digest`".to_owned())
        .into())
}
