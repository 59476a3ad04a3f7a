//! The stand-alone verifier.
fn main() {}
