//! The walls round the daemon: its token's worker, whatever the library in it does, and the users of the machine that are no operators.
//! Who enters: a hostile PKCS#11 module in the real worker of a real daemon; a user id that nobody named.
//! What leaves: refusals, a daemon that serves on, and a status that says which walls stand.

mod hostile;
mod operators;
