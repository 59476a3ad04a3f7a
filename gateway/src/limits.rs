//! Every bound the daemon keeps, in one place: name, unit, number and the reason for it.
//! Who enters: everybody that accepts, queues or stores something from outside.
//! What leaves: constants, and nothing that can be unbounded.

use std::time::Duration;

/// A batch of 500 digests with context stays below 512 KiB; twice that leaves room for messages.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// Of a body over the limit so much is read and forgotten, so that its sender lives to see the refusal.
pub const BODY_DISCARDED_BYTES_MAX: usize = 4 << 20;
/// Browsers and proxies rarely send more than 8 KiB; certificates never travel in a header.
pub const HEADER_BYTES_MAX: usize = 16 << 10;
/// Scrapers and load balancers are few; whoever opens more at once on a listener that knows nobody is none.
pub const MONITORING_CONNECTIONS_MAX: usize = 32;
/// A scrape takes milliseconds; a connection that lasts longer holds a place for nothing.
pub const MONITORING_WAIT_MAX: Duration = Duration::from_secs(10);
/// More fields than this are a probe, not a client.
pub const HEADER_FIELDS_MAX: usize = 64;
/// What the kernel keeps for a Unix socket's path, less the zero at its end.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Longest target that any route can have, with generous cursors.
pub const TARGET_BYTES_MAX: usize = 2 << 10;
/// A slow body holds a slot; ten seconds carry 1 MiB at a modem's speed times ten.
pub const BODY_WAIT_MAX: Duration = Duration::from_secs(10);
/// Header bytes dribbled for longer than this are an attack on descriptors; the same clock closes idle h1 connections.
pub const HEADER_WAIT_MAX: Duration = Duration::from_secs(60);
/// A peer that has shaken hands says within this which HTTP it speaks; the clock on headers starts only then.
pub const FIRST_BYTES_WAIT_MAX: Duration = Duration::from_secs(10);
/// A TLS handshake takes two round trips; ten seconds serve a satellite link.
pub const HANDSHAKE_WAIT_MAX: Duration = Duration::from_secs(10);
/// An h2 peer that does not answer a ping for this long is gone.
pub const PING_WAIT_MAX: Duration = Duration::from_secs(20);
/// Quiet h2 connections are pinged this often.
pub const PING_EVERY: Duration = Duration::from_secs(60);
/// Open connections from one address, so that one host cannot take all of them.
pub const CONNECTIONS_PER_ADDRESS_MAX: usize = 2048;
/// Open connections with one certificate: whoever needs more has more machines, each with its own.
pub const CONNECTIONS_PER_CERTIFICATE_MAX: usize = 512;
/// Open connections on one listener; each costs about 60 KiB with TLS buffers.
pub const CONNECTIONS_MAX: usize = 4096;
/// Handshakes going on at once: they are the only work done for the unauthenticated. Over it the oldest of whoever has most is cut.
pub const HANDSHAKES_MAX: usize = 512;
/// Handshakes going on at once from one address: an honest burst fits, and a newcomer never waits for those who say nothing.
pub const HANDSHAKES_PER_ADDRESS_MAX: usize = 192;
/// Leases under whose fences one request is carried out.
pub const FENCES_MAX: usize = 8;
/// The caller's name for itself, as kept in an entry.
pub const USER_AGENT_BYTES_MAX: usize = 256;
/// Concurrent h2 streams on a connection; more belong on a second connection.
pub const STREAMS_MAX: u32 = 128;
/// Streams a peer may reset before the connection is closed (rapid reset, CVE-2023-44487).
pub const RESET_STREAMS_MAX: usize = 64;
/// h2 window for a stream: a batch of 500 digests fits, so there are few window updates on the hot path.
pub const STREAM_WINDOW_BYTES: u32 = 128 << 10;
/// h2 window for a connection: what a peer may have sent and we have not read is held whatever we do.
pub const CONNECTION_WINDOW_BYTES: u32 = 256 << 10;
/// Bytes of answers that the peer of one connection has not taken; before it takes some it is given no more.
pub const UNSENT_CONNECTION_BYTES_MAX: usize = 1 << 20;
/// Bytes of answers that peers have not taken, over all connections of a listener; beyond it the one that lets most wait is cut.
pub const UNSENT_BYTES_MAX: usize = 96 << 20;
/// A peer takes something of its answers within this, or its connection is closed.
pub const UNSENT_WAIT_MAX: Duration = Duration::from_secs(30);
/// Bytes of requests' bodies held at once, over all connections of a listener.
pub const BODIES_BYTES_MAX: usize = 64 << 20;
/// A connection of this age is asked to end in good order, so that nothing about its peer is believed for longer.
pub const CONNECTION_AGE_MAX: Duration = Duration::from_secs(3_600);
/// Of an age or a wait that ends for many at once, so much at most is left out by chance: one in this many.
pub const JITTER_PARTS: u32 = 8;
/// Signatures asked for in one batch.
pub const BATCH_ITEMS_MAX: usize = 500;
/// Free text a client may attach to a signature; it lands in the ledger entry.
pub const CONTEXT_BYTES_MAX: usize = 1024;
/// The reason for what others have to agree to: it stands in events, which have 16 KiB.
pub const REASON_BYTES_MAX: usize = 1024;
/// A message sent to be hashed here; larger ones are hashed by the client and sent as a digest.
pub const MESSAGE_BYTES_MAX: usize = 512 << 10;
/// Entries, keys and the like on one page.
pub const PAGE_ITEMS_MAX: usize = 500;
/// Page length where the client does not say.
pub const PAGE_ITEMS_DEFAULT: usize = 100;
/// Versions one key may have; rotation past it asks for a new key.
pub const KEY_VERSIONS_MAX: i64 = 1000;
/// Versions in one answer: with its public key in three forms, one of RSA-4096 takes some 3 KB.
pub const KEY_VERSIONS_SHOWN_MAX: usize = 100;
/// Versions in the answer to a change, which is kept under its idempotency key.
pub const KEY_VERSIONS_ANSWERED_MAX: usize = 20;
/// Verifiers that have not learnt a new public key within a quarter will not.
pub const ROTATION_OVERLAP_MAX: Duration = Duration::from_secs(90 * 24 * 3600);
/// Shortest notice for the destruction of a key: a weekend and two working days.
pub const DESTRUCTION_NOTICE_MIN: Duration = Duration::from_secs(24 * 3600);
/// Longest notice for the destruction of a key.
pub const DESTRUCTION_NOTICE_MAX: Duration = Duration::from_secs(90 * 24 * 3600);
/// Shortest grace before a workspace is shredded.
pub const SHRED_GRACE_MIN: Duration = Duration::from_secs(24 * 3600);
/// Longest grace before a workspace is shredded.
pub const SHRED_GRACE_MAX: Duration = Duration::from_secs(90 * 24 * 3600);
/// Data keys kept open at once: each is a locked page, and the usual limit on locked memory is 8 MiB.
pub const DATA_KEYS_OPEN_MAX: usize = 1024;
/// The longest life of a client certificate.
pub const CERTIFICATE_DAYS_MAX: u32 = 825;
/// Client CAs trusted at once: a rotation needs two, and each more is a root that a handshake may have to try.
pub const AUTHORITIES_TRUSTED_MAX: usize = 4;
/// After a change of the client CAs its answer waits so long for the network's face to follow.
pub const FACE_WAIT_MAX: Duration = Duration::from_secs(8);
/// The time a request may take from its first byte to its answer, where the client asks for nothing shorter.
pub const REQUEST_WAIT_DEFAULT: Duration = Duration::from_secs(10);
/// A client may ask for at most this much patience.
pub const REQUEST_WAIT_MAX: Duration = Duration::from_secs(60);
/// Requests waiting for the token, over all workspaces.
pub const ADMISSION_QUEUE_MAX: usize = 4096;
/// Requests waiting for the token in one workspace, so that its backlog stays its own.
pub const ADMISSION_WORKSPACE_QUEUE_MAX: usize = 1024;
/// Calls to the token at once: enough to fill its threads and one batch on the way each side.
pub const ADMISSION_IN_FLIGHT: usize = 64;
/// Addresses remembered by a rate limiter; the least recently seen make room.
pub const RATE_KEYS_MAX: usize = 65_536;
/// One call to the token, whatever the request's own patience.
pub const TOKEN_CALL_WAIT_MAX: Duration = Duration::from_secs(10);
/// RSA key generation in a token may take this long.
pub const TOKEN_GENERATE_WAIT_MAX: Duration = Duration::from_secs(60);
/// After SIGTERM open requests get this long to finish.
pub const DRAIN_WAIT_MAX: Duration = Duration::from_secs(20);
/// How the keys stand in the token is looked at this often, beside the start of each of its workers.
pub const KEYS_EXAMINED_EVERY: Duration = Duration::from_secs(600);
/// While something is not as it should be, whoever repairs it sees so within a minute.
pub const KEYS_FAULTY_EXAMINED_EVERY: Duration = Duration::from_secs(60);
/// Between two rounds at least, whoever asks for a key that is not there.
pub const KEYS_EXAMINED_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// Versions of keys read from the ledger at once in such a round.
pub const KEYS_EXAMINED_PAGE: usize = 200;
/// Faulty keys in one answer; how many there are in all is said beside them.
pub const KEY_FAULTS_SHOWN_MAX: usize = 100;
/// The readiness probe signs this often.
pub const PROBE_EVERY: Duration = Duration::from_secs(2);
/// Calls of one service at once: the whole waiting room before the token, what runs there, and some that need neither.
pub const SERVICE_IN_FLIGHT_MAX: usize = ADMISSION_QUEUE_MAX + ADMISSION_IN_FLIGHT + 448;
/// Calls that wait for a place in a service; beyond it a retry later serves everybody better.
pub const SERVICE_QUEUE_MAX: usize = 512;
/// Calls of one service that wait for people or events at once; they hold no place, but memory.
pub const WAITERS_MAX: usize = 4096;
/// A handler that had this long and did not answer is stuck. With less, its client was impatient, which says nothing.
pub const HANDLER_WAIT_FAIR: Duration = Duration::from_secs(5);
/// Threads of the runtime, at least: a handler that blocks takes one away, and five of one service open its breaker before none
/// is left for its neighbours. With more processors there are more.
pub const RUNTIME_THREADS_MIN: usize = 8;
/// Upstreams in the configuration: each has a compartment, a pool and figures of its own.
pub const UPSTREAMS_MAX: usize = 64;
/// Endpoints of one upstream.
pub const ENDPOINTS_MAX: usize = 32;
/// Connecting to an endpoint, handshake included: two round trips to the other side of the earth, and a slow key.
pub const CONNECT_WAIT_MAX: Duration = Duration::from_secs(3);
/// A connection to an upstream that nobody has used for this long is closed.
pub const UPSTREAM_IDLE_MAX: Duration = Duration::from_secs(30);
/// A busy h2 connection to an upstream is pinged this often, and given as long to answer: one that died without a word would
/// otherwise take every request with it until TCP notices.
pub const UPSTREAM_PING_WAIT: Duration = Duration::from_secs(5);
/// A body of a request that may be repeated is kept in memory up to this length; a longer one is sent once.
pub const REPLAY_BYTES_MAX: usize = 64 << 10;
/// Attempts at one request, the first included.
pub const ATTEMPTS_MAX: u32 = 3;
/// Spans of one request; a batch does not tell of each item.
pub const SPANS_MAX: usize = 64;
/// Journeys kept for `chancery trace`: each is about a kilobyte.
pub const JOURNEYS_MAX: usize = 2048;
/// Bytes of log lines kept for `chancery trace`: some thousand lines, as only what went wrong is logged for a request.
pub const LOG_BYTES_KEPT_MAX: usize = 1 << 20;
/// Journeys waiting for the collector; what finds no room is counted and forgotten.
pub const EXPORT_QUEUE_MAX: usize = 1024;
/// Journeys in one message to the collector.
pub const EXPORT_BATCH_MAX: usize = 128;
/// A client that tries again does so within a day.
pub const ANSWERS_KEPT: Duration = Duration::from_secs(24 * 3600);
/// What signs or makes keys is not done twice within a month, whoever restarts whatever.
pub const ANSWERS_KEPT_LONG: Duration = Duration::from_secs(30 * 24 * 3600);
/// Of a request's time so much is left for its answer when it waits for something to happen.
pub const ANSWER_WAIT_MAX: Duration = Duration::from_millis(250);
/// The second of two equal requests waits so long for the first before it is told to come back.
pub const SAME_REQUEST_WAIT_MAX: Duration = Duration::from_secs(2);
/// Others agree to the end of a workspace within half a day, or it stands; its grace begins when they have.
pub const SHRED_AGREE_WAIT_MAX: Duration = Duration::from_secs(12 * 3600);
/// A quorum larger than this is a crowd that nobody can gather.
pub const POLICY_APPROVALS_MAX: u32 = 20;
/// A month is the longest window that people count in.
pub const POLICY_WINDOW_MAX: Duration = Duration::from_secs(31 * 24 * 3600);
/// Under a minute nobody can look at what they agree to.
pub const POLICY_EXPIRES_MIN: Duration = Duration::from_secs(60);
/// What nobody agreed to within a week is asked for again.
pub const POLICY_EXPIRES_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// A change that waits longer than a month is no change.
pub const POLICY_TIMELOCK_MAX: Duration = Duration::from_secs(31 * 24 * 3600);
/// Intents that one policy names.
pub const POLICY_INTENTS_MAX: usize = 64;
/// An intent is a word or two.
pub const POLICY_INTENT_BYTES_MAX: usize = 64;
/// A change of policy waits this long for its approvals.
pub const POLICY_CHANGE_WAIT_MAX: Duration = Duration::from_secs(48 * 3600);
/// The nonce of a request: a hash, an id, an invoice's number.
pub const NONCE_BYTES_MAX: usize = 128;
/// Messages of one request, in base64; they are kept, sealed, until it is over. Larger ones are hashed by the client.
pub const REQUEST_MESSAGE_BYTES_MAX: usize = 96 << 10;
/// Signatures of one batch request, in base64, so that its report can be kept and shown as one.
pub const REPORT_BYTES_MAX: usize = 160 << 10;
/// What a start waits for is tried again after this at first, and then after twice as long each time ...
pub const START_PAUSE_MIN: Duration = Duration::from_millis(250);
/// ... but no longer than this, which bounds how late a disk that was emptied is noticed.
pub const START_PAUSE_MAX: Duration = Duration::from_secs(5);
/// A start that waits asks the service manager for this much more time ...
pub const START_EXTENSION: Duration = Duration::from_secs(60);
/// ... this often, so that one that hangs is ended within a minute.
pub const START_EXTEND_EVERY: Duration = Duration::from_secs(10);
/// When to ask again a daemon that waits.
pub const STARTING_RETRY_AFTER: Duration = Duration::from_secs(5);
/// Operators who read while the daemon waits finish within this when it goes on.
pub const WAITING_DRAIN_MAX: Duration = Duration::from_secs(2);
