//! The one file that names concrete things: it builds the house from its configuration, and hands each part what it needs.
//! Who enters: the command line, with a checked configuration.
//! What leaves: a house, ready to serve; or why it cannot stand, before anything listens.

mod assemble;
mod doors;
mod engine;
mod unbuilt;

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use audit::{
    Anchor, Clock, Ledger, LedgerLimits, LedgerOptions, MachineClock, MachineRandom, NoteKey, RecoverRefused,
    Sealing,
};
use hsm::{Token, TokenConfig};
use sagas::Catalog;

use self::assemble::{Parts, assemble};
pub use self::doors::UpstreamsRefused;
pub use self::unbuilt::Unbuilt;
use self::unbuilt::UnbuiltRead;
use crate::again::Again;
use crate::appliance::draft::Draft;
use crate::appliance::init::{self, InitRefused};
use crate::appliance::master;
use crate::appliance::succession::{self, RecordedLine};
use crate::appliance::{BadRecord, Facts, Roots, Tokens, roots, store};
use crate::boundary::drain::Register;
use crate::boundary::gate::Gate;
use crate::ca::authorities::Authorities;
use crate::compartments::Compartments;
use crate::config::Config;
use crate::custody::Custody;
use crate::dice::Dice;
use crate::events::Events;
use crate::hardware::{TokenAnchor, TokenSealer};
use crate::health::{Health, Probes};
use crate::leases::Leases;
use crate::routing::Router;
use crate::runner::Runner;
use crate::runs::Runs;
use crate::sealing::Keeper;
use crate::services;
use crate::services::audit::Audit;
use crate::services::credentials;
use crate::services::ground::Ground;
use crate::services::keys::Keys;
use crate::services::succession::Succession;
use crate::services::workspaces::Workspaces;
use crate::signer::Signer;
use crate::status::Status;
use crate::traces::Lines;

/// The house, built.
pub struct House {
    /// The services' common ground.
    pub ground: Ground,
    /// Token and TPM.
    pub tokens: Tokens,
    /// The master key.
    pub custody: Custody,
    /// The CAs.
    pub authorities: Authorities,
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
    /// The CAs' succession, to settle what a crash left.
    pub succession: Arc<Succession>,
    /// What can be run.
    pub workflows: Catalog,
    /// Requests that are sent twice.
    pub again: Again,
    /// Events, for housekeeping.
    pub events: Arc<Events>,
    /// Leases, for housekeeping.
    pub leases: Arc<Leases>,
    /// Workflows, for housekeeping.
    pub runs: Arc<Runs>,
    /// Keys, for housekeeping.
    pub keys: Arc<Keys>,
    /// Workspaces, for housekeeping.
    pub workspaces: Arc<Workspaces>,
    /// Where requests go.
    pub router: Arc<Router>,
    /// The services' compartments.
    pub compartments: Compartments,
    /// The ledger as its readers see it.
    pub audit: Arc<Audit>,
    /// Figures and health, for those who only watch.
    pub status: Arc<Status>,
}

/// Starts the tokens that the configuration names, of an appliance with these root keys.
///
/// # Errors
/// One of them did not start; a wrong PIN is not tried twice.
pub async fn tokens(config: &Config, roots: Roots) -> Result<Tokens, Unbuilt> {
    std::iter::once(&config.token).chain(&config.tpm).for_each(make_auth_directory);
    let start = |which, config: TokenConfig, root| async move {
        Token::start_with(config, root).await.map_err(|source| Unbuilt::Token { which, source })
    };
    let keys = start("token", config.token.clone(), roots.keys).await?;
    let tpm = match &config.tpm {
        Some(tpm) => Some(start("TPM", tpm.clone(), roots.tpm).await?),
        None => None,
    };
    let keys_are_in_tpm = matches!(config.token, TokenConfig::Tpm { .. });
    Ok(Tokens { keys, tpm, keys_are_in_tpm })
}

/// Begins to open the tokens that the configuration names, without waiting for them: one that is away may come.
pub(crate) async fn begin_tokens(config: &Config, ledger: &Ledger) -> Result<Tokens, Unbuilt> {
    let (facts, _) = recorded(&ground(ledger.clone()), &config.state_directory).await?;
    let roots = facts.roots();
    std::iter::once(&config.token).chain(&config.tpm).for_each(make_auth_directory);
    let keys = Token::begin(config.token.clone(), roots.keys);
    let tpm = config.tpm.clone().map(|tpm| Token::begin(tpm, roots.tpm));
    Ok(Tokens { keys, tpm, keys_are_in_tpm: matches!(config.token, TokenConfig::Tpm { .. }) })
}

/// The worker writes the anchor's authorisation into a directory of its own and cannot make that directory itself.
/// One that cannot be made is told by the worker, with the file's name.
fn make_auth_directory(config: &TokenConfig) {
    let TokenConfig::Tpm { index_auth_file: Some(file), .. } = config else { return };
    if let Some(directory) = file.parent() {
        let _ = std::fs::DirBuilder::new().mode(0o700).create(directory);
    }
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
    ground_at(ledger, Arc::new(MachineClock::new()))
}

fn ground_at(ledger: Ledger, clock: Arc<dyn Clock>) -> Ground {
    Ground { ledger, clock, dice: Dice::system(), runner: Runner::default(), confirm: credentials::confirm }
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
    let anchor: Arc<dyn Anchor> = match tokens.anchoring_tpm() {
        Some(tpm) => Arc::new(TokenAnchor::in_tpm(tpm.clone(), facts.attestation_key.clone())),
        None => Arc::new(TokenAnchor::in_token(tokens.keys.clone())),
    };
    Ok((Sealing::new(ledger.clone(), Arc::new(TokenSealer::new(note_keys)), Some(anchor)), keys))
}

/// What an auditor notes of a new appliance, to recognise it by.
#[derive(Clone, Debug)]
pub struct Made {
    /// The keys that verify its checkpoints, in the form of signed notes.
    pub verifier_keys: Vec<String>,
    /// SHA-256 of the TPM's attestation key, where a TPM holds the anchor.
    pub attestation_key: Option<String>,
}

/// Makes a new appliance in an empty state directory.
///
/// # Errors
/// There is one, or tokens or ledger did not do it.
pub async fn init(config: &Config) -> Result<Made, Unbuilt> {
    init_over(config, tokens(config, Roots::default())).await
}

/// Makes a new appliance over tokens that come from elsewhere; tests bring doubles.
///
/// # Errors
/// As [`init`].
pub async fn init_over(
    config: &Config,
    tokens: impl Future<Output = Result<Tokens, Unbuilt>>,
) -> Result<Made, Unbuilt> {
    let directory = &config.state_directory;
    let left = Draft::read(directory).map_err(InitRefused::Draft)?;
    if left.is_none() && config.ledger_path().exists() {
        return Err(InitRefused::Done.into());
    }
    let tokens = tokens.await?;
    let made = make_whole(config, &tokens, left).await;
    tokens.keys.close().await;
    if let Some(tpm) = tokens.tpm {
        tpm.close().await;
    }
    made
}

/// Makes the appliance, or leaves nothing of it. What an earlier try left is taken away first.
async fn make_whole(config: &Config, tokens: &Tokens, left: Option<Draft>) -> Result<Made, Unbuilt> {
    let (directory, dice) = (&config.state_directory, Dice::system());
    if let Some(left) = left {
        left.undo(tokens, &config.ledger_path()).await.map_err(InitRefused::Draft)?;
        Draft::end(directory).map_err(InitRefused::Draft)?;
    }
    init::refuse_taken_anchor(tokens).await?;
    let draft = Draft::new(&dice);
    draft.begin(directory).map_err(InitRefused::Draft)?;
    match make(config, tokens, &dice, &draft).await {
        // If we stop here, the next `init` takes a whole appliance away again: nobody can have used it yet.
        Ok(made) => {
            Draft::end(directory).map_err(InitRefused::Draft)?;
            Ok(made)
        }
        Err(why) => {
            let undone = draft.undo(tokens, &config.ledger_path()).await;
            if let Err(fault) = undone.and_then(|()| Draft::end(directory)) {
                tracing::warn!(%fault, "what was made is taken away when `chancery init` is run again");
            }
            Err(why)
        }
    }
}

async fn make(config: &Config, tokens: &Tokens, dice: &Dice, draft: &Draft) -> Result<Made, Unbuilt> {
    let facts = init::make_facts(tokens, dice, draft, &config.ledger.origin).await?;
    let ledger = ledger(config)?;
    let made = make_ledger(config, tokens, &facts, &ledger).await;
    ledger.close().await;
    made?;
    let keys = facts.note_keys(&config.ledger.origin, tokens)?;
    let verifier_keys = keys.iter().map(|(key, _)| key.to_string()).collect();
    Ok(Made { verifier_keys, attestation_key: facts.attested_by() })
}

async fn make_ledger(
    config: &Config,
    tokens: &Tokens,
    facts: &Facts,
    ledger: &Ledger,
) -> Result<(), Unbuilt> {
    let (sealing, _) = keeper(config, tokens, facts, ledger)?;
    sealing.recover().await.map_err(Unbuilt::Recover)?;
    let keeper = Keeper::new(sealing, ledger.clone(), config.ledger.cadence());
    Ok(init::record(&ground(ledger.clone()), tokens, facts, &keeper).await?)
}

/// Builds the house, whose log leaves these lines.
///
/// # Errors
/// A part is missing or refuses. A ledger that does not agree with its anchor is no error: it is served, frozen.
pub async fn build(config: &Config, lines: Lines) -> Result<House, Unbuilt> {
    let ledger = ledger_of_appliance(config)?;
    let ground = ground(ledger.clone());
    build_in(config, lines, ledger, ground, |roots| tokens(config, roots)).await
}

/// Builds the house over tokens that come from elsewhere; tests bring doubles. They are asked for only once the
/// ledger is ours, so that a second daemon never tries a PIN.
///
/// # Errors
/// As [`build`].
pub async fn build_over(
    config: &Config,
    lines: Lines,
    tokens: impl Future<Output = Result<Tokens, Unbuilt>>,
) -> Result<House, Unbuilt> {
    build_at(config, lines, tokens, Arc::new(MachineClock::new())).await
}

/// Builds the house under a clock that comes from elsewhere as well; tests bring one that they set.
///
/// # Errors
/// As [`build`].
pub async fn build_at(
    config: &Config,
    lines: Lines,
    tokens: impl Future<Output = Result<Tokens, Unbuilt>>,
    clock: Arc<dyn Clock>,
) -> Result<House, Unbuilt> {
    let ledger = ledger_of_appliance(config)?;
    let ground = ground_at(ledger.clone(), clock);
    build_in(config, lines, ledger, ground, |_| tokens).await
}

/// Opens the ledger of an appliance that was made before.
pub(crate) fn ledger_of_appliance(config: &Config) -> Result<Ledger, Unbuilt> {
    let directory = &config.state_directory;
    if Draft::read(directory).map_err(InitRefused::Draft)?.is_some() {
        return Err(Unbuilt::HalfMade(directory.clone()));
    }
    match config.ledger_path().exists() {
        true => ledger(config),
        false => Err(Unbuilt::NoAppliance(directory.clone())),
    }
}

/// Builds the house on a ledger that is open.
pub(crate) async fn build_on(
    config: &Config,
    lines: Lines,
    ledger: Ledger,
    tokens: impl Future<Output = Result<Tokens, Unbuilt>>,
) -> Result<House, Unbuilt> {
    let ground = ground(ledger.clone());
    build_in(config, lines, ledger, ground, |_| tokens).await
}

async fn build_in<F: Future<Output = Result<Tokens, Unbuilt>>>(
    config: &Config,
    lines: Lines,
    ledger: Ledger,
    ground: Ground,
    tokens: impl FnOnce(Roots) -> F,
) -> Result<House, Unbuilt> {
    let (facts, line) = recorded(&ground, &config.state_directory).await?;
    let tokens = tokens(facts.roots()).await?;
    let custody = Custody::new(
        master::unwrap(&tokens, &config.ledger.origin, &facts.master).await.map_err(Unbuilt::Master)?,
    );
    let (sealing, note_keys) = keeper(config, &tokens, &facts, &ledger)?;
    if vouch(&sealing).await? {
        remember_roots(&ground, &tokens, &facts).await;
    }
    let keeper = Keeper::new(sealing, ledger, config.ledger.cadence());
    let authorities = Authorities::new(line.line()?);
    assemble(config, Parts { ground, tokens, custody, keeper, note_keys, authorities, facts, lines }).await
}

/// A house that waits for its hardware: it shows what stands on the ledger and why it does nothing else. It holds no master key, its
/// ledger takes no writes, and no workflow runs in it.
///
/// # Errors
/// A part is missing or refuses.
pub(crate) async fn build_waiting(
    config: &Config,
    lines: Lines,
    ledger: Ledger,
    tokens: Tokens,
) -> Result<House, Unbuilt> {
    let ground = ground(ledger.clone());
    let (facts, line) = recorded(&ground, &config.state_directory).await?;
    let (sealing, note_keys) = keeper(config, &tokens, &facts, &ledger)?;
    let keeper = Keeper::new(sealing, ledger, config.ledger.cadence());
    let authorities = Authorities::new(line.line()?);
    let custody = Custody::locked();
    assemble(config, Parts { ground, tokens, custody, keeper, note_keys, authorities, facts, lines }).await
}

/// True when the ledger agrees with its anchor. A verdict freezes it and lets the house stand; only hardware that does not answer keeps
/// the house from standing.
async fn vouch(sealing: &Sealing) -> Result<bool, Unbuilt> {
    match sealing.recover().await {
        Ok(recovered) => {
            tracing::info!(
                tail = recovered.tail_rows,
                counter = recovered.counter,
                "the ledger agrees with its anchor"
            );
            Ok(true)
        }
        Err(RecoverRefused::Frozen(freeze)) => {
            tracing::error!(%freeze, "the ledger is frozen: reads are served, nothing is signed or changed");
            Ok(false)
        }
        Err(fault) => Err(Unbuilt::Recover(fault)),
    }
}

/// An appliance that was made before roots were recorded works without, and is asked again at its next start.
async fn remember_roots(ground: &Ground, tokens: &Tokens, facts: &Facts) {
    if let Err(why) = roots::record(ground, tokens, facts).await {
        tracing::warn!(%why, "the root keys are not recorded yet");
    }
}

async fn recorded(ground: &Ground, directory: &Path) -> Result<(Facts, RecordedLine), Unbuilt> {
    let found =
        ground.read::<_, UnbuiltRead>(|view| Ok((store::get(view, store::FACTS)?, succession::read(view)?)));
    let found = found.await.map_err(|UnbuiltRead::Ledger(refused)| refused)?;
    let (Some(facts), Some(line)) = found else {
        return Err(Unbuilt::NoAppliance(directory.to_owned()));
    };
    let facts = serde_json::from_slice(&facts).map_err(|_| BadRecord { which: "own" })?;
    Ok((facts, line))
}
