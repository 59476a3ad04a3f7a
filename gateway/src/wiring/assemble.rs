//! The house put together: every part on its ground, each handed what it needs.
//! Who enters: the wiring, with tokens that answer and a ledger that is ours.
//! What leaves: the house, its doors open to nobody yet.

use std::sync::Arc;

use audit::{MachineRandom, NoteKey, Standing};
use hsm::SharedToken;
use sagas::Seal;
use sagas::idempotency::Idempotency;
use sagas::lock::lease::Leases as Queue;

use super::doors::{self, Doors, Services};
use super::{House, Unbuilt, engine};
use crate::admission::Admission;
use crate::again::Again;
use crate::appliance::{Facts, Tokens};
use crate::boundary::drain::Register;
use crate::ca::authorities::Authorities;
use crate::compartments::Compartments;
use crate::config::Config;
use crate::custody::Custody;
use crate::events::Events;
use crate::health::{Health, Probes};
use crate::leases::Leases;
use crate::metrics::Metrics;
use crate::runs::Runs;
use crate::sealing::Keeper;
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
use crate::signer::Signer;
use crate::traces::Lines;
use crate::workflows::{self, seal::StateSeal};

/// What the house is assembled from, beside its configuration.
pub(super) struct Parts {
    pub(super) ground: Ground,
    pub(super) tokens: Tokens,
    pub(super) custody: Custody,
    pub(super) keeper: Keeper,
    pub(super) note_keys: Vec<NoteKey>,
    pub(super) authorities: Authorities,
    pub(super) facts: Facts,
    pub(super) lines: Lines,
}

/// Puts the parts together, and fills them with what the ledger says.
pub(super) async fn assemble(config: &Config, parts: Parts) -> Result<House, Unbuilt> {
    let Parts { ground, tokens, custody, keeper, note_keys, authorities, facts, lines } = parts;
    let (metrics, register, compartments) =
        (Metrics::default(), Register::default(), Compartments::default());
    let traces = doors::traces(&config.traces)?;
    let health = Health::of(compartments.clone());
    let roster = Roster::new(Arc::clone(&ground.clock));
    let signer = Signer::new(tokens.keys.clone(), metrics.clone());
    let hang_up = Arc::new(register.clone());
    let shared = SharedToken::new(tokens.keys.clone(), config.token.lanes());
    let workspaces =
        Arc::new(Workspaces::new(ground.clone(), roster.clone(), custody.clone(), shared.clone()));
    let devices =
        Arc::new(Devices::new(ground.clone(), roster.clone(), authorities.clone(), signer.clone(), hang_up));
    let succession = Arc::new(Succession::new(
        ground.clone(),
        tokens.keys.clone(),
        signer.clone(),
        Arc::clone(&devices),
        authorities.clone(),
    ));
    let resealing = Resealing::new(ground.clone(), tokens.clone(), custody.clone(), config.sealed_pcrs());
    let resealing = Arc::new(resealing);
    let keys = Arc::new(Keys::new(ground.clone(), Arc::clone(&workspaces), shared, config.backups()));
    let signing =
        Arc::new(Signing::new(ground.clone(), Arc::clone(&keys), Admission::default(), signer.clone()));
    let audit =
        Audit::new(ground.clone(), keeper.clone(), note_keys, config.exports(), Arc::new(roster.clone()));
    let audit = Arc::new(audit.attested_by(facts.attested_by()));
    workspaces.load().await?;
    devices.load().await?;
    let mut offers = services::keys::offers::offers(&keys);
    offers.extend(services::signing::offers::offers(&signing));
    let runs = Runs::new(ground.clone(), offers);
    let events = Events::new(ground.clone(), metrics.clone(), register.stopping().clone());
    let seal: Arc<dyn Seal> = Arc::new(StateSeal::new(Arc::clone(&workspaces), custody.clone()));
    let idempotency = Idempotency::new(Arc::clone(&seal), Arc::clone(&ground.clock));
    let again = Again::new(ground.ledger.clone(), idempotency, config.retention.answer_bytes_max());
    if ground.ledger.health().standing == Standing::Open {
        again.release().await;
    }
    let workflows = engine::run(
        &ground,
        seal,
        &metrics,
        &traces,
        &workflows::Services { keys: &keys, signing: &signing, workspaces: &workspaces, audit: &audit },
        &devices,
    )
    .await?;
    let queue = Queue::new(ground.ledger.clone(), Arc::clone(&ground.clock), Arc::new(MachineRandom));
    let leases = Leases::new(ground.clone(), queue);
    if ground.ledger.health().standing == Standing::Open {
        leases.clear_lines().await;
    }
    let services = Services {
        runs: &runs,
        events: &events,
        leases: &leases,
        workspaces: &workspaces,
        devices: &devices,
        succession: &succession,
        resealing: &resealing,
        keys: &keys,
        signing: &signing,
        audit: &audit,
        health: &health,
        tokens: &tokens,
    };
    let parts = Doors {
        config,
        ground: &ground,
        roster: &roster,
        register: &register,
        metrics: &metrics,
        compartments: &compartments,
        again: &again,
        traces: &traces,
        lines: &lines,
    };
    let doors::Opened { router, status, gates: [api, local] } = parts.open(&services)?;
    let seal = facts.log.note_key(&config.ledger.origin, &tokens.keys)?.1;
    let probes = Probes {
        ground: ground.clone(),
        tokens: tokens.clone(),
        key: facts.log.signing("log")?,
        seal,
        keeper: keeper.clone(),
        authorities: authorities.clone(),
        conditions: keys.conditions(),
        metrics,
    };
    Ok(House {
        ground,
        tokens,
        custody,
        authorities,
        signer,
        keeper,
        register,
        health,
        probes,
        api,
        local,
        workflows,
        again,
        events,
        leases,
        runs,
        succession,
        keys,
        workspaces,
        router,
        compartments,
        audit,
        status,
    })
}
