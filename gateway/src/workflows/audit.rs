//! Workflows about the ledger: the sealed export.
//! Who enters: the catalog, with the service of the ledger's readers.
//! What leaves: a definition, a list of steps that can be read aloud.

use std::sync::Arc;
use std::time::Duration;

use sagas::{Definition, DefinitionRefused, Lock, Undo, Workflow};

use super::MINUTE;
use crate::services::audit::Audit;
use crate::services::audit::bundles::{self, Bundle, ExportPlan, Stored};

/// A million entries of a whole export are written in a few seconds; excerpts, ciphers and slow disks get time enough.
pub(super) const BUNDLE_WAIT_MAX: Duration = Duration::from_secs(600);

/// 42 `audit.seal_export`.
pub fn seal_export(audit: &Arc<Audit>) -> Result<Definition, DefinitionRefused> {
    let (build, delete, sign) = (audit.clone(), audit.clone(), audit.clone());
    let (keep, kept) = (audit.clone(), audit.clone());
    Workflow::define("audit.seal_export")
        .version(2)
        .input::<ExportPlan>()
        .locks(|_| vec![Lock::exclusive("audit_export").across()])
        .deadline(360 * MINUTE)
        .local(
            "audit.freeze_range",
            |tx, cx, plan, ()| bundles::freeze_range(tx, cx, plan),
            Undo::local(|_, cx, _, ()| Ok(bundles::unfreeze_range(cx))),
        )
        .remote(
            "audit.build_bundle",
            |step| {
                step.within(BUNDLE_WAIT_MAX)
                    .act(move |cx, plan, (), _| build.clone().build(cx.effect, plan))
                    .probe(|_, _, ()| super::made_again())
                    .settle(|_, cx, _, (), bundle: &Bundle| Ok(bundles::built(cx, bundle)))
            },
            Undo::remote(BUNDLE_WAIT_MAX, move |cx, _, ()| delete.clone().delete(cx.effect)),
        )
        .remote(
            "keys.hsm_sign_checkpoint",
            |step| {
                step.within(BUNDLE_WAIT_MAX)
                    .act(move |_, _, bundle: Bundle, _| sign.clone().sign_checkpoint(bundle))
                    .probe(|_, _, _| super::made_again())
            },
            Undo::none("a checkpoint more does no harm, and none is ever taken back"),
        )
        .pivot_remote("vault.store_worm", |step| {
            step.within(BUNDLE_WAIT_MAX)
                .act(move |_, _, bundle: Bundle, _, untouched| keep.clone().store(bundle, untouched))
                .probe(move |_, _, bundle| kept.clone().was_stored(bundle))
        })
        .local("audit.record_export", |tx, cx, _, stored: &Stored| bundles::record(tx, cx, stored))
        .build()
}
