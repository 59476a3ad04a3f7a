//! The stage: an appliance that is put back as it was before each round, so that all rounds of a story begin alike.
//! Who enters: a story, to furnish it; its rounds, one after the other.
//! What leaves: the same state, token and clock each time, and the people who act on it.

use std::path::{Path, PathBuf};
use std::process::Command;

use promises::people::sign_message;
use promises::programs::{libfaketime, succeeds, tool};
use promises::{Appliance, Hardware, Member, Operator, Plan, SCOPES, evidence, get};
use serde_json::Value;
use simulators::Snapshot;

use crate::book::is_told;
use crate::trouble::{self, Defect, Lack};
use crate::world;

/// An appliance with a workspace, its owner and two others who may approve.
pub(crate) struct Stage {
    /// The story that is told on it: its page in the book.
    pub(crate) story: &'static str,
    pub(crate) house: Appliance,
    pub(crate) owner: Member,
    pub(crate) others: Vec<Member>,
    /// What an auditor wrote down.
    keys: Vec<String>,
    /// The TPM as it was kept.
    tpm: Option<Snapshot>,
    /// The daemon's clock is so many seconds ahead of the machine's.
    ahead: u64,
    /// What the token does not do while the story lasts.
    lack: Option<Lack>,
    /// What is wrong in the house.
    defect: Option<Defect>,
}

/// The second operator: some steps need one, and root is the first.
pub(crate) const SECOND_OPERATOR: u32 = 7001;
/// What lasts beyond a process, besides the TPM, which keeps its own copies.
const LASTING: [&str; 2] = ["state", "hsm/tokens"];

impl Stage {
    /// Makes the appliance for a story and lets the people in. It serves, so that the story can furnish it. Nothing, if only a
    /// sample of the stories is to be told and this one is not in it.
    pub(crate) async fn set(story: &'static str, hardware: Hardware) -> Option<Self> {
        if !is_told(story) {
            println!("{story}: not in the sample; `make torture` tells it");
            return None;
        }
        Some(Self::make(story, hardware).await)
    }

    /// The same, whatever is sampled.
    pub(crate) async fn make(story: &'static str, hardware: Hardware) -> Self {
        let operators = vec![0, i64::from(SECOND_OPERATOR)];
        let mut house = Plan::with(hardware).set("operators.uids", operators).init();
        let uptime = house.path("uptime.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kills/uptime.c");
        succeeds(
            Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&uptime).args([source, "-ldl"]),
        );
        // What protects somebody waits by the uptime, everything else by the wall clock: both are moved.
        house.set_env("LD_PRELOAD", &format!("{}:{}", uptime.display(), libfaketime().display()));
        house.set_env("FAKETIME_TIMESTAMP_FILE", &house.path("clock").display().to_string());
        for name in ["FAKETIME_NO_CACHE", "FAKETIME_DONT_FAKE_MONOTONIC", "DONT_FAKE_MONOTONIC"] {
            house.set_env(name, "1");
        }
        std::fs::write(house.path("clock"), "+0").expect("set the clock");
        house.serve().await;
        let owner = house.member("acme").await;
        let mut others = Vec::new();
        for name in ["bob", "carol"] {
            let operator = house.operator().acting_in(&owner.workspace);
            let (_, identity) = operator.enrol(name).await;
            let (_, secret) = operator.issue(name, &SCOPES).await;
            others.push(owner.with_secret(&secret).with_identity(&identity));
        }
        Self { story, house, owner, others, keys: Vec::new(), tpm: None, ahead: 0, lack: None, defect: None }
    }

    /// The same, but from the story's beginning to its end the token does not do this.
    pub(crate) fn lacking(self, lack: Lack) -> Self {
        Self { lack: Some(lack), ..self }
    }

    /// The same, with this defect in the house.
    pub(crate) fn spoilt(self, defect: Defect) -> Self {
        Self { defect: Some(defect), ..self }
    }

    /// The operator, acting in the workspace.
    pub(crate) fn operator(&self) -> Operator {
        self.house.operator().acting_in(&self.owner.workspace)
    }

    /// Keeps everything as it is now, for the rounds to come.
    pub(crate) async fn keep(&mut self) {
        self.keys = evidence::verifier_keys(&self.house).await;
        self.house.terminate().await;
        if let Some(defect) = self.defect {
            defect.lie_in(&self.house);
        }
        for part in LASTING.into_iter().filter(|part| self.house.path(part).exists()) {
            copy(&self.house.path(part), &self.kept(part));
        }
        self.tpm = self.house.tpm.as_ref().map(|tpm| tpm.snapshot("kept").expect("a copy of the TPM"));
    }

    /// Puts everything back as it was kept, and serves.
    pub(crate) async fn put_back(&mut self) {
        for part in LASTING.into_iter().filter(|part| self.kept(part).exists()) {
            let place = self.house.path(part);
            std::fs::remove_dir_all(&place).expect("make room");
            copy(&self.kept(part), &place);
        }
        if let (Some(tpm), Some(kept)) = (&mut self.house.tpm, &self.tpm) {
            tpm.roll_back(kept).expect("the TPM as it was");
        }
        self.set_clock(0);
        trouble::set_up(&self.house, self.lack.as_ref());
        self.house.serve().await;
        self.is_quiet().await;
    }

    /// Mends the token, if it lacked something.
    pub(crate) async fn mend(&mut self) {
        if self.lack.is_some() {
            self.house.terminate().await;
            trouble::set_up(&self.house, None);
            self.house.serve().await;
        }
    }

    /// Waits until the ledger is sealed, as it is some time after a start and when somebody asks for it. Then nothing is written
    /// to file or token until somebody asks for something else.
    async fn is_quiet(&self) {
        drop(evidence::verifier_keys(&self.house).await);
    }

    /// What stands now.
    pub(crate) async fn world(&self) -> String {
        self.is_quiet().await;
        world::of(&self.house)
    }

    /// Moves the daemon's clock to `us`, in microseconds since 1970, unless it is later already.
    pub(crate) fn move_clock_to(&mut self, us: u64) {
        let now = std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970");
        // A second more: the file knows no smaller unit.
        self.let_pass((us / 1_000_000 + 1).saturating_sub(now.as_secs()));
    }

    /// So many seconds go by, from the story's beginning on.
    pub(crate) fn let_pass(&mut self, seconds: u64) {
        if seconds > self.ahead {
            self.set_clock(seconds);
        }
    }

    fn set_clock(&mut self, ahead: u64) {
        self.ahead = ahead;
        std::fs::write(self.house.path("clock"), format!("+{ahead}")).expect("set the clock");
    }

    /// Stops the daemon, and insists that its ledger verifies from genesis.
    pub(crate) async fn verifies(&mut self) {
        self.house.terminate().await;
        evidence::verifies_at_rest(&self.house, &self.keys);
    }

    /// Says something as the second operator, who is another user of this machine: by the socket, with curl. Whether it was
    /// taken: the daemon may die over it, as over any other request.
    pub(crate) async fn tell_as_second_operator(&self, path: &str, body: &str) -> bool {
        let uid = SECOND_OPERATOR.to_string();
        let mut command = tool("setpriv", "util-linux");
        // Without the capability, another user would not reach into root's temporary directory.
        command.args(["--reuid", &uid, "--inh-caps", "+dac_override", "--ambient-caps", "+dac_override"]);
        command.args(["curl", "--silent", "--show-error", "--fail-with-body", "--unix-socket"]);
        command.arg(self.house.path("chancery.sock"));
        command.args(["-H", "content-type: application/json", "-H"]);
        command.arg(format!("chancery-workspace: {}", self.owner.workspace));
        command.args(["--data", body]).arg(format!("http://localhost{path}"));
        // Not in the way of whoever has to let a halted daemon go on.
        let said = tokio::process::Command::from(command).output().await.expect("curl starts");
        if !said.status.success() {
            println!("the second operator was not heard: {said:?}");
        }
        said.status.success()
    }

    /// Each key that is enabled signs, unless its policy wants a request for that.
    pub(crate) async fn enabled_keys_sign(&self, when: &str) {
        let operator = self.operator();
        let all = operator.ask(get("/v1/workspaces")).await.expect(200).json();
        let own = |it: &Value| it["id"] == self.owner.workspace.as_str() && it["state"] == "open";
        // In one that is closed for good nobody signs.
        if !all["workspaces"].as_array().expect("a list").iter().any(own) {
            return;
        }
        let keys = operator.ask(get("/v1/keys")).await.expect(200).json();
        for key in keys["keys"].as_array().into_iter().flatten().filter(|key| key["state"] == "enabled") {
            let id = key["id"].as_str().expect("an id");
            let scheme = if key["kind"] == "rsa-2048" { "rsa-pkcs1-sha256" } else { "ecdsa-sha256" };
            let signed = operator.ask(sign_message(id, scheme, b"after the power cut")).await;
            assert!(
                signed.status == 200 || signed.status == 403,
                "{when}: {key} does not sign: {}",
                signed.text()
            );
        }
    }

    fn kept(&self, part: &str) -> PathBuf {
        self.house.path("kept").join(part)
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().expect("a place to copy to")).expect("make a place");
    succeeds(Command::new("cp").arg("-a").arg(from).arg(to));
}
