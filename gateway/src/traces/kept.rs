//! The journeys of the last requests, in memory: enough to answer "what happened to this one?" a while later.
//! Who enters: trails, when they are complete.
//! What leaves: journeys by request or trace; the recorded ones also go to the exporter, if there is one.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use super::trail::Journey;
use crate::limits::JOURNEYS_MAX;
use crate::moment::Moment;

/// The journeys; cheap to clone.
#[derive(Clone, Default)]
pub struct Traces {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    journeys: Mutex<VecDeque<Arc<Journey>>>,
    exporter: Option<Exporter>,
    dropped: AtomicU64,
}

struct Exporter {
    queue: mpsc::Sender<Arc<Journey>>,
    per_second_max: u32,
    /// The present second, and how many traces were begun as recorded in it.
    recorded: Mutex<(i64, u32)>,
}

impl Traces {
    /// Keeps journeys, and hands the recorded ones, so many a second at most, to an exporter.
    pub fn exporting(queue: mpsc::Sender<Arc<Journey>>, per_second_max: u32) -> Self {
        let exporter = Exporter { queue, per_second_max, recorded: Mutex::default() };
        Self { inner: Arc::new(Inner { exporter: Some(exporter), ..Inner::default() }) }
    }

    /// Whether a request of this moment is recorded: never without an exporter, else as its caller does (or, where a
    /// trace begins here, yes), within the cap.
    pub fn record(&self, callers: Option<bool>, now: Moment) -> bool {
        let Some(exporter) = &self.inner.exporter else { return callers.unwrap_or(false) };
        if callers == Some(false) {
            return false;
        }
        let mut recorded = exporter.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        let second = now.micros() / 1_000_000;
        if recorded.0 != second {
            *recorded = (second, 0);
        }
        recorded.1 += 1;
        recorded.1 <= exporter.per_second_max
    }

    /// Journeys of this request or trace id, the oldest first.
    pub fn of(&self, id: &str) -> Vec<Arc<Journey>> {
        let journeys = self.inner.journeys.lock().unwrap_or_else(PoisonError::into_inner);
        let fits =
            |journey: &&Arc<Journey>| journey.request.as_str() == id || journey.context.trace_id() == id;
        journeys.iter().filter(fits).cloned().collect()
    }

    /// Recorded journeys that the exporter had no room for.
    pub fn dropped(&self) -> u64 {
        self.inner.dropped.load(Ordering::Relaxed)
    }

    pub(super) fn keep(&self, journey: Journey) {
        let journey = Arc::new(journey);
        if let Some(exporter) = self.inner.exporter.as_ref().filter(|_| journey.context.is_sampled())
            && exporter.queue.try_send(Arc::clone(&journey)).is_err()
        {
            self.inner.dropped.fetch_add(1, Ordering::Relaxed);
        }
        let mut journeys = self.inner.journeys.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = if journeys.len() >= JOURNEYS_MAX { journeys.pop_front() } else { None };
        journeys.push_back(journey);
        drop(journeys);
        // Freed outside the lock.
        drop(oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::super::context::TraceContext;
    use super::super::trail::{Beginning, Trail, here, spanned};
    use super::*;
    use crate::dice::Dice;
    use crate::ids::RequestId;

    fn trail(traces: &Traces, context: TraceContext) -> (Arc<Trail>, RequestId) {
        let (dice, at) = (Dice::system(), Moment::from_micros(1_000_000));
        let request = RequestId::at(at, &dice);
        let beginning = Beginning { request: request.clone(), context, parent: None, link: None, at };
        (Trail::begin(traces, beginning), request)
    }

    #[tokio::test]
    async fn spans_hang_below_the_work_they_are_part_of() {
        let (traces, context) = (Traces::default(), TraceContext::begin(&Dice::system()));
        let (trail, request) = trail(&traces, context);
        trail.follow(spanned("service", async { spanned("ledger", async {}).await })).await;
        trail.answered("GET", "200".to_owned());
        assert!(traces.of(request.as_str()).is_empty(), "not over yet");
        drop(trail);
        let journey = traces.of(request.as_str()).pop().unwrap();
        let [ledger, service, root] = journey.spans.as_slice() else { panic!("{journey:?}") };
        assert_eq!((ledger.name.as_ref(), ledger.parent), ("ledger", Some(service.id)));
        assert_eq!((service.parent, root.id), (Some(root.id), context.span()));
        assert_eq!(traces.of(&context.trace_id()).len(), 1, "found by its trace as well");
    }

    #[tokio::test]
    async fn work_that_is_cut_short_is_told_as_abandoned() {
        let traces = Traces::default();
        let (trail, request) = trail(&traces, TraceContext::begin(&Dice::system()));
        let mut work = Box::pin(trail.follow(spanned("stuck", std::future::pending::<()>())));
        assert!(futures_poll(work.as_mut()).is_pending());
        drop(work);
        drop(trail);
        assert_eq!(traces.of(request.as_str())[0].spans[0].note.as_deref(), Some("abandoned"));
    }

    fn futures_poll<F: Future>(work: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
        work.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
    }

    #[tokio::test]
    async fn outside_a_request_work_is_only_done() {
        assert!(here().is_none());
        assert_eq!(spanned("anything", async { 7 }).await, 7);
    }

    #[test]
    fn the_memory_for_journeys_is_bounded_and_the_oldest_go_first() {
        let (traces, context) = (Traces::default(), TraceContext::begin(&Dice::system()));
        let first = trail(&traces, context).1;
        for _ in 0..JOURNEYS_MAX {
            drop(trail(&traces, context));
        }
        assert!(traces.of(first.as_str()).is_empty());
        assert_eq!(traces.of(&context.trace_id()).len(), JOURNEYS_MAX);
    }

    #[test]
    fn no_more_is_recorded_in_a_second_than_allowed_and_what_finds_no_room_is_counted() {
        let (queue, mut exported) = mpsc::channel(1);
        let traces = Traces::exporting(queue, 2);
        let now = Moment::from_micros(5_000_000);
        let decisions: Vec<bool> = (0..3).map(|_| traces.record(None, now)).collect();
        assert_eq!(decisions, [true, true, false]);
        assert!(!traces.record(Some(false), Moment::from_micros(6_000_000)), "as its caller says");
        for _ in 0..2 {
            drop(trail(&traces, TraceContext::begin(&Dice::system()).sampled(true)));
        }
        drop(trail(&traces, TraceContext::begin(&Dice::system())));
        assert!(exported.try_recv().is_ok() && exported.try_recv().is_err());
        assert_eq!(traces.dropped(), 1);
    }
}
