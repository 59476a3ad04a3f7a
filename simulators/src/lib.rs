//! Simulators: the world around the appliance, made of real programs on this machine, with a knob for every fault.
//! In come tests, the demonstration and `chancery dev`, each with an own directory; nothing here is shared or global.
//! Out go running stand-ins that die with their owner, and the settings a daemon needs in order to use them.

mod bus;
mod error;
mod keeper;
mod programs;
mod softhsm;
mod swtpm;
pub mod upstream;

pub use bus::{Bus, Forgery, Strike};
pub use error::SimulatorError;
pub use softhsm::{SoftHsm, SoftToken};
pub use swtpm::{Snapshot, Swtpm};
pub use upstream::Upstream;
