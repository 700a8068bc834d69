//! The built-in provider: no network, no key, a canned answer that says so. It can also fail, for those who want to
//! watch a fallback happen.

use crate::config::DemoMode;
use crate::net::deadline::sleep_until;
use std::time::{Duration, Instant};

/// Between two words of a demo stream.
const WORD_TIME: Duration = Duration::from_millis(20);
/// How long the stalling demo is waited for: shorter than for a real provider, as somebody is watching.
pub const STALL_TIME: Duration = Duration::from_secs(5);

const TEXT: &str = "Hello! This is the built-in demo of ai-free-swap: the connection works, but no AI model is \
behind it yet. To get real answers, set the key of a provider in the environment (for example GEMINI_API_KEY, \
GROQ_API_KEY or OPENROUTER_API_KEY) or list your accounts in config.yaml (see config.yaml.example), then start it again.";

/// The canned answer, as a provider would send it.
pub struct DemoAnswer {
    created: u64,
    model: String,
    words: std::str::SplitInclusive<'static, char>,
    step: Step,
    due: Instant,
}

#[derive(Clone, Copy)]
enum Step {
    First,
    Words,
    End,
    Over,
}

/// What a demo backend does with a request.
pub enum Demo {
    /// It answers.
    Answer(Box<DemoAnswer>),
    /// It refuses with this status and body.
    Refuse(u16, &'static str),
    /// It says nothing, ever.
    Stall,
}

impl Demo {
    /// Begins one; `created` is the time in seconds since 1970.
    pub fn new(mode: DemoMode, model_json: &str, created: u64) -> Self {
        match mode {
            DemoMode::Answer => Self::Answer(Box::new(DemoAnswer {
                created,
                model: model_json.to_owned(),
                words: TEXT.split_inclusive(' '),
                step: Step::First,
                due: Instant::now(),
            })),
            DemoMode::Fail429 => Self::Refuse(
                429,
                r#"{"error":{"message":"Demo rate limit. Please try again in 10s.","type":"requests","code":"rate_limit_exceeded"}}"#,
            ),
            DemoMode::Fail500 => {
                Self::Refuse(500, r#"{"error":{"message":"Demo failure","type":"server_error"}}"#)
            }
            DemoMode::Stall => Self::Stall,
        }
    }
}

impl DemoAnswer {
    /// The answer in one piece.
    pub fn whole(&self) -> String {
        let words = TEXT.split(' ').count();
        format!(
            r#"{{"id":"chatcmpl-demo","object":"chat.completion","created":{},"model":{},"choices":[{{"index":0,"message":{{"role":"assistant","content":"{TEXT}","refusal":null}},"logprobs":null,"finish_reason":"stop"}}],"usage":{{"prompt_tokens":0,"completion_tokens":{words},"total_tokens":{words}}}}}"#,
            self.created, self.model
        )
    }

    /// The data of the next event; `None` after the last.
    pub async fn next(&mut self) -> Option<String> {
        match self.step {
            Step::First => {
                self.step = Step::Words;
                Some(self.chunk(r#"{"role":"assistant","content":""}"#, "null"))
            }
            Step::Words => match self.words.next() {
                Some(word) => {
                    self.due += WORD_TIME;
                    sleep_until(self.due).await;
                    // The text has no quotes, backslashes or control characters.
                    Some(self.chunk(&format!(r#"{{"content":"{word}"}}"#), "null"))
                }
                None => {
                    self.step = Step::End;
                    Some(self.chunk("{}", "\"stop\""))
                }
            },
            Step::End => {
                self.step = Step::Over;
                let words = TEXT.split(' ').count();
                Some(format!(
                    r#"{{"id":"chatcmpl-demo","object":"chat.completion.chunk","created":{},"model":{},"choices":[],"usage":{{"prompt_tokens":0,"completion_tokens":{words},"total_tokens":{words}}}}}"#,
                    self.created, self.model
                ))
            }
            Step::Over => None,
        }
    }

    fn chunk(&self, delta: &str, finish: &str) -> String {
        format!(
            r#"{{"id":"chatcmpl-demo","object":"chat.completion.chunk","created":{},"model":{},"choices":[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish}}}]}}"#,
            self.created, self.model
        )
    }
}
