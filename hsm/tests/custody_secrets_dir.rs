//! Hostile names and files in the secrets directory: each is a small case with its own name.
//! Enters: a directory with one honest secret and one trap.
//! Leaves: proof that the honest one is read and the trap is not.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use hsm::custody::{SecretFault, SecretsDir};

struct Mount {
    _hold: tempfile::TempDir,
    base: PathBuf,
}

impl Mount {
    fn new() -> Self {
        let hold = tempfile::tempdir().unwrap();
        let base = hold.path().join("secrets");
        fs::create_dir(&base).unwrap();
        close(&base, 0o700);
        let mount = Self { base, _hold: hold };
        mount.put("honest", b"key");
        mount
    }

    fn at(&self, name: &str) -> PathBuf {
        self.base.join(name)
    }

    fn put(&self, name: &str, content: &[u8]) {
        fs::write(self.at(name), content).unwrap();
        close(&self.at(name), 0o400);
    }

    fn dir(&self) -> SecretsDir {
        SecretsDir::open(&self.base).unwrap()
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, SecretFault> {
        self.dir().read(name).map(|secret| secret.to_vec())
    }
}

fn close(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn an_honest_secret_is_read() {
    assert_eq!(Mount::new().read("honest").unwrap(), b"key");
}

#[test]
fn a_secret_in_a_closed_directory_below_is_read() {
    let mount = Mount::new();
    fs::create_dir(mount.at("fireblocks")).unwrap();
    close(&mount.at("fireblocks"), 0o700);
    mount.put("fireblocks/key.pem", b"pem");
    assert_eq!(mount.read("fireblocks/key.pem").unwrap(), b"pem");
}

#[test]
fn names_that_are_not_plain_are_refused() {
    let mount = Mount::new();
    for name in
        ["", ".", "..", "../secrets/honest", "/etc/passwd", "a/../honest", "./honest", "honest/", "a//b", "/"]
    {
        let refused = mount.read(name);
        assert!(matches!(refused, Err(SecretFault::BadName { .. })), "{name:?}: {refused:?}");
    }
}

#[test]
fn a_name_with_a_nul_is_refused() {
    assert!(Mount::new().read("hon\0est").is_err());
}

#[test]
fn a_symlink_is_refused_even_if_it_stays_inside() {
    let mount = Mount::new();
    symlink("honest", mount.at("link")).unwrap();
    assert!(matches!(mount.read("link"), Err(SecretFault::Escapes { .. })));
}

#[test]
fn a_symlink_to_the_outside_is_refused() {
    let mount = Mount::new();
    symlink("/etc/passwd", mount.at("link")).unwrap();
    assert!(matches!(mount.read("link"), Err(SecretFault::Escapes { .. })));
}

#[test]
fn a_symlinked_directory_on_the_way_is_refused() {
    let mount = Mount::new();
    symlink("/etc", mount.at("etc")).unwrap();
    assert!(matches!(mount.read("etc/passwd"), Err(SecretFault::Escapes { .. })));
}

#[test]
fn a_magic_link_of_proc_is_refused() {
    let process = format!("/proc/{}", std::process::id());
    let refused = SecretsDir::open(Path::new(&process)).unwrap().read("exe");
    assert!(matches!(refused, Err(SecretFault::Escapes { .. })), "{refused:?}");
}

#[test]
fn a_base_that_is_a_symlink_is_refused() {
    let mount = Mount::new();
    let link = mount.base.with_file_name("link");
    symlink(&mount.base, &link).unwrap();
    assert!(SecretsDir::open(&link).is_err());
}

#[test]
fn a_base_that_others_may_write_to_is_refused() {
    let mount = Mount::new();
    close(&mount.base, 0o777);
    assert!(matches!(SecretsDir::open(&mount.base), Err(SecretFault::Loose { mode: 0o777, .. })));
}

#[test]
fn a_base_that_is_swapped_after_opening_changes_nothing() {
    let mount = Mount::new();
    let dir = mount.dir();
    let aside = mount.base.with_file_name("aside");
    fs::rename(&mount.base, &aside).unwrap();
    fs::create_dir(&mount.base).unwrap();
    fs::write(mount.at("honest"), b"planted").unwrap();
    assert_eq!(dir.read("honest").unwrap().as_slice(), b"key");
}

#[test]
fn a_loose_mode_is_refused() {
    let mount = Mount::new();
    for mode in [0o404, 0o460, 0o644, 0o402, 0o410] {
        close(&mount.at("honest"), mode);
        assert!(matches!(mount.read("honest"), Err(SecretFault::Loose { .. })), "{mode:o}");
    }
}

#[test]
fn a_loose_directory_on_the_way_is_refused() {
    let mount = Mount::new();
    fs::create_dir(mount.at("sub")).unwrap();
    mount.put("sub/key", b"key");
    for mode in [0o770, 0o707, 0o777] {
        close(&mount.at("sub"), mode);
        assert!(matches!(mount.read("sub/key"), Err(SecretFault::Loose { .. })), "{mode:o}");
    }
}

#[test]
fn a_group_that_may_read_is_refused_unless_it_is_roots_own() {
    let mount = Mount::new();
    close(&mount.at("honest"), 0o440);
    assert_eq!(mount.read("honest").unwrap(), b"key", "so systemd hands out credentials");
    chown(mount.at("honest"), None, Some(65_534)).unwrap();
    assert!(matches!(mount.read("honest"), Err(SecretFault::Loose { .. })));
}

#[test]
fn a_foreign_owner_is_refused() {
    let mount = Mount::new();
    if let Err(fault) = chown(mount.at("honest"), Some(65_534), None) {
        panic!("this test gives a file away and must run as root ({fault}); run it as root, as CI does");
    }
    assert!(matches!(mount.read("honest"), Err(SecretFault::Foreign { owner: 65_534, .. })));
}

#[test]
fn a_pipe_is_refused_without_waiting_for_its_other_end() {
    let mount = Mount::new();
    assert!(Command::new("mkfifo").arg("-m").arg("400").arg(mount.at("pipe")).status().unwrap().success());
    assert!(matches!(mount.read("pipe"), Err(SecretFault::NoFile { .. })));
}

#[test]
fn a_socket_and_a_directory_are_refused() {
    let mount = Mount::new();
    let _listener = UnixListener::bind(mount.at("socket")).unwrap();
    assert!(matches!(mount.read("socket"), Err(SecretFault::NoFile { .. })));
    fs::create_dir(mount.at("sub")).unwrap();
    assert!(matches!(mount.read("sub"), Err(SecretFault::NoFile { .. })));
}

#[test]
fn a_hard_link_is_refused() {
    let mount = Mount::new();
    fs::hard_link(mount.at("honest"), mount.at("second")).unwrap();
    assert!(matches!(mount.read("honest"), Err(SecretFault::Linked { links: 2, .. })));
    assert!(matches!(mount.read("second"), Err(SecretFault::Linked { links: 2, .. })));
}

#[test]
fn a_file_too_long_for_a_secret_is_refused() {
    let mount = Mount::new();
    mount.put("long", &vec![b'x'; (64 << 10) + 1]);
    assert!(matches!(mount.read("long"), Err(SecretFault::TooLong { .. })));
    mount.put("just", &vec![b'x'; 64 << 10]);
    assert_eq!(mount.read("just").unwrap().len(), 64 << 10);
}

#[test]
fn a_missing_secret_is_said_to_be_missing() {
    let fault = Mount::new().read("absent").unwrap_err();
    assert_eq!(fault.to_string(), "\"absent\" is not there; mount it, or correct the name");
}
