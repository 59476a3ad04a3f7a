//! The page for people shows the transition table as the code has it.
//! Who enters: docs/sagas.md.
//! What leaves: a difference, if there is one.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

#[test]
fn the_page_shows_the_transition_table_as_it_is() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/sagas.md");
    let page = std::fs::read_to_string(page).expect("docs/sagas.md is there");
    let begin =
        page.split_once("<!-- transitions: begin -->\n").expect("the page marks where the table begins").1;
    let shown = begin.split_once("<!-- transitions: end -->").expect("the page marks where the table ends").0;
    assert_eq!(
        shown,
        sagas::transition_table(),
        "put this into docs/sagas.md:\n{}",
        sagas::transition_table()
    );
}
