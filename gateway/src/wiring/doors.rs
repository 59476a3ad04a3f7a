//! The doors of the house: which service answers where, in which compartment, behind which gate.
//! Who enters: the wiring, with the services built; a reload, with other upstreams.
//! What leaves: one router, and a gate for each listener; or why the routes cannot be served together.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{House, Unbuilt};
use crate::again::Again;
use crate::api::Route;
use crate::appliance::Tokens;
use crate::boundary::drain::Register;
use crate::boundary::gate::{Gate, GateParts};
use crate::compartments::breaker::Policy;
use crate::compartments::{Bounds, Compartments, Kind};
use crate::config::{Config, TracesConfig};
use crate::dial::{Dialer, TrustFiles, TrustRefused};
use crate::dice::Dice;
use crate::events::{self, Events};
use crate::following::{self, Following, TraceSource};
use crate::health::Health;
use crate::leases::{self, Leases};
use crate::limits::{CONNECT_WAIT_MAX, EXPORT_QUEUE_MAX, SERVICE_IN_FLIGHT_MAX, SERVICE_QUEUE_MAX};
use crate::metrics::Metrics;
use crate::routing::{Room, Router, Unroutable};
use crate::runs::{self, Runs};
use crate::services;
use crate::services::audit::Audit;
use crate::services::devices::Devices;
use crate::services::ground::Ground;
use crate::services::keys::Keys;
use crate::services::resealing::Resealing;
use crate::services::roster::Roster;
use crate::services::signing::Signing;
use crate::services::succession::Succession;
use crate::services::workspaces::Workspaces;
use crate::status::{self, Status};
use crate::traces::otlp::Collector;
use crate::traces::{Lines, Traces};
use crate::upstream::Upstream;
use crate::upstream::settings::UpstreamConfig;

/// The services, built.
pub(super) struct Services<'a> {
    pub(super) workspaces: &'a Arc<Workspaces>,
    pub(super) devices: &'a Arc<Devices>,
    pub(super) succession: &'a Arc<Succession>,
    pub(super) resealing: &'a Arc<Resealing>,
    pub(super) runs: &'a Arc<Runs>,
    pub(super) events: &'a Arc<Events>,
    pub(super) leases: &'a Arc<Leases>,
    pub(super) keys: &'a Arc<Keys>,
    pub(super) signing: &'a Arc<Signing>,
    pub(super) audit: &'a Arc<Audit>,
    pub(super) health: &'a Health,
    pub(super) tokens: &'a Tokens,
}

/// What doors are made of.
pub(super) struct Doors<'a> {
    pub(super) config: &'a Config,
    pub(super) ground: &'a Ground,
    pub(super) roster: &'a Roster,
    pub(super) register: &'a Register,
    pub(super) metrics: &'a Metrics,
    pub(super) compartments: &'a Compartments,
    pub(super) again: &'a Again,
    pub(super) traces: &'a Traces,
    pub(super) lines: &'a Lines,
}

/// Why other upstreams cannot be served. Those that are served stay.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamsRefused {
    /// The certificates of one cannot be used.
    #[error("the upstream `{name}` cannot be spoken to")]
    Trust {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: TrustRefused,
    },
    /// Two claim one prefix.
    #[error(transparent)]
    Routes(#[from] Unroutable),
}

/// What came of opening.
pub(super) struct Opened {
    pub(super) router: Arc<Router>,
    pub(super) status: Arc<Status>,
    /// Of the API listener and of the local socket.
    pub(super) gates: [Arc<Gate>; 2],
}

impl Doors<'_> {
    /// One router for all listeners, and a gate for each.
    pub(super) fn open(&self, services: &Services<'_>) -> Result<Opened, Unbuilt> {
        let router = Arc::new(Router::default());
        let status = self.status(services, &router);
        let rooms = self.rooms(services, &status)?;
        let upstreams = upstreams(&self.config.upstreams, self.compartments, &self.ground.dice)?;
        router.serve(rooms, &upstreams).map_err(UpstreamsRefused::from)?;
        let gates = [self.gate(&router), self.gate(&router)];
        Ok(Opened { router, status, gates })
    }

    fn status(&self, services: &Services<'_>, router: &Arc<Router>) -> Arc<Status> {
        Arc::new(Status::new(
            services.health.clone(),
            self.metrics.clone(),
            services.tokens.clone(),
            self.ground.ledger.clone(),
            Arc::clone(router),
            self.traces.clone(),
            services.keys.conditions(),
        ))
    }

    /// Each service with its routes, in its compartment. The description is made of all of them.
    fn rooms(&self, services: &Services<'_>, status: &Arc<Status>) -> Result<Vec<Arc<Room>>, Unroutable> {
        let sources: Vec<Arc<dyn TraceSource>> = vec![services.audit.clone(), services.runs.clone()];
        let following = Arc::new(Following::new(self.traces.clone(), self.lines.clone(), sources));
        let own: Vec<(&'static str, Vec<Route>)> = vec![
            ("workspaces", services::workspaces::routes::routes(services.workspaces)),
            ("devices", services::devices::routes::routes(services.devices)),
            ("succession", services::succession::routes::routes(services.succession)),
            ("resealing", services::resealing::routes::routes(services.resealing)),
            ("workflows", runs::routes::routes(services.runs)),
            // Apart from the workflows: whoever waits for what happens takes no place from what does.
            ("events", events::routes::routes(services.events)),
            ("locks", leases::routes::routes(services.leases)),
            ("keys", services::keys::routes::routes(services.keys)),
            ("signing", services::signing::routes::routes(services.signing)),
            ("audit", services::audit::routes::routes(services.audit)),
            ("following", following::routes(&following)),
        ];
        let described: Vec<Route> = own.iter().flat_map(|(_, routes)| routes.iter().cloned()).collect();
        let mut rooms = vec![self.room("status", None, status::own_routes(status, &described))?];
        for (name, routes) in own {
            rooms.push(self.room(name, Some(Policy::default()), routes)?);
        }
        Ok(rooms)
    }

    fn room(
        &self,
        name: &'static str,
        breaker: Option<Policy>,
        routes: Vec<Route>,
    ) -> Result<Arc<Room>, Unroutable> {
        let bounds = Bounds { in_flight_max: SERVICE_IN_FLIGHT_MAX, queue_max: SERVICE_QUEUE_MAX, breaker };
        let compartment = self.compartments.keep_or_make(name, Kind::InProcess, bounds, &self.ground.dice);
        Ok(Room::new(name, compartment, routes)?)
    }

    fn gate(&self, router: &Arc<Router>) -> Arc<Gate> {
        Arc::new(Gate::new(GateParts {
            router: Arc::clone(router),
            again: self.again.clone(),
            directory: Arc::new(self.roster.clone()),
            register: self.register.clone(),
            dice: self.ground.dice.clone(),
            clock: Arc::clone(&self.ground.clock),
            metrics: self.metrics.clone(),
            traces: self.traces.clone(),
            workspace_quota: self.config.rates.workspace,
            address_quota: self.config.rates.address,
            trusted_proxies: self.config.api.trusted_proxies.clone(),
        }))
    }
}

/// Journeys are kept in any case; with a collector the recorded ones are also sent there.
pub(super) fn traces(config: &TracesConfig) -> Result<Traces, UpstreamsRefused> {
    let Some(Ok((place, path))) = config.collector() else { return Ok(Traces::default()) };
    let refused = |source| UpstreamsRefused::Trust { name: "traces.otlp".to_owned(), source };
    let files = TrustFiles { ca: config.otlp_ca.clone(), ..TrustFiles::default() };
    let dialer = match place.secure {
        true => Dialer::secure(&files, b"http/1.1", CONNECT_WAIT_MAX).map_err(refused)?,
        false => Dialer::plain(CONNECT_WAIT_MAX),
    };
    let (queue, exported) = mpsc::channel(EXPORT_QUEUE_MAX);
    // Ends by itself when the last gate has gone, and with it the queue.
    tokio::spawn(Collector { place, path, dialer }.run(exported));
    Ok(Traces::exporting(queue, config.recorded_per_second_max))
}

/// Upstreams made ready, in compartments that keep their history where nothing changed.
fn upstreams(
    configs: &[UpstreamConfig],
    compartments: &Compartments,
    dice: &Dice,
) -> Result<Vec<Arc<Upstream>>, UpstreamsRefused> {
    let ready = |config: &UpstreamConfig| {
        let name = config.name.to_string();
        let made = Upstream::new(config.clone(), compartments, dice);
        made.map_err(|source| UpstreamsRefused::Trust { name, source })
    };
    configs.iter().map(ready).collect()
}

impl House {
    /// Serves these upstreams from now on; requests under way end as they began.
    ///
    /// # Errors
    /// One cannot be served; then all stay as they were.
    pub fn serve_upstreams(&self, configs: &[UpstreamConfig]) -> Result<(), UpstreamsRefused> {
        // Status, metrics and readiness go on telling of what serves until the new ones do.
        let staged = self.compartments.staged();
        let ready = upstreams(configs, &staged, &self.ground.dice)?;
        self.router.serve_upstreams(&ready)?;
        let names: Vec<&str> = configs.iter().map(|config| config.name.as_str()).collect();
        staged.forget_upstreams_but(&names);
        self.compartments.adopt(&staged);
        Ok(())
    }
}
