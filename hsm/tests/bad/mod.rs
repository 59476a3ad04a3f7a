//! SoftHSM behind a module of ours, compiled here, that does what it is told.
//! Enters: words.
//! Leaves: a configuration whose module listens to them.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use hsm::TokenConfig;

use crate::host::Host;

/// A host whose module listens to words.
pub struct Bad {
    pub host: Host,
    words: PathBuf,
    module: PathBuf,
}

impl Bad {
    pub fn new() -> Self {
        let host = Host::new();
        let (words, module) = (host.dir.path().join("words"), host.dir.path().join("bad.so"));
        fs::write(&words, "").unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/badmodule/module.c");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&module)
            .args([source, "-ldl"])
            .output();
        match built {
            Ok(built) => assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr)),
            Err(fault) => panic!("cc does not run ({fault}); install the package gcc or clang"),
        }
        Self { host, words, module }
    }

    pub fn say(&self, word: &str) {
        fs::write(&self.words, word).unwrap();
    }

    pub fn config(&self) -> TokenConfig {
        self.host.config_with(|config| {
            let real = config.module.display().to_string();
            config.environment.insert("BAD_MODULE_REAL".to_owned(), real);
            config.environment.insert("BAD_MODULE_WORDS".to_owned(), self.words.display().to_string());
            config.module = self.module.clone();
        })
    }
}
