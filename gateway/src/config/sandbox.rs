//! What a token's worker is let into, held against what it must never reach.
//! Who enters: a configuration that could be read.
//! What leaves: defects, where a path would open the ledger or a key to the vendor's library, or a network has no address.

use std::path::{Path, PathBuf};

use hsm::TokenConfig;

use super::{Config, Defect};

/// What is wrong with the sandboxes of token and TPM.
pub(super) fn defects(config: &Config) -> Vec<Defect> {
    let tokens = std::iter::once(("token", &config.token)).chain(config.tpm.as_ref().map(|tpm| ("tpm", tpm)));
    tokens.flat_map(|(at, token)| network(at, token).into_iter().chain(paths(at, token, config))).collect()
}

fn network(at: &str, token: &TokenConfig) -> Option<Defect> {
    let defect =
        |what: &str| Some(Defect { at: format!("{at}.sandbox.connect"), line: None, what: what.to_owned() });
    match (token.network(), token.sandbox().connect.is_empty()) {
        (true, true) => defect(
            "is empty, so with `network = true` the library could connect nowhere; give the device's addresses with their ports",
        ),
        (false, false) => defect("needs `network = true` beside it; without it there are no sockets"),
        _ => None,
    }
}

fn paths<'a>(at: &'a str, token: &TokenConfig, config: &'a Config) -> impl Iterator<Item = Defect> + use<'a> {
    let reach = token.reach();
    let secrets = secrets(config);
    reach.read.into_iter().chain(reach.write).filter_map(move |path| {
        let (what, _) = secrets.iter().find(|(_, secret)| real(secret).starts_with(real(&path)))?;
        let what = format!(
            "lets the token's worker into {}, and so to {what}; give the worker a file or directory of its own",
            path.display()
        );
        Some(Defect { at: format!("{at}.sandbox"), line: None, what })
    })
}

/// What no vendor's library may ever be let into.
fn secrets(config: &Config) -> Vec<(&'static str, PathBuf)> {
    let own = [
        ("the state directory", config.state_directory.clone()),
        ("the ledger", config.ledger_path()),
        ("the ledger", config.state_directory.join("ledger.db-wal")),
        ("the exports", config.exports()),
        ("the backups", config.backups()),
    ];
    let server = config.api.server_key.iter().map(|key| ("the server's key", key.clone()));
    let upstreams = config.upstreams.iter().filter_map(|upstream| upstream.client_key.clone());
    own.into_iter().chain(server).chain(upstreams.map(|key| ("the key of an upstream", key))).collect()
}

/// Without links, as far as it is there: two names of one directory are one directory.
fn real(path: &Path) -> PathBuf {
    match (std::fs::canonicalize(path), path.parent(), path.file_name()) {
        (Ok(real), _, _) => real,
        (Err(_), Some(parent), Some(name)) if !parent.as_os_str().is_empty() => real(parent).join(name),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::Viewpoint;
    use super::super::check::checked;
    use super::*;

    /// What is said of a configuration with these lines in its tables, in a directory of its own.
    fn said(token: &str, more: &str) -> String {
        let home = tempfile::tempdir().unwrap();
        let state = home.path().join("state");
        for directory in ["state", "state/tpm", "tokens"] {
            std::fs::create_dir(home.path().join(directory)).unwrap();
        }
        std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink(&state, home.path().join("link")).unwrap();
        for (name, mode) in [("pin", 0o400), ("loose", 0o644), ("empty", 0o400)] {
            let file = home.path().join(name);
            std::fs::write(&file, if name == "empty" { "" } else { "1234" }).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let text = format!(
            "state_directory = \"HOME/state\"\nsocket = \"HOME/sock\"\n[api]\nlisten = \"127.0.0.1:0\"\nnames = [\"localhost\"]\n\
             [ledger]\norigin = \"x/y\"\n[token]\nkind = \"pkcs11\"\nmodule = \"HOME/pin\"\nserial = \"1\"\nworker = \"HOME/pin\"\n\
             {token}\n{more}"
        );
        let text = text.replace("HOME", &home.path().display().to_string());
        match checked(Path::new("chancery.toml"), &text, &Viewpoint::own()) {
            Ok(_) => String::new(),
            Err(refused) => refused.to_string(),
        }
    }

    #[test]
    fn a_token_in_a_directory_of_its_own_is_right() {
        assert_eq!(said("pin_file = \"HOME/pin\"\nsandbox.write = [\"HOME/tokens\"]", ""), "");
        let tpm = "[tpm]\nkind = \"tpm\"\ntcti = \"device:/dev/tpmrm0\"\nindex_auth_file = \"HOME/state/tpm/index.auth\"\nworker = \"HOME/pin\"";
        assert_eq!(said("pin_file = \"HOME/pin\"", tpm), "");
    }

    #[test]
    fn no_path_opens_the_state_directory_to_a_worker() {
        for path in [
            "/",
            "HOME",
            "HOME/state",
            "HOME/link",
            "HOME/state/ledger.db",
            "HOME/state/../state",
            "HOME/state/backups",
        ] {
            for key in ["read", "write"] {
                let text = said(&format!("pin_file = \"HOME/pin\"\nsandbox.{key} = [\"{path}\"]"), "");
                assert!(
                    text.contains("`token.sandbox` lets the token's worker into"),
                    "{key} {path}: {text:?}"
                );
            }
        }
        let text = said("pin_file = \"HOME/pin\"\nenvironment.A = \"HOME/state\"", "");
        assert!(text.contains("the state directory"), "{text:?}");
        let tpm = "[tpm]\nkind = \"tpm\"\ntcti = \"device\"\nindex_auth_file = \"HOME/state/index.auth\"\nworker = \"HOME/pin\"";
        let text = said("pin_file = \"HOME/pin\"", tpm);
        assert!(text.contains("`tpm.sandbox` lets"), "{text:?}");
    }

    #[test]
    fn no_path_opens_the_servers_key_to_a_worker() {
        let server = "sandbox.read = [\"HOME/loose\"]\npin_file = \"HOME/pin\"";
        let text = said(server, "");
        assert_eq!(text, "");
        let config = "[[upstream]]\nname = \"up\"\nprefix = \"/up\"\nendpoints = [\"https://127.0.0.1:1\"]\nca = \"HOME/pin\"\n\
             client_certificate = \"HOME/pin\"\nclient_key = \"HOME/loose\"";
        let text = said(server, config);
        assert!(text.contains("the key of an upstream"), "{text:?}");
    }

    #[test]
    fn a_network_has_addresses_and_addresses_a_network() {
        let text = said("pin_file = \"HOME/pin\"\nnetwork = true", "");
        assert!(text.contains("`token.sandbox.connect` is empty"), "{text:?}");
        let text = said("pin_file = \"HOME/pin\"\nsandbox.connect = [\"10.0.0.5:1792\"]", "");
        assert!(text.contains("needs `network = true`"), "{text:?}");
        assert_eq!(
            said("pin_file = \"HOME/pin\"\nnetwork = true\nsandbox.connect = [\"10.0.0.5:1792\"]", ""),
            ""
        );
    }

    #[test]
    fn a_pin_file_that_the_worker_would_refuse_is_a_defect() {
        for (file, expected) in
            [("loose", "chmod 0400"), ("empty", "put the PIN into it"), ("none", "cannot be opened")]
        {
            let text = said(&format!("pin_file = \"HOME/{file}\""), "");
            assert!(text.contains("`token.pin_file`") && text.contains(expected), "{file}: {text:?}");
        }
    }
}
