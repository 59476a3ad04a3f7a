//! Promises about writing: what a closure may do, what it gets back, and what is undone.

mod common;

use audit::{Detail, Entry, Outcome, ReadRefused, SqlFault, Told, Workspace, WriteRefused, params};
use common::{ADD, COUNT, COUNT_ALL, House, NOTES_FOREIGN, STRAY, workspace};

#[tokio::test]
async fn a_write_returns_the_number_of_its_entry() {
    let house = House::new();
    let ledger = house.open();
    for expected in 0..3 {
        let id = format!("note-{expected}");
        let recorded = ledger
            .write(move |tx| {
                tx.within(&workspace("a")).run(&ADD, params![&id, 1])?;
                Ok::<_, SqlFault>(Told::new(
                    (),
                    Entry::new("note.add").workspace(&workspace("a")).object(&id),
                ))
            })
            .await
            .unwrap();
        assert_eq!(recorded.seq(), expected);
    }
    assert_eq!(ledger.health().entries, 3);
    ledger.close().await;
}

#[tokio::test]
async fn a_closure_knows_the_number_of_its_entry_and_one_that_tells_nothing_knows_none() {
    let house = House::new();
    let ledger = house.open();
    // One says no between two others, so that the batch runs a second time if they meet in one.
    let write = |id: &'static str, fail: bool| {
        ledger.write(move |tx| {
            tx.within(&workspace("a")).run(&ADD, params![id, 1])?;
            let entry = tx.entry();
            if fail { Err(SqlFault::Several) } else { Ok(Told::new(entry, Entry::new("note.add"))) }
        })
    };
    let (first, second, third) = tokio::join!(write("one", false), write("two", true), write("three", false));
    assert!(matches!(second, Err(WriteRefused::Rejected(SqlFault::Several))));
    for recorded in [first.unwrap(), third.unwrap()] {
        assert_eq!(*recorded.value(), Some(recorded.seq()));
    }
    let untold = ledger.write_unaudited("a test", |tx| Ok::<_, SqlFault>(tx.entry())).await.unwrap();
    assert_eq!(untold, None);
    ledger.close().await;
}

#[tokio::test]
async fn a_rejected_closure_undoes_only_itself() {
    let house = House::new();
    let ledger = house.open();
    let write = |id: &'static str, fail: bool| {
        ledger.write(move |tx| {
            tx.within(&workspace("a")).run(&ADD, params![id, 1])?;
            if fail { Err(SqlFault::Several) } else { Ok(Told::new((), Entry::new("note.add"))) }
        })
    };
    let (first, second, third) = tokio::join!(write("one", false), write("two", true), write("three", false));
    assert_eq!(first.unwrap().seq(), 0);
    assert!(matches!(second, Err(WriteRefused::Rejected(SqlFault::Several))));
    assert_eq!(third.unwrap().seq(), 1);
    assert_eq!(house.count(&ledger, "a").await, 2);
}

#[tokio::test]
async fn what_is_undone_leaves_the_log_at_its_last_commit() {
    let house = House::new();
    let ledger = house.open();
    for (id, seq) in [("one", 0), ("two", 1)] {
        assert_eq!(house.add(&ledger, "a", id).await, seq);
    }
    let rejected = ledger.write(|tx| {
        tx.within(&workspace("a")).run(&ADD, params!["three", 1])?;
        Err::<Told<()>, _>(SqlFault::Several)
    });
    assert!(matches!(rejected.await, Err(WriteRefused::Rejected(SqlFault::Several))));
    // The numbers go on, and so does the chain: a log that had gone back further would meet its own entries.
    assert_eq!(house.add(&ledger, "a", "four").await, 2);
    assert_eq!((house.count(&ledger, "a").await, ledger.health().entries), (3, 3));
}

#[tokio::test]
async fn nodes_of_the_tree_are_stored_at_every_eighth_height_and_nowhere_else() {
    let house = House::new();
    let ledger = house.open();
    let many: Vec<Entry> = (0..2 * 256).map(|_| Entry::new("note.add")).collect();
    for some in many.chunks(64) {
        let some = some.to_vec();
        let told = move || Told::new((), some[0].clone()).and(some[1..].to_vec());
        ledger.write(move |_| Ok::<_, SqlFault>(told())).await.unwrap();
    }
    ledger.close().await;
    let file = rusqlite::Connection::open(house.path()).unwrap();
    let mut stored = file.prepare("SELECT height, place FROM tree_node ORDER BY height, place").unwrap();
    let stored = stored.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let stored: Vec<(u32, i64)> = stored.map(Result::unwrap).collect();
    assert_eq!(stored, [(8, 0), (8, 1)]);
}

#[tokio::test]
async fn a_panicking_closure_undoes_only_itself() {
    let house = House::new();
    let ledger = house.open();
    let panicked = ledger
        .write(|tx| -> Result<Told<()>, SqlFault> {
            tx.within(&workspace("a")).run(&ADD, params!["one", 1])?;
            panic!("on purpose")
        })
        .await;
    assert!(matches!(panicked, Err(WriteRefused::Panicked)));
    assert_eq!(house.count(&ledger, "a").await, 0);
    house.add(&ledger, "a", "two").await;
    assert_eq!(house.count(&ledger, "a").await, 1);
}

#[tokio::test]
async fn several_changes_are_each_told_by_their_own_entry() {
    let house = House::new();
    let ledger = house.open();
    house.add(&ledger, "a", "zero").await;
    let recorded = ledger
        .write(|_| {
            let told = |name: &'static str| (name, Entry::new("note.touch").object(name));
            Ok::<_, SqlFault>(Told::each(told("x"), vec![told("y"), told("z")]))
        })
        .await
        .unwrap();
    let each: Vec<_> = recorded.each().map(|it| (it.seq(), *it.value())).collect();
    assert_eq!(each, [(1, "x"), (2, "y"), (3, "z")]);
}

#[tokio::test]
async fn a_workspace_sees_only_its_own_rows() {
    let house = House::new();
    let ledger = house.open();
    house.add(&ledger, "a", "one").await;
    house.add(&ledger, "b", "one").await;
    house.add(&ledger, "b", "two").await;
    assert_eq!((house.count(&ledger, "a").await, house.count(&ledger, "b").await), (1, 2));
    let all = ledger.read(|view| view.one(&COUNT_ALL, params![], |row| row.integer(0))).await.unwrap();
    assert_eq!(all, Some(3));
}

#[tokio::test]
async fn a_tenant_statement_does_not_run_without_a_workspace_nor_another_within_one() {
    let house = House::new();
    let ledger = house.open();
    let bare = ledger.read(|view| view.one(&COUNT, params![], |row| row.integer(0))).await;
    assert!(matches!(bare, Err(ReadRefused::Rejected(SqlFault::NeedsWorkspace { .. }))));
    let held = ledger
        .read(|view| view.within(&workspace("a")).one(&COUNT_ALL, params![], |row| row.integer(0)))
        .await;
    assert!(matches!(held, Err(ReadRefused::Rejected(SqlFault::NotTenant { .. }))));
}

#[tokio::test]
async fn a_statement_that_is_in_no_schema_does_not_run() {
    let house = House::new();
    let ledger = house.open();
    let stray = ledger.read(|view| view.one(&STRAY, params![], |row| row.integer(0))).await;
    assert!(matches!(stray, Err(ReadRefused::Rejected(SqlFault::Unregistered { service: "notes", .. }))));
}

#[tokio::test]
async fn a_statement_over_the_table_of_another_service_stops_the_opening() {
    let house = House::new();
    let refused = house.try_open(|options| options.schemas.push(&NOTES_FOREIGN)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "`thief` may not run this, or it is not valid: SELECT body FROM note WHERE workspace = ?1"
    );
}

#[tokio::test]
async fn a_read_cannot_write() {
    let house = House::new();
    let ledger = house.open();
    let tried = ledger
        .read(|view| view.within(&workspace("a")).one(&ADD, params!["one", 1], |row| row.integer(0)))
        .await;
    assert!(matches!(tried, Err(ReadRefused::Rejected(SqlFault::Engine(_)))), "{tried:?}");
}

#[tokio::test]
async fn a_duplicate_row_is_told_apart_from_other_refusals() {
    let house = House::new();
    let ledger = house.open();
    house.add(&ledger, "a", "one").await;
    let again = ledger
        .write(|tx| {
            tx.within(&workspace("a")).run(&ADD, params!["one", 1])?;
            Ok::<_, SqlFault>(Told::new((), Entry::new("note.add")))
        })
        .await;
    let Err(WriteRefused::Rejected(fault)) = again else { panic!("{again:?}") };
    assert!(fault.is_duplicate());
}

#[tokio::test]
async fn an_entry_that_is_too_long_is_refused_with_its_change() {
    let house = House::new();
    let ledger = house.open();
    let refused = ledger
        .write(|tx| {
            tx.within(&workspace("a")).run(&ADD, params!["one", 1])?;
            Ok::<_, SqlFault>(Told::new((), Entry::new("note.add").object("x".repeat(2_000))))
        })
        .await
        .unwrap_err();
    assert_eq!(refused.to_string(), "the object of an entry has 2000 bytes, more than 1024");
    assert_eq!((house.count(&ledger, "a").await, ledger.health().entries), (0, 0));
}

#[tokio::test]
async fn an_entry_of_the_greatest_length_is_taken_and_one_byte_more_is_refused() {
    const FIELD: usize = 1_024;
    const DETAIL: usize = 256 * 1_024;
    // `{"text":""}` without the text.
    const BRACES: usize = 11;
    let house = House::new();
    let ledger = house.open();
    let write = |entry: Entry| ledger.write(move |_| Ok::<_, SqlFault>(Told::new((), entry.clone())));
    let fields = |bytes: usize| {
        let text = || "x".repeat(bytes);
        let entry = || Entry::new("note.add");
        let all =
            [entry().actor(text()), Entry::new(text()), entry().object(text()), entry().request(text())];
        all.into_iter()
    };
    let detail =
        |bytes: usize| Entry::new("note.add").detail(Detail::new().with("text", "x".repeat(bytes - BRACES)));
    for entry in fields(FIELD).chain([detail(DETAIL)]) {
        write(entry).await.unwrap();
    }
    assert_eq!(ledger.health().entries, 5);
    for entry in fields(FIELD + 1) {
        let refused = write(entry).await.unwrap_err().to_string();
        assert!(refused.ends_with("has 1025 bytes, more than 1024"), "{refused}");
    }
    let refused = write(detail(DETAIL + 1)).await.unwrap_err().to_string();
    assert_eq!(refused, "the detail of an entry has 262145 bytes, more than 262144");
    assert_eq!(ledger.health().entries, 5);
}

#[tokio::test]
async fn order_is_by_number_even_when_the_clock_goes_back() {
    let house = House::new();
    let ledger = house.open();
    for time_us in [5_000, 9_000, 1_000, 7_000] {
        house.clock.set(time_us);
        house.add(&ledger, "a", &format!("at-{time_us}")).await;
    }
    let told = house.told_times(&ledger).await;
    assert_eq!(told, [(0, 5_000), (1, 9_000), (2, 1_000), (3, 7_000)]);
}

#[tokio::test]
async fn a_dropped_caller_does_not_stop_its_write() {
    let house = House::new();
    let ledger = house.open();
    {
        let write = ledger.write(|tx| {
            tx.within(&workspace("a")).run(&ADD, params!["one", 1])?;
            Ok::<_, SqlFault>(Told::new((), Entry::new("note.add")))
        });
        tokio::pin!(write);
        let once = std::future::poll_fn(|cx| std::task::Poll::Ready(write.as_mut().poll(cx).is_ready()));
        let _ = once.await;
    }
    ledger
        .clone()
        .write_unaudited("a barrier behind the dropped write", |_| Ok::<_, SqlFault>(()))
        .await
        .unwrap();
    assert_eq!(house.count(&ledger, "a").await, 1);
}

#[tokio::test]
async fn what_was_written_is_there_after_closing_and_opening() {
    let house = House::new();
    let ledger = house.open();
    house.add(&ledger, "a", "one").await;
    ledger.close().await;
    let ledger = house.open();
    assert_eq!((house.count(&ledger, "a").await, ledger.health().entries), (1, 1));
    house.add(&ledger, "a", "two").await;
    assert_eq!(ledger.health().entries, 2);
}

#[tokio::test]
async fn a_second_opening_is_refused_and_names_the_holder() {
    let house = House::new();
    let ledger = house.open();
    let refused = house.try_open(|_| {}).unwrap_err().to_string();
    let expected = format!(
        "the ledger {} is in use by process {}; stop that one first",
        house.path().display(),
        std::process::id()
    );
    assert_eq!(refused, expected);
    ledger.close().await;
    house.open();
}

#[tokio::test]
async fn a_ledger_of_another_origin_is_refused_with_both_names() {
    let house = House::new();
    house.open().close().await;
    let refused = house.try_open(|options| options.origin = "other.example/audit/0001".into()).unwrap_err();
    let expected = format!(
        "the ledger {} belongs to `test.example/audit/0001`, but the configuration says \
         `other.example/audit/0001`; point to the right file, or correct the origin",
        house.path().display()
    );
    assert_eq!(refused.to_string(), expected);
}

#[tokio::test]
async fn a_full_detail_is_kept_as_one_json_object() {
    let house = House::new();
    let ledger = house.open();
    ledger
        .write(|_| {
            let detail = Detail::new()
                .ip("192.0.2.7")
                .user_agent("curl/8")
                .before(serde_json::json!({"enabled": true}))
                .after(serde_json::json!({"enabled": false}))
                .with("reason", "lost laptop");
            let entry =
                Entry::new("device.disable").actor("user:alice").outcome(Outcome::Done).detail(detail);
            Ok::<_, SqlFault>(Told::new((), entry.request("req-1").workspace(&Workspace::new("a").unwrap())))
        })
        .await
        .unwrap();
    let entry = ledger.read(|view| view.entry(0)).await.unwrap().unwrap();
    assert_eq!(
        String::from_utf8(entry.payload).unwrap(),
        r#"{"after":{"enabled":false},"before":{"enabled":true},"ip":"192.0.2.7","reason":"lost laptop","user_agent":"curl/8"}"#
    );
}
