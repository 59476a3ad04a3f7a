//! What an appliance is to be like, before there is one.
//! Who enters: tests, with the hardware they need and the settings they change.
//! What leaves: a plan that `start` turns into a running appliance.

use toml::{Table, Value};

use crate::appliance::Appliance;

/// The hardware to simulate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hardware {
    /// A PKCS#11 token alone.
    Token,
    /// A PKCS#11 token, and a TPM beside it.
    TokenAndTpm,
    /// A TPM that holds the keys as well.
    Tpm,
}

/// The plan of an appliance.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(crate) hardware: Hardware,
    pub(crate) settings: Vec<(String, Value)>,
    pub(crate) disk: Option<(String, u64)>,
    pub(crate) environment: Vec<(String, String)>,
}

impl Plan {
    /// With this hardware, and no settings but the necessary.
    pub fn with(hardware: Hardware) -> Self {
        Self { hardware, settings: Vec::new(), disk: None, environment: Vec::new() }
    }

    /// Sets one key of the configuration, such as `ledger.seal_seconds`.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.settings.push((key.to_owned(), value.into()));
        self
    }

    /// Puts a part of the appliance, such as `state`, on a disk of so many bytes.
    #[must_use]
    pub fn small_disk(mut self, part: &str, bytes: u64) -> Self {
        self.disk = Some((part.to_owned(), bytes));
        self
    }

    /// Gives the daemon a variable of the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Makes the hardware, initialises the appliance and serves.
    pub async fn start(self) -> Appliance {
        let mut appliance = self.init();
        appliance.serve().await;
        appliance
    }

    /// Makes the hardware and the configuration, and leaves the initialisation to the test.
    pub fn prepare(self) -> Appliance {
        Appliance::prepare(self)
    }

    /// Makes the hardware and initialises the appliance, which does not serve yet.
    pub fn init(self) -> Appliance {
        Appliance::init(self)
    }
}

/// Sets a key of a table of tables, named by its path.
pub(crate) fn set(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => drop(table.insert(key.to_owned(), value)),
        Some((section, rest)) => {
            let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            set(section.as_table_mut().expect("a section of the configuration"), rest, value);
        }
    }
}
