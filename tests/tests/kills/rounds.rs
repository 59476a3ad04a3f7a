//! The rounds of a story: once without a blow, to see what it leaves; then for each of its commits, dying right after it, and
//! dying right before the next.
//! Who enters: a story, on the stage that was furnished for it.
//! What leaves: places met, for the book; or a world that is neither as before nor as after.

use promises::blow::{Blow, Moment};
use promises::get;

use crate::book::{BEFORE, Book, GOING_ON, Met, PIVOT};
use crate::place;
use crate::stage::Stage;
use crate::story::{Rest, Story, Turn, newest, text};
use crate::world;

/// More commits than any story has.
const COMMITS_MAX: usize = 60;
/// A cell that so many passes did not meet is not there.
const PASSES_MAX: usize = 10;

/// What rounds are held against.
struct Known {
    before: String,
    after: String,
    /// The newest run of the workflow before the story begins.
    earlier: Option<String>,
    steps: Vec<String>,
}

impl Story {
    /// Kills the daemon after every commit of the story, or after those of the sample, and insists on one whole end each time.
    pub(crate) async fn holds_after_every_commit(self, mut stage: Stage) {
        let book = Book::open(stage.story);
        stage.keep().await;
        let (known, log) = self.undisturbed(&mut stage).await;
        let mut met = Met::default();
        // The answer to a request is kept in a commit that may share its sync with one of the run's: then the numbers
        // behind it move by one, and the next pass meets what this one jumped over.
        for _ in 0..PASSES_MAX {
            for moment in [Moment::AfterCommit, Moment::BeforeNext] {
                self.pass(&mut stage, &known, (&book, moment), &mut met).await;
            }
            if book.is_full(&met, &log) {
                break;
            }
        }
        book.close(met, &log);
    }

    /// One pass over the commits, up to the first that the story does not reach.
    async fn pass(&self, stage: &mut Stage, known: &Known, (book, moment): (&Book, Moment), met: &mut Met) {
        for number in book.numbers(COMMITS_MAX) {
            let Some(place) = self.struck(stage, known, (number, moment)).await else { break };
            println!("{}, {number}: {place}", stage.story);
            met.add(number, place);
        }
    }

    /// The story without a blow: what it leaves, and what its log says of each of its commits.
    async fn undisturbed(&self, stage: &mut Stage) -> (Known, Vec<String>) {
        stage.put_back().await;
        let before = stage.world().await;
        let earlier =
            newest(stage, self.workflow).await.expect("an answer").map(|run| text(&run, "id").to_owned());
        self.begin(stage).await;
        let Rest::Over(run) = self.follow(stage, earlier.as_deref()).await else {
            panic!("{}: it does not run", stage.story)
        };
        assert_eq!(text(&run, "state"), self.end(), "{run:#}");
        let (after, steps) = (stage.world().await, steps(stage, text(&run, "id")).await);
        stage.verifies().await;
        let log = place::commits_of(&stage.house, self.workflow, &steps);
        (Known { before, after, earlier, steps }, log)
    }

    /// One round. Where the run stood when the daemon died; nothing if it came to its end before the commit of this number.
    async fn struck(
        &self,
        stage: &mut Stage,
        known: &Known,
        (number, moment): (usize, Moment),
    ) -> Option<String> {
        stage.put_back().await;
        let blow = Blow::aim(&mut stage.house, number, moment).await;
        self.begin(stage).await;
        let rest = self.follow(stage, known.earlier.as_deref()).await;
        blow.withdraw(&mut stage.house).await;
        // The blow may also have met what the daemon wrote behind the end, such as a seal.
        let lives = stage.house.operator().try_ask(get("/health/live")).await.is_ok();
        let place = match rest {
            Rest::Over(_) if lives => None,
            Rest::Nothing if lives => panic!("{}: the daemon lives, and there is no run", stage.story),
            _ => Some(self.place(stage, known, moment).await),
        };
        self.ends_wholly(stage, known, place.as_deref().unwrap_or("not at all")).await;
        place
    }

    /// Reads where the run stood, and starts the daemon again.
    async fn place(&self, stage: &mut Stage, known: &Known, moment: Moment) -> String {
        stage.house.ended().await;
        let place = place::of(&stage.house, self.workflow, u32::from(known.earlier.is_some()));
        if let Turn::TooLate(late) = self.turn {
            // The power stayed away for as long: whatever was begun is late when it comes back.
            stage.let_pass(late.after);
        }
        stage.house.serve().await;
        let words = place.map_or_else(|| BEFORE.to_owned(), |place| place.words(&known.steps));
        if moment == Moment::BeforeNext { words + GOING_ON } else { words }
    }

    /// Leads the run to its one end: the world is as after it or as before, keys work, no lock is held, the ledger verifies.
    async fn ends_wholly(&self, stage: &mut Stage, known: &Known, place: &str) {
        let when = format!("{}, killed {place}", stage.story);
        let rest = self.follow(stage, known.earlier.as_deref()).await;
        let now = stage.world().await;
        match rest {
            Rest::Over(run) => {
                assert_eq!(text(&run, "state"), self.end(), "{when}: {run:#}");
                world::same(&now, &known.after, &when);
            }
            Rest::Nothing => world::same(&now, &known.before, &when),
            Rest::Dead => panic!("{when}: it died again\n{}", stage.house.log()),
        }
        if self.end() == "compensated" {
            world::same(&world::without_records(&now), &world::without_records(&known.before), &when);
        }
        stage.mend().await;
        stage.enabled_keys_sign(&when).await;
        stage.verifies().await;
        assert_eq!(place::locks(&stage.house), 0, "{when}: a lock is held");
    }
}

/// The names of a run's steps. A run of the appliance itself is shown to nobody in detail; its steps go by their numbers.
async fn steps(stage: &Stage, run: &str) -> Vec<String> {
    let shown = stage.operator().ask(get(format!("/v1/workflows/{run}"))).await.json();
    let name = |step: &serde_json::Value| {
        format!("{}{}", text(step, "name"), if step["pivot"] == true { PIVOT } else { "" })
    };
    shown["steps"].as_array().into_iter().flatten().map(name).collect()
}
