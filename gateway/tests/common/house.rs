//! The whole house over a token in memory: real ledger on disk, real gate, real HTTP, no hardware and no network.
//! Who enters: tests that ask as operator, as program, or as a client whose certificate somebody vouched for.
//! What leaves: status, headers and body of each answer; the double, to make trouble with.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use gateway::api::CertificateHash;
use gateway::appliance::Tokens;
use gateway::boundary::authenticate::Peer;
use gateway::boundary::connection;
use gateway::boundary::gate::Gate;
use gateway::boundary::rate::Quota;
use gateway::config::{
    ApiConfig, BackupsConfig, Config, LedgerConfig, LogConfig, MonitoringConfig, OperatorsConfig,
    RatesConfig, RetentionConfig, TracesConfig,
};
use gateway::traces::Lines;
use gateway::wiring::{self, House};
use hsm::{Double, Token, TokenConfig, TokenState};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// A house that stands, and what it stands on.
pub struct Standing {
    /// The house.
    pub house: House,
    /// Its token.
    pub double: Double,
    /// Its files; gone when this goes.
    pub directory: TempDir,
}

/// Who asks, over which connection and with which headers.
#[derive(Clone)]
pub struct Asker {
    gate: Arc<Gate>,
    peer: Peer,
    headers: Vec<(&'static str, String)>,
}

/// A program of a workspace, with everything it has.
pub struct Program {
    /// The workspace's id.
    pub workspace: String,
    /// The client's id.
    pub client: String,
    /// The API key's id.
    pub api_key: String,
    /// The API key's secret.
    pub secret: String,
    /// Its certificate's hash.
    pub certificate: CertificateHash,
    /// As it asks.
    pub asker: Asker,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// Builds a house over an empty token in memory.
pub async fn house() -> Standing {
    house_with(RatesConfig::default()).await
}

/// Builds a house with these rate limits.
pub async fn house_with(rates: RatesConfig) -> Standing {
    let (directory, double) = (tempfile::tempdir().expect("a directory"), Double::new());
    let config = config(directory.path(), rates);
    wiring::init_over(&config, async { Ok(tokens(&double).await) }).await.expect("an appliance");
    let house = wiring::build_over(&config, Lines::default(), async { Ok(tokens(&double).await) })
        .await
        .expect("a house");
    house.health.look(&house.probes).await;
    Standing { house, double, directory }
}

/// Builds a house under a clock that the test sets.
pub async fn house_under(clock: Arc<dyn audit::Clock>) -> Standing {
    let (directory, double) = (tempfile::tempdir().expect("a directory"), Double::new());
    let config = config(directory.path(), RatesConfig::default());
    wiring::init_over(&config, async { Ok(tokens(&double).await) }).await.expect("an appliance");
    let tokens = async { Ok(tokens(&double).await) };
    let house = wiring::build_at(&config, Lines::default(), tokens, clock).await.expect("a house");
    Standing { house, double, directory }
}

/// The configuration of a house in this directory.
pub fn config_in(directory: &Path) -> Config {
    config(directory, RatesConfig::default())
}

/// A quota.
pub fn quota(burst: u32, per_second: u32) -> Quota {
    Quota { burst, per_second }
}

/// Ready to be used, however busy the machine is.
async fn tokens(double: &Double) -> Tokens {
    let keys = Token::double(double.clone());
    let ready = |state: &TokenState| matches!(state, TokenState::Ready { .. });
    keys.watch().wait_for(ready).await.expect("a token in memory");
    Tokens { keys, tpm: None, keys_are_in_tpm: false }
}

fn config(directory: &Path, rates: RatesConfig) -> Config {
    let ledger = LedgerConfig {
        origin: "test.example/log".into(),
        seal_seconds: 300,
        seal_rows: 10_000,
        unsealed_seconds_max: 3600,
    };
    let api = ApiConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        names: vec!["localhost".into()],
        server_certificate: None,
        server_key: None,
        trusted_proxies: vec![],
    };
    let token =
        toml::from_str::<TokenConfig>("kind = 'pkcs11'\nmodule = ''\nserial = 'double'\npin_file = ''");
    Config {
        state_directory: directory.to_owned(),
        socket: directory.join("chancery.sock"),
        api,
        operators: OperatorsConfig::default(),
        token: token.expect("a token's table"),
        tpm: None,
        ledger,
        rates,
        log: LogConfig::default(),
        retention: RetentionConfig::default(),
        backups: BackupsConfig::default(),
        traces: TracesConfig::default(),
        monitoring: MonitoringConfig::default(),
        upstreams: vec![],
        source: directory.join("chancery.toml"),
    }
}

impl Standing {
    /// Asks for a certificate for a new client.
    pub async fn enrol(&self, workspace: &str, name: &str) -> Answer {
        let csr = CertificateParams::new(Vec::<String>::new())
            .and_then(|params| params.serialize_request(&KeyPair::generate()?)?.pem())
            .expect("a request");
        let within = self.operator().with("chancery-workspace", workspace);
        within.post("/v1/clients", json!({ "name": name, "csr": csr })).await
    }

    /// The person at the local socket.
    pub fn operator(&self) -> Asker {
        Asker { gate: self.house.local.clone(), peer: Peer::Local { uid: 0 }, headers: vec![] }
    }

    /// Somebody with a certificate of this hash, at the API.
    pub fn client(&self, certificate: CertificateHash) -> Asker {
        let address = ([192, 0, 2, 1], 4711).into();
        Asker { gate: self.house.api.clone(), peer: Peer::Remote { address, certificate }, headers: vec![] }
    }

    /// A workspace of this name, if it is new, and a program in it with these scopes.
    pub async fn program(&self, workspace: &str, scopes: &[&str]) -> Program {
        let operator = self.operator();
        operator.post("/v1/workspaces", json!({ "name": workspace })).await;
        let within = operator.with("chancery-workspace", workspace);
        let id = operator.get("/v1/workspaces").await.json()["workspaces"]
            .as_array()
            .and_then(|all| {
                all.iter().find(|one| one["name"] == workspace)?["id"].as_str().map(str::to_owned)
            })
            .expect("the workspace");
        let client = self.enrol(workspace, "machine").await;
        assert_eq!(client.status, 201, "{client:?}");
        let pem = client.json()["certificate"].as_str().expect("a certificate").to_owned();
        let certificate = CertificateHash::of(&CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM"));
        let key = within.post("/v1/api-keys", json!({ "name": "key", "scopes": scopes })).await;
        assert_eq!(key.status, 201, "{key:?}");
        let (client, key) = (client.json(), key.json());
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let secret = text(&key["secret"]);
        let asker = self.client(certificate).with("authorization", &format!("Bearer {secret}"));
        Program {
            workspace: id,
            client: text(&client["id"]),
            api_key: text(&key["id"]),
            secret,
            certificate,
            asker,
        }
    }
}

impl Asker {
    /// At a gate of one's own.
    pub fn at(gate: Arc<Gate>, peer: Peer) -> Self {
        Self { gate, peer, headers: vec![] }
    }

    /// The same, with one more header.
    pub fn with(&self, name: &'static str, value: &str) -> Self {
        let mut asker = self.clone();
        asker.headers.push((name, value.to_owned()));
        asker
    }

    /// Reads.
    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, None).await
    }

    /// Acts.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.ask("POST", path, Some(body)).await
    }

    /// Acts, with no body.
    pub async fn post_nothing(&self, path: &str) -> Answer {
        self.ask("POST", path, None).await
    }

    /// Asks over a connection of its own.
    pub async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let (near, far) = tokio::io::duplex(64 << 10);
        let (gate, peer) = (self.gate.clone(), self.peer.clone());
        tokio::spawn(async move {
            let never = CancellationToken::new();
            connection::serve(far, peer, gate, &never, &never).await;
        });
        let (mut sender, running) =
            hyper::client::conn::http1::handshake(TokioIo::new(near)).await.expect("a connection");
        tokio::spawn(running);
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let keyed = self.headers.iter().any(|(name, _)| *name == "idempotency-key");
        if method != "GET" && !keyed {
            request = request.header("idempotency-key", fresh("key"));
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let answer =
            sender.send_request(request.body(Full::new(body)).expect("a request")).await.expect("an answer");
        let (head, body) = answer.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        Answer { status: head.status.as_u16(), headers: head.headers, body }
    }
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|why| panic!("{why} in {self:?}"))
    }

    /// The stable code of a problem, or nothing.
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// A header's text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// A name that no test has used yet.
pub fn fresh(prefix: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("{prefix}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}
