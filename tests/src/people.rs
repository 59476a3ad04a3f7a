//! The people and programs of an appliance: the operator at the local socket, members with certificate and API key.
//! Who enters: tests that need somebody to ask.
//! What leaves: answers, and credentials to use or to misuse.

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::identity::{self, Identity};
use crate::wire::{Answer, Ask, Connection, Door, Protocol, get, post};

/// Every scope there is.
pub const SCOPES: [&str; 12] = [
    "sign",
    "verify",
    "keys:read",
    "keys:manage",
    "access:read",
    "access:manage",
    "audit:read",
    "priority",
    "workflows:read",
    "workflows:manage",
    "approve",
    "locks",
];

/// The person at the local socket.
#[derive(Clone, Debug)]
pub struct Operator {
    socket: PathBuf,
    acting_in: Option<String>,
}

/// A program with a certificate and an API key of its workspace.
#[derive(Clone, Debug)]
pub struct Member {
    /// The workspace's id.
    pub workspace: String,
    /// The client's id.
    pub client: String,
    /// What it shows in the handshake.
    pub identity: Identity,
    /// The API key's id.
    pub api_key: String,
    /// The API key's secret.
    pub secret: String,
    door: Door,
}

impl Operator {
    /// At this socket.
    pub fn at(socket: PathBuf) -> Self {
        Self { socket, acting_in: None }
    }

    /// Acting in a workspace.
    #[must_use]
    pub fn acting_in(&self, workspace: &str) -> Self {
        Self { acting_in: Some(workspace.to_owned()), ..self.clone() }
    }

    /// Asks, over a connection of its own.
    pub async fn ask(&self, ask: Ask) -> Answer {
        self.try_ask(ask).await.expect("the daemon answers its operator")
    }

    /// Asks a daemon that may be away.
    ///
    /// # Errors
    /// It is.
    pub async fn try_ask(&self, ask: Ask) -> std::io::Result<Answer> {
        let ask = match &self.acting_in {
            Some(workspace) => ask.header("chancery-workspace", workspace),
            None => ask,
        };
        // Making an RSA key takes a software token a while.
        Connection::local(&self.socket).await?.send(ask.header("chancery-deadline-ms", "60000")).await
    }

    /// The appliance says that every part is ready.
    pub async fn is_ready(&self) -> bool {
        matches!(self.try_ask(get("/health/ready")).await, Ok(answer) if answer.status == 200)
    }

    /// Creates a workspace and hands back its id.
    pub async fn create_workspace(&self, name: &str) -> String {
        let made = self.ask(post("/v1/workspaces", json!({ "name": name }))).await.expect(201).json();
        made["id"].as_str().expect("an id").to_owned()
    }

    /// A workspace with one client and one API key.
    pub async fn found(&self, name: &str, scopes: &[&str], door: &Door) -> Member {
        let workspace = self.create_workspace(name).await;
        let here = self.acting_in(&workspace);
        let (client, identity) = here.enrol("first").await;
        let (api_key, secret) = here.issue("first", scopes).await;
        Member { workspace, client, identity, api_key, secret, door: door.clone() }
    }

    /// Enrols a client in the workspace acted in: its id and its identity.
    pub async fn enrol(&self, name: &str) -> (String, Identity) {
        self.enrol_for(name, 90).await
    }

    /// Enrols a client whose certificate lives so many days.
    pub async fn enrol_for(&self, name: &str, days: u32) -> (String, Identity) {
        let (key, csr) = identity::request();
        let body = json!({ "name": name, "csr": csr, "days": days });
        let answer = self.ask(post("/v1/clients", body)).await.expect(201).json();
        let text = |name: &str| answer[name].as_str().expect(name).to_owned();
        (text("id"), Identity { certificate: text("certificate"), key, ca: text("ca") })
    }

    /// Issues an API key in the workspace acted in: its id and its secret.
    pub async fn issue(&self, name: &str, scopes: &[&str]) -> (String, String) {
        let answer =
            self.ask(post("/v1/api-keys", json!({ "name": name, "scopes": scopes }))).await.expect(201);
        let text = |name: &str| answer.json()[name].as_str().expect(name).to_owned();
        (text("id"), text("secret"))
    }

    /// Has the appliance make a new CA, and hands back its fingerprint once new connections see it.
    pub async fn rotate_ca(&self) -> String {
        let made = self.ask(post("/v1/authorities", Value::Null)).await.expect(201).json();
        assert_eq!(made["in_use"], true, "{made}");
        made["fingerprint"].as_str().expect("a fingerprint").to_owned()
    }

    /// Asks to retire a CA.
    pub async fn retire_ca(&self, fingerprint: &str) -> Answer {
        self.ask(post(format!("/v1/authorities/{fingerprint}/retire"), Value::Null)).await
    }

    /// The CAs, oldest first.
    pub async fn authorities(&self) -> Vec<Value> {
        let answer = self.ask(get("/v1/authorities")).await.expect(200).json();
        answer["authorities"].as_array().expect("a list").clone()
    }

    /// Entries of the whole log that fit a query, oldest first.
    pub async fn entries(&self, query: &str) -> Vec<Value> {
        let mut found = Vec::new();
        let mut after = String::new();
        loop {
            let path = format!("/v1/audit/everything?limit=500{after}&{query}");
            let page = self.ask(get(path)).await.expect(200).json();
            found.extend(page["entries"].as_array().cloned().unwrap_or_default());
            match page["next"].as_u64() {
                Some(next) => after = format!("&after={next}"),
                None => return found,
            }
        }
    }
}

impl Member {
    /// Opens a connection that shows both credentials.
    pub async fn connect(&self, protocol: Protocol) -> Connection {
        self.try_connect(protocol).await.expect("a member is let in")
    }

    /// Connects to a daemon that may be away.
    ///
    /// # Errors
    /// It is, or it does not let us in.
    pub async fn try_connect(&self, protocol: Protocol) -> std::io::Result<Connection> {
        self.door.connect(&self.identity, Some(&self.secret), protocol).await
    }

    /// Asks, over a connection of its own.
    pub async fn ask(&self, ask: Ask) -> Answer {
        self.try_ask(ask).await.expect("the daemon answers its member")
    }

    /// Asks a daemon that may be away.
    ///
    /// # Errors
    /// It is, or it does not let us in.
    pub async fn try_ask(&self, ask: Ask) -> std::io::Result<Answer> {
        self.try_connect(Protocol::H1).await?.send(ask).await
    }

    /// Makes a key and hands back its id.
    pub async fn create_key(&self, name: &str, kind: &str) -> String {
        let ask =
            post("/v1/keys", json!({ "name": name, "kind": kind })).header("chancery-deadline-ms", "60000");
        let made = self.ask(ask).await.expect(201).json();
        made["id"].as_str().expect("an id").to_owned()
    }

    /// The same member with another API key.
    #[must_use]
    pub fn with_secret(&self, secret: &str) -> Self {
        Self { secret: secret.to_owned(), ..self.clone() }
    }

    /// The same member with another certificate.
    #[must_use]
    pub fn with_identity(&self, identity: &Identity) -> Self {
        Self { identity: identity.clone(), ..self.clone() }
    }
}

/// Asks for a signature of a message by a P-256 key, by its digest.
pub fn sign_p256(key: &str, message: &[u8]) -> Ask {
    sign_digest(key, "ecdsa-sha256", &Sha256::digest(message))
}

/// Asks for a signature of a digest.
pub fn sign_digest(key: &str, scheme: &str, digest: &[u8]) -> Ask {
    post(format!("/v1/keys/{key}/sign"), json!({ "scheme": scheme, "digest": STANDARD.encode(digest) }))
}

/// Asks for a signature of a message.
pub fn sign_message(key: &str, scheme: &str, message: &[u8]) -> Ask {
    post(format!("/v1/keys/{key}/sign"), json!({ "scheme": scheme, "message": STANDARD.encode(message) }))
}
