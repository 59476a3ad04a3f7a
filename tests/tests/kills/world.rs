//! The world: what services have on record, what the token holds, which files lie about. Ids, moments and keys differ from
//! round to round and are blotted out; everything else must be equal.
//! Who enters: a round, before and after.
//! What leaves: a page of lines that can be compared and read.

use std::path::Path;

use promises::Appliance;
use promises::programs::{succeeds, tool};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

/// The books of engine, ledger and database: what happened, not what stands. Other promises hold them.
const BOOKS: [&str; 13] = [
    "saga",
    "lease",
    "idempotency",
    "outbox",
    "sqlite_",
    "schema_step",
    "log",
    "entry",
    "tree_",
    "anchor",
    "checkpoint",
    "service_start",
    "proven_time",
];
/// Who was asked and who agreed stays on record, however it ended.
const RECORDS: [&str; 2] = ["approval_requests", "approvals"];
/// The column of what approvers are shown.
const DOCUMENT: &str = "document";
/// A use is counted when it is allowed, and never taken back: an attempt that was cut off counts. Requests of others flush the rest.
const COUNTERS: [&str; 2] = ["uses", "last_used_us"];
/// Objects without a name.
const TORN: [&str; 4] = ["Public Key Object", "Private Key Object", "Secret Key Object", "Data object"];
/// Longer than any word that means something.
const WORD_MAX: usize = 20;
/// Microseconds since 1970 are beyond this since long ago.
const MOMENTS_MIN: i64 = 1_000_000_000_000;

/// The page.
pub(crate) fn of(house: &Appliance) -> String {
    let mut page = String::new();
    rows(house, &mut page);
    told(house, &mut page);
    objects(house, &mut page);
    files(&house.state(), &mut page);
    page
}

/// Insists that two pages are equal, and shows the lines in which they differ.
#[track_caller]
pub(crate) fn same(now: &str, wanted: &str, when: &str) {
    let only = |one: &str, other: &str| {
        one.lines().filter(|line| !other.lines().any(|it| it == *line)).collect::<Vec<_>>().join("\n  ")
    };
    assert!(
        now == wanted,
        "{when}: the world has\n  {}\nand lacks\n  {}",
        only(now, wanted),
        only(wanted, now)
    );
}

/// The same without what stays on record however a run ends.
pub(crate) fn without_records(page: &str) -> String {
    page.lines()
        .filter(|line| !RECORDS.iter().any(|table| line.starts_with(table)))
        .collect::<Vec<_>>()
        .join("\n")
}

fn rows(house: &Appliance, page: &mut String) {
    let ledger = Connection::open_with_flags(house.ledger(), OpenFlags::SQLITE_OPEN_READ_ONLY)
        .expect("the ledger opens");
    for table in tables(&ledger) {
        let mut all = ledger.prepare(&format!("SELECT * FROM {table}")).expect("a table");
        let columns: Vec<String> = all.column_names().map(str::to_owned).collect();
        let row = |row: &rusqlite::Row<'_>| {
            let cell = |(at, name): (usize, &String)| Ok(format!("{name}={}", cell(name, row.get_ref(at)?)));
            columns.iter().enumerate().map(cell).collect::<Result<Vec<_>, rusqlite::Error>>()
        };
        let found = all.query_map([], row).expect("rows");
        let mut lines: Vec<String> = found.map(|row| row.expect("a row").join(" ")).collect();
        lines.sort();
        page.extend(lines.iter().map(|line| format!("{table}: {line}\n")));
    }
}

/// What others were told of what was brought about, and still holds: once each, or taken back by one that came after.
fn told(house: &Appliance, page: &mut String) {
    let ledger = Connection::open_with_flags(house.ledger(), OpenFlags::SQLITE_OPEN_READ_ONLY)
        .expect("the ledger opens");
    let mut all = ledger
        .prepare(
            "SELECT topic FROM outbox WHERE act IS NOT NULL AND withdraws IS NULL
             AND number NOT IN (SELECT withdraws FROM outbox WHERE withdraws IS NOT NULL) ORDER BY topic",
        )
        .expect("the outbox");
    let topics = all.query_map([], |row| row.get::<_, String>(0)).expect("events");
    page.extend(topics.map(|topic| format!("told: {}\n", topic.expect("a topic"))));
}

/// The tables of the services.
fn tables(ledger: &Connection) -> Vec<String> {
    let mut all = ledger
        .prepare("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        .expect("a schema");
    let names = all.query_map([], |row| row.get::<_, String>(0)).expect("tables");
    let names: Vec<String> = names.map(|name| name.expect("a name")).collect();
    let of_services = |name: &String| !BOOKS.iter().any(|book| name.starts_with(book));
    names.into_iter().filter(of_services).collect()
}

fn cell(name: &str, value: ValueRef<'_>) -> String {
    match value {
        _ if COUNTERS.contains(&name) => "-".to_owned(),
        ValueRef::Null => "none".to_owned(),
        ValueRef::Integer(number) if number > MOMENTS_MIN => "moment".to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(text) if name == DOCUMENT => blotted(&timeless(text)),
        ValueRef::Text(text) => blotted(&String::from_utf8_lossy(text)),
        ValueRef::Blob(bytes) => format!("{}bytes", if bytes.is_empty() { "no " } else { "" }),
    }
}

/// What approvers are shown, without the moment until which they have time.
fn timeless(document: &[u8]) -> String {
    let mut document: serde_json::Value = serde_json::from_slice(document).expect("a document is JSON");
    let expires = document.as_object_mut().and_then(|all| all.remove("expires"));
    assert!(expires.is_some(), "it says until when: {document}");
    document.to_string()
}

/// The text with everything blotted out that is too long to be a word: ids, digests, keys.
fn blotted(text: &str) -> String {
    let of_word = |it: char| it.is_ascii_alphanumeric() || "+/=_-".contains(it);
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|it| of_word(it) != of_word(first)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        out.push_str(if of_word(first) && word.len() > WORD_MAX { "~" } else { word });
        rest = after;
    }
    out
}

/// What lies in the token, by class and label. SoftHSM makes an object in two strokes, empty first and with its attributes
/// then; one that was cut off in between has neither label nor id, so nobody can say whose it was, and it does nothing.
fn objects(house: &Appliance, page: &mut String) {
    let Some(hsm) = &house.hsm else { return };
    let mut command = tool("pkcs11-tool", "opensc");
    command.env("SOFTHSM2_CONF", hsm.conf()).arg("--module").arg(hsm.module()).args(["--login", "--pin"]);
    command.arg(std::fs::read_to_string(hsm.pin_file()).expect("the PIN"));
    let listing = succeeds(command.arg("--list-objects"));
    let mut lines: Vec<String> = Vec::new();
    for line in listing.lines() {
        match (line.trim().split_once(':'), lines.last_mut()) {
            // What follows the class is the tool's own numbering and guess.
            _ if !line.starts_with(' ') => {
                let class = line.split(';').next().unwrap_or_default();
                lines.push(class.trim_end_matches(|it: char| it.is_ascii_digit() || it == ' ').to_owned());
            }
            (Some(("label", label)), Some(object)) if !["", "<empty>"].contains(&label.trim()) => {
                *object += &format!(" {}", blotted(label.trim()));
            }
            (Some(("ID", _)), Some(object)) => *object += ", with an id",
            _ => {}
        }
    }
    lines.retain(|object| !TORN.contains(&object.as_str()));
    lines.sort();
    page.extend(lines.iter().map(|line| format!("token: {line}\n")));
}

/// Files of the state directory, without the ledger's own. What is inside an export grows with the ledger.
fn files(state: &Path, page: &mut String) {
    let (mut lines, mut open) = (Vec::new(), vec![state.to_owned()]);
    while let Some(directory) = open.pop() {
        for path in std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()) {
            let name = path.strip_prefix(state).expect("below it").display().to_string();
            let of_exports = path.parent().is_some_and(|above| above.ends_with("exports"));
            match path.is_dir() && !of_exports {
                true => open.push(path),
                false if !name.starts_with("ledger.db") => lines.push(blotted(&name)),
                false => {}
            }
        }
    }
    lines.sort();
    page.extend(lines.iter().map(|line| format!("file: {line}\n")));
}
