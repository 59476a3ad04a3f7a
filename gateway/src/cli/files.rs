//! Signing and verifying of files: what the scheme hashes is hashed here, so a file may be of any size and never travels.
//! Who enters: a file, standard input or a digest, and the key that signs or signed.
//! What leaves: a signature, or whether one is valid; memory does not grow with the file.

use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hsm::{Hash, Scheme};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::enrol::file_failure;
use super::local::Ask;
use super::words::{SignArgs, VerifyArgs, What};
use super::{Common, Failure, code, show};
use crate::limits::MESSAGE_BYTES_MAX;

const PIECE_BYTES: usize = 1 << 20;
/// Below this a bar would only flicker.
const BAR_FROM_BYTES: u64 = 64 << 20;

pub(super) fn sign(common: &Common, args: &SignArgs) -> Result<(), Failure> {
    let common = &common.in_workspace()?;
    let out = out_path(common, args)?;
    let scheme = scheme(common, &args.key, args.scheme.as_deref())?;
    let mut body = json!({ "scheme": scheme.name(), "context": args.context });
    let (field, value) = subject(scheme, &args.what)?;
    body[field] = value.into();
    let answer = Ask::post(format!("/v1/keys/{}/sign", args.key), Some(body)).send(common)?;
    let signature = STANDARD.decode(answer["signature"].as_str().unwrap_or_default()).unwrap_or_default();
    match &out {
        Some(out) if out == Path::new("-") => {
            let written = std::io::stdout().lock().write_all(&signature);
            return written.map_err(|why| file_failure(out, &why));
        }
        Some(out) => std::fs::write(out, signature).map_err(|why| file_failure(out, &why))?,
        None => {}
    }
    show::fields(common.json, &answer, &["key", "version", "entry", "use"]);
    if let Some(out) = out.filter(|_| !common.json) {
        say!("wrote {}", out.display());
    }
    Ok(())
}

pub(super) fn verify(common: &Common, args: &VerifyArgs) -> Result<(), Failure> {
    let common = &common.in_workspace()?;
    let signature = std::fs::read(&args.signature).map_err(|why| file_failure(&args.signature, &why))?;
    let scheme = scheme(common, &args.key, args.scheme.as_deref())?;
    let mut body = json!({
        "scheme": scheme.name(),
        "signature": STANDARD.encode(signature),
        "version": args.key_version,
    });
    let (field, value) = subject(scheme, &args.what)?;
    body[field] = value.into();
    let answer = Ask::post(format!("/v1/keys/{}/verify", args.key), Some(body)).send(common)?;
    match answer["valid"] == json!(true) {
        true => {
            show::sentence(common.json, &answer, "valid");
            Ok(())
        }
        false => Err(Failure::new(code::REFUSED, "not_valid", "the signature is not valid")),
    }
}

/// Where the signature goes; with `--json` and no file named it stands in the answer alone.
fn out_path(common: &Common, args: &SignArgs) -> Result<Option<PathBuf>, Failure> {
    if let Some(out) = &args.out {
        return Ok(Some(out.clone()));
    }
    match &args.what.file {
        Some(file) if file != Path::new("-") => {
            let mut name = file.clone().into_os_string();
            name.push(".sig");
            Ok(Some(name.into()))
        }
        _ if common.json => Ok(None),
        _ => Err(usage("say with --out where the signature goes; `--out -` is standard output")),
    }
}

/// The scheme that was named, or the only one that the key has.
fn scheme(common: &Common, key: &str, named: Option<&str>) -> Result<Scheme, Failure> {
    if let Some(named) = named {
        return named.parse().map_err(|why| usage(format!("--scheme: {why}")));
    }
    let answer = Ask::get(format!("/v1/keys/{key}")).send(common)?;
    let schemes: Vec<&str> =
        answer["schemes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match schemes[..] {
        [one] => one.parse().map_err(|why| usage(format!("{why}; this program is older than the daemon"))),
        _ => Err(usage(format!(
            "key `{key}` has several schemes; say --scheme with one of {}",
            schemes.join(", ")
        ))),
    }
}

/// What is signed, as the body has it: a digest that was given or is made here, or the whole message where the scheme wants that.
fn subject(scheme: Scheme, what: &What) -> Result<(&'static str, String), Failure> {
    match (scheme.hash(), &what.digest, &what.file) {
        (Some(hash), Some(digest), _) => Ok(("digest", STANDARD.encode(given_digest(scheme, hash, digest)?))),
        (None, Some(_), _) => {
            Err(usage(format!("--digest: {scheme} signs the message itself, never a digest")))
        }
        (Some(hash), None, Some(file)) => Ok(("digest", STANDARD.encode(hashed(hash, file)?))),
        (None, None, Some(file)) => Ok(("message", STANDARD.encode(whole(scheme, file)?))),
        (_, None, None) => Err(usage("name a file, `-` for standard input, or --digest")),
    }
}

/// A digest as `sha256sum` prints it.
fn given_digest(scheme: Scheme, hash: Hash, text: &str) -> Result<Vec<u8>, Failure> {
    let digest = hex::decode(text.trim()).map_err(|_| usage("--digest: write it in hexadecimal digits"))?;
    match digest.len() == hash.len() {
        true => Ok(digest),
        false => {
            let words =
                format!("--digest: {scheme} takes {} bytes, and these are {}", hash.len(), digest.len());
            Err(usage(words))
        }
    }
}

fn opened(file: &Path) -> Result<(Box<dyn Read>, Option<u64>), Failure> {
    if file == Path::new("-") {
        return Ok((Box::new(std::io::stdin().lock()), None));
    }
    let open = File::open(file).and_then(|open| open.metadata().map(|found| (open, found)));
    let (open, found) = open.map_err(|why| file_failure(file, &why))?;
    Ok((Box::new(open), found.is_file().then_some(found.len())))
}

/// Read piece by piece: memory does not grow with the file.
fn hashed(hash: Hash, file: &Path) -> Result<Vec<u8>, Failure> {
    let (mut reader, len) = opened(file)?;
    let bar = bar(len);
    let mut context = digest::Context::new(match hash {
        Hash::Sha256 => &digest::SHA256,
        Hash::Sha384 => &digest::SHA384,
        Hash::Sha512 => &digest::SHA512,
    });
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match reader.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => {
                context.update(piece.get(..read).unwrap_or_default());
                bar.inc(u64::try_from(read).unwrap_or_default());
            }
            Err(why) if why.kind() == std::io::ErrorKind::Interrupted => {}
            Err(why) => return Err(file_failure(file, &why)),
        }
    }
    bar.finish_and_clear();
    Ok(context.finish().as_ref().to_vec())
}

fn bar(len: Option<u64>) -> ProgressBar {
    match len {
        Some(len) if len >= BAR_FROM_BYTES && std::io::stderr().is_terminal() => {
            let style = ProgressStyle::with_template("hashing {wide_bar} {bytes}/{total_bytes} {eta}");
            let bar = ProgressBar::new(len);
            if let Ok(style) = style {
                bar.set_style(style);
            }
            bar
        }
        _ => ProgressBar::hidden(),
    }
}

/// A message that the token must see whole; what is too long is refused before it is read.
fn whole(scheme: Scheme, file: &Path) -> Result<Vec<u8>, Failure> {
    let too_long = |len: &str| {
        usage(format!(
            "{}: {scheme} signs the message itself, of at most {MESSAGE_BYTES_MAX} bytes, and this one has {len}; \
             sign a digest of it as the message, or use a key of another kind",
            file.display()
        ))
    };
    let max = u64::try_from(MESSAGE_BYTES_MAX).unwrap_or(u64::MAX);
    let (reader, len) = opened(file)?;
    if let Some(len) = len.filter(|len| *len > max) {
        return Err(too_long(&len.to_string()));
    }
    let mut message = Vec::new();
    reader.take(max + 1).read_to_end(&mut message).map_err(|why| file_failure(file, &why))?;
    match message.len() > MESSAGE_BYTES_MAX {
        true => Err(too_long("more")),
        false => Ok(message),
    }
}

fn usage(words: impl Into<String>) -> Failure {
    Failure::new(code::USAGE, "usage", words)
}
