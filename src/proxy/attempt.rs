//! One attempt: the request goes to one backend, and comes back as an answer fit for the client or as a verdict.

use super::demo::{Demo, STALL_TIME};
use super::job::{Endpoint, Job};
use super::lane::counted;
use super::relay::{Break, Relay, Source, State};
use super::upstream::{HttpUpstream, Upstream, Via};
use crate::config::Protocol;
use crate::dialect::answer::{Fold, MessagesReader, ReadError};
use crate::dialect::ask::Dialect;
use crate::dialect::chat::{Usage, Whole, judge_and_edit, judge_whole};
use crate::dialect::chat_stream::{edited, thought_signatures};
use crate::dialect::messages_stream::whole_with_provider;
use crate::http::head::ResponseHead;
use crate::http::sse::SseParser;
use crate::limits::{ANSWER_BYTES_MAX, ERROR_BODY_BYTES_MAX, ERROR_BODY_TIME};
use crate::net::client::{self, ExchangeError, Response};
use crate::net::deadline::{sleep_until, with_deadline};
use crate::net::dial::{self, DialError};
use crate::net::pool::Pool;
use crate::provider::ratelimit::{told, unix_ms};
use crate::route::Now;
use crate::route::verdict::{Failure, Judged, Learned, Phase, Verdict, judge_answer, judge_failure};
use crate::secret::Secret;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// Some servers begin their JSON with a byte order mark.
const BOM: char = '\u{feff}';

/// What a client can be given.
pub enum Answer {
    /// A whole answer.
    Whole(Vec<u8>, Option<Usage>),
    /// A stream that has begun to say something.
    Stream(Box<Relay>),
}

/// An attempt that brought nothing, or nothing better than an empty answer.
pub struct Failed {
    /// What it means.
    pub verdict: Verdict,
    /// What the refusal says for later requests, if anything.
    pub learned: Option<Box<Learned>>,
    /// The empty answer, in case nobody has a better one.
    pub empty: Option<Box<Answer>>,
    /// The provider's error body, if it is the client's request that was wrong.
    pub error_body: Option<Vec<u8>>,
}

impl From<Verdict> for Failed {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, learned: None, empty: None, error_body: None }
    }
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        judge_failure(&failure).into()
    }
}

/// Tries one backend.
pub async fn attempt(pool: &Arc<Pool>, upstream: &Upstream, job: &Job<'_>) -> Result<Answer, Failed> {
    match &upstream.via {
        Via::Demo(mode) => demo(Demo::new(*mode, &upstream.model_json, job.created), upstream, job).await,
        Via::Http(http) => over_http(pool, upstream, http, job).await,
    }
}

async fn demo(demo: Demo, upstream: &Upstream, job: &Job<'_>) -> Result<Answer, Failed> {
    let deadline = job.deadline(None);
    match demo {
        Demo::Answer(answer) if job.ask.stream() => {
            let relay = Relay::new(Source::Demo(answer), job.lane(upstream));
            first_content(relay, upstream, job, deadline).await
        }
        Demo::Answer(answer) => whole_answer(answer.whole(), None, upstream, job),
        Demo::Refuse(status, body) => Err(judge(upstream, job.secrets, status, None, body.as_bytes()).into()),
        Demo::Stall => {
            sleep_until(deadline.min(Instant::now() + STALL_TIME)).await;
            Err(Failure::Timeout(Phase::FirstContent).into())
        }
    }
}

async fn over_http(
    pool: &Arc<Pool>,
    upstream: &Upstream,
    http: &HttpUpstream,
    job: &Job<'_>,
) -> Result<Answer, Failed> {
    let deadline = job.deadline(http.timeout);
    let endpoint = if http.protocol == Protocol::OpenAi { Endpoint::Chat } else { Endpoint::Messages };
    let mut response = match with_deadline(deadline, pin!(send(pool, upstream, http, endpoint, job))).await {
        Ok(sent) => sent.map_err(failure_of)?,
        Err(_) => return Err(Failure::Timeout(Phase::Head).into()),
    };
    if !(200..300).contains(&response.head.status) {
        return Err(refused(response, upstream, job.secrets).await);
    }
    let wall = unix_ms(SystemTime::now());
    (job.hear)(&told(&upstream.provider, response.head.headers.iter(), wall));
    if let Some(coding) = coding(&response.head) {
        let text = format!("content-encoding {coding}, though none was asked for");
        return Err(Failure::Garbled(text).into());
    }
    let kind = response.head.headers.get_str("content-type").unwrap_or_default().to_ascii_lowercase();
    if job.ask.stream() && !is_json(&kind) {
        let relay = Relay::new(Source::Http(Box::new(response)), job.lane(upstream));
        return first_content(relay, upstream, job, deadline).await;
    }
    let text = read_text(&mut response, deadline).await?;
    let head = response.head.clone();
    response.finish();
    match job.ask.stream() {
        true => text_as_stream(text, &head, upstream, job, deadline).await,
        false if kind.starts_with("text/event-stream") && !is_one_json(&text) => {
            stream_as_whole(&text, upstream, job)
        }
        false => whole_answer(text, Some(&head), upstream, job),
    }
}

async fn read_text(response: &mut Response, deadline: Instant) -> Result<String, Failed> {
    let body = match with_deadline(deadline, pin!(response.read_to_end(ANSWER_BYTES_MAX))).await {
        Ok(body) => body.map_err(failure_of)?,
        Err(_) => return Err(Failure::Timeout(Phase::Body).into()),
    };
    let mut text = String::from_utf8(body).map_err(|_| Failure::Garbled("the answer is not UTF-8".into()))?;
    if text.starts_with(BOM) {
        text.drain(..BOM.len_utf8());
    }
    Ok(text)
}

/// Asked for a stream, it gave something that calls itself JSON.
async fn text_as_stream(
    text: String,
    head: &ResponseHead,
    upstream: &Upstream,
    job: &Job<'_>,
    deadline: Instant,
) -> Result<Answer, Failed> {
    let lane = if upstream.protocol() == Protocol::OpenAi {
        job.lane(upstream)
    } else {
        job.translating_lane(upstream)
    };
    let relay = Relay::from_text(&text, lane);
    if relay.has_content || relay.state == State::Done {
        return first_content(relay, upstream, job, deadline).await;
    }
    Err(no_answer(judge_whole(&text), text, Some(head), upstream, job))
}

/// Asked for a whole answer, it gave a stream: some providers know nothing else.
fn stream_as_whole(text: &str, upstream: &Upstream, job: &Job<'_>) -> Result<Answer, Failed> {
    let mut reader = job.reader(upstream);
    let mut fold = Fold::default();
    let mut parser = SseParser::default();
    // The first feed is never refused: an event that is too long shows as a cut.
    let _ = parser.feed(text.as_bytes());
    parser.finish();
    while let Some(event) = parser.next_event() {
        match reader.event(
            &event.name,
            &event.data,
            &mut job.signatures.watch(&mut |event| fold.event(event)),
        ) {
            Ok(()) | Err(ReadError::Malformed) => {}
            Err(ReadError::Error(text)) => {
                return Err(answer_error(upstream, job.secrets, None, text.into_bytes()));
            }
            Err(ReadError::Broken(why)) => return Err(Failure::Garbled(why.into()).into()),
        }
    }
    let framed = !parser.is_truncated();
    reader
        .end(framed, &mut job.signatures.watch(&mut |event| fold.event(event)))
        .map_err(|_| Failure::Truncated)?;
    let usage = reader.usage().map(counted);
    said(Answer::Whole(job.render(fold, upstream), usage), reader.has_content())
}

fn said(answer: Answer, has_content: bool) -> Result<Answer, Failed> {
    match has_content {
        true => Ok(answer),
        false => Err(Failed { empty: Some(Box::new(answer)), ..Failure::Empty.into() }),
    }
}

/// Sends the request, to the other of two possible roots if nothing is found at the first.
pub async fn send(
    pool: &Arc<Pool>,
    upstream: &Upstream,
    http: &HttpUpstream,
    endpoint: Endpoint,
    job: &Job<'_>,
) -> Result<Response, ExchangeError> {
    let translated = job.translated(upstream);
    let mut edits = if translated.is_none() { job.edits(upstream) } else { Vec::new() };
    let body = job.pieces(&translated, &mut edits);
    let length: usize = body.iter().map(|piece| piece.len()).sum();
    let end_of_head = format!("{}Content-Length: {length}\r\n\r\n", job.fields_for(http.protocol));
    let path = endpoint.path();
    let query = if endpoint == Endpoint::Chat { "" } else { job.fields.query.as_str() };
    let (target, other_target) = http.targets();
    let mut request =
        vec![target.as_bytes(), path.as_bytes(), query.as_bytes(), http.fields(), end_of_head.as_bytes()];
    request.extend(body);
    let response = client::send(pool, &http.origin, &request).await?;
    let Some(other_target) = other_target else { return Ok(response) };
    if response.head.status != 404 {
        http.root_found(0);
        return Ok(response);
    }
    if let Some(target) = request.first_mut() {
        *target = other_target.as_bytes();
    }
    let second = client::send(pool, &http.origin, &request).await?;
    if second.head.status == 404 {
        // It is the model that is unknown, or the server is another one: the first answer says it best.
        return Ok(response);
    }
    http.root_found(1);
    Ok(second)
}

/// Judges a whole answer with a 2xx status.
fn whole_answer(
    text: String,
    head: Option<&ResponseHead>,
    upstream: &Upstream,
    job: &Job<'_>,
) -> Result<Answer, Failed> {
    if !job.passes(upstream) {
        return translated_answer(text, head, upstream, job);
    }
    if job.ask.dialect() == Dialect::Messages {
        let mut reader = MessagesReader::new(job.seed);
        return match reader.whole(&text, &mut |_| ()) {
            Ok(()) => {
                let bytes = whole_with_provider(text, job.provider_json(upstream));
                said(Answer::Whole(bytes, reader.usage().map(counted)), reader.has_content())
            }
            Err(e) => Err(read_error(e, text, head, upstream, job)),
        };
    }
    let (judged, edit) = judge_and_edit(&text, job.provider_json(upstream), &upstream.model_json);
    let (Whole::Content(usage) | Whole::Empty(usage)) = judged else {
        return Err(no_answer(judged, text, head, upstream, job));
    };
    if upstream.quirks.written.thought_signatures {
        thought_signatures(&text, &mut |id, signature| job.signatures.remember(id, signature));
    }
    said(Answer::Whole(edited(text, edit), usage), matches!(judged, Whole::Content(_)))
}

/// The same in another protocol.
fn translated_answer(
    text: String,
    head: Option<&ResponseHead>,
    upstream: &Upstream,
    job: &Job<'_>,
) -> Result<Answer, Failed> {
    let mut reader = job.reader(upstream);
    let mut fold = Fold::default();
    let read = reader.whole(&text, &mut job.signatures.watch(&mut |event| fold.event(event)));
    match read {
        Ok(()) => {
            let usage = reader.usage().map(counted);
            said(Answer::Whole(job.render(fold, upstream), usage), reader.has_content())
        }
        Err(e) => Err(read_error(e, text, head, upstream, job)),
    }
}

fn read_error(
    error: ReadError,
    text: String,
    head: Option<&ResponseHead>,
    upstream: &Upstream,
    job: &Job<'_>,
) -> Failed {
    match error {
        ReadError::Error(_) => answer_error(upstream, job.secrets, head, text.into_bytes()),
        ReadError::Malformed => no_answer(Whole::Garbled, text, head, upstream, job),
        ReadError::Broken(why) => Failure::Garbled(why.into()).into(),
    }
}

/// A body with a 2xx status that is no chat completion.
fn no_answer(
    judged: Whole,
    text: String,
    head: Option<&ResponseHead>,
    upstream: &Upstream,
    job: &Job<'_>,
) -> Failed {
    let is_page = text.trim_start().starts_with('<');
    match judged {
        Whole::Garbled if !is_page => Failure::Garbled("the answer is not JSON".into()).into(),
        _ => answer_error(upstream, job.secrets, head, text.into_bytes()),
    }
}

/// An error inside a 2xx.
fn answer_error(
    upstream: &Upstream,
    secrets: &[Secret],
    head: Option<&ResponseHead>,
    body: Vec<u8>,
) -> Failed {
    refusal(judged(upstream, secrets, 200, head, &body), body)
}

/// Reads a stream up to its first content; until then every failure is invisible to the client.
async fn first_content(
    mut relay: Relay,
    upstream: &Upstream,
    job: &Job<'_>,
    deadline: Instant,
) -> Result<Answer, Failed> {
    while !relay.has_content && relay.state == State::Running {
        if with_deadline(deadline, pin!(relay.advance())).await.is_err() {
            return Err(Failure::Timeout(Phase::FirstContent).into());
        }
    }
    if relay.has_content {
        return Ok(Answer::Stream(Box::new(relay)));
    }
    Err(match std::mem::replace(&mut relay.state, State::Done) {
        State::Error(text) => answer_error(upstream, job.secrets, None, text.into_bytes()),
        State::Broken(why) => broken(why).into(),
        State::Running | State::Done => {
            Failed { empty: Some(Box::new(Answer::Stream(Box::new(relay)))), ..Failure::Empty.into() }
        }
    })
}

/// A broken stream as a failure to judge.
pub fn broken(why: Break) -> Failure {
    match why {
        Break::Truncated => Failure::Truncated,
        Break::Garbled(what) => Failure::Garbled(what),
        Break::TooLong => Failure::TooLong,
    }
}

/// Judges an answer that is not 2xx, and keeps its connection if it ends cleanly.
async fn refused(mut response: Response, upstream: &Upstream, secrets: &[Secret]) -> Failed {
    let mut body = Vec::new();
    let read = async {
        while body.len() < ERROR_BODY_BYTES_MAX
            && matches!(response.read(|data| body.extend_from_slice(data)).await, Ok(true))
        {}
    };
    // Whatever has come by then has to do: the status says most.
    let _ = with_deadline(Instant::now() + ERROR_BODY_TIME, pin!(read)).await;
    body.truncate(ERROR_BODY_BYTES_MAX);
    let head = response.head.clone();
    if coding(&head).is_some() {
        body.clear();
    }
    let judged = judged(upstream, secrets, head.status, Some(&head), &body);
    response.finish();
    refusal(judged, body)
}

fn refusal(Judged { verdict, learned }: Judged, body: Vec<u8>) -> Failed {
    let error_body = verdict.class.is_clients().then_some(body);
    let learned = (learned != Learned::default()).then(|| Box::new(learned));
    Failed { verdict, learned, empty: None, error_body }
}

/// Whatever it is called, it is no stream.
fn is_one_json(text: &str) -> bool {
    text.trim_start().starts_with('{') && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// Not `application/jsonl`, which is a stream.
fn is_json(kind: &str) -> bool {
    kind.split(';').next().is_some_and(|kind| kind.trim() == "application/json")
}

/// The coding of a body that cannot be read. Its name is quoted only if it is one.
fn coding(head: &ResponseHead) -> Option<&'static str> {
    let coding = head.headers.get_str("content-encoding")?.to_ascii_lowercase();
    if coding.is_empty() || coding == "identity" {
        return None;
    }
    let known = ["gzip", "br", "deflate", "zstd"].into_iter().find(|known| coding == *known);
    Some(known.unwrap_or("of another kind"))
}

/// Judges an error answer; inside a stream there is no head to ask.
pub fn judge(
    upstream: &Upstream,
    secrets: &[Secret],
    status: u16,
    head: Option<&ResponseHead>,
    body: &[u8],
) -> Verdict {
    judged(upstream, secrets, status, head, body).verdict
}

fn judged(
    upstream: &Upstream,
    secrets: &[Secret],
    status: u16,
    head: Option<&ResponseHead>,
    body: &[u8],
) -> Judged {
    let fields = head.into_iter().flat_map(|head| head.headers.iter());
    judge_answer(&upstream.provider, status, fields, body, now(), secrets)
}

fn now() -> Now {
    Now { mono: Instant::now(), wall: SystemTime::now() }
}

fn failure_of(error: ExchangeError) -> Failure {
    match error {
        ExchangeError::Dial(DialError::Tls(why)) => Failure::Tls(why.to_string()),
        ExchangeError::Dial(DialError::Timeout(dial::Phase::Tls)) => Failure::Timeout(Phase::Tls),
        ExchangeError::Dial(DialError::Timeout(_)) => Failure::Timeout(Phase::Connect),
        ExchangeError::Dial(why) => Failure::Connect(why.to_string()),
        ExchangeError::Closed(_) => Failure::Closed,
        ExchangeError::Truncated => Failure::Truncated,
        ExchangeError::Garbled(what) => Failure::Garbled(what),
        ExchangeError::TooLong => Failure::TooLong,
    }
}
