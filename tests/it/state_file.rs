//! What is known outlives the program: in a file that is whole at any moment, tells no secret, and stops nothing if it
//! cannot be read or written.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::*;

fn keeping(config: Config, path: &Path) -> Config {
    config.top(&format!("state_file: {}", path.display()))
}

fn limited(upstream: &Upstream, limits: &str) -> Backend {
    Backend::from(upstream).line(format!("limits: {{{limits}}}"))
}

/// Ends the program as the system does, and gives its log.
#[track_caller]
fn end(proxy: Proxy) -> String {
    proxy.whole_log()
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn what_is_known_outlives_a_restart() {
    let dir = TempDir::new();
    let path = dir.path().join("state.json");
    let told = Upstream::replies([status(429).header("retry-after", "3600").error("slow down")]);
    let counted = Upstream::healthy("counted");
    let refused = Upstream::replies([status(401).error("no such key")]);
    let rescue = Upstream::healthy("rescue");
    let config = |lines: [&str; 2]| {
        let config = Config::new().backend(&told).backend(limited(&counted, "rpd: 2")).backend(&refused);
        lines.into_iter().fold(keeping(config.backend(&rescue), &path), Config::top)
    };
    let hits = || [told.hits(), counted.hits(), refused.hits(), rescue.hits()];
    let proxy = config(["", ""]).start();
    proxy.chat(HELLO).check_answer("counted").unwrap();
    end(proxy);
    assert_eq!(hits(), [1, 1, 0, 0]);
    // Whatever else has changed in the config, these are the same backends.
    let proxy = config(["keep_cycles: 3", "model_name: other"]).start();
    proxy.chat(HELLO).check_answer("counted").unwrap();
    proxy.chat(HELLO).check_answer("rescue").unwrap();
    end(proxy);
    assert_eq!(hits(), [1, 2, 1, 1]);
    for restart in 1..4 {
        let proxy = config(["", ""]).start();
        proxy.chat(HELLO).check_answer("rescue").unwrap();
        let log = end(proxy);
        assert_eq!(hits(), [1, 2, 1, 1 + restart], "asked again after restart {restart}");
        assert!(!log.contains("WARN"), "somebody was told already: {log}");
    }
}

#[test]
fn it_follows_a_backend_to_another_place_and_name_but_not_to_another_key() {
    let dir = TempDir::new();
    let path = dir.path().join("state.json");
    let upstream = Upstream::healthy("Hello");
    let other = Upstream::healthy("other");
    let backend = |name: &str| limited(&upstream, "rpd: 1").provider("mine").model("m").name(name);
    let config = |backends: [Backend; 2]| {
        let config = backends.into_iter().fold(Config::new(), Config::backend);
        keeping(config, &path).top("max_wait: 0")
    };
    let proxy = config([backend("alpha"), Backend::from(&other).priority(9)]).start();
    proxy.chat(HELLO).check_answer("Hello").unwrap();
    end(proxy);
    let yaml = config([Backend::from(&other).name("first").priority(9), backend("renamed")]).yaml();
    let key = "sk-secret-renamed";
    let proxy = Proxy::start(&yaml.replace(key, "sk-secret-alpha"));
    proxy.chat(HELLO).check_answer("other").unwrap();
    end(proxy);
    let proxy = Proxy::start(&yaml);
    proxy.chat(HELLO).check_answer("Hello").unwrap();
    assert_eq!(upstream.hits(), 2);
}

#[test]
fn the_file_tells_nobody_about_keys_or_addresses() {
    let dir = TempDir::new();
    let path = dir.path().join("state.json");
    let bad = Upstream::answering(|r| {
        let key = r.header("authorization").unwrap_or_default().to_owned();
        status(401).error(&format!("{key} is not known at https://inner.example/v1, user alice"))
    });
    let limited = Upstream::replies([status(429).header("retry-after", "3600").error("org_alice is slow")]);
    let good = Upstream::healthy("Hello");
    let config =
        Config::new().backend(&bad).backend(&limited).backend(Backend::from(&good).line("account: alice"));
    let proxy = keeping(config, &path).start();
    proxy.chat(&HELLO.replace("hi", "a private question")).check_answer("Hello").unwrap();
    end(proxy);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("\"version\":1") && text.ends_with("}\n"), "{text}");
    for inner in [KEY_MARK, "127.0.0.1", "http", "inner", "alice", "alpha", "provider", "model", "private"] {
        assert!(!text.contains(inner), "{inner} in {text}");
    }
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["state.json"], "something is left over");
}

#[test]
fn systemds_directory_is_used_unless_the_config_names_a_file() {
    let upstream = Upstream::healthy("Hello");
    let (system, own) = (TempDir::new(), TempDir::new());
    let first = system.path().display().to_string();
    for (configured, directories, expected) in [
        (None, first.clone(), Some(system.path().join("state.json"))),
        (None, format!("{first}:/nonexistent"), Some(system.path().join("state.json"))),
        (Some(own.path().join("mine")), first.clone(), Some(own.path().join("mine"))),
        (None, String::new(), None),
    ] {
        let config = Config::new().backend(limited(&upstream, "rpd: 1")).top("max_wait: 0");
        let config = config.env("STATE_DIRECTORY", directories.clone());
        let config = configured.iter().fold(config, |config, path| keeping(config, path));
        for run in 0..2 {
            let proxy = config.clone().start();
            let expected = if run == 0 || expected.is_none() { 200 } else { 503 };
            assert_eq!(proxy.chat(HELLO).status(), expected, "run {run} with {configured:?} {directories:?}");
            end(proxy);
        }
        for dir in [&system, &own] {
            for entry in fs::read_dir(dir.path()).unwrap() {
                let path = entry.unwrap().path();
                assert_eq!(Some(&path), expected.as_ref(), "with {configured:?} {directories:?}");
                fs::remove_file(path).unwrap();
            }
        }
    }
}

/// What a file may hold that this program has not written.
fn damaged() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let future = json!({"version": 2, "something": "else"}).to_string();
    vec![
        ("empty", Vec::new(), "damaged"),
        ("cut", br#"{"version":1,"saved":17954000"#.to_vec(), "damaged"),
        ("other JSON", b"[1,2,3]".to_vec(), "damaged"),
        ("no version", b"{}".to_vec(), "damaged"),
        ("a version that is no number", br#"{"version":"1"}"#.to_vec(), "damaged"),
        ("nothing but a version", br#"{"version":1}"#.to_vec(), "damaged"),
        ("bytes of zero", vec![0; 4096], "damaged"),
        ("not UTF-8", b"{\"version\":1,\"x\":\"\xff\"}".to_vec(), "UTF-8"),
        ("deep", b"[".repeat(100_000), "damaged"),
        ("large", vec![b' '; 8 * 1024 * 1024 + 1], "too large"),
        ("of the future", future.into_bytes(), "version 2"),
        ("negative", br#"{"version":-1}"#.to_vec(), "damaged"),
    ]
}

#[test]
fn a_file_that_cannot_be_understood_is_set_aside_and_named() {
    every(damaged().into_iter().map(|(name, bytes, why)| (name, (bytes, why))), |(bytes, why)| {
        let dir = TempDir::new();
        let path = dir.path().join("state.json");
        let aside = dir.path().join("state.json.bad");
        fs::write(&path, &bytes).unwrap();
        let upstream = Upstream::healthy("Hello");
        let config = keeping(Config::new().backend(limited(&upstream, "rpd: 1")), &path).top("max_wait: 0");
        let proxy = config.clone().start();
        proxy.chat(HELLO).check_answer("Hello")?;
        let log = end(proxy);
        let warnings: Vec<&str> = log.lines().filter(|line| line.contains("WARN")).collect();
        let named = |line: &str| {
            [&path, &aside].iter().all(|path| line.contains(&*path.display().to_string()))
                && line.contains(why)
        };
        expect(warnings.len() == 1 && named(warnings[0]), || format!("{warnings:?}"))?;
        expect(warnings[0].len() < 400, || format!("a long line: {}", warnings[0]))?;
        expect(fs::read(&aside).ok().as_ref() == Some(&bytes), || "it is not what it was".into())?;
        let proxy = config.start();
        expect(proxy.chat(HELLO).status() == 503, || "the new file was not used".into())?;
        let log = end(proxy);
        expect(!log.contains("WARN"), || log)
    });
}

/// Facts that make no sense are as good as none; the rest of the file counts.
#[test]
fn nonsense_inside_a_file_harms_nobody() {
    let dir = TempDir::new();
    let path = dir.path().join("state.json");
    let told = Upstream::replies([status(429).header("retry-after", "3600").error("slow down")]);
    let counted = Upstream::healthy("counted");
    let config =
        || keeping(Config::new().backend(&told).backend(limited(&counted, "rpm: 100, rpd: 100")), &path);
    let proxy = config().start();
    proxy.chat(HELLO).check_answer("counted").unwrap();
    end(proxy);
    let good = read(&path);
    let (most, least) = (i64::MAX, i64::MIN);
    let nonsense = [
        ("until", json!({"until": most, "since": least, "class": "rate_limited"})),
        ("until", json!({"until": least, "since": most, "class": "down"})),
        ("class", json!({"until": 4_000_000_000_000_i64, "since": 0, "class": "no such class"})),
    ];
    for (name, end_of) in nonsense {
        let mut file = good.clone();
        for place in file["places"].as_array_mut().unwrap() {
            place["told"] = end_of.clone();
            place["guessed"] = end_of.clone();
            place["minute"] = json!([[most, u64::MAX, u64::MAX], [least, u64::MAX, u64::MAX], [0, 1, 1]]);
            place["day"] = place["minute"].clone();
            place["today"] = json!([least, most, u64::MAX, u64::MAX]);
            place["steps"] = json!([[u32::MAX, most], [1, least], [2, null], [3, 0], [4, 0], [5, 0]]);
            place["warned"] = json!("nothing");
            place["facts"] = json!([
                {"unit": "requests", "span": "day", "remaining": u64::MAX, "ends": most},
                {"unit": "apples", "span": "century", "limit": 0, "remaining": 0, "ends": least},
            ]);
        }
        fs::write(&path, file.to_string()).unwrap();
        let proxy = config().start();
        let response = proxy.chat(HELLO);
        assert_eq!(response.status(), 200, "{name}: {}", response.text());
        end(proxy);
        read(&path);
    }
}

/// Moves all times of a file into the past.
fn age(value: &mut Value, by: i64) {
    match value {
        Value::Number(number) => {
            if let Some(ms) = number.as_i64().filter(|n| (1_000_000_000_000..i64::MAX / 2).contains(n)) {
                *value = (ms - by).into();
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| age(value, by)),
        Value::Object(members) => {
            members.iter_mut().filter(|(key, _)| *key != "id").for_each(|(_, value)| age(value, by))
        }
        _ => {}
    }
}

/// The minute goes on while the program does not run; what is left of it is waited out.
#[test]
fn time_passes_for_what_was_counted_too() {
    let dir = TempDir::new();
    let path = dir.path().join("state.json");
    let upstream = Upstream::healthy("Hello");
    let config = || keeping(Config::new().backend(limited(&upstream, "rpm: 1")), &path).top("max_wait: 5");
    let proxy = config().start();
    proxy.chat(HELLO).check_answer("Hello").unwrap();
    end(proxy);
    let mut file = read(&path);
    age(&mut file, 58_000);
    fs::write(&path, file.to_string()).unwrap();
    let proxy = config().start();
    let asked = Instant::now();
    for surface in [Surface::Chat, Surface::Messages] {
        let response = proxy.post(surface.path(), &surface.hello("aifree", false));
        let expected = if surface == Surface::Chat { 200 } else { 529 };
        assert_eq!(response.status(), expected, "{}", response.text());
    }
    let waited = asked.elapsed();
    assert!(waited > Duration::from_millis(200) && waited < Duration::from_secs(5), "waited {waited:?}");
    assert_eq!(upstream.hits(), 2);
    end(proxy);
    // And a file that is two days old holds nobody back.
    let mut file = read(&path);
    age(&mut file, 48 * 3600 * 1000);
    fs::write(&path, file.to_string()).unwrap();
    config().start().chat(HELLO).check_answer("Hello").unwrap();
}

#[test]
fn where_nothing_can_be_written_is_said_once_and_hurts_nobody() {
    let dir = TempDir::new();
    let occupied = dir.path().join("occupied");
    fs::create_dir(&occupied).unwrap();
    let dangling = dir.path().join("dangling");
    symlink("/nonexistent/file", &dangling).unwrap();
    every(
        [
            ("no such directory", dir.path().join("none/state.json")),
            ("below a file", dir.write("file", "").join("state.json")),
            ("a directory", occupied.clone()),
            ("a device", "/dev/full/state.json".into()),
        ],
        |path| {
            let upstream = Upstream::healthy("Hello");
            let mut proxy = keeping(Config::new().backend(&upstream), &path).start();
            for _ in 0..3 {
                proxy.chat(HELLO).check_answer("Hello")?;
            }
            proxy.stop();
            let ended = proxy.exit_status();
            let log = proxy.log();
            let about = |line: &&str| line.contains(&*path.display().to_string());
            let warnings: Vec<&str> =
                log.lines().filter(|line| line.contains("WARN")).filter(about).collect();
            expect(ended.code() == Some(0) && !warnings.is_empty() && warnings.len() <= 2, || log.clone())?;
            let unwritable = warnings.iter().filter(|line| line.contains("not outlive")).count();
            expect(unwritable == 1, || format!("{warnings:?}"))
        },
    );
    // A link that leads nowhere is replaced.
    let upstream = Upstream::healthy("Hello");
    let proxy = keeping(Config::new().backend(&upstream), &dangling).start();
    proxy.chat(HELLO).check_answer("Hello").unwrap();
    end(proxy);
    read(&dangling);
}

/// Docker waits 10 s, a power cut not at all: what was known when the end began is kept.
#[test]
fn what_is_known_is_written_before_the_last_streams_end() {
    let dir = TempDir::new();
    let path = dir.path().join("state.json");
    let say = event(r#"{"content":"Hel"}"#, "null");
    let upstream = Upstream::replies([status(200).stream_head().event(&say).stall()]);
    let config = || keeping(Config::new().backend(limited(&upstream, "rpd: 1")), &path).top("max_wait: 0");
    let proxy = config().start();
    let is_written = |line: &str| line.contains("state file") && line.contains("written");
    // That of the start.
    proxy.wait_for_log(0, is_written);
    let mut stream = proxy.stream(STREAM_HELLO);
    assert_eq!(stream.next_event().and_then(|e| e.content()).as_deref(), Some("Hel"));
    let lines = proxy.log_lines();
    proxy.stop();
    proxy.wait_for_log(lines, is_written);
    // Killed.
    drop(proxy);
    assert_eq!(config().start().chat(HELLO).status(), 503);
    assert_eq!(upstream.hits(), 1);
}

#[test]
fn a_kill_leaves_the_last_file_and_whatever_it_left_half_done_is_no_hindrance() {
    let dir = TempDir::new();
    let path = dir.path().join("state.json");
    let upstream = Upstream::healthy("Hello");
    let config = || keeping(Config::new().backend(limited(&upstream, "rpd: 2")), &path).top("max_wait: 0");
    let proxy = config().start();
    proxy.chat(HELLO).check_answer("Hello").unwrap();
    end(proxy);
    let before = fs::read(&path).unwrap();
    // As if the power had gone in the middle of a write.
    dir.write("state.json.new", r#"{"version":1,"sa"#);
    let proxy = config().start();
    proxy.chat(HELLO).check_answer("Hello").unwrap();
    drop(proxy);
    assert_eq!(fs::read(&path).unwrap(), before, "nobody has had the time to write");
    let proxy = config().start();
    proxy.chat(HELLO).check_answer("Hello").unwrap();
    assert_eq!(proxy.chat(HELLO).status(), 503, "it goes on from the file");
    end(proxy);
    read(&path);
    assert!(!dir.path().join("state.json.new").exists());
}

/// It belongs to the run that writes it.
#[test]
fn a_check_of_the_config_leaves_the_file_alone() {
    let dir = TempDir::new();
    let path = dir.path().join("state.json");
    let upstream = Upstream::healthy("Hello");
    let yaml = keeping(Config::new().backend(&upstream), &path).yaml();
    let config = dir.write("config.yaml", &yaml);
    for args in [&["check"][..], &["check", "--offline"]] {
        fs::write(&path, "damaged").unwrap();
        let output = run(&dir, &[args, &["--config", config.to_str().unwrap()]].concat(), &[]);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(fs::read(&path).unwrap(), b"damaged", "{args:?}");
        fs::remove_file(&path).unwrap();
        run(&dir, &[args, &["--config", config.to_str().unwrap()]].concat(), &[]);
        assert!(!path.exists(), "{args:?}");
    }
}
