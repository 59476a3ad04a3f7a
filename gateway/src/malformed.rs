//! The one way in which a string can fail to be what it should be.
//! Who enters: every parser of ids, names, times and words of the API.
//! What leaves: what would have been right, for the caller to read.

/// A string that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {expected}")]
pub struct Malformed {
    /// What would have been right, in words for the caller.
    pub expected: &'static str,
}

/// What a reader of TOML or JSON says of a value, in the words of somebody who writes one.
pub fn in_words(why: &str) -> String {
    if let Some(rest) = why.strip_prefix("invalid type: ").or_else(|| why.strip_prefix("invalid value: "))
        && let Some((found, expected)) = rest.split_once(", expected ")
    {
        return format!("is {}, and must be {}", thing(found), wanted(expected));
    }
    if let Some(rest) = why.strip_prefix("unknown variant ")
        && let Some((found, expected)) = rest.split_once(", expected ")
    {
        return format!("is {found}, and must be {}", expected.trim_start_matches("one of "));
    }
    let quoted = why.split('`').nth(1).unwrap_or_default();
    if why.starts_with("unknown field") {
        let known: Vec<&str> = why.split('`').skip(3).step_by(2).collect();
        return match known.is_empty() {
            true => format!("is not right: `{quoted}` is unknown, and nothing is taken here"),
            false => format!("is not right: `{quoted}` is unknown; known are {}", known.join(", ")),
        };
    }
    if why.starts_with("missing field") {
        return format!("is not right: `{quoted}` is missing");
    }
    if why.starts_with("duplicate field") {
        return format!("is not right: `{quoted}` stands twice");
    }
    match why {
        "invalid socket address syntax" => {
            "must be an IP address with a port, such as `0.0.0.0:8443`".to_owned()
        }
        "invalid IP address syntax" => "must be an IP address, such as `192.0.2.10`".to_owned(),
        _ => match why.strip_prefix("not a ").or_else(|| why.strip_prefix("not an ")) {
            Some(expected) => format!("must be {} {expected}", article(expected)),
            None => format!("is not right: {why}"),
        },
    }
}

fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

fn thing(found: &str) -> String {
    let kinds = [
        ("string ", "the text "),
        ("integer ", "the number "),
        ("floating point ", "the number "),
        ("boolean ", ""),
    ];
    match kinds.iter().find_map(|(kind, word)| Some(format!("{word}{}", found.strip_prefix(kind)?))) {
        Some(words) => words,
        None if found == "map" => "a table".to_owned(),
        None if found == "null" || found == "unit value" => "null".to_owned(),
        None if found == "sequence" => "a list".to_owned(),
        None => found.to_owned(),
    }
}

fn wanted(expected: &str) -> String {
    match expected {
        "u8" => "a whole number from 0 to 255".to_owned(),
        "u16" | "u32" | "u64" | "usize" => "a whole number, not below zero".to_owned(),
        "i32" | "i64" => "a whole number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" | "path string" | "a borrowed string" => "text in quotes".to_owned(),
        "socket address" => "an IP address with a port in quotes, such as \"0.0.0.0:8443\"".to_owned(),
        "IP address" => "an IP address in quotes".to_owned(),
        "a sequence" => "a list in square brackets".to_owned(),
        "a map" => "a table".to_owned(),
        "an object" => "an object".to_owned(),
        other if other.starts_with("struct ") || other.contains("internally tagged") => "a table".to_owned(),
        other => other.to_owned(),
    }
}
