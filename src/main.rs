//! The program: command line in, exit code out.
#![forbid(unsafe_code)]

use ai_free_swap::cli::{self, Args, Command, HELP};
use ai_free_swap::config::{self, Config};
use ai_free_swap::date::Civil;
use ai_free_swap::limits::{CONFIG_BYTES_MAX, DRAIN_TIME, POOL_SWEEP_TIME, STATE_FILE_GAP, SUMMARY_TIME};
use ai_free_swap::net::deadline::{drive, sleep_until, with_deadline};
use ai_free_swap::net::proxy_env::ProxyEnv;
use ai_free_swap::notify::{Notifier, watchdog_gap};
use ai_free_swap::proxy::state::{State, now};
use ai_free_swap::proxy::stats::summary;
use ai_free_swap::proxy::status::rests;
use ai_free_swap::proxy::upstream::{Trust, Via};
use ai_free_swap::route::saved::Saved;
use ai_free_swap::server::{Listener, Shared, accept_all, accept_waiting};
use ai_free_swap::stderr::Patient;
use ai_free_swap::{check, explain, health, net, renew, state_file};
use async_signal::{Signal, Signals};
use futures_lite::{FutureExt, StreamExt, future};
use smol::Executor;
use smol::lock::Mutex;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// musl's own allocator is several times slower, glibc's returns large bodies to the system after each request and
/// faults them in again for the next.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// A mistake in the config, or an address that cannot be had: as the original program.
const EXIT_FAILURE: u8 = 1;
/// A command line that was not understood.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let (command, args) = match cli::parse(std::env::args_os().skip(1)) {
        Ok(parsed) => parsed,
        Err(e) => return fail(EXIT_USAGE, &e.to_string()),
    };
    let result = match command {
        Command::Help => print(HELP),
        Command::Version => print(concat!("ai-free-swap ", env!("CARGO_PKG_VERSION"), "\n")),
        Command::Check { offline } => run_check(&args, offline),
        Command::Explain => run_explain(&args),
        Command::Health => run_health(&args),
        Command::Serve => serve(&args),
    };
    match result {
        Ok(code) => code,
        Err(e) => fail(EXIT_FAILURE, &e),
    }
}

fn fail(code: u8, message: &str) -> ExitCode {
    // Nobody is left to tell if stderr is closed.
    let _ = writeln!(std::io::stderr(), "{message}");
    ExitCode::from(code)
}

fn print(text: &str) -> Result<ExitCode, String> {
    // `ai-free-swap --help | head` closes the pipe early; that is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::SUCCESS)
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The config file, or what the environment gives when none was named and there is none.
fn load_config(args: &Args) -> Result<Config, String> {
    let path = &args.config;
    let shown = path.display();
    let mut config = match File::open(path) {
        Ok(file) => {
            let mut text = String::new();
            file.take(CONFIG_BYTES_MAX as u64 + 1)
                .read_to_string(&mut text)
                .map_err(|e| format!("Error loading config: {shown}: {e}"))?;
            config::load(&text, &shown.to_string(), &env).map_err(|e| format!("Error loading config: {e}"))?
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !args.config_given => {
            config::from_environment(&env)
        }
        Err(e) => return Err(format!("Error loading config: {shown}: {e}")),
    };
    if let Some(host) = &args.host {
        config.server.host.clone_from(host);
    }
    if let Some(port) = args.port {
        config.server.port = port;
    }
    Ok(config)
}

fn state_path(config: &Config) -> Option<PathBuf> {
    state_file::path(config.state_file.as_deref(), &env)
}

/// Reads a state file, and says what is wrong with it.
type Load = fn(&Path) -> Option<Saved>;

/// For a run that does not write the file, and so must not move it.
fn only_load(path: &Path) -> Option<Saved> {
    state_file::load(path).unwrap_or_else(|why| {
        log::warn!("state file {}: {why}; going on without what it knows", path.display());
        None
    })
}

/// The config with everything it refers to: certificates, proxies.
fn load_state(args: &Args, previous: Option<&State>, load: Load) -> Result<State, String> {
    let config = load_config(args)?;
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    let proxies = ProxyEnv::from_env(&env).map_err(|e| format!("Error loading config: {e}"))?;
    let mut trust =
        Trust::new(std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()).map(Into::into));
    let saved = match (previous, state_path(&config)) {
        (None, Some(path)) => load(&path),
        _ => None,
    };
    let state = State::new(config, &mut trust, &proxies, previous, saved.as_ref())
        .map_err(|e| format!("Error loading config: {}: {e}", args.config.display()))?;
    Ok(state)
}

fn start_logging(args: &Args) {
    // journald stamps each line itself.
    let stamped = std::env::var_os("JOURNAL_STREAM").is_none();
    env_logger::Builder::new()
        .filter_level(log::LevelFilter::Warn)
        .filter_module("ai_free_swap", args.log_level)
        .format(move |out, record| {
            if stamped {
                write!(out, "{} ", Civil::of(SystemTime::now()).rfc3339())?;
            }
            writeln!(out, "{:<5} {}", record.level(), record.args())
        })
        .target(env_logger::Target::Pipe(Box::new(Patient::new(std::io::stderr()))))
        .init();
}

fn run_check(args: &Args, offline: bool) -> Result<ExitCode, String> {
    start_logging(args);
    let state = load_state(args, None, only_load)?;
    if offline {
        return print(&check::list(&state));
    }
    let (table, good) = async_io::block_on(future::or(check::check(&state), async {
        drive().await;
        future::pending().await
    }));
    print(&table)?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILURE) })
}

fn run_explain(args: &Args) -> Result<ExitCode, String> {
    start_logging(args);
    let state = load_state(args, None, only_load)?;
    let body =
        args.file.as_deref().map(|path| read_request(path, state.config.server.max_body)).transpose()?;
    let question = explain::Question {
        model: args.model.as_deref(),
        body: body.as_deref(),
        dialect: args.dialect,
        remembers: state_path(&state.config).is_some(),
    };
    let shown = args.file.as_deref().map(|path| format!("{}: ", path.display())).unwrap_or_default();
    print(&explain::explain(&state, &question, now()).map_err(|e| format!("{shown}{e}"))?)
}

/// A request in a file, as large as one may be that comes over the network.
fn read_request(path: &Path, max: usize) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let file = File::open(path).map_err(|e| format!("{shown}: {e}"))?;
    let mut body = Vec::new();
    let most = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    file.take(most).read_to_end(&mut body).map_err(|e| format!("{shown}: {e}"))?;
    if body.len() > max {
        return Err(format!("{shown}: larger than server.max_body ({max} bytes)"));
    }
    Ok(body)
}

fn run_health(args: &Args) -> Result<ExitCode, String> {
    health::ask(&load_config(args)?.server)?;
    Ok(ExitCode::SUCCESS)
}

fn serve(args: &Args) -> Result<ExitCode, String> {
    start_logging(args);
    renew::on_panic();
    let descriptors = net::raise_descriptor_limit();
    let state = Arc::new(load_state(args, None, state_file::load_or_set_aside)?);
    let listeners = Listener::open(&state.config.server)?;
    let mut signals = Signals::new([Signal::Term, Signal::Int, Signal::Hup])
        .map_err(|e| format!("cannot watch for signals: {e}"))?;
    describe(&state);
    for listener in &listeners {
        log::info!("listening on {}", listener.describe());
    }

    let executor: &'static Executor<'static> = Box::leak(Box::new(Executor::new()));
    for number in 1..state.config.server.threads {
        std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || async_io::block_on(executor.run(future::pending::<()>())))
            .map_err(|e| format!("cannot start a thread: {e}"))?;
    }
    let shared = Shared::new(state, descriptors);
    executor.spawn(drive()).detach();
    executor.spawn(sweep_pool(Arc::clone(&shared))).detach();
    executor.spawn(summarise(Arc::clone(&shared))).detach();
    let keeper = Arc::new(Mutex::new(Keeper::default()));
    let keeping = executor.spawn(keep_state(Arc::clone(&shared), Arc::clone(&keeper)));
    let listeners: Vec<_> = listeners.into_iter().map(Arc::new).collect();
    let accept = |listener| executor.spawn(accept_all(Arc::clone(&shared), Arc::clone(listener), executor));
    let accepting: Vec<_> = listeners.iter().map(accept).collect();
    let notifier = start_notifying(executor);
    notifier.ready(&status(&shared.state()));
    let mut args = args.clone();
    args.config_given |= args.config.exists();
    // A task of its own: what `block_on` waits for is polled at every event, and this one asks a socket.
    let end = executor.spawn(async move {
        while let Some(Ok(signal)) = signals.next().await {
            match signal {
                Signal::Hup => {
                    notifier.reloading();
                    let outcome = reload(&mut args, &shared);
                    notifier.ready(&outcome);
                }
                _ => break,
            }
        }
        notifier.stopping();
        // From here on a new connection is refused and can go elsewhere.
        drop(accepting);
        for listener in listeners {
            accept_waiting(&shared, &listener, executor).await;
        }
        // Not while it writes the same file.
        keeping.cancel().await;
        let mut keeper = keeper.lock().await;
        // At once too: who stops us may lose patience (Docker after 10 s).
        future::zip(keeper.keep(&shared), drain(&shared, &mut signals)).await;
        keeper.keep(&shared).await;
    });
    async_io::block_on(executor.run(end));
    Ok(ExitCode::SUCCESS)
}

fn describe(state: &State) {
    let names: Vec<_> = state.upstreams.iter().map(|u| format!("{} ({})", u.name, u.model)).collect();
    log::info!("ai-free-swap {}: {} backends: {}", env!("CARGO_PKG_VERSION"), names.len(), names.join(", "));
    if state.upstreams.iter().all(|upstream| matches!(upstream.via, Via::Demo(_))) {
        log::info!("no provider is configured, so the demo answers; see --help for how to add one");
    }
    if state.config.server.api_key.is_none() {
        log::info!("no server.api_key is set: everyone who reaches this port may use it");
    }
}

/// One line on what is in force, for `systemctl status`.
fn status(state: &State) -> String {
    format!("{} backends", state.upstreams.len())
}

/// Finds the service manager, and keeps telling it that the executor runs if it wants to hear that.
fn start_notifying(executor: &Executor<'static>) -> Arc<Notifier> {
    let name = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
    let notifier = name.map_or_else(|| Ok(Notifier::default()), |name| Notifier::connect(&name));
    let notifier = Arc::new(notifier.unwrap_or_else(|e| {
        log::warn!("the service manager cannot be told anything: NOTIFY_SOCKET: {e}");
        Notifier::default()
    }));
    let (micros, pid) = (env("WATCHDOG_USEC"), env("WATCHDOG_PID"));
    if let Some(gap) = watchdog_gap(micros.as_deref(), pid.as_deref(), std::process::id()) {
        let notifier = Arc::clone(&notifier);
        let alive = async move {
            loop {
                notifier.alive();
                sleep_until(Instant::now() + gap).await;
            }
        };
        executor.spawn(alive).detach();
    }
    notifier
}

async fn sweep_pool(shared: Arc<Shared>) {
    loop {
        sleep_until(Instant::now() + POOL_SWEEP_TIME).await;
        shared.state().pool.sweep(Instant::now());
    }
}

/// Once an hour a line about it.
async fn summarise(shared: Arc<Shared>) {
    let mut before = shared.state().stats.totals();
    loop {
        sleep_until(Instant::now() + SUMMARY_TIME).await;
        let state = shared.state();
        let totals = state.stats.totals();
        let reports = state.reports(Instant::now());
        let rest = reports.iter().filter(|report| rests(report.standing)).count();
        if let Some(line) = summary(totals.since(before), rest, reports.len()) {
            log::info!("{line}");
        }
        before = totals;
    }
}

/// Writes the state file, if there is to be one and something has changed.
#[derive(Default)]
struct Keeper {
    last: Option<Saved>,
    told: bool,
}

impl Keeper {
    async fn keep(&mut self, shared: &Shared) {
        let state = shared.state();
        let Some(path) = state_path(&state.config) else { return };
        if self.last.is_none() {
            // What an earlier run has left need not be written again.
            self.last = state_file::load(&path).ok().flatten();
        }
        let saved = state.save();
        if self.last.as_ref().is_some_and(|last| last.says_the_same(&saved)) {
            return;
        }
        let text = saved.to_text();
        let shown = path.display().to_string();
        // The disk may take its time, and nobody else has to wait for it.
        match smol::unblock(move || state_file::write(&path, &text)).await {
            Ok(()) => {
                log::debug!("state file {shown}: written");
                (self.last, self.told) = (Some(saved), false);
            }
            Err(e) if !std::mem::replace(&mut self.told, true) => {
                log::warn!("state file {shown}: {e}; what is known of limits will not outlive this run");
            }
            Err(_) => {}
        }
    }
}

async fn keep_state(shared: Arc<Shared>, keeper: Arc<Mutex<Keeper>>) {
    loop {
        // At once as well: who cannot write should hear of it at the start.
        keeper.lock().await.keep(&shared).await;
        sleep_until(Instant::now() + STATE_FILE_GAP).await;
    }
}

/// Puts the file in force if it can; the outcome in one line.
fn reload(args: &mut Args, shared: &Shared) -> String {
    // Once there was a file, its absence is a mistake (or an editor in the middle of saving), and no reason to fall
    // back on the environment: the client key would be gone too.
    args.config_given |= args.config.exists();
    let previous = shared.state();
    match load_state(args, Some(&previous), only_load) {
        Ok(state) => {
            let (old, new) = (&previous.config.server, &state.config.server);
            let fixed = |s: &config::Server| {
                (s.host.clone(), s.port, s.socket.clone(), s.threads, s.max_connections, s.body_memory)
            };
            if fixed(old) != fixed(new) {
                log::warn!(
                    "server.host, port, socket, threads, max_connections and body_memory change at the next start only"
                );
            }
            describe(&state);
            let status = status(&state);
            shared.replace_state(Arc::new(state));
            log::info!("configuration reloaded");
            status
        }
        Err(e) => {
            log::error!("configuration not reloaded, the old one stays: {e}");
            format!("{}; the last reload failed: {e}", status(&previous))
        }
    }
}

/// Lets what runs end, within limits; a second signal ends it at once.
async fn drain(shared: &Shared, signals: &mut Signals) {
    log::info!("ending: waiting up to {} s for running requests", DRAIN_TIME.as_secs());
    shared.connections.drain();
    let again = async {
        while let Some(Ok(Signal::Hup)) = signals.next().await {}
        log::info!("ending at once");
    };
    let ended = pin!(shared.connections.all_ended().or(again));
    if with_deadline(Instant::now() + DRAIN_TIME, ended).await.is_err() {
        log::warn!("some requests did not end in time");
    }
}
