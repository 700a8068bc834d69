//! The program as a child process: its config, its log, its signals, its end.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::client::{Connection, Stream, get, post};
use super::http::{Asked, Response};
use super::{DEADLINE, KEY_MARK, RefusedPort, Upstream, Watched};

/// Removed with everything in it when dropped.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ai-free-swap-it-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// One backend of a config. Every field but the URL has a default made of its place: the first is `alpha`.
#[derive(Clone)]
pub struct Backend {
    base_url: String,
    name: Option<String>,
    provider: Option<String>,
    model: Option<String>,
    priority: Option<usize>,
    lines: Vec<String>,
}

impl Backend {
    pub fn at(base_url: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            name: None,
            provider: None,
            model: None,
            priority: None,
            lines: Vec::new(),
        }
    }

    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    pub fn provider(mut self, provider: &str) -> Self {
        self.provider = Some(provider.to_owned());
        self
    }

    pub fn model(mut self, model: &str) -> Self {
        self.model = Some(model.to_owned());
        self
    }

    pub fn priority(mut self, priority: usize) -> Self {
        self.priority = Some(priority);
        self
    }

    /// A further line of the entry, such as `extra: {timeout: 1}`.
    pub fn line(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }
}

impl From<&Upstream> for Backend {
    fn from(upstream: &Upstream) -> Self {
        Self::at(upstream.base_url())
    }
}

impl From<&RefusedPort> for Backend {
    fn from(port: &RefusedPort) -> Self {
        Self::at(port.base_url())
    }
}

/// A config in the making, and the environment of the program.
#[derive(Clone, Default)]
pub struct Config {
    top: Vec<String>,
    server: Vec<String>,
    backends: Vec<Backend>,
    env: Vec<(String, String)>,
}

impl Config {
    pub fn new() -> Self {
        Self::default()
    }

    /// Priorities 1, 2, … unless the backend has its own.
    pub fn backend(mut self, backend: impl Into<Backend>) -> Self {
        self.backends.push(backend.into());
        self
    }

    /// All backends so far share priority 1.
    pub fn same_priority(mut self) -> Self {
        for backend in &mut self.backends {
            backend.priority = Some(1);
        }
        self
    }

    pub fn top(mut self, line: &str) -> Self {
        self.top.push(line.to_owned());
        self
    }

    pub fn server(mut self, line: &str) -> Self {
        self.server.push(line.to_owned());
        self
    }

    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    pub fn yaml(&self) -> String {
        const NAMES: [&str; 6] = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"];
        let mut yaml = String::new();
        for line in &self.top {
            yaml.push_str(&format!("{line}\n"));
        }
        if !self.server.is_empty() {
            yaml.push_str("server:\n");
        }
        for line in &self.server {
            yaml.push_str(&format!("  {line}\n"));
        }
        yaml.push_str("providers:\n");
        for (i, backend) in self.backends.iter().enumerate() {
            let default = NAMES.get(i).map_or_else(|| format!("number-{i}"), |n| (*n).to_owned());
            let name = backend.name.as_ref().unwrap_or(&default);
            let provider = backend.provider.clone().unwrap_or_else(|| format!("provider-{name}"));
            let model = backend.model.clone().unwrap_or_else(|| format!("model-{name}"));
            let (priority, url) = (backend.priority.unwrap_or(i + 1), &backend.base_url);
            yaml.push_str(&format!(
                "  - priority: {priority}\n    backends:\n      - provider: {provider}\n"
            ));
            yaml.push_str(&format!("        name: {name}\n        model: {model}\n"));
            yaml.push_str(&format!("        api_key: {KEY_MARK}{name}\n"));
            if !url.is_empty() {
                yaml.push_str(&format!("        base_url: {url}\n"));
            }
            for line in &backend.lines {
                yaml.push_str(&format!("        {line}\n"));
            }
        }
        yaml
    }

    #[track_caller]
    pub fn start(self) -> Proxy {
        Proxy::start_with(Some(&self.yaml()), &self.env)
    }
}

#[derive(Default)]
struct Log {
    lines: Vec<String>,
    ended: bool,
}

/// The running program. When dropped it is killed, and its log is searched for keys and panics.
pub struct Proxy {
    child: Child,
    addr: SocketAddr,
    log: Watched<Log>,
    reader: Option<JoinHandle<()>>,
    dir: TempDir,
}

impl Proxy {
    #[track_caller]
    pub fn start(yaml: &str) -> Self {
        Self::start_with(Some(yaml), &[])
    }

    /// Backends with priorities 1, 2, …
    #[track_caller]
    pub fn with_backends<const N: usize>(backends: [&Upstream; N]) -> Self {
        backends.into_iter().fold(Config::new(), |config, b| config.backend(b)).start()
    }

    /// Without a config file if `yaml` is `None`. The environment is empty but for `env`.
    #[track_caller]
    pub fn start_with(yaml: Option<&str>, env: &[(String, String)]) -> Self {
        let dir = TempDir::new();
        let mut command = command(dir.path());
        if let Some(yaml) = yaml {
            command.arg("--config").arg(dir.write("config.yaml", yaml));
        }
        Self::launch(dir, command, env)
    }

    /// With a config file that the program has to find by itself.
    #[track_caller]
    pub fn start_beside(yaml: &str) -> Self {
        let dir = TempDir::new();
        dir.write("config.yaml", yaml);
        let command = command(dir.path());
        Self::launch(dir, command, &[])
    }

    #[track_caller]
    fn launch(dir: TempDir, mut command: Command, env: &[(String, String)]) -> Self {
        command.args(["--host", "127.0.0.1", "--port", "0", "--log-level", "debug"]);
        command.envs(env.iter().map(|(n, v)| (n, v)));
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (log, stderr) = (Watched::new(Log::default()), child.stderr.take().unwrap());
        let writer = log.clone();
        let reader = thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n') {
                let Ok(line) = line else { break };
                writer.change(|l| l.lines.push(String::from_utf8_lossy(&line).into_owned()));
            }
            writer.change(|l| l.ended = true);
        });
        let addr = log.wait(DEADLINE, |l| {
            let found = l.lines.iter().find_map(|line| line.split_once("listening on http://"));
            let found = found.and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
            found.map(Some).or_else(|| l.ended.then_some(None))
        });
        let Some(Some(addr)) = addr else {
            let _ = child.kill();
            panic!("the program did not start; its log: {:#?}", log.with(|l| l.lines.clone()));
        };
        Self { child, addr, log, reader: Some(reader), dir }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        self.log.with(|l| l.lines.join("\n"))
    }

    /// Everything it ever said: stops the program, as a line may still be on its way while it runs.
    #[track_caller]
    pub fn whole_log(mut self) -> String {
        self.stop();
        self.exit_status();
        self.log()
    }

    pub fn log_lines(&self) -> usize {
        self.log.with(|l| l.lines.len())
    }

    /// Waits for a line, behind the first `skip` ones, that is as described.
    #[track_caller]
    pub fn wait_for_log(&self, skip: usize, wanted: impl Fn(&str) -> bool) {
        let seen =
            self.log.wait(DEADLINE, |l| l.lines.iter().skip(skip).any(|line| wanted(line)).then_some(()));
        assert!(seen.is_some(), "a line is missing in the log: {}", self.log());
    }

    #[track_caller]
    pub fn connect(&self) -> Connection {
        Connection::open(self.addr)
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        self.connect().send(get(path, "")).response()
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: &str) -> Response {
        self.connect().send(post(path, body)).response()
    }

    /// A chat request; the answer is read to its end.
    #[track_caller]
    pub fn chat(&self, body: &str) -> Response {
        self.post("/v1/chat/completions", body)
    }

    /// A chat request whose answer is read as it comes.
    #[track_caller]
    pub fn stream(&self, body: &str) -> Stream {
        let mut connection = self.connect();
        connection.send(post("/v1/chat/completions", body));
        connection.stream()
    }

    /// Sends anything and reads until the server closes.
    pub fn raw(&self, bytes: &[u8]) -> Result<Vec<Response>, String> {
        let mut connection = self.connect();
        // A refused request may be cut short by the server: that is its right.
        let _ = connection.try_send(bytes);
        connection.responses_until_close(Asked::USUAL)
    }

    /// `Ok` if the process still answers.
    pub fn check_alive(&self) -> Result<(), String> {
        let mut connection = self.connect();
        connection.try_send(&get("/health", "")).map_err(|e| format!("dead: {e}"))?;
        match connection.try_response(Asked::USUAL) {
            Ok(response) if response.status() == 200 => Ok(()),
            Ok(response) => Err(format!("health answers {}", response.status())),
            Err(e) => Err(format!("dead: {e}; log: {}", self.log())),
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// SIGTERM.
    pub fn stop(&self) {
        self.signal(Signal::TERM);
    }

    /// Stands still, for `thaw`: what comes meanwhile waits in the system.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Goes on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGHUP, after the config file was replaced.
    pub fn reload(&self, yaml: &str) {
        self.dir.write("config.yaml", yaml);
        self.signal(Signal::HUP);
    }

    /// SIGHUP, after the config file was removed.
    pub fn reload_without_file(&self) {
        fs::remove_file(self.dir.path().join("config.yaml")).unwrap();
        self.signal(Signal::HUP);
    }

    /// Waits for the end of the process.
    #[track_caller]
    pub fn exit_status(&mut self) -> ExitStatus {
        // The end of the log is the end of the process: nobody else holds its stderr.
        let ended = self.log.wait(DEADLINE + Duration::from_secs(20), |l| l.ended.then_some(()));
        assert!(ended.is_some(), "the program should have ended; its log: {}", self.log());
        self.child.wait().unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        let log = self.log();
        if thread::panicking() {
            eprintln!("--- log of the program:\n{log}\n---");
            return;
        }
        assert!(!log.contains(KEY_MARK), "a key in the log:\n{log}");
        assert!(!log.contains("panicked at"), "a panic in the log:\n{log}");
    }
}

/// The program in `dir`, with an empty environment.
fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ai-free-swap"));
    command.current_dir(dir).env_clear();
    command
}

/// Runs the program to its end: for commands that do not serve.
#[track_caller]
pub fn run(dir: &TempDir, args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = command(dir.path());
    let child = command.args(args).envs(env.iter().copied());
    let child = child.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    let output = Watched::new(None);
    let (sender, args) = (output.clone(), args.join(" "));
    thread::spawn(move || {
        let output = child.wait_with_output().ok();
        sender.change(|o| *o = output);
    });
    let Some(output) = output.wait(DEADLINE, |o: &Option<Output>| o.clone()) else {
        let _ = kill_process(pid, Signal::KILL);
        panic!("`{args}` does not end");
    };
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(!said.contains(KEY_MARK), "a key in the output of `{args}`:\n{said}");
    assert!(!said.contains("panicked at"), "`{args}` panics:\n{said}");
    output
}
