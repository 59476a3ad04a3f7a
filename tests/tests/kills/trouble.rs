//! Trouble in the world: what makes a workflow turn round that nobody calls off and nobody refuses.
//! Who enters: stories of workflows that wait for nobody; the rounds, at each start after a blow.
//! What leaves: a token that does not do something, or a defect in the house, as long as the story lasts; a call that is still
//! under way when its time is over.

use std::path::PathBuf;

use promises::Appliance;
use promises::daemon::kill;
use rusqlite::Connection;
use rustix::process::{Pid, Signal, kill_process};

/// What a token may have been set up without: SoftHSM leaves out a mechanism that its configuration names so.
pub(crate) enum Lack {
    /// Signatures of RSA keys, those that prove that a copy is whole among them. The ledger's seal does without.
    RsaSignatures,
}

/// A defect of ours, played by the database: the row that a pivot would change stays as it is.
#[derive(Clone, Copy)]
pub(crate) enum Defect {
    /// No key becomes enabled.
    KeysStayUnmade,
    /// No workspace becomes open.
    WorkspacesStayUnfounded,
}

/// How a workflow runs out of time before its pivot.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Late {
    /// The call to the token that is under way when its time is over.
    pub(crate) at: &'static str,
    /// In seconds, longer than the workflow may take.
    pub(crate) after: u64,
}

impl Lack {
    fn mechanism(&self) -> &'static str {
        match self {
            Self::RsaSignatures => "CKM_RSA_PKCS",
        }
    }
}

impl Defect {
    /// Puts the defect into the ledger of a house that is at rest.
    pub(crate) fn lie_in(self, house: &Appliance) {
        let (table, state) = match self {
            Self::KeysStayUnmade => ("keys", "enabled"),
            Self::WorkspacesStayUnfounded => ("workspaces", "open"),
        };
        let trigger = format!(
            "CREATE TRIGGER a_defect BEFORE UPDATE OF state ON {table} WHEN NEW.state = '{state}'
             BEGIN SELECT RAISE(IGNORE); END"
        );
        Connection::open(house.ledger()).expect("the ledger").execute_batch(&trigger).expect("a defect");
    }
}

/// Sets the token up with this lack, or as it was made. A worker reads that when it starts.
pub(crate) fn set_up(house: &Appliance, lack: Option<&Lack>) {
    let Some(hsm) = &house.hsm else { return };
    let (file, setting): (PathBuf, _) = (hsm.conf(), "slots.mechanisms");
    let text = std::fs::read_to_string(&file).expect("the token's configuration");
    let mut lines: Vec<String> =
        text.lines().filter(|line| !line.starts_with(setting)).map(str::to_owned).collect();
    // Named twice: SoftHSM 2.6.1 passes over the first name behind the minus.
    lines.extend(lack.map(Lack::mechanism).map(|it| format!("{setting} = -{it},{it}")));
    std::fs::write(file, lines.join("\n") + "\n").expect("set the token up");
}

/// The token holds its breath: its worker takes no call to its end until this is dropped.
pub(crate) struct Breath(Pid);

impl Breath {
    pub(crate) async fn held(house: &mut Appliance) -> Self {
        let worker = house.daemon().token_worker().await;
        kill(worker, Signal::STOP);
        Self(worker)
    }
}

impl Drop for Breath {
    fn drop(&mut self) {
        // One that went with its daemon needs nothing.
        let _ = kill_process(self.0, Signal::CONT);
    }
}
