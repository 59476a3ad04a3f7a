//! What others were told of a round: each event once, in order, with one beginning and one end; and of what was undone,
//! that it does not hold.
//! Who enters: a round at its end.
//! What leaves: the topics of what it brought about; or which event is missing, or too much.

use std::collections::BTreeSet;
use std::time::Duration;

use super::prove::{Prover, World};
use super::rounds::Run;
use crate::limits::PAGE_ROWS_MAX;
use crate::outbox::{LIFE, Published, Wanted};
use crate::state::State;

impl<W: World> Prover<'_, W> {
    /// The topics of what a round told beside its own life, once it is sure that it told each of them once.
    pub(super) async fn told(&self, run: &Run, end: State) -> Result<Vec<String>, String> {
        let wanted = Wanted {
            scope: Some(run.key.scope.clone()),
            saga: Some(run.key.id),
            rows_max: PAGE_ROWS_MAX,
            ..Wanted::default()
        };
        let page = run.engine.events(wanted, Duration::ZERO).await.map_err(|why| format!("{why:?}"))?;
        judge(&page.events, end).map_err(|why| format!("{why}: {:#?}", page.events))
    }
}

fn judge(events: &[Published], end: State) -> Result<Vec<String>, String> {
    let (life, facts): (Vec<&Published>, Vec<&Published>) =
        events.iter().partition(|event| LIFE.iter().any(|(topic, _)| topic.as_str() == event.topic));
    let count = |name: &str| life.iter().filter(|event| event.topic == name).count();
    let ended = format!("workflow.{}", end.as_str());
    if count("workflow.started") != 1 || count(&ended) != 1 {
        return Err(format!("it did not tell of one start and one end, {ended}"));
    }
    if events.last().is_none_or(|last| last.topic != ended) {
        return Err("something was told after the end".to_owned());
    }
    let made: Vec<_> = facts.iter().filter(|event| event.withdraws.is_none()).collect();
    let once: BTreeSet<_> = made.iter().map(|event| (&event.topic, &event.subject)).collect();
    if once.len() != made.len() {
        return Err("something was told twice".to_owned());
    }
    let withdrawn: Vec<u64> = facts.iter().filter_map(|event| event.withdraws).collect();
    let wanted: Vec<u64> = match end {
        State::Succeeded => Vec::new(),
        // The last one said is the first that is taken back.
        _ => made.iter().rev().map(|event| event.number).collect(),
    };
    if withdrawn != wanted {
        return Err(format!("{withdrawn:?} were taken back, not {wanted:?}"));
    }
    Ok(made.iter().map(|event| event.topic.clone()).collect())
}
