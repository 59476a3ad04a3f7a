//! The API described by itself: an OpenAPI 3.1 document made from the routes that are served.
//! Who enters: the route table.
//! What leaves: the document, which `docs/openapi.json` repeats and a test compares.

use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::guard::GuardKind;
use super::problem::Document;
use super::{Code, KeyRule, Method, Route};

/// The OpenAPI document of these routes.
pub fn openapi(routes: &[Route]) -> Value {
    let mut generator = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into())
        .into_generator();
    let problem = generator.subschema_for::<Document>();
    let mut paths: Map<String, Value> = Map::new();
    for route in routes {
        let path = paths.entry(route.pattern.to_owned()).or_insert_with(|| json!({}));
        path[route.method.text().to_ascii_lowercase()] = operation(route, &mut generator, &problem);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Chancery",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "A hardware-backed signing gateway. Clients come over mutual TLS 1.3 and name themselves with a workspace API key.",
        },
        "security": [{ "mutualTls": [], "apiKey": [] }],
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "securitySchemes": {
                "mutualTls": { "type": "mutualTLS" },
                "apiKey": { "type": "http", "scheme": "bearer", "description": "ck_ and 43 characters" },
            },
        },
        "x-problem-codes": Code::ALL.iter().map(|code| json!({ "code": code.text(), "status": code.status(), "title": code.title() })).collect::<Vec<_>>(),
    })
}

fn operation(route: &Route, generator: &mut SchemaGenerator, problem: &Schema) -> Value {
    let about = &route.about;
    let mut parameters = path_parameters(route.pattern);
    parameters.extend(
        (about.query)(generator).map(|schema| query_parameters(&schema, generator)).unwrap_or_default(),
    );
    if route.method != Method::Get {
        parameters.extend(header_parameters(route.key_rule));
    }
    let mut answer = json!({ "description": about.summary });
    if let Some(schema) = (about.answer)(generator) {
        answer["content"] = json!({ "application/json": { "schema": schema } });
    }
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": about.summary,
        "x-guard": guard_text(route.guard),
        "parameters": parameters,
        "responses": {
            about.status.to_string(): answer,
            "default": { "description": "A problem document", "content": { "application/problem+json": { "schema": problem } } },
        },
    });
    if let Some(schema) = (about.body)(generator) {
        operation["requestBody"] =
            json!({ "required": true, "content": { "application/json": { "schema": schema } } });
    }
    if route.guard == GuardKind::Open {
        operation["security"] = json!([]);
    }
    operation
}

fn operation_id(route: &Route) -> String {
    let words = route.pattern.split('/').filter(|part| !part.is_empty() && *part != "v1");
    let name: Vec<_> = words.map(|part| part.trim_matches(['{', '}']).replace('-', "_")).collect();
    let verb = match route.method {
        Method::Get => "get",
        Method::Post => "post",
        Method::Delete => "delete",
    };
    format!("{verb}_{}", name.join("_"))
}

/// How documents and the access matrix name a guard.
pub fn guard_text(guard: GuardKind) -> String {
    match guard {
        GuardKind::Open => "open".to_owned(),
        GuardKind::Connected => "enrolled client".to_owned(),
        GuardKind::Scope(scope) => format!("scope {}", scope.text()),
        GuardKind::Operator => "operator".to_owned(),
    }
}

fn path_parameters(pattern: &str) -> Vec<Value> {
    let names = pattern.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    names
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect()
}

/// What a request that changes something may carry beside its body.
fn header_parameters(rule: KeyRule) -> [Value; 2] {
    let header = |name: &str, required: bool, description: &str| json!({ "name": name, "in": "header", "required": required, "description": description, "schema": { "type": "string" } });
    let key = "1 to 255 visible characters, such as a UUID, and the same when the request is sent again: one effect, one answer";
    let fence = "NAME=FENCE of a lease, several with commas between them: carried out only while each is the latest of its name";
    [header("Idempotency-Key", rule == KeyRule::Required, key), header("Chancery-Fence", false, fence)]
}

fn query_parameters(schema: &Schema, generator: &SchemaGenerator) -> Vec<Value> {
    let reference = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next());
    let object = reference.and_then(|name| generator.definitions().get(name)).unwrap_or(schema.as_value());
    let required: Vec<&str> =
        object["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let properties = object["properties"].as_object().cloned().unwrap_or_default();
    let parameter = |(name, schema): (String, Value)| json!({ "in": "query", "required": required.contains(&name.as_str()), "name": name, "schema": schema });
    properties.into_iter().map(parameter).collect()
}
