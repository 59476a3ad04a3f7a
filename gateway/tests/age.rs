//! What is sealed for a recipient, held against the public `age` tool.
//! Who enters: bytes of every awkward length; keys that `age-keygen` made.
//! What leaves: the same bytes, opened by the tool; nothing at all where the end is missing.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

use gateway::services::audit::recipient::{Recipient, Sealed};

/// What the format seals at once.
const CHUNK: usize = 64 << 10;

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|why| panic!("run `apt-get install age` and try again: {why}"))
}

/// A key pair: the secret half in a file, the public half.
fn key(directory: &Path) -> Recipient {
    let identity = directory.join("key");
    assert!(run(Command::new("age-keygen").arg("-o").arg(&identity)).status.success());
    let public = run(Command::new("age-keygen").arg("-y").arg(&identity));
    String::from_utf8(public.stdout).unwrap().trim().parse().unwrap()
}

fn opened(directory: &Path, sealed: &[u8]) -> Output {
    std::fs::write(directory.join("sealed"), sealed).unwrap();
    run(Command::new("age").arg("-d").arg("-i").arg(directory.join("key")).arg(directory.join("sealed")))
}

#[test]
fn the_public_tool_opens_what_was_sealed_at_every_length_around_a_chunk() {
    let directory = tempfile::tempdir().unwrap();
    let recipient = key(directory.path());
    for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 7] {
        let plain: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        let mut sealing = Sealed::to(&recipient, Vec::new()).unwrap();
        // In pieces that meet no border of a chunk.
        plain.chunks(4_099).for_each(|piece| sealing.write_all(piece).unwrap());
        let opened = opened(directory.path(), &sealing.end().unwrap());
        assert!(opened.status.success(), "{length}: {}", String::from_utf8_lossy(&opened.stderr));
        assert!(opened.stdout == plain, "{length} bytes came back as {} others", opened.stdout.len());
    }
}

#[test]
fn what_was_not_ended_does_not_open_as_a_shorter_one() {
    let directory = tempfile::tempdir().unwrap();
    let recipient = key(directory.path());
    let mut whole = Sealed::to(&recipient, Vec::new()).unwrap();
    whole.write_all(&[7; 3 * CHUNK]).unwrap();
    let sealed = whole.end().unwrap();
    // Cut where a chunk ends: only the missing mark of the last chunk tells.
    let cut = sealed.len() - (CHUNK + 16);
    assert!(!opened(directory.path(), &sealed[..cut]).status.success());
    let mut bent = sealed.clone();
    bent[cut - 5] ^= 1;
    assert!(!opened(directory.path(), &bent).status.success());
}

#[test]
fn the_same_bytes_are_never_sealed_twice_in_the_same_way() {
    let directory = tempfile::tempdir().unwrap();
    let recipient = key(directory.path());
    let sealed = || {
        let mut sealing = Sealed::to(&recipient, Vec::new()).unwrap();
        sealing.write_all(b"the same").unwrap();
        sealing.end().unwrap()
    };
    let (one, two) = (sealed(), sealed());
    let line = |sealed: &[u8], at: usize| sealed.split(|it| *it == b'\n').nth(at).unwrap().to_vec();
    assert!((1..4).all(|at| line(&one, at) != line(&two, at)));
}
