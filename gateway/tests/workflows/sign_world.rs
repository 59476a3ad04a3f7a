//! A small world for signing workflows: real keys, policies and signatures over a token in memory, a clock that a test moves.
//! Who enters: the proofs of signing definitions.
//! What leaves: starts, votes and snapshots; after each death a ledger opened anew, with new services over it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use audit::verify::{Source, Terms, verify};
use audit::{EntryFilter, EntryScope, Ledger, LedgerLimits, LedgerOptions, MachineRandom, SqlFault, View};
use gateway::admission::Admission;
use gateway::custody::Custody;
use gateway::dice::Dice;
use gateway::ids::{SigningKeyId, WorkspaceId};
use gateway::metrics::Metrics;
use gateway::runner::Runner;
use gateway::services::ground::Ground;
use gateway::services::keys::Keys;
use gateway::services::keys::making::NewKeyPlan;
use gateway::services::policy::{Limit, Policy};
use gateway::services::roster::Roster;
use gateway::services::signing::approvals::{self, Ballot};
use gateway::services::signing::bundle::{self, BatchPlan};
use gateway::services::signing::changes::ChangePlan;
use gateway::services::signing::policies::PolicyScope;
use gateway::services::signing::requests::{Content, RequestPlan};
use gateway::services::signing::store::{ClaimKey, PolicyState};
use gateway::services::signing::{Signing, store};
use gateway::services::workspaces::Workspaces;
use gateway::signer::Signer;
use gateway::workflows;
use hsm::custody::MasterKey;
use hsm::{Double, KeyKind, Scheme, SharedToken, Token};
use sagas::testing::{Heard, TestClock, TestDice, TestSeal, World};
use sagas::{Catalog, Deaf, Definition, Engine, EngineParts, Origin, SagaLimits, Scope, StartRequest, State};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

/// Which of the definitions is proven.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proven {
    Request,
    Batch,
    Change,
    Key,
}

/// The services over one opening of the ledger.
struct Built {
    ground: Ground,
    keys: Arc<Keys>,
    signing: Arc<Signing>,
}

/// The world.
pub(crate) struct SignWorld {
    proven: Proven,
    directory: TempDir,
    double: Double,
    token: Token,
    clock: Arc<TestClock>,
    dice: Arc<TestDice>,
    workspace: WorkspaceId,
    key: SigningKeyId,
    built: Mutex<Built>,
    baselines: Mutex<HashMap<u64, i64>>,
    /// Rounds in which the time lock has heard its one word.
    locked: Mutex<HashMap<u64, ()>>,
    called: AtomicU64,
}

const LIMIT: Limit = Limit { uses: 100_000, per_seconds: 31 * 24 * 3600 };

fn policy(expires_seconds: u64) -> Policy {
    let limit = Some(LIMIT);
    Policy {
        approvals: Some(1),
        direct: false,
        limit,
        expires_seconds,
        timelock_seconds: 30,
        ..Policy::default()
    }
}

impl SignWorld {
    /// A key, and a policy for the whole workspace: one other person, a limit, a time lock.
    pub(crate) async fn new(proven: Proven) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (double, clock, dice) = (Double::new(), TestClock::new(), Arc::<TestDice>::default());
        let token = Token::double(double.clone());
        let built = build(&directory, &clock, &token);
        let own = Dice::system();
        let (workspace, key) = (WorkspaceId::new(&own).expect("an id"), SigningKeyId::new(&own));
        let world = Self {
            proven,
            directory,
            double,
            token,
            clock,
            dice,
            workspace,
            key,
            built: Mutex::new(built),
            baselines: Mutex::default(),
            locked: Mutex::default(),
            called: AtomicU64::new(0),
        };
        world.furnish().await;
        world
    }

    /// Signatures that the token made.
    pub(crate) fn signatures(&self) -> u64 {
        self.double.signatures_made()
    }

    /// Makes the key and the first policy, by the very workflows that members use.
    async fn furnish(&self) {
        let (keys, signing, runner) = self.services();
        let definitions = vec![
            workflows::keys::generate(&keys).unwrap(),
            workflows::signing::policy_change(&signing).unwrap(),
        ];
        let engine = self.engine(definitions).await;
        runner.install(engine.clone());
        let (workspace, key) = (self.workspace.clone(), self.key.clone());
        let plan = NewKeyPlan {
            workspace: workspace.clone(),
            key,
            name: "release".parse().expect("a name"),
            kind: KeyKind::P256,
            custody: hsm::Custody::NonExtractable,
            policy: None,
        };
        self.succeeds(&engine, "key.generate", &plan).await;
        let plan = ChangePlan { workspace, scope: PolicyScope::Workspace, policy: policy(60) };
        self.succeeds(&engine, "signing.policy_change", &plan).await;
        engine.close().await;
    }

    pub(crate) async fn succeeds(&self, engine: &Engine, workflow: &str, plan: &impl serde::Serialize) {
        let wish = StartRequest::new(workflow, self.scope(), plan).expect("a wish").origin(by("operator:0"));
        let started = engine.launch(wish).await.expect("a start");
        let end =
            engine.wait(&started.key, Duration::from_secs(30)).await.expect("a ledger").expect("an end");
        assert_eq!(end.state, State::Succeeded, "{workflow}: {end:?}");
    }

    pub(crate) async fn engine(&self, definitions: Vec<Definition>) -> Engine {
        let catalog = Catalog::new(definitions).expect("a catalog");
        Engine::start(EngineParts { catalog, ..self.parts() }).await.expect("an engine")
    }

    fn services(&self) -> (Arc<Keys>, Arc<Signing>, Runner) {
        let built = self.built.lock().unwrap();
        (built.keys.clone(), built.signing.clone(), built.ground.runner.clone())
    }

    fn ledger(&self) -> Ledger {
        self.built.lock().unwrap().ground.ledger.clone()
    }

    pub(crate) fn scope(&self) -> Scope {
        Scope::Workspace(self.workspace.on_ledger().clone())
    }

    /// The definition over the services as they are now.
    pub(crate) fn definition(&self) -> Definition {
        let signing = self.services().1;
        match self.proven {
            Proven::Request => workflows::signing::request(&signing),
            Proven::Batch => workflows::signing::batch(&signing),
            Proven::Change => workflows::signing::policy_change(&signing),
            Proven::Key => workflows::keys::generate(&self.services().0),
        }
        .expect("a definition")
    }

    /// The definition that changes policies.
    pub(crate) fn policy_change(&self) -> Definition {
        workflows::signing::policy_change(&self.services().1).expect("a definition")
    }

    async fn look<T: Send + 'static>(
        &self,
        work: impl FnOnce(&View<'_>, &WorkspaceId) -> Result<T, SqlFault> + Send + 'static,
    ) -> T {
        let workspace = self.workspace.clone();
        self.ledger().read(move |view| work(view, &workspace)).await.expect("a look at the ledger")
    }

    /// The ballot of the newest vote that is open.
    async fn ballot(&self) -> Option<Ballot> {
        self.ballot_of(self.proven == Proven::Change).await
    }

    /// The ballot of the newest change of policy, or request, whose vote is open.
    async fn ballot_of(&self, change: bool) -> Option<Ballot> {
        self.look(move |view, workspace| {
            let newest = if change {
                let staged = store::policies(view, workspace)?
                    .into_iter()
                    .filter(|it| it.state == PolicyState::Staged);
                staged.map(|it| it.id).max()
            } else {
                store::requests(view, workspace)?.into_iter().map(|it| it.workflow.to_string()).max()
            };
            let Some(newest) = newest else { return Ok(None) };
            Ok(approvals::pending(view, workspace, &newest)?.map(|it| it.ballot))
        })
        .await
    }

    async fn requested(&self, round: u64) -> Json {
        let (key, contents) = (self.key.clone(), contents(self.proven, round));
        let workflow_of = move |view: &View<'_>, workspace: &WorkspaceId| {
            let mut claimed = 0;
            for content in &contents {
                let (nonce, digest) = (nonce(round), content.digest());
                let claim = ClaimKey { key: &key, nonce: &nonce, digest: &digest };
                claimed += usize::from(store::claimed_by(view, workspace, claim)?.is_some());
            }
            let used = store::used(view, workspace, &PolicyScope::Workspace)?.unwrap_or_default();
            let open = store::requests(view, workspace)?;
            let mut reserved = 0;
            for request in &open {
                reserved += store::reserved(view, workspace, &request.workflow.to_string())?.len();
            }
            Ok((claimed, used, i64::try_from(open.len() + reserved).unwrap_or(i64::MAX)))
        };
        let (claimed, used, open) = self.look(workflow_of).await;
        // A round in whose time another window began is counted from the beginning of that one.
        let (used, window) = used;
        let same_window = self.baseline(round + (1 << 41), window) == window;
        let used = used - if same_window { self.baseline(round, used) } else { 0 };
        let open = open - self.baseline(round + (1 << 40), open);
        // The key's use counter is not compared: each attempt counts one, and none is ever taken back.
        json!({ "claimed": claimed, "used": used, "open": open })
    }

    async fn changed(&self, round: u64) -> Json {
        let policies = self.look(store::policies).await;
        let staged =
            i64::try_from(policies.iter().filter(|it| it.state == PolicyState::Staged).count()).unwrap();
        let staged = staged - self.baseline(round, staged);
        let active: Vec<_> = policies.iter().filter(|it| it.state == PolicyState::Active).collect();
        let ours = active.iter().any(|it| it.policy == policy(60 + round));
        let version = active.iter().map(|it| it.version).max().unwrap_or_default();
        let newer = version - self.baseline(round + (1 << 40), version);
        json!({ "staged": staged, "ours": ours, "active": active.len(), "newer": newer })
    }

    async fn made(&self, round: u64) -> Json {
        let card = self.services().0.card(&self.workspace, &format!("key-{round}")).await.ok();
        let (state, key) =
            (card.as_ref().map(|it| it.row.state.text()), card.map(|it| PolicyScope::Key(it.row.id.clone())));
        let policies = self.look(store::policies).await;
        let own = policies.iter().filter(|it| Some(&it.scope) == key.as_ref()).count();
        let policies = i64::try_from(policies.len()).unwrap();
        let policies = policies - self.baseline(round, policies);
        let held = i64::try_from(self.double.keys_held()).unwrap();
        let held = held - self.baseline(round + (1 << 40), held);
        json!({ "key": state, "its_policies": own, "policies": policies, "in_token": held })
    }

    /// A change of the workspace's policy to one that expires after so many seconds.
    pub(crate) fn change(&self, expires_seconds: u64) -> ChangePlan {
        let scope = PolicyScope::Workspace;
        ChangePlan { workspace: self.workspace.clone(), scope, policy: policy(expires_seconds) }
    }

    /// The ballot of the vote that is about to open.
    pub(crate) async fn ballot_soon(&self) -> Ballot {
        self.ballot_soon_of(self.proven == Proven::Change).await
    }

    /// The same, of a change of policy or of a request.
    pub(crate) async fn ballot_soon_of(&self, change: bool) -> Ballot {
        let open = tokio::time::timeout(Duration::from_secs(30), async {
            loop {
                match self.ballot_of(change).await {
                    Some(ballot) => return ballot,
                    None => tokio::task::yield_now().await,
                }
            }
        });
        open.await.expect("a vote opens")
    }

    /// How many entries of an action have this outcome in their `after`.
    pub(crate) async fn told(&self, action: &str, outcome: &str) -> usize {
        let filter = EntryFilter {
            scope: EntryScope::Workspace(self.workspace.on_ledger().clone()),
            action: Some(action.to_owned()),
            limit: 500,
            ..EntryFilter::default()
        };
        let entries = self.look(move |view, _| view.entries(&filter)).await;
        entries
            .iter()
            .filter(|entry| {
                String::from_utf8_lossy(&entry.payload).contains(&format!("\"outcome\":\"{outcome}\""))
            })
            .count()
    }

    /// Everything that was written agrees with itself, as an auditor's own tool finds it.
    pub(crate) async fn the_ledger_verifies(&self) {
        self.ledger().close().await;
        let source = Source::open(&self.directory.path().join("ledger.db")).expect("a ledger file");
        let report = verify(&source, &Terms::default(), |_| {}).expect("a report");
        assert!(report.finding.is_none() && report.entries > 100, "{report:?}");
    }

    /// What a figure was when the round was looked at first.
    fn baseline(&self, name: u64, figure: i64) -> i64 {
        *self.baselines.lock().unwrap().entry(name).or_insert(figure)
    }
}

fn by(actor: &str) -> Origin {
    Origin { actor: actor.to_owned(), ..Origin::default() }
}

fn nonce(round: u64) -> String {
    format!("round-{round}")
}

fn contents(proven: Proven, round: u64) -> Vec<Content> {
    let digest = |item: u64| {
        let bytes = [round.to_be_bytes(), item.to_be_bytes()].concat();
        Content::Digest(hex::encode(hsm::Hash::Sha256.digest(&bytes)))
    };
    (0..if proven == Proven::Batch { 3 } else { 1 }).map(digest).collect()
}

fn build(directory: &TempDir, clock: &Arc<TestClock>, token: &Token) -> Built {
    let ledger = Ledger::open(LedgerOptions {
        path: directory.path().join("ledger.db"),
        origin: "sign.example/log".to_owned(),
        schemas: gateway::services::schemas(),
        clock: clock.clone(),
        random: Arc::new(MachineRandom),
        limits: LedgerLimits { readers: 1, ..LedgerLimits::default() },
        dangerous_without_recovery: true,
    })
    .expect("a ledger");
    let ground = Ground {
        ledger,
        clock: clock.clone(),
        dice: Dice::system(),
        runner: Runner::default(),
        confirm: gateway::services::credentials::confirm,
    };
    let custody = Custody::new(MasterKey::generate().expect("a master key"));
    let roster = Roster::new(clock.clone());
    let shared = SharedToken::new(token.clone(), 2);
    let workspaces = Arc::new(Workspaces::new(ground.clone(), roster, custody, shared.clone()));
    let keys = Arc::new(Keys::new(ground.clone(), workspaces, shared, directory.path().join("backups")));
    let signer = Signer::new(token.clone(), Metrics::default());
    let signing = Arc::new(Signing::new(ground.clone(), keys.clone(), Admission::default(), signer));
    Built { ground, keys, signing }
}

impl World for SignWorld {
    fn request(&self, round: u64) -> StartRequest {
        let (workspace, key) = (self.workspace.clone(), self.key.clone());
        let (version, scheme, encoding) = (1, Scheme::EcdsaSha256, gateway::crypto::Encoding::Der);
        let (intent, nonce, context) = ("release".to_owned(), nonce(round), None);
        let mut items = contents(self.proven, round);
        let wish = match self.proven {
            Proven::Request => {
                let content = items.remove(0);
                let plan = RequestPlan {
                    workspace,
                    key,
                    version,
                    fence: 0,
                    scheme,
                    content,
                    encoding,
                    intent,
                    nonce,
                    context,
                };
                StartRequest::new("signing.request", self.scope(), &plan)
            }
            Proven::Batch => {
                let merkle_root = bundle::merkle_root(&items).expect("a root");
                let plan = BatchPlan {
                    workspace,
                    key,
                    version,
                    fence: 0,
                    scheme,
                    items,
                    merkle_root,
                    encoding,
                    intent,
                    nonce,
                    context,
                };
                StartRequest::new("signing.batch", self.scope(), &plan)
            }
            Proven::Change => {
                StartRequest::new("signing.policy_change", self.scope(), &self.change(60 + round))
            }
            Proven::Key => {
                let name = format!("key-{round}").parse().expect("a name");
                let (key, kind) = (SigningKeyId::new(&Dice::system()), KeyKind::P256);
                let (custody, policy) = (hsm::Custody::NonExtractable, Some(policy(60)));
                let plan = NewKeyPlan { workspace, key, name, kind, custody, policy };
                StartRequest::new("key.generate", self.scope(), &plan)
            }
        };
        wish.expect("a wish").origin(by("operator:1"))
    }

    fn answer(&self, step: &str, round: u64) -> Vec<Heard> {
        let heard = |name, payload| {
            let call = self.called.fetch_add(1, Ordering::SeqCst);
            vec![Heard { name, dedupe: format!("operator:{}", 1000 + call), payload }]
        };
        match step {
            "signing.await_approvals" => {
                let ballot =
                    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(self.ballot()));
                ballot.map_or(Vec::new(), |ballot| heard("approve", json!(ballot)))
            }
            // One word that is no veto, since it names another request; then its time passes.
            "signing.await_timelock" if self.locked.lock().unwrap().insert(round, ()).is_none() => {
                heard("refuse", json!({ "digest": "another", "policy_version": 0 }))
            }
            _ => Vec::new(),
        }
    }

    async fn snapshot(&self, round: u64) -> Json {
        match self.proven {
            Proven::Change => self.changed(round).await,
            Proven::Key => self.made(round).await,
            _ => self.requested(round).await,
        }
    }

    fn parts(&self) -> EngineParts {
        EngineParts {
            ledger: self.ledger(),
            catalog: Catalog::default(),
            seal: Arc::new(TestSeal),
            clock: self.clock.clone(),
            random: self.dice.clone(),
            limits: SagaLimits { poll: Duration::from_millis(20), ..SagaLimits::default() },
            observer: Arc::new(Deaf),
        }
    }

    fn rebuilt(&self) -> Option<Definition> {
        Some(self.definition())
    }

    fn clock(&self) -> Arc<TestClock> {
        self.clock.clone()
    }

    async fn reopen(&self) {
        self.ledger().close().await;
        let built = build(&self.directory, &self.clock, &self.token);
        let runner = built.ground.runner.clone();
        *self.built.lock().unwrap() = built;
        // It knows no definition, so it drives nothing; a change of policy calls requests off through it.
        let engine = self.engine(Vec::new()).await;
        runner.install(engine.clone());
        engine.close().await;
    }
}
