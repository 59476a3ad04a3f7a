//! The map in docs/tour.md is held against the code: every arrow drawn is used, every arrow used is drawn.
//! Who enters: the `use` lines of the gateway, the dependencies of the crates, the map.
//! What leaves: an arrow too many or too few, by name and file.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

type Arrows = BTreeMap<String, BTreeSet<String>>;

/// The map: `from -> to, to` for what stands on what, `from ~> to` for tests only.
fn drawn(block: &str, arrow: &str) -> Arrows {
    let lines = common::fenced("docs/tour.md", block);
    let arrows = lines.iter().filter_map(|line| line.split_once(arrow));
    arrows
        .map(|(from, to)| {
            (from.trim().to_owned(), to.split(',').map(|name| name.trim().to_owned()).collect())
        })
        .collect()
}

fn assert_same(drawn: &Arrows, used: &Arrows, places: &BTreeMap<(String, String), String>) {
    let flat = |arrows: &Arrows| -> BTreeSet<(String, String)> {
        arrows.iter().flat_map(|(from, to)| to.iter().map(move |to| (from.clone(), to.clone()))).collect()
    };
    let (drawn, used) = (flat(drawn), flat(used));
    let place = |arrow: &(String, String)| places.get(arrow).cloned().unwrap_or_default();
    let undrawn: Vec<_> =
        used.difference(&drawn).map(|a| format!("{} -> {} ({})", a.0, a.1, place(a))).collect();
    let unused: Vec<_> = drawn.difference(&used).map(|a| format!("{} -> {}", a.0, a.1)).collect();
    assert!(undrawn.is_empty(), "docs/tour.md does not draw:\n{}", undrawn.join("\n"));
    assert!(unused.is_empty(), "docs/tour.md draws what no line uses:\n{}", unused.join("\n"));
}

#[test]
fn the_crates_stand_on_each_other_as_the_map_says() {
    let manifest: toml::Table = common::text("Cargo.toml").parse().unwrap();
    let members = manifest["workspace"]["members"].as_array().unwrap().clone();
    let members: Vec<_> = members.iter().filter_map(|member| member.as_str()).map(str::to_owned).collect();
    let names: BTreeSet<_> =
        members.iter().filter_map(|path| path.rsplit('/').next()).map(str::to_owned).collect();
    for (section, arrow) in [("dependencies", "->"), ("dev-dependencies", "~>")] {
        let mut used = Arrows::new();
        for member in &members {
            let own: toml::Table = common::text(format!("{member}/Cargo.toml")).parse().unwrap();
            let name = member.rsplit('/').next().unwrap();
            let dependencies =
                own.get(section).and_then(|table| table.as_table()).cloned().unwrap_or_default();
            let inside =
                dependencies.keys().filter(|dependency| names.contains(*dependency) && *dependency != name);
            for dependency in inside {
                used.entry(name.to_owned()).or_default().insert(dependency.clone());
            }
        }
        assert_same(&drawn("crates", arrow), &used, &BTreeMap::new());
    }
}

#[test]
fn the_rooms_of_the_gateway_use_each_other_as_the_map_says() {
    let (used, places) = used();
    assert_same(&drawn("rooms", "->"), &used, &places);
}

#[test]
fn no_two_rooms_need_each_other_by_whatever_way() {
    let (used, _) = used();
    for room in used.keys() {
        let mut reached = BTreeSet::new();
        let mut next: Vec<&String> = used[room].iter().collect();
        while let Some(other) = next.pop() {
            if reached.insert(other) {
                next.extend(used.get(other).into_iter().flatten());
            }
        }
        assert!(!reached.contains(room), "a way leads from {room} back to {room}");
    }
}

#[test]
fn the_reader_of_use_lines_sees_every_form_of_them() {
    let known = ["a", "b", "services", "services::x", "services::y"].map(str::to_owned).into();
    let own = path("services::x");
    let seen = |line: &str| rooms_in(line, &own, &known).into_iter().collect::<Vec<_>>().join(" ");
    assert_eq!(seen("use crate::a::Thing;"), "a");
    assert_eq!(seen("use crate::{a, b::{C, D}};"), "a b");
    assert_eq!(seen("use super::y::{self, Z};"), "services::y");
    assert_eq!(seen("use crate::services::{y, x};"), "services::y");
    assert_eq!(seen("let made = crate::b::make();"), "b");
    assert_eq!(seen("// use crate::b::Thing;"), "");
    assert_eq!(seen("fn f() {}\n#[cfg(test)]\nmod tests {\n use crate::a::T;\n}"), "");
}

/// Who uses whom, and in which file first.
fn used() -> (Arrows, BTreeMap<(String, String), String>) {
    let files = common::files("gateway/src", ".rs");
    let modules: BTreeMap<_, _> = files.iter().map(|file| (file.clone(), module_of(file))).collect();
    let known: BTreeSet<String> = modules.values().map(|module| room(module)).collect();
    let (mut used, mut places) = (Arrows::new(), BTreeMap::new());
    for (file, module) in modules.iter().filter(|(_, module)| !module.is_empty()) {
        for other in rooms_in(&common::text(file), module, &known) {
            places.entry((room(module), other.clone())).or_insert_with(|| file.clone());
            used.entry(room(module)).or_default().insert(other);
        }
    }
    (used, places)
}

fn path(text: &str) -> Vec<String> {
    text.split("::").map(str::to_owned).collect()
}

/// `gateway/src/services/keys/wire.rs` is the module `services::keys::wire`; `lib.rs` and `main.rs` are none.
fn module_of(file: &str) -> Vec<String> {
    let inside = file.trim_start_matches("gateway/src/").trim_end_matches(".rs").trim_end_matches("/mod");
    match inside {
        "lib" | "main" => Vec::new(),
        inside => inside.split('/').map(str::to_owned).collect(),
    }
}

/// A room is a module at the top; each service is a room of its own.
fn room(module: &[String]) -> String {
    let depth = if module.first().is_some_and(|first| first == "services") { 2 } else { 1 };
    module.iter().take(depth).cloned().collect::<Vec<_>>().join("::")
}

/// The other rooms that a file of the module `own` names, in `use` lines or in full paths; its tests may use what they like.
fn rooms_in(text: &str, own: &[String], known: &BTreeSet<String>) -> BTreeSet<String> {
    let product = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let code: String =
        product.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join(" ");
    let mut rooms = BTreeSet::new();
    for (at, _) in code.match_indices("::") {
        let before = &code[..at];
        let start = before.rfind(|c: char| !c.is_alphanumeric() && c != '_').map_or(0, |found| found + 1);
        let follows_a_path = before[..start].ends_with("::");
        let (base, rest) = match &before[start..] {
            "crate" => (Vec::new(), &code[at + 2..]),
            "super" if !follows_a_path => above(own, &code[start..]),
            _ => continue,
        };
        let mut paths = Vec::new();
        expand(&base, rest, &mut paths);
        let named = paths.iter().map(|path| room(path)).map(|name| nearest(name, known));
        rooms.extend(named.flatten().filter(|name| *name != room(own)));
    }
    rooms
}

/// One level up for each `super::`.
fn above<'a>(own: &[String], mut rest: &'a str) -> (Vec<String>, &'a str) {
    let mut base = own.to_vec();
    while let Some(further) = rest.strip_prefix("super::") {
        base.pop();
        rest = further;
    }
    (base, rest)
}

/// The first two names of each path in a tree of uses: `a::b`, `{a, b::{C, D}}`.
fn expand(base: &[String], rest: &str, paths: &mut Vec<Vec<String>>) {
    let rest = rest.trim_start();
    if let Some(inner) = rest.strip_prefix('{') {
        for part in parts(inner) {
            expand(base, part, paths);
        }
        return;
    }
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    let mut path = base.to_vec();
    if &rest[..end] != "self" {
        path.push(rest[..end].to_owned());
    }
    match rest[end..].strip_prefix("::") {
        Some(further) if path.len() < 2 => expand(&path, further, paths),
        _ => paths.push(path),
    }
}

/// What stands between the commas of one level, up to its closing brace.
fn parts(inner: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0_usize, 0, Vec::new());
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                found.push(&inner[start..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(&inner[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    found.retain(|part| !part.trim().is_empty());
    found
}

/// A name that is no room is an item of the room above it, or of none (a macro at the crate's root).
fn nearest(name: String, known: &BTreeSet<String>) -> Option<String> {
    if known.contains(&name) {
        return Some(name);
    }
    let above = name.rsplit_once("::")?.0.to_owned();
    known.contains(&above).then_some(above)
}
