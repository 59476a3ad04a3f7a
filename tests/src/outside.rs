//! A key from outside: made and wrapped exactly as the recipe says it, with openssl alone.
//! Who enters: tests that bring a key in.
//! What leaves: its public half to announce, and its private half wrapped for the import key that the appliance shows.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::programs::{succeeds, tool};

const RECIPE: &str = include_str!("../../docs/recipes/import-a-key.md");

/// A key pair in a directory of its own.
#[derive(Debug)]
pub struct Outside {
    directory: TempDir,
}

impl Outside {
    /// Makes a key by the recipe's first block.
    pub fn make() -> Self {
        let outside = Self { directory: tempfile::tempdir().expect("a temporary directory") };
        outside.make_again();
        outside
    }

    /// A key by a script that leaves `key.pem` and `public.pem`.
    pub fn made_by(script: &str) -> Self {
        let outside = Self { directory: tempfile::tempdir().expect("a temporary directory") };
        outside.sh(script, "");
        outside
    }

    /// Puts another key in its place.
    pub fn make_again(&self) {
        self.sh(&block(0), "");
    }

    /// The public half, PEM.
    pub fn public_key(&self) -> String {
        fs::read_to_string(self.path().join("public.pem")).expect("a public key")
    }

    /// Wraps the private half by the recipe's second block, for what a key shows as `incoming`.
    pub fn wrapped_for(&self, incoming: &Value) -> String {
        fs::write(self.path().join("import.pem"), incoming["pem"].as_str().expect("PEM")).expect("write it");
        self.sh(&block(1), incoming["oaep"].as_str().expect("a hash"));
        fs::read_to_string(self.path().join("wrapped")).expect("a wrapped key")
    }

    /// Runs a script beside the key.
    pub fn sh(&self, script: &str, oaep: &str) {
        tool("openssl", "openssl");
        let mut shell = tool("bash", "bash");
        succeeds(shell.args(["-euc", script]).current_dir(self.path()).env("OAEP", oaep));
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// The recipe's shell blocks, in order: making, wrapping.
fn block(at: usize) -> String {
    let block = RECIPE.split("```sh\n").nth(at + 1).and_then(|rest| rest.split("```").next());
    block.expect("the recipe has two shell blocks").to_owned()
}
