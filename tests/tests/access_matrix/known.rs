//! The routes that the matrix knows, and the few that change nothing on the ledger.
//! Who enters: whoever adds a route, and decides here who may use it.
//! What leaves: two lists; what is served must agree with the first, and the second may only shrink.

/// Every route there is. One that is served and does not stand here, or the reverse, fails the test: whoever adds a
/// route decides in this list, in the open, who may use it.
pub(crate) const KNOWN: [&str; 62] = [
    "DELETE /v1/api-keys/{api_key}: scope access:manage",
    "DELETE /v1/clients/{client}: scope access:manage",
    "GET /health/live: open",
    "GET /health/ready: open",
    "GET /metrics: operator",
    "GET /v1/api-keys: scope access:read",
    "GET /v1/audit/checkpoint: enrolled client",
    "GET /v1/audit/consistency: enrolled client",
    "GET /v1/audit/entries/{seq}: scope audit:read",
    "GET /v1/audit/entries: scope audit:read",
    "GET /v1/audit/everything: operator",
    "GET /v1/audit/receipts/{seq}: scope audit:read",
    "GET /v1/authorities: operator",
    "GET /v1/ca: open",
    "GET /v1/clients: scope access:read",
    "GET /v1/events-everywhere: operator",
    "GET /v1/events: scope workflows:read",
    "GET /v1/keys/{key}: scope keys:read",
    "GET /v1/keys: scope keys:read",
    "GET /v1/locks: scope locks",
    "GET /v1/openapi.json: open",
    "GET /v1/policies/{scope}: scope keys:read",
    "GET /v1/policies: scope keys:read",
    "GET /v1/routes/explain: operator",
    "GET /v1/routes: operator",
    "GET /v1/status: operator",
    "GET /v1/token: operator",
    "GET /v1/traces/{id}: operator",
    "GET /v1/workflow-offers: scope workflows:read",
    "GET /v1/workflows-everywhere: operator",
    "GET /v1/workflows/{workflow}: scope workflows:read",
    "GET /v1/workflows: scope workflows:read",
    "GET /v1/workspaces: operator",
    "POST /v1/api-keys: scope access:manage",
    "POST /v1/audit/export: operator",
    "POST /v1/audit/seal: operator",
    "POST /v1/authorities/{authority}/retire: operator",
    "POST /v1/authorities: operator",
    "POST /v1/clients: operator",
    "POST /v1/keys/{key}/disable: scope keys:manage",
    "POST /v1/keys/{key}/enable: scope keys:manage",
    "POST /v1/keys/{key}/keep: scope keys:manage",
    "POST /v1/keys/{key}/rotate: scope keys:manage",
    "POST /v1/keys/{key}/schedule-destruction: scope keys:manage",
    "POST /v1/keys/{key}/sign: scope sign",
    "POST /v1/keys/{key}/signatures: scope sign",
    "POST /v1/keys/{key}/verify: scope verify",
    "POST /v1/keys: scope keys:manage",
    "POST /v1/locks/{name}/release: scope locks",
    "POST /v1/locks/{name}/renew: scope locks",
    "POST /v1/locks: scope locks",
    "POST /v1/sign-batch: scope sign",
    "POST /v1/token/reseal: operator",
    "POST /v1/workflows/{workflow}/approvals: scope approve",
    "POST /v1/workflows/{workflow}/blob: scope keys:manage",
    "POST /v1/workflows/{workflow}/cancel: scope workflows:manage",
    "POST /v1/workflows/{workflow}/lead/{verb}: operator",
    "POST /v1/workflows/{workflow}: scope workflows:manage",
    "POST /v1/workspaces/{workspace}/close: operator",
    "POST /v1/workspaces/{workspace}/open: operator",
    "POST /v1/workspaces/{workspace}/shred: operator",
    "POST /v1/workspaces: operator",
];

/// Changing routes that leave no entry of their own in a plain call, with the reason; this list may only shrink.
pub(crate) const WITHOUT_ENTRY: [(&str, &str); 2] = [
    (
        "POST /v1/keys/{key}/verify",
        "it changes nothing: a body is posted because it is too long for an address",
    ),
    ("POST /v1/audit/seal", "a seal over nothing new adds nothing; the entry of a real seal is its own"),
];

/// Changing routes that need a run in a rare state, or a TPM; the test named beside each calls them.
pub(crate) const CALLED_ELSEWHERE: [(&str, &str); 3] = [
    ("POST /v1/token/reseal", "the_master_key_is_sealed_anew_once"),
    ("POST /v1/workflows/{workflow}/lead/{verb}", "a_stuck_run_is_shown_in_words_and_led_on_by_an_operator"),
    (
        "POST /v1/workflows/{workflow}/blob",
        "a_key_brought_in_as_the_recipe_says_signs_what_its_public_half_outside_verifies",
    ),
];
