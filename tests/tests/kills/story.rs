//! A story: one workflow as somebody starts it, and the hand that answers whatever it waits for until it ends.
//! Who enters: tests, with a stage that they furnished.
//! What leaves: a run at its end, or a daemon that died over it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use promises::{Ask, Member, Outside, Protocol, get, post};
use serde_json::{Value, json};

use crate::stage::Stage;
use crate::trouble::{Breath, Late};

/// One workflow, started in one way, with one end.
pub(crate) struct Story {
    pub(crate) workflow: &'static str,
    pub(crate) by: By,
    pub(crate) start: Ask,
    pub(crate) turn: Turn,
    /// The key that an import waits for.
    pub(crate) brings: Option<Outside>,
}

/// Who starts it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Owner,
    Operator,
}

/// Whether it turns round, and where.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It goes on to its end.
    Never,
    /// Somebody who may approve says no while it waits here.
    Refused(&'static str),
    /// Its owner calls it off while it waits here.
    CalledOff(&'static str),
    /// It finds out by itself that it cannot go on.
    ByItself,
    /// Its time is over while a call is under way.
    TooLate(Late),
    /// It is stuck at its pivot, and an operator has it unwound.
    Unwound,
}

/// How a run rests.
pub(crate) enum Rest {
    /// It is over, in this state.
    Over(Value),
    /// The daemon is dead.
    Dead,
    /// There is no run: the start was never committed.
    Nothing,
}

/// A run that does not end within this is stuck; undoing is tried again after 0.2 s and more.
const END_WAIT_MAX: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

impl Story {
    /// A workflow that a member starts by name and that goes on to its end.
    pub(crate) fn of(workflow: &'static str, form: Value) -> Self {
        let start = post(format!("/v1/workflows/{workflow}"), form);
        Self { workflow, by: By::Owner, start, turn: Turn::Never, brings: None }
    }

    /// One that an operator starts by a route of its own.
    pub(crate) fn of_operator(workflow: &'static str, start: Ask) -> Self {
        Self { by: By::Operator, start, ..Self::of(workflow, Value::Null) }
    }

    /// The same, but it turns round.
    pub(crate) fn turning(self, turn: Turn) -> Self {
        Self { turn, ..self }
    }

    /// The same, with the key that it waits for.
    pub(crate) fn bringing(self, outside: Outside) -> Self {
        Self { brings: Some(outside), ..self }
    }

    /// The state in which it ends.
    pub(crate) fn end(&self) -> &'static str {
        if self.turn == Turn::Never { "succeeded" } else { "compensated" }
    }

    /// Runs it once to its end, as part of a stage for another story, and hands back its run's id.
    pub(crate) async fn told(&self, stage: &mut Stage) -> String {
        self.begin(stage).await;
        let Rest::Over(run) = self.follow(stage, None).await else {
            panic!("{}: it does not run", self.workflow)
        };
        assert_eq!(text(&run, "state"), self.end(), "{run:#}");
        text(&run, "id").to_owned()
    }

    /// Asks for the start. Whether it was answered does not matter: its run is looked for.
    pub(crate) async fn begin(&self, stage: &mut Stage) {
        let (by, start) = (self.by, self.start.clone());
        let (owner, operator) = (stage.owner.clone(), stage.house.operator());
        let asked = async move {
            match by {
                By::Owner => owner.try_ask(start).await,
                By::Operator => operator.try_ask(start).await,
            }
        };
        match self.turn {
            Turn::TooLate(late) => {
                self.take_the_data_key_out(stage).await;
                let breath = Breath::held(&mut stage.house).await;
                let asked = tokio::spawn(asked);
                if self.comes_to(stage, "running", Some(late.at)).await {
                    stage.let_pass(late.after);
                }
                drop(breath);
                // That it was late may be the answer.
                let _ = asked.await.expect("an answer or none");
            }
            Turn::Unwound => {
                // Its answer comes with the end.
                drop(tokio::spawn(asked));
                self.comes_to(stage, "stuck_forward", None).await;
            }
            _ => {
                if let Ok(answer) = asked.await {
                    assert!(answer.status < 300, "{}: {}", self.workflow, answer.text());
                }
            }
        }
    }

    /// Has the daemon show what an earlier run left behind: for that it asks the token for the workspace's data key, which it
    /// has at hand from then on. Otherwise the start itself would wait for the token.
    async fn take_the_data_key_out(&self, stage: &Stage) {
        if let Ok(Some(earlier)) = newest(stage, self.workflow).await {
            let _ = stage.owner.try_ask(get(format!("/v1/workflows/{}", text(&earlier, "id")))).await;
        }
    }

    /// Waits until a run stands there; false if the daemon is dead before.
    async fn comes_to(&self, stage: &mut Stage, state: &str, step: Option<&str>) -> bool {
        let began = Instant::now();
        while stage.house.daemon().has_ended().is_none() {
            let run = newest(stage, self.workflow).await.ok().flatten();
            let is_there = |run: &Value| {
                text(run, "state") == state && step.is_none_or(|step| text(run, "step") == step)
            };
            if run.as_ref().is_some_and(is_there) {
                return true;
            }
            assert!(
                began.elapsed() < END_WAIT_MAX,
                "{}: it is not {state} at {step:?}: {run:?}",
                self.workflow
            );
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        false
    }

    /// Follows the run, and answers what it waits for, until it rests.
    pub(crate) async fn follow(&self, stage: &mut Stage, known: Option<&str>) -> Rest {
        let began = Instant::now();
        let mut said = BTreeSet::new();
        loop {
            if stage.house.daemon().has_ended().is_some() {
                return Rest::Dead;
            }
            match newest(stage, self.workflow).await {
                Ok(Some(run)) if Some(text(&run, "id")) != known => {
                    if ["succeeded", "compensated"].contains(&text(&run, "state")) {
                        return Rest::Over(run);
                    }
                    match text(&run, "state") {
                        "stuck_forward" if self.turn == Turn::Unwound => {
                            self.have_unwound(stage, &run, &mut said).await;
                        }
                        state => {
                            assert!(!state.starts_with("stuck"), "{}: {run:#}", self.workflow);
                            self.help(stage, &run, &mut said).await;
                        }
                    }
                }
                Ok(_) => return Rest::Nothing,
                // Without an answer the daemon is dying, or halted; the next look finds out.
                Err(_) => {}
            }
            assert!(
                began.elapsed() < END_WAIT_MAX,
                "{}: it does not end\n{}",
                self.workflow,
                stage.house.log()
            );
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// One turn of the hand. What was said to this daemon is not said again.
    async fn help(&self, stage: &mut Stage, run: &Value, said: &mut BTreeSet<String>) {
        let step = text(run, "step");
        if text(run, "state") != "waiting" {
            return;
        }
        match (self.turn, step) {
            (Turn::CalledOff(here), step) if here == step => self.call_off(stage, run, said).await,
            (Turn::Refused(here), step) if here == step => self.vote(stage, run, "refuse", said).await,
            (_, "signing.await_approvals" | "workspaces.await_grace") => {
                self.vote(stage, run, "approve", said).await;
            }
            (_, "keys.await_wrapped_blob") => self.bring(stage, run, said).await,
            _ => stage.move_clock_to(run["due_us"].as_u64().unwrap_or_default()),
        }
    }

    async fn have_unwound(&self, stage: &Stage, run: &Value, said: &mut BTreeSet<String>) {
        // Of no workspace: one that is being founded can be entered by nobody yet.
        let operator = stage.house.operator();
        let path = format!("/v1/workflows/{}/lead/unwind", text(run, "id"));
        if said.contains("unwind") {
            return;
        }
        if let Ok(answer) = operator.try_ask(post(path, json!({ "reason": "a defect" }))).await {
            assert!(answer.status < 300, "{}: {}", self.workflow, answer.text());
            said.insert("unwind".to_owned());
        }
    }

    async fn call_off(&self, stage: &Stage, run: &Value, said: &mut BTreeSet<String>) {
        let ask =
            post(format!("/v1/workflows/{}/cancel", text(run, "id")), json!({ "reason": "called off" }));
        if !said.contains("cancel") && tell(&stage.owner, ask).await {
            said.insert("cancel".to_owned());
        }
    }

    /// The next of those who agree, until enough did; then the wait has only its time to run. One is enough to refuse.
    async fn vote(&self, stage: &mut Stage, run: &Value, verdict: &str, said: &mut BTreeSet<String>) {
        let path = format!("/v1/workflows/{}", text(run, "id"));
        let Ok(shown) = stage.operator().try_ask(get(path.clone())).await else { return };
        let approval = &shown.json()["approval"];
        let votes = approval["votes"].as_array().map_or(0, Vec::len);
        let enough = votes as u64 >= approval["needs"].as_u64().unwrap_or_default();
        let voice = format!("{verdict} {votes}");
        if approval.is_null() || said.contains(&voice) {
            return;
        }
        if verdict == "approve" && enough {
            return stage.move_clock_to(run["due_us"].as_u64().unwrap_or_default());
        }
        let ballot = (&approval["digest"], &approval["policy_version"]);
        let body = json!({ "verdict": verdict, "digest": ballot.0, "policy_version": ballot.1 });
        let (path, other) = (format!("{path}/approvals"), &stage.others[votes.min(stage.others.len() - 1)]);
        let heard = match self.by {
            By::Owner => tell(other, post(path, body)).await,
            By::Operator => stage.tell_as_second_operator(&path, &body.to_string()).await,
        };
        if heard {
            said.insert(voice);
        }
    }

    async fn bring(&self, stage: &Stage, run: &Value, said: &mut BTreeSet<String>) {
        let Ok(key) = stage.operator().try_ask(get("/v1/keys/brought")).await else { return };
        let (Some(outside), incoming) = (&self.brings, &key.json()["incoming"]) else { return };
        if said.contains("blob") || !incoming["pem"].is_string() {
            return;
        }
        let body = json!({ "wrapped": outside.wrapped_for(incoming) });
        if tell(&stage.owner, post(format!("/v1/workflows/{}/blob", text(run, "id")), body)).await {
            said.insert("blob".to_owned());
        }
    }
}

/// The newest run of a workflow, if the daemon answers.
pub(crate) async fn newest(stage: &Stage, workflow: &str) -> std::io::Result<Option<Value>> {
    let ask = get(format!("/v1/workflows-everywhere?workflow={workflow}&limit=1"));
    let runs = stage.house.operator().try_ask(ask).await?.expect(200).json();
    Ok(runs["workflows"].get(0).cloned())
}

/// Says something without a key of its own, so that nothing but what is said is committed.
async fn tell(member: &Member, ask: Ask) -> bool {
    let Ok(connection) = member.try_connect(Protocol::H1).await else { return false };
    match connection.send_bare(ask).await {
        Ok(answer) => {
            assert!(answer.status < 500, "{}", answer.text());
            answer.status < 300
        }
        Err(_) => false,
    }
}

pub(crate) fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_default()
}
