//! Enrolling a client from the shell: the private key is made here and written beside its certificate.
//! Who enters: `client enroll`, with a request of one's own or without.
//! What leaves: key, certificate and CAs as files; the key with mode 0600, and never over a file that exists.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{Failure, code};

/// A signing request, and the key behind it if it was made here.
pub(super) struct Request {
    pub(super) csr_pem: String,
    key_pem: Option<String>,
}

impl Request {
    /// Reads the request of somebody who keeps their own key.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let csr_pem = std::fs::read_to_string(path).map_err(|why| file_failure(path, &why))?;
        Ok(Self { csr_pem, key_pem: None })
    }

    /// Makes a P-256 key and a request for it.
    pub(super) fn make() -> Result<Self, Failure> {
        let failed = |why: rcgen::Error| Failure::because(code::FAILED, "no_key", &why);
        let key = rcgen::KeyPair::generate().map_err(failed)?;
        let params = rcgen::CertificateParams::new(Vec::<String>::new()).map_err(failed)?;
        let csr_pem = params.serialize_request(&key).and_then(|csr| csr.pem()).map_err(failed)?;
        Ok(Self { csr_pem, key_pem: Some(key.serialize_pem()) })
    }

    /// Writes what belongs together into a directory: `NAME.key`, `NAME.pem`, `ca.pem`.
    pub(super) fn write(
        &self,
        directory: &Path,
        name: &str,
        certificate: &str,
        ca: &str,
    ) -> Result<Vec<PathBuf>, Failure> {
        std::fs::create_dir_all(directory).map_err(|why| file_failure(directory, &why))?;
        let mut written = Vec::new();
        if let Some(key) = &self.key_pem {
            written.push(create(directory.join(format!("{name}.key")), key, 0o600)?);
        }
        written.push(create(directory.join(format!("{name}.pem")), certificate, 0o644)?);
        written.extend(bring_up_to_date(directory.join("ca.pem"), ca)?);
        Ok(written)
    }
}

/// Adds the CAs that a file lacks, and takes none away: it may hold others that its owner trusts.
fn bring_up_to_date(path: PathBuf, bundle: &str) -> Result<Option<PathBuf>, Failure> {
    if !path.exists() {
        return create(path, bundle, 0o644).map(Some);
    }
    let present = std::fs::read_to_string(&path).map_err(|why| file_failure(&path, &why))?;
    let missing: String =
        bundle.split_inclusive(PEM_END).filter(|one| !present.contains(one.trim())).collect();
    if missing.trim().is_empty() {
        return Ok(None);
    }
    let file = OpenOptions::new().append(true).open(&path);
    let apart = if present.is_empty() || present.ends_with('\n') { "" } else { "\n" };
    let added = file.and_then(|mut file| file.write_all(format!("{apart}{missing}").as_bytes()));
    added.map_err(|why| file_failure(&path, &why))?;
    Ok(Some(path))
}

const PEM_END: &str = "-----END CERTIFICATE-----\n";

fn create(path: PathBuf, text: &str, mode: u32) -> Result<PathBuf, Failure> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|why| file_failure(&path, &why))?;
    Ok(path)
}

pub(super) fn file_failure(path: &Path, why: &std::io::Error) -> Failure {
    Failure::new(code::USAGE, "file", format!("{}: {why}", path.display()))
}
