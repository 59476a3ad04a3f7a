//! One act that is cut off at each of its commits, asked for again, and looked for on the ledger.
//! Who enters: a route with the entries that tell of what it does, and a way to have something fresh to do it to.
//! What leaves: one effect and one answer, whichever commit was the last; or a failure that names the commit.

use std::ops::RangeInclusive;

use promises::blow::{Blow, Moment};
use promises::{Answer, Appliance, Ask, Member, Operator, SCOPES, get};
use serde_json::Value;

/// No act has more commits before its answer.
const COMMITS_MAX: usize = 20;

/// What is promised of a route.
pub(crate) struct Act {
    /// Which.
    pub(crate) route: &'static str,
    /// The action of the entry that tells of its effect.
    pub(crate) action: &'static str,
    /// How many such entries one request may leave.
    pub(crate) told: RangeInclusive<usize>,
    /// The answer's status. One that was cut off may also be answered with the workflow that it started or turned.
    pub(crate) status: u16,
    /// Whether the workflow may be the answer.
    pub(crate) workflow: bool,
    /// Whether the answer may be that it was authorised and that what came of it was lost: then nothing more was done.
    pub(crate) lost: bool,
}

/// Who asks.
#[derive(Clone)]
pub(crate) enum By {
    Operator(Operator),
    Member(Member),
}

impl By {
    async fn ask(&self, ask: Ask) -> std::io::Result<Answer> {
        match self {
            Self::Operator(operator) => operator.try_ask(ask).await,
            Self::Member(member) => member.try_ask(ask).await,
        }
    }
}

/// A house with two programs that know each other.
pub(crate) struct Stage {
    pub(crate) house: Appliance,
    pub(crate) acme: Member,
    pub(crate) bob: Member,
    /// Grows with each round, so that each has its own names.
    pub(crate) round: usize,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        Self::on(Appliance::start().await).await
    }

    pub(crate) async fn on(house: Appliance) -> Self {
        let acme = house.member("acme").await;
        let operator = house.operator().acting_in(&acme.workspace);
        let (_, identity) = operator.enrol("bob").await;
        let (_, secret) = operator.issue("bob", &SCOPES).await;
        let bob = acme.with_secret(&secret).with_identity(&identity);
        Self { house, acme, bob, round: 0 }
    }

    /// A name that no other round has.
    pub(crate) fn name(&self) -> String {
        format!("round-{}", self.round)
    }

    /// The operator, acting in the workspace.
    pub(crate) fn operator(&self) -> Operator {
        self.house.operator().acting_in(&self.acme.workspace)
    }

    /// Something fresh in each round, asked for with the daemon dying at the first commit, at the second, and so on, until
    /// it is answered before it dies.
    pub(crate) async fn cuts_off(mut self, act: &Act, prepare: impl AsyncFn(&mut Self) -> (By, Ask)) {
        for number in 1..=COMMITS_MAX {
            self.round = number;
            let (by, ask) = prepare(&mut self).await;
            let ask = ask.header("idempotency-key", &self.name());
            let before = self.told(act).await;
            if self.struck(number, &by, &ask).await.is_some() {
                assert!(number > 1, "{}: it was never cut off", act.route);
                return promises::evidence::verifies(&mut self.house).await;
            }
            self.answers_again(act, number, (&by, &ask), before).await;
        }
        panic!("{}: it is never answered", act.route);
    }

    /// The answer, if the daemon lived to give one.
    async fn struck(&mut self, number: usize, by: &By, ask: &Ask) -> Option<Answer> {
        let blow = Blow::aim(&mut self.house, number, Moment::AfterCommit).await;
        let answer = by.ask(ask.clone()).await.ok();
        blow.withdraw(&mut self.house).await;
        if self.house.operator().try_ask(get("/health/live")).await.is_err() {
            self.house.ended().await;
            self.house.serve().await;
            self.house.ready().await;
        }
        answer
    }

    async fn answers_again(&mut self, act: &Act, number: usize, (by, ask): (&By, &Ask), before: usize) {
        let here = format!("{}, cut off at commit {number}", act.route);
        let answer = by.ask(ask.clone()).await.expect("a daemon that was started again");
        let by_workflow = act.workflow && answer.status == 202 && answer.header("location").is_some();
        let lost = act.lost && answer.status == 503 && answer.code() == "outcome_unknown";
        assert!(answer.status == act.status || by_workflow || lost, "{here}: {answer:?}");
        let again = by.ask(ask.clone()).await.expect("an answer");
        assert_eq!((again.status, &again.body), (answer.status, &answer.body), "{here}: twice the same");
        assert_eq!(again.header("chancery-entry"), answer.header("chancery-entry"), "{here}");
        let told = self.told(act).await - before;
        assert!(act.told.contains(&told), "{here}: {told} entries `{}`", act.action);
    }

    async fn told(&self, act: &Act) -> usize {
        self.house.operator().entries(&format!("action={}", act.action)).await.len()
    }

    /// A key of this round.
    pub(crate) async fn key(&self) -> String {
        self.acme.create_key(&self.name(), "p256").await
    }
}

/// The member of an answer that must be there.
pub(crate) fn text(answer: &Value, name: &str) -> String {
    answer[name].as_str().unwrap_or_else(|| panic!("no {name}: {answer}")).to_owned()
}
