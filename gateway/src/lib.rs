//! The gateway: the daemon's boundary, its services, and the one door to the keys.
//! Who enters: clients over mutual TLS, operators over a local socket.
//! What leaves: answers; every signature among them was on the ledger before its key was touched.

pub mod admission;
pub mod again;
pub mod api;
pub mod appliance;
pub mod boundary;
pub mod ca;
pub mod cli;
pub mod compartments;
pub mod config;
pub mod crypto;
pub mod custody;
pub mod dial;
pub mod dice;
pub mod events;
pub mod face;
pub mod following;
pub mod hardware;
pub mod health;
pub mod housekeeping;
pub mod ids;
pub mod leases;
pub mod limits;
pub mod malformed;
pub mod metrics;
pub mod moment;
pub mod paths;
pub mod routing;
pub mod runner;
pub mod runs;
pub mod sealing;
pub mod serve;
pub mod services;
pub mod signer;
pub mod status;
pub mod topics;
pub mod traces;
pub mod unsent;
pub mod upstream;
pub mod wiring;
pub mod workflows;
