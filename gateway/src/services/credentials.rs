//! The credentials behind a member's act, looked at again in the transaction that carries it out.
//! Who enters: every write on behalf of a member, by way of the ground.
//! What leaves: a refusal, if API key or certificate were revoked since the guard saw them.

use audit::Tx;

use super::devices::store as devices;
use super::ground::LedgerRefused;
use super::workspaces::store as workspaces;
use crate::api::guard::Standing;
use crate::ids::WorkspaceId;
use crate::moment::Moment;

/// Checks that API key and certificate still stand. For an operator the kernel vouches.
///
/// # Errors
/// Which of them no longer stands, or that the ledger could not be read.
pub fn confirm(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    standing: &Standing,
    now: Moment,
) -> Result<(), LedgerRefused> {
    let Standing::Program { client, api_key } = standing else { return Ok(()) };
    if !workspaces::api_key_stands(tx, workspace, api_key, now)? {
        return Err(LedgerRefused::ApiKeyWithdrawn);
    }
    if !devices::stands(tx, workspace, client, now)? {
        return Err(LedgerRefused::ClientWithdrawn);
    }
    Ok(())
}
