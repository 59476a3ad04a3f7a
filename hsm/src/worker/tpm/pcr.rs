//! Platform configuration registers of the SHA-256 bank: what the firmware measured while the machine started.
//! In come register numbers.
//! Out go their values, their digest for a policy, and the difference between then and now in words.

use aws_lc_rs::digest::{Context, SHA256, digest};
use hsm::Refusal;
use hsm::backend::Fault;
use serde::{Deserialize, Serialize};
use tss_esapi::constants::tss::TPM2_ALG_SHA256;
use tss_esapi_sys::{TPML_PCR_SELECTION, TPMS_PCR_SELECTION};

use super::esys::{Esys, Handle};

/// Registers and their values, in ascending order, as policies count them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Registers(Vec<(u8, [u8; 32])>);

/// Reads registers one by one, which every TPM allows. A session vouches for what they hold: a policy is made of it.
pub(super) fn read(esys: &Esys, session: Option<&Handle>, numbers: &[u8]) -> Result<Registers, Fault> {
    let read = |number| Ok((number, read_one(esys, session, number)?));
    let values = ascending(numbers).into_iter().map(read);
    Ok(Registers(values.collect::<Result<_, Fault>>()?))
}

/// The numbers in the order in which policies count them, each once.
pub(super) fn ascending(numbers: &[u8]) -> Vec<u8> {
    let mut numbers = numbers.to_vec();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// A selection in the SHA-256 bank.
pub(super) fn selection(numbers: impl Iterator<Item = u8>) -> TPML_PCR_SELECTION {
    let mut bank = TPMS_PCR_SELECTION { hash: TPM2_ALG_SHA256, sizeofSelect: 3, ..Default::default() };
    for number in numbers.filter(|number| *number < PCR_COUNT) {
        bank.pcrSelect[usize::from(number / 8)] |= 1 << (number % 8);
    }
    let mut list = TPML_PCR_SELECTION { count: 1, ..Default::default() };
    list.pcrSelections[0] = bank;
    list
}

impl Registers {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn numbers(&self) -> impl Iterator<Item = u8> {
        self.0.iter().map(|(number, _)| *number)
    }

    /// The digest of a policy that these values fulfil, as TPM2_PolicyPCR extends it (TPM 2.0 part 3, section 23.7). Worked out here
    /// and not by a trial session: nobody on the bus has a say in what the secret is sealed to.
    pub(super) fn policy(&self) -> [u8; 32] {
        const COMMAND_POLICY_PCR: u32 = 0x0000_017f;
        let values: Vec<u8> = self.0.iter().flat_map(|(_, value)| *value).collect();
        let list = selection(self.numbers());
        let bank = list.pcrSelections[0];
        let mut policy = Context::new(&SHA256);
        policy.update(&[0; 32]);
        policy.update(&COMMAND_POLICY_PCR.to_be_bytes());
        policy.update(&list.count.to_be_bytes());
        policy.update(&bank.hash.to_be_bytes());
        policy.update(&[bank.sizeofSelect]);
        policy.update(&bank.pcrSelect[..usize::from(bank.sizeofSelect)]);
        policy.update(digest(&SHA256, &values).as_ref());
        let mut out = [0; 32];
        out.copy_from_slice(policy.finish().as_ref());
        out
    }

    /// Which values differ, in words; `None` when none does.
    pub(super) fn differences(&self, now: &Self) -> Option<String> {
        let changed = self.0.iter().zip(&now.0).filter(|(then, now)| then != now);
        let words: Vec<String> = changed
            .map(|((number, then), (_, now))| format!("PCR {number} was {}, is {}", short(then), short(now)))
            .collect();
        (!words.is_empty()).then(|| words.join("; "))
    }

    pub(super) fn into_values(self) -> Vec<(u8, [u8; 32])> {
        self.0
    }
}

const PCR_COUNT: u8 = 24;

fn read_one(esys: &Esys, session: Option<&Handle>, number: u8) -> Result<[u8; 32], Fault> {
    let list = esys.pcr_read(session, &selection(std::iter::once(number)))?;
    let value = (list.count == 1).then(|| list.digests[0].buffer.first_chunk::<32>().copied()).flatten();
    value.ok_or_else(|| {
        let why =
            format!("the TPM has no PCR {number} in a SHA-256 bank; choose other `pcrs` or enable the bank");
        Refusal::Other(why).into()
    })
}

/// Enough to compare by eye with what other tools print.
fn short(value: &[u8; 32]) -> String {
    format!("{}...", hex::encode(&value[..8]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_named() {
        let then = Registers(vec![(4, [0; 32]), (7, [1; 32])]);
        let now = Registers(vec![(4, [0; 32]), (7, [2; 32])]);
        assert_eq!(then.differences(&then), None);
        assert_eq!(
            then.differences(&now).as_deref(),
            Some("PCR 7 was 0101010101010101..., is 0202020202020202...")
        );
    }
}
