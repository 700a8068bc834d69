//! The process: start, signals, reload, command line, and the provider that needs no key.

use std::process::Output;

use crate::harness::*;

fn code(output: &Output) -> i32 {
    output.status.code().expect("an exit, not a signal")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A stream that says "Hel", waits for the gate, and says "lo".
fn gated(gate: &Gate) -> Upstream {
    let gate = gate.clone();
    Upstream::answering(move |_| {
        status(200)
            .stream_head()
            .event(&event(r#"{"content":"Hel"}"#, "null"))
            .wait(&gate)
            .event(&event(r#"{"content":"lo"}"#, r#""stop""#))
            .event("[DONE]")
            .end_chunks()
    })
}

#[test]
fn a_stop_lets_what_runs_end_and_exits_clean() {
    let gate = Gate::new();
    let upstream = gated(&gate);
    let mut proxy = Proxy::with_backends([&upstream]);
    let mut idle = proxy.connect();
    idle.send(get("/health", "")).response();
    let mut stream = proxy.stream(STREAM_HELLO);
    assert_eq!(stream.next_event().unwrap().content().as_deref(), Some("Hel"));
    proxy.stop();
    // An idle connection is closed at once; that it is, tells that the stop was seen.
    idle.closed();
    assert!(std::net::TcpStream::connect(proxy.addr()).is_err(), "new connections should be refused");
    gate.open();
    stream.rest().check_complete("lo").unwrap();
    assert_eq!(proxy.exit_status().code(), Some(0));
}

#[test]
fn a_stop_of_an_idle_program_is_immediate() {
    let upstream = Upstream::healthy("Hello");
    let mut proxy = Proxy::with_backends([&upstream]);
    proxy.chat(HELLO);
    let asked = std::time::Instant::now();
    proxy.stop();
    assert_eq!(proxy.exit_status().code(), Some(0));
    assert!(asked.elapsed().as_secs() < 5);
}

#[test]
fn a_second_stop_ends_at_once() {
    let gate = Gate::new();
    let upstream = gated(&gate);
    let mut proxy = Proxy::with_backends([&upstream]);
    let mut idle = proxy.connect();
    idle.send(get("/health", "")).response();
    let mut stream = proxy.stream(STREAM_HELLO);
    stream.next_event();
    proxy.stop();
    idle.closed();
    proxy.stop();
    proxy.exit_status();
    drop(stream);
}

#[test]
fn a_reload_takes_the_new_backends_and_spares_running_streams() {
    let gate = Gate::new();
    let (old, new) = (gated(&gate), Upstream::healthy("new"));
    let proxy = Proxy::with_backends([&old]);
    let mut stream = proxy.stream(STREAM_HELLO);
    assert_eq!(stream.next_event().unwrap().content().as_deref(), Some("Hel"));
    proxy.reload(&Config::new().backend(Backend::from(&new).name("fresh")).yaml());
    proxy.wait_for_log(0, |line| line.to_lowercase().contains("reload"));
    let response = proxy.chat(HELLO);
    response.check_answer("new").unwrap();
    assert_eq!(response.header("x-ai-free-swap-backend"), Some("fresh"));
    gate.open();
    stream.rest().check_complete("lo").unwrap();
}

#[test]
fn a_reload_of_a_bad_config_keeps_the_old_one_and_says_why() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    for bad in ["providers: []\n", "nonsense_key: 1\n", ": : :\n", ""] {
        let lines = proxy.log_lines();
        proxy.reload(bad);
        proxy.wait_for_log(lines, |l| l.contains("ERROR") || l.contains("WARN"));
        proxy.chat(HELLO).check_answer("Hello").unwrap();
    }
    assert!(proxy.log().contains("nonsense_key"), "{}", proxy.log());
}

#[test]
fn a_bad_config_is_one_line_and_exit_1() {
    let backend = "provider: openai, api_key: sk-secret-x, model: m";
    let with = |more: &str| format!("providers: [{{priority: 1, backends: [{{{backend}{more}}}]}}]\n");
    let rows: Vec<(&str, String, &str)> = vec![
        ("empty", String::new(), "providers"),
        ("not YAML", "providers: [\n".into(), ""),
        ("tabs", "providers:\n\t- x\n".into(), ""),
        ("a list", "- a\n".into(), ""),
        ("no providers", "model_name: x\n".into(), "providers"),
        ("empty providers", "providers: []\n".into(), "providers"),
        ("no backends", "providers: [{priority: 1, backends: []}]\n".into(), "backends"),
        ("priority 0", with("").replace("priority: 1", "priority: 0"), "priority"),
        ("unknown key at the top", with("") + "keep_cycle: 2\n", "keep_cycle"),
        ("unknown key of the server", with("") + "server: {prot: 1}\n", "prot"),
        ("unknown key of a backend", with(", modell: x"), "modell"),
        ("unknown key of extra", with(", extra: {base_url: x}"), "base_url"),
        ("no model", with("").replace(", model: m", ""), "model"),
        ("no key", with("").replace(", api_key: sk-secret-x", ""), "api_key"),
        ("blank key", with("").replace("sk-secret-x", "'  '"), "api_key"),
        ("unknown provider without URL", with("").replace("openai", "nobody"), "base_url"),
        ("a URL that is none", with(", base_url: 'ftp://x'"), "base_url"),
        ("an empty URL", with(", base_url: ''"), "base_url"),
        ("keep_cycles 0", with("") + "keep_cycles: 0\n", "keep_cycles"),
        ("keep_cycles as text", with("") + "keep_cycles: many\n", "keep_cycles"),
        ("a bad routing", with("") + "model_routing: best\n", "model_routing"),
        ("port 0", with("") + "server: {port: 0}\n", "port"),
        ("port 70000", with("") + "server: {port: 70000}\n", "port"),
        ("an unset variable", with("").replace("sk-secret-x", "'${NOT_SET_ANYWHERE}'"), "NOT_SET_ANYWHERE"),
        ("a tls_ca that is not there", with(", tls_ca: /nowhere/ca.pem"), "/nowhere/ca.pem"),
        ("a bad protocol", with(", protocol: gopher"), "protocol"),
    ];
    let dir = TempDir::new();
    every(rows.into_iter().map(|(name, yaml, word)| (name, (yaml, word))), |(yaml, word)| {
        let path = dir.write("bad.yaml", &yaml);
        for command in [&["--config"][..], &["check", "--offline", "--config"]] {
            let args = [command, &[path.to_str().unwrap()]].concat();
            let output = run(&dir, &args, &[]);
            let said = stderr(&output);
            expect(code(&output) == 1, || format!("exit {}: {said}", code(&output)))?;
            let one = said.trim_end();
            expect(!one.is_empty() && !one.contains('\n'), || format!("not one line: {said:?}"))?;
            expect(one.contains("bad.yaml") && one.contains(word), || format!("names no {word:?}: {one}"))?;
        }
        Ok(())
    });
}

#[test]
fn a_config_that_is_not_there_is_one_line_and_exit_1() {
    let dir = TempDir::new();
    let output = run(&dir, &["--config", "nowhere.yaml"], &[]);
    let said = stderr(&output);
    assert_eq!((code(&output), said.lines().count()), (1, 1), "{said}");
    assert!(said.contains("nowhere.yaml"), "{said}");
}

#[test]
fn a_usage_error_is_exit_2() {
    let dir = TempDir::new();
    every(
        [
            &["--nonsense"][..],
            &["--port"],
            &["--port", "many"],
            &["--port", "70000"],
            &["--log-level", "loud"],
            &["unknown-command"],
            &["check", "--nonsense"],
        ]
        .map(|args| (args.join(" "), args)),
        |args| {
            let output = run(&dir, args, &[]);
            let said = stderr(&output);
            expect(code(&output) == 2, || format!("exit {}: {said}", code(&output)))?;
            expect(!said.trim().is_empty() && stdout(&output).is_empty(), || format!("said {said:?}"))
        },
    );
}

#[test]
fn version_and_help_are_on_stdout() {
    let dir = TempDir::new();
    let version = run(&dir, &["--version"], &[]);
    assert_eq!(
        (code(&version), stdout(&version)),
        (0, format!("ai-free-swap {}\n", env!("CARGO_PKG_VERSION")))
    );
    let help = run(&dir, &["--help"], &[]);
    assert_eq!(code(&help), 0);
    for option in ["--config", "--host", "--port", "--log-level", "--version", "check"] {
        assert!(stdout(&help).contains(option), "no {option} in {}", stdout(&help));
    }
}

#[test]
fn an_offline_check_counts_the_backends_and_asks_nobody() {
    let upstream = Upstream::healthy("Hello");
    let dir = TempDir::new();
    dir.write("config.yaml", &Config::new().backend(&upstream).backend(&upstream).yaml());
    let output = run(&dir, &["check", "--offline"], &[]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).contains("2 backends"), "{}", stdout(&output));
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn a_check_asks_each_backend_once_and_says_which_works() {
    let (good, bad) = (Upstream::healthy("Hello"), Upstream::replies([status(401).error("bad key")]));
    let dir = TempDir::new();
    dir.write("config.yaml", &Config::new().backend(&good).backend(&bad).yaml());
    let output = run(&dir, &["check"], &[]);
    assert_eq!((good.hits(), bad.hits()), (1, 1));
    let table = stdout(&output);
    assert!(table.contains("alpha") && table.contains("beta") && table.contains("401"), "{table}");
}

#[test]
fn without_config_and_keys_the_demo_answers() {
    let proxy = Proxy::start_with(None, &[]);
    let response = proxy.chat(HELLO);
    let answer = response.json();
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    assert_eq!((&answer["object"], &answer["provider_name"]), (&"chat.completion".into(), &"demo".into()));
    assert!(text.to_lowercase().contains("demo"), "it has to say what it is: {text}");
    assert!(answer["usage"]["total_tokens"].is_u64(), "{answer}");
    let events = proxy.chat(STREAM_HELLO).events();
    events.check_complete(&text).unwrap();
    assert!(events.0.len() > 3, "one lump is no stream");
    // SDKs compare the chunks of one answer by these.
    let ids: Vec<_> = events.0.iter().map(|e| e.json()["id"].clone()).filter(|id| !id.is_null()).collect();
    assert!(ids.windows(2).all(|w| w[0] == w[1]) && !ids.is_empty(), "{ids:?}");
}

#[test]
fn the_demo_tells_usage_to_who_asks() {
    let proxy = Proxy::start_with(None, &[]);
    let usage = |body: &str| {
        let events = proxy.chat(body).events();
        events.0.iter().filter(|e| e.json()["usage"]["total_tokens"].is_u64()).count()
    };
    assert_eq!(usage(STREAM_HELLO), 0);
    assert_eq!(usage(&STREAM_HELLO.replace("true}", "true,\"stream_options\":{\"include_usage\":true}}")), 1);
}

#[test]
fn a_config_file_in_the_working_directory_is_found() {
    let dir = TempDir::new();
    dir.write(
        "config.yaml",
        &Config::new().backend(Backend::at("http://a/v1")).backend(Backend::at("http://b/v1")).yaml(),
    );
    let output = run(&dir, &["check", "--offline"], &[("GROQ_API_KEY", "sk-secret-groq")]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).contains("2 backends"), "{}", stdout(&output));
}

#[test]
fn keys_in_the_environment_make_backends() {
    let env =
        [("GROQ_API_KEY", "sk-secret-groq"), ("GEMINI_API_KEY", "sk-secret-gemini"), ("MISTRAL_API_KEY", "")];
    let proxy = Proxy::start_with(None, &env.map(|(name, key)| (name.to_owned(), key.to_owned())));
    let log = proxy.log();
    assert!(log.contains("groq") && log.contains("gemini") && !log.contains("mistral"), "{log}");
    assert!(!log.contains("demo"), "the demo is for those who have no key: {log}");
}

#[test]
fn the_demo_can_be_told_to_fail() {
    every_at_once(["demo-429", "demo-500", "demo-stall"].map(|m| (m, m)), |model| {
        let failing = Backend::at("").provider("demo").model(model).line("extra: {timeout: 1}");
        let working = Backend::at("").provider("demo").model("demo");
        let proxy = Config::new().backend(failing).backend(working).start();
        for body in [HELLO, STREAM_HELLO] {
            let response = proxy.chat(body);
            let by = response.header("x-ai-free-swap-backend");
            expect(response.status() == 200 && by == Some("beta"), || {
                format!("{by:?}: {}", response.text())
            })?;
        }
        Ok(())
    });
}

#[test]
fn every_request_is_one_line_in_the_log_and_no_prompt_is() {
    let upstream = Upstream::healthy("the answer nobody logs");
    let proxy = Proxy::with_backends([&upstream]);
    let body = HELLO.replace("hi", "the prompt nobody logs");
    for _ in 0..3 {
        proxy.chat(&body);
    }
    proxy.get("/health");
    let log = proxy.whole_log();
    let lines = log.lines().filter(|l| l.contains("INFO") && l.contains("status=200")).count();
    assert_eq!(lines, 3, "{log}");
    assert!(!log.contains("nobody logs"), "{log}");
}

#[test]
fn the_port_of_the_command_line_wins() {
    let upstream = Upstream::healthy("Hello");
    // 1 is a port that nobody but the system may take, so that it listens at all shows whose word counts.
    let proxy = Config::new().backend(&upstream).server("port: 1").server("host: 192.0.2.1").start();
    proxy.chat(HELLO).check_answer("Hello").unwrap();
}

#[test]
fn a_port_in_use_is_one_line_and_no_panic() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let dir = TempDir::new();
    let output = run(&dir, &["--host", "127.0.0.1", "--port", &port, "--log-level", "error"], &[]);
    let said = stderr(&output);
    assert_eq!((code(&output), said.trim_end().lines().count()), (1, 1), "{said}");
    assert!(said.contains(&port), "{said}");
}
