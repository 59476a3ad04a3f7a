//! Commands that ask the daemon: each becomes one question over the local socket and one answer on the screen.
//! Who enters: parsed arguments.
//! What leaves: tables, lines, sentences or JSON.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::asking::{id_of, insist};
use super::enrol::{Request, file_failure};
use super::local::Ask;
use super::words::{
    ApiKeyCommand, AuditCommand, CaCommand, ClientCommand, KeyCommand, PublicForm, WorkspaceCommand,
};
use super::{Common, Failure, code, show};

const KEY_COLUMNS: [&str; 7] = ["id", "name", "kind", "state", "latest_version", "uses", "created"];

pub(super) fn status(common: &Common) -> Result<(), Failure> {
    let common = &common.outside_workspaces();
    let answer = Ask::get("/v1/status").send(common)?;
    show::fields(common.json, &answer, &["version", "origin", "ledger", "entries", "unsealed_entries"]);
    if !common.json {
        say!("");
        show::table(false, &answer["readiness"], "parts", &["part", "ready", "code", "detail"]);
        say!("");
        let columns = ["service", "kind", "code", "retry_in_ms", "in_flight", "waiting", "trips", "refused"];
        show::table(false, &answer, "services", &columns);
        tell_faulty_keys(&answer);
    }
    match answer["readiness"]["ready"] == json!(true) {
        true => Ok(()),
        false => Err(Failure::new(code::REFUSED, "not_ready", "not ready; the parts above say why")),
    }
}

/// Nothing where all keys are as they should be.
fn tell_faulty_keys(status: &Value) {
    for key in status["keys"].as_array().into_iter().flatten() {
        let whose = key["workspace"].as_str().map_or_else(String::new, |id| format!(" of workspace {id}"));
        let (name, version) = (show::plain(&key["name"]), show::plain(&key["version"]));
        let signs = if key["usable"] == json!(true) { "signs" } else { "SIGNS NOTHING" };
        say!("");
        say!("key {name}{whose}, version {version}, token key {}: {signs}", show::plain(&key["token_key"]));
        tell_faults(key);
    }
}

/// What is not as it should be about a key or a version of it, a line each.
fn tell_faults(of: &Value) {
    for fault in of["faults"].as_array().into_iter().flatten() {
        say!("  {}: {}", show::plain(&fault["code"]), show::plain(&fault["detail"]));
    }
}

pub(super) fn workspace(common: &Common, command: WorkspaceCommand) -> Result<(), Failure> {
    let common = &common.outside_workspaces();
    match command {
        WorkspaceCommand::Create { name } => {
            let answer = Ask::post("/v1/workspaces", Some(json!({ "name": name }))).send(common)?;
            show::fields(common.json, &answer, &["id", "name", "state"]);
        }
        WorkspaceCommand::List => {
            let answer = Ask::get("/v1/workspaces").send(common)?;
            show::table(common.json, &answer, "workspaces", &["id", "name", "state", "created"]);
        }
        WorkspaceCommand::Close { workspace } => {
            let id = id_of(common, "/v1/workspaces", "workspaces", &workspace)?;
            done(common, Ask::post(format!("/v1/workspaces/{id}/close"), None), "closed")?
        }
        WorkspaceCommand::Open { workspace } => {
            let id = id_of(common, "/v1/workspaces", "workspaces", &workspace)?;
            done(common, Ask::post(format!("/v1/workspaces/{id}/open"), None), "open")?
        }
    }
    Ok(())
}

pub(super) fn client(common: &Common, command: ClientCommand) -> Result<(), Failure> {
    let common = &common.in_workspace()?;
    match command {
        ClientCommand::Enroll { name, csr, days, out } => {
            let request = csr.as_deref().map_or_else(Request::make, Request::read)?;
            let body = json!({ "name": name, "csr": request.csr_pem, "days": days });
            let answer = Ask::post("/v1/clients", Some(body)).send(common)?;
            let text = |field: &str| answer[field].as_str().unwrap_or_default();
            let written = request.write(&out, &name, text("certificate"), text("ca"))?;
            show::fields(common.json, &answer, &["id", "name", "state", "certificate_hash", "not_after"]);
            if !common.json {
                written.iter().for_each(|path| say!("wrote {}", path.display()));
            }
        }
        ClientCommand::List => {
            let answer = Ask::get("/v1/clients").send(common)?;
            show::table(
                common.json,
                &answer,
                "clients",
                &["id", "name", "state", "not_after", "certificate_hash"],
            );
        }
        ClientCommand::Revoke { client, yes } => {
            let id = id_of(common, "/v1/clients", "clients", &client)?;
            insist(yes, &format!("Client `{client}` ({id}) will be revoked, and its connections end."))?;
            done(common, Ask::delete(format!("/v1/clients/{id}")), "revoked")?;
        }
    }
    Ok(())
}

pub(super) fn ca(common: &Common, command: CaCommand) -> Result<(), Failure> {
    let common = &common.outside_workspaces();
    let answer = match command {
        CaCommand::List => {
            let answer = Ask::get("/v1/authorities").send(common)?;
            let columns = ["fingerprint", "state", "issues", "clients", "made", "not_after"];
            show::table(common.json, &answer, "authorities", &columns);
            return Ok(());
        }
        CaCommand::Rotate => {
            let answer = Ask::post("/v1/authorities", None).send(common)?;
            show::fields(common.json, &answer, &["fingerprint"]);
            answer
        }
        CaCommand::Retire { fingerprint, yes } => {
            insist(yes, &format!("CA {fingerprint} will be retired, and every client it issued revoked."))?;
            let answer = Ask::post(format!("/v1/authorities/{fingerprint}/retire"), None).send(common)?;
            show::fields(common.json, &answer, &["fingerprint", "clients_revoked"]);
            answer
        }
    };
    if answer["in_use"] == json!(false) {
        eprintln!("Recorded, but new connections do not see it yet; the log says why.");
    }
    Ok(())
}

pub(super) fn reseal(common: &Common) -> Result<(), Failure> {
    let answer = Ask::post("/v1/token/reseal", None).send(&common.outside_workspaces())?;
    let pcrs: Vec<u64> = answer["pcrs"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
    match (common.json, pcrs.as_slice()) {
        (true, _) => say!("{answer}"),
        (false, []) => {
            say!(
                "The master key is sealed to the chip alone: this machine opens it in whatever state it starts."
            );
            eprintln!("Name the registers in `pcrs` again after the update, restart, and seal it anew.");
        }
        (false, pcrs) => {
            let pcrs: Vec<String> = pcrs.iter().map(u64::to_string).collect();
            say!("The master key is sealed to the present values of PCR {}.", pcrs.join(", "));
        }
    }
    Ok(())
}

pub(super) fn api_key(common: &Common, command: ApiKeyCommand) -> Result<(), Failure> {
    let common = &common.in_workspace()?;
    match command {
        ApiKeyCommand::Create { name, scopes, expires } => {
            let body = json!({ "name": name, "scopes": scopes, "expires": expires });
            let answer = Ask::post("/v1/api-keys", Some(body)).send(common)?;
            show::fields(common.json, &answer, &["id", "name", "scopes", "expires", "secret"]);
            if !common.json {
                eprintln!("The secret cannot be shown again.");
            }
        }
        ApiKeyCommand::List => {
            let answer = Ask::get("/v1/api-keys").send(common)?;
            show::table(
                common.json,
                &answer,
                "api_keys",
                &["id", "name", "state", "scopes", "expires", "last_used"],
            );
        }
        ApiKeyCommand::Revoke { key, yes } => {
            let id = id_of(common, "/v1/api-keys", "api_keys", &key)?;
            insist(yes, &format!("API key `{key}` ({id}) will be revoked."))?;
            done(common, Ask::delete(format!("/v1/api-keys/{id}")), "revoked")?;
        }
    }
    Ok(())
}

pub(super) fn key(common: &Common, command: KeyCommand) -> Result<(), Failure> {
    let common = &common.in_workspace()?;
    let act = |key: &str, verb: &str, body: Option<Value>| Ask::post(format!("/v1/keys/{key}/{verb}"), body);
    let ask = match command {
        KeyCommand::Create { name, kind, recoverable } => {
            Ask::post("/v1/keys", Some(json!({ "name": name, "kind": kind, "recoverable": recoverable })))
        }
        KeyCommand::Import { name, file } => return super::import::import(common, &name, &file),
        KeyCommand::List { after } => return list_keys(common, after),
        KeyCommand::Show { key, public: Some(form), key_version } => {
            return show_public(common, &key, form, key_version);
        }
        KeyCommand::Show { key, public: None, .. } => Ask::get(format!("/v1/keys/{key}")),
        // With an overlap the workflow goes on for that long; nobody sits and waits for it.
        KeyCommand::Rotate { key, overlap } if overlap > 0 => {
            let body = json!({ "key": key, "overlap_seconds": overlap });
            let answer = Ask::post("/v1/workflows/key.rotate", Some(body)).send(common)?;
            show::fields(common.json, &answer, &["id", "workflow", "state", "step"]);
            return Ok(());
        }
        KeyCommand::Rotate { key, overlap } => act(&key, &format!("rotate?overlap_seconds={overlap}"), None),
        KeyCommand::Disable { key } => act(&key, "disable", None),
        KeyCommand::Enable { key } => act(&key, "enable", None),
        KeyCommand::ScheduleDestruction { key, days, reason } => {
            act(&key, "schedule-destruction", Some(json!({ "days": days, "reason": reason })))
        }
        KeyCommand::Keep { key } => act(&key, "keep", None),
    };
    let answer = ask.send(common)?;
    show::fields(
        common.json,
        &answer,
        &[
            "id",
            "name",
            "kind",
            "schemes",
            "state",
            "latest_version",
            "uses",
            "destroy_after",
            "workflow",
            "created",
        ],
    );
    if !common.json {
        show::table(false, &answer, "versions", &["version", "state", "fingerprint", "created"]);
        let faulty = |one: &&Value| one["faults"].as_array().is_some_and(|faults| !faults.is_empty());
        for version in answer["versions"].as_array().into_iter().flatten().filter(faulty) {
            say!("");
            say!("version {} in the token:", show::plain(&version["version"]));
            tell_faults(version);
        }
    }
    Ok(())
}

fn list_keys(common: &Common, after: Option<String>) -> Result<(), Failure> {
    let path = after.map_or_else(|| "/v1/keys".to_owned(), |after| format!("/v1/keys?after={after}"));
    show::table(common.json, &Ask::get(path).send(common)?, "keys", &KEY_COLUMNS);
    Ok(())
}

/// The public key that signatures made now verify with, or that of a version.
fn show_public(common: &Common, key: &str, form: PublicForm, version: Option<i64>) -> Result<(), Failure> {
    let answer = Ask::get(format!("/v1/keys/{key}")).send(common)?;
    let wanted = version.map_or_else(|| answer["latest_version"].clone(), |version| json!(version));
    let found = answer["versions"].as_array().into_iter().flatten().find(|one| one["version"] == wanted);
    let Some(found) = found else {
        let words = format!(
            "key `{key}` has no version {}; `chancery key show {key}` lists them",
            show::plain(&wanted)
        );
        return Err(Failure::new(code::REFUSED, "not_found", words));
    };
    let form = form.text();
    match &found[form] {
        Value::String(text) => say_on!("{text}"),
        Value::Null => {
            let words =
                format!("--public: a key of kind {} has no form `{form}`", show::plain(&answer["kind"]));
            return Err(Failure::new(code::USAGE, "usage", words));
        }
        other => say!("{other}"),
    }
    Ok(())
}

pub(super) fn audit(common: &Common, command: AuditCommand) -> Result<(), Failure> {
    match command {
        AuditCommand::Entries { action, object, request, after, limit } => {
            let base = if common.workspace.is_some() { "/v1/audit/entries" } else { "/v1/audit/everything" };
            let after = after.map(|seq| seq.to_string());
            let pairs = [
                ("action", action),
                ("object", object),
                ("request_id", request),
                ("after", after),
                ("limit", Some(limit.to_string())),
            ];
            let pairs: Vec<_> = pairs.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
            let query = serde_html_form::to_string(pairs).unwrap_or_default();
            let answer = Ask::get(format!("{base}?{query}")).send(common)?;
            show::table(
                common.json,
                &answer,
                "entries",
                &["seq", "time", "actor", "action", "object", "outcome", "request_id"],
            );
        }
        AuditCommand::Checkpoint => print_text(common, Ask::get("/v1/audit/checkpoint"))?,
        AuditCommand::Receipt { seq } => {
            say!("{}", Ask::get(format!("/v1/audit/receipts/{seq}")).send(&common.in_workspace()?)?);
        }
        AuditCommand::Keys => {
            let answer = Ask::get("/v1/audit/checkpoint").send(common)?;
            let (keys, attested) = (&answer["verifier_keys"], &answer["attestation_key"]);
            match common.json {
                true => say!("{}", json!({ "verifier_keys": keys, "attestation_key": attested })),
                false => {
                    keys.as_array().into_iter().flatten().for_each(|key| say!("{}", show::plain(key)));
                    if let Some(fingerprint) = attested.as_str() {
                        // Not a key of notes, and not among the lines that are handed to a verifier.
                        eprintln!("The TPM's attestation key (SHA-256): {fingerprint}");
                    }
                }
            }
        }
        AuditCommand::Seal => {
            let answer = Ask::post("/v1/audit/seal", None).send(common)?;
            show::fields(common.json, &answer, &["step", "size", "tier"]);
        }
        AuditCommand::Export { from, to, recipient, tar } => {
            let range =
                [("from", from), ("to", to)].map(|(name, seq)| (name, seq.map(|seq| seq.to_string())));
            let named = [("workspace", common.workspace.clone()), ("recipient", recipient)];
            export(common, named.into_iter().chain(range), tar)?;
        }
    }
    Ok(())
}

/// The daemon writes the export; whoever may read it there packs it.
fn export(
    common: &Common,
    wanted: impl Iterator<Item = (&'static str, Option<String>)>,
    tar: Option<PathBuf>,
) -> Result<(), Failure> {
    let wanted: Vec<_> = wanted.filter_map(|(name, value)| Some((name, value?))).collect();
    let query = serde_html_form::to_string(wanted).unwrap_or_default();
    let path = format!("/v1/audit/export?{query}");
    let answer = Ask::post(path.trim_end_matches('?'), None).send(&common.outside_workspaces())?;
    if let Some(archive) = &tar {
        let directory = PathBuf::from(answer["directory"].as_str().unwrap_or_default());
        audit::export::pack(&directory, archive).map_err(|why| file_failure(archive, &why))?;
    }
    show::fields(common.json, &answer, &["directory", "entries", "size"]);
    if let Some(archive) = tar.filter(|_| !common.json) {
        say!("wrote {}", archive.display());
    }
    Ok(())
}

fn print_text(common: &Common, ask: Ask) -> Result<(), Failure> {
    match common.json {
        true => say!("{}", ask.send(common)?),
        false => say_on!("{}", ask.into_text().send(common)?.as_str().unwrap_or_default()),
    }
    Ok(())
}

fn done(common: &Common, ask: Ask, word: &str) -> Result<(), Failure> {
    let answer = ask.send(common)?;
    show::sentence(common.json, &answer, word);
    Ok(())
}
