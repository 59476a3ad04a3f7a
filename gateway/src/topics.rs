//! What others can hear of: every topic that a step of a workflow publishes, with the facts that come with it.
//! Who enters: whoever lets a step say something new; a topic that was ever published keeps its name and its facts.
//! What leaves: names for the steps, and the list that docs/events.md is held against.

use sagas::outbox::Topic;

macro_rules! topics {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $facts:literal;)*) => {
        $($(#[$doc])* pub const $name: Topic = Topic::new($text);)*

        /// Every one of them, with its facts.
        pub const ALL: &[(Topic, &str)] = &[$(($name, $facts),)*];
    };
}

topics! {
    /// A workspace was founded.
    WORKSPACE_CREATED = "workspace.created", "name";
    /// A workspace takes no more programs, and will be closed for good.
    WORKSPACE_CLOSING = "workspace.closing", "grace_seconds, reason";
    /// It will not be.
    WORKSPACE_CLOSING_CALLED_OFF = "workspace.closing_called_off", "none";
    /// A workspace is closed for good: its key is destroyed.
    WORKSPACE_CLOSED = "workspace.closed", "reason";
    /// A key was made, and signs.
    KEY_CREATED = "key.created", "name, kind, version, fingerprint";
    /// A key was brought in, and signs.
    KEY_IMPORTED = "key.imported", "name, kind, version, fingerprint";
    /// A key has a next version, which will sign when the overlap is over.
    KEY_NEXT_VERSION_ANNOUNCED = "key.next_version_announced", "version, fingerprint, overlap_seconds";
    /// It will not come.
    KEY_NEXT_VERSION_WITHDRAWN = "key.next_version_withdrawn", "version";
    /// The next version signs from now on.
    KEY_ROTATED = "key.rotated", "version, fingerprint";
    /// A copy of a key outside was taken.
    KEY_BACKED_UP = "key.backed_up", "backup, version";
    /// A copy of a key has taken over.
    KEY_RESTORED = "key.restored", "version, fingerprint";
    /// A key is out of use, and will be destroyed.
    KEY_DESTRUCTION_ANNOUNCED = "key.destruction_announced", "notice_seconds, reason";
    /// It will not be.
    KEY_DESTRUCTION_CALLED_OFF = "key.destruction_called_off", "none";
    /// A key is destroyed.
    KEY_DESTROYED = "key.destroyed", "reason";
    /// A signature that was asked for is made; the run that made it shows it.
    SIGNATURE_MADE = "signature.made", "digest, intent, version, authorised_in, use";
    /// A batch of signatures is made, as far as it could be.
    SIGNATURE_BATCH_MADE = "signature.batch_made", "merkle_root, signed, refused";
    /// Others are asked to agree to what a run is about to do; the run shows the document that a vote is about.
    APPROVAL_WANTED = "approval.wanted", "about, request, consequence, digest, needs, policy_version, expires";
    /// They are not asked any more.
    APPROVAL_NO_LONGER_WANTED = "approval.no_longer_wanted", "none";
    /// Another policy is in force.
    POLICY_CHANGED = "policy.changed", "version";
    /// An export of the ledger is in its place.
    AUDIT_EXPORTED = "audit.exported", "entries, size, sha256";
}
