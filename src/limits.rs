//! Every limit of the program: unit in the name, reason above the number.

use std::time::Duration;

// --- HTTP ---------------------------------------------------------------------------------------------------

/// Head of a request or response. Common servers allow 8 to 16 KiB.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Header fields of one head. SDKs send about 25, CDNs answer with about 40.
pub const HEAD_FIELDS_MAX: usize = 100;
/// One chunk-size line with its extensions (RFC 9112 §7.1.1 asks for a limit). Nobody uses extensions.
pub const CHUNK_LINE_BYTES_MAX: usize = 256;
/// All trailer fields of a chunked body together; they are read and dropped.
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;
/// Interim (1xx) responses skipped before the final one.
pub const INTERIM_RESPONSES_MAX: usize = 8;

/// Default of `server.max_body`. Above Anthropic's own 32 MB, so that a 413 of theirs is never hidden by ours.
pub const REQUEST_BODY_BYTES_MAX: usize = 34 * 1024 * 1024;
/// Default of `server.body_memory`: all request bodies in flight together.
pub const BODY_MEMORY_BYTES_MAX: usize = 128 * 1024 * 1024;
/// How long a request waits for its share of the body memory before it is told 503.
pub const BODY_MEMORY_WAIT: Duration = Duration::from_secs(10);

/// One SSE event: tool arguments or an image may come as a single one.
pub const SSE_EVENT_BYTES_MAX: usize = 1024 * 1024;
/// A whole answer of a provider: it is checked before the client gets its head.
pub const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The body of an error answer, read to judge it.
pub const ERROR_BODY_BYTES_MAX: usize = 64 * 1024;
/// Start frames held back before the first content of a stream.
pub const HELD_BYTES_MAX: usize = 1024 * 1024;
/// One read from a socket. The buffer belongs to the thread, not to the connection.
pub const READ_BYTES_MAX: usize = 64 * 1024;

// --- Time ---------------------------------------------------------------------------------------------------

/// From the first byte of a request head to its last.
pub const HEADER_TIME: Duration = Duration::from_secs(10);
/// Between two bytes of a request body.
pub const BODY_PROGRESS_TIME: Duration = Duration::from_secs(30);
/// A client connection without a request. Above the 60 s of common load balancers, as they must close first.
pub const IDLE_TIME: Duration = Duration::from_secs(75);
/// Between two writes that a peer accepts.
pub const WRITE_PROGRESS_TIME: Duration = Duration::from_secs(30);
/// Name, route and TCP handshake of one connection to a provider.
pub const CONNECT_TIME: Duration = Duration::from_secs(10);
/// TLS handshake.
pub const TLS_TIME: Duration = Duration::from_secs(10);
/// Default of `extra.timeout` for streams: until the first content.
pub const STREAM_FIRST_CONTENT_TIME: Duration = Duration::from_secs(120);
/// Default of `extra.timeout` for whole answers: until the end.
pub const WHOLE_ANSWER_TIME: Duration = Duration::from_secs(300);
/// Between two bytes of a stream that has begun.
pub const STREAM_SILENCE_TIME: Duration = Duration::from_secs(120);
/// A streaming client that has heard nothing for this long gets an SSE comment.
pub const KEEP_ALIVE_TIME: Duration = Duration::from_secs(15);
/// An idle connection to a provider is closed after this long: below the limits of common servers.
pub const POOL_IDLE_TIME: Duration = Duration::from_secs(60);
/// Head start of one address over the next (RFC 8305 §5).
pub const ADDRESS_RACE_TIME: Duration = Duration::from_millis(250);
/// After SIGTERM, for what runs to end.
pub const DRAIN_TIME: Duration = Duration::from_secs(30);
/// Default of `max_wait`: how long a request may be held for a bench that is known to end.
pub const MAX_WAIT_TIME: Duration = Duration::from_secs(20);
/// Default of `request_timeout`: all attempts of one request until the first content.
pub const REQUEST_TIME: Duration = Duration::from_secs(600);

// --- Counts -------------------------------------------------------------------------------------------------

/// Attempts of one request over all cycles.
pub const ATTEMPTS_MAX: usize = 64;
/// Most client connections, whatever the descriptor limit allows.
pub const CONNECTIONS_MAX: usize = 4096;
/// Idle connections kept to one provider.
pub const POOL_IDLE_PER_HOST_MAX: usize = 256;
/// Idle connections kept in all.
pub const POOL_IDLE_MAX: usize = 512;
/// Nesting of a JSON body. serde_json's own limit is 128; the skim that checks ours is not recursive.
pub const JSON_DEPTH_MAX: usize = 512;
/// `Retry-After` towards clients, in seconds: several SDKs sleep for whatever they are told.
pub const RETRY_AFTER_SECONDS_MAX: u64 = 60;

// --- Configuration ------------------------------------------------------------------------------------------

/// The configuration file. A hundred backends take about 20 KiB; the YAML scanner's work can grow with the square.
pub const CONFIG_BYTES_MAX: usize = 256 * 1024;
/// What the configuration may hold once aliases and `${NAME}` are expanded: a few nested aliases reach gigabytes.
pub const CONFIG_EXPANDED_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Open brackets in the configuration file. The scanner's work grows with their square.
pub const CONFIG_BRACKETS_MAX: usize = 512;
/// A URL in the configuration.
pub const URL_BYTES_MAX: usize = 2048;
/// All extra request headers of one backend together: half of a head that servers accept.
pub const EXTRA_HEADER_BYTES_MAX: usize = HEAD_BYTES_MAX / 2;
/// Executor threads: beyond this a proxy only waits for memory.
pub const THREADS_MAX: u64 = 64;
/// Any duration in the configuration. A larger one is a mistake in the unit.
pub const CONFIG_TIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Default of `extra.default_max_tokens`: Anthropic's protocol has no "as much as you like".
pub const DEFAULT_MAX_TOKENS: u32 = 4096;
