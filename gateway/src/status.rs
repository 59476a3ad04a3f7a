//! How the appliance is, over HTTP: live, ready, figures, the API's own description, what the token can do.
//! Who enters: probes and dashboards; operators, who also see why.
//! What leaves: short answers that never wait for a token or a disk.

use std::sync::Arc;

use audit::{Ledger, Standing};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::describe::openapi;
use crate::api::{Exchange, Open, OperatorOnly, OperatorPermit, Problem, Reply, Route};
use crate::appliance::Tokens;
use crate::boundary::monitoring::Figures;
use crate::health::{Health, Readiness, ServiceLine};
use crate::metrics::Metrics;
use crate::routing::Router;
use crate::routing::explain::{Explanation, RouteList};
use crate::services::keys::conditions::{Conditions, KeyShown};
use crate::traces::Traces;

/// The status of the house.
pub struct Status {
    health: Health,
    metrics: Metrics,
    tokens: Tokens,
    ledger: Ledger,
    router: Arc<Router>,
    traces: Traces,
    conditions: Conditions,
}

/// Which request to explain.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainQuery {
    /// The path, as a client would send it.
    pub path: String,
    /// The method; GET if absent.
    #[serde(default)]
    pub method: Option<String>,
}

/// What a token is and can do. The form is written out here, for the value comes from the worker.
#[derive(Debug, JsonSchema)]
#[schemars(rename = "Probe")]
#[allow(dead_code, reason = "the form of an answer that another crate writes")]
pub struct ProbeAnswer {
    /// `pkcs11` or `tpm`.
    backend: String,
    /// Who made the device.
    manufacturer: String,
    /// Which device it is.
    model: String,
    /// Its serial, by which it is bound.
    serial: String,
    /// Its label, for people only.
    label: String,
    /// Version of the module or firmware.
    library_version: String,
    /// Where it was found: slot number or TCTI.
    place: String,
    /// How many sessions the worker holds.
    sessions: u32,
    /// Mechanisms by name.
    mechanisms: Vec<String>,
    /// Kinds of key it can make.
    kinds: Vec<String>,
    /// Schemes it can sign with.
    schemes: Vec<String>,
    /// What else it can do.
    powers: Vec<String>,
    /// Objects without name and label.
    strays: u32,
    /// Objects that bear names of ours and are not ours, or are there more than once, in words.
    foreign: Vec<String>,
    /// The walls round the worker.
    walls: Vec<WallAnswer>,
    /// Peculiarities worth knowing, in words.
    remarks: Vec<String>,
}

/// A wall round the worker.
#[derive(Debug, JsonSchema)]
#[schemars(rename = "Wall")]
#[allow(dead_code, reason = "the form of an answer that another crate writes")]
pub struct WallAnswer {
    /// What it keeps the worker from.
    name: String,
    /// It stands as it should.
    stands: bool,
    /// What it is made of on this kernel, or why it is missing.
    by: String,
}

/// What an operator sees.
#[derive(Debug, Serialize, JsonSchema)]
pub struct StatusAnswer {
    /// The daemon's version.
    pub version: &'static str,
    /// The log's name.
    pub origin: String,
    /// Ready, and part by part why or why not.
    pub readiness: Readiness,
    /// Every service, in the process and upstream.
    pub services: Vec<ServiceLine>,
    /// Keys that are not as they should be in the token, at most 100 of them, those that sign nothing first.
    pub keys: Vec<KeyShown>,
    /// Whether the ledger takes writes, and if not, what was expected and found.
    pub ledger: String,
    /// Entries in the log.
    pub entries: u64,
    /// Entries that no checkpoint covers yet.
    pub unsealed_entries: u64,
}

impl Status {
    /// Over the parts it tells of.
    pub fn new(
        health: Health,
        metrics: Metrics,
        tokens: Tokens,
        ledger: Ledger,
        router: Arc<Router>,
        traces: Traces,
        conditions: Conditions,
    ) -> Self {
        Self { health, metrics, tokens, ledger, router, traces, conditions }
    }

    /// The figures of services and traces, as they are when somebody asks.
    #[expect(clippy::cast_precision_loss, reason = "figures on a dashboard")]
    fn refresh(&self) {
        self.metrics.clear_services();
        for line in self.health.services() {
            let set = |figure, value| self.metrics.set_service(&line.service, figure, value);
            set("isolated", f64::from(u8::from(line.code != "serves")));
            set("in_flight", line.in_flight as f64);
            set("waiting", line.waiting as f64);
            set("trips", line.trips as f64);
            set("refused", line.refused as f64);
        }
        for upstream in self.router.upstreams() {
            let (out, retries) = upstream.figures();
            let set =
                |figure, value| self.metrics.set_service(upstream.config().name.as_str(), figure, value);
            set("endpoints_out", out as f64);
            set("retries", retries as f64);
        }
        self.metrics.set("traces", "not_exported", self.traces.dropped() as f64);
    }

    fn answer(&self) -> StatusAnswer {
        let health = self.ledger.health();
        let ledger = match &health.standing {
            Standing::Frozen(freeze) => format!("frozen: {freeze}"),
            Standing::Open => "open".to_owned(),
            Standing::Unverified => "not yet verified".to_owned(),
            Standing::Lost => "the disk failed; restart the daemon to find out what is durable".to_owned(),
            Standing::Closed => "closed".to_owned(),
        };
        StatusAnswer {
            version: env!("CARGO_PKG_VERSION"),
            origin: self.ledger.origin().to_owned(),
            readiness: self.health.readiness(true),
            services: self.health.services(),
            keys: self.conditions.list(),
            ledger,
            entries: health.entries,
            unsealed_entries: health.unanchored_rows,
        }
    }
}

impl Figures for Status {
    fn metrics(&self) -> String {
        self.refresh();
        self.metrics.text()
    }

    fn readiness(&self) -> (bool, Vec<u8>) {
        let readiness = self.health.readiness(false);
        (readiness.ready, serde_json::to_vec(&readiness).unwrap_or_default())
    }
}

/// The status routes, and the description of these and all other routes together.
pub fn own_routes(status: &Arc<Status>, others: &[Route]) -> Vec<Route> {
    let to = || Arc::clone(status);
    let mut routes = vec![
        Route::get("/health/live").guard::<Open>().says("The daemon runs").gives_status(204).to(to(), live),
        Route::get("/health/ready")
            .guard::<Open>()
            .says("Ready: the token signed, the ledger wrote, the anchor agrees")
            .gives::<Readiness>(200)
            .or_gives::<Readiness>(503, "Not ready, and why; or a problem document, if nobody could look")
            .to(to(), ready),
        Route::get("/v1/status")
            .guard::<OperatorOnly>()
            .says("How the appliance is, and why")
            .gives::<StatusAnswer>(200)
            .to(to(), show),
        Route::get("/v1/token")
            .guard::<OperatorOnly>()
            .says("What the token and the TPM can do")
            .gives::<Vec<ProbeAnswer>>(200)
            .gives_text(&["text/plain"])
            .to(to(), token),
        Route::get("/v1/routes")
            .guard::<OperatorOnly>()
            .says("The routes: prefixes, services, guards, breakers")
            .gives::<RouteList>(200)
            .to(to(), routes_of),
        Route::get("/v1/routes/explain")
            .guard::<OperatorOnly>()
            .asks::<ExplainQuery>()
            .says("Where a request would go, and why")
            .gives::<Explanation>(200)
            .to(to(), explain),
        Route::get("/metrics")
            .guard::<OperatorOnly>()
            .says("Figures for Prometheus")
            .gives_text(&["application/openmetrics-text"])
            .to(to(), metrics),
    ];
    let described = Arc::new(std::sync::OnceLock::<Bytes>::new());
    let describe = Route::get("/v1/openapi.json")
        .guard::<Open>()
        .says("This description")
        .gives::<serde_json::Map<String, serde_json::Value>>(200)
        .to(Arc::clone(&described), description);
    routes.push(describe);
    let all: Vec<Route> = others.iter().chain(&routes).cloned().collect();
    // Set once, from the very routes that are served.
    let _ = described.set(Bytes::from(openapi(&all).to_string()));
    routes
}

async fn live(_: Arc<Status>, (): (), (): (), _: Exchange) -> Result<Reply, Problem> {
    Ok(Reply::empty())
}

async fn ready(status: Arc<Status>, (): (), (): (), ex: Exchange) -> Result<Reply, Problem> {
    // On the local socket there is no address, and whoever gets in there may know why.
    let readiness = status.health.readiness(ex.origin.ip.is_none());
    Reply::json(if readiness.ready { 200 } else { 503 }, &readiness)
}

async fn show(status: Arc<Status>, _: OperatorPermit, (): (), _: Exchange) -> Result<Reply, Problem> {
    Reply::json(200, &status.answer())
}

async fn token(status: Arc<Status>, _: OperatorPermit, (): (), ex: Exchange) -> Result<Reply, Problem> {
    let probes = std::iter::once(&status.tokens.keys).chain(&status.tokens.tpm).map(hsm::Token::probe);
    let probes: Vec<_> = probes.collect();
    match ex.wants_text {
        true => Ok(Reply::text(
            "text/plain; charset=utf-8",
            probes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
        )),
        false => Reply::json(200, &probes.iter().map(AsRef::as_ref).collect::<Vec<&hsm::Probe>>()),
    }
}

async fn routes_of(status: Arc<Status>, _: OperatorPermit, (): (), _: Exchange) -> Result<Reply, Problem> {
    Reply::json(200, &status.router.list())
}

async fn explain(status: Arc<Status>, _: OperatorPermit, (): (), ex: Exchange) -> Result<Reply, Problem> {
    let query: ExplainQuery = ex.query()?;
    let method = query.method.unwrap_or_else(|| "GET".to_owned()).to_ascii_uppercase();
    Reply::json(200, &status.router.explain(&method, &query.path))
}

async fn metrics(status: Arc<Status>, _: OperatorPermit, (): (), _: Exchange) -> Result<Reply, Problem> {
    Ok(Reply::text("application/openmetrics-text; version=1.0.0; charset=utf-8", Figures::metrics(&*status)))
}

async fn description(
    text: Arc<std::sync::OnceLock<Bytes>>,
    (): (),
    (): (),
    _: Exchange,
) -> Result<Reply, Problem> {
    Ok(Reply::text("application/json", text.get().cloned().unwrap_or_default()))
}
