//! Every answer that a test gets from the appliance is held against the API's own description, once the test has asked for that.
//! Who enters: the wire, with each answer.
//! What leaves: nothing, or a failure that names route, status and what differs; and which routes were seen to succeed.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use jsonschema::{Draft, Validator};
use serde_json::{Value, json};

use crate::wire::Answer;

/// The description, with validators made as they are needed.
struct Description {
    document: Value,
    validators: Mutex<HashMap<String, Arc<Validator>>>,
    succeeded: Mutex<BTreeSet<String>>,
}

/// Paths that belong to the appliance; the rest is answered by upstreams.
const OWN: [&str; 4] = ["/v1", "/health", "/metrics", "/problems"];

fn description() -> &'static Description {
    static DESCRIPTION: OnceLock<Description> = OnceLock::new();
    DESCRIPTION.get_or_init(|| {
        let text = include_str!("../../docs/openapi.json");
        let mut document: Value = serde_json::from_str(text).expect("docs/openapi.json is JSON");
        // A client must be told of every field: what an answer has and the description has not is a difference too.
        if let Some(schemas) = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut) {
            schemas
                .iter_mut()
                .filter(|(name, _)| !name.ends_with("Input"))
                .for_each(|(_, schema)| close(schema));
        }
        Description { document, validators: Mutex::default(), succeeded: Mutex::default() }
    })
}

/// Refuses fields that a schema does not name, unless it says that there may be others.
fn close(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    if object.contains_key("properties") && !object.contains_key("additionalProperties") {
        object.insert("unevaluatedProperties".to_owned(), json!(false));
    }
}

static HELD: AtomicBool = AtomicBool::new(false);

/// From now on every answer in this process is held against the description.
pub fn enforce() {
    HELD.store(true, Ordering::SeqCst);
}

/// Routes, as `GET /v1/keys`, that succeeded in this process.
pub fn succeeded() -> BTreeSet<String> {
    description().succeeded.lock().expect("nobody panics holding the list").clone()
}

/// This route succeeded in this process, with an answer that was held against the description.
///
/// # Panics
/// It did not.
pub fn saw(route: &str) {
    assert!(succeeded().contains(route), "{route} never succeeded: {:?}", succeeded());
}

/// Every route that is described, as `GET /v1/keys`.
pub fn routes() -> BTreeSet<String> {
    let paths = description().document["paths"].as_object().expect("paths").iter();
    let of_path = |(path, operations): (&String, &Value)| {
        let methods = operations.as_object().expect("operations").keys();
        methods.map(|method| format!("{} {path}", method.to_uppercase())).collect::<Vec<_>>()
    };
    paths.flat_map(of_path).collect()
}

/// Holds an answer against the description.
///
/// # Panics
/// It differs.
pub(crate) fn hold(method: &str, target: &str, answer: &Answer) {
    if !HELD.load(Ordering::SeqCst) {
        return;
    }
    let path = target.split('?').next().unwrap_or_default();
    if !OWN.iter().any(|own| path == *own || path.starts_with(&format!("{own}/")))
        || answer.header("request-id").is_none()
    {
        return;
    }
    let described = description();
    if answer.status >= 400 && answer.header("content-type") == Some("application/problem+json") {
        let place = "/components/responses/Problem/content/application~1problem+json/schema";
        return conforms(described, place, answer, &format!("a refusal of {method} {path}"));
    }
    let Some(route) = find(described, path) else {
        assert!(
            answer.status >= 400,
            "{method} {path} is answered with {} and described nowhere",
            answer.status
        );
        return;
    };
    // A question for the head has no body to compare.
    let Some(operation) = described.document["paths"][&route].get(method.to_ascii_lowercase()) else {
        return;
    };
    let name = format!("{method} {route}");
    let status = answer.status.to_string();
    let response = &operation["responses"][&status];
    assert!(response.is_object(), "{name} answers {status}, which is not described: {}", answer.text());
    for required in
        ["location", "chancery-entry", "idempotency-replayed", "ratelimit", "retry-after", "request-id"]
    {
        let says = |name: &String| name.eq_ignore_ascii_case(required);
        let described = response["headers"].as_object().is_some_and(|headers| headers.keys().any(says));
        assert!(
            described || answer.header(required).is_none(),
            "{name} {status} has the header {required}, which is not described"
        );
    }
    let media_type = answer.header("content-type").unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default();
    if answer.body.is_empty() {
        assert!(
            response.get("content").is_none() || answer.header("idempotency-replayed").is_some(),
            "{name} {status} is empty, and a body is described"
        );
    } else {
        let content = &response["content"][media_type];
        assert!(content.is_object(), "{name} {status} comes as {media_type:?}, which is not described");
        if media_type == "application/json" {
            let escape = |text: &str| text.replace('~', "~0").replace('/', "~1");
            let place = format!(
                "/paths/{}/{}/responses/{status}/content/application~1json/schema",
                escape(&route),
                method.to_ascii_lowercase()
            );
            conforms(described, &place, answer, &format!("{name} {status}"));
        }
    }
    if (200..300).contains(&answer.status) {
        described.succeeded.lock().expect("nobody panics holding the list").insert(name);
    }
}

fn conforms(described: &Description, place: &str, answer: &Answer, name: &str) {
    let validator = {
        let mut validators = described.validators.lock().expect("nobody panics holding a validator");
        Arc::clone(validators.entry(place.to_owned()).or_insert_with(|| Arc::new(compiled(described, place))))
    };
    let body: Value =
        serde_json::from_slice(&answer.body).unwrap_or_else(|why| panic!("{name}: no JSON: {why}"));
    let faults: Vec<String> = validator
        .iter_errors(&body)
        .map(|fault| format!("{} at `{}`", fault, fault.instance_path()))
        .collect();
    assert!(faults.is_empty(), "{name} is not as docs/openapi.json says: {faults:#?}\n{body:#}");
}

fn compiled(described: &Description, place: &str) -> Validator {
    let mut schema =
        described.document.pointer(place).cloned().unwrap_or_else(|| panic!("nothing at {place}"));
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["components"] = described.document["components"].clone();
    let made = jsonschema::options().with_draft(Draft::Draft202012).build(&schema);
    made.unwrap_or_else(|why| panic!("docs/openapi.json at {place} is no JSON Schema: {why}"))
}

/// The pattern that a path fits, the plainest first.
fn find(described: &Description, path: &str) -> Option<String> {
    let parts: Vec<&str> = path.trim_end_matches('/').split('/').collect();
    let patterns = described.document["paths"].as_object()?.keys();
    let fits = |pattern: &&String| {
        let own: Vec<&str> = pattern.split('/').collect();
        own.len() == parts.len()
            && own.iter().zip(&parts).all(|(own, part)| own == part || own.starts_with('{'))
    };
    patterns.filter(fits).min_by_key(|pattern| pattern.matches('{').count()).cloned()
}
