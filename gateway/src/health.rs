//! How the appliance is: what was proven a moment ago, not what is hoped.
//! Who enters: rounds that sign, writes and looks; probes that ask.
//! What leaves: live or not, ready or not with reasons, and the same as figures.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use audit::{Ledger, Standing};
use hsm::{Token, TokenState};
use schemars::JsonSchema;
use serde::Serialize;

use crate::appliance::{Tokens, store};
use crate::ca::authorities::Authorities;
use crate::compartments::{Compartments, Kind, Seen, breaker};
use crate::hardware::SealKey;
use crate::metrics::Metrics;
use crate::moment::Moment;
use crate::sealing::Keeper;
use crate::services::ground::Ground;
use crate::services::keys::conditions::Conditions;
use crate::signer::SigningKey;

/// One part and how it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Part {
    /// `token`, `tpm`, `ledger`, `anchor`, `sandbox`, `certificates`, `daemon`; `workflows` while some are stuck, `keys` while some are not
    /// as they should be in the token, `clock` while it is not to be relied on.
    pub part: &'static str,
    /// Fit for service.
    pub ready: bool,
    /// A stable word for programs.
    pub code: &'static str,
    /// Words for people; on the local socket only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// A service, in the process or upstream, and how its compartment stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ServiceLine {
    /// Its name.
    pub service: String,
    /// Where it is.
    pub kind: Kind,
    /// `serves`, `isolated`, `probing` or `recovering`: stable words for programs.
    pub code: &'static str,
    /// Workspaces for which it is isolated or being tried out, while it serves others.
    pub isolated_workspaces: usize,
    /// While isolated: milliseconds until it is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_in_ms: Option<u64>,
    /// Calls under way.
    pub in_flight: usize,
    /// Calls waiting for a place.
    pub waiting: usize,
    /// How often it was isolated since the start.
    pub trips: u64,
    /// Calls that were refused since the start.
    pub refused: u64,
}

/// All parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Readiness {
    /// Every part is ready. A service that is isolated does not count: the others keep answering.
    pub ready: bool,
    /// The parts.
    pub parts: Vec<Part>,
    /// Services that do not serve as they should at this moment.
    pub services: Vec<ServiceLine>,
}

/// What the last round found; cheap to clone.
#[derive(Clone)]
pub struct Health {
    latest: Arc<RwLock<Readiness>>,
    compartments: Compartments,
}

/// What a round looks at.
pub struct Probes {
    /// The ledger and the time.
    pub ground: Ground,
    /// The tokens.
    pub tokens: Tokens,
    /// A key of the appliance, to sign with.
    pub key: Arc<SigningKey>,
    /// Where and how it signs.
    pub seal: SealKey,
    /// The keeper of the seal.
    pub keeper: Keeper,
    /// The CAs, and what the server shows.
    pub authorities: Authorities,
    /// How the keys stand in the token.
    pub conditions: Conditions,
    /// Figures.
    pub metrics: Metrics,
}

/// Half a year to give every client another CA.
const CA_ENDS_SOON: Duration = Duration::from_secs(180 * 24 * 3600);
/// Its own certificate the server renews a month ahead; one that is this near its end was not renewed.
const SERVER_ENDS_SOON: Duration = Duration::from_secs(14 * 24 * 3600);
const PROBE_WAIT_MAX: Duration = Duration::from_secs(5);

impl Health {
    /// Of a house that is starting.
    pub fn of(compartments: Compartments) -> Self {
        let starting = Part { part: "daemon", ready: false, code: "starting", detail: None };
        let readiness = Readiness { ready: false, parts: vec![starting], services: Vec::new() };
        Self { latest: Arc::new(RwLock::new(readiness)), compartments }
    }

    /// Every service as it stands at this moment.
    pub fn services(&self) -> Vec<ServiceLine> {
        self.compartments.seen().into_iter().map(ServiceLine::from).collect()
    }

    /// What the last round found; without words for people unless they are asked for.
    pub fn readiness(&self, with_detail: bool) -> Readiness {
        let mut readiness = self.latest.read().unwrap_or_else(PoisonError::into_inner).clone();
        // As they stand now, not as the last round saw them: a breaker opens and closes between two rounds.
        readiness.services = self.services().into_iter().filter(|line| line.code != "serves").collect();
        if !with_detail {
            readiness.parts.iter_mut().for_each(|part| part.detail = None);
        }
        readiness
    }

    /// The daemon is on its way out.
    pub fn stopping(&self) {
        let part = Part { part: "daemon", ready: false, code: "stopping", detail: None };
        self.put(Readiness { ready: false, parts: vec![part], services: Vec::new() });
    }

    /// One round.
    pub async fn look(&self, probes: &Probes) {
        // Side by side, so that a round takes no longer than its slowest part: it feeds the watchdog.
        let tpm = async {
            match &probes.tokens.tpm {
                Some(tpm) => Some(answers("tpm", tpm).await),
                None => None,
            }
        };
        let (token, ledger, tpm, stuck) =
            tokio::join!(probes.token(), probes.ledger(), tpm, probes.stuck_workflows());
        let parts: Vec<Part> = [
            Some(token),
            Some(ledger),
            Some(probes.anchor()),
            tpm,
            probes.sandbox(),
            probes.certificates(),
            probes.clock(),
            probes.keys(),
            stuck,
        ]
        .into_iter()
        .flatten()
        .collect();
        probes.figures(&parts);
        let ready = parts.iter().all(|part| part.ready);
        self.put(Readiness { ready, parts, services: Vec::new() });
    }

    fn put(&self, readiness: Readiness) {
        let mut latest = self.latest.write().unwrap_or_else(PoisonError::into_inner);
        let code = |readiness: &Readiness| {
            readiness.parts.iter().find(|part| part.part == "certificates").map(|part| part.code)
        };
        if code(&latest) != code(&readiness)
            && let Some(part) =
                readiness.parts.iter().find(|part| part.part == "certificates" && part.code != "valid")
        {
            tracing::warn!(
                code = part.code,
                detail = part.detail,
                "a certificate ends soon or does not hold"
            );
        }
        if latest.ready != readiness.ready {
            tracing::info!(ready = readiness.ready, parts = ?readiness.parts, "readiness changed");
        }
        *latest = readiness;
    }
}

impl Probes {
    /// Ready means that the token has just made a signature, and that it verifies.
    async fn token(&self) -> Part {
        let state = state_of("token", &self.tokens.keys);
        if !state.ready {
            return state;
        }
        // Never a checkpoint: those are three lines, and this is one.
        let text = format!("chancery.probe.v1 {}", hex::encode(self.ground.dice.throw::<16>()));
        let input = hsm::SignInput::Message(text.into_bytes());
        let deadline = Instant::now() + PROBE_WAIT_MAX;
        match self.seal.token.sign(&self.seal.key, self.seal.scheme, input.clone(), deadline).await {
            Ok(raw) => match self.key.pinned.verify(self.seal.scheme, &input, &raw) {
                Ok(()) => {
                    let detail = self.tokens.keys.probe().litter();
                    Part { part: "token", ready: true, code: "signs", detail }
                }
                Err(why) => Part {
                    part: "token",
                    ready: false,
                    code: "wrong_signature",
                    detail: Some(why.to_string()),
                },
            },
            Err(why) => {
                Part { part: "token", ready: false, code: "does_not_sign", detail: Some(why.to_string()) }
            }
        }
    }

    /// Ready means that a write has just been made durable.
    async fn ledger(&self) -> Part {
        let part = |ready, code, detail| Part { part: "ledger", ready, code, detail };
        match self.ground.ledger.health().standing {
            Standing::Frozen(freeze) => return part(false, "frozen", Some(freeze.to_string())),
            Standing::Lost => {
                return part(
                    false,
                    "disk_failed",
                    Some("restart the daemon to find out what is durable".into()),
                );
            }
            Standing::Unverified => return part(false, "not_yet_verified", None),
            Standing::Closed => return part(false, "closed", None),
            Standing::Open => {}
        }
        let now = Moment::now(self.ground.clock.as_ref()).micros();
        let write = self
            .ground
            .ledger
            .write_unaudited("the heartbeat that readiness rests on", move |tx| store::beat(tx, now));
        match write.await {
            Ok(()) => part(true, "writes", None),
            Err(why) => part(false, "does_not_write", Some(why.to_string())),
        }
    }

    /// Shown only while the clocks disagree, or did a short while ago: then nothing irreversible is begun.
    fn clock(&self) -> Option<Part> {
        let left = self.ground.runner.engine().ok()?.time().unsettled_us()?;
        let minutes = left.div_ceil(60_000_000);
        let detail = format!(
            "the wall clock jumped against the machine's uptime; what cannot be undone waits {minutes} more minutes, and \
             notices go on by the uptime. Look after the time server"
        );
        Some(Part { part: "clock", ready: true, code: "unsettled", detail: Some(detail) })
    }

    /// Keys that are not as they should be in the token, if there are any. The others sign, so this is no lack of readiness.
    fn keys(&self) -> Option<Part> {
        let (unusable, others) = self.conditions.count();
        self.metrics.set("keys", "unusable", as_figure(unusable as u64));
        self.metrics.set("keys", "faulty", as_figure(others as u64));
        let code = match (unusable, others) {
            (0, 0) => return None,
            (0, _) => "faulty",
            _ => "unusable",
        };
        let detail = format!(
            "{unusable} keys sign nothing, and of {others} others the token holds something that does not belong there; \
             `chancery status` lists them"
        );
        Some(Part { part: "keys", ready: true, code, detail: Some(detail) })
    }

    /// Workflows that need a person, if there are any. Everything else goes on without them, so this is no lack of
    /// readiness, but nobody should have to look for it.
    async fn stuck_workflows(&self) -> Option<Part> {
        let stuck = self.ground.runner.engine().ok()?.stuck().await.ok()?;
        let total: u64 = stuck.iter().map(|(_, count)| count).sum();
        self.metrics.set("workflows", "stuck", as_figure(total));
        let names: Vec<_> = stuck.iter().map(|(workflow, count)| format!("{workflow}: {count}")).collect();
        let detail = Some(format!("{}; `chancery saga list` shows them", names.join(", ")));
        (total > 0).then_some(Part { part: "workflows", ready: true, code: "stuck", detail })
    }

    /// The server's certificate and its CAs: whether they hold, and until when. Months before an end, so that clients can be given
    /// another CA in peace.
    fn certificates(&self) -> Option<Part> {
        let (now, line) = (Moment::now(self.ground.clock.as_ref()), self.authorities.present());
        let server = self.authorities.shown()?;
        let mut words = vec![format!("server until {}", server.until)];
        words.extend(
            line.trusted()
                .map(|one| format!("CA {:.8} until {}", one.fingerprint().to_string(), one.not_after())),
        );
        let ca_holds = line.client_issuer().validity().holds(now);
        let ends = line
            .trusted()
            .map(|one| (one.not_after(), CA_ENDS_SOON))
            .chain([(server.until, SERVER_ENDS_SOON)]);
        let soon = ends.into_iter().any(|(end, notice)| end <= now.plus(notice));
        let (ready, code) = match (server.holds(now), ca_holds, soon) {
            (false, _, _) => (false, "server_not_valid"),
            (true, false, _) => (false, "ca_ended"),
            (true, true, true) => (true, "ends_soon"),
            (true, true, false) => (true, "valid"),
        };
        if code != "valid" {
            words.push("`chancery ca rotate` makes another CA".to_owned());
        }
        Some(Part { part: "certificates", ready, code, detail: Some(words.join("; ")) })
    }

    /// The walls round the workers. One that is missing was openly done without, so it is shown rather than refused.
    fn sandbox(&self) -> Option<Part> {
        let mut words = Vec::new();
        let mut whole = true;
        for (which, token) in self.tokens.each() {
            for wall in &token.probe().walls {
                whole &= wall.stands;
                let stands = if wall.stands { "" } else { "MISSING, " };
                words.push(format!("{which}, {}: {stands}{}", wall.name, wall.by));
            }
        }
        let code = if whole { "closed" } else { "weaker" };
        let detail = Some(words.join("; "));
        (!words.is_empty()).then_some(Part { part: "sandbox", ready: true, code, detail })
    }

    fn anchor(&self) -> Part {
        let tier = self.keeper.tier().map_or("none", |tier| tier.as_str());
        let refusal = self.keeper.last_refusal();
        let (ready, code) = match (self.ground.ledger.health().standing, &refusal) {
            // Entries are still written, for a while; then nothing is, so somebody should look now.
            (Standing::Open, Some(_)) => (true, "not_sealed"),
            (Standing::Open, None) => (true, "agrees"),
            (Standing::Unverified, _) => (false, "not_yet_read"),
            _ => (false, "does_not_agree"),
        };
        let why = refusal.map(|why| format!("; the last seal did not come about: {why}"));
        Part { part: "anchor", ready, code, detail: Some(format!("tier {tier}{}", why.unwrap_or_default())) }
    }

    fn figures(&self, parts: &[Part]) {
        for part in parts {
            self.metrics.set(part.part, "ready", f64::from(u8::from(part.ready)));
        }
        figures_of(&self.ground.ledger, &self.metrics);
        self.metrics.set("anchor", "seals_refused", as_figure(self.keeper.refused()));
        self.metrics.set("ledger", "examinations", as_figure(self.keeper.examinations()));
    }
}

impl From<Seen> for ServiceLine {
    fn from(seen: Seen) -> Self {
        let code = match seen.standing {
            None | Some(breaker::Standing::Closed) => "serves",
            Some(breaker::Standing::Open) => "isolated",
            Some(breaker::Standing::HalfOpen) => "probing",
            Some(breaker::Standing::Ramping) => "recovering",
        };
        let retry_in_ms = seen.pause.map(|pause| u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
        Self {
            service: seen.name,
            kind: seen.kind,
            code,
            isolated_workspaces: seen.isolated,
            retry_in_ms,
            in_flight: seen.in_flight,
            waiting: seen.waiting,
            trips: seen.trips,
            refused: seen.refused,
        }
    }
}

fn figures_of(ledger: &Ledger, metrics: &Metrics) {
    let health = ledger.health();
    metrics.set("ledger", "entries", as_figure(health.entries));
    metrics.set("ledger", "commits", as_figure(health.commits));
    metrics.set("ledger", "syncs", as_figure(health.syncs));
    metrics.set("ledger", "unanchored_entries", as_figure(health.unanchored_rows));
    metrics.set("ledger", "unanchored_seconds", health.unanchored_for.as_secs_f64());
    metrics.set("ledger", "queued_writes", as_figure(health.queued_writes as u64));
    metrics.set("ledger", "write_ahead_log_bytes", as_figure(health.wal_bytes));
    metrics.set("ledger", "write_ahead_log_restarts", as_figure(health.wal_restarts));
}

/// Figures are floats; counts beyond 2^53 lose their last digits, which no one will miss.
#[expect(clippy::cast_precision_loss, reason = "a figure on a dashboard")]
fn as_figure(count: u64) -> f64 {
    count as f64
}

/// Ready means that it has just answered: nobody may have asked it anything since the last seal.
async fn answers(part: &'static str, token: &Token) -> Part {
    const BYTES: usize = 8;
    let state = state_of(part, token);
    if !state.ready {
        return state;
    }
    match token.random(BYTES, Instant::now() + PROBE_WAIT_MAX).await {
        Ok(_) => state,
        Err(why) => Part { part, ready: false, code: "does_not_answer", detail: Some(why.to_string()) },
    }
}

fn state_of(part: &'static str, token: &Token) -> Part {
    match token.state() {
        TokenState::Ready { .. } => Part { part, ready: true, code: "answers", detail: None },
        TokenState::Down { why, .. } => Part { part, ready: false, code: "away", detail: Some(why) },
        TokenState::Refused { why } => {
            Part { part, ready: false, code: "refused", detail: Some(why.to_string()) }
        }
    }
}
