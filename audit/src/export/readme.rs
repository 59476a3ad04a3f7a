//! The page that travels with an export: what each file is, and how to check it without us.
//! Who enters: the export, with the few facts that differ.
//! What leaves: Markdown, and PEM for the attestation key.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::excerpt::About;

/// The page.
pub(crate) fn text(origin: &str, size: u64, checkpoints: u64, attested: bool) -> String {
    let attestation = if attested { ATTESTED } else { "" };
    format!(
        "# Export of the log `{origin}`\n\n\
         {size} entries under {checkpoints} checkpoints. Every file is static; serve the directory by any HTTP server.\n\n\
         {FILES}\n{CHECKING}{attestation}{LIMITS}"
    )
}

/// The page of an excerpt.
pub(crate) fn of_excerpt(origin: &str, about: &About, size: u64) -> String {
    let About { from, to, entries, .. } = about;
    let of = about
        .workspace
        .as_ref()
        .map_or(String::new(), |workspace| format!(" of the workspace `{workspace}`"));
    format!(
        "# Excerpt of the log `{origin}`\n\n\
         {entries} entries{of}, from {from} to {to}, under a checkpoint over {size} entries.\n\n\
         {EXCERPT}"
    )
}

const EXCERPT: &str = "\
| file | what it is |
| --- | --- |
| `checkpoint` | the newest checkpoint: a C2SP signed note |
| `excerpt.json` | which entries are in it |
| `entries/*.jsonl` | one entry to a line: leaf, salt, payload, and the hashes from the leaf to the signed root (RFC 6962), in base64 |
| `keys/*.vkey` | the keys that sign checkpoints |
| `policy` | a C2SP tlog-policy for public tools |

## Checking it

Keys first: compare `keys/` with what was written down when the appliance was enrolled. A bundled key proves nothing
about who made the excerpt.

    chancery-audit verify --key '<vkey you wrote down>' .
    chancery-audit prove . <entry>     # the receipt of one entry, to be handed on

## What it does not show

Of one workspace: that no entry of it was left out; only a whole export shows that. A range of everybody's entries has no gaps,
or it does not verify. That nothing was written after this checkpoint. That the entries say the truth.
";

const FILES: &str = "\
| file | what it is |
| --- | --- |
| `checkpoint` | the newest checkpoint: a C2SP signed note |
| `checkpoints/*.note` | every checkpoint, by step of the anchor |
| `tile/<level>/...` | hash tiles (C2SP tlog-tiles) |
| `tile/entries/...` | the leaves, 256 to a bundle, each behind its length in two bytes |
| `payload/...` | for each leaf its salt and its payload, each behind its length in four bytes |
| `anchors.jsonl`, `anchors/*.att`, `*.sig` | each step of the hardware anchor, and the TPM's signed word about it |
| `keys/*.vkey`, `keys/ak.pem` | the keys that sign checkpoints and attestations |
| `policy` | a C2SP tlog-policy for public tools |
";

const CHECKING: &str = "\
## Checking it

Keys first: compare `keys/` with what was written down when the appliance was enrolled. A bundled key proves nothing
about who made the bundle.

All of it, with our verifier:

    chancery-audit verify --key '<vkey you wrote down>' --key '<the next one>' --ak ak-you-wrote-down.pem .

Each key you give is a demand: where you give a key of the TPM, every checkpoint must be held and attested by it.

Without it, any C2SP tool reads `checkpoint` (Go `golang.org/x/mod/sumdb/note`, `transparency-dev/formats`) and the
tiles (Go `golang.org/x/mod/sumdb/tlog`). With openssl alone, for a P-256 line: the bytes before the empty line are the
message, the base64 at the end of the line is four bytes of key id and then a DER signature:

    openssl dgst -sha256 -verify hardware.pem -signature line.sig message
";

const ATTESTED: &str = "
Each TPM statement is checked against the attestation key:

    openssl dgst -sha256 -verify keys/ak.pem -signature anchors/00000001.sig anchors/00000001.att

It contains the SHA-256 of the checkpoint's text as extra data, and the value `after` of the same step as contents.
";

const LIMITS: &str = "
## What it does not show

That nothing was written after this checkpoint; compare with the next export, or with a checkpoint you hold:
`chancery-audit diff`. That the entries say the truth, or that the appliance acts upon them: its tables of keys, clients,
API keys, policies and approvals are under no checkpoint. That the keys are the appliance's own, unless you compared them.
";

/// A public key (SPKI DER) as PEM.
pub(crate) fn pem(spki: &[u8]) -> String {
    let base64 = STANDARD.encode(spki);
    let mut pem = String::from("-----BEGIN PUBLIC KEY-----\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem += line;
        pem.push('\n');
        rest = after;
    }
    pem + "-----END PUBLIC KEY-----\n"
}
