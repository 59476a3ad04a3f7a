//! What only somebody inside says: of the database, of the token's and the TPM's libraries, of the system, of this program.
//! Who enters: whatever a caller is told, in tests over the network as in tests over a token in memory.
//! What leaves: the words in it that belong inside.

const INSIDE: [&str; 24] = [
    "sqlite",
    "SQLITE",
    "rusqlite",
    "database",
    "WAL",
    "CKR_",
    "CKA_",
    // As the worker names a module's error: `C_Sign gave DeviceError`.
    " C_",
    "(C_",
    "softhsm",
    "SoftHSM",
    "swtpm",
    "TPM_RC",
    "tss",
    "os error",
    "errno",
    "No such file",
    "Connection refused",
    "/tmp/",
    ".rs:",
    "panicked",
    "unwrap",
    "Some(",
    " { ",
];

/// The words in a text that only somebody inside says. Ids are random and may spell anything.
#[must_use]
pub fn from_inside(text: &str) -> Vec<&'static str> {
    let text = without_ids(text);
    INSIDE.into_iter().filter(|inside| text.contains(inside)).collect()
}

/// The text without the random half of each id: `req_1m8pw5a89gx3htssnhr9` becomes `req_`.
fn without_ids(text: &str) -> String {
    let drawn = |word: &str| word.len() == 20 && !word.bytes().any(|byte| byte.is_ascii_uppercase());
    let words = text.split_inclusive(|letter: char| !letter.is_ascii_alphanumeric());
    words
        .map(|word| {
            let end = word.trim_end_matches(|letter: char| !letter.is_ascii_alphanumeric()).len();
            if drawn(&word[..end]) { &word[end..] } else { word }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{from_inside, without_ids};

    #[test]
    fn an_id_may_spell_any_word_and_what_stands_beside_it_stays() {
        let told = r#"{"request_id":"req_1m8pw5a89gx3htssnhr9","detail":"tss: no"}"#;
        assert_eq!(without_ids(told), r#"{"request_id":"req_","detail":"tss: no"}"#);
        assert_eq!(from_inside(told), ["tss"]);
        assert!(from_inside(r#"{"request_id":"req_1m8pw5a89gx3htssnhr9","detail":"no"}"#).is_empty());
    }
}
