//! Reads the sections of a configuration so that every defect is found in one pass.
//! Who enters: the text of the file, and the types of its sections.
//! What leaves: sections. What does not fit is told with key and line, and something that fits stands in for it, so the rest is read too.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::defects::{Defect, unknown};
use crate::malformed::in_words;

/// The file, read as far as TOML goes.
pub(super) struct Reading {
    table: Table,
    lines: BTreeMap<String, usize>,
    /// Keys that are told already; what follows from them is not told again.
    told: BTreeSet<String>,
    pub(super) defects: Vec<Defect>,
}

/// More than a person mends in one go; a bound on work, not on what may be wrong.
const DEFECTS_OF_A_SECTION_MAX: usize = 200;

impl Reading {
    /// Reads TOML; all faults of its syntax are told at once.
    pub(super) fn of(text: &str) -> Result<Self, Vec<Defect>> {
        let (document, faults) = DeTable::parse_recoverable(text);
        if !faults.is_empty() {
            let told = faults.iter().map(|why| Defect {
                at: "file".to_owned(),
                line: why.span().map(|span| line_of(text, span.start)),
                what: format!("is not TOML: {}", why.message()),
            });
            return Err(told.collect());
        }
        let mut lines = BTreeMap::new();
        gather_lines(text, "", document.get_ref(), &mut lines);
        let table = text.parse::<Table>().map_err(|why| {
            vec![Defect {
                at: "file".to_owned(),
                line: None,
                what: format!("is not TOML: {}", why.message()),
            }]
        })?;
        Ok(Self { table, lines, told: BTreeSet::new(), defects: Vec::new() })
    }

    /// A section that must be there; if it is not, that is told, and something that fits stands for it.
    pub(super) fn required<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        if let Some(value) = self.table.remove(name) {
            return self.read(name, value);
        }
        self.defect(name, "is missing");
        self.told.insert(name.to_owned());
        let stand_in =
            PLACEHOLDERS.iter().map(|make| make()).find(|value| T::deserialize(value.clone()).is_ok());
        self.read(name, stand_in.unwrap_or_else(|| Value::Table(Table::new())))
    }

    /// A section that may be absent.
    pub(super) fn optional<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        let value = self.table.remove(name)?;
        self.read(name, value)
    }

    /// The names of a list of tables, as the file has them.
    pub(super) fn names_in(&self, section: &str) -> Vec<String> {
        let tables = self.table.get(section).and_then(Value::as_array).into_iter().flatten().enumerate();
        tables
            .map(|(place, one)| {
                one.get("name").and_then(Value::as_str).map_or_else(|| place.to_string(), str::to_owned)
            })
            .collect()
    }

    /// Tells what no section has taken.
    pub(super) fn leave_nothing(&mut self, known: &[&str]) {
        let left: Vec<String> = self.table.keys().cloned().collect();
        for name in left {
            self.defect(&name, &unknown(&name, known.iter().copied()));
        }
    }

    /// Tells a defect, unless one of the same key or of what it stands in is told already.
    pub(super) fn defect(&mut self, at: &str, what: &str) {
        if self.is_told(at) {
            return;
        }
        let what = what.to_owned();
        self.defects.push(Defect { at: at.to_owned(), line: self.line(at), what });
    }

    fn is_told(&self, at: &str) -> bool {
        self.told
            .iter()
            .any(|told| at == told || at.strip_prefix(told).is_some_and(|rest| rest.starts_with('.')))
    }

    /// The line of a key, or of the nearest section round it.
    fn line(&self, at: &str) -> Option<usize> {
        let mut at = at;
        loop {
            match (self.lines.get(at), at.rsplit_once('.')) {
                (Some(line), _) => return Some(*line),
                (None, Some((outer, _))) => at = outer,
                (None, None) => return None,
            }
        }
    }

    fn read<T: DeserializeOwned>(&mut self, at: &str, mut value: Value) -> Option<T> {
        for _ in 0..DEFECTS_OF_A_SECTION_MAX {
            let (place, why) = match serde_path_to_error::deserialize::<_, T>(value.clone()) {
                Ok(read) => return Some(read),
                Err(why) => (place(why.path()), why.inner().message().to_owned()),
            };
            let Some(mended) = mended::<T>(&value, &place, &why) else {
                self.defect(at, &in_words(&why));
                break;
            };
            let key = named(at, &value, &mended.path);
            self.defect(&key, &mended.what);
            self.told.insert(key);
            value = mended.value;
        }
        self.told.insert(at.to_owned());
        None
    }
}

/// A value with one defect less.
struct Mended {
    path: Vec<String>,
    what: String,
    value: Value,
}

/// Where an error is, as far as that is known: a tagged table is read in one piece, and a list of texts too.
fn place(path: &serde_path_to_error::Path) -> Vec<String> {
    use serde_path_to_error::Segment;
    let segments = path.iter().map_while(|segment| match segment {
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Map { key } => Some(key.clone()),
        Segment::Enum { .. } | Segment::Unknown => None,
    });
    segments.collect()
}

/// Finds what an error is about by trying, below the place where it is: the key is the one whose change changes the error.
fn mended<T: DeserializeOwned>(value: &Value, place: &[String], why: &str) -> Option<Mended> {
    let still = |value: &Value| T::deserialize(value.clone()).err().map(|error| error.message().to_owned());
    let quoted: Vec<&str> = why.split('`').skip(1).step_by(2).collect();
    let paths = paths(value);
    if why.starts_with("unknown field") {
        let (name, known) = quoted.split_first()?;
        for path in paths.iter().filter(|path| path.last().is_some_and(|last| last == name)) {
            let mut without = value.clone();
            take(&mut without, path);
            if still(&without).as_deref() != Some(why) {
                let what = unknown(name, known.iter().copied());
                return Some(Mended { path: path.clone(), what, value: without });
            }
        }
        return None;
    }
    let (tried, what): (Vec<Vec<String>>, String) = match (why.starts_with("missing field"), quoted.first()) {
        (true, Some(name)) => {
            let tables = std::iter::once(Vec::new()).chain(paths);
            let inside = tables.filter(|path| at(value, path).is_some_and(Value::is_table));
            let missing = inside.map(|path| [path, vec![(*name).to_owned()]].concat());
            (missing.filter(|path| at(value, path).is_none()).collect(), "is missing".to_owned())
        }
        _ => (paths, in_words(why)),
    };
    let tried = tried.into_iter().filter(|path| path.starts_with(place));
    for path in tried {
        for make in PLACEHOLDERS {
            let mut with = value.clone();
            put(&mut with, &path, make());
            if is_another(still(&with).as_deref(), why) {
                return Some(Mended { path, what, value: with });
            }
        }
    }
    None
}

/// The error is gone, or is about something else than what was put in.
fn is_another(now: Option<&str>, before: &str) -> bool {
    now.is_none_or(|now| now != before && (now.starts_with("missing field") || !names_a_placeholder(now)))
}

/// It speaks of what was put in, not of something else of its kind.
fn names_a_placeholder(why: &str) -> bool {
    let texts = ["/nowhere", "pkcs11", "json", "http1", "127.0.0.1:1", "http://127.0.0.1:1"];
    let quoted =
        |text: &&str| why.contains(&format!("\"{text}\"")) || why.contains(&format!("variant `{text}`"));
    let others = ["integer `1`", "invalid type: sequence,", "invalid type: map,"];
    texts.iter().any(quoted) || others.iter().any(|mark| why.contains(mark))
}

/// What fits somewhere; the first that makes an error go away stands in for what was wrong.
const PLACEHOLDERS: [fn() -> Value; 9] = [
    || Value::String("/nowhere".into()),
    || Value::String("pkcs11".into()),
    || Value::String("json".into()),
    || Value::String("http1".into()),
    || Value::String("127.0.0.1:1".into()),
    || Value::String("http://127.0.0.1:1".into()),
    || Value::Integer(1),
    || Value::Array(Vec::new()),
    || Value::Table(Table::new()),
];

/// The paths of everything below a value, what stands deepest first.
fn paths(value: &Value) -> Vec<Vec<String>> {
    let children: Vec<(String, &Value)> = match value {
        Value::Table(table) => table.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(at, value)| (at.to_string(), value)).collect(),
        _ => Vec::new(),
    };
    let mut found = Vec::new();
    for (key, child) in children {
        found.extend(paths(child).into_iter().map(|below| [vec![key.clone()], below].concat()));
        found.push(vec![key]);
    }
    found
}

fn at<'v>(value: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, key| match value {
        Value::Table(table) => table.get(key),
        Value::Array(items) => items.get(key.parse::<usize>().ok()?),
        _ => None,
    })
}

fn inside<'v>(value: &'v mut Value, path: &[String]) -> Option<&'v mut Value> {
    path.iter().try_fold(value, |value, key| match value {
        Value::Table(table) => table.get_mut(key),
        Value::Array(items) => items.get_mut(key.parse::<usize>().ok()?),
        _ => None,
    })
}

fn put(value: &mut Value, path: &[String], new: Value) {
    let Some((last, outer)) = path.split_last() else { return *value = new };
    match (inside(value, outer), last.parse::<usize>()) {
        (Some(Value::Table(table)), _) => drop(table.insert(last.clone(), new)),
        (Some(Value::Array(items)), Ok(place)) => {
            if let Some(item) = items.get_mut(place) {
                *item = new;
            }
        }
        _ => {}
    }
}

fn take(value: &mut Value, path: &[String]) {
    if let Some((last, outer)) = path.split_last()
        && let Some(Value::Table(table)) = inside(value, outer)
    {
        table.remove(last);
    }
}

/// How people name a path: one of several tables by its `name`, where it has one.
fn named(section: &str, value: &Value, path: &[String]) -> String {
    let mut words = vec![section.to_owned()];
    for depth in 0..path.len() {
        let own = at(value, &path[..=depth]).and_then(|one| one.get("name")?.as_str());
        let in_a_list = at(value, &path[..depth]).is_some_and(Value::is_array);
        words.push(own.filter(|_| in_a_list).unwrap_or(&path[depth]).to_owned());
    }
    words.join(".")
}

fn gather_lines(text: &str, within: &str, table: &DeTable<'_>, lines: &mut BTreeMap<String, usize>) {
    for (key, value) in table {
        let path =
            if within.is_empty() { key.get_ref().to_string() } else { format!("{within}.{}", key.get_ref()) };
        lines.insert(path.clone(), line_of(text, key.span().start));
        match value.get_ref() {
            DeValue::Table(below) => gather_lines(text, &path, below, lines),
            DeValue::Array(items) => {
                for (place, item) in items.iter().enumerate() {
                    let DeValue::Table(below) = item.get_ref() else {
                        lines.insert(format!("{path}.{place}"), line_of(text, item.span().start));
                        continue;
                    };
                    let name = below.get("name").and_then(|name| name.get_ref().as_str());
                    let one = format!("{path}.{}", name.map_or_else(|| place.to_string(), str::to_owned));
                    lines.insert(one.clone(), line_of(text, item.span().start));
                    gather_lines(text, &one, below, lines);
                }
            }
            _ => {}
        }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}
