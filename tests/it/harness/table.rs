//! One program for many rows. Every row has a model name of its own and under it two backends: the first does what the
//! row says, the second one is healthy. So no row is touched by what the ledger remembers of another.

use super::upstream::good_answer;
use super::{Backend, Config, Proxy, Reply, Request, Response, Upstream};

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
        let first = Upstream::answering(move |r| script(row_of(r), r));
        let second = Upstream::answering(|r| good_answer(r, RESCUE));
        let mut config = config.top("model_routing: match");
        for row in 0..rows {
            let model = format!("row-{row}");
            let url = first.base_url().replace("/v1", &format!("/{row}/v1"));
            let backend = Backend::at(url).name(&format!("first-{row}")).model(&model).priority(1);
            config = config.backend(if line.is_empty() { backend } else { backend.line(line) });
            let backend = Backend::from(&second).name(&format!("second-{row}")).model(&model);
            config = config.backend(backend.priority(2));
        }
        Self { proxy: config.start(), first, _second: second }
    }

    /// The answer to a chat request of this row, read to its end.
    pub fn ask(&self, row: usize, stream: bool) -> Result<Response, String> {
        let body = format!(
            r#"{{"model":"row-{row}","messages":[{{"role":"user","content":"hi"}}],"stream":{stream}}}"#
        );
        let mut connection = self.proxy.connect();
        connection.try_send(&super::post("/v1/chat/completions", &body)).map_err(|e| e.to_string())?;
        connection.try_response(super::Asked::USUAL)
    }

    /// Whether the client got exactly what the second backend said, and the first one had been asked.
    pub fn check_rescued(&self, row: usize, stream: bool) -> Result<(), String> {
        let response = self.ask(row, stream)?;
        if stream {
            response.try_events()?.check_complete(RESCUE)?;
        } else {
            response.check_answer(RESCUE)?;
        }
        let by = response.header("x-ai-free-swap-backend");
        super::expect(by == Some(&format!("second-{row}")), || format!("answered by {by:?}"))?;
        let asked = self.first.requests().iter().any(|r| row_of(r) == row);
        super::expect(asked, || "the first backend was never asked".into())
    }
}

fn row_of(request: &Request) -> usize {
    request.target.split('/').nth(1).and_then(|row| row.parse().ok()).expect("rows have a path of their own")
}
