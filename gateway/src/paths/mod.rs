//! Paths: read in one way only, and matched by their longest prefix.
//! Who enters: paths as they came; prefixes, at load.
//! What leaves: plain paths, or refusals; the one entry that a path belongs to.

pub mod plain;
pub mod prefixes;

pub use plain::{PathRefused, PlainPath};
pub use prefixes::{Prefixes, Tie};
