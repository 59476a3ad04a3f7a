//! Sessions: what makes the bus between this process and the TPM a place where nothing of ours is read, and no answer is forged.
//! In comes the storage root, held against the name that was recorded when the appliance was made.
//! Out go sessions salted to it. The values that authorise are proven in them and never sent, and what is secret travels encrypted.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use hsm::Refusal;
use hsm::backend::Fault;
use tss_esapi::constants::tss::TPM2_ALG_SHA256;
use tss_esapi::traits::Marshall;
use zeroize::Zeroizing;

use super::esys::{Auth, Handle, Hides, Hierarchy, SessionKind};
use super::lane::TpmLane;
use super::templates::{self, loose, parsed, plain, unreadable};

impl TpmLane {
    /// The session of this lane: opened once, salted to the storage root, used for every command whose answer decides something.
    pub(super) fn hmac(&mut self, hides: Hides) -> Result<Arc<Handle>, Fault> {
        let session = match &self.hmac {
            Some(session) => Arc::clone(session),
            None => {
                let session = Arc::new(self.session(SessionKind::Hmac, Hides::Nothing)?);
                self.hmac.insert(session).clone()
            }
        };
        self.esys.hide(&session, hides)?;
        Ok(session)
    }

    /// The same where there is a storage root; a TPM that was never enrolled has none, and nothing in it decides anything yet. That there
    /// is none, anybody on the bus can say: of an appliance that has one it is not believed.
    pub(super) fn witness(&mut self, hides: Hides) -> Result<Option<Arc<Handle>>, Fault> {
        match self.hmac(hides) {
            Ok(session) => Ok(Some(session)),
            Err(Fault::Refused(Refusal::RootMissing)) if self.pinned.is_none() => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// A session for enrolling. Before there is a storage root it is salted to a key of this power cycle: who only listens learns nothing.
    pub(super) fn enrolling(&mut self, hides: Hides) -> Result<Arc<Handle>, Fault> {
        match self.witness(hides)? {
            Some(session) => Ok(session),
            None => self.stand_in(hides),
        }
    }

    /// A session for finding out which chip this is, also where what stands in the storage root's place is not ours. Nothing rests on it.
    pub(super) fn introductory(&mut self, hides: Hides) -> Result<Arc<Handle>, Fault> {
        match self.witness(hides) {
            Ok(Some(session)) => Ok(session),
            Ok(None) | Err(Fault::Refused(_)) => self.stand_in(hides),
            Err(fault) => Err(fault),
        }
    }

    fn stand_in(&mut self, hides: Hides) -> Result<Arc<Handle>, Fault> {
        self.make_room_for_one();
        let template = plain(templates::storage_root())?;
        let stand_in = self.esys.create_primary(Hierarchy::Null, Auth::Password, &template)?;
        Ok(Arc::new(self.esys.session(&stand_in, SessionKind::Hmac, hides)?))
    }

    /// Finds the storage root and takes it for ours only if it is: the one whose name was recorded, as safe as we make it, and the very
    /// one that the library agrees on salts with.
    pub(super) fn find_root(&self) -> Result<Option<Handle>, Fault> {
        let place = self.setup.storage_root;
        // Asked without a session, for there is none before it. It is believed no further than that its own name goes.
        let Some(root) = self.standing_by(place, None)? else { return Ok(None) };
        let found = parsed(self.esys.read_public(&root, None)?)?;
        let area = found.marshall().map_err(unreadable)?;
        if !self.esys.takes_it_for(&root, &area)? {
            let why = format!("the TPM gave two public keys for the storage root at 0x{place:08x}");
            return Err(Refusal::Other(format!("{why}; something stands between it and this machine")).into());
        }
        if self.pinned.as_ref().is_some_and(|pinned| *pinned != name(&area)) {
            let why =
                format!("the storage root at 0x{place:08x} is not the one this appliance was made with");
            return Err(Refusal::Other(format!("{why}; restore the TPM or the right disk")).into());
        }
        match loose(&found, &templates::storage_root()) {
            None => Ok(Some(root)),
            Some(attribute) => Err(Refusal::Other(format!(
                "the object at 0x{place:08x} is no storage root: {attribute} is wrong; configure another handle or remove it"
            ))
            .into()),
        }
    }

    /// The name of the storage root (TPM 2.0 part 1, section 16): its public area, hashed.
    pub(super) fn root_name(&mut self) -> Result<Vec<u8>, Fault> {
        let esys = Arc::clone(&self.esys);
        let session = self.hmac(Hides::Response)?;
        let public = parsed(esys.read_public(self.root()?, Some(&session))?)?;
        Ok(name(&public.marshall().map_err(unreadable)?))
    }
}

fn name(area: &[u8]) -> Vec<u8> {
    [&TPM2_ALG_SHA256.to_be_bytes(), digest(&SHA256, area).as_ref()].concat()
}

/// Fresh secret bytes, from this side of the bus: what the TPM draws crosses it on the way here.
pub(super) fn drawn<const LEN: usize>() -> Result<Zeroizing<[u8; LEN]>, Fault> {
    let mut bytes = Zeroizing::new([0; LEN]);
    let failed = |_| Fault::Lost { why: "this machine gives no random bytes".to_owned(), harmless: true };
    rand::fill(bytes.as_mut_slice()).map_err(failed)?;
    Ok(bytes)
}
