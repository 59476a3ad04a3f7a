//! Programs: our own, found beside the tests in the target directory, and those of the operating system.
//! Who enters: the harness, with a name.
//! What leaves: a path or an output; a missing program fails the test with the words that bring it.

use std::path::PathBuf;
use std::process::{Command, Output};

/// One of our own programs.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a test knows where it is");
    // target/<profile>/deps/<test>: the programs lie beside `deps`.
    let found = own.ancestors().skip(1).take(2).map(|place| place.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("`{name}` is not built: run `cargo build --workspace` first"))
}

/// A program of the operating system.
pub fn tool(name: &str, package: &str) -> Command {
    let places = std::env::var_os("PATH").unwrap_or_default();
    let here = std::env::split_paths(&places).any(|place| place.join(name).is_file());
    assert!(here, "`{name}` is not installed: run `apt-get install {package}` and try again");
    Command::new(name)
}

/// Where Debian puts the library that bends time.
pub fn libfaketime() -> PathBuf {
    let places =
        ["/usr/lib/x86_64-linux-gnu/faketime", "/usr/lib/aarch64-linux-gnu/faketime", "/usr/lib64/faketime"];
    let found =
        places.iter().map(|place| PathBuf::from(place).join("libfaketime.so.1")).find(|path| path.exists());
    found.unwrap_or_else(|| {
        panic!("libfaketime is not installed: run `apt-get install faketime` and try again")
    })
}

/// Standard output as text.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Standard error as text.
pub fn complained(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a program to its end and insists on success.
pub fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|why| panic!("{command:?} did not start: {why}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        said(&output),
        complained(&output)
    );
    said(&output)
}
