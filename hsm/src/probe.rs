//! What a token is and can do, found out by asking and trying, not by believing.
//! Enters: what the back-end learnt while it connected.
//! Leaves: a table for people, a document for programs.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::scheme::{KeyKind, Scheme};

/// Something beyond signing that a token may be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Power {
    /// HMAC-SHA256 inside the token.
    Hmac,
    /// Wrapping of secrets under a root key that cannot leave.
    Wrap,
    /// Wrapping bound to the machine's measured state.
    MeasuredState,
    /// An anchor that remembers the ledger's head.
    Anchor,
    /// A counter that only grows.
    Counter,
    /// Signed statements about anchor and state.
    Attest,
    /// Keys made elsewhere, brought in wrapped.
    Import,
    /// Keys made recoverable, backed up and restored under a backup key.
    Backup,
}

/// A wall round the worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wall {
    /// What it keeps the worker from.
    pub name: String,
    /// It stands as it should.
    pub stands: bool,
    /// What it is made of on this kernel, or why it is missing.
    pub by: String,
}

/// What a token is and can do.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Probe {
    /// "pkcs11", "tpm" or "double".
    pub backend: String,
    /// Who made the device.
    pub manufacturer: String,
    /// Which device it is.
    pub model: String,
    /// Its serial, by which it is bound.
    pub serial: String,
    /// Its label, for people only.
    pub label: String,
    /// Version of the module or firmware.
    pub library_version: String,
    /// Where it was found: slot number or TCTI.
    pub place: String,
    /// How many sessions the worker holds.
    pub sessions: u32,
    /// Mechanisms by name.
    pub mechanisms: Vec<String>,
    /// Kinds of key it can make.
    pub kinds: Vec<KeyKind>,
    /// Schemes it can sign with.
    pub schemes: Vec<Scheme>,
    /// What else it can do.
    pub powers: Vec<Power>,
    /// Objects without name and label, as a call that was cut off may leave them: nobody can say whose they are, so nobody removes them.
    /// As many as there were when the worker started; a token with very many objects is not looked through.
    #[serde(default)]
    pub strays: u32,
    /// Objects that bear names of ours and are not ours, or are there more than once, in words. They count for nothing.
    #[serde(default)]
    pub foreign: Vec<String>,
    /// The walls round the worker; none for a double, which has no process.
    #[serde(default)]
    pub walls: Vec<Wall>,
    /// Peculiarities worth knowing, in words.
    pub remarks: Vec<String>,
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |list: Vec<&str>| if list.is_empty() { "none".to_owned() } else { list.join(" ") };
        let powers = self.powers.iter().map(|power| power.name()).collect();
        let rows = [
            ("back-end", self.backend.clone()),
            ("device", format!("{} {}", self.manufacturer, self.model)),
            ("serial", self.serial.clone()),
            ("label", self.label.clone()),
            ("version", self.library_version.clone()),
            ("place", self.place.clone()),
            ("sessions", self.sessions.to_string()),
            ("kinds", names(self.kinds.iter().map(|kind| kind.name()).collect())),
            ("schemes", names(self.schemes.iter().map(|scheme| scheme.name()).collect())),
            ("powers", names(powers)),
            ("mechanisms", self.mechanisms.len().to_string()),
        ];
        for (name, value) in rows {
            writeln!(f, "{name:<11} {value}")?;
        }
        for wall in &self.walls {
            let stands = if wall.stands { "stands" } else { "MISSING" };
            writeln!(f, "{:<11} {}: {stands}, {}", "wall", wall.name, wall.by)?;
        }
        let strays = self.strays();
        self.remarks
            .iter()
            .chain(&self.foreign)
            .chain(&strays)
            .try_for_each(|remark| writeln!(f, "{:<11} {remark}", "remark"))
    }
}

impl Probe {
    /// All that lies about in it and should be looked at, in words.
    #[must_use]
    pub fn litter(&self) -> Option<String> {
        let words: Vec<_> = self.foreign.iter().cloned().chain(self.strays()).collect();
        (!words.is_empty()).then(|| words.join("; "))
    }

    /// The strays in words, if there are any.
    #[must_use]
    pub fn strays(&self) -> Option<String> {
        let words =
            "have neither name nor label; nobody can say whose they are, and nothing here removes them";
        (self.strays > 0).then(|| format!("{} objects in it {words}", self.strays))
    }
}

impl Power {
    /// The name in tables and documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hmac => "hmac",
            Self::Wrap => "wrap",
            Self::MeasuredState => "measured-state",
            Self::Anchor => "anchor",
            Self::Counter => "counter",
            Self::Attest => "attest",
            Self::Import => "import",
            Self::Backup => "backup",
        }
    }
}
