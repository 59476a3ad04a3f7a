//! Promises about exact bytes: notes, keys, checkpoints, proofs and the tree, against published vectors and hostile forms.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail loudly")]

use audit::merkle::{self, Frontier, Nodes};
use audit::{Checkpoint, CheckpointRefused, Note, NoteKey, NoteRefused, Proof, Receipt, ReceiptRefused};
use base64::Engine as _;
use proptest::prelude::*;
use serde_json::Value;

const EXAMPLE: &str = include_str!("vectors/c2sp-note-example.note");
const EXAMPLE_KEY: &str = include_str!("vectors/c2sp-note-example.vkey");
const CHECKPOINT: &str = include_str!("vectors/audit-checkpoint.note");
const KEYS: &str = include_str!("vectors/audit-vkeys.txt");
const COSIGNED: &str = include_str!("vectors/audit-cosignature-message.txt");
const LOG: &str = include_str!("vectors/audit-log.json");
const LEAVES: &str = include_str!("vectors/chancery-leaves.json");

fn keys() -> Vec<NoteKey> {
    KEYS.lines().map(|line| line.parse().unwrap()).collect()
}

fn hash(value: &Value) -> [u8; 32] {
    hex::decode(value.as_str().unwrap()).unwrap().try_into().unwrap()
}

#[test]
fn the_example_of_the_specification_verifies() {
    let key: NoteKey = EXAMPLE_KEY.trim().parse().unwrap();
    assert_eq!(hex::encode(key.id()), "530d903a");
    let note = Note::parse(EXAMPLE.as_bytes()).unwrap();
    assert_eq!(note.verify(std::slice::from_ref(&key)).unwrap(), [&key]);
    assert_eq!((note.to_string(), key.to_string()), (EXAMPLE.to_owned(), EXAMPLE_KEY.trim().to_owned()));
}

#[test]
fn all_three_kinds_of_line_on_a_checkpoint_verify() {
    let keys = keys();
    let (checkpoint, signers) = Checkpoint::open(CHECKPOINT.as_bytes(), &keys).unwrap();
    assert_eq!((checkpoint.size, signers.len()), (3, 3));
    assert_eq!(
        audit::note::cosignature_message(1_700_000_100, checkpoint.text().as_bytes()),
        COSIGNED.as_bytes()
    );
    assert!(CHECKPOINT.starts_with(&checkpoint.text()));
}

#[test]
fn one_flipped_bit_in_any_signature_spoils_the_note() {
    let keys = keys();
    let note = Note::parse(CHECKPOINT.as_bytes()).unwrap();
    for line in note.lines() {
        let mut flipped = line.bytes.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let text = base64(&[&line.id[..], &line.bytes].concat());
        let bent = CHECKPOINT.replace(&text, &base64(&[&line.id[..], &flipped].concat()));
        assert_ne!(bent, CHECKPOINT);
        let refused = Checkpoint::open(bent.as_bytes(), &keys).unwrap_err();
        assert_eq!(refused, CheckpointRefused::Note(NoteRefused::BadSignature(line.name.clone())));
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[test]
fn a_note_of_unknown_keys_only_is_not_accepted() {
    let stranger: NoteKey = EXAMPLE_KEY.trim().parse().unwrap();
    let refused = Checkpoint::open(CHECKPOINT.as_bytes(), &[stranger]).unwrap_err();
    assert_eq!(refused, CheckpointRefused::Note(NoteRefused::NoKnownKey));
}

#[test]
fn an_unknown_line_beside_a_good_one_changes_nothing() {
    let keys = keys();
    assert_eq!(Checkpoint::open(CHECKPOINT.as_bytes(), &keys[..1]).unwrap().1.len(), 1);
    let other_name = CHECKPOINT.replace("\u{2014} witness.example.org/w1 ", "\u{2014} someone.else/w1 ");
    assert_eq!(Checkpoint::open(other_name.as_bytes(), &keys).unwrap().1.len(), 2);
}

#[test]
fn hostile_notes_are_refused_each_with_its_reason() {
    let text = "example.com/log\n1\nzCLlzRRhJ6ZTyFG5y6ltBRpcyczZdFJj/QfJvN51ZYw=\n";
    let line = "\u{2014} example.com/log AAAAAAAA\n";
    let cases: Vec<(String, &str)> = vec![
        (text.to_owned(), "no empty line stands between text and signatures"),
        (format!("{text}\n{}", line.trim_end()), "it does not end with a newline"),
        (
            format!("{text}\n- example.com/log AAAAAAAA\n"),
            "a signature line does not begin with a dash and a space",
        ),
        (format!("{text}\n\u{2014} example.com/log\n"), "a signature line has no signature"),
        (format!("{text}\n\u{2014} a+b AAAAAAAA\n"), "a signature line has no proper key name"),
        (format!("{text}\n\u{2014} example.com/log AAAA!AAA\n"), "a signature is not base64"),
        (format!("{text}\n\u{2014} example.com/log AAAAAA==\n"), "a signature is too short"),
        (format!("te\u{1}xt\n\n{line}"), "it has a control character"),
        (format!("{text}\n{}", line.repeat(101)), "it has more than 100 signature lines"),
        (format!("{}\n\n{line}", "x".repeat(70_000)), "it is longer than 64 KiB"),
    ];
    for (note, why) in cases {
        assert_eq!(
            Note::parse(note.as_bytes()).unwrap_err().to_string(),
            format!("not a signed note: {why}")
        );
    }
    assert!(Note::parse(format!("{text}\n{}", line.repeat(17)).as_bytes()).is_ok());
    assert!(Note::parse(b"\xff\n\n").is_err());
}

#[test]
fn hostile_checkpoints_are_refused() {
    let root = "zCLlzRRhJ6ZTyFG5y6ltBRpcyczZdFJj/QfJvN51ZYw=";
    for text in [
        format!("log\n01\n{root}\n"),
        format!("log\n+1\n{root}\n"),
        format!("log\n\n{root}\n"),
        format!("log\n18446744073709551616\n{root}\n"),
        format!("log\n1\n{root}\nextension\n"),
        format!("l og\n1\n{root}\n"),
        format!("log\n1\n{}\n", &root[..40]),
        format!("log\n1\n{root}"),
        "log\n1\n".to_owned(),
    ] {
        assert!(Checkpoint::parse(&text).is_err(), "{text:?}");
    }
    assert_eq!(Checkpoint::parse(&format!("log\n0\n{root}\n")).unwrap().size, 0);
}

#[test]
fn hostile_verifier_keys_are_refused() {
    let good = EXAMPLE_KEY.trim();
    for vkey in [
        "".to_owned(),
        "example.com/foo".to_owned(),
        good.replace("530d903a", "530d903b"),
        good.replace("530d903a", "530D903A"),
        good.replace("example.com/foo", "example.com/bar"),
        good.replace("example.com/foo", ""),
        "example.com/foo+530d903a+AQ==".to_owned(),
        "example.com/foo+530d903a+BwEBAQ==".to_owned(),
    ] {
        assert!(vkey.parse::<NoteKey>().is_err(), "{vkey}");
    }
}

struct Leaves(Vec<[u8; 32]>);

impl Nodes for Leaves {
    type Fault = std::convert::Infallible;
    fn subtree(&self, height: u32, index: u64) -> Result<[u8; 32], Self::Fault> {
        let width = 1_usize << height;
        let start = usize::try_from(index).unwrap() * width;
        Ok(plain_root(&self.0[start..start + width]))
    }
}

/// RFC 6962 section 2.1, written down a second time as it stands there.
fn plain_root(leaves: &[[u8; 32]]) -> [u8; 32] {
    match leaves {
        [] => merkle::empty_root(),
        [leaf] => *leaf,
        _ => {
            let split = leaves.len().next_power_of_two() / 2;
            merkle::node_hash(&plain_root(&leaves[..split]), &plain_root(&leaves[split..]))
        }
    }
}

#[test]
fn roots_and_proofs_agree_with_the_published_log() {
    let log: Value = serde_json::from_str(LOG).unwrap();
    let leaves: Vec<[u8; 32]> =
        log["leaves"].as_array().unwrap().iter().map(|it| hash(&it["leaf_hash"])).collect();
    let tree = Leaves(leaves.clone());
    for size in 0..=3_u64 {
        let Ok(root) = merkle::root(&tree, size);
        assert_eq!(root, hash(&log["roots"][size.to_string()]));
    }
    for index in 0..3_u64 {
        let Ok(proof) = merkle::prove_inclusion(&tree, index, 3);
        let published: Vec<_> =
            log["inclusion_size_3"][index.to_string()].as_array().unwrap().iter().map(hash).collect();
        assert_eq!(proof, published);
    }
    for (old, new) in [(1, 2), (1, 3), (2, 3)] {
        let Ok(proof) = merkle::prove_consistency(&tree, old, new);
        let published = &log["consistency"][format!("{old}-{new}")];
        assert_eq!(proof, published.as_array().unwrap().iter().map(hash).collect::<Vec<_>>());
    }
}

/// Our own leaves, in the same shape as the public vectors, for whoever writes another verifier.
#[test]
fn our_published_leaves_recompute() {
    use audit::leaf::{Leaf, genesis_chain, leaf_hash, next_chain, payload_commit};
    let log: Value = serde_json::from_str(LEAVES).unwrap();
    let origin = log["origin"].as_str().unwrap();
    let mut chain = genesis_chain(origin);
    assert_eq!(chain, hash(&log["genesis_chain"]));
    let mut frontier = Frontier::default();
    for vector in log["leaves"].as_array().unwrap() {
        let text = |name: &str| vector[name].as_str().unwrap();
        let leaf = Leaf {
            seq: vector["seq"].as_u64().unwrap(),
            time_us: vector["time_us"].as_u64().unwrap(),
            origin,
            workspace: text("workspace"),
            actor: text("actor"),
            action: text("action"),
            object: text("object"),
            outcome: text("outcome"),
            request_id: text("request_id"),
            payload_commit: payload_commit(&hash(&vector["salt"]), text("payload").as_bytes()),
            prev_chain: chain,
        };
        let mut bytes = Vec::new();
        leaf.encode(&mut bytes);
        assert_eq!(hex::encode(&bytes), text("leaf"));
        assert_eq!(Leaf::decode(&bytes).unwrap(), leaf);
        assert_eq!(leaf_hash(&bytes), hash(&vector["leaf_hash"]));
        chain = next_chain(&chain, &leaf_hash(&bytes));
        assert_eq!(chain, hash(&vector["chain"]));
        frontier.push(leaf_hash(&bytes), |_, _, _| {});
    }
    assert_eq!(frontier.root(), hash(&log["root"]));
}

#[test]
fn every_tree_follows_from_the_empty_one_and_nothing_else_is_the_empty_one() {
    let leaves: Vec<[u8; 32]> = (0..5_u64).map(|it| audit::leaf::leaf_hash(&it.to_be_bytes())).collect();
    let (tree, root, empty) = (Leaves(leaves.clone()), plain_root(&leaves), plain_root(&[]));
    let Ok(proof) = merkle::prove_consistency(&tree, 0, 5);
    assert!(proof.is_empty());
    assert!(merkle::check_consistency(0, &empty, 5, &root, &[]));
    assert!(!merkle::check_consistency(0, &root, 5, &root, &[]), "another root of no leaves");
    assert!(!merkle::check_consistency(0, &empty, 5, &root, &[empty]), "a proof of nothing");
    assert!(!merkle::check_consistency(0, &[7; 32], 5, &root, &[empty]));
}

#[test]
fn a_proof_has_no_longer_path_than_any_tree_is_high() {
    let line = format!("{}\n", base64::engine::general_purpose::STANDARD.encode([7; 32]));
    let refusal = |lines: usize| {
        let text = format!("c2sp.org/tlog-proof@v1\nindex 1\n{}\nno note", line.repeat(lines));
        Proof::parse(text.as_bytes()).unwrap_err().to_string()
    };
    let too_long = "its path is longer than any tree is high";
    assert!(refusal(65).contains(too_long), "{}", refusal(65));
    assert!(refusal(70).contains(too_long), "{}", refusal(70));
    assert!(!refusal(64).contains(too_long), "{}", refusal(64));
}

proptest! {
    #[test]
    fn every_proof_of_a_random_tree_holds_and_no_other(size in 1_u64..200, seed: u64, other: u8) {
        let leaves: Vec<[u8; 32]> = (0..size).map(|it| audit::leaf::leaf_hash(&(it ^ seed).to_be_bytes())).collect();
        let mut frontier = Frontier::default();
        leaves.iter().for_each(|leaf| frontier.push(*leaf, |_, _, _| {}));
        let tree = Leaves(leaves.clone());
        let root = frontier.root();
        prop_assert_eq!(root, plain_root(&leaves));
        let index = seed % size;
        let Ok(proof) = merkle::prove_inclusion(&tree, index, size);
        prop_assert!(merkle::check_inclusion(&leaves[index as usize], index, size, &proof, &root));
        prop_assert!(!merkle::check_inclusion(&[other; 32], index, size, &proof, &root));
        if size > 1 {
            prop_assert!(!merkle::check_inclusion(&leaves[index as usize], (index + 1) % size, size, &proof, &root));
        }
        let old = 1 + seed / 7 % size;
        let old_root = plain_root(&leaves[..old as usize]);
        let Ok(proof) = merkle::prove_consistency(&tree, old, size);
        prop_assert!(merkle::check_consistency(old, &old_root, size, &root, &proof));
        prop_assert!(!merkle::check_consistency(old, &[other; 32], size, &root, &proof));
    }

    #[test]
    fn no_bytes_make_a_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let text = String::from_utf8_lossy(&bytes);
        let _ = (Note::parse(&bytes), Checkpoint::parse(&text), Proof::parse(&bytes), text.parse::<NoteKey>());
        let _ = (Receipt::from_json(&bytes), audit::leaf::Leaf::decode(&bytes), audit::NvStatement::parse(&bytes));
        let _ = Proof::parse(&[b"c2sp.org/tlog-proof@v1\nindex 1\n", &bytes[..]].concat());
        let _ = audit::leaf::Leaf::decode(&[b"chancery.audit.leaf.v1\n", &bytes[..]].concat());
        let _ = audit::NvStatement::parse(&[&[0xff, 0x54, 0x43, 0x47, 0x80, 0x14], &bytes[..]].concat());
    }

    #[test]
    fn a_leaf_reads_back_as_it_was_written(texts in proptest::collection::vec(".{0,40}", 7), seq: u64, time_us: u64) {
        let leaf = audit::leaf::Leaf {
            seq, time_us, origin: &texts[0], workspace: &texts[1], actor: &texts[2], action: &texts[3],
            object: &texts[4], outcome: &texts[5], request_id: &texts[6], payload_commit: [1; 32], prev_chain: [2; 32],
        };
        let mut bytes = Vec::new();
        leaf.encode(&mut bytes);
        prop_assert_eq!(audit::leaf::Leaf::decode(&bytes).unwrap(), leaf);
        bytes.push(0);
        prop_assert!(audit::leaf::Leaf::decode(&bytes).is_err());
    }
}

#[test]
fn a_receipt_with_anything_exchanged_is_refused() {
    let log: Value = serde_json::from_str(LEAVES).unwrap();
    let receipt = Receipt::from_json(log["receipt"]["json"].as_str().unwrap().as_bytes()).unwrap();
    let keys: Vec<NoteKey> = vec![log["receipt"]["key"].as_str().unwrap().parse().unwrap()];
    assert_eq!(receipt.check(&keys).unwrap().0.seq, 1);
    let bend = |change: fn(&mut Receipt)| {
        let mut bent = receipt.clone();
        change(&mut bent);
        bent.check(&keys).unwrap_err()
    };
    assert_eq!(bend(|it| it.payload.push(b' ')), ReceiptRefused::WrongPayload(1));
    assert_eq!(bend(|it| it.salt[0] ^= 1), ReceiptRefused::WrongPayload(1));
    assert!(matches!(bend(|it| it.leaf[45] ^= 1), ReceiptRefused::Proof(_)));
    assert!(matches!(bend(|it| it.proof.index = 0), ReceiptRefused::Proof(_)));
    assert!(matches!(bend(|it| it.proof.path[0][0] ^= 1), ReceiptRefused::Proof(_)));
}

/// A leaf that stands in a log of ours, rightly, and says to be of another log or another place: whoever can append to one
/// log with a known key must not be able to make receipts of another.
#[test]
fn a_receipt_of_another_log_is_refused() {
    use audit::leaf::{Leaf, genesis_chain, leaf_hash, payload_commit};
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

    const OURS: &str = "test.example/audit/0001";
    let pair = Ed25519KeyPair::generate().unwrap();
    let key = NoteKey::new(OURS, audit::KeyKind::Ed25519, pair.public_key().as_ref().to_vec()).unwrap();
    let receipt = |origin: &str, seq: u64| {
        let (salt, payload) = ([7; 32], b"{}".to_vec());
        let leaf = Leaf {
            seq,
            time_us: 1,
            origin,
            workspace: "a",
            actor: "user:alice",
            action: "key.sign",
            object: "key/1",
            outcome: "done",
            request_id: "",
            payload_commit: payload_commit(&salt, &payload),
            prev_chain: genesis_chain(origin),
        };
        let mut bytes = Vec::new();
        leaf.encode(&mut bytes);
        let root = leaf_hash(&bytes);
        let checkpoint = audit::Checkpoint { origin: OURS.to_owned(), size: 1, root };
        let mut note = audit::Note::new(checkpoint.text()).unwrap();
        note.sign(&key, pair.sign(checkpoint.text().as_bytes()).as_ref().to_vec()).unwrap();
        let proof = audit::Proof { index: 0, path: Vec::new(), note };
        Receipt { leaf: bytes, salt: salt.to_vec(), payload, proof }
    };
    let keys = std::slice::from_ref(&key);
    assert_eq!(receipt(OURS, 0).check(keys).unwrap().0.action, "key.sign");
    for (origin, seq) in [("bank.example/audit/0001", 0), (OURS, 5)] {
        let refused = receipt(origin, seq).check(keys).unwrap_err();
        let expected = ReceiptRefused::Mismatch {
            leaf: seq,
            origin: origin.to_owned(),
            proof: 0,
            proof_origin: OURS.to_owned(),
        };
        assert_eq!(refused, expected);
    }
}
