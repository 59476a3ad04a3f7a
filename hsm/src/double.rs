//! A token in memory, for tests: the same queue, frames and deadlines, but faults on command.
//! Enters: a script of faults.
//! Leaves: real signatures by throw-away keys, or the fault asked for.

/// A token in memory. Clones share keys and faults.
#[derive(Clone, Debug, Default)]
pub struct Double {}
