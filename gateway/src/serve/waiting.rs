//! Waiting at the start: a token, a TPM or room on the disk that is late costs a wait, and neither a restart nor the reading.
//! Who enters: a configuration; whatever the machine has ready by now.
//! What leaves: a house with its face, once everything is there; until then health, reasons, and what stands on the ledger.

use audit::Ledger;
use hsm::{TokenState, Workers};
use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Causes, ServeRefused, dress, notify};
use crate::appliance::Tokens;
use crate::boundary::closed::Closed;
use crate::boundary::local::{Answers, Behind, LocalDoor, LocalSocket};
use crate::boundary::tls::TlsFace;
use crate::config::Config;
use crate::face::FaceUnmade;
use crate::health::Readiness;
use crate::limits::{
    PROBE_EVERY, START_EXTEND_EVERY, START_EXTENSION, START_PAUSE_MAX, START_PAUSE_MIN, WAITING_DRAIN_MAX,
};
use crate::traces::Lines;
use crate::wiring::{self, House, Unbuilt};

/// Why there is no house. What heals by itself is not among the reasons: it is waited for.
#[derive(Debug, thiserror::Error)]
pub enum StartRefused {
    /// A part is missing or refuses.
    #[error(transparent)]
    Unbuilt(#[from] Unbuilt),
    /// It cannot be reached.
    #[error(transparent)]
    Serve(#[from] ServeRefused),
}

/// A house that can be served, and the socket at which its operators are answered already.
pub(super) struct Started {
    pub(super) house: House,
    pub(super) tls: TlsFace,
    pub(super) door: LocalDoor,
}

/// What outlasts an attempt to start.
struct Start<'a> {
    config: &'a Config,
    lines: Lines,
    /// Begun once, when the ledger is known to be ours: a second daemon never tries a PIN.
    tokens: Option<Tokens>,
    door: Option<LocalDoor>,
    socket: SocketTask,
}

/// The task that serves the operators' socket, from the first moment to the last.
#[derive(Clone, Default)]
pub(super) struct SocketTask {
    stopping: CancellationToken,
    task: TaskTracker,
}

impl SocketTask {
    /// Lets nobody in any more, and waits until the socket's file is gone.
    pub(super) async fn stop(&self) {
        self.stopping.cancel();
        self.task.close();
        self.task.wait().await;
    }
}

/// Tries until there is a house. The socket is served until it is stopped.
pub(super) async fn start(
    config: &Config,
    lines: Lines,
    socket: SocketTask,
) -> Result<Started, StartRefused> {
    let mut start = Start { config, lines, tokens: None, door: None, socket };
    let mut pause = START_PAUSE_MIN;
    loop {
        let why = match start.attempt().await {
            Ok(started) => return Ok(started),
            Err(why) if !why.may_heal() => return Err(why),
            Err(why) => Causes(&why).to_string(),
        };
        tracing::warn!(why, "not ready to serve; waiting");
        start.show(start.closed(&why))?;
        patiently(tokio::time::sleep(pause)).await;
        pause = (pause * 2).min(START_PAUSE_MAX);
    }
}

impl Start<'_> {
    async fn attempt(&mut self) -> Result<Started, StartRefused> {
        let ledger = wiring::ledger_of_appliance(self.config)?;
        let attempted = self.attempt_on(ledger.clone()).await;
        if attempted.is_err() {
            // The next attempt opens it again, and must not find it in use by ourselves.
            ledger.close().await;
        }
        attempted
    }

    async fn attempt_on(&mut self, ledger: Ledger) -> Result<Started, StartRefused> {
        let tokens = match &self.tokens {
            Some(begun) => begun.clone(),
            None => {
                let begun = wiring::begin_tokens(self.config, &ledger).await?;
                self.tokens.insert(begun).clone()
            }
        };
        let door = self.show(self.closed("it is starting"))?;
        // The usual case is a token that is there: nobody has to be shown anything meanwhile.
        if let Verdict::Late = first_word(&tokens).await? {
            let house =
                wiring::build_waiting(self.config, self.lines.clone(), ledger, tokens.clone()).await?;
            door.put(open(&house));
            let came = patiently(come(&house, &tokens)).await;
            door.put(self.closed("it is starting"));
            leave(house).await;
            came?;
            return Box::pin(self.attempt()).await;
        }
        let ready = async { Ok(tokens) };
        let house = wiring::build_on(self.config, self.lines.clone(), ledger, ready);
        let house = patiently(house).await?;
        match dress(self.config, &house).await {
            Ok(tls) => Ok(Started { house, tls, door }),
            Err(unmade) => {
                leave(house).await;
                Err(ServeRefused::Face(unmade).into())
            }
        }
    }

    fn closed(&self, why: &str) -> Behind {
        let closed = Closed { origin: self.config.ledger.origin.clone(), why: why.to_owned() };
        Behind {
            answers: Answers::Closed(closed),
            workers: self.tokens.as_ref().map(workers).unwrap_or_default(),
        }
    }

    /// Binds the socket at the first time; changes who answers there at every other.
    fn show(&mut self, behind: Behind) -> Result<LocalDoor, ServeRefused> {
        if let Some(door) = &self.door {
            door.put(behind);
            return Ok(door.clone());
        }
        let socket = LocalSocket::bind(&self.config.socket, self.config.operators.uids.clone(), behind);
        let socket = socket.map_err(|source| super::listen_refused(&self.config.socket.display(), source))?;
        let door = socket.door();
        self.socket.task.spawn(socket.run(self.socket.stopping.clone()));
        self.door = Some(door.clone());
        Ok(door)
    }
}

impl StartRefused {
    /// Trying again without a change by a person would do harm or no good.
    pub fn needs_a_person(&self) -> bool {
        matches!(self, Self::Unbuilt(unbuilt) if unbuilt.needs_a_person())
    }

    fn may_heal(&self) -> bool {
        match self {
            Self::Unbuilt(unbuilt) => unbuilt.may_heal(),
            Self::Serve(ServeRefused::Face(unmade)) => {
                !matches!(unmade, FaceUnmade::File { .. } | FaceUnmade::Refused(_))
            }
            Self::Serve(_) => false,
        }
    }
}

/// What the tokens said first.
enum Verdict {
    Ready,
    Late,
}

/// Waits until each token is there, or one of them has said why it is not.
async fn first_word(tokens: &Tokens) -> Result<Verdict, Unbuilt> {
    let mut verdict = Verdict::Ready;
    for (which, token) in tokens.each() {
        let mut states = token.watch();
        let spoken =
            |state: &TokenState| !matches!(state, TokenState::Down { why, .. } if why == hsm::OPENING);
        // The state outlives every supervisor; one that is gone has left its last word.
        let state = match patiently(states.wait_for(spoken)).await {
            Ok(state) => (*state).clone(),
            Err(_) => token.state(),
        };
        match state {
            TokenState::Ready { .. } => {}
            TokenState::Down { why, .. } => {
                tracing::warn!(which, why, "late; waiting for it");
                verdict = Verdict::Late;
            }
            TokenState::Refused { why } => return Err(Unbuilt::Token { which: name(which), source: why }),
        }
    }
    Ok(verdict)
}

/// Waits until all tokens are there, and keeps the waiting house's health true meanwhile.
async fn come(house: &House, tokens: &Tokens) -> Result<(), Unbuilt> {
    loop {
        let mut all = true;
        for (which, token) in tokens.each() {
            match token.state() {
                TokenState::Ready { .. } => {}
                TokenState::Down { .. } => all = false,
                TokenState::Refused { why } => {
                    return Err(Unbuilt::Token { which: name(which), source: why });
                }
            }
        }
        if all {
            return Ok(());
        }
        house.health.look(&house.probes).await;
        notify(&[NotifyState::Status(&reasons(&house.health.readiness(true)))]);
        let changes = tokens.each().map(|(_, token)| token.watch()).collect::<Vec<_>>();
        let changed = async {
            for mut states in changes {
                let missing = |state: &TokenState| matches!(state, TokenState::Down { .. });
                if missing(&states.borrow_and_update()) {
                    let _ = states.changed().await;
                    return;
                }
            }
        };
        // A look again even without a change: the reason may have become another.
        let _ = tokio::time::timeout(PROBE_EVERY, changed).await;
    }
}

/// Waits, however long it takes, and tells the service manager so: a start that still waits is not one that hangs.
async fn patiently<T>(work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    let extension = u32::try_from(START_EXTENSION.as_micros()).unwrap_or(u32::MAX);
    let mut asks = tokio::time::interval(START_EXTEND_EVERY);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = asks.tick() => notify(&[NotifyState::ExtendTimeoutUsec(extension)]),
        }
    }
}

fn reasons(readiness: &Readiness) -> String {
    let unready = readiness.parts.iter().filter(|part| !part.ready);
    let words = unready.map(|part| format!("{}: {}", part.part, part.detail.as_deref().unwrap_or(part.code)));
    format!("waiting; {}", words.collect::<Vec<_>>().join("; ")).replace('\n', " ")
}

/// As messages about the start name it.
fn name(which: &'static str) -> &'static str {
    if which == "tpm" { "TPM" } else { which }
}

pub(super) fn open(house: &House) -> Behind {
    let answers = Answers::Open { gate: house.local.clone(), register: house.register.clone() };
    Behind { answers, workers: workers(&house.tokens) }
}

fn workers(tokens: &Tokens) -> Vec<Workers> {
    tokens.each().map(|(_, token)| token.workers()).collect()
}

/// Gives the ledger back, so that the next attempt can open it.
async fn leave(house: House) {
    house.register.drain(WAITING_DRAIN_MAX).await;
    house.ground.runner.close().await;
    let ledger = house.ground.ledger.clone();
    drop(house);
    ledger.close().await;
}
