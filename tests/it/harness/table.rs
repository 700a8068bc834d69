//! One program for many rows. Every row has a model name of its own and under it two backends: the first does what the
//! row says, the second one is healthy. So no row is touched by what the ledger remembers of another.

use super::{Answer, Config, Protocol, Proxy, Reply, Request, Response, Surface, Upstream};

pub struct Table {
    pub proxy: Proxy,
    first: Upstream,
    _second: Upstream,
}

/// What the second backend of every row says.
pub const RESCUE: &str = "Hello from the second";

impl Table {
    #[track_caller]
    pub fn new(rows: usize, script: impl Fn(usize, &Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::with(Config::new(), "", rows, script)
    }

    /// `line` is a further line of every first backend.
    #[track_caller]
    pub fn with(
        config: Config,
        line: &str,
        rows: usize,
        script: impl Fn(usize, &Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::between([Protocol::OpenAi; 2], config, line, rows, script)
    }

    /// With backends that speak these protocols.
    #[track_caller]
    pub fn between(
        [first_speaks, second_speaks]: [Protocol; 2],
        config: Config,
        line: &str,
        rows: usize,
        script: impl Fn(usize, &Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let first = Upstream::answering(move |r| script(row_of(r), r));
        let second = second_speaks.saying(Answer::text(RESCUE));
        let mut config = config.top("model_routing: match");
        for row in 0..rows {
            let model = format!("row-{row}");
            let backend = first_speaks.backend(&first, &format!("/{row}"));
            let backend = backend.name(&format!("first-{row}")).model(&model).priority(1);
            config = config.backend(if line.is_empty() { backend } else { backend.line(line) });
            let backend = second_speaks.backend(&second, "").name(&format!("second-{row}")).model(&model);
            config = config.backend(backend.priority(2));
        }
        Self { proxy: config.start(), first, _second: second }
    }

    /// The answer to a chat request of this row, read to its end.
    pub fn ask(&self, row: usize, stream: bool) -> Result<Response, String> {
        self.ask_as(Surface::Chat, row, stream)
    }

    /// The same of another client.
    pub fn ask_as(&self, surface: Surface, row: usize, stream: bool) -> Result<Response, String> {
        let request = surface.post(&surface.hello(&format!("row-{row}"), stream));
        let mut connection = self.proxy.connect();
        connection.try_send(&request).map_err(|e| e.to_string())?;
        connection.try_response(super::Asked::USUAL)
    }

    /// Whether the client got exactly what the second backend said, and the first one had been asked.
    pub fn check_rescued(&self, row: usize, stream: bool) -> Result<(), String> {
        self.check_rescued_as(Surface::Chat, row, stream)
    }

    /// The same of another client.
    pub fn check_rescued_as(&self, surface: Surface, row: usize, stream: bool) -> Result<(), String> {
        let response = self.ask_as(surface, row, stream)?;
        surface.check_said(&response, stream, RESCUE)?;
        let by = response.header("x-ai-free-swap-backend");
        super::expect(by == Some(&format!("second-{row}")), || format!("answered by {by:?}"))?;
        let asked = self.first.requests().iter().any(|r| row_of(r) == row);
        super::expect(asked, || "the first backend was never asked".into())
    }
}

fn row_of(request: &Request) -> usize {
    request.target.split('/').nth(1).and_then(|row| row.parse().ok()).expect("rows have a path of their own")
}
