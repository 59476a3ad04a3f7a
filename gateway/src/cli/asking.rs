//! What the command line asks of its user before it asks the daemon: whether they are sure, and which one they mean.
//! Who enters: commands that are about to change something, and names where ids are needed.
//! What leaves: a yes, an id, or a refusal in the words of the command line.

use std::io::IsTerminal;

use serde_json::Value;

use super::local::Ask;
use super::{Common, Failure, code};

/// Asks whoever sits at the terminal; where nobody does, nobody is sure.
pub(super) fn is_sure(question: &str, flags: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        let words = format!("nobody can be asked here; say {flags}");
        return Err(Failure::new(code::USAGE, "usage", words));
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(|why| Failure::because(code::USAGE, "usage", &why))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Goes on with what cannot be taken back only if somebody said so.
pub(super) fn insist(yes: bool, what: &str) -> Result<(), Failure> {
    if yes
        || is_sure(&format!("{what} This cannot be taken back. Go on?"), "--yes: this cannot be taken back")?
    {
        return Ok(());
    }
    Err(Failure::new(code::REFUSED, "not_done", "nothing was done"))
}

/// The id of what somebody names, by name or by id. Of several with one name the living one is meant.
pub(super) fn id_of(common: &Common, path: &str, list: &str, named: &str) -> Result<String, Failure> {
    let mut found: Vec<Value> = Vec::new();
    let mut page = Ask::get(path).send(common)?;
    loop {
        let all = page[list].as_array().into_iter().flatten();
        found.extend(all.filter(|one| one["id"] == named || one["name"] == named).cloned());
        let Some(next) = page["next"].as_str() else { break };
        page = Ask::get(format!("{path}?after={next}")).send(common)?;
    }
    let id = |one: &Value| one["id"].as_str().unwrap_or_default().to_owned();
    if let Some(exact) = found.iter().find(|one| one["id"] == named) {
        return Ok(id(exact));
    }
    let over = ["revoked", "closed_for_good", "shredded"];
    let living: Vec<&Value> =
        found.iter().filter(|one| !over.contains(&one["state"].as_str().unwrap_or_default())).collect();
    let noun = list.trim_end_matches('s').replace('_', " ");
    let within = common.workspace.as_ref().map(|name| format!(" in workspace `{name}`")).unwrap_or_default();
    match (&living[..], found.len()) {
        ([one], _) => Ok(id(one)),
        ([], 0) => {
            Err(Failure::new(code::REFUSED, "not_found", format!("there is no {noun} `{named}`{within}")))
        }
        ([], _) => Err(Failure::new(
            code::REFUSED,
            "wrong_state",
            format!("{noun} `{named}`{within} is revoked already"),
        )),
        (several, _) => {
            let ids: Vec<String> = several.iter().map(|one| id(one)).collect();
            let words =
                format!("several are called `{named}`{within}; name one by its id: {}", ids.join(", "));
            Err(Failure::new(code::USAGE, "usage", words))
        }
    }
}
