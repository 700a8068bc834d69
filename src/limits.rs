//! Every limit of the program: unit in the name, reason above the number.

use std::time::Duration;

// --- HTTP ---------------------------------------------------------------------------------------------------

/// Head of a request or response. Common servers allow 8 to 16 KiB.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Header fields of one head. SDKs send about 25, CDNs answer with about 40.
pub const HEAD_FIELDS_MAX: usize = 100;
/// Empty lines skipped before a request. RFC 9112 §2.2 asks for one; old clients sent it behind a POST body.
pub const LEADING_EMPTY_LINES_MAX: usize = 4;
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
/// Bodies up to this size need not wait for their turn while large ones fill the body memory.
pub const BODY_WITHOUT_TURN_BYTES_MAX: usize = 64 * 1024;
/// How long a request waits for its share of the body memory, in all, before it is told 503.
pub const BODY_MEMORY_WAIT: Duration = Duration::from_secs(10);

/// One SSE event: tool arguments or an image may come as a single one.
pub const SSE_EVENT_BYTES_MAX: usize = 1024 * 1024;
/// A whole answer of a provider: it is checked before the client gets its head.
pub const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The body of an error answer, read to judge it.
pub const ERROR_BODY_BYTES_MAX: usize = 64 * 1024;
/// Start frames held back before the first content of a stream.
pub const HELD_BYTES_MAX: usize = 1024 * 1024;
/// What a reader of answers holds back until its turn comes: fragments of interleaved tool calls, text between them.
pub const REORDER_BYTES_MAX: usize = 1024 * 1024;
/// Reasoning kept to be handed out as text, should the answer have nothing else.
pub const SPARE_REASONING_BYTES_MAX: usize = 64 * 1024;
/// The output of a translated stream, which the Responses protocol wants once more in its last event.
pub const STREAM_OUTPUT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// One read from a socket. The buffer belongs to the thread, not to the connection.
pub const READ_BYTES_MAX: usize = 64 * 1024;
/// Pieces of a request that go to a socket in one call: what the kernel takes (`IOV_MAX`).
pub const WRITE_PIECES_MAX: usize = 1024;
/// Ciphertext waiting for the socket, per TLS connection: four full records.
pub const TLS_WRITE_BYTES_MAX: usize = 64 * 1024;
/// `tls_ca` or `SSL_CERT_FILE`. The bundles of distributions have about 250 KB.
pub const CA_FILE_BYTES_MAX: usize = 4 * 1024 * 1024;

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
/// For a provider to count tokens; after it they are estimated.
pub const COUNT_TIME: Duration = Duration::from_secs(5);
/// Between two bytes of a stream that has begun.
pub const STREAM_SILENCE_TIME: Duration = Duration::from_secs(120);
/// A streaming client that has heard nothing for this long gets an SSE comment.
pub const KEEP_ALIVE_TIME: Duration = Duration::from_secs(15);
/// An idle connection to a provider is closed after this long: below the limits of common servers.
pub const POOL_IDLE_TIME: Duration = Duration::from_secs(60);
/// How often idle connections to providers are looked at.
pub const POOL_SWEEP_TIME: Duration = Duration::from_secs(15);
/// Backends that `check` calls at a time: a small machine has descriptors and memory for so many handshakes.
pub const CHECKS_AT_ONCE_MAX: usize = 32;
/// How often the log gets a line about what was done: a quiet log stays quiet, a day fits a screen.
pub const SUMMARY_TIME: Duration = Duration::from_secs(60 * 60);
/// Head start of one address over the next (RFC 8305 §5).
pub const ADDRESS_RACE_TIME: Duration = Duration::from_millis(250);
/// After SIGTERM, for what runs to end.
pub const DRAIN_TIME: Duration = Duration::from_secs(30);
/// Times in a row that a panic may start the program anew: more would be a loop.
pub const RENEWALS_MAX: u32 = 5;
/// A panic this long after the last one is no loop.
pub const RENEWAL_GAP: Duration = Duration::from_secs(60);
/// For `ai-free-swap health` to hear from the program: below the 3 s that container platforms commonly give a probe.
pub const HEALTH_TIME: Duration = Duration::from_secs(2);
/// For the service manager to take one message.
pub const NOTIFY_TIME: Duration = Duration::from_secs(1);
/// Default of `max_wait`: how long a request may be held for a bench that is known to end.
pub const MAX_WAIT_TIME: Duration = Duration::from_secs(20);
/// Default of `request_timeout`: all attempts of one request until the first content.
pub const REQUEST_TIME: Duration = Duration::from_secs(600);

// --- Benches ------------------------------------------------------------------------------------------------
// Only for what we guess: a wait that the provider states is neither shortened nor capped.

/// Rate limit without a stated reset: the first guess, doubled up to the second. Minute windows are the rule.
pub const BENCH_RATE: [Duration; 2] = [Duration::from_secs(15), Duration::from_secs(300)];
/// Daily quota without a stated or known reset. Windows may be rolling or of some hours, so it is asked again.
pub const BENCH_DAY: [Duration; 2] = [Duration::from_secs(3600), Duration::from_secs(6 * 3600)];
/// Monthly quota: one call a day finds out that it was raised.
pub const BENCH_MONTH: Duration = Duration::from_secs(24 * 3600);
/// No credit: somebody may pay at any time.
pub const BENCH_CREDIT: Duration = Duration::from_secs(3600);
/// Refused key: doubled up to the second.
pub const BENCH_KEY: [Duration; 2] = [Duration::from_secs(600), Duration::from_secs(6 * 3600)];
/// Model gone.
pub const BENCH_MODEL: Duration = Duration::from_secs(3600);
/// Forbidden.
pub const BENCH_FORBIDDEN: Duration = Duration::from_secs(600);
/// Down: doubled up to the second, a quarter of it left to the dice.
pub const BENCH_DOWN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// What a refusal says of a model's window and abilities is believed for this long: both change.
pub const LEARNED_TIME: Duration = Duration::from_secs(24 * 3600);
/// A probe of a backend that was down keeps others away for this long. It may take its time to answer, and they
/// must not be refused meanwhile.
pub const PROBE_TIME: Duration = Duration::from_secs(2);
/// After a limit has ended, so many requests go one by one before all go again: one for each that the window let in
/// would be wasted otherwise.
pub const CAREFUL_SUCCESSES: u32 = 3;
/// Nobody is careful any more so long after the end of a limit: a minute's window is full again.
pub const CAREFUL_TIME: Duration = Duration::from_secs(60);
/// Between two probes of a bench that is not over, made because a request has nothing else left.
pub const LAST_RESORT_GAP: Duration = Duration::from_millis(100);
/// How often a request that waits for another's probe looks again.
pub const PROBE_STEP: Duration = Duration::from_millis(50);
/// How often one request, held for a stated reset, asks again where it was refused already. Each time is the provider's
/// own, the others wait meanwhile, and the wait has its limit anyway: this is for one that says "in a moment" for ever.
pub const HELD_RETRIES_MAX: usize = 20;

// --- State file ---------------------------------------------------------------------------------------------

/// The state file. A backend takes at most about 10 KB of it, while both of its windows are full of requests.
pub const STATE_FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Between two writes of the state file: flash wears out.
pub const STATE_FILE_GAP: Duration = Duration::from_secs(60);

// --- Counts -------------------------------------------------------------------------------------------------

/// Attempts of one request over all cycles.
pub const ATTEMPTS_MAX: usize = 64;
/// Most client connections, whatever the descriptor limit allows.
pub const CONNECTIONS_MAX: usize = 4096;
/// Tool calls of one answer. Agents see about ten.
pub const ANSWER_CALLS_MAX: usize = 256;
/// Choices of a whole answer that becomes a stream: as many as OpenAI lets a client ask for.
pub const ANSWER_CHOICES_MAX: usize = 128;
/// Blocks of one answer. Interleaved thinking makes some hundreds; each costs more memory than its bytes.
pub const ANSWER_BLOCKS_MAX: usize = 16 * 1024;
/// Elements of one list in a translated answer, such as the parts of a message: what is made of each is up to ten times
/// as long.
pub const ANSWER_LIST_MAX: usize = 64 * 1024;
/// Sources of one block of an answer that are passed on.
pub const BLOCK_CITATIONS_MAX: usize = 256;
/// Members at the top of a request that may pass through. The APIs have some forty; each costs more memory than its bytes.
pub const REQUEST_MEMBERS_MAX: usize = 1024;
/// Places at which a request that passes through is changed. A conversation has two or three for each call.
pub const REPAIRS_MAX: usize = 64 * 1024;
/// One JSON schema that is cleaned for a provider. Those of tools have some kilobytes.
pub const SCHEMA_BYTES_MAX: usize = 1024 * 1024;
/// Idle connections kept to one provider.
pub const POOL_IDLE_PER_HOST_MAX: usize = 256;
/// Idle connections kept in all.
pub const POOL_IDLE_MAX: usize = 512;
/// TLS sessions kept for resumption: 32 servers with 8 tickets each.
pub const TLS_SESSIONS_MAX: usize = 256;
/// Addresses of one host that are tried: at 250 ms each, more would not get their turn anyway.
pub const ADDRESSES_MAX: usize = 16;
/// Characters of a client's `model` in the log: the rest of a megabyte tells nobody more.
pub const LOG_MODEL_CHARS_MAX: usize = 100;
/// Facts about limits taken from one answer, and remembered of a backend. Four windows of requests and of tokens are the most that is told.
pub const TOLD_FACTS_MAX: usize = 16;
/// Value of a header field about limits. The longest are lists of policies.
pub const TOLD_VALUE_BYTES_MAX: usize = 512;
/// `Retry-After` towards clients, in seconds: several SDKs sleep for whatever they are told.
pub const RETRY_AFTER_SECONDS_MAX: u64 = 60;

/// Requests that wait for a limit to end, or for their turn. Each holds a connection and its body.
pub const WAITING_MAX: usize = 1024;

/// Conversations whose backend is remembered (`selection: sticky`): those of the last hours, at 40 bytes each.
pub const CONVERSATIONS_MAX: usize = 4096;
/// Output that is set aside for a request before anybody knows how much it will be, in tokens. Agents' answers are of
/// this size; a client's `max_tokens` says nothing, and setting it aside would make every pool look empty.
pub const OUTPUT_TOKENS_RESERVED: u64 = 512;

// --- Closing ------------------------------------------------------------------------------------------------

/// After a refusal, what the client still sends is read and dropped for so long, so that it can read the answer.
pub const LINGER_TIME: Duration = Duration::from_secs(3);
/// And so many bytes of it.
pub const LINGER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// After the end of a stream the provider gets this long to end the body, so that the connection can be kept.
pub const STREAM_TAIL_TIME: Duration = Duration::from_millis(100);
/// Slowest upload taken, in bytes a second: a body of one byte every 29 s would hold its connection and its share of
/// the memory for years. Bytes ahead of this rate buy no more than [`BODY_PROGRESS_TIME`].
pub const BODY_RATE_MIN: u64 = 1024;
/// A body that nobody needs, up to this size, is read and dropped to keep the connection.
pub const DISCARD_BYTES_MAX: usize = 64 * 1024;
/// The listener rests this long when the system has no descriptor left.
pub const ACCEPT_REST_TIME: Duration = Duration::from_millis(100);
/// Pipelined bytes read ahead while a request runs; more stay in the socket.
pub const READ_AHEAD_BYTES_MAX: usize = HEAD_BYTES_MAX;
/// Reading the body of an error answer, which is only read to judge it.
pub const ERROR_BODY_TIME: Duration = Duration::from_secs(5);
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
/// Most stop sequences that `quirks.stop_max` may let through. Vendors take 4 to 16.
pub const STOP_SEQUENCES_MAX: u64 = 64;
/// Default of `extra.default_max_tokens`: Anthropic's protocol has no "as much as you like".
pub const DEFAULT_MAX_TOKENS: u32 = 4096;

// --- Translation --------------------------------------------------------------------------------------------

/// Names of left-out parameters and parts kept for the debug line of one request.
pub const DROPPED_NAMES_MAX: usize = 32;
/// Each of them: it may be the client's text.
pub const DROPPED_NAME_BYTES_MAX: usize = 64;
/// A tool's name as all providers take it (openai-chat §3, anthropic-messages §4).
pub const TOOL_NAME_BYTES_MAX: usize = 64;

/// Nesting of what is read of a request by name. What is only passed on may be nested as deep as it likes.
pub const REQUEST_DEPTH_MAX: usize = 128;

/// JSON values in what is read of a request: lists of small ones take tens of times their bytes in memory. The longest
/// conversations have some ten thousand.
pub const REQUEST_VALUES_MAX: usize = 256 * 1024;

/// Thought signatures remembered: those of the agents' last calls.
pub const SIGNATURES_MAX: usize = 4096;
/// All of them together, with their ids.
pub const SIGNATURES_BYTES_MAX: usize = 1024 * 1024;
/// One of them. Gemini's take some hundred bytes to some KiB.
pub const SIGNATURE_BYTES_MAX: usize = 64 * 1024;

// --- Responses ----------------------------------------------------------------------------------------------

/// Responses kept for `previous_response_id`.
pub const STORED_RESPONSES_MAX: usize = 256;
/// All of them together.
pub const STORED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// One of them, with the conversation that led to it.
pub const STORED_RESPONSE_BYTES_MAX: usize = 4 * 1024 * 1024;
