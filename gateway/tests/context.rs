//! The context diagram is held against the code: programs, listeners, files, hardware, and who starts whom.
//! Who enters: docs/context.md, the manifests, the sources.
//! What leaves: a fact that the picture lacks, or a node of the picture that is no fact.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

mod common;

use std::collections::BTreeSet;

use hsm::TokenConfig;

const DOCUMENT: &str = "docs/context.md";

/// The product's sources, without the simulated appliance.
fn sources() -> Vec<String> {
    let folders = ["gateway/src", "hsm/src", "audit/src"];
    let files = folders.iter().flat_map(|folder| common::files(folder, ".rs"));
    files.filter(|file| file != "gateway/src/cli/dev.rs").collect()
}

fn files_with(words: &str) -> Vec<String> {
    let product = |file: &String| {
        common::text(file).split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned()
    };
    sources().into_iter().filter(|file| product(file).contains(words) && !is_test(file)).collect()
}

fn is_test(file: &str) -> bool {
    file.contains("/tests/") || file.ends_with("/tests.rs")
}

fn programs() -> Vec<String> {
    let manifests = ["gateway", "hsm", "audit"].map(|package| common::text(format!("{package}/Cargo.toml")));
    let bins =
        manifests.iter().map(|text| text.parse::<toml::Table>().unwrap()["bin"].as_array().unwrap().clone());
    bins.flatten().map(|bin| bin["name"].as_str().unwrap().to_owned()).collect()
}

/// What the configuration lets lie in the state directory.
fn kept_files() -> Vec<String> {
    let config = common::text("gateway/src/config/mod.rs");
    let joined = config.split("state_directory.join(\"").skip(1);
    joined.filter_map(|rest| rest.split('"').next()).map(str::to_owned).collect()
}

/// The kinds of token that a configuration can name; the words come from the reader's own refusal.
fn hardware() -> Vec<String> {
    let refused = toml::from_str::<TokenConfig>("kind = 'none'").expect_err("no such kind").to_string();
    let words: Vec<_> = refused.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    let known: BTreeSet<_> = words.into_iter().filter(|word| word != "none").collect();
    known
        .into_iter()
        .filter(|word| word.chars().all(|c| c.is_ascii_alphanumeric()))
        .filter(|word| word != "kind")
        .collect()
}

fn facts() -> BTreeSet<String> {
    let mut facts = BTreeSet::new();
    facts.extend(programs().into_iter().map(|name| format!("program {name}")));
    facts.extend(files_with("TcpListener::bind(").into_iter().map(|file| format!("listener tcp {file}")));
    facts.extend(files_with("UnixListener::bind(").into_iter().map(|file| format!("listener unix {file}")));
    facts.extend(files_with("TcpStream::connect(").into_iter().map(|file| format!("dials {file}")));
    facts.extend(files_with("Command::new(").into_iter().map(|file| format!("starts programs {file}")));
    facts.extend(kept_files().into_iter().map(|name| format!("file {name}")));
    facts.extend(hardware().into_iter().map(|kind| format!("hardware {kind}")));
    facts
}

#[test]
fn the_diagram_names_every_program_listener_and_file_and_no_other() {
    let listed: BTreeSet<_> = common::fenced(DOCUMENT, "context").into_iter().collect();
    let from_code = |line: &&String| !line.starts_with("outside ") && !line.starts_with("frame ");
    let claimed: BTreeSet<_> = listed.iter().filter(from_code).cloned().collect();
    assert_eq!(claimed, facts(), "left: docs/context.md, right: the code");
    let nodes: BTreeSet<_> = listed
        .iter()
        .filter(|line| !line.starts_with("starts ") && !line.starts_with("dials "))
        .map(|line| node(line))
        .collect();
    assert_eq!(drawn_nodes(), nodes, "left: the picture, right: the list under it");
}

/// The second word names the node; what Mermaid does not take in a name becomes a line.
fn node(fact: &str) -> String {
    let name = fact.split(' ').nth(1).unwrap_or_default();
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// Names in the picture: what stands before a bracket, an arrow, or the end, at the places where Mermaid expects a node.
fn drawn_nodes() -> BTreeSet<String> {
    let mut nodes = BTreeSet::new();
    for line in common::fenced(DOCUMENT, "mermaid").iter().skip(1) {
        let line = line.trim();
        if line == "end" {
            continue;
        }
        let line = line.strip_prefix("subgraph ").unwrap_or(line);
        for part in line.split("-->") {
            let part = part.trim();
            let end = part.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(part.len());
            nodes.insert(part[..end].to_owned());
        }
    }
    nodes
}
