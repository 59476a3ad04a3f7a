//! The sandbox from inside: each test closes it round a thread of its own process and tries to get out.
//! Enters: tables of tokens, and versions of Landlock that older kernels have.
//! Leaves: refusals by the kernel, and by us where the kernel has no wall.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::process::Command;

use hsm::TokenConfig;

// The harness keeps a thread of its own, which stays outside; each test asks from the thread that went inside.

/// Runs one of the tests below in a process of its own, since a sandbox once closed does not open.
fn in_a_process_of_its_own(test: &str) {
    let me = std::env::current_exe().unwrap();
    let told = Command::new(me).args(["--ignored", "--exact", test]).output().unwrap();
    let text = String::from_utf8_lossy(&told.stdout);
    assert!(
        told.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&told.stderr)
    );
}

fn config(more: &str) -> TokenConfig {
    let text =
        format!("kind = \"pkcs11\"\nmodule = \"/none.so\"\nserial = \"1\"\npin_file = \"/none\"\n{more}");
    toml::from_str(&text).unwrap()
}

#[test]
fn inside_nothing_is_started_and_no_network_is_reached() {
    in_a_process_of_its_own("sandbox::tests::closed_without_network");
}

#[test]
fn a_module_that_needs_the_network_connects_to_its_port_alone() {
    in_a_process_of_its_own("sandbox::tests::closed_with_network");
}

#[test]
fn a_module_with_a_socket_has_unix_sockets_and_no_network() {
    in_a_process_of_its_own("sandbox::tests::closed_with_a_socket");
}

#[test]
fn the_sandbox_does_not_close_round_a_second_thread() {
    in_a_process_of_its_own("sandbox::tests::not_alone");
}

/// Older kernels, by the version of Landlock that they have.
#[test]
fn a_missing_wall_is_refused_unless_it_is_accepted() {
    for (abi, network, missing) in [
        (0, false, Some("files")),
        (0, true, Some("files")),
        (1, false, None),
        (3, false, None),
        (3, true, Some("addresses")),
        (4, true, None),
        (9, true, None),
    ] {
        let walls = || super::walls(&super::domain::Entered { abi }, network, false);
        match (super::judge(walls(), false), missing) {
            (Ok(_), None) => {}
            (Err(refused), Some(missing)) => {
                let refused = refused.to_string();
                assert!(
                    refused.contains(&format!("{missing}: ")) && refused.contains("accept_missing_walls"),
                    "{refused}"
                );
            }
            (judged, missing) => {
                panic!("Landlock {abi}, network {network}: {judged:?}, expected {missing:?}")
            }
        }
        let accepted = super::judge(walls(), true).unwrap();
        assert_eq!(accepted.iter().any(|wall| !wall.stands), missing.is_some(), "what is missing is shown");
    }
}

#[test]
#[ignore = "run by its sibling, in a process of its own"]
fn closed_without_network() {
    let walls = super::close_round_this_thread(&config("")).unwrap();
    assert!(walls.iter().all(|wall| wall.stands), "{walls:?}");
    assert_eq!(TcpListener::bind("127.0.0.1:0").unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert!(UnixStream::pair().is_ok(), "threads of a module speak to each other");
    assert_eq!(UnixStream::connect("/none").unwrap_err().kind(), ErrorKind::PermissionDenied);
    starts_nothing();
}

#[test]
#[ignore = "run by its sibling, in a process of its own"]
fn closed_with_network() {
    let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (its_device, somebody) = (listen(), listen());
    let (device, other) = (its_device.local_addr().unwrap(), somebody.local_addr().unwrap());
    super::close_round_this_thread(&config(&format!("network = true\nsandbox.connect = [\"{device}\"]")))
        .unwrap();
    assert!(std::net::TcpStream::connect(device).is_ok());
    assert_eq!(std::net::TcpStream::connect(other).unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(TcpListener::bind("127.0.0.1:0").unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(std::net::UdpSocket::bind("127.0.0.1:0").unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(UnixStream::connect("/none").unwrap_err().kind(), ErrorKind::PermissionDenied);
    starts_nothing();
}

#[test]
#[ignore = "run by its sibling, in a process of its own"]
fn closed_with_a_socket() {
    super::close_round_this_thread(&config("sandbox.sockets = [\"/none\"]")).unwrap();
    assert_eq!(UnixStream::connect("/none").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(std::os::unix::net::UnixDatagram::unbound().unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(std::net::TcpStream::connect("127.0.0.1:9").unwrap_err().kind(), ErrorKind::PermissionDenied);
    starts_nothing();
}

#[test]
#[ignore = "run by its sibling, in a process of its own"]
fn not_alone() {
    let other = std::thread::spawn(std::thread::park);
    let refused = super::close(&config("")).unwrap_err().to_string();
    other.thread().unpark();
    assert!(refused.contains("threads run already"), "{refused}");
}

fn starts_nothing() {
    let started = Command::new("/bin/true").spawn();
    assert_eq!(started.map(|_| ()).unwrap_err().kind(), ErrorKind::PermissionDenied);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Core);
    assert_eq!(limit.current, Some(0));
    assert!(rustix::thread::no_new_privs().unwrap());
    let left = rustix::thread::capabilities(None).unwrap();
    assert!(rustix::thread::CapabilitySet::DAC_OVERRIDE.contains(left.permitted), "{left:?}");
    assert!(std::thread::spawn(|| ()).join().is_ok(), "threads are not processes");
}
