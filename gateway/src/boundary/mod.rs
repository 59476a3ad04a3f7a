//! The boundary: where HTTP begins and ends. Listen, limit, authenticate, route, guard, parse, answer.
//! Who enters: bytes from the network and the local socket.
//! What leaves: a `Caller` and a typed command to a service; an answer or a problem document back.

pub mod authenticate;
mod bodies;
pub mod body;
pub mod closed;
pub mod connection;
pub mod drain;
mod enrolled;
pub mod framing;
pub mod gate;
mod handshake_threads;
mod handshakes;
mod headers;
mod inside;
pub mod listen;
pub mod local;
pub mod monitoring;
mod outside;
mod overseer;
pub mod rate;
pub mod respond;
mod semantics;
mod structured;
pub mod tls;
pub mod trace;
mod turns;
