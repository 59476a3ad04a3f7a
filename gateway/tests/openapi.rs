//! The API's description is the one in docs/openapi.json, and tells of every route that is served, and of no other.
//! Who enters: the document that a house serves.
//! What leaves: the first line that differs; `UPDATE=1` rewrites the file.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

mod common;

use std::collections::BTreeSet;

use common::house::house;
use serde_json::Value;

async fn served() -> Value {
    let standing = house().await;
    let answer = standing.operator().get("/v1/openapi.json").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    answer.json()
}

#[tokio::test]
async fn the_description_served_is_the_one_in_the_documents() {
    let made = serde_json::to_string_pretty(&served().await).unwrap() + "\n";
    common::golden("docs/openapi.json", &made);
}

#[tokio::test]
async fn every_operation_has_words_a_guard_and_a_name_of_its_own() {
    let document = served().await;
    let mut names = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let at = format!("{method} {path}");
            assert!(!operation["summary"].as_str().unwrap_or_default().is_empty(), "{at} has no words");
            assert!(!operation["x-guard"].as_str().unwrap_or_default().is_empty(), "{at} has no guard");
            assert!(names.insert(operation["operationId"].to_string()), "{at} shares its name");
        }
    }
    assert!(names.len() > 30, "only {} operations", names.len());
}

/// Each reference in the document leads somewhere in it, or generated clients would not build.
#[tokio::test]
async fn no_reference_leads_nowhere() {
    let document = served().await;
    let mut references = Vec::new();
    gather(&document, &mut references);
    assert!(!references.is_empty());
    for reference in references {
        let pointer = reference.trim_start_matches('#');
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

fn gather(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            found.extend(object.get("$ref").and_then(Value::as_str).map(str::to_owned));
            object.values().for_each(|value| gather(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| gather(item, found)),
        _ => {}
    }
}
