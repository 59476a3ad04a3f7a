//! The API described by itself: an OpenAPI 3.1 document made from the routes that are served.
//! Who enters: the route table.
//! What leaves: the document, which `docs/openapi.json` repeats and a test compares; other tests hold every answer against it.

mod schemas;

use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use self::schemas::Schemas;
use super::guard::GuardKind;
use super::problem::Document;
use super::{Code, KeyRule, Method, Route};

/// The OpenAPI document of these routes.
pub fn openapi(routes: &[Route]) -> Value {
    let mut schemas = Schemas::new();
    let problem = schemas.answers.subschema_for::<Document>();
    let mut paths: Map<String, Value> = Map::new();
    for route in routes {
        let path = paths.entry(route.pattern.to_owned()).or_insert_with(|| json!({}));
        path[route.method.text().to_ascii_lowercase()] = operation(route, &mut schemas);
    }
    let (definitions, mut paths) = schemas.merged(Value::Object(paths));
    schemas::without_bare_truths(&mut paths);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Chancery",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "A hardware-backed signing gateway. Clients come over mutual TLS 1.3 and name themselves with a workspace API key.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{
            "url": "https://{host}:{port}",
            "description": "The API listener: mutual TLS 1.3 with an enrolled client certificate",
            "variables": { "host": { "default": "localhost" }, "port": { "default": "8443" } },
        }],
        "tags": tags(routes),
        "security": [{ "mutualTls": [], "apiKey": [] }],
        "paths": paths,
        "components": {
            "schemas": definitions,
            "headers": answer_headers(),
            "parameters": request_headers(),
            "responses": {
                "Problem": {
                    "description": "A problem document (RFC 9457)",
                    "headers": {
                        "Request-Id": { "$ref": "#/components/headers/Request-Id" },
                        "Retry-After": { "$ref": "#/components/headers/Retry-After" },
                    },
                    "content": { "application/problem+json": { "schema": problem } },
                },
            },
            "securitySchemes": {
                "mutualTls": { "type": "mutualTLS", "description": "A client certificate that an operator enrolled" },
                "apiKey": { "type": "http", "scheme": "bearer", "description": "ck_ and 43 characters" },
            },
        },
        "x-problem-codes": Code::ALL.iter().map(|code| json!({ "code": code.text(), "status": code.status(), "title": code.title() })).collect::<Vec<_>>(),
    })
}

fn operation(route: &Route, schemas: &mut Schemas) -> Value {
    let about = &route.about;
    let mut parameters = path_parameters(route.pattern);
    let query = (about.query)(&mut schemas.bodies);
    parameters.extend(query.map(|schema| query_parameters(&schema, &schemas.bodies)).unwrap_or_default());
    parameters.extend(header_parameters(route));
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": about.summary,
        "tags": [tag(route)],
        "x-guard": guard_text(route.guard),
        "security": security(route.guard),
        "parameters": parameters,
        "responses": responses(route, schemas),
    });
    if let Some(schema) = (about.body)(&mut schemas.bodies) {
        operation["requestBody"] =
            json!({ "required": true, "content": { "application/json": { "schema": schema } } });
    }
    if route.guard == GuardKind::Operator {
        operation["servers"] = json!([{ "url": "http://localhost", "description": "The operators' Unix socket; the user id is the credential" }]);
    }
    operation
}

/// What the route answers, and the problems that any request may meet on its way to it.
fn responses(route: &Route, schemas: &mut Schemas) -> Value {
    let about = &route.about;
    let mut responses = Map::new();
    let mut headers = json!({ "Request-Id": { "$ref": "#/components/headers/Request-Id" } });
    for name in ["RateLimit", "RateLimit-Policy"] {
        headers[name] = json!({ "$ref": format!("#/components/headers/{name}") });
    }
    if route.method != Method::Get {
        for name in ["Location", "Chancery-Entry", "Idempotency-Replayed"] {
            headers[name] = json!({ "$ref": format!("#/components/headers/{name}") });
        }
    }
    let mut put = |status: u16, description: &str, content: Option<Value>| {
        let mut answer = json!({ "description": description, "headers": headers });
        if let Some(content) = content {
            answer["content"] = content;
        }
        responses.insert(status.to_string(), answer);
    };
    let json_of = |schema: Schema| json!({ "application/json": { "schema": schema } });
    let mut content = (about.answer)(&mut schemas.answers).map(json_of);
    for media_type in about.texts {
        let text = json!({ "schema": { "type": "string" } });
        content.get_or_insert_with(|| json!({}))[*media_type] = text;
    }
    put(about.status, about.summary, content);
    for (status, description, schema) in &about.also {
        let mut content = schema(&mut schemas.answers).map(json_of);
        if let Some(content) = content.as_mut().filter(|_| *status >= 400) {
            content["application/problem+json"] =
                json!({ "schema": schemas.answers.subschema_for::<Document>() });
        }
        put(*status, description, content);
    }
    if route.key_rule != KeyRule::Optional && route.method != Method::Get {
        put(
            204,
            "Given again: the answer was too long to keep, and `Location` says where the result is",
            None,
        );
    }
    for status in problem_statuses(route) {
        responses
            .entry(status.to_string())
            .or_insert_with(|| json!({ "$ref": "#/components/responses/Problem" }));
    }
    responses.insert("default".to_owned(), json!({ "$ref": "#/components/responses/Problem" }));
    Value::Object(responses)
}

/// Statuses that clients meet and should be ready for; what is not named is a problem document too.
fn problem_statuses(route: &Route) -> Vec<u16> {
    let mut statuses = vec![400, 404, 429, 431, 503, 504];
    match route.guard {
        GuardKind::Open => {}
        GuardKind::Connected | GuardKind::Operator => statuses.push(403),
        GuardKind::Scope(_) => statuses.extend([401, 403]),
    }
    if route.method != Method::Get {
        statuses.extend([409, 412, 413, 415, 422]);
    }
    statuses
}

/// The connection alone is a credential; the API key comes on top where a scope is asked for.
fn security(guard: GuardKind) -> Value {
    match guard {
        GuardKind::Open | GuardKind::Connected => json!([{ "mutualTls": [] }]),
        GuardKind::Scope(_) => json!([{ "mutualTls": [], "apiKey": [] }]),
        // Known by user id at the Unix socket, for which OpenAPI has no word.
        GuardKind::Operator => json!([]),
    }
}

/// The first word of the path says what it is about.
fn tag(route: &Route) -> &'static str {
    let words = route.pattern.split('/').filter(|word| !word.is_empty() && *word != "v1");
    match words.into_iter().next().unwrap_or_default() {
        "sign-batch" => "keys",
        "events-everywhere" => "events",
        "workflow-offers" | "workflows-everywhere" => "workflows",
        "ca" => "authorities",
        "metrics" | "openapi.json" | "status" | "token" => "health",
        "traces" => "routes",
        word => word,
    }
}

fn tags(routes: &[Route]) -> Vec<Value> {
    let names: std::collections::BTreeSet<_> = routes.iter().map(tag).collect();
    names.into_iter().map(|name| json!({ "name": name, "description": tag_words(name) })).collect()
}

/// What the routes under a tag are about; a tag without words fails the check of the description.
fn tag_words(tag: &str) -> &'static str {
    match tag {
        "api-keys" => "Secrets that say what a program may do in its workspace",
        "audit" => "The ledger: entries, checkpoints, receipts and exports",
        "authorities" => "The CAs that this appliance trusts, and how one takes over from another",
        "clients" => "Certificates of programs",
        "events" => "What workflows have brought about, in order",
        "health" => "The appliance's state, figures and description",
        "keys" => "Keys in the token: their life, signing and verifying",
        "locks" => "Leases of names, each with a fence",
        "policies" => "What may be signed, how often, and who has to agree",
        "routes" => "Which service has a request, and where one went",
        "workflows" => "What takes several steps: starting, agreeing to, watching and leading it",
        "workspaces" => "Tenants: whose keys, clients and entries are apart from all others'",
        _ => "",
    }
}

fn operation_id(route: &Route) -> String {
    let words = route.pattern.split('/').filter(|part| !part.is_empty() && *part != "v1");
    let name: Vec<_> = words.map(|part| part.trim_matches(['{', '}']).replace('-', "_")).collect();
    let verb = match route.method {
        Method::Get => "get",
        Method::Post => "post",
        Method::Delete => "delete",
    };
    format!("{verb}_{}", name.join("_").replace('.', "_"))
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
        .map(|name| json!({ "name": name, "in": "path", "required": true, "description": path_words(name), "schema": path_schema(name) }))
        .collect()
}

fn path_schema(name: &str) -> Value {
    match name {
        "seq" => json!({ "type": "integer", "format": "uint64", "minimum": 0 }),
        _ => json!({ "type": "string" }),
    }
}

fn path_words(name: &str) -> &'static str {
    match name {
        "key" => "The key's id or name",
        "workspace" => "The workspace's id",
        "client" => "The client's id",
        "api_key" => "The API key's id",
        "authority" => "The SHA-256 fingerprint of the CA's certificate, in hexadecimal digits",
        "workflow" => "The workflow's id; where one is started, its name",
        "seq" => "The entry's number",
        "scope" => "`workspace`, or a key's id or name",
        "id" => "A request's id, or a trace's",
        "verb" => "`retry`, `supply-result`, `skip-undo`, `resume-forward`, `unwind` or `abandon`",
        "name" => "The lock's name",
        _ => "What is meant",
    }
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/parameters/{name}") })
}

/// The headers that a request of this route may carry.
fn header_parameters(route: &Route) -> Vec<Value> {
    let mut headers: Vec<Value> = ["Chancery-Deadline-Ms", "Priority", "traceparent"].map(reference).to_vec();
    if matches!(route.guard, GuardKind::Scope(_)) {
        headers.push(reference("Chancery-Workspace"));
    }
    if route.method != Method::Get {
        headers.extend(["Chancery-Fence", "Prefer"].map(reference));
        let key = match route.key_rule {
            KeyRule::Required => "Idempotency-Key-Required",
            KeyRule::Lasting | KeyRule::Optional => "Idempotency-Key",
        };
        headers.push(reference(key));
    } else if route.pattern.starts_with("/v1/events") {
        headers.push(reference("Prefer"));
    }
    headers
}

/// What a request may carry beside its body.
fn request_headers() -> Value {
    let header = |name: &str, required: bool, schema: Value, description: &str| json!({ "name": name, "in": "header", "required": required, "description": description, "schema": schema });
    let text = || json!({ "type": "string" });
    let key = "1 to 255 visible characters, such as a UUID, and the same when the request is sent again: one effect, one answer";
    json!({
        "Idempotency-Key": header("Idempotency-Key", false, text(), key),
        "Idempotency-Key-Required": header("Idempotency-Key", true, text(), key),
        "Chancery-Fence": header("Chancery-Fence", false, text(), "NAME=FENCE of a lease, several with commas between them: carried out only while each is the latest of its name"),
        "Chancery-Workspace": header("Chancery-Workspace", false, text(), "Operators name the workspace with it, by id or name; a program's is known by its certificate"),
        "Chancery-Deadline-Ms": header("Chancery-Deadline-Ms", false, json!({ "type": "integer", "minimum": 1, "maximum": 60_000 }), "How long the caller waits for the answer, in milliseconds"),
        "Prefer": header("Prefer", false, text(), "`wait=N`: rather wait up to N seconds than be told to look again (RFC 7240)"),
        "Priority": header("Priority", false, text(), "`u=0` to `u=7` (RFC 9218); above the usual 3 with the scope `priority`"),
        "traceparent": header("traceparent", false, text(), "The trace that this request belongs to (W3C Trace Context)"),
    })
}

fn answer_headers() -> Value {
    let header =
        |description: &str, kind: &str| json!({ "description": description, "schema": { "type": kind } });
    json!({
        "Request-Id": header("Names this request in log and ledger", "string"),
        "Retry-After": header("Whole seconds after which it makes sense to ask again", "integer"),
        "RateLimit": header("What is left of the workspace's allowance", "string"),
        "RateLimit-Policy": header("The workspace's allowance", "string"),
        "Location": header("Where the new thing is, or the workflow that makes it", "string"),
        "Chancery-Entry": header("The ledger entry that tells of what was done", "integer"),
        "Idempotency-Replayed": header("`true`: this answer was given before, to the same request", "string"),
    })
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
