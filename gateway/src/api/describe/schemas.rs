//! The schemas of bodies and answers under one roof: a body may leave out what has a default, an answer leaves out what it skips.
//! Who enters: types, asked once as what is read and once as what is written.
//! What leaves: one table of definitions. Where the two forms of a type differ, the one that is read is called `...Input`.

use std::collections::BTreeSet;

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

const DEFINITIONS: &str = "#/components/schemas/";
const OF_BODIES: &str = "#/components/bodies/";

/// Both generators.
pub(super) struct Schemas {
    pub(super) bodies: SchemaGenerator,
    pub(super) answers: SchemaGenerator,
}

impl Schemas {
    pub(super) fn new() -> Self {
        let at = |settings: SchemaSettings, path: &str| {
            settings.with(|settings| settings.definitions_path = path.to_owned().into()).into_generator()
        };
        Self {
            bodies: at(SchemaSettings::draft2020_12(), "/components/bodies"),
            answers: at(SchemaSettings::draft2020_12().for_serialize(), "/components/schemas"),
        }
    }

    /// All definitions, and the paths with their references turned to them. What no path refers to is left out.
    pub(super) fn merged(mut self, mut paths: Value) -> (Value, Value) {
        let mut answers = self.answers.take_definitions(true);
        let mut bodies = self.bodies.take_definitions(true);
        for schema in answers.values_mut().chain(bodies.values_mut()) {
            with_defaults_in_words(schema);
            with_choices_as_enums(schema);
        }
        let others = differing(&bodies, &answers);
        for (name, mut schema) in bodies {
            turn(&mut schema, &others);
            match others.contains(&name) {
                true => drop(answers.insert(format!("{name}Input"), schema)),
                false => drop(answers.entry(name).or_insert(schema)),
            }
        }
        turn(&mut paths, &others);
        let mut definitions = Value::Object(used(answers, &paths));
        without_bare_truths(&mut definitions);
        (definitions, paths)
    }
}

/// Types that are read in another form than they are written, and those that refer to them.
fn differing(bodies: &Map<String, Value>, answers: &Map<String, Value>) -> BTreeSet<String> {
    let mut others = BTreeSet::new();
    loop {
        let found = bodies.iter().filter(|(name, schema)| {
            let mut schema = (*schema).clone();
            turn(&mut schema, &others);
            !others.contains(*name) && answers.get(*name).is_some_and(|answer| *answer != schema)
        });
        let found: Vec<String> = found.map(|(name, _)| name.clone()).collect();
        if found.is_empty() {
            return others;
        }
        others.extend(found);
    }
}

/// Turns references to bodies into references to the one table.
fn turn(value: &mut Value, others: &BTreeSet<String>) {
    match value {
        Value::String(text) => {
            if let Some(name) = text.strip_prefix(OF_BODIES) {
                let end = if others.contains(name) { "Input" } else { "" };
                *text = format!("{DEFINITIONS}{name}{end}");
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| turn(item, others)),
        Value::Object(object) => object.values_mut().for_each(|value| turn(value, others)),
        _ => {}
    }
}

/// The definitions that something refers to, directly or through others. A problem is always one of them.
fn used(mut all: Map<String, Value>, paths: &Value) -> Map<String, Value> {
    let mut wanted = BTreeSet::from(["Problem".to_owned()]);
    gather(paths, &mut wanted);
    loop {
        let before = wanted.len();
        let reached: Vec<&Value> = wanted.iter().filter_map(|name| all.get(name)).collect();
        let mut more = BTreeSet::new();
        reached.into_iter().for_each(|schema| gather(schema, &mut more));
        wanted.extend(more);
        if wanted.len() == before {
            break;
        }
    }
    all.retain(|name, _| wanted.contains(name));
    all
}

fn gather(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => found.extend(text.strip_prefix(DEFINITIONS).map(str::to_owned)),
        Value::Array(items) => items.iter().for_each(|item| gather(item, found)),
        Value::Object(object) => object.values().for_each(|value| gather(value, found)),
        _ => {}
    }
}

/// What an absent field means stands in its description alone: `default` has programs that make clients demand the field in a body.
fn with_defaults_in_words(value: &mut Value) {
    match value {
        Value::Object(object) => {
            let properties =
                object.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten();
            for schema in properties.filter_map(|(_, schema)| schema.as_object_mut()) {
                let Some(meant) = schema.remove("default").filter(|meant| !meant.is_null()) else { continue };
                let words = schema.get("description").and_then(Value::as_str).unwrap_or_default();
                let words = format!("{words} Absent: `{meant}`.").trim_start().to_owned();
                schema.insert("description".to_owned(), json!(words));
            }
            object.values_mut().for_each(with_defaults_in_words);
        }
        Value::Array(items) => items.iter_mut().for_each(with_defaults_in_words),
        _ => {}
    }
}

/// A choice of texts that each have words of their own becomes one `enum`, and the words go into its description: of several `const`, programs
/// that make clients try the first and give up.
fn with_choices_as_enums(value: &mut Value) {
    match value {
        Value::Object(object) => {
            if let Some(choices) =
                object.get("oneOf").and_then(Value::as_array).and_then(|arms| choices(arms))
            {
                let mut words =
                    object.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
                for (text, about) in choices.iter().filter(|(_, about)| !about.is_empty()) {
                    words.push_str(&format!(" `{text}`: {about}"));
                }
                let texts: Vec<&String> = choices.iter().map(|(text, _)| text).collect();
                object.insert("enum".to_owned(), json!(texts));
                object.insert("type".to_owned(), json!("string"));
                object.insert("description".to_owned(), json!(words.trim_start()));
                object.remove("oneOf");
            }
            object.values_mut().for_each(with_choices_as_enums);
        }
        Value::Array(items) => items.iter_mut().for_each(with_choices_as_enums),
        _ => {}
    }
}

/// Each text with its words; nothing where one arm is something else.
fn choices(arms: &[Value]) -> Option<Vec<(String, String)>> {
    let of_arm = |arm: &Value| {
        let about = arm.get("description").and_then(Value::as_str).unwrap_or_default();
        Some((arm.get("const")?.as_str()?.to_owned(), about.to_owned()))
    };
    arms.iter().map(of_arm).collect()
}

/// `true` is a schema, but not for every program that makes clients: `{}` says the same.
pub(super) fn without_bare_truths(value: &mut Value) {
    match value {
        Value::Object(object) => {
            for (name, value) in object.iter_mut() {
                match name.as_str() {
                    "items" | "schema" if *value == json!(true) => *value = json!({}),
                    "properties" => {
                        let properties = value.as_object_mut().into_iter().flatten();
                        properties
                            .filter(|(_, one)| **one == json!(true))
                            .for_each(|(_, one)| *one = json!({}));
                        without_bare_truths(value);
                    }
                    _ => without_bare_truths(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(without_bare_truths),
        _ => {}
    }
}
