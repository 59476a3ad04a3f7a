//! Promises about the keys between token and ciphertext: what is moved, altered or wrapped elsewhere does not open.
//! Enters: random keys.
//! Leaves: proof.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use hsm::custody::{Binding, DataKey, MasterKey, SealFault};
use zeroize::{Zeroize, Zeroizing};

const HOME: Binding<'static> =
    Binding { workspace: "ws_1", table: "vault_versions", row: "42", purpose: "value", key_version: 3 };

fn keys() -> (MasterKey, DataKey, Vec<u8>) {
    let master = MasterKey::generate().unwrap();
    let (data, wrapped) = master.new_data_key(&HOME).unwrap();
    (master, data, wrapped)
}

#[test]
fn a_ciphertext_opens_in_its_own_place() {
    let (_, data, _) = keys();
    let sealed = data.seal(b"hunter2", &HOME).unwrap();
    assert_eq!(data.open(&sealed, &HOME).unwrap().as_slice(), b"hunter2");
}

#[test]
fn a_ciphertext_moved_to_any_other_place_does_not_open() {
    let (_, data, _) = keys();
    let sealed = data.seal(b"hunter2", &HOME).unwrap();
    let elsewhere = [
        ("workspace", Binding { workspace: "ws_2", ..HOME }),
        ("table", Binding { table: "vault_version", ..HOME }),
        ("row", Binding { row: "43", ..HOME }),
        ("purpose", Binding { purpose: "label", ..HOME }),
        ("key version", Binding { key_version: 4, ..HOME }),
        ("letters shifted between parts", Binding { workspace: "ws_1v", table: "ault_versions", ..HOME }),
    ];
    for (what, place) in elsewhere {
        assert_eq!(data.open(&sealed, &place), Err(SealFault::Broken), "another {what}");
    }
}

#[test]
fn every_altered_byte_is_noticed() {
    let (_, data, _) = keys();
    let sealed = data.seal(b"hunter2", &HOME).unwrap();
    for place in 0..sealed.len() {
        let mut altered = sealed.clone();
        altered[place] ^= 0x40;
        assert!(data.open(&altered, &HOME).is_err(), "byte {place}");
    }
    for len in 0..sealed.len() {
        assert!(data.open(&sealed[..len], &HOME).is_err(), "cut to {len} bytes");
    }
}

#[test]
fn two_seals_of_one_text_share_nothing() {
    let (_, data, _) = keys();
    assert_ne!(data.seal(b"same", &HOME).unwrap(), data.seal(b"same", &HOME).unwrap());
}

#[test]
fn a_data_key_opens_under_its_master_and_in_its_place_only() {
    let (master, data, wrapped) = keys();
    let sealed = data.seal(b"hunter2", &HOME).unwrap();
    let again = master.open_data_key(&wrapped, &HOME).unwrap();
    assert_eq!(again.open(&sealed, &HOME).unwrap().as_slice(), b"hunter2");
    let other = MasterKey::generate().unwrap();
    assert_eq!(other.open_data_key(&wrapped, &HOME).err(), Some(SealFault::Broken));
    let foreign = Binding { workspace: "ws_2", ..HOME };
    assert_eq!(master.open_data_key(&wrapped, &foreign).err(), Some(SealFault::Broken));
}

#[test]
fn a_new_master_key_carries_old_data_keys_on() {
    let (old, data, wrapped) = keys();
    let sealed = data.seal(b"hunter2", &HOME).unwrap();
    let new = MasterKey::generate().unwrap();
    let rewrapped = new.wrap_data_key(&old.open_data_key(&wrapped, &HOME).unwrap(), &HOME).unwrap();
    drop(old);
    let carried = new.open_data_key(&rewrapped, &HOME).unwrap();
    assert_eq!(carried.open(&sealed, &HOME).unwrap().as_slice(), b"hunter2");
}

#[test]
fn a_master_key_of_any_other_length_is_refused() {
    for len in [0, 1, 16, 31, 33, 64] {
        let refused = MasterKey::from_unwrapped(Zeroizing::new(vec![1; len]));
        assert_eq!(refused.err(), Some(SealFault::WrongLength(len)));
    }
    assert!(MasterKey::from_unwrapped(Zeroizing::new(vec![1; 32])).is_ok());
}

#[test]
fn a_key_shows_nothing_of_itself() {
    let (master, data, _) = keys();
    assert_eq!(format!("{master:?} {data:?}"), "MasterKey(..) DataKey(..)");
}

/// Where in this process's writable memory a key stands, and whether that place is locked. The key is told masked, so that the search
/// does not find itself.
fn places_of(masked: &[u8]) -> Vec<(u64, bool)> {
    let regions = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let memory = File::open("/proc/self/mem").unwrap();
    let mut found = Vec::new();
    let mut region = None;
    for line in regions.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some((from, to)) = first.split_once('-') {
            let number = |text| u64::from_str_radix(text, 16).ok();
            let writable = words.next().is_some_and(|rights| rights.starts_with("rw"));
            region = number(from).zip(number(to)).filter(|_| writable);
        }
        if let (Some((from, to)), "VmFlags:") = (region, first) {
            let locked = words.any(|flag| flag == "lo");
            found.extend(places_in(&memory, from..to, masked).into_iter().map(|place| (place, locked)));
        }
    }
    found
}

fn places_in(memory: &File, region: std::ops::Range<u64>, masked: &[u8]) -> Vec<u64> {
    let mut found = Vec::new();
    let mut page = vec![0; 4096 + masked.len()];
    for at in region.clone().step_by(4096) {
        let wanted = page.len().min(usize::try_from(region.end - at).unwrap());
        // Some regions, such as guards, do not read.
        let Ok(read) = memory.read_at(&mut page[..wanted], at) else { continue };
        let here = page[..read].windows(masked.len()).enumerate();
        let hits = here.filter(|(_, part)| part.iter().zip(masked).all(|(byte, mask)| byte ^ MASK == *mask));
        found.extend(hits.map(|(offset, _)| at + offset as u64));
        page.zeroize();
    }
    found.dedup();
    found
}

const MASK: u8 = 0xA5;

#[test]
fn a_key_in_use_stands_in_one_locked_place_and_nowhere_once_it_is_dropped() {
    let mut plain = Zeroizing::new(vec![0; 32]);
    File::open("/dev/urandom").unwrap().read_exact(&mut plain).unwrap();
    let masked: Vec<u8> = plain.iter().map(|byte| byte ^ MASK).collect();
    assert!(!places_of(&masked).is_empty(), "the search finds nothing: this test looks at nothing");
    let key = MasterKey::from_unwrapped(plain).unwrap();
    let (data, wrapped) = key.new_data_key(&HOME).unwrap();
    let opened = key.open_data_key(&wrapped, &HOME).unwrap();
    let places = places_of(&masked);
    assert!(matches!(places[..], [(_, true)]), "{places:x?}");
    drop((key, data, opened));
    assert_eq!(places_of(&masked), []);
}

#[test]
fn each_key_in_use_has_a_locked_page_of_its_own() {
    let locked = || -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmLck:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let before = locked();
    let (master, data, wrapped) = keys();
    assert_eq!(locked(), before + 8, "the master key's page and the data key's, in KiB");
    let again = master.open_data_key(&wrapped, &HOME).unwrap();
    assert_eq!(locked(), before + 12);
    drop((master, data, again));
    assert_eq!(locked(), before);
}
