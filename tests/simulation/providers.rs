//! Twelve free keys as their providers see them: each provider keeps its own count, refuses in its own words, and
//! breaks down now and then. Nothing here knows the ledger.

use ai_free_swap::provider::Limits;
use ai_free_swap::provider::ratelimit::{Span, Told, Unit};
use ai_free_swap::route::verdict::{Failure, Phase};
use fastrand::Rng;
use std::collections::VecDeque;
use std::time::Duration;

pub const SECOND: u64 = 1000;
pub const MINUTE: u64 = 60 * SECOND;
pub const HOUR: u64 = 60 * MINUTE;
pub const DAY: u64 = 24 * HOUR;
/// The wall clock at the beginning, in milliseconds since 1970: 2026-11-23, a Monday, 00:00 UTC.
pub const WALL: u64 = 1_795_392_000_000;
/// Sessions of agents a day.
const SESSIONS: u64 = 40;
/// Midnight in Los Angeles is so much later, in November.
const PACIFIC: u64 = 8 * HOUR;

/// A request as a provider sees it.
#[derive(Clone, Copy)]
pub struct Request {
    /// When it comes, in milliseconds from the beginning, as all times here.
    pub at: u64,
    /// Its length as the proxy estimates it, in tokens.
    pub estimate: u64,
    /// As the provider counts it.
    pub input: u64,
    pub output: u64,
}

/// How a window of a provider moves.
#[derive(Clone, Copy)]
pub enum Shape {
    /// The last so many milliseconds count.
    Sliding(u64),
    /// Begins anew at whole multiples by the wall clock, shifted by so much.
    Fixed(u64, u64),
    /// Fills up again evenly, from nothing to all in so many milliseconds.
    Bucket(u64),
}

pub struct Window {
    unit: Unit,
    span: Span,
    shape: Shape,
    limit: u64,
    /// Amounts with their time; one for the whole of a fixed window; unused by a bucket.
    taken: VecDeque<(u64, u64)>,
    sum: u64,
    level: f64,
    level_at: u64,
}

impl Window {
    fn new(unit: Unit, span: Span, shape: Shape, limit: u64) -> Self {
        Self { unit, span, shape, limit, taken: VecDeque::new(), sum: 0, level: limit as f64, level_at: 0 }
    }

    fn forget(&mut self, t: u64) {
        match self.shape {
            Shape::Sliding(length) => {
                while let Some((_, amount)) = self.taken.pop_front_if(|(at, _)| *at + length <= t) {
                    self.sum -= amount;
                }
            }
            Shape::Fixed(length, shift) => {
                let number = |t: u64| (WALL + t - shift) / length;
                if self.taken.front().is_some_and(|(at, _)| number(*at) < number(t)) {
                    self.taken.clear();
                    self.sum = 0;
                }
            }
            Shape::Bucket(length) => {
                let more = (t - self.level_at) as f64 * self.limit as f64 / length as f64;
                (self.level, self.level_at) = ((self.level + more).min(self.limit as f64), t);
            }
        }
    }

    fn left(&mut self, t: u64) -> u64 {
        self.forget(t);
        match self.shape {
            Shape::Bucket(_) => self.level as u64,
            _ => self.limit.saturating_sub(self.sum),
        }
    }

    fn take(&mut self, t: u64, amount: u64) {
        self.forget(t);
        if matches!(self.shape, Shape::Bucket(_)) {
            self.level -= amount as f64;
        } else {
            self.taken.push_back((t, amount));
            self.sum += amount;
        }
    }

    /// Milliseconds until there is room for this.
    fn wait(&mut self, t: u64, amount: u64) -> u64 {
        let missing = amount.saturating_sub(self.left(t));
        if missing == 0 {
            return 0;
        }
        match self.shape {
            Shape::Fixed(length, shift) => length - (WALL + t - shift) % length,
            Shape::Bucket(length) => (missing * length).div_ceil(self.limit),
            Shape::Sliding(length) => {
                let mut freed = 0;
                let enough = self.taken.iter().find(|(_, amount)| {
                    freed += amount;
                    freed >= missing
                });
                enough.map_or(length, |(at, _)| at + length - t)
            }
        }
    }

    fn need(&self, request: &Request) -> u64 {
        match self.unit {
            Unit::Requests => 1,
            Unit::Tokens => request.input + request.output,
        }
    }

    fn wait_for(&mut self, request: &Request, t: u64) -> u64 {
        let amount = self.need(request);
        self.wait(t, amount)
    }

    fn told(&mut self, t: u64) -> Told {
        let (left, limit) = (self.left(t), self.limit);
        let reset = Some(Duration::from_millis(self.wait(t, limit)));
        Told { unit: self.unit, span: self.span, limit: Some(limit), remaining: Some(left), reset }
    }
}

/// How a provider words its refusals, and whether it tells of its limits.
#[derive(Clone, Copy, PartialEq)]
pub enum Style {
    /// `QuotaFailure` and `RetryInfo` in the body; a short wait even if the day is over.
    Google,
    /// `Retry-After` and a sentence; tells of requests a day and tokens a minute with every answer.
    Groq,
    /// The same headers, and nothing in refusals but a sentence.
    Cerebras,
    /// Tells of limits only in refusals; a date in milliseconds.
    OpenRouter,
    /// Only a sentence.
    Plain,
    /// Tells of the minute and the day with every answer.
    SambaNova,
}

/// A time in which nothing works, and how that looks.
#[derive(Clone, Copy)]
pub enum Trouble {
    /// No connection.
    Unreachable,
    /// No answer.
    Hangs,
    /// 502, or 503 for want of capacity.
    Status(u16),
}

/// One backend of the pool: a model with a key.
pub struct Backend {
    pub name: &'static str,
    pub provider: &'static str,
    pub key: u32,
    pub model: &'static str,
    pub priority: u32,
    /// What the config says.
    pub limits: Limits,
    style: Style,
    /// Indices of its windows; several backends may share one.
    windows: Vec<usize>,
    /// Requests at a time.
    concurrency: u32,
    running: u32,
    /// From, to, what.
    troubles: Vec<(u64, u64, Trouble)>,
    /// Milliseconds to the first content.
    pace: u64,
}

impl Backend {
    /// Every limit that it has is in the config.
    pub fn is_configured(&self) -> bool {
        self.limits.rpm.is_some()
    }
}

/// What comes of a call, and after how many milliseconds.
#[derive(Clone)]
pub enum Answer {
    Good {
        first: u64,
        whole: u64,
        tokens: u64,
        told: Vec<Told>,
    },
    Refused {
        after: u64,
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: String,
        told: Vec<Told>,
        unit: Unit,
    },
    Failed {
        after: u64,
        failure: Failure,
    },
    Broken {
        after: u64,
        status: u16,
    },
}

pub struct Pool {
    pub backends: Vec<Backend>,
    windows: Vec<Window>,
}

fn limits(rpm: u64, rpd: u64, tpm: u64, tpd: u64) -> Limits {
    let some = |limit| Some(limit).filter(|limit| *limit > 0);
    Limits { rpm: some(rpm), rpd: some(rpd), tpm: some(tpm), tpd: some(tpd), concurrency: None }
}

impl Pool {
    pub fn empty() -> Self {
        Self { backends: Vec::new(), windows: Vec::new() }
    }

    /// A backend without any limit.
    pub fn add(
        &mut self,
        name: &'static str,
        key: u32,
        model: &'static str,
        priority: u32,
        style: Style,
    ) -> &mut Backend {
        let provider = name.split(' ').next().unwrap();
        let (concurrency, running, pace) = (u32::MAX, 0, 800);
        let (limits, windows, troubles) = (Limits::default(), Vec::new(), Vec::new());
        self.backends.push(Backend {
            name,
            provider,
            key,
            model,
            priority,
            limits,
            style,
            windows,
            concurrency,
            running,
            troubles,
            pace,
        });
        self.backends.last_mut().unwrap()
    }

    /// Windows for the backends that were added last, so many of them sharing each.
    fn windows(&mut self, sharing: usize, windows: &[(Unit, Span, Shape, u64)]) {
        for (unit, span, shape, limit) in windows {
            let at = self.windows.len();
            self.windows.push(Window::new(*unit, *span, *shape, *limit));
            self.backends.iter_mut().rev().take(sharing).for_each(|backend| backend.windows.push(at));
        }
    }

    fn gemini(&mut self, flash: &'static str, lite: &'static str, key: u32) {
        for (name, model, rpm, rpd) in [(flash, "flash", 5, 20), (lite, "lite", 15, 500)] {
            self.add(name, key, model, 1, Style::Google).limits = limits(rpm, rpd, 250_000, 0);
            self.windows(
                1,
                &[
                    (Unit::Requests, Span::Minute, Shape::Fixed(MINUTE, 0), rpm),
                    (Unit::Requests, Span::Day, Shape::Fixed(DAY, PACIFIC), rpd),
                    (Unit::Tokens, Span::Minute, Shape::Fixed(MINUTE, 0), 250_000),
                ],
            );
        }
    }

    fn groq(&mut self, name: &'static str, key: u32, model: &'static str, is_configured: bool) {
        let backend = self.add(name, key, model, 1, Style::Groq);
        backend.pace = 200;
        if is_configured {
            backend.limits = limits(30, 1000, 8000, 200_000);
        }
        self.windows(
            1,
            &[
                (Unit::Requests, Span::Minute, Shape::Sliding(MINUTE), 30),
                (Unit::Requests, Span::Day, Shape::Bucket(DAY), 1000),
                (Unit::Tokens, Span::Minute, Shape::Bucket(MINUTE), 8000),
                // Told by nobody.
                (Unit::Tokens, Span::Day, Shape::Bucket(DAY), 200_000),
            ],
        );
    }

    fn zai(&mut self) {
        let zai = self.add("zai", 1, "flash", 2, Style::Plain);
        (zai.concurrency, zai.pace) = (2, 4000);
        zai.limits.concurrency = Some(2);
        self.windows(1, &[(Unit::Requests, Span::Day, Shape::Fixed(DAY, 0), 500)]);
    }

    /// Three keys that are enough for one.
    pub fn three_keys() -> Self {
        let mut pool = Self::empty();
        pool.gemini("gemini A flash", "gemini A lite", 1);
        pool.groq("groq A 120b", 1, "120b", true);
        pool.zai();
        pool
    }

    /// 18 models with 12 keys, with limits as they are published. Those of one Groq key, one OpenRouter key and half of
    /// the others are not in the config: they have to be told, or met.
    pub fn twelve_keys(days: u64, rng: &mut Rng) -> Self {
        use Shape::{Bucket, Fixed, Sliding};
        use Span::{Day, Minute, Month};
        use Unit::{Requests, Tokens};
        let mut pool = Self::empty();
        pool.gemini("gemini A flash", "gemini A lite", 1);
        pool.gemini("gemini B flash", "gemini B lite", 2);
        pool.groq("groq A 120b", 1, "120b", false);
        pool.groq("groq A 20b", 1, "20b", false);
        pool.groq("groq B 120b", 2, "120b", true);
        pool.groq("groq B 20b", 2, "20b", true);
        pool.add("cerebras", 1, "oss", 1, Style::Cerebras).limits = limits(5, 0, 30_000, 1_000_000);
        pool.windows(
            1,
            &[
                (Requests, Minute, Bucket(MINUTE), 5),
                (Tokens, Minute, Bucket(MINUTE), 30_000),
                (Tokens, Day, Fixed(DAY, 0), 1_000_000),
            ],
        );
        pool.add("sambanova", 1, "llama", 1, Style::SambaNova).limits = limits(20, 20, 0, 200_000);
        pool.windows(
            1,
            &[
                (Requests, Minute, Fixed(MINUTE, 0), 20),
                (Requests, Day, Fixed(DAY, 0), 20),
                (Tokens, Day, Fixed(DAY, 0), 200_000),
            ],
        );
        for (first, second, key, day) in [
            ("openrouter A qwen", "openrouter A glm", 1, 50),
            ("openrouter B qwen", "openrouter B glm", 2, 1000),
        ] {
            for (name, model) in [(first, "qwen:free"), (second, "glm:free")] {
                let known = key == 1;
                let backend = pool.add(name, key, model, 2, Style::OpenRouter);
                backend.limits = if known { limits(20, day, 0, 0) } else { Limits::default() };
                backend.pace = 2500;
            }
            pool.windows(2, &[(Requests, Minute, Sliding(MINUTE), 20), (Requests, Day, Fixed(DAY, 0), day)]);
        }
        pool.add("codestral", 1, "codestral", 2, Style::Plain);
        pool.windows(1, &[(Requests, Minute, Sliding(MINUTE), 30), (Requests, Day, Fixed(DAY, 0), 2000)]);
        pool.add("cohere", 1, "command", 2, Style::Plain);
        pool.windows(
            1,
            &[(Requests, Minute, Sliding(MINUTE), 20), (Requests, Month, Fixed(365 * DAY, 0), 150)],
        );
        pool.add("cloudflare", 1, "llama", 2, Style::Plain);
        pool.windows(1, &[(Tokens, Day, Fixed(DAY, 0), 300_000), (Requests, Minute, Sliding(MINUTE), 300)]);
        pool.zai();
        pool.trouble(days, rng);
        pool
    }

    /// Each provider is out of reach, hangs or fails for a while every other day, and lacks capacity for minutes
    /// twice a day.
    fn trouble(&mut self, days: u64, rng: &mut Rng) {
        let mut providers: Vec<&str> = self.backends.iter().map(|backend| backend.provider).collect();
        providers.dedup();
        for provider in providers {
            let mut troubles = Vec::new();
            for day in 0..days {
                if rng.bool() {
                    let from = day * DAY + rng.u64(..DAY);
                    let what = [Trouble::Unreachable, Trouble::Hangs, Trouble::Status(502)][rng.usize(..3)];
                    troubles.push((from, from + rng.u64(5 * MINUTE..90 * MINUTE), what));
                }
                for _ in 0..2 {
                    let from = day * DAY + rng.u64(..DAY);
                    troubles.push((from, from + rng.u64(20 * SECOND..10 * MINUTE), Trouble::Status(503)));
                }
            }
            let its = self.backends.iter_mut().filter(|backend| backend.provider == provider);
            its.for_each(|backend| backend.troubles.clone_from(&troubles));
        }
    }

    /// Whether it would answer now.
    pub fn would_answer(&mut self, backend: usize, request: &Request, t: u64) -> bool {
        let Backend { windows, troubles, concurrency, running, .. } = &self.backends[backend];
        let troubled = troubles.iter().any(|(from, to, _)| (*from..*to).contains(&t));
        let full = running >= concurrency;
        !troubled && !full && windows.iter().all(|at| self.windows[*at].wait_for(request, t) == 0)
    }

    pub fn call(&mut self, backend: usize, request: &Request, t: u64, rng: &mut Rng) -> Answer {
        let Backend { provider, style, windows, troubles, concurrency, running, pace, .. } =
            &mut self.backends[backend];
        let after = rng.u64(60..400);
        if let Some((.., trouble)) = troubles.iter().find(|(from, to, _)| (*from..*to).contains(&t)) {
            return match trouble {
                Trouble::Unreachable => Answer::Failed { after, failure: Failure::Connect("refused".into()) },
                Trouble::Hangs => {
                    Answer::Failed { after: 30 * SECOND, failure: Failure::Timeout(Phase::Head) }
                }
                Trouble::Status(status) => Answer::Broken { after, status: *status },
            };
        }
        let tells = |window: &Window| match style {
            Style::Groq => (window.unit == Unit::Tokens) == (window.span == Span::Minute),
            Style::Cerebras => (window.unit, window.span) == (Unit::Tokens, Span::Minute),
            Style::SambaNova => window.unit == Unit::Requests,
            Style::Google | Style::OpenRouter | Style::Plain => false,
        };
        let told = |all: &mut Vec<Window>| -> Vec<Told> {
            let its: Vec<usize> = windows.iter().copied().filter(|at| tells(&all[*at])).collect();
            its.into_iter().map(|at| all[at].told(t)).collect()
        };
        // Refused by the window that takes longest.
        let mut waits: Vec<(u64, usize)> =
            windows.iter().map(|at| (self.windows[*at].wait_for(request, t), *at)).collect();
        waits.sort();
        if *provider == "openrouter" {
            // Failed calls count as well.
            windows.iter().for_each(|at| self.windows[*at].take(t, 1));
        }
        if *running >= *concurrency {
            let body = r#"{"error":{"code":"1302","message":"High concurrency usage of this API, please reduce concurrency"}}"#;
            let (headers, told) = (Vec::new(), Vec::new());
            return Answer::Refused {
                after,
                status: 429,
                headers,
                body: body.into(),
                told,
                unit: Unit::Requests,
            };
        }
        if let Some((wait, at)) = waits.last().filter(|(wait, _)| *wait > 0) {
            let told = told(&mut self.windows);
            let window = &self.windows[*at];
            let (status, headers, body) = refusal(*style, provider, window, *wait, t, window.need(request));
            return Answer::Refused { after, status, headers, body, told, unit: window.unit };
        }
        for at in windows.iter().filter(|_| *provider != "openrouter") {
            let amount = self.windows[*at].need(request);
            self.windows[*at].take(t, amount);
        }
        *running += 1;
        let first = *pace / 2 + rng.u64(..*pace);
        let whole = first + request.output * rng.u64(4..14);
        let told = told(&mut self.windows);
        Answer::Good { first, whole, tokens: request.input + request.output, told }
    }

    /// The answer is over.
    pub fn over(&mut self, backend: usize) {
        self.backends[backend].running -= 1;
    }
}

/// Status, headers and body, as providers write them.
fn refusal(
    style: Style,
    provider: &str,
    window: &Window,
    wait: u64,
    t: u64,
    need: u64,
) -> (u16, Vec<(&'static str, String)>, String) {
    let seconds = wait.div_ceil(1000);
    let is_day = window.span == Span::Day;
    let limit = window.limit;
    match style {
        Style::Google => {
            let what = if window.unit == Unit::Tokens { "ContentInputTokens" } else { "Requests" };
            let per = if is_day { "PerDay" } else { "PerMinute" };
            let delay = seconds.min(59);
            let body = format!(
                r#"[{{"error":{{"code":429,"message":"You exceeded your current quota. Please retry in {delay}s.","status":"RESOURCE_EXHAUSTED","details":[{{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{{"quotaId":"Generate{what}{per}PerProjectPerModel-FreeTier","quotaValue":"{limit}"}}]}},{{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"{delay}s"}}]}}}}]"#
            );
            (429, Vec::new(), body)
        }
        Style::Groq => {
            let (name, kind) = match (window.unit, is_day) {
                (Unit::Requests, true) => ("requests per day (RPD)", "requests"),
                (Unit::Requests, false) => ("requests per minute (RPM)", "requests"),
                (Unit::Tokens, true) => ("tokens per day (TPD)", "tokens"),
                (Unit::Tokens, false) => ("tokens per minute (TPM)", "tokens"),
            };
            let too_large = need > limit;
            let hint = if too_large {
                "Request too large for model".to_owned()
            } else {
                format!(
                    "Rate limit reached for model. Please try again in {}.{:03}s.",
                    wait / 1000,
                    wait % 1000
                )
            };
            let body = format!(
                r#"{{"error":{{"message":"{hint} On {name}: Limit {limit}, Requested {need}.","type":"{kind}","code":"rate_limit_exceeded"}}}}"#
            );
            if too_large {
                return (413, Vec::new(), body);
            }
            (429, vec![("retry-after", seconds.to_string())], body)
        }
        Style::Cerebras => {
            let what = if window.unit == Unit::Tokens { "Tokens" } else { "Requests" };
            let span = if is_day { "day" } else { "minute" };
            let code =
                if window.unit == Unit::Tokens { "token_quota_exceeded" } else { "request_quota_exceeded" };
            let body = format!(
                r#"{{"message":"{what} per {span} limit exceeded","param":"quota","code":"{code}"}}"#
            );
            (429, Vec::new(), body)
        }
        Style::OpenRouter => {
            let per = if is_day { "free-models-per-day" } else { "free-models-per-min" };
            let reset = (WALL + t + wait).to_string();
            let body = format!(
                r#"{{"error":{{"message":"Rate limit exceeded: {per}. ","code":429,"metadata":{{"headers":{{"X-RateLimit-Limit":"{limit}","X-RateLimit-Remaining":"0","X-RateLimit-Reset":"{reset}"}}}}}}}}"#
            );
            let headers = vec![("x-ratelimit-remaining", "0".to_owned()), ("x-ratelimit-reset", reset)];
            (429, headers, body)
        }
        Style::SambaNova => (
            429,
            Vec::new(),
            r#"{"error":{"message":"Rate limit exceeded","code":"rate_limit_exceeded"}}"#.into(),
        ),
        Style::Plain => {
            let text = match (provider, window.span) {
                ("cohere", Span::Month) => {
                    "You are using a Trial key, which is limited to 1000 API calls / month."
                }
                ("cohere", _) => "You are using a Trial key, which is limited to 20 API calls / minute.",
                ("codestral" | "zai", Span::Day) => "Daily limit exceeded",
                ("cloudflare", Span::Day) => "you have used up your daily free allocation of 10,000 neurons",
                _ => "Rate limit exceeded",
            };
            (429, Vec::new(), format!(r#"{{"message":"{text}"}}"#))
        }
    }
}

/// How well the proxy estimates the length of a request.
#[derive(Clone, Copy, PartialEq)]
pub enum Estimates {
    /// As it does: a quarter too low, a third too high, and answers longer than what is set aside for them.
    Real,
    /// Never too low.
    Safe,
}

/// What a household of agents asks in some days: sessions in bursts, with a conversation that grows, and a trickle
/// that never ends.
pub fn demand(days: u64, estimates: Estimates, rng: &mut Rng) -> Vec<Request> {
    let mut requests = Vec::new();
    let mut push = |at: u64, input: u64, rng: &mut Rng| {
        // Most answers are short, a few are long.
        let output = (60.0 * (1.0 + 30.0 * rng.f64().powi(4))) as u64;
        let error = 0.75 + 0.55 * rng.f64();
        requests.push(match estimates {
            Estimates::Real => Request { at, estimate: (input as f64 / error) as u64, input, output },
            Estimates::Safe => Request { at, estimate: input, input, output: output.min(500) },
        });
    };
    let mut t = 0;
    while t < days * DAY {
        t += (-(1.0 - rng.f64()).ln() * 90_000.0) as u64 + 1;
        push(t, rng.u64(150..2500), rng);
    }
    for day in 0..days {
        for _ in 0..SESSIONS {
            let mut t = day * DAY + rng.u64(6 * HOUR..23 * HOUR);
            let mut length = rng.u64(1500..4000);
            for _ in 0..rng.u32(40..160) {
                push(t, length, rng);
                t += rng.u64(1500..15_000);
                length += rng.u64(..250);
                if length > 16_000 {
                    // The agent sums up.
                    length = 2500;
                }
            }
        }
    }
    requests.sort_by_key(|request| request.at);
    requests
}

/// Several agents at once for half an hour, with short requests in bunches: more than three keys can take at once.
pub fn crowd(rng: &mut Rng) -> Vec<Request> {
    let mut requests = Vec::new();
    let mut t = 0;
    while t < 30 * MINUTE {
        t += rng.u64(1..15_000);
        for _ in 0..rng.u32(1..7) {
            let (input, output) = (rng.u64(100..900), rng.u64(50..400));
            requests.push(Request { at: t, estimate: input, input, output });
        }
    }
    requests
}
