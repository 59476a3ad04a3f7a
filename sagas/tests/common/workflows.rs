//! The sample workflows: local steps, calls, waits, fan-outs, a child, each with its undo.
//! Who enters: tests, with a world outside.
//! What leaves: definitions that mean something.

use std::sync::Arc;

use audit::{Told, Tx};
use sagas::outbox::Topic;
use sagas::testing::Outside;
use sagas::{Definition, Lock, PivotProbe, Probe, Refused, Ruling, StepContext, Undo, Workflow};
use serde_json::json;

use super::*;

pub const PUT_DONE: Topic = Topic::new("thing.put");
pub const DROP_DONE: Topic = Topic::new("thing.dropped");

/// Puts a thing, and says so to others.
pub fn announce(
    what: &'static str,
) -> impl Fn(&mut Tx<'_>, &StepContext, &Input, &Trail) -> Result<Told<Trail>, Refused> + Send + Sync + 'static
{
    let put = put(what);
    move |tx, cx, input, before| {
        cx.publish(tx, PUT_DONE, &name(input, what), json!({ "what": what }))?;
        put(tx, cx, input, before)
    }
}

/// Drops it, and takes back what was said.
pub fn retract(what: &'static str) -> Undo<Input, Trail> {
    Undo::local(move |tx, cx, input: &Input, _: &Trail| {
        tx.within(&acme()).run(&DROP, params![name(input, what)])?;
        cx.withdraw(tx, (DROP_DONE, PUT_DONE), &name(input, what), json!({}))?;
        Ok(Told::new((), cx.entry("thing.drop", name(input, what))))
    })
}

pub fn undo_outside<B: serde::de::DeserializeOwned + Send + 'static>(
    outside: &Arc<Outside>,
) -> Undo<Input, B> {
    let outside = outside.clone();
    Undo::remote(SECOND * 10, move |cx, _: Input, _: B| {
        let outside = outside.clone();
        async move {
            outside.undo(cx.effect);
            Ok(())
        }
    })
}

/// Five local steps, the fourth of them the pivot.
pub fn plain_local(workflow: &'static str) -> Definition {
    Workflow::define(workflow)
        .version(1)
        .input::<Input>()
        .locks(|input| vec![Lock::exclusive(format!("round/{}", input.round)), Lock::shared("everything")])
        .deadline(SECOND * 600)
        .local(
            "first",
            |tx, cx, input, ()| Ok(Told::new("a".to_owned(), put_from(tx, cx, input, "a")?)),
            drop_it("a"),
        )
        .local("second", announce("b"), retract("b"))
        .local("third", announce("c"), retract("c"))
        .pivot_local("pivot", |tx, cx, input, before| {
            cx.publish(tx, PUT_DONE, &name(input, "p"), json!({}))?;
            Ok(Told::new(format!("{before}p"), put_from(tx, cx, input, "p")?))
        })
        .local("after", |tx, cx, input, before| {
            Ok(Told::new(format!("{before}z"), put_from(tx, cx, input, "z")?))
        })
        .build()
        .unwrap()
}

/// Local, ordered call, approval, local, pivot, forward call.
pub fn mixed(outside: &Arc<Outside>) -> Definition {
    let (one, two, three, four) = (outside.clone(), outside.clone(), outside.clone(), outside.clone());
    Workflow::define("sample.mixed")
        .version(1)
        .input::<Input>()
        .locks(|input| vec![Lock::exclusive(format!("round/{}", input.round))])
        .deadline(SECOND * 3600)
        .local("reserve", |tx, cx, input, ()| {
            Ok(Told::new("a".to_owned(), put_from(tx, cx, input, "a")?))
        }, drop_it("a"))
        .remote(
            "make",
            |step| {
                step.within(SECOND * 10)
                    .order(|_, cx, input, before| {
                        assert_eq!(before, "a");
                        Ok(Told::new(name(input, "order"), cx.entry("thing.order", name(input, "made"))))
                    })
                    .act(move |cx, input, before, order| {
                        let outside = one.clone();
                        async move {
                            assert!(order.seq() > 0 && *order.value() == name(&input, "order"));
                            Ok(format!("{before}{}", outside.apply(cx.effect, &name(&input, "made"))))
                        }
                    })
                    .probe(move |cx, _, before| {
                        let found = two.find(cx.effect);
                        async move { found.map_or(Probe::NotApplied, |made| Probe::Applied(format!("{before}{made}"))) }
                    })
                    .settle(|_, cx, input, _, _| Ok(vec![cx.entry("thing.made", name(input, "made"))]))
            },
            undo_outside(outside),
        )
        .wait(
            "approval",
            |step| {
                step.at_most(|_, _| SECOND * 60)
                    .open(|tx, cx, input, _| Ok(vec![put_from(tx, cx, input, "asked")?]))
                    .on(&["approve"], |tx, cx, input, before, signal| {
                        let vote: u32 = signal.payload().map_err(Refused::Bug)?;
                        let entry = put_from(tx, cx, input, &format!("vote{vote}"))?;
                        if vote < 2 {
                            return Ok(Ruling::StillWaiting(vec![entry]));
                        }
                        Ok(Ruling::Passed(format!("{before}!"), vec![entry]))
                    })
            },
            Undo::local(|tx, cx, input: &Input, _: &Trail| {
                for what in ["asked", "vote1", "vote2"] {
                    tx.within(&acme()).run(&DROP, params![name(input, what)])?;
                }
                Ok(Told::new((), cx.entry("thing.drop", name(input, "asked"))))
            }),
        )
        .local("attach", announce("b"), retract("b"))
        .pivot_local("pivot", |tx, cx, input, before| {
            Ok(Told::new(format!("{before}p"), put_from(tx, cx, input, "p")?))
        })
        .remote("publish", |step| {
            step.within(SECOND * 10)
                .act(move |cx, input, before, _| {
                    let outside = three.clone();
                    async move { Ok(format!("{before}{}", outside.apply(cx.effect, &name(&input, "published")))) }
                })
                .probe(move |cx, _, before| {
                    let found = four.find(cx.effect);
                    async move { found.map_or(Probe::NotApplied, |made| Probe::Applied(format!("{before}{made}"))) }
                })
        })
        .build()
        .unwrap()
}

/// A pivot outside, and a wait after it whose deadline lets the saga go on.
pub fn remote_pivot(outside: &Arc<Outside>) -> Definition {
    let (one, two) = (outside.clone(), outside.clone());
    Workflow::define("sample.remote_pivot")
        .version(1)
        .input::<Input>()
        .locks(|input| vec![Lock::exclusive(format!("round/{}", input.round)).across()])
        .deadline(SECOND * 36_000)
        .local(
            "claim",
            |tx, cx, input, ()| Ok(Told::new("a".to_owned(), put_from(tx, cx, input, "a")?)),
            Undo::local(|tx, cx, input: &Input, (): &()| {
                // What the pivot's order leaves is this step's to undo: a pivot has no undo of its own.
                for what in ["a", "use"] {
                    tx.within(&acme()).run(&DROP, params![name(input, what)])?;
                }
                Ok(Told::new((), cx.entry("thing.drop", name(input, "a"))))
            }),
        )
        .pivot_remote("sign", |step| {
            step.within(SECOND * 10)
                .order(|tx, cx, input, _| {
                    // Ordered again at each attempt: the use is counted once.
                    tx.within(&acme()).run(&DROP, params![name(input, "use")])?;
                    Ok(Told::new(7_u8, put_from(tx, cx, input, "use")?))
                })
                .act(move |cx, input, before, order, _| {
                    let outside = one.clone();
                    async move {
                        assert_eq!(*order.value(), 7);
                        Ok(format!("{before}{}", outside.apply(cx.effect, &name(&input, "signed"))))
                    }
                })
                .probe(move |cx, _, before| {
                    let found = two.find(cx.effect);
                    async move { PivotProbe::of_one_effect(found.map(|made| format!("{before}{made}"))) }
                })
        })
        .wait("cool", |step| {
            step.until(
                |_, _| SECOND * 60,
                |_, cx, _, before: &Trail| {
                    Ok(Ruling::Passed(format!("{before}~"), vec![cx.entry("thing.cooled", "x")]))
                },
            )
        })
        .local("record", |tx, cx, input, before| {
            Ok(Told::new(format!("{before}z"), put_from(tx, cx, input, "z")?))
        })
        .build()
        .unwrap()
}

/// Many equal calls before the pivot.
pub fn fan(outside: &Arc<Outside>) -> Definition {
    let (one, two, three) = (outside.clone(), outside.clone(), outside.clone());
    Workflow::define("sample.fan")
        .version(1)
        .input::<Input>()
        .local(
            "claim",
            |tx, cx, input, ()| Ok(Told::new("a".to_owned(), put_from(tx, cx, input, "a")?)),
            drop_it("a"),
        )
        .fan_out(
            "each",
            |step| {
                step.items(SECOND * 10, |_, _| (0..10_u32).collect())
                    .order(|_, cx, input, _, item| {
                        Ok(Told::new(*item, cx.entry("thing.order", name(input, &item.to_string()))))
                    })
                    .act(move |cx, input, _, item, order| {
                        let outside = one.clone();
                        async move {
                            assert_eq!(*order.value(), item);
                            Ok(outside.apply(cx.effect, &name(&input, &format!("item{item}"))))
                        }
                    })
                    .probe(move |cx, _, _, _| {
                        let found = two.find(cx.effect);
                        async move { found.map_or(Probe::NotApplied, Probe::Applied) }
                    })
                    .gather(|_, cx, input, before, outs: Vec<String>| {
                        assert_eq!(outs.len(), 10);
                        Ok((
                            format!("{before}{}", outs.len()),
                            vec![cx.entry("thing.gathered", name(input, "all"))],
                        ))
                    })
            },
            Undo::remote(SECOND * 10, move |cx: StepContext, _: Input, _: Trail| {
                let outside = three.clone();
                async move {
                    (0..10).for_each(|item| outside.undo(cx.item_effect(item)));
                    Ok(())
                }
            }),
        )
        .pivot_local("pivot", |tx, cx, input, before| {
            Ok(Told::new(format!("{before}p"), put_from(tx, cx, input, "p")?))
        })
        .build()
        .unwrap()
}

/// Many equal calls that are the pivot: with the first of them it is passed.
pub fn fan_pivot(outside: &Arc<Outside>) -> Definition {
    let (one, two) = (outside.clone(), outside.clone());
    Workflow::define("sample.fan_pivot")
        .version(1)
        .input::<Input>()
        .locks(|input| vec![Lock::exclusive(format!("round/{}", input.round))])
        .local(
            "claim",
            |tx, cx, input, ()| Ok(Told::new("a".to_owned(), put_from(tx, cx, input, "a")?)),
            drop_it("a"),
        )
        .local("claim_items", put("b"), drop_it("b"))
        .pivot_fan_out("sign_items", |step| {
            step.items(SECOND * 10, |_, _| (0..3_u32).collect())
                .act(move |cx, input, _, item, _| {
                    let outside = one.clone();
                    async move { Ok(outside.apply(cx.effect, &name(&input, &format!("item{item}")))) }
                })
                .probe(move |cx, _, _, _| {
                    let found = two.find(cx.effect);
                    async move { found.map_or(Probe::NotApplied, Probe::Applied) }
                })
                .gather(|_, cx, input, before, outs: Vec<String>| {
                    Ok((
                        format!("{before}{}", outs.len()),
                        vec![cx.entry("thing.gathered", name(input, "all"))],
                    ))
                })
        })
        .local("finalize", |tx, cx, input, before| {
            Ok(Told::new(format!("{before}z"), put_from(tx, cx, input, "z")?))
        })
        .build()
        .unwrap()
}

/// A step that is a workflow of its own.
pub fn parent() -> Definition {
    Workflow::define("sample.parent")
        .version(1)
        .input::<Input>()
        .local(
            "open",
            |tx, cx, input, ()| Ok(Told::new("a".to_owned(), put_from(tx, cx, input, "o")?)),
            drop_it("o"),
        )
        .child(
            "inner",
            |step| {
                step.start("sample.child", |input, _| input.clone()).finish(
                    |_, cx, _, before, trail: Trail| {
                        Ok((format!("{before}({trail})"), vec![cx.entry("thing.inner", "x")]))
                    },
                )
            },
            Undo::local(|tx, cx, input: &Input, _: &Trail| {
                for what in ["a", "b", "c", "p", "z"] {
                    tx.within(&acme()).run(&DROP, params![name(input, what)])?;
                }
                Ok(Told::new((), cx.entry("thing.drop", "inner")))
            }),
        )
        .pivot_local("pivot", |tx, cx, input, before| {
            Ok(Told::new(format!("{before}P"), put_from(tx, cx, input, "P")?))
        })
        .build()
        .unwrap()
}
