//! `chancery-hsm`: the process that opens the token, killable at any moment.
//! Enters: a socket pair as standard input, from the daemon; the token's configuration as the first frame.
//! Leaves: answers; an exit when the device can no longer be trusted.

mod pkcs11;
mod tpm;

fn main() {}
