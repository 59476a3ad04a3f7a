//! What is linked into the programs that are installed, and under whose terms: THIRD-PARTY-LICENSES.txt is what the lock file
//! and the packages themselves give. `UPDATE=1` rewrites it.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The packages that `make install` builds, as it builds them.
const BUILT: [&[&str]; 3] =
    [&["-p", "gateway", "--no-default-features"], &["-p", "hsm", "--features", "worker"], &["-p", "audit"]];

/// The only target that is shipped.
const TARGET: &str = "x86_64-unknown-linux-gnu";

const HEAD: &str = "Chancery is under the Apache License 2.0, see LICENSE. Linked into its programs are the packages below, each under the terms that
stand behind it. Where a package offers a choice of terms, all of them are here. What runs only while Chancery is built, and the
libraries of the system that it loads (the C library, tpm2-tss, the module of a token), are not part of it and not listed.
";

fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output =
        Command::new(cargo).args(arguments).current_dir(common::root()).output().expect("cargo runs");
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Name and version of every package that is linked, with the terms it declares.
fn linked() -> BTreeMap<(String, String), String> {
    let mut linked = BTreeMap::new();
    for built in BUILT {
        let flags = ["tree", "--offline", "--locked", "--target", TARGET, "--edges", "normal,no-proc-macro"];
        let form = ["--prefix", "none", "--format", "{p}\t{l}"];
        for line in cargo(&[&flags[..], &form[..], built].concat()).lines() {
            let (package, terms) = line.trim_end_matches(" (*)").split_once('\t').expect("two columns");
            let mut words = package.split(' ');
            let (name, version) = (words.next().unwrap(), words.next().unwrap().trim_start_matches('v'));
            // Members of this workspace have a path behind them.
            if words.next().is_none() {
                linked.insert((name.to_owned(), version.to_owned()), terms.to_owned());
            }
        }
    }
    linked
}

/// Where each package of the lock file lies.
fn sources() -> BTreeMap<(String, String), PathBuf> {
    let metadata =
        cargo(&["metadata", "--offline", "--locked", "--format-version", "1", "--filter-platform", TARGET]);
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let text = |package: &Value, field: &str| package[field].as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap().iter();
    let place = |package: &Value| {
        let manifest = PathBuf::from(text(package, "manifest_path"));
        ((text(package, "name"), text(package, "version")), manifest.parent().unwrap().to_owned())
    };
    packages.map(place).collect()
}

/// The files of a package that state its terms, by name.
fn terms(source: &Path) -> Vec<String> {
    let states = |path: &Path| {
        let name = path.file_name().unwrap().to_string_lossy().to_lowercase();
        ["license", "licence", "copying", "copyright", "notice", "unlicense"]
            .iter()
            .any(|it| name.starts_with(it))
    };
    let list = |directory: &Path| -> Vec<PathBuf> {
        fs::read_dir(directory).unwrap().map(|item| item.unwrap().path()).collect()
    };
    let mut files: Vec<PathBuf> = list(source).into_iter().filter(|path| states(path)).collect();
    let within: Vec<PathBuf> =
        files.iter().filter(|path| path.is_dir()).flat_map(|path| list(path)).collect();
    files.retain(|path| path.is_file());
    files.extend(within);
    files.sort();
    files.iter().map(|path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()).collect()
}

/// The same words with other line ends, margins or breaks are the same terms.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_terms_of_everything_that_is_linked_are_shipped() {
    let (linked, sources) = (linked(), sources());
    assert!(linked.len() > 100, "only {} packages are linked", linked.len());
    let mut by_words: BTreeMap<String, (String, Vec<String>)> = BTreeMap::new();
    let mut list = String::new();
    for ((name, version), declared) in &linked {
        list += &format!("{name} {version}: {declared}\n");
        let texts = terms(&sources[&(name.clone(), version.clone())]);
        assert!(!texts.is_empty(), "{name} {version} brings no terms; add them by hand, or do without it");
        for text in texts {
            let users = &mut by_words.entry(words(&text)).or_insert((text, Vec::new())).1;
            let user = format!("{name} {version}");
            if !users.contains(&user) {
                users.push(user);
            }
        }
    }
    let mut texts: Vec<(String, Vec<String>)> = by_words.into_values().collect();
    texts.sort_by(|a, b| b.1.len().cmp(&a.1.len()).then_with(|| a.1.cmp(&b.1)).then_with(|| a.0.cmp(&b.0)));
    let mut made = format!("{HEAD}\n{list}");
    let line = "=".repeat(100);
    for (text, users) in texts {
        let text: Vec<&str> = text.lines().map(str::trim_end).collect();
        made +=
            &format!("\n{line}\n{}\n{line}\n\n{}\n", users.join(", "), text.join("\n").trim_matches('\n'));
    }
    common::golden("THIRD-PARTY-LICENSES.txt", &made);
}
