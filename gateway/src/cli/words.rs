//! The words of the command line: what can be done with each thing, and with which options.
//! Who enters: arguments, parsed by clap.
//! What leaves: commands for `ask`; the help texts come from here too.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// What to do with workspaces.
#[derive(Debug, Subcommand)]
pub(super) enum WorkspaceCommand {
    /// Create a workspace.
    Create {
        /// Its name.
        name: String,
    },
    /// List workspaces.
    List,
    /// Close a workspace to its programs.
    Close {
        /// Its name or id.
        workspace: String,
    },
    /// Open a closed workspace again.
    Open {
        /// Its name or id.
        workspace: String,
    },
}

/// What to do with clients.
#[derive(Debug, Subcommand)]
pub(super) enum ClientCommand {
    /// Issue a client certificate; makes the key here unless --csr brings a request.
    Enroll {
        /// The client's name.
        name: String,
        /// A certificate signing request, PEM, of somebody who keeps their own key.
        #[arg(long)]
        csr: Option<PathBuf>,
        /// How many days it lives.
        #[arg(long, default_value_t = 90)]
        days: u32,
        /// The directory to write key, certificate and CA into.
        #[arg(long, default_value = ".")]
        out: PathBuf,
    },
    /// List the workspace's clients.
    List,
    /// Revoke a client; its open connections end at once.
    Revoke {
        /// Its name or id.
        client: String,
        /// Do not ask; it cannot be taken back.
        #[arg(long)]
        yes: bool,
    },
}

/// What to do with certificate authorities.
#[derive(Debug, Subcommand)]
pub(super) enum CaCommand {
    /// List the certificate authorities, and how many clients each of them has.
    List,
    /// Make a new one, which issues for clients from now on; the others stay trusted.
    Rotate,
    /// Retire one and revoke every client it issued; their connections end at once.
    Retire {
        /// The fingerprint of its certificate.
        fingerprint: String,
        /// Do not ask; it cannot be taken back.
        #[arg(long)]
        yes: bool,
    },
}

/// What to do with API keys.
#[derive(Debug, Subcommand)]
pub(super) enum ApiKeyCommand {
    /// Create an API key; its secret is shown once.
    Create {
        /// Its name.
        name: String,
        /// What it may do, such as `sign` or `keys:manage`; give it once for each scope.
        #[arg(long = "scope", required = true)]
        scopes: Vec<String>,
        /// When it ends, such as 2027-01-31T00:00:00Z.
        #[arg(long, value_parser = time_text)]
        expires: Option<String>,
    },
    /// List the workspace's API keys.
    List,
    /// Revoke an API key, at once.
    Revoke {
        /// Its name or id.
        key: String,
        /// Do not ask; it cannot be taken back.
        #[arg(long)]
        yes: bool,
    },
}

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Make a key in the token.
    Create {
        /// Its name.
        name: String,
        /// p256, p384, secp256k1, ed25519, rsa-2048, rsa-3072 or rsa-4096.
        #[arg(long, default_value = "p256")]
        kind: String,
        /// It may be backed up: it can then leave the token, wrapped under a key that cannot.
        #[arg(long)]
        recoverable: bool,
    },
    /// Bring in a key that was made elsewhere, in one go.
    Import {
        /// The name it will have.
        name: String,
        /// The private key: PKCS#8 in PEM, without a passphrase. It is read here and leaves this program wrapped.
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
    /// List the workspace's keys.
    List {
        /// Where the page before ended.
        #[arg(long)]
        after: Option<String>,
    },
    /// Show a key; with --public only the public key that signs now.
    Show {
        /// Its name or id.
        key: String,
        /// The public key alone, in this form.
        #[arg(long, value_name = "FORM")]
        public: Option<PublicForm>,
        /// Of this version instead of the one that signs now.
        #[arg(long, requires = "public", value_name = "VERSION")]
        key_version: Option<i64>,
    },
    /// Make a new version.
    Rotate {
        /// Its name or id.
        key: String,
        /// Seconds between announcing it and signing with it.
        #[arg(long, default_value_t = 0)]
        overlap: u64,
    },
    /// Take it out of use.
    Disable {
        /// Its name or id.
        key: String,
    },
    /// Put it back into use.
    Enable {
        /// Its name or id.
        key: String,
    },
    /// Destroy it after two others have approved, and after notice.
    ScheduleDestruction {
        /// Its name or id.
        key: String,
        /// Days of notice.
        #[arg(long, default_value_t = 30)]
        days: u32,
        /// Why, for those who approve.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Call off a scheduled destruction.
    Keep {
        /// Its name or id.
        key: String,
    },
}

/// How to sign a file.
#[derive(Debug, Args)]
pub(super) struct SignArgs {
    /// The key's name or id.
    #[arg(long)]
    pub(super) key: String,
    /// The scheme, such as ecdsa-sha256; may be left out where the key has only one.
    #[arg(long)]
    pub(super) scheme: Option<String>,
    /// Text for the ledger entry.
    #[arg(long)]
    pub(super) context: Option<String>,
    /// Where to write the signature, `-` for standard output; beside the file with `.sig` if absent.
    #[arg(long)]
    pub(super) out: Option<PathBuf>,
    #[command(flatten)]
    pub(super) what: What,
}

/// What is signed or verified.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct What {
    /// The digest in hexadecimal digits, made elsewhere, instead of a file.
    #[arg(long, value_name = "HEX")]
    pub(super) digest: Option<String>,
    /// The file, of any size; `-` is standard input.
    pub(super) file: Option<PathBuf>,
}

/// The forms in which a public key is shown.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum PublicForm {
    /// SubjectPublicKeyInfo in PEM.
    Pem,
    /// A line for OpenSSH.
    Ssh,
    /// A JSON Web Key.
    Jwk,
}

impl PublicForm {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Pem => "pem",
            Self::Ssh => "ssh",
            Self::Jwk => "jwk",
        }
    }
}

fn time_text(text: &str) -> Result<String, String> {
    use time::format_description::well_known::Rfc3339;
    let read = time::OffsetDateTime::parse(text, &Rfc3339);
    read.map(|_| text.to_owned()).map_err(|_| "write the time like 2027-01-31T00:00:00Z".to_owned())
}

/// How to verify a file.
#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// The key's name or id.
    #[arg(long)]
    pub(super) key: String,
    /// The scheme; may be left out where the key has only one.
    #[arg(long)]
    pub(super) scheme: Option<String>,
    /// The key's version; the latest if absent.
    #[arg(long)]
    pub(super) key_version: Option<i64>,
    /// The signature file.
    #[arg(long)]
    pub(super) signature: PathBuf,
    #[command(flatten)]
    pub(super) what: What,
}

/// What to do with the ledger.
#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Entries: of a workspace with --workspace, of everybody without.
    Entries {
        /// Only this act.
        #[arg(long)]
        action: Option<String>,
        /// Only about this thing.
        #[arg(long)]
        object: Option<String>,
        /// Only of this request.
        #[arg(long)]
        request: Option<String>,
        /// Where the page before ended.
        #[arg(long)]
        after: Option<u64>,
        /// How many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// The newest checkpoint, as a signed note.
    Checkpoint,
    /// The receipt of an entry.
    Receipt {
        /// Its number.
        seq: u64,
    },
    /// The keys that verify the log's checkpoints, to be written down by whoever audits it.
    Keys,
    /// Seal what is new, now.
    Seal,
    /// Write what proves the log to outsiders; with --workspace its part.
    Export {
        /// Only from this entry on.
        #[arg(long, value_name = "ENTRY")]
        from: Option<u64>,
        /// Only up to this entry, itself included.
        #[arg(long, value_name = "ENTRY")]
        to: Option<u64>,
        /// Encrypt it to this age key: only its holder can open it.
        #[arg(long, value_name = "AGE1...")]
        recipient: Option<String>,
        /// Also pack it into this archive, to be carried away.
        #[arg(long, conflicts_with = "recipient")]
        tar: Option<PathBuf>,
    },
}
