//! The appliance's authorities as they stand now, oldest first: who issues, who is trusted, who is retired.
//! Who enters: the wiring at start; the succession, after each commit that changed the line.
//! What leaves: the issuer for a client or for the server, the roots of handshakes, and word of every change.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{Authority, Validity};
use crate::api::CertificateHash;
use crate::moment::Moment;

/// Where an authority stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Its certificates count.
    Trusted,
    /// Nothing that it issued counts any more.
    Retired {
        /// Since when.
        at: Moment,
    },
}

/// The line of authorities at one moment. There is always one that is trusted.
#[derive(Clone)]
pub struct Line {
    members: Vec<(Authority, Standing)>,
    oldest: Authority,
    newest: Authority,
    number: u64,
}

/// Nobody in the line is trusted.
#[derive(Debug, thiserror::Error)]
#[error("no certificate authority of this appliance is trusted")]
pub struct NobodyTrusted;

/// The present line, and whether the network's face has followed it; cheap to clone.
#[derive(Clone)]
pub struct Authorities {
    present: Arc<watch::Sender<Arc<Line>>>,
    worn: Arc<watch::Sender<u64>>,
    server: Arc<watch::Sender<Option<Validity>>>,
}

impl Line {
    /// A line, oldest first.
    ///
    /// # Errors
    /// Nobody in it is trusted.
    pub fn new(members: Vec<(Authority, Standing)>) -> Result<Self, NobodyTrusted> {
        let mut trusted = members.iter().filter(|(_, standing)| *standing == Standing::Trusted);
        let oldest = trusted.next().map(|(authority, _)| authority.clone()).ok_or(NobodyTrusted)?;
        let newest = trusted.next_back().map_or_else(|| oldest.clone(), |(authority, _)| authority.clone());
        Ok(Self { members, oldest, newest, number: 0 })
    }

    /// All, oldest first.
    pub fn members(&self) -> &[(Authority, Standing)] {
        &self.members
    }

    /// Those that are trusted, oldest first: the roots of client certificates, and the bundle for clients.
    pub fn trusted(&self) -> impl Iterator<Item = &Authority> {
        let trusted = self.members.iter().filter(|(_, standing)| *standing == Standing::Trusted);
        trusted.map(|(authority, _)| authority)
    }

    /// Issues for clients: the newest, so that its elders run out of clients.
    pub fn client_issuer(&self) -> &Authority {
        &self.newest
    }

    /// Issues for the server: the oldest, which every client knows.
    pub fn server_issuer(&self) -> &Authority {
        &self.oldest
    }

    /// The same at this moment: the oldest whose time is not over. One that has ended vouches for nobody.
    pub fn server_issuer_at(&self, now: Moment) -> &Authority {
        self.trusted().find(|one| one.validity().holds(now)).unwrap_or(&self.oldest)
    }

    /// The first of all, made with the appliance.
    pub fn first(&self) -> &Authority {
        self.members.first().map_or(&self.oldest, |(first, _)| first)
    }

    /// Is it the first of all?
    pub fn is_first(&self, fingerprint: &CertificateHash) -> bool {
        self.first().fingerprint() == *fingerprint
    }

    /// Counts the lines since the start.
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl Authorities {
    /// The authorities of a start.
    pub fn new(line: Line) -> Self {
        let number = line.number;
        Self {
            present: Arc::new(watch::Sender::new(Arc::new(line))),
            worn: Arc::new(watch::Sender::new(number)),
            server: Arc::new(watch::Sender::new(None)),
        }
    }

    /// As they stand now.
    pub fn present(&self) -> Arc<Line> {
        Arc::clone(&self.present.borrow())
    }

    /// They stand otherwise now; whoever waits for changes is told.
    pub fn replace(&self, line: Line) {
        self.present.send_modify(|present| {
            let number = present.number + 1;
            *present = Arc::new(Line { number, ..line });
        });
    }

    /// Word of every change from now on.
    pub fn changes(&self) -> watch::Receiver<Arc<Line>> {
        self.present.subscribe()
    }

    /// New handshakes see this line from now on.
    pub fn wear(&self, line: &Line) {
        self.worn.send_modify(|worn| *worn = line.number.max(*worn));
    }

    /// New handshakes see a server's certificate of this time.
    pub fn show(&self, server: Option<Validity>) {
        self.server.send_replace(server);
    }

    /// The time of the server's certificate, once there is one.
    pub fn shown(&self) -> Option<Validity> {
        *self.server.borrow()
    }

    /// New handshakes see the present line.
    pub fn are_worn(&self) -> bool {
        *self.worn.borrow() >= self.present().number
    }

    /// Waits until new handshakes see the line that is present now; false if that takes too long.
    pub async fn come_to_be_worn(&self, patience: Duration) -> bool {
        let number = self.present().number;
        let mut worn = self.worn.subscribe();
        let seen = worn.wait_for(|worn| *worn >= number);
        matches!(tokio::time::timeout(patience, seen).await, Ok(Ok(_)))
    }
}
