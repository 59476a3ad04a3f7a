//! The one lane of a TPM: its connection, the storage root in hand, and the few objects that are loaded.
//! In come the other files of this folder, each with one part of a lane's duties.
//! Out go handles, ready to use.

use std::path::PathBuf;
use std::sync::Arc;

use hsm::backend::{Attest, Fault, Lane};
use hsm::{Fingerprint, Refusal, TokenConfig};
use tss_esapi::structures::Public;
use zeroize::Zeroizing;

use super::blob::{self, Wrapped};
use super::esys::{Auth, Esys, Handle, Hides, Hierarchy, SessionKind};
use super::fault::{Code, Rc, endorsement_says_no, owner_says_no};
use super::templates::{self, loose, parsed, plain};

/// One TPM, owned by one thread: a TPM does one thing at a time anyway.
pub(super) struct TpmLane {
    pub(super) esys: Arc<Esys>,
    pub(super) setup: Setup,
    /// Which chip this is, whatever is erased in it.
    pub(super) serial: String,
    pub(super) index_auth: Option<Zeroizing<Vec<u8>>>,
    /// The name of the storage root that the appliance was made with.
    pub(super) pinned: Option<Vec<u8>>,
    pub(super) hmac: Option<Arc<Handle>>,
    root: Option<Handle>,
    loaded: Vec<Loaded>,
}

/// The part of the configuration that the lane needs.
#[derive(Clone)]
pub(super) struct Setup {
    /// The owner's authorisation was given.
    pub(super) owner_known: bool,
    pub(super) anchor_index: u32,
    pub(super) storage_root: u32,
    pub(super) attestation_key: u32,
    pub(super) pcrs: Vec<u8>,
    pub(super) index_auth_file: Option<PathBuf>,
}

/// A key in one of the TPM's slots.
pub(super) struct Loaded {
    pub(super) handle: Handle,
    pub(super) public: Public,
    blob: Vec<u8>,
    /// What an HMAC key was recognised by; it has no public half that would tell.
    check: Option<Fingerprint>,
}

/// A TPM without a resource manager has three slots for objects. Making or loading one takes two, for the parent stands in a slot as
/// well while it is used; so beside the key that is wanted now, the one used before it may stay.
const LOADED_BESIDE: usize = 1;

impl TpmLane {
    pub(super) fn new(esys: Arc<Esys>, setup: Setup, pinned: Option<Vec<u8>>) -> Self {
        let (serial, index_auth, hmac, root) = (String::new(), None, None, None);
        Self { esys, setup, serial, index_auth, pinned, hmac, root, loaded: Vec::new() }
    }

    /// The storage root, if it is there.
    pub(super) fn root(&mut self) -> Result<&Handle, Fault> {
        if self.root.is_none() {
            self.root = Some(self.find_root()?.ok_or(Refusal::RootMissing)?);
        }
        self.root.as_ref().ok_or_else(|| Refusal::RootMissing.into())
    }

    /// The storage root, made if it is not there. Says whether this call made it.
    pub(super) fn root_or_new(&mut self) -> Result<bool, Fault> {
        if self.root.is_some() || self.standing_by(self.setup.storage_root, None)?.is_some() {
            self.root()?;
            return Ok(false);
        }
        if self.pinned.is_some() {
            // The appliance has a root; one made in its place would open nothing.
            return Err(Refusal::RootMissing.into());
        }
        let (template, place) = (plain(templates::storage_root())?, self.setup.storage_root);
        let session = self.enrolling(Hides::Nothing)?;
        let auth = Auth::Session(&session);
        let fresh = self
            .esys
            .create_primary(Hierarchy::Owner, auth, &template)
            .map_err(|rc| self.owner_says_no(rc))?;
        self.esys.keep(&fresh, auth, place).map_err(|rc| self.owner_says_no(rc))?;
        self.root()?;
        Ok(true)
    }

    /// The attestation key, made if it is not there. It is derived from the endorsement seed, so the same chip makes the same key again.
    pub(super) fn attestation_key(&mut self) -> Result<Handle, Fault> {
        if let Some(key) = self.standing(self.setup.attestation_key)? {
            self.check(&key, &templates::attestation_key(), "attestation key", self.setup.attestation_key)?;
            return Ok(key);
        }
        self.make_room(0);
        let session = self.enrolling(Hides::Nothing)?;
        let fresh = self.attestation_key_unkept(&session)?;
        let kept = self.esys.keep(&fresh, Auth::Session(&session), self.setup.attestation_key);
        kept.map_err(|rc| self.owner_says_no(rc))
    }

    /// The attestation key in a slot, which it leaves again when the handle is dropped.
    pub(super) fn attestation_key_unkept(&self, session: &Handle) -> Result<Handle, Fault> {
        let template = plain(templates::attestation_key())?;
        self.esys
            .create_primary(Hierarchy::Endorsement, Auth::Session(session), &template)
            .map_err(endorsement_says_no)
    }

    /// A session whose secret is agreed with the storage root.
    pub(super) fn session(&mut self, kind: SessionKind, hides: Hides) -> Result<Handle, Fault> {
        let esys = Arc::clone(&self.esys);
        Ok(esys.session(self.root()?, kind, hides)?)
    }

    /// The object behind a blob, from its slot or loaded into one. `None`: not an object of this TPM.
    pub(super) fn load(&mut self, blob: &[u8]) -> Result<Option<&Loaded>, Fault> {
        if let Some(place) = self.loaded.iter().position(|one| one.blob == blob) {
            let recent = self.loaded.remove(place);
            self.loaded.push(recent);
            return Ok(self.loaded.last());
        }
        let Some(wrapped) = blob::read::<Wrapped>(blob) else { return Ok(None) };
        let Some(handle) = self.load_once(&wrapped)? else { return Ok(None) };
        // The library has held the loaded object's name against this.
        let Some(public) = wrapped.public() else { return Ok(None) };
        self.loaded.push(Loaded { handle, public, blob: blob.to_vec(), check: None });
        Ok(self.loaded.last())
    }

    /// Loads an object for one use; its slot is free again when the handle is dropped.
    pub(super) fn load_once(&mut self, wrapped: &Wrapped) -> Result<Option<Handle>, Fault> {
        let Some((private, public)) = wrapped.halves() else { return Ok(None) };
        self.make_room_for_one();
        let esys = Arc::clone(&self.esys);
        let session = self.hmac(Hides::Nothing)?;
        let outcome = match esys.load(self.root()?, Auth::Session(&session), &private, &public) {
            Err(rc) if rc.code() == Code::NoSpace => {
                self.make_room(0);
                esys.load(self.root()?, Auth::Session(&session), &private, &public)
            }
            outcome => outcome,
        };
        match outcome {
            Ok(handle) => Ok(Some(handle)),
            Err(rc) if rc.about_input() => Ok(None),
            Err(rc) => Err(rc.fault()),
        }
    }

    /// True when the HMAC key in this blob's slot has been recognised by this check.
    pub(super) fn recognised(&self, blob: &[u8], check: Fingerprint) -> bool {
        self.loaded.iter().any(|one| one.blob == blob && one.check == Some(check))
    }

    /// Notes what an HMAC key was recognised by.
    pub(super) fn recognise(&mut self, blob: &[u8], check: Fingerprint) {
        for one in self.loaded.iter_mut().filter(|one| one.blob == blob) {
            one.check = Some(check);
        }
    }

    /// Reads a refusal of one of the owner's deeds.
    pub(super) fn owner_says_no(&self, rc: Rc) -> Fault {
        owner_says_no(rc, self.setup.owner_known)
    }

    /// Gives up the slot of one key.
    pub(super) fn unload(&mut self, blob: &[u8]) {
        self.loaded.retain(|one| one.blob != blob);
    }

    /// A persistent object or an index, if something stands at this handle. The session of this lane vouches for the answer.
    pub(super) fn standing(&mut self, handle: u32) -> Result<Option<Handle>, Fault> {
        let session = self.witness(Hides::AuditOnly)?;
        self.standing_by(handle, session.as_deref())
    }

    /// The same by a session that is given, or by none.
    pub(super) fn standing_by(&self, handle: u32, session: Option<&Handle>) -> Result<Option<Handle>, Fault> {
        let there = self.esys.handles(handle, session)?.contains(&handle);
        Ok(if there { Some(self.esys.persistent(handle)?) } else { None })
    }

    /// Frees the slots that it takes to make or load an object.
    pub(super) fn make_room_for_one(&mut self) {
        self.make_room(LOADED_BESIDE);
    }

    /// Keeps at most this many keys loaded, the ones used last.
    fn make_room(&mut self, keep: usize) {
        let surplus = self.loaded.len().saturating_sub(keep);
        self.loaded.drain(..surplus);
    }

    /// The public area of an object.
    pub(super) fn public(&mut self, object: &Handle) -> Result<Public, Fault> {
        let session = self.witness(Hides::Response)?;
        parsed(self.esys.read_public(object, session.as_deref())?)
    }

    /// Refuses an object that someone else put where ours belongs.
    fn check(&mut self, object: &Handle, template: &Public, what: &str, place: u32) -> Result<(), Fault> {
        let found = self.public(object)?;
        match loose(&found, template) {
            None => Ok(()),
            Some(attribute) => {
                let found = format!("the object at 0x{place:08x} is no {what}: {attribute} is wrong");
                Err(Refusal::Other(format!("{found}; configure another handle or remove it")).into())
            }
        }
    }
}

impl Lane for TpmLane {
    fn attest(&mut self) -> Option<&mut dyn Attest> {
        Some(self)
    }
}

impl Setup {
    /// `None`: the configuration is not about a TPM.
    pub(super) fn of(config: &TokenConfig) -> Option<Self> {
        let TokenConfig::Tpm { anchor_index, storage_root, attestation_key, pcrs, .. } = config else {
            return None;
        };
        let TokenConfig::Tpm { index_auth_file, owner_auth_file, .. } = config else { return None };
        let (anchor_index, storage_root, attestation_key) = (*anchor_index, *storage_root, *attestation_key);
        let (pcrs, index_auth_file) = (pcrs.clone(), index_auth_file.clone());
        let owner_known = owner_auth_file.is_some();
        Some(Self { owner_known, anchor_index, storage_root, attestation_key, pcrs, index_auth_file })
    }
}
