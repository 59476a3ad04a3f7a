//! Trouble in the world: what makes a workflow turn round that nobody calls off and nobody refuses.
//! Who enters: stories of workflows that wait for nobody; the rounds, at each start after a blow.
//! What leaves: a token that does not do something, as long as the story lasts; a step that is over when its time is.

use std::path::PathBuf;

use promises::Appliance;
use promises::daemon::kill;
use rustix::process::{Pid, Signal, kill_process};

/// What a token may have been set up without: SoftHSM leaves out a mechanism that its configuration names so.
pub(crate) enum Lack {
    /// Signatures of RSA keys, those that prove that a copy is whole among them. The ledger's seal does without.
    RsaSignatures,
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
    pub(crate) fn held(house: &mut Appliance) -> Self {
        let worker = house.daemon().workers()[0];
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
