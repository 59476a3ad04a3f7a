//! Batches: up to 500 orders authorised in one transaction, then signed side by side.
//! Who enters: members with the scope `sign`.
//! What leaves: for each item its signature or its own refusal; one bad item does not spoil the others.

use std::sync::Arc;

use audit::{Each, Recorded, Told};
use tokio::task::JoinSet;

use super::order::{Prepared, SignCommand, Target, Unrecorded};
use super::policies::LimitTime;
use super::{Signed, Signing, SigningRefused, policies};
use crate::api::Origin;
use crate::api::guard::{Permit, may};
use crate::services::ground::Telling;
use crate::services::keys::KeysRefused;
use crate::services::keys::ring::KeyCard;
use crate::services::keys::state::{KeyState, WrongState};
use crate::signer::SignOrder;

/// The items' outcomes, in the order of the request.
pub(super) type Outcomes = Vec<Result<Signed, SigningRefused>>;

struct Fitting {
    places: Vec<usize>,
    orders: Vec<Unrecorded>,
}

impl Signing {
    /// Signs a batch. Items that do not fit their key are refused one by one; the rest is authorised all or none.
    ///
    /// # Errors
    /// The ledger or the queue refused the batch as a whole; then nothing was signed.
    pub async fn sign_batch(
        self: &Arc<Self>,
        by: &Permit<may::Sign>,
        origin: &Origin,
        commands: Vec<SignCommand>,
    ) -> Result<Outcomes, SigningRefused> {
        let mut outcomes: Vec<Option<Result<Signed, SigningRefused>>> = Vec::new();
        outcomes.resize_with(commands.len(), || None);
        let fitting = self.fit(by, origin, commands, &mut outcomes).await;
        let targets: Vec<Target> = fitting.orders.iter().map(|order| order.target.clone()).collect();
        // One place in the queue says whether there is time at all; the items then take their turns one by one.
        drop(self.admission.admit(by.workspace(), origin.urgent, origin.deadline).await?);
        let telling = Telling::member(by, origin);
        let counted = self.limit_time();
        if let Some(recorded) = self.authorise_all(by, &telling, fitting.orders, counted).await? {
            let places = fitting.places.into_iter().zip(targets);
            let telling = (&telling, counted);
            self.act_on_all(by, origin, recorded, places.collect(), telling, &mut outcomes).await;
        }
        Ok(outcomes.into_iter().flatten().collect())
    }

    async fn fit(
        &self,
        by: &Permit<may::Sign>,
        origin: &Origin,
        commands: Vec<SignCommand>,
        outcomes: &mut [Option<Result<Signed, SigningRefused>>],
    ) -> Fitting {
        let mut fitting = Fitting { places: Vec::new(), orders: Vec::new() };
        for (place, command) in commands.into_iter().enumerate() {
            let card = self.keys.card(by.workspace(), &command.key).await.map_err(SigningRefused::from);
            match card.and_then(|card| fitting_order(&card, &command)) {
                Ok(prepared) => {
                    fitting.places.push(place);
                    fitting.orders.push(prepared.order(origin.deadline));
                }
                Err(refused) => outcomes[place] = Some(Err(refused)),
            }
        }
        fitting
    }

    /// One transaction for all: each order has its own entry and its own use number.
    async fn authorise_all(
        &self,
        by: &Permit<may::Sign>,
        telling: &Telling,
        orders: Vec<Unrecorded>,
        now: LimitTime,
    ) -> Result<Option<Recorded<Each<SignOrder>>>, SigningRefused> {
        if orders.is_empty() {
            return Ok(None);
        }
        let workspace = by.workspace().clone();
        let recorded = self
            .ground
            .authorise::<_, SigningRefused>(telling.clone(), orders.len(), move |tx, telling| {
                let mut told = Vec::with_capacity(orders.len());
                for order in &orders {
                    policies::admit_direct::<SigningRefused>(
                        tx,
                        &workspace,
                        &order.target.key,
                        order.scheme(),
                        now,
                    )?;
                    let use_number = order.count(tx, &workspace)?;
                    told.push(order.told(telling, use_number));
                }
                let first = told.remove(0);
                Ok(Told::each(first, told))
            })
            .await;
        self.look_again_if_fenced(by.workspace(), recorded).map(Some)
    }

    async fn act_on_all(
        self: &Arc<Self>,
        by: &Permit<may::Sign>,
        origin: &Origin,
        recorded: Recorded<Each<SignOrder>>,
        places: Vec<(usize, Target)>,
        (telling, counted): (&Telling, LimitTime),
        outcomes: &mut [Option<Result<Signed, SigningRefused>>],
    ) {
        let mut going = JoinSet::new();
        for (order, (place, target)) in recorded.each().zip(places) {
            let (signing, telling, workspace) = (Arc::clone(self), telling.clone(), by.workspace().clone());
            let (urgent, deadline) = (origin.urgent, origin.deadline);
            going.spawn(async move {
                let outcome = match signing.admission.admit(&workspace, urgent, deadline).await {
                    Ok(_slot) => signing.act(order, target, telling).await,
                    Err(shed) => signing.give_up(order, &target, (telling, counted), shed).await,
                };
                (place, outcome)
            });
        }
        while let Some(joined) = going.join_next().await {
            match joined {
                Ok((place, outcome)) => outcomes[place] = Some(outcome),
                Err(panicked) => tracing::error!(%panicked, "an item of a batch panicked"),
            }
        }
        for outcome in outcomes.iter_mut().filter(|outcome| outcome.is_none()) {
            *outcome = Some(Err(crate::services::ground::LedgerRefused::Fault(None).into()));
        }
    }
}

/// The key's state on the card is a hint that spares a batch its one disabled key; the transaction decides.
fn fitting_order(card: &KeyCard, command: &SignCommand) -> Result<Prepared, SigningRefused> {
    match card.row.state {
        KeyState::Enabled => command.prepare_to_sign(card),
        state => Err(KeysRefused::from(WrongState { state }).into()),
    }
}
