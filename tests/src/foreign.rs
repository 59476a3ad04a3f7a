//! Foreign programs that judge our work: openssl for signatures, curl for the wire.
//! Who enters: tests, with keys, messages and signatures as a customer would hold them.
//! What leaves: verdicts of code that shares nothing with ours.

use std::path::Path;
use std::process::{Command, Output};

use crate::identity::Files;
use crate::programs::tool;
use crate::wire::Door;

/// Does openssl accept this signature of the message?
pub fn openssl_accepts(directory: &Path, scheme: &str, pem: &str, message: &[u8], signature: &[u8]) -> bool {
    let file = |name: &str, bytes: &[u8]| {
        let path = directory.join(name);
        std::fs::write(&path, bytes).expect("write a file for openssl");
        path
    };
    let (key, message, signature) =
        (file("openssl.pem", pem.as_bytes()), file("openssl.msg", message), file("openssl.sig", signature));
    let mut command = tool("openssl", "openssl");
    if scheme == "ed25519" {
        command.args(["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey"]).arg(key);
        command.arg("-in").arg(message).arg("-sigfile").arg(signature);
    } else {
        let hash = scheme.rsplit('-').next().unwrap_or_default();
        command.args(["dgst", &format!("-{hash}"), "-verify"]).arg(key);
        if scheme.starts_with("rsa-pss") {
            command.args(["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"]);
        }
        command.arg("-signature").arg(signature).arg(message);
    }
    command.output().expect("openssl").status.success()
}

/// curl with certificate, key and CA, towards a path of the appliance.
pub fn curl(door: &Door, files: &Files, path: &str, arguments: &[&str]) -> Output {
    let mut command = tool("curl", "curl");
    command.args(["--silent", "--show-error", "--max-time", "20"]);
    command.arg("--cert").arg(&files.certificate).arg("--key").arg(&files.key).arg("--cacert").arg(&files.ca);
    command.args(arguments).arg(format!("{}{path}", door.url()));
    command.output().expect("curl")
}

/// An openssl client that offers these versions and ciphers, with its standard input closed: did a handshake come about?
pub fn openssl_connects(door: &Door, files: &Files, arguments: &[&str]) -> Output {
    let mut command: Command = tool("openssl", "openssl");
    command.args(["s_client", "-connect", &door.address().to_string(), "-servername", "localhost"]);
    command.arg("-cert").arg(&files.certificate).arg("-key").arg(&files.key).arg("-CAfile").arg(&files.ca);
    command.args(arguments).stdin(std::process::Stdio::null()).output().expect("openssl")
}
