//! Services of the process that panic or hang: each isolates itself, and its neighbours keep answering.
//! Who enters: requests through a real gate, to rooms that were built to fail.
//! What leaves: who was refused, who was served, and that a refusal of business isolates nobody.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

mod common;
/// The very list that answers over the network are held against.
#[path = "../../tests/src/inside.rs"]
#[allow(unreachable_pub, reason = "the tests over the network use it too")]
mod inside;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use common::house::{Asker, Standing, house};
use gateway::api::exchange::Body;
use gateway::api::{Code, Open, Problem, Reply, Route};
use gateway::boundary::authenticate::Peer;
use gateway::boundary::drain::Register;
use gateway::boundary::gate::{Gate, GateParts};
use gateway::compartments::breaker::Policy;
use gateway::compartments::{Bounds, Compartments, Kind};
use gateway::dice::Dice;
use gateway::metrics::Metrics;
use gateway::routing::{Room, Router};
use gateway::services::roster::Roster;
use gateway::traces::Traces;
use schemars::{Schema, SchemaGenerator};

/// A body whose reading panics.
struct Unreadable;

impl Body for Unreadable {
    fn read(_: &Bytes) -> Result<Self, Problem> {
        panic!("as told")
    }

    fn schema(_: &mut SchemaGenerator) -> Option<Schema> {
        None
    }
}

/// Blocks threads, as a lock does and no future may, until it is opened.
#[derive(Default)]
struct Valve {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Valve {
    fn block(&self) {
        drop(self.opened.wait_while(self.is_open.lock().unwrap(), |is_open| !*is_open));
    }

    fn open(&self) {
        *self.is_open.lock().unwrap() = true;
        self.opened.notify_all();
    }
}

/// Opens a valve when it is dropped.
struct Opens<'a>(&'a Valve);

impl Drop for Opens<'_> {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// A gate before two rooms: one that does as it is told, and its neighbour.
struct Rooms {
    asker: Asker,
    compartments: Compartments,
    begun: Arc<AtomicUsize>,
    valve: Arc<Valve>,
    _standing: Standing,
}

/// A runtime does not end while one of its threads is blocked.
impl Drop for Rooms {
    fn drop(&mut self) {
        self.valve.open();
    }
}

async fn rooms(in_flight_max: usize) -> Rooms {
    let (standing, compartments) = (house().await, Compartments::default());
    let begun = Arc::new(AtomicUsize::new(0));
    let room = |name, routes| {
        let bounds = Bounds { in_flight_max, queue_max: 0, breaker: Some(Policy::default()) };
        let compartment = compartments.keep_or_make(name, Kind::InProcess, bounds, &Dice::system());
        Room::new(name, compartment, routes).unwrap()
    };
    let hang = |begun: Arc<AtomicUsize>, (), (), _| async move {
        begun.fetch_add(1, Ordering::SeqCst);
        std::future::pending::<()>().await;
        Ok(Reply::empty())
    };
    let valve = Arc::new(Valve::default());
    let block = |it: Arc<(Arc<AtomicUsize>, Arc<Valve>)>, (), (), _| async move {
        it.0.fetch_add(1, Ordering::SeqCst);
        it.1.block();
        Ok(Reply::empty())
    };
    let sick = room(
        "sick",
        vec![
            Route::get("/sick/panics")
                .guard::<Open>()
                .to(Arc::new(()), |_, (), (), _| async { panic!("as told") }),
            Route::get("/sick/hangs").guard::<Open>().to(begun.clone(), hang),
            Route::post("/sick/hangs").guard::<Open>().to(begun.clone(), hang),
            Route::get("/sick/blocks").guard::<Open>().to(Arc::new((begun.clone(), valve.clone())), block),
            Route::post("/sick/blocks").guard::<Open>().to(Arc::new((begun.clone(), valve.clone())), block),
            Route::get("/sick/refuses").guard::<Open>().to(Arc::new(()), |_, (), (), _| async {
                Err::<Reply, _>(Problem::new(Code::TokenUnavailable, "not today"))
            }),
            Route::post("/sick/parses")
                .guard::<Open>()
                .takes::<Unreadable>()
                .to(Arc::new(()), |_, (), _: Unreadable, _| async { Ok(Reply::empty()) }),
            Route::get("/sick/well")
                .guard::<Open>()
                .to(Arc::new(()), |_, (), (), _| async { Ok(Reply::empty()) }),
        ],
    );
    let well = room(
        "well",
        vec![
            Route::get("/well").guard::<Open>().to(Arc::new(()), |_, (), (), _| async { Ok(Reply::empty()) }),
        ],
    );
    let router = Arc::new(Router::default());
    router.serve(vec![sick, well], &[]).unwrap();
    let gate = Arc::new(Gate::new(GateParts {
        router,
        again: standing.house.again.clone(),
        directory: Arc::new(Roster::new(standing.house.ground.clock.clone())),
        register: Register::default(),
        dice: Dice::system(),
        clock: standing.house.ground.clock.clone(),
        metrics: Metrics::default(),
        traces: Traces::default(),
        workspace_quota: common::house::quota(1000, 1000),
        address_quota: common::house::quota(1000, 1000),
        trusted_proxies: vec![],
    }));
    let asker = Asker::at(gate, Peer::Local { uid: 0 });
    Rooms { asker, compartments, begun, valve, _standing: standing }
}

impl Rooms {
    async fn all_begun(&self, calls: usize) {
        while self.begun.load(Ordering::SeqCst) < calls {
            tokio::task::yield_now().await;
        }
    }

    /// Asks the sick room five times with all the patience there is, and its neighbour while none of the five has an answer.
    async fn well_answers_while_five_hold(&self, path: &'static str, methods: [&'static str; 5]) {
        let patient = self.asker.with("chancery-deadline-ms", "60000");
        let held = methods.map(|method| {
            let patient = patient.clone();
            tokio::spawn(async move { patient.ask(method, path, None).await })
        });
        self.all_begun(5).await;
        assert_eq!(self.asker.get("/well").await.status, 204);
        assert!(held.iter().all(|it| !it.is_finished()), "the neighbour waited for the sick");
        held.iter().for_each(tokio::task::JoinHandle::abort);
    }

    /// Its trips, once there is one.
    async fn tripped(&self) -> u64 {
        let tripped = async {
            while self.trips() == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), tripped).await.expect("it isolates itself");
        self.trips()
    }

    fn trips(&self) -> u64 {
        self.compartments.seen().iter().find(|seen| seen.name == "sick").unwrap().trips
    }
}

#[tokio::test]
async fn a_service_that_panics_isolates_itself_alone_and_is_tried_again() {
    let rooms = rooms(8).await;
    for _ in 0..5 {
        let answer = rooms.asker.get("/sick/panics").await;
        assert_eq!((answer.status, answer.code().as_str()), (500, "internal"), "{answer:?}");
    }
    let isolated = rooms.asker.get("/sick/well").await;
    assert_eq!((isolated.status, isolated.code().as_str()), (503, "service_isolated"), "{isolated:?}");
    assert!(isolated.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert_eq!(rooms.asker.get("/well").await.status, 204, "its neighbour answers");
    let healed = async {
        while rooms.asker.get("/sick/well").await.status != 204 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), healed).await.expect("it is tried again");
}

#[tokio::test]
async fn a_panic_while_a_body_is_read_counts_like_one_in_the_handler() {
    let rooms = rooms(8).await;
    for _ in 0..5 {
        assert_eq!(rooms.asker.ask("POST", "/sick/parses", None).await.status, 500);
    }
    assert_eq!(rooms.asker.get("/sick/well").await.code(), "service_isolated");
    assert_eq!(rooms.asker.get("/well").await.status, 204);
}

#[tokio::test]
async fn what_a_panic_says_is_told_to_nobody() {
    let rooms = rooms(8).await;
    let panic = tokio::spawn(async { panic!("as told") }).await.unwrap_err().to_string();
    assert!(
        panic.contains("as told") && !inside::from_inside(&panic).is_empty(),
        "it hides nothing: {panic}"
    );
    for (method, path) in [("GET", "/sick/panics"), ("POST", "/sick/parses")] {
        let answer = rooms.asker.ask(method, path, None).await;
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (500, "internal"), "{text}");
        assert!(inside::from_inside(&text).is_empty() && !text.contains("as told"), "{text}");
        assert!(text.contains(answer.header("request-id")), "{text}");
    }
}

#[tokio::test]
async fn a_service_that_hangs_isolates_itself_alone() {
    rooms(8).await.well_answers_while_five_hold("/sick/hangs", ["GET", "POST", "GET", "POST", "GET"]).await;
    let rooms = rooms(8).await;
    let patient = rooms.asker.with("chancery-deadline-ms", "5000");
    let hanging: Vec<_> = (0..5)
        .map(|_| {
            let patient = patient.clone();
            tokio::spawn(async move { patient.get("/sick/hangs").await })
        })
        .collect();
    for one in hanging {
        let answer = one.await.unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (504, "deadline_passed"), "{answer:?}");
    }
    assert_eq!(rooms.asker.get("/sick/well").await.code(), "service_isolated");
    assert_eq!(rooms.asker.get("/well").await.status, 204);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn a_service_whose_handlers_block_their_threads_isolates_itself_alone() {
    rooms(8).await.well_answers_while_five_hold("/sick/blocks", ["GET", "POST", "GET", "POST", "GET"]).await;
    let rooms = rooms(8).await;
    let patient = rooms.asker.with("chancery-deadline-ms", "5000");
    let ask = |method| {
        let patient = patient.clone();
        tokio::spawn(async move { patient.ask(method, "/sick/blocks", None).await })
    };
    let blocked = ["GET", "POST", "GET", "POST", "GET"].map(ask);
    for one in blocked {
        let answer = one.await.unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (504, "deadline_passed"), "{answer:?}");
    }
    assert_eq!(rooms.asker.get("/sick/well").await.code(), "service_isolated");
    assert_eq!(rooms.asker.get("/well").await.status, 204);
    // What they say themselves, late as it is, is no word more.
    rooms.valve.open();
    while rooms.compartments.seen().iter().any(|seen| seen.in_flight > 0) {
        tokio::task::yield_now().await;
    }
    assert_eq!(rooms.trips(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn handlers_that_block_are_judged_also_when_their_clients_have_gone() {
    let rooms = rooms(8).await;
    let patient = rooms.asker.with("chancery-deadline-ms", "5000");
    let asked: Vec<_> = (0..5)
        .map(|_| {
            let patient = patient.clone();
            tokio::spawn(async move { patient.ask("POST", "/sick/blocks", None).await })
        })
        .collect();
    rooms.all_begun(5).await;
    asked.iter().for_each(tokio::task::JoinHandle::abort);
    assert_eq!(rooms.tripped().await, 1);
    assert_eq!(rooms.asker.get("/well").await.status, 204);
}

/// The shortest that a timer of tokio counts.
const MOMENT: Duration = Duration::from_millis(1);

/// The service manager's watchdog is fed at moments, and what waits for a moment needs a thread that is free.
#[test]
fn on_a_runtime_whose_threads_are_all_blocked_no_moment_comes() {
    let (runtime, valve) = (gateway::serve::runtime().unwrap(), Arc::new(Valve::default()));
    let threads = runtime.metrics().num_workers();
    assert!(threads >= 8, "five blocked handlers leave {threads} - 5 to the others");
    let all = Arc::new(Barrier::new(threads + 1));
    for _ in 0..threads {
        let (all, valve) = (all.clone(), valve.clone());
        drop(runtime.spawn(async move {
            all.wait();
            valve.block();
        }));
    }
    all.wait();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        // Also on the way out of a failure, or the scope would wait for ever.
        let opens = Opens(&valve);
        scope.spawn(|| {
            runtime.block_on(async {
                tokio::time::sleep(MOMENT).await;
                tell.send(()).unwrap();
            });
        });
        // Counted, not timed: so many moments of the same length come to a runtime whose thread is free.
        let free = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        free.block_on(async {
            let mut moments = tokio::time::interval(MOMENT);
            for _ in 0..200 {
                moments.tick().await;
            }
        });
        assert!(told.try_recv().is_err(), "a moment came");
        drop(opens);
        assert!(
            told.recv_timeout(Duration::from_secs(20)).is_ok(),
            "with the threads the moments come again"
        );
    });
}

#[tokio::test]
async fn handlers_that_hang_and_may_change_something_fill_their_own_compartment_and_no_other() {
    // Of three, one caller has two: the third is for somebody else.
    let rooms = rooms(3).await;
    let impatient = rooms.asker.with("chancery-deadline-ms", "50");
    for _ in 0..2 {
        let answer = impatient.ask("POST", "/sick/hangs", None).await;
        assert_eq!((answer.status, answer.code().as_str()), (504, "deadline_passed"), "{answer:?}");
    }
    let full = rooms.asker.get("/sick/well").await;
    assert_eq!((full.status, full.code().as_str()), (503, "overloaded"), "{full:?}");
    assert!(!full.header("retry-after").is_empty());
    assert_eq!(rooms.asker.get("/well").await.status, 204);
}

#[tokio::test]
async fn a_caller_without_patience_isolates_nobody() {
    let rooms = rooms(8).await;
    let impatient = rooms.asker.with("chancery-deadline-ms", "1");
    for _ in 0..30 {
        assert_eq!(impatient.get("/sick/hangs").await.status, 504);
    }
    assert_eq!(rooms.trips(), 0);
    assert_eq!(rooms.asker.get("/sick/well").await.status, 204);
}

#[tokio::test]
async fn a_refusal_of_business_isolates_nobody() {
    let rooms = rooms(8).await;
    for _ in 0..50 {
        assert_eq!(rooms.asker.get("/sick/refuses").await.status, 503);
    }
    assert_eq!(rooms.trips(), 0);
    assert_eq!(rooms.asker.get("/sick/well").await.status, 204);
}
