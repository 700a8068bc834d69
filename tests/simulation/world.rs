//! The days as they pass: requests, their walks or the original program's loop, the queue, restarts. Events in order
//! of time, no clock, all dice seeded.

use crate::providers::{Answer, DAY, MINUTE, Pool, Request, SECOND, WALL};
use ai_free_swap::limits::{MAX_WAIT_TIME, OUTPUT_TOKENS_RESERVED};
use ai_free_swap::provider::quota::rules;
use ai_free_swap::provider::ratelimit::Unit;
use ai_free_swap::route::Now;
use ai_free_swap::route::fit::Demand;
use ai_free_swap::route::ledger::{Ledger, Member, Salt, Scopes, Spent, Standing, Ticket};
use ai_free_swap::route::plan::{self, Candidate, Outcome, Record, Skipped, Step, Walk};
use ai_free_swap::route::quota::Shortage;
use ai_free_swap::route::saved::Saved;
use ai_free_swap::route::verdict::{Class, Scope, Verdict, judge_answer, judge_failure};
use fastrand::Rng;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant, SystemTime};

const SALT: Salt = [1, 2];

/// Who decides.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Algorithm {
    /// This program; with `true`, who has most left comes first inside a priority.
    Ledger { least_used: bool },
    /// The original: a random order inside each priority, no memory, one pass.
    Original,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Event {
    Arrive(usize),
    /// The first content is there.
    Content(usize),
    Over(usize),
    Failed(usize),
    /// Looks again, unless it has done so since.
    Wake(usize, u32),
}

/// What came of the days.
#[derive(Default, Debug)]
pub struct Tally {
    pub served: u64,
    pub refused: u64,
    /// Of these, when some backend would have answered.
    pub refused_in_vain: u64,
    pub too_long: u64,
    pub calls: u64,
    /// Calls that a limit refused, by backend: for requests, for tokens, for more tokens than a minute ever allows.
    pub limited: Vec<[u64; 3]>,
    pub broken: u64,
    /// Milliseconds from the arrival to the attempt that answered.
    pub delays: Vec<u64>,
    pub served_by: Vec<u64>,
    pub waited: u64,
    pub restarts: u64,
    /// Everything that happened, in one number.
    pub story: u64,
}

impl Tally {
    pub fn limited(&self) -> u64 {
        self.limited.iter().flatten().sum()
    }
}

#[derive(Default)]
struct Progress {
    walk: Option<Walk>,
    tokens: u64,
    /// Of the original: the order that is left, last first.
    order: Vec<usize>,
    running: Option<(Option<Ticket>, usize, u64, Answer)>,
    attempts: u64,
    version: u32,
    has_waited: bool,
}

struct Waiting {
    request: usize,
    /// Backends that it waits for and has not tried.
    awaited: Vec<usize>,
}

pub struct World {
    pool: Pool,
    requests: Vec<Request>,
    algorithm: Algorithm,
    seed: u64,
    base: Instant,
    t: u64,
    ledger: Ledger,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    progress: Vec<Progress>,
    /// In the order of arrival in the queue.
    waiting: Vec<Waiting>,
    running: u64,
    rng: Rng,
    /// For restarts, which must change nothing else.
    restart_rng: Option<Rng>,
    story: DefaultHasher,
    tally: Tally,
}

fn members(pool: &Pool) -> Vec<Member> {
    let member = |backend: &crate::providers::Backend| {
        let url = format!("https://{}/v1", backend.provider);
        let scopes = Scopes::new(SALT, backend.provider, &url, backend.key, None, backend.model);
        Member { limits: backend.limits, rules: rules(backend.provider), ..Member::new(scopes) }
    };
    pool.backends.iter().map(member).collect()
}

impl World {
    pub fn new(pool: Pool, requests: Vec<Request>, algorithm: Algorithm, seed: u64) -> Self {
        let base = Instant::now();
        let ledger = Ledger::new(Now { mono: base, wall: wall(0) }, members(&pool));
        let backends = pool.backends.len();
        let mut world = Self {
            pool,
            algorithm,
            seed,
            base,
            t: 0,
            ledger,
            events: BinaryHeap::new(),
            sequence: 0,
            progress: requests.iter().map(|_| Progress::default()).collect(),
            waiting: Vec::new(),
            running: 0,
            rng: Rng::with_seed(seed),
            restart_rng: None,
            story: DefaultHasher::new(),
            tally: Tally {
                limited: vec![[0; 3]; backends],
                served_by: vec![0; backends],
                ..Tally::default()
            },
            requests,
        };
        for number in 0..world.requests.len() {
            world.push(world.requests[number].at, Event::Arrive(number));
        }
        world
    }

    /// With restarts of the program, at random moments.
    pub fn with_restarts(self) -> Self {
        Self { restart_rng: Some(Rng::with_seed(self.seed ^ 77)), ..self }
    }

    pub fn run(mut self) -> Tally {
        while let Some(Reverse((t, _, event))) = self.events.pop() {
            self.t = t;
            match event {
                Event::Arrive(request) => self.arrive(request),
                Event::Content(request) => self.content(request),
                Event::Over(request) => self.over(request),
                Event::Failed(request) => self.failed(request),
                Event::Wake(request, version) if self.progress[request].version == version => {
                    self.step(request);
                }
                Event::Wake(..) => {}
            }
            self.maybe_restart();
        }
        assert_eq!(
            (self.waiting.len(), self.ledger.waiting(), self.running),
            (0, 0, 0),
            "nobody is forgotten"
        );
        assert_eq!(self.tally.served + self.tally.refused + self.tally.too_long, self.requests.len() as u64);
        self.tally.story = self.story.finish();
        self.tally
    }

    fn now(&self) -> Now {
        Now { mono: self.at(self.t), wall: wall(self.t) }
    }

    fn at(&self, t: u64) -> Instant {
        self.base + Duration::from_millis(t)
    }

    fn push(&mut self, t: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((t, self.sequence, event)));
    }

    fn note(&mut self, what: impl Hash) {
        (self.t, what).hash(&mut self.story);
    }

    fn arrive(&mut self, request: usize) {
        let backends = 0..self.pool.backends.len();
        let priority = |backend: usize| self.pool.backends[backend].priority;
        let Algorithm::Ledger { least_used } = self.algorithm else {
            let mut order: Vec<usize> = backends.collect();
            self.rng.shuffle(&mut order);
            order.sort_by_key(|backend| Reverse(priority(*backend)));
            self.progress[request].order = order;
            return self.step(request);
        };
        let now = self.now();
        self.ledger.set_clock(now);
        let demand = Demand { tokens: self.requests[request].estimate, ..Demand::default() };
        let candidate = |backend| {
            let rank = if least_used {
                let (left, used) = self.ledger.share_left(backend, now.mono);
                (((1.0 - left) * 1000.0) as u64) << 32 | used
            } else {
                0
            };
            let unfit = self.ledger.unfit(backend, &demand, now.mono);
            let context = self.ledger.context(backend, now.mono);
            Candidate { backend, priority: priority(backend), rank, context, unfit }
        };
        let mut order: Vec<Candidate> = backends.map(candidate).collect();
        plan::order(&mut order, &mut self.rng);
        let tokens = demand.tokens + OUTPUT_TOKENS_RESERVED;
        let walk = Walk::new(&order, &self.ledger, tokens, 1, now.mono, MAX_WAIT_TIME);
        let progress = &mut self.progress[request];
        (progress.walk, progress.tokens) = (Some(walk), tokens);
        self.step(request);
    }

    /// What the request does next.
    fn step(&mut self, request: usize) {
        self.progress[request].version += 1;
        if self.algorithm == Algorithm::Original {
            return match self.progress[request].order.pop() {
                Some(backend) => self.call(request, None, backend),
                None => self.refused(request),
            };
        }
        let Some(mut walk) = self.progress[request].walk.take() else { return };
        let (now, tokens) = (self.at(self.t), self.progress[request].tokens);
        let standings: Vec<Standing> =
            (0..self.pool.backends.len()).map(|backend| self.ledger.standing(backend, tokens, now)).collect();
        let was_queued = walk.queued().is_some();
        let step = walk.next(&mut self.ledger, now);
        let place = self.waiting.iter().position(|waiting| waiting.request == request);
        assert_eq!(was_queued, place.is_some());
        match step {
            Step::Try(ticket) => {
                let backend = ticket.backend;
                // Nobody is called who is known to refuse.
                let standing = standings[backend];
                let is_down = matches!(standing, Standing::Benched { known: false, class: Class::Down, .. });
                assert!(
                    is_down || matches!(standing, Standing::Open | Standing::HalfOpen | Standing::Probing),
                    "{}: {standing:?}",
                    self.pool.backends[backend].name
                );
                // First come, first served.
                let before = &self.waiting[..place.unwrap_or(self.waiting.len())];
                let overtaken = before.iter().find(|waiting| waiting.awaited.contains(&backend));
                assert!(overtaken.is_none(), "{request} has overtaken {}", overtaken.unwrap().request);
                self.progress[request].walk = Some(walk);
                if let Some(place) = place {
                    self.waiting.remove(place);
                    self.ring();
                }
                self.call(request, Some(ticket), backend);
            }
            Step::Wait(until) => {
                let awaited = self.awaited(request, &walk, &standings);
                match place {
                    Some(place) => self.waiting[place].awaited = awaited,
                    None => self.waiting.push(Waiting { request, awaited }),
                }
                let after = until.duration_since(self.base).as_nanos().div_ceil(1_000_000) as u64;
                assert!(
                    after > self.t && after <= self.requests[request].at + MAX_WAIT_TIME.as_millis() as u64
                );
                let version = self.progress[request].version;
                self.push(after, Event::Wake(request, version));
                let progress = &mut self.progress[request];
                progress.walk = Some(walk);
                self.tally.waited += u64::from(!std::mem::replace(&mut progress.has_waited, true));
            }
            Step::Exhausted => {
                if let Some(place) = place {
                    self.waiting.remove(place);
                    self.ring();
                }
                let too_long = matches!(
                    walk.outcome(&self.ledger, now),
                    Outcome::AllUnfit { .. } | Outcome::ClientError { .. }
                );
                if too_long {
                    self.tally.too_long += 1;
                    self.note((request, "too long"));
                } else {
                    self.assert_nobody_could(request, &walk, &standings);
                    self.refused(request);
                }
            }
        }
    }

    fn deadline(&self, request: usize) -> Instant {
        self.at(self.requests[request].at) + MAX_WAIT_TIME
    }

    /// Backends without a try that are known to have room in time, or are another's turn.
    fn awaited(&self, request: usize, walk: &Walk, standings: &[Standing]) -> Vec<usize> {
        let deadline = self.deadline(request);
        let may_come = |backend: &usize| match standings[*backend] {
            Standing::Open | Standing::HalfOpen => true,
            // Room by the end of what runs is a mere hope.
            Standing::Short(Shortage::Busy { until }) => until.is_none_or(|until| until <= deadline),
            Standing::Short(Shortage::Spent { until, .. }) | Standing::Benched { known: true, until, .. } => {
                until <= deadline
            }
            Standing::Benched { .. } | Standing::Probing => false,
        };
        walk.records().filter(is_left).map(|record| record.backend).filter(may_come).collect()
    }

    /// A request is refused only if, as far as the ledger can know, nobody has room now or in time.
    fn assert_nobody_could(&self, request: usize, walk: &Walk, standings: &[Standing]) {
        let is_late = self.at(self.t) >= self.deadline(request);
        for record in walk.records().filter(is_left) {
            let standing = standings[record.backend];
            let could = match standing {
                Standing::Open | Standing::HalfOpen => {
                    !(is_late && self.ledger.is_claimed(record.backend, None))
                }
                Standing::Short(Shortage::Busy { .. }) => !is_late,
                Standing::Short(Shortage::Spent { until, .. })
                | Standing::Benched { known: true, until, .. } => !is_late && until <= self.deadline(request),
                Standing::Benched { .. } | Standing::Probing => false,
            };
            assert!(!could, "{request} refused, {}: {standing:?}", self.pool.backends[record.backend].name);
        }
    }

    fn call(&mut self, request: usize, ticket: Option<Ticket>, backend: usize) {
        self.tally.calls += 1;
        let progress = &mut self.progress[request];
        progress.attempts += 1;
        // The same dice for the same call, whoever makes it.
        let mut hasher = DefaultHasher::new();
        (self.seed, request, backend, progress.attempts).hash(&mut hasher);
        let mut rng = Rng::with_seed(hasher.finish());
        let answer = self.pool.call(backend, &self.requests[request], self.t, &mut rng);
        self.running += 1;
        let (after, event) = match &answer {
            Answer::Good { first, .. } => (*first, Event::Content(request)),
            Answer::Refused { after, .. } | Answer::Failed { after, .. } | Answer::Broken { after, .. } => {
                (*after, Event::Failed(request))
            }
        };
        self.progress[request].running = Some((ticket, backend, self.t, answer));
        self.note((request, backend));
        self.push(self.t + after, event);
    }

    fn content(&mut self, request: usize) {
        let Some((ticket, backend, began, Answer::Good { first, whole, told, .. })) =
            self.progress[request].running.clone()
        else {
            panic!("no answer runs")
        };
        self.tally.served += 1;
        self.tally.served_by[backend] += 1;
        self.tally.delays.push(began - self.requests[request].at);
        if let Some(ticket) = ticket {
            let now = self.at(self.t);
            self.ledger.told(ticket, &told, now);
            self.ledger.success(ticket);
            self.ring();
        }
        self.push(self.t + whole - first, Event::Over(request));
    }

    fn over(&mut self, request: usize) {
        let Some((ticket, backend, _, Answer::Good { tokens, .. })) = self.progress[request].running.take()
        else {
            panic!("no answer runs")
        };
        self.pool.over(backend);
        self.running -= 1;
        if let Some(ticket) = ticket {
            // One of them does not report its usage.
            let is_told = self.pool.backends[backend].provider != "cohere";
            self.ledger.end(ticket, if is_told { Spent::Tokens(tokens) } else { Spent::Expected });
            self.ring();
        }
    }

    fn failed(&mut self, request: usize) {
        let (ticket, backend, _, answer) = self.progress[request].running.take().expect("an attempt runs");
        self.running -= 1;
        let now = self.now();
        let provider = self.pool.backends[backend].provider;
        let judge = |status, headers: &[(&str, String)], body: &str| {
            let fields = headers.iter().map(|(name, value)| (*name, value.as_bytes()));
            judge_answer(provider, status, fields, body.as_bytes(), now, &[]).verdict
        };
        match &answer {
            Answer::Good { .. } => panic!("a good answer"),
            Answer::Refused { status, unit, .. } => {
                let why = if *status == 413 { 2 } else { usize::from(*unit == Unit::Tokens) };
                self.tally.limited[backend][why] += 1;
            }
            Answer::Failed { .. } | Answer::Broken { .. } => self.tally.broken += 1,
        }
        // The original does not look at it.
        if let Some(ticket) = ticket {
            let (verdict, told) = match answer {
                Answer::Good { .. } => return,
                Answer::Refused { status, headers, body, told, .. } => (judge(status, &headers, &body), told),
                Answer::Failed { failure, .. } => (judge_failure(&failure), Vec::new()),
                Answer::Broken { status, .. } => (judge(status, &[], "no capacity"), Vec::new()),
            };
            self.ledger.told(ticket, &told, now.mono);
            self.ledger.failure(ticket, &verdict, now.mono, &mut self.rng);
            self.ledger.end(ticket, spent(&verdict));
            self.progress[request].walk.as_mut().expect("its walk").failed(verdict);
            self.ring();
        }
        self.step(request);
    }

    fn refused(&mut self, request: usize) {
        self.tally.refused += 1;
        let (asked, t) = (self.requests[request], self.t);
        let would = (0..self.pool.backends.len()).any(|backend| self.pool.would_answer(backend, &asked, t));
        self.tally.refused_in_vain += u64::from(would);
        self.note((request, "refused"));
    }

    /// All that wait look again, in any order.
    fn ring(&mut self) {
        let mut woken: Vec<usize> = self.waiting.iter().map(|waiting| waiting.request).collect();
        self.rng.shuffle(&mut woken);
        for request in woken {
            let version = self.progress[request].version;
            self.push(self.t, Event::Wake(request, version));
        }
    }

    /// The program is restarted while nothing runs; while something runs, what a restart would bring is compared.
    fn maybe_restart(&mut self) {
        let Some(rng) = &mut self.restart_rng else { return };
        let dice = rng.u8(..);
        let is_idle = self.running == 0 && self.waiting.is_empty();
        if dice > 0 && !(is_idle && dice < 8) {
            return;
        }
        let now = self.now();
        let text = self.ledger.save(SALT, now).to_text();
        let mut fresh = Ledger::new(now, members(&self.pool));
        fresh.restore(&Saved::parse(&text).expect("what was saved"), now);
        for after in [0, 7 * SECOND, 61 * SECOND, 20 * MINUTE, DAY] {
            let at = self.at(self.t + after);
            for backend in 0..self.pool.backends.len() {
                let standings = [&self.ledger, &fresh].map(|ledger| shown(ledger, backend, at));
                // What runs is known to the old one only.
                let runs = self.ledger.report(backend, at).is_some_and(|report| report.in_flight > 0);
                let is_probe = matches!(self.ledger.standing(backend, 0, at), Standing::Probing);
                assert!(
                    standings[0] == standings[1] || runs || is_probe,
                    "{} {after} ms after a restart: {standings:?}",
                    self.pool.backends[backend].name
                );
            }
        }
        if is_idle {
            self.tally.restarts += 1;
            self.ledger = fresh;
        }
    }
}

/// It was neither tried nor ruled out.
fn is_left(record: &Record<'_>) -> bool {
    let passed_over = |skipped| {
        matches!(skipped, Skipped::Benched(..) | Skipped::Short(..) | Skipped::Queued | Skipped::NotReached)
    };
    record.tries == 0 && record.skipped.is_some_and(passed_over)
}

fn wall(t: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(WALL + t)
}

/// Its standing and its windows; ends in whole seconds, as a file has no fractions of a millisecond.
fn shown(ledger: &Ledger, backend: usize, at: Instant) -> String {
    let left = |until: Instant| until.duration_since(at).as_secs();
    let standing = match ledger.standing(backend, 2000, at) {
        Standing::Benched { until, known, class, .. } => format!("{class:?} {known} {}", left(until)),
        Standing::Short(Shortage::Spent { unit, span, until, source }) => {
            format!("{unit:?} {span:?} {source:?} {}", left(until))
        }
        other => format!("{other:?}"),
    };
    format!("{standing} {:?}", ledger.share_left(backend, at))
}

/// As the proxy settles it.
fn spent(verdict: &Verdict) -> Spent {
    match (verdict.status, verdict.class, verdict.scope) {
        (_, Class::Empty, _) => Spent::Expected,
        (_, _, Scope::Provider) => Spent::Nothing,
        (Some(_), ..) => Spent::Refused,
        (None, ..) => Spent::Expected,
    }
}
