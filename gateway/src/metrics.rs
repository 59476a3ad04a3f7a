//! Figures for Prometheus: what was answered, how long it took, how the token and the ledger stand.
//! Who enters: the gate, the signer and the health loop, with numbers.
//! What leaves: the text of the exposition format (OpenMetrics 1.0), on the local socket.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Answered {
    route: &'static str,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

/// All figures; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    answered: Family<Answered, Counter>,
    took: Family<RouteLabel, Histogram>,
    signatures: Family<Kind, Counter>,
    refused_signatures: Counter,
    spent: Family<PartLabel, Counter<f64, AtomicU64>>,
    gauges: Family<GaugeLabel, Gauge<f64, AtomicU64>>,
    workflows: Family<WorkflowLabel, Counter>,
    stuck: Family<NameLabel, Gauge>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WorkflowLabel {
    workflow: String,
    what: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct NameLabel {
    workflow: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteLabel {
    route: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PartLabel {
    part: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct GaugeLabel {
    part: &'static str,
    figure: &'static str,
}

fn buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.000_25, 2.0, 16))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("chancery");
        let answered = Family::<Answered, Counter>::default();
        let took = Family::<RouteLabel, Histogram>::new_with_constructor(buckets);
        let signatures = Family::<Kind, Counter>::default();
        let refused_signatures = Counter::default();
        let spent = Family::<PartLabel, Counter<f64, AtomicU64>>::default();
        let gauges = Family::<GaugeLabel, Gauge<f64, AtomicU64>>::default();
        registry.register("requests", "Requests answered", answered.clone());
        registry.register("request_seconds", "From the first byte of the head to the answer", took.clone());
        registry.register("signatures", "Signatures handed out, each verified", signatures.clone());
        registry.register(
            "signatures_refused",
            "Token signatures that did not verify and were withheld",
            refused_signatures.clone(),
        );
        registry.register("part_seconds", "Time that parts took which never wait", spent.clone());
        registry.register("state", "How the parts stand", gauges.clone());
        let workflows = Family::<WorkflowLabel, Counter>::default();
        let stuck = Family::<NameLabel, Gauge>::default();
        registry.register("workflows", "Workflows started and ended, by outcome", workflows.clone());
        registry.register("workflows_stuck", "Workflows that need a person", stuck.clone());
        Self {
            registry: Arc::new(Mutex::new(registry)),
            answered,
            took,
            signatures,
            refused_signatures,
            spent,
            gauges,
            workflows,
            stuck,
        }
    }
}

impl Metrics {
    /// A request was answered.
    pub fn answered(&self, route: &'static str, status: u16, took: Duration) {
        self.answered.get_or_create(&Answered { route, status }).inc();
        self.took.get_or_create(&RouteLabel { route }).observe(took.as_secs_f64());
    }

    /// A signature left the house.
    pub fn signed(&self, kind: &'static str) {
        self.signatures.get_or_create(&Kind { kind }).inc();
    }

    /// The token gave a signature that does not verify.
    pub fn withheld(&self) {
        self.refused_signatures.inc();
    }

    /// A part that never waits took so long: on an idle processor this is its share of the work.
    pub fn spent(&self, part: &'static str, took: Duration) {
        self.spent.get_or_create(&PartLabel { part }).inc_by(took.as_secs_f64());
    }

    /// A workflow was started, or ended in this way.
    pub fn workflow(&self, workflow: &str, what: &'static str) {
        self.workflows.get_or_create(&WorkflowLabel { workflow: workflow.to_owned(), what }).inc();
    }

    /// A workflow needs a person, or no longer does.
    pub fn workflow_stuck(&self, workflow: &str, stuck: bool) {
        let gauge = self.stuck.get_or_create(&NameLabel { workflow: workflow.to_owned() });
        if stuck {
            gauge.inc()
        } else {
            gauge.dec()
        };
    }

    /// Sets a figure of a part.
    pub fn set(&self, part: &'static str, figure: &'static str, value: f64) {
        self.gauges.get_or_create(&GaugeLabel { part, figure }).set(value);
    }

    /// The exposition text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        match prometheus_client::encoding::text::encode(&mut text, &registry) {
            Ok(()) => text,
            Err(_) => String::new(),
        }
    }
}
