//! The report: what holds, by whose word, and what remains unproven; the same for people and for programs.
//! Who enters: the verifier with its sums.
//! What leaves: a few lines of text, or one JSON object.

use std::fmt;

use serde::Serialize;

use crate::check::{Finding, Walk};

use super::seals::Seen;
use super::source::Source;
use super::{Terms, Trust};

/// No checkpoint covers the tables that the daemon acts upon, although they lie in the same file.
pub(super) const STATE: &str = "that the daemon acts upon what these entries say: its tables of keys, clients, API keys, \
    policies and approvals are under no checkpoint, and who can write the file can change them unseen";

/// Which entries an excerpt shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Extent {
    /// Whose; absent for everybody's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// The first number of its range.
    pub from: u64,
    /// The last number of its range.
    pub to: u64,
    /// Entries that its checkpoint covers.
    pub size: u64,
}

/// What a verification came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether everything that could be checked holds.
    pub verified: bool,
    /// What does not hold, if anything; the walk ends there.
    pub finding: Option<String>,
    /// What was looked at.
    pub source: String,
    /// The log's name.
    pub origin: String,
    /// By whose word the checkpoints are taken.
    pub trust: String,
    /// The keys whose lines were checked on the newest checkpoint.
    pub signers: Vec<String>,
    /// Entries walked.
    pub entries: u64,
    /// Entries under a checkpoint.
    pub covered: u64,
    /// Entries beyond the last checkpoint.
    pub tail: u64,
    /// Checkpoints.
    pub checkpoints: u64,
    /// Checkpoints with a TPM's signed word.
    pub attested: u64,
    /// What held the newest checkpoint.
    pub tier: String,
    /// Root over all entries walked.
    pub root: String,
    /// What this does not show.
    pub not_proven: Vec<String>,
    /// Of an excerpt: which entries it shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub excerpt: Option<Extent>,
}

impl Report {
    pub(crate) fn new(
        source: &Source,
        trust: Trust,
        walk: &Walk,
        seen: Seen,
        withheld: u64,
        terms: &Terms,
        finding: Option<Finding>,
    ) -> Self {
        let entries = walk.tip().size();
        let not_proven = not_proven(trust, entries, &seen, withheld, terms);
        Self {
            verified: finding.is_none(),
            finding: finding.map(|finding| finding.to_string()),
            source: source.kind().to_owned(),
            origin: source.origin().to_owned(),
            trust: trust.as_str().to_owned(),
            signers: seen.signers,
            entries,
            covered: seen.covered,
            tail: entries - seen.covered,
            checkpoints: seen.checkpoints,
            attested: seen.attested,
            tier: seen.tier.unwrap_or_else(|| "none".to_owned()),
            root: hex::encode(walk.tip().frontier.root()),
            not_proven,
            excerpt: None,
        }
    }
}

fn not_proven(trust: Trust, entries: u64, seen: &Seen, withheld: u64, terms: &Terms) -> Vec<String> {
    let mut open = Vec::new();
    match trust {
        Trust::Pinned => {}
        Trust::Bundled => {
            open.push(
                "that the bundled keys are the appliance's own: compare them, or give --key".to_owned(),
            );
        }
        Trust::ChainOnly => {
            open.push("who sealed it: no signature was checked, because no key was given (--key)".to_owned());
        }
    }
    if seen.attested > 0 && seen.ak_bundled {
        open.push("that the attestation key is the appliance's TPM: compare it, or give --ak".to_owned());
    }
    match seen.tier.as_deref() {
        Some("tpm-nv") => {}
        Some("token-object") => {
            open.push(
                "anything against someone who held the token's PIN: the anchor is an object in the token"
                    .to_owned(),
            );
        }
        _ => open
            .push("that this is the newest state: no hardware remembers how far the log had come".to_owned()),
    }
    if seen.covered < entries {
        let tail = entries - seen.covered;
        open.push(format!("the last {tail} entries (from {}): no checkpoint covers them yet, they may still be cut off unseen", seen.covered));
    }
    if withheld > 0 {
        open.push(format!("the details of {withheld} entries: their payloads were left out"));
    }
    if terms.known.is_none() {
        open.push(
            "that nothing was cut off since you last looked: give the checkpoint you kept (--checkpoint)"
                .to_owned(),
        );
    }
    if seen.uncompared > 0 {
        open.push(format!(
            "what the entries tell of {} checkpoints: their payloads were left out",
            seen.uncompared
        ));
    }
    open.push(STATE.to_owned());
    open.push(
        "that what the entries say is true, or that nobody else was shown another log (witnesses)".to_owned(),
    );
    open
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.finding {
            None => writeln!(f, "VERIFIED  {} `{}`", self.source, self.origin)?,
            Some(finding) => writeln!(f, "DOES NOT VERIFY  {} `{}`\n  {finding}", self.source, self.origin)?,
        }
        writeln!(
            f,
            "  entries      {} ({} under a checkpoint, {} beyond)",
            self.entries, self.covered, self.tail
        )?;
        if let Some(Extent { workspace, from, to, size }) = &self.excerpt {
            let whose = workspace.as_ref().map_or("everybody's", String::as_str);
            writeln!(f, "  excerpt      {whose}, {from} to {to} of {size}")?;
        }
        writeln!(
            f,
            "  checkpoints  {} ({} attested by a TPM), newest held by: {}",
            self.checkpoints, self.attested, self.tier
        )?;
        writeln!(f, "  trust        {}", self.trust)?;
        for signer in &self.signers {
            writeln!(f, "               signed by {signer}")?;
        }
        writeln!(f, "  root         {}", self.root)?;
        writeln!(f, "not proven:")?;
        for open in &self.not_proven {
            writeln!(f, "  - {open}")?;
        }
        Ok(())
    }
}
