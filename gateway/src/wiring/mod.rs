//! The one file that names concrete things: it builds the house from its configuration, and hands each part what it needs.
//! Who enters: the command line, with a checked configuration.
//! What leaves: a house, ready to serve; or why it cannot stand, before anything listens.

mod unbuilt;

use std::path::Path;
use std::sync::Arc;

use audit::{
    Anchor, Clock, Ledger, LedgerLimits, LedgerOptions, MachineClock, MachineRandom, NoteKey, RecoverRefused,
    Sealing, Standing,
};
use hsm::{Token, TokenConfig};
use sagas::{Engine, EngineParts, SagaLimits};

pub use self::unbuilt::Unbuilt;
use self::unbuilt::UnbuiltRead;
use crate::admission::Admission;
use crate::appliance::init::{self, InitRefused};
use crate::appliance::master;
use crate::appliance::{BadRecord, Facts, Tokens, store};
use crate::boundary::drain::Register;
use crate::boundary::gate::{Gate, GateParts};
use crate::boundary::tree::{Claimed, RouteTree};
use crate::ca::Authority;
use crate::config::Config;
use crate::custody::Custody;
use crate::dice::Dice;
use crate::hardware::{TokenAnchor, TokenSealer};
use crate::health::{Health, Probes};
use crate::metrics::Metrics;
use crate::runner::Runner;
use crate::runs::{self, Runs};
use crate::sealing::Keeper;
use crate::services;
use crate::services::audit::Audit;
use crate::services::devices::Devices;
use crate::services::ground::Ground;
use crate::services::keys::Keys;
use crate::services::roster::Roster;
use crate::services::signing::Signing;
use crate::services::workspaces::Workspaces;
use crate::signer::Signer;
use crate::status::{self, Status};
use crate::workflows::seal::StateSeal;
use crate::workflows::watch::Watch;
use crate::workflows;

/// The house, built.
pub struct House {
    /// The services' common ground.
    pub ground: Ground,
    /// Token and TPM.
    pub tokens: Tokens,
    /// The master key.
    pub custody: Custody,
    /// The CA.
    pub authority: Authority,
    /// The one door.
    pub signer: Signer,
    /// When the ledger is sealed.
    pub keeper: Keeper,
    /// Who is connected.
    pub register: Register,
    /// How everything is.
    pub health: Health,
    /// What the health loop looks at.
    pub probes: Probes,
    /// The gate of the API listener.
    pub api: Arc<Gate>,
    /// The gate of the local socket.
    pub local: Arc<Gate>,
    /// Keys, for housekeeping.
    pub keys: Arc<Keys>,
    /// Workspaces, for housekeeping.
    pub workspaces: Arc<Workspaces>,
    /// The ledger as its readers see it.
    pub audit: Arc<Audit>,
}

/// Starts the tokens that the configuration names.
///
/// # Errors
/// One of them did not start; a wrong PIN is not tried twice.
pub async fn tokens(config: &Config) -> Result<Tokens, Unbuilt> {
    let start = |which, config: TokenConfig| async move {
        Token::start(config).await.map_err(|source| Unbuilt::Token { which, source })
    };
    let keys = start("token", config.token.clone()).await?;
    let tpm = match &config.tpm {
        Some(tpm) => Some(start("TPM", tpm.clone()).await?),
        None => None,
    };
    let keys_are_in_tpm = matches!(config.token, TokenConfig::Tpm { .. });
    Ok(Tokens { keys, tpm, keys_are_in_tpm })
}

/// Opens the ledger; it takes no writes until its recovery has vouched for it.
///
/// # Errors
/// It is in use, foreign or unreadable.
pub fn ledger(config: &Config) -> Result<Ledger, Unbuilt> {
    let limits = LedgerLimits {
        unanchored_age_max: std::time::Duration::from_secs(config.ledger.unsealed_seconds_max),
        ..LedgerLimits::default()
    };
    let mut schemas = vec![&store::SCHEMA];
    schemas.extend(services::schemas());
    Ledger::open(LedgerOptions {
        path: config.ledger_path(),
        origin: config.ledger.origin.clone(),
        schemas,
        clock: Arc::new(MachineClock::new()),
        random: Arc::new(MachineRandom),
        limits,
        dangerous_without_recovery: false,
    })
    .map_err(Unbuilt::Ledger)
}

fn ground(ledger: Ledger) -> Ground {
    let clock: Arc<dyn Clock> = Arc::new(MachineClock::new());
    Ground { ledger, clock, dice: Dice::system(), runner: Runner::default() }
}

/// The keeper over the anchor there is: the TPM's, or the token's object.
fn keeper(
    config: &Config,
    tokens: &Tokens,
    facts: &Facts,
    ledger: &Ledger,
) -> Result<(Sealing, Vec<NoteKey>), BadRecord> {
    let note_keys = facts.note_keys(&config.ledger.origin, tokens)?;
    let keys = note_keys.iter().map(|(note, _)| note.clone()).collect();
    let anchor: Arc<dyn Anchor> = match (&tokens.tpm, tokens.keys_are_in_tpm) {
        (Some(tpm), _) => Arc::new(TokenAnchor::in_tpm(tpm.clone())),
        (None, true) => Arc::new(TokenAnchor::in_tpm(tokens.keys.clone())),
        (None, false) => Arc::new(TokenAnchor::in_token(tokens.keys.clone())),
    };
    Ok((Sealing::new(ledger.clone(), Arc::new(TokenSealer::new(note_keys)), Some(anchor)), keys))
}

/// Makes a new appliance in an empty state directory.
///
/// # Errors
/// There is one, or tokens or ledger did not do it.
pub async fn init(config: &Config) -> Result<(), Unbuilt> {
    init_over(config, tokens(config)).await
}

/// Makes a new appliance over tokens that come from elsewhere; tests bring doubles.
///
/// # Errors
/// As [`init`].
pub async fn init_over(
    config: &Config,
    tokens: impl Future<Output = Result<Tokens, Unbuilt>>,
) -> Result<(), Unbuilt> {
    if config.ledger_path().exists() {
        return Err(InitRefused::Done.into());
    }
    let tokens = tokens.await?;
    let ledger = ledger(config)?;
    let ground = ground(ledger.clone());
    let facts = init::make_facts(&tokens, &ground.dice, &config.ledger.origin).await?;
    let (sealing, _) = keeper(config, &tokens, &facts, &ledger)?;
    sealing.recover().await.map_err(Unbuilt::Recover)?;
    let keeper = Keeper::new(sealing, ledger.clone(), config.ledger.cadence());
    init::record(&ground, &tokens, &facts, &keeper).await?;
    drop((ground, keeper));
    ledger.close().await;
    tokens.keys.close().await;
    if let Some(tpm) = tokens.tpm {
        tpm.close().await;
    }
    Ok(())
}

/// Builds the house.
///
/// # Errors
/// A part is missing or refuses. A ledger that does not agree with its anchor is no error: it is served, frozen.
pub async fn build(config: &Config) -> Result<House, Unbuilt> {
    build_over(config, tokens(config)).await
}

/// Builds the house over tokens that come from elsewhere; tests bring doubles. They are asked for only once the
/// ledger is ours, so that a second daemon never tries a PIN.
///
/// # Errors
/// As [`build`].
pub async fn build_over(
    config: &Config,
    tokens: impl Future<Output = Result<Tokens, Unbuilt>>,
) -> Result<House, Unbuilt> {
    if !config.ledger_path().exists() {
        return Err(Unbuilt::NoAppliance(config.state_directory.clone()));
    }
    let ledger = ledger(config)?;
    let ground = ground(ledger.clone());
    let (facts, ca_certificate) = recorded(&ground, &config.state_directory).await?;
    let tokens = tokens.await?;
    let custody = Custody::new(
        master::unwrap(&tokens, &config.ledger.origin, &facts.master).await.map_err(Unbuilt::Master)?,
    );
    let (sealing, note_keys) = keeper(config, &tokens, &facts, &ledger)?;
    vouch(&sealing).await?;
    let keeper = Keeper::new(sealing, ledger, config.ledger.cadence());
    let authority = Authority::new(ca_certificate, facts.ca.signing("CA")?, facts.ca.public());
    assemble(config, Parts { ground, tokens, custody, keeper, note_keys, authority, facts }).await
}

/// A verdict freezes the ledger and lets the house stand; only hardware that does not answer keeps it from standing.
async fn vouch(sealing: &Sealing) -> Result<(), Unbuilt> {
    match sealing.recover().await {
        Ok(recovered) => {
            tracing::info!(
                tail = recovered.tail_rows,
                counter = recovered.counter,
                "the ledger agrees with its anchor"
            );
            Ok(())
        }
        Err(RecoverRefused::Frozen(freeze)) => {
            tracing::error!(%freeze, "the ledger is frozen: reads are served, nothing is signed or changed");
            Ok(())
        }
        Err(fault) => Err(Unbuilt::Recover(fault)),
    }
}

async fn recorded(ground: &Ground, directory: &Path) -> Result<(Facts, Vec<u8>), Unbuilt> {
    let found = ground.read::<_, UnbuiltRead>(|view| {
        Ok((store::get(view, store::FACTS)?, store::get(view, store::CA_CERTIFICATE)?))
    });
    let found = found.await.map_err(|UnbuiltRead::Ledger(refused)| refused)?;
    let (Some(facts), Some(certificate)) = found else {
        return Err(Unbuilt::NoAppliance(directory.to_owned()));
    };
    let facts = serde_json::from_slice(&facts).map_err(|_| BadRecord { which: "own" })?;
    Ok((facts, certificate))
}

struct Parts {
    ground: Ground,
    tokens: Tokens,
    custody: Custody,
    keeper: Keeper,
    note_keys: Vec<NoteKey>,
    authority: Authority,
    facts: Facts,
}

async fn assemble(config: &Config, parts: Parts) -> Result<House, Unbuilt> {
    let Parts { ground, tokens, custody, keeper, note_keys, authority, facts } = parts;
    let (metrics, register, health) = (Metrics::default(), Register::default(), Health::default());
    let roster = Roster::new(Arc::clone(&ground.clock));
    let signer = Signer::new(tokens.keys.clone(), metrics.clone());
    let hang_up = Arc::new(register.clone());
    let workspaces = Arc::new(Workspaces::new(ground.clone(), roster.clone(), custody.clone(), tokens.keys.clone()));
    let devices =
        Arc::new(Devices::new(ground.clone(), roster.clone(), authority.clone(), signer.clone(), hang_up));
    let keys = Arc::new(Keys::new(ground.clone(), Arc::clone(&workspaces), tokens.keys.clone(), config.backups()));
    let signing =
        Arc::new(Signing::new(ground.clone(), Arc::clone(&keys), Admission::default(), signer.clone()));
    let audit = Arc::new(Audit::new(ground.clone(), keeper.clone(), note_keys, config.exports()));
    let status =
        Arc::new(Status::new(health.clone(), metrics.clone(), tokens.clone(), ground.ledger.clone()));
    workspaces.load().await?;
    devices.load().await?;
    let offers = services::keys::offers::offers(&keys);
    let runs = Runs::new(ground.clone(), offers);
    let running = Running { keys: &keys, workspaces: &workspaces, devices: &devices, audit: &audit };
    run_workflows(&ground, &custody, &metrics, running).await?;
    let rooms = Rooms {
        runs: &runs,
        workspaces: &workspaces,
        devices: &devices,
        keys: &keys,
        signing: &signing,
        audit: &audit,
        status: &status,
    };
    let gate = |routes| gate(config, routes, &roster, &register, &metrics, &ground);
    let (api, local) = (gate(rooms.routes())?, gate(rooms.routes())?);
    let seal = facts.log.note_key(&config.ledger.origin, &tokens.keys)?.1;
    let probes = Probes {
        ground: ground.clone(),
        tokens: tokens.clone(),
        key: facts.log.signing("log")?,
        seal,
        keeper: keeper.clone(),
        metrics,
    };
    Ok(House {
        ground,
        tokens,
        custody,
        authority,
        signer,
        keeper,
        register,
        health,
        probes,
        api,
        local,
        keys,
        workspaces,
        audit,
    })
}

/// Starts the engine, which takes up every workflow that the last run left open. A frozen ledger lets none run.
async fn run_workflows(
    ground: &Ground,
    custody: &Custody,
    metrics: &Metrics,
    running: Running<'_>,
) -> Result<(), Unbuilt> {
    let Running { keys, workspaces, devices, audit } = running;
    if ground.ledger.health().standing != Standing::Open {
        return Ok(());
    }
    let engine = Engine::start(EngineParts {
        ledger: ground.ledger.clone(),
        catalog: workflows::catalog(&workflows::Services { keys, workspaces, audit })?,
        seal: Arc::new(StateSeal::new(Arc::clone(workspaces), custody.clone())),
        clock: Arc::clone(&ground.clock),
        random: Arc::new(MachineRandom),
        limits: SagaLimits::default(),
        observer: Arc::new(Watch::new(
            metrics.clone(),
            Arc::clone(keys),
            Arc::clone(workspaces),
            Arc::clone(devices),
        )),
    });
    ground.runner.install(engine.await.map_err(Unbuilt::Engine)?);
    Ok(())
}

/// The services whose commands the workflows' steps are.
struct Running<'a> {
    keys: &'a Arc<Keys>,
    workspaces: &'a Arc<Workspaces>,
    devices: &'a Arc<Devices>,
    audit: &'a Arc<Audit>,
}

struct Rooms<'a> {
    runs: &'a Arc<Runs>,
    workspaces: &'a Arc<Workspaces>,
    devices: &'a Arc<Devices>,
    keys: &'a Arc<Keys>,
    signing: &'a Arc<Signing>,
    audit: &'a Arc<Audit>,
    status: &'a Arc<Status>,
}

impl Rooms<'_> {
    fn routes(&self) -> Vec<crate::api::Route> {
        let mut routes = services::workspaces::routes::routes(self.workspaces);
        routes.extend(services::devices::routes::routes(self.devices));
        routes.extend(services::keys::routes::routes(self.keys));
        routes.extend(services::signing::routes::routes(self.signing));
        routes.extend(services::audit::routes::routes(self.audit));
        routes.extend(runs::routes::routes(self.runs));
        status::with_routes(self.status, routes)
    }
}

fn gate(
    config: &Config,
    routes: Vec<crate::api::Route>,
    roster: &Roster,
    register: &Register,
    metrics: &Metrics,
    ground: &Ground,
) -> Result<Arc<Gate>, Claimed> {
    Ok(Arc::new(Gate::new(GateParts {
        tree: RouteTree::new(routes)?,
        directory: Arc::new(roster.clone()),
        register: register.clone(),
        dice: ground.dice.clone(),
        clock: Arc::clone(&ground.clock),
        metrics: metrics.clone(),
        workspace_quota: config.rates.workspace,
        address_quota: config.rates.address,
        trusted_proxies: config.api.trusted_proxies.clone(),
    })))
}
