//! What every protocol can say, in one form: requests, and answers as events.
//!
//! Readers make it, writers speak it; neither knows the other. Texts are borrowed from the body where that is
//! possible, and everything that is JSON by itself (schemas, arguments) stays the text it was.

pub use super::text::Text;
use std::borrow::Cow;
use std::collections::HashMap;

/// Begins everything that this program puts where a provider would put a proof of origin (translation §8): the
/// signature of a thinking block, the `encrypted_content` of a reasoning item.
pub const MARK: &str = "aifs-";
/// In `encrypted_content`: the rest is the signature of a thinking block, byte for byte.
pub const MARK_SIGNATURE: &str = "aifs-sig-";
/// In `encrypted_content`: the rest is the data of a redacted thinking block.
pub const MARK_REDACTED: &str = "aifs-red-";

/// A request, whoever asked.
#[derive(Debug, Default)]
pub struct Request<'a> {
    /// The client's model, trimmed; `None` if missing, null or blank.
    pub model: Option<Cow<'a, str>>,
    /// System texts before the first turn, in order.
    pub system: Vec<Text<'a>>,
    /// The conversation. Neighbours have different roles, and each call is answered in the next user turn, results
    /// first: readers owe that (translation §2 to §4: merge, reorder, make up what is missing).
    pub turns: Vec<Turn<'a>>,
    /// Tools the model may call.
    pub tools: Vec<Tool<'a>>,
    /// Which of them; `None`: not said.
    pub tool_choice: Option<ToolChoice<'a>>,
    /// `Some(false)`: at most one call at a time.
    pub parallel_tools: Option<bool>,
    /// Output limit in tokens, reasoning included.
    pub max_tokens: Option<u64>,
    /// As the client wrote the number.
    pub temperature: Option<&'a str>,
    /// As the client wrote the number.
    pub top_p: Option<&'a str>,
    /// As the client wrote the number.
    pub top_k: Option<&'a str>,
    /// Stop sequences.
    pub stop: Vec<Cow<'a, str>>,
    /// How much to think.
    pub reasoning: Reasoning,
    /// What form the answer must have.
    pub format: Format<'a>,
    /// Who asks, for the provider's abuse checks.
    pub user: Option<Cow<'a, str>>,
    /// Whether the client wants an event stream.
    pub stream: bool,
    /// Whether a chat client asked for the usage chunk.
    pub include_usage: bool,
    /// Chat parameters without a counterpart in the other protocols (`seed`, penalties, `logit_bias`, `n`, …), as
    /// key and value: a chat writer sends them, others name them as dropped.
    pub chat_only: Vec<(&'static str, &'a str)>,
    /// What no target can say, by name, for one debug line.
    pub dropped: Vec<String>,
}

/// One turn of a conversation.
#[derive(Debug)]
pub struct Turn<'a> {
    /// Who speaks.
    pub role: Role,
    /// What is said, in order; never empty.
    pub parts: Vec<Part<'a>>,
}

/// Who speaks in a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The user, and the results of tools.
    User,
    /// The model.
    Assistant,
}

/// A piece of a turn.
#[derive(Debug)]
pub enum Part<'a> {
    /// Text, never empty.
    Text(Text<'a>),
    /// A system text in mid-conversation (translation §2): most targets take it as user text.
    System(Text<'a>),
    /// A picture.
    Image(Source<'a>),
    /// A document; `name` is a title or file name.
    Document {
        /// Where its content is.
        source: Source<'a>,
        /// Title or file name.
        name: Option<Cow<'a, str>>,
    },
    /// A call by the model.
    ToolCall {
        /// Pairs it with its result; never empty.
        id: Cow<'a, str>,
        /// The tool's name as the target knows it.
        name: Cow<'a, str>,
        /// A JSON object as text.
        arguments: Cow<'a, str>,
        /// Gemini's thought signature, as chat clients echo it.
        signature: Option<Cow<'a, str>>,
    },
    /// The answer to a call.
    ToolResult {
        /// The call's id.
        id: Cow<'a, str>,
        /// Texts, images and documents.
        parts: Vec<Part<'a>>,
        /// The tool failed.
        is_error: bool,
    },
    /// The model's reasoning.
    Thinking {
        /// In words.
        text: Cow<'a, str>,
        /// Proof of origin; empty or our own mark if this proxy made the block.
        signature: Option<Cow<'a, str>>,
    },
    /// Reasoning that only its maker can read.
    RedactedThinking(Cow<'a, str>),
    /// The model said no.
    Refusal(Text<'a>),
}

/// Where the content of a picture or document is.
#[derive(Debug)]
pub enum Source<'a> {
    /// In the request, as base64.
    Base64 {
        /// For example `image/png`.
        media_type: Cow<'a, str>,
        /// The content.
        data: Cow<'a, str>,
    },
    /// At an address.
    Url(Cow<'a, str>),
    /// Plain text (documents).
    Text(Cow<'a, str>),
}

/// A tool the model may call.
#[derive(Debug)]
pub struct Tool<'a> {
    /// The name as the target knows it: `[A-Za-z0-9_-]{1,64}`.
    pub name: Cow<'a, str>,
    /// What it does.
    pub description: Option<Text<'a>>,
    /// A JSON schema as text; an object.
    pub schema: Cow<'a, str>,
    /// Whether the schema binds the model.
    pub strict: bool,
}

/// Which tool the model must call.
#[derive(Debug, PartialEq, Eq)]
pub enum ToolChoice<'a> {
    /// Its choice.
    Auto,
    /// None.
    None,
    /// At least one.
    Required,
    /// This one.
    Tool(Cow<'a, str>),
}

/// How much to think.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reasoning {
    /// In words; `None`: not said.
    pub effort: Option<Effort>,
    /// In tokens, where the client said so (Anthropic's `budget_tokens`).
    pub budget: Option<u64>,
}

/// How much to think, in words, ascending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the words say it")]
pub enum Effort {
    None,
    Minimal,
    Low,
    Medium,
    High,
    XHigh,
    Max,
}

/// What form the answer must have.
#[derive(Debug, Default)]
pub enum Format<'a> {
    /// Any.
    #[default]
    Text,
    /// Some JSON object.
    JsonObject,
    /// JSON by a schema.
    JsonSchema {
        /// Chat and Responses have a name; Messages has none.
        name: Option<Cow<'a, str>>,
        /// As text.
        schema: Cow<'a, str>,
        /// Whether it binds.
        strict: bool,
    },
}

/// How the tools of a request are called on the client's side, by the name the target knows them by. Tools that are
/// the same on both sides are not in it.
#[derive(Debug, Default, Clone)]
pub struct ClientTools(pub HashMap<String, ClientTool>);

/// A tool as the client knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTool {
    /// Its name there.
    pub name: String,
    /// The namespace it is in (Responses).
    pub namespace: Option<String>,
    /// What it is there; for the target all are functions.
    pub kind: ToolKind,
}

/// What a tool is to the client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ToolKind {
    /// A function.
    #[default]
    Function,
    /// Free text instead of JSON: the target's function has one string property `input`.
    Custom,
    /// Responses' `local_shell`.
    LocalShell,
    /// Responses' `shell`.
    Shell,
    /// Responses' `apply_patch`, not the custom tool of that name.
    ApplyPatch,
}

impl ClientTool {
    /// Whether it takes free text.
    pub fn is_custom(&self) -> bool {
        self.kind == ToolKind::Custom
    }
}

/// What a model says, in the order it says it: `Start (Open Delta* Close)* (Finish | Failed)`, blocks never overlap.
///
/// Readers owe this grammar whatever the provider did; writers may rely on it. A whole answer is the fold of the same
/// events. Borrowed, so that a token costs no allocation here.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<'a> {
    /// The answer begins.
    Start {
        /// The provider's id, empty if it has none.
        id: &'a str,
        /// The provider's model, empty if it does not say.
        model: &'a str,
        /// What is known of the input at this time.
        usage: Usage,
    },
    /// A block begins.
    Open(Block<'a>),
    /// A piece of the open block: text, reasoning, refusal, or a tool's arguments as raw JSON text; never empty.
    Delta(&'a str),
    /// Where some of the text comes from. Anywhere between start and end, mostly in its block.
    Cited(Citation<'a>),
    /// The log probabilities of the next piece of text: OpenAI's objects, one for each token, parted by commas.
    Logprobs(&'a str),
    /// The open block ends. `signature` is that of a thinking block, if it has one.
    Close {
        /// Proof of origin.
        signature: Option<&'a str>,
    },
    /// The answer ends well.
    Finish {
        /// Why.
        reason: StopReason,
        /// The stop sequence that matched.
        stop_sequence: Option<&'a str>,
        /// All of it.
        usage: Usage,
    },
    /// The answer broke off, maybe in the middle of a block, which then has no `Close`; maybe before `Start`, where
    /// comments have been sent and no backend is left.
    Failed {
        /// What clients may know of the cause.
        failure: Failure,
        /// For people.
        message: &'a str,
    },
}

/// A page that some of the text comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Citation<'a> {
    /// Its address.
    pub url: &'a str,
    /// Its title, empty if it has none.
    pub title: &'a str,
    /// First character of what comes from there, counted over all text of the answer.
    pub start: u64,
    /// The character behind the last one.
    pub end: u64,
}

/// Why an answer broke off, as far as the protocols have names for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Anything else.
    Server,
    /// The provider has too much to do.
    Overloaded,
    /// Too many requests or tokens.
    RateLimit,
    /// The conversation is too long.
    ContextTooLong,
    /// The request is at fault.
    InvalidRequest,
}

/// The kind of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block<'a> {
    /// Text.
    Text,
    /// Reasoning.
    Thinking,
    /// Reasoning that only its maker can read; complete, no deltas.
    RedactedThinking(&'a str),
    /// A call. Its arguments follow as deltas; none at all means `{}`.
    Tool {
        /// Never empty: readers make one up.
        id: &'a str,
        /// As the target knows it.
        name: &'a str,
        /// Gemini's thought signature.
        signature: Option<&'a str>,
    },
    /// The model says no.
    Refusal,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// It was complete.
    End,
    /// A stop sequence.
    StopSequence,
    /// The output limit, or a full context window.
    MaxTokens,
    /// The client has tools to run.
    ToolUse,
    /// The provider's filter, or a refusal.
    Refusal,
}

/// Tokens of one answer. Input counts cached and written tokens (as OpenAI counts).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// All input.
    pub input: u64,
    /// Of it, read from a cache.
    pub cache_read: u64,
    /// Of it, written to a cache.
    pub cache_write: u64,
    /// All output, reasoning included.
    pub output: u64,
    /// Of it, reasoning.
    pub reasoning: u64,
}
