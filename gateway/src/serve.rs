//! Serving: the built house opens its doors, keeps them until it is told to stop, and leaves nobody half answered.
//! Who enters: the command line, with a house; signals; the service manager.
//! What leaves: a clean end. SIGHUP and a change of the CAs give the server another face, SIGTERM drains.

use std::io;
use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use crate::boundary::listen::Listener;
use crate::boundary::monitoring::{Figures, Monitoring};
use crate::boundary::tls::TlsFace;
use crate::config::Config;
use crate::face::{self, FaceUnmade};
use crate::housekeeping::Housekeeping;
use crate::limits::{DRAIN_WAIT_MAX, RUNTIME_THREADS_MIN};
use crate::services::keys::conditions::Examination;
use crate::traces::Lines;
use crate::wiring::House;

mod waiting;

pub use waiting::StartRefused;
use waiting::{SocketTask, Started};

/// Why the doors did not open.
#[derive(Debug, thiserror::Error)]
pub enum ServeRefused {
    /// An address or the socket cannot be bound.
    #[error("cannot listen on {what}")]
    Listen {
        /// Address or path.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The server has no certificate.
    #[error("the server has no usable certificate")]
    Face(#[from] FaceUnmade),
    /// Signals cannot be heard.
    #[error("signals cannot be heard")]
    Signals(#[source] io::Error),
}
/// The face is looked at this often; a self-issued one is made anew well before it ends.
const FACE_LOOKED_AT_EVERY: Duration = Duration::from_secs(24 * 3600);

/// The threads of the daemon. Everything that waits for a moment needs one of them that is free, the watchdog's food as well:
/// a daemon whose threads are all blocked is killed and started anew by the service manager.
///
/// # Errors
/// The machine gives no threads.
pub fn runtime() -> io::Result<Runtime> {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).max(RUNTIME_THREADS_MIN);
    Builder::new_multi_thread().worker_threads(threads).enable_all().build()
}

/// Starts, waiting for what is late, and serves until told to stop. `ready` is called once with the API's address.
///
/// # Errors
/// There is no house, or its doors did not open.
pub async fn run(config: &Config, lines: Lines, ready: impl FnOnce(SocketAddr)) -> Result<(), StartRefused> {
    let mut signals = Signals::listen()?;
    let socket = SocketTask::default();
    let started = tokio::select! {
        started = waiting::start(config, lines, socket.clone()) => started.map(Some),
        () = signals.stop() => Ok(None),
    };
    let served = match started {
        Ok(Some(started)) => {
            serve(config, started, &mut signals, &socket, ready).await.map_err(StartRefused::from)
        }
        Ok(None) => Ok(()),
        Err(refused) => Err(refused),
    };
    socket.stop().await;
    served
}

async fn serve(
    config: &Config,
    started: Started,
    signals: &mut Signals,
    socket: &SocketTask,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), ServeRefused> {
    let Started { house, tls, door } = started;
    let listener = Listener::bind(config.api.listen, tls.clone(), house.api.clone(), house.register.clone());
    let listener = listener.await.map_err(|source| listen_refused(&config.api.listen, source))?;
    let address = listener.address().map_err(|source| listen_refused(&config.api.listen, source))?;
    let monitoring = watched(config, &house).await?;
    let House { ground, tokens, keeper, register, health, probes, keys, workspaces, succession, .. } = &house;
    if let Err(why) = succession.recover().await {
        tracing::warn!(%why, "a certificate authority left on order is settled by the next rotation or start");
    }
    if let Err(why) = keys.check_counters().await {
        tracing::warn!(%why, "use counters could not be held against the ledger");
    }
    health.look(probes).await;
    let stopping = register.stopping().clone();
    tokio::spawn(keeper.clone().run(stopping.clone()));
    let housekeeping = Housekeeping {
        workspaces: workspaces.clone(),
        again: house.again.clone(),
        events: house.events.clone(),
        leases: house.leases.clone(),
        runs: house.runs.clone(),
        retention: config.retention,
    };
    tokio::spawn(housekeeping.run(stopping.clone()));
    tokio::spawn(keeper.clone().keep_examining(stopping.clone()));
    tokio::spawn(keys.clone().keep_examining(examination(&house), stopping.clone()));
    let listening = tokio::spawn(listener.run());
    if let Some(monitoring) = monitoring {
        tokio::spawn(monitoring.run());
    }
    door.put(waiting::open(&house));
    notify(&[NotifyState::Ready]);
    notify(&[NotifyState::Status("serving")]);
    tracing::info!(%address, socket = %config.socket.display(), "serving");
    ready(address);
    attend(config, &house, &tls, signals).await;
    socket.stop().await;
    notify(&[NotifyState::Stopping]);
    health.stopping();
    let complete = register.drain(DRAIN_WAIT_MAX).await;
    tracing::info!(complete, "drained");
    drop(listening);
    ground.runner.close().await;
    if let Err(why) = keeper.seal().await {
        tracing::warn!(%why, "the last entries are sealed at the next start");
    }
    let (ledger, tokens) = (ground.ledger.clone(), tokens.clone());
    drop(house);
    ledger.close().await;
    tokens.keys.close().await;
    if let Some(tpm) = tokens.tpm {
        tpm.close().await;
    }
    Ok(())
}

/// The monitoring listener, where the configuration names its address.
async fn watched(config: &Config, house: &House) -> Result<Option<Monitoring>, ServeRefused> {
    let Some(address) = config.monitoring.listen else { return Ok(None) };
    let figures: Arc<dyn Figures> = house.status.clone();
    let refused = |source| listen_refused(&address, source);
    let bound = Monitoring::bind(address, figures, house.register.clone()).await.map_err(refused)?;
    let address = bound.address().map_err(refused)?;
    tracing::info!(%address, "figures and health are given to whoever asks here, without a certificate");
    Ok(Some(bound))
}

/// The keys in the token that sign for the appliance itself, besides those of the workspaces.
fn examination(house: &House) -> Examination {
    let (log, authorities) = (house.probes.key.key.clone(), house.authorities.clone());
    let own = move || {
        let cas = authorities.present().trusted().map(|ca| ("CA", ca.key().clone())).collect::<Vec<_>>();
        std::iter::once(("log", log.clone())).chain(cas).collect()
    };
    Examination { token: house.tokens.keys.clone(), own: Box::new(own), suspicion: house.signer.suspicion() }
}

/// Puts on the first face.
async fn dress(config: &Config, house: &House) -> Result<TlsFace, FaceUnmade> {
    let line = house.authorities.present();
    let dressing = face::read_or_issue(config, house, &line).await?;
    let tls = TlsFace::new(dressing.parts, house.api.directory_handle())?;
    house.authorities.show(dressing.validity);
    if dressing.fits {
        house.authorities.wear(&line);
    }
    Ok(tls)
}

/// Waits for the end, and meanwhile looks after health, watchdog and face.
async fn attend(config: &Config, house: &House, tls: &TlsFace, signals: &mut Signals) {
    let watchdog = sd_notify::watchdog_enabled().map(|interval| interval / 2);
    let mut looks =
        tokio::time::interval(watchdog.unwrap_or(crate::limits::PROBE_EVERY).min(crate::limits::PROBE_EVERY));
    let mut renewals =
        tokio::time::interval_at(tokio::time::Instant::now() + FACE_LOOKED_AT_EVERY, FACE_LOOKED_AT_EVERY);
    let mut successions = house.authorities.changes();
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return,
            _ = signals.interrupt.recv() => return,
            _ = signals.hang_up.recv() => {
                renew(config, house, tls).await;
                reload_upstreams(config, house);
            }
            _ = renewals.tick() => renew(config, house, tls).await,
            _ = successions.changed() => renew(config, house, tls).await,
            _ = looks.tick() => {
                // The watchdog is fed by a look that came back, so a daemon that cannot look is restarted.
                house.health.look(&house.probes).await;
                notify(&[NotifyState::Watchdog]);
                // A face that could not follow the CAs, such as while the token was away, tries again.
                if !house.authorities.are_worn() || holds_no_more(config, house) {
                    renew(config, house, tls).await;
                }
            }
        }
    }
}

/// The clock was set, or the timer came too late. A certificate from files is another's to renew.
fn holds_no_more(config: &Config, house: &House) -> bool {
    let now = house.ground.now();
    let shown = house.authorities.shown();
    config.api.server_certificate.is_none() && shown.is_some_and(|validity| !validity.holds(now))
}

/// Puts on a new face; if that fails, the present one stays on.
async fn renew(config: &Config, house: &House, tls: &TlsFace) {
    let line = house.authorities.present();
    let renewed = match face::read_or_issue(config, house, &line).await {
        Ok(dressing) => {
            let (fits, validity) = (dressing.fits, dressing.validity);
            let replaced = tls.replace(dressing.parts).map_err(FaceUnmade::from);
            replaced.map(|()| {
                house.authorities.show(validity);
                fits
            })
        }
        Err(unmade) => Err(unmade),
    };
    match renewed {
        Ok(fits) => {
            tracing::info!("the server's certificate and the client CAs were read anew");
            if fits {
                house.authorities.wear(&line);
            }
        }
        Err(why) => tracing::error!(%why, "the present certificate and CAs stay in use"),
    }
}

/// Reads the upstreams anew; if anything is wrong with the file, the present ones stay.
fn reload_upstreams(config: &Config, house: &House) {
    let read = match Config::read(&config.source) {
        Ok(read) => read,
        Err(why) => return tracing::error!(%why, "the present upstreams stay in use"),
    };
    match house.serve_upstreams(&read.upstreams) {
        Ok(()) => tracing::info!(upstreams = read.upstreams.len(), "the upstreams were read anew"),
        Err(why) => tracing::error!(why = %Causes(&why), "the present upstreams stay in use"),
    }
}

/// An error with its causes.
struct Causes<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(next) = cause {
            write!(f, ": {next}")?;
            cause = next.source();
        }
        Ok(())
    }
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> Result<Self, ServeRefused> {
        let on = |kind| signal(kind).map_err(ServeRefused::Signals);
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hang_up: on(SignalKind::hangup())?,
        })
    }

    /// Told to stop. A reload has nothing to change before there is a house.
    async fn stop(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_up.recv() => {}
            }
        }
    }
}

fn listen_refused(what: &dyn std::fmt::Display, source: io::Error) -> ServeRefused {
    ServeRefused::Listen { what: what.to_string(), source }
}

/// Without a service manager there is nobody to tell, and that is no fault.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(why) = sd_notify::notify(states) {
        tracing::debug!(%why, "the service manager was not told");
    }
}
