//! Faults: tokens that hang, crash and vanish, disks that fill and fail, power that goes, ledgers that were tampered with.
//! Who enters: appliances under load, with a journal kept outside of what is being broken.
//! What leaves: no wrong signature, none without its entry, clear refusals meanwhile, and service again without help.

mod disk;
mod keys;
mod late;
mod power;
mod rotation;
mod stop;
mod syscalls;
mod tampering;
mod token;
mod tpm;
