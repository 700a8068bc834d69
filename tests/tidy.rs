//! House rules that reading the files can check: who may know whom, what must not stand in the program, and that
//! every limit is used and explained.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may end itself")]

use std::fs;
use std::path::Path;

/// One source file. Its tests are the end of it, from the first `#[cfg(test)]` at the margin whose item is a module.
struct Source {
    /// Such as `src/net/tls.rs`.
    path: String,
    text: String,
    /// Line number and code: without tests and without comments.
    code: Vec<(usize, String)>,
}

impl Source {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let path = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let lines: Vec<&str> = text.lines().collect();
        let is_tests = |at: usize| {
            lines[at] == "#[cfg(test)]" && lines.get(at + 1).is_some_and(|next| next.contains("mod "))
        };
        let end = (0..lines.len()).find(|at| is_tests(*at)).unwrap_or(lines.len());
        let code = lines[..end].iter().enumerate();
        let code = code.map(|(at, line)| (at + 1, without_comment(line).to_owned())).collect();
        Self { path, text, code }
    }

    /// The part of the program it belongs to: `net` for `src/net/tls.rs`, `cli` for `src/cli.rs`.
    fn part(&self) -> &str {
        let inside = self.path.strip_prefix("src/").unwrap();
        inside.split(['/', '.']).next().unwrap()
    }

    /// The lines of code that hold one of `words`, as `path:line: code`.
    fn hits<'a>(&'a self, words: &'a [&str]) -> impl Iterator<Item = String> + 'a {
        self.code
            .iter()
            .filter(|(_, line)| words.iter().any(|word| has_word(line, word)))
            .map(|(number, line)| format!("{}:{number}: {}", self.path, line.trim()))
    }
}

/// Whether `word` is there and does not begin or end inside a longer name.
fn has_word(line: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + word.len()..]);
        let joined_before = word.starts_with(is_name) && before.ends_with(is_name);
        let joined_after = word.ends_with(is_name) && after.starts_with(is_name);
        !joined_before && !joined_after
    })
}

/// A line up to its `//`, unless that stands in a string (`"http://"`).
fn without_comment(line: &str) -> &str {
    let at = line.match_indices("//").map(|(at, _)| at);
    let is_code = |at: &usize| line[..*at].matches('"').count().is_multiple_of(2);
    at.into_iter().find(is_code).map_or(line, |at| &line[..at])
}

/// Modules that are tests as a whole: their parent declares them so.
fn is_test_module(path: &Path) -> bool {
    let name = path.file_stem().unwrap().to_str().unwrap();
    let parent = fs::read_to_string(path.with_file_name("mod.rs")).unwrap_or_default();
    parent.contains(&format!("#[cfg(test)]\nmod {name};"))
}

fn walk(dir: &Path, out: &mut Vec<Source>) {
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            walk(&path, out);
        } else if path.extension().is_some_and(|end| end == "rs") && !is_test_module(&path) {
            out.push(Source::read(&path));
        }
    }
}

/// All files of the program.
fn sources() -> Vec<Source> {
    let mut out = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut out);
    let lines: usize = out.iter().map(|source| source.code.len()).sum();
    assert!(out.len() >= 40 && lines >= 5000, "only {} files with {lines} lines", out.len());
    out
}

/// `words` stand in code under `home` and nowhere else; there they do, or the rule watches nothing.
#[track_caller]
fn only_in(words: &[&str], home: &[&str]) {
    let sources = sources();
    let at_home = |source: &Source| home.iter().any(|prefix| source.path.starts_with(prefix));
    let strays: Vec<String> =
        sources.iter().filter(|source| !at_home(source)).flat_map(|source| source.hits(words)).collect();
    assert!(strays.is_empty(), "{words:?} outside {home:?}:\n{}", strays.join("\n"));
    for prefix in home {
        let found = sources.iter().filter(|source| source.path.starts_with(prefix));
        assert!(found.flat_map(|source| source.hits(words)).next().is_some(), "no {words:?} in {prefix}");
    }
}

/// `words` stand nowhere in code under `parts`.
#[track_caller]
fn none_in(words: &[&str], parts: &[&str]) {
    let sources = sources();
    for part in parts {
        let files: Vec<&Source> = sources.iter().filter(|source| source.part() == *part).collect();
        assert!(!files.is_empty(), "there is no {part}");
        let hits: Vec<String> = files.iter().flat_map(|source| source.hits(words)).collect();
        assert!(hits.is_empty(), "{words:?} in {part}:\n{}", hits.join("\n"));
    }
}

#[test]
fn only_the_shell_waits() {
    only_in(
        &["async", ".await"],
        &["src/net/", "src/respond.rs", "src/server/", "src/proxy/", "src/main.rs", "src/check.rs"],
    );
}

#[test]
fn crates_are_named_in_one_place() {
    only_in(&["rustls"], &["src/net/tls.rs"]);
    only_in(&["webpki_roots"], &["src/net/tls.rs"]);
    only_in(&["serde_yaml"], &["src/config/"]);
}

#[test]
fn the_cores_have_neither_clock_nor_dice_nor_sockets() {
    let pure = ["config", "dialect", "http", "provider", "route"];
    none_in(&["Instant::now", "SystemTime::now", ".elapsed()", "fastrand"], &pure[..4]);
    // The walk is handed a generator; its type has to be named.
    let sources = sources();
    let dice = sources.iter().filter(|source| source.part() == "route");
    let dice = dice.flat_map(|source| source.hits(&["fastrand", "Rng::", "Instant::now", "SystemTime::now"]));
    let dice: Vec<String> = dice.filter(|hit| !hit.ends_with(" use fastrand::Rng;")).collect();
    assert!(dice.is_empty(), "{}", dice.join("\n"));
    none_in(&["std::net::Tcp", "std::fs", "File::", "std::env::var", "async_io", "async_net", "smol"], &pure);
}

/// `main → server → proxy → {dialect, route, provider, net, http}`; every part may know `limits`, `secret` and `url`.
/// Server and proxy both write through `respond`.
#[test]
fn parts_know_only_what_is_below_them() {
    let table: [(&str, &[&str]); 21] = [
        ("limits", &[]),
        ("secret", &[]),
        ("stderr", &[]),
        ("date", &[]),
        ("respond", &["date", "dialect", "http", "net"]),
        ("url", &[]),
        ("cli", &["dialect"]),
        ("health", &["config"]),
        ("notify", &[]),
        ("renew", &[]),
        ("http", &[]),
        ("dialect", &["provider"]),
        ("provider", &[]),
        ("net", &["http"]),
        ("route", &["provider"]),
        ("config", &["provider"]),
        ("state_file", &["route"]),
        ("proxy", &["config", "date", "dialect", "http", "net", "provider", "respond", "route"]),
        ("server", &["config", "dialect", "http", "net", "provider", "proxy", "respond", "route"]),
        ("explain", &["config", "dialect", "proxy", "route"]),
        ("check", &["config", "dialect", "http", "net", "provider", "proxy", "route"]),
    ];
    let sources = sources();
    let mut uses = 0;
    for source in &sources {
        let part = source.part();
        let Some((_, allowed)) = table.iter().find(|(name, _)| *name == part) else {
            assert!(matches!(part, "main" | "lib"), "{part} has no line in the table");
            continue;
        };
        for (number, line) in &source.code {
            for (_, after) in line.match_indices("crate::").map(|(at, word)| (at, &line[at + word.len()..])) {
                let name = after.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
                let place = format!("{}:{number}: {}", source.path, line.trim());
                assert!(!name.is_empty(), "one path for each `use`, so that it can be found: {place}");
                let known =
                    name == part || matches!(name, "limits" | "secret" | "url") || allowed.contains(&name);
                assert!(known, "{part} must not know {name}: {place}");
                uses += 1;
            }
        }
    }
    assert!(uses >= 100, "only {uses} paths were looked at");
}

#[test]
fn nothing_ends_the_program_by_surprise() {
    let words = [".unwrap()", ".expect(", "panic!", "todo!", "unimplemented!", "unreachable!", "dbg!"];
    let hits: Vec<String> =
        sources().iter().flat_map(|source| source.hits(&words).collect::<Vec<_>>()).collect();
    assert!(hits.is_empty(), "{}", hits.join("\n"));
    // `.unwrap_or` and its kin are not meant; tests are full of what is.
    let in_tests = sources().iter().filter(|source| source.text.contains(".unwrap()")).count();
    assert!(in_tests >= 10, "only {in_tests}");
}

#[test]
fn files_say_what_they_are_and_stay_short() {
    const LINES_MAX: usize = 600;
    for source in sources() {
        let (path, lines) = (&source.path, source.code.len());
        assert!(source.text.starts_with("//! "), "{path} does not open with `//! `");
        assert!(lines <= LINES_MAX, "{path} has {lines} lines before its tests");
        assert!(
            source.text.ends_with('\n') && !source.text.contains('\t'),
            "{path}: a tab, or no last line end"
        );
        let open =
            source.text.lines().position(|line| ["TODO", "FIXME", "XXX"].iter().any(|w| line.contains(w)));
        assert_eq!(open, None, "{path}: a note to somebody");
    }
}

#[test]
fn every_limit_has_a_reason_and_a_use() {
    let sources = sources();
    let limits = sources.iter().find(|source| source.path == "src/limits.rs").unwrap();
    let lines: Vec<&str> = limits.text.lines().collect();
    let mut names = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(name) = line.strip_prefix("pub const ").and_then(|rest| rest.split(':').next()) else {
            continue;
        };
        assert!(at > 0 && lines[at - 1].starts_with("/// "), "{name} has no reason above it");
        names.push(name);
    }
    assert!(names.len() >= 50, "only {} limits", names.len());
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for name in names {
        let uses = |source: &&Source| {
            source.code.iter().any(|(_, line)| line.split(|c| !is_word(c)).any(|word| word == name))
        };
        let used = sources.iter().filter(|source| source.path != limits.path).any(|source| uses(&source));
        // A limit may be the measure of another.
        let measures =
            limits.code.iter().any(|(_, line)| line.contains("= ") && line.ends_with(&format!("{name};")));
        assert!(used || measures, "{name} limits nothing");
    }
}

/// The keys are the first strings of the pairs in `config/raw.rs`, where the shape of the file stands.
#[test]
fn the_example_shows_every_key() {
    let sources = sources();
    let raw = sources.iter().find(|source| source.path == "src/config/raw.rs").unwrap();
    let code: String = raw.code.iter().map(|(_, line)| format!("{line}\n")).collect();
    let keys: Vec<&str> = code
        .match_indices("(\"")
        .filter_map(|(at, open)| code[at + open.len()..].split_once("\", "))
        .filter(|(key, after)| {
            let shape = ["Shape::", "SERVER", "LIMITS", "QUIRKS", "GROUP"];
            !key.contains('"') && shape.iter().any(|shape| after.starts_with(shape))
        })
        .map(|(key, _)| key)
        .collect();
    assert!(keys.len() >= 45, "only {} keys: {keys:?}", keys.len());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.yaml.example");
    let example = fs::read_to_string(path).unwrap();
    for key in keys {
        let shown = example.lines().any(|line| {
            let line = line.trim_start_matches([' ', '#', '-', '{']);
            line.strip_prefix(key).is_some_and(|rest| rest.starts_with(':'))
                || line
                    .split('`')
                    .any(|word| word.strip_prefix(key).is_some_and(|rest| rest.starts_with(": ")))
        });
        assert!(shown, "config.yaml.example does not show `{key}`");
    }
}
