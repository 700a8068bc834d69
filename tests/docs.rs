//! The documentation against the program: what stands in one has to be in the other. `make docs-check` runs this alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may end itself")]

use ai_free_swap::cli::{self, HELP};
use ai_free_swap::config;
use ai_free_swap::server::routes::Route;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

type Words = BTreeSet<String>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// A page in Markdown.
struct Page {
    /// From the root of the project.
    path: String,
    text: String,
}

/// A fenced block.
struct Block {
    /// `docs/api.md:17`
    place: String,
    language: String,
    text: String,
}

/// Every page for users.
fn pages() -> Vec<Page> {
    let mut paths: Vec<String> = fs::read_dir(root().join("docs"))
        .unwrap()
        .map(|entry| format!("docs/{}", entry.unwrap().file_name().to_str().unwrap()))
        .chain(fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()))
        .filter(|path| path.ends_with(".md"))
        .collect();
    paths.sort();
    assert!(paths.len() >= 8, "only {paths:?}");
    paths.into_iter().map(|path| Page { text: read(&path), path }).collect()
}

impl Page {
    /// Number and text of the lines outside of fenced blocks, and the blocks.
    fn split(&self) -> (Vec<(usize, &str)>, Vec<Block>) {
        let (mut prose, mut blocks, mut open) = (Vec::new(), Vec::<Block>::new(), false);
        for (at, line) in self.text.lines().enumerate() {
            match (line.trim_start().strip_prefix("```"), open) {
                (Some(language), false) => {
                    open = true;
                    let (place, language) = (format!("{}:{}", self.path, at + 1), language.trim().to_owned());
                    blocks.push(Block { place, language, text: String::new() });
                }
                (Some(_), true) => open = false,
                (None, true) => {
                    let block = blocks.last_mut().unwrap();
                    block.text.push_str(line);
                    block.text.push('\n');
                }
                (None, false) => prose.push((at + 1, line)),
            }
        }
        assert!(!open, "{}: a block is not closed", self.path);
        (prose, blocks)
    }

    /// What stands between backticks on one line of prose, and the lines of shell blocks; each with its place.
    fn code(&self) -> Vec<(String, String)> {
        let (prose, blocks) = self.split();
        let spans = prose.iter().flat_map(|(number, line)| {
            let spans = line.split('`').skip(1).step_by(2);
            spans.map(move |span| (format!("{}:{number}", self.path), span.to_owned()))
        });
        let shell = blocks.iter().filter(|block| block.language == "sh");
        let lines = shell.flat_map(|block| {
            let joined = block.text.replace("\\\n", " ");
            joined.lines().map(|line| (block.place.clone(), line.to_owned())).collect::<Vec<_>>()
        });
        spans.chain(lines).collect()
    }

    /// The first cells of the rows of the first table under the heading.
    fn rows(&self, heading: &str) -> Vec<Vec<&str>> {
        let mut lines = self.text.lines().skip_while(|line| *line != heading);
        assert!(lines.next().is_some(), "{} has no heading `{heading}`", self.path);
        let table = lines.take_while(|line| !line.starts_with('#')).skip_while(|line| !line.starts_with('|'));
        let rows = table.take_while(|line| line.starts_with('|')).skip(2);
        rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
    }
}

fn page(path: &str) -> Page {
    Page { path: path.to_owned(), text: read(path) }
}

fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> Words {
    words.into_iter().map(str::to_owned).collect()
}

/// What stands in backticks.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The keys of one map in `config/raw.rs`, where the shape of the file stands.
fn schema(name: &str) -> Words {
    let raw = read("src/config/raw.rs");
    let (_, after) = raw.split_once(&format!("{name}: Shape = Shape::Map(&[")).expect(name);
    let (map, _) = after.split_once("]);\n").expect(name);
    let keys = map.match_indices("(\"").map(|(at, open)| &map[at + open.len()..]);
    let keys: Words = keys.map(|rest| rest.split_once('"').unwrap().0.to_owned()).collect();
    assert!(!keys.is_empty(), "{name}");
    keys
}

#[test]
fn keys_of_the_config_and_docs_config_are_the_same() {
    let page = page("docs/config.md");
    let table = |heading: &str| -> Words {
        page.rows(heading).iter().flat_map(|row| spans(row[0])).map(str::to_owned).collect()
    };
    assert_eq!(table("## Top level"), schema("ROOT"));
    assert_eq!(table("## `server`"), schema("SERVER"));
    assert_eq!(table("## `providers`"), schema("GROUP"));
    assert_eq!(table("### `quirks`"), schema("QUIRKS"));
    let mut backend = schema("BACKEND");
    assert!(backend.remove("extra"));
    for key in ["timeout", "default_max_tokens"] {
        assert!(backend.remove(key), "extra.{key}");
        backend.insert(format!("extra.{key}"));
    }
    assert_eq!(table("## A backend"), backend);
    let rows = page.rows("## A backend");
    let limits = rows.iter().find(|row| row[0] == "`limits`").unwrap();
    assert_eq!(words(spans(limits[2])), schema("LIMITS"));
}

/// Stands for every variable that a config may name.
fn any_env(name: &str) -> Option<String> {
    Some(if name == "PORT" { "8000" } else { "value" }.to_owned())
}

/// `text` has to be a config, or a piece of one without backends.
#[track_caller]
fn check_loads(text: &str, place: &str) {
    const BACKEND: &str = "providers: [{priority: 1, backends: [{provider: demo, model: demo}]}]\n";
    let whole = text.lines().any(|line| line.starts_with("providers:"));
    let text = if whole { text.to_owned() } else { format!("{text}{BACKEND}") };
    match config::load(&text, place, &any_env) {
        Ok(config) => assert!(config.warnings.is_empty(), "{place}: {:?}", config.warnings),
        Err(e) => panic!("{place}: {e}"),
    }
}

#[test]
fn configs_load() {
    let top = schema("ROOT");
    let mut found = 0;
    for page in pages() {
        for block in page.split().1.iter().filter(|block| block.language == "yaml") {
            let keys = block.text.lines().filter_map(|line| line.split_once(':')).map(|(key, _)| key);
            if keys.filter(|key| top.contains(*key)).count() > 0 {
                check_loads(&block.text, &block.place);
                found += 1;
            } else {
                let parsed: Result<serde_yaml::Value, _> = serde_yaml::from_str(&block.text);
                assert!(parsed.is_ok(), "{}: {parsed:?}", block.place);
            }
        }
    }
    assert!(found >= 4, "only {found}");
    for path in ["config.yaml.example", "deploy/config.yaml.cloud"] {
        check_loads(&read(path), path);
    }
}

/// That every key is there is tested in `tidy.rs`.
#[test]
fn keys_in_comments_of_the_example_exist() {
    let names: Words = ["ROOT", "SERVER", "GROUP", "BACKEND", "LIMITS", "QUIRKS", "ANTHROPIC"]
        .into_iter()
        .flat_map(schema)
        .collect();
    let example = read("config.yaml.example");
    let commented = example.lines().filter_map(|line| line.trim_start().strip_prefix('#'));
    let keys = commented.filter_map(|line| line.trim_start_matches([' ', '#', '-']).split_once(": "));
    let keys: Vec<&str> = keys
        .map(|(key, _)| key)
        .filter(|key| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
        .collect();
    assert!(keys.len() >= 15, "{keys:?}");
    for key in keys {
        assert!(names.contains(key), "config.yaml.example: `{key}` is no key");
    }
}

#[test]
fn json_parses() {
    let mut found = 0;
    for page in pages() {
        for block in page.split().1.iter().filter(|block| block.language == "json") {
            for value in serde_json::Deserializer::from_str(&block.text).into_iter::<serde_json::Value>() {
                assert!(value.is_ok(), "{}: {value:?}", block.place);
                found += 1;
            }
        }
    }
    assert!(found >= 4, "only {found}");
}

/// `--flag` and `-f`, wherever they stand.
fn flags(text: &str) -> Words {
    let is_end = |c: char| !(c.is_ascii_alphanumeric() || c == '-');
    let is_flag = |word: &&str| {
        let name = word.trim_start_matches('-');
        word.starts_with('-') && name.starts_with(|c: char| c.is_ascii_alphabetic())
    };
    text.split(is_end).filter(is_flag).map(str::to_owned).collect()
}

/// The commands that the help names.
fn commands() -> Words {
    let (_, list) = HELP.split_once("Commands:\n").unwrap();
    let (list, _) = list.split_once("\n\n").unwrap();
    list.lines().map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

#[test]
fn the_help_the_parser_and_the_manual_page_know_the_same() {
    let source = read("src/cli.rs");
    let (parser, _) = source.split_once("#[cfg(test)]").unwrap();
    let (_, parser) = parser.split_once("pub fn parse").unwrap();
    let literals: Words = parser.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    let parsed: Words = literals.iter().filter(|word| flags(word).contains(*word)).cloned().collect();
    // A piece of `--help PATH`, and where a combined `-cPATH` is cut.
    assert_eq!(flags(HELP), parsed, "flags of the help, and of the parser");
    let (_, arms) = parser.split_once("match flag").unwrap();
    let arms =
        arms.lines().filter(|line| line.contains("Some(Command::") && line.contains("if command.is_none()"));
    let parsed: Words = arms.map(|line| line.split('"').nth(1).unwrap().to_owned()).collect();
    assert_eq!(commands(), parsed, "commands of the help, and of the parser");

    let manual = read("docs/ai-free-swap.1").replace("\\-", "-").replace("\\fI", " ");
    assert_eq!(
        flags(HELP),
        flags(&manual.replace("ai-free-swap", "")),
        "flags of the help, and of the manual page"
    );
    let (_, list) = manual.split_once(".SH COMMANDS\n").unwrap();
    let (list, _) = list.split_once(".SH ").unwrap();
    let listed = list.match_indices(".TP\n.B ").map(|(at, head)| &list[at + head.len()..]);
    assert_eq!(commands(), listed.map(|rest| rest.lines().next().unwrap().to_owned()).collect::<Words>());
}

#[test]
fn command_lines_in_the_documentation_are_understood() {
    let (mut seen, mut found) = (Words::new(), 0);
    for page in pages() {
        for (place, code) in page.code() {
            let line = code.split(" # ").next().unwrap();
            for line in line.split(['|', ';', '&', '>', '(', ')']) {
                let mut words = line
                    .split_whitespace()
                    .skip_while(|word| word.contains('=') || ["sudo", "nohup"].contains(word));
                let named = |word: &str| word == "ai-free-swap" || word.ends_with("bin/ai-free-swap");
                if !words.next().is_some_and(named) {
                    continue;
                }
                let args: Vec<&str> = words.collect();
                let parsed = cli::parse(args.iter().map(OsString::from));
                assert!(parsed.is_ok(), "{place}: `{}`: {parsed:?}", code.trim());
                found += 1;
                seen.extend(flags(&args.join(" ")));
                seen.extend(args.first().map(|word| (*word).to_owned()));
            }
            seen.extend(flags(&code));
        }
    }
    assert!(found >= 8, "only {found}");
    for flag in flags(HELP).iter().filter(|flag| flag.starts_with("--")) {
        assert!(seen.contains(flag), "no page mentions {flag}");
    }
    for command in commands().iter().filter(|command| *command != "serve") {
        assert!(seen.contains(command), "no page shows `ai-free-swap {command}`");
    }
}

#[test]
fn targets_of_make_exist() {
    let makefile = read("Makefile");
    let phony = makefile.lines().find_map(|line| line.strip_prefix(".PHONY: ")).unwrap();
    let targets = words(phony.split_whitespace());
    let mut found = 0;
    for page in pages() {
        for (place, code) in page.code() {
            let mut words = code.split_whitespace().skip_while(|word| *word != "make").skip(1);
            if let Some(target) = words.find(|word| !word.contains('='))
                && code.trim_start().starts_with("make ")
            {
                assert!(targets.contains(target), "{place}: there is no `make {target}`");
                found += 1;
            }
        }
    }
    assert!(found >= 4, "only {found}");
}

/// The name that GitHub gives to a heading.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut found = 0;
    for page in pages() {
        let prose: String = page.split().0.iter().map(|(_, line)| format!("{line}\n")).collect();
        for (at, open) in prose.match_indices("](") {
            let target = prose[at + open.len()..].split(')').next().unwrap();
            if target.starts_with("http://") || target.starts_with("https://") {
                continue;
            }
            found += 1;
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let path: PathBuf = match file {
                "" => root().join(&page.path),
                file => root().join(&page.path).with_file_name("").join(file),
            };
            assert!(path.exists(), "{}: {target} is not there", page.path);
            if !heading.is_empty() {
                let text = fs::read_to_string(&path).unwrap();
                let target_page = Page { path: target.to_owned(), text };
                let headings: Vec<String> = target_page
                    .split()
                    .0
                    .iter()
                    .filter(|(_, l)| l.starts_with('#'))
                    .map(|(_, l)| anchor(l))
                    .collect();
                assert!(headings.iter().any(|h| h == heading), "{}: no heading for {target}", page.path);
            }
        }
    }
    assert!(found >= 20, "only {found}");
}

#[test]
fn endpoints_of_docs_api_and_of_the_router_are_the_same() {
    let api = page("docs/api.md");
    let mut documented = Words::new();
    for row in api.rows("## Paths") {
        // Such as "`GET`, `HEAD /v1/models`": methods, and a path with or without one.
        let parts: Vec<&str> = spans(row[0]).collect();
        let paths: Vec<&str> =
            parts.iter().filter_map(|part| part.split(' ').find(|w| w.starts_with('/'))).collect();
        let methods =
            parts.iter().map(|part| part.split(' ').next().unwrap()).filter(|w| !w.starts_with('/'));
        let methods: Words = words(methods.filter(|word| word.bytes().all(|b| b.is_ascii_uppercase())));
        for path in paths.iter().filter(|_| !methods.is_empty()) {
            let route = Route::of(path);
            assert_ne!(route, Route::Unknown, "docs/api.md: nothing serves {path}");
            let allowed: Words = words(route.allow().iter().map(|method| method.as_str()));
            assert_eq!(methods, allowed, "docs/api.md: methods of {path}");
            documented.insert((*path).to_owned());
        }
    }
    let source = read("src/server/routes.rs");
    let (_, routes) = source.split_once("pub fn of(").unwrap();
    let (routes, _) = routes.split_once("pub fn allow").unwrap();
    let served: Words = routes.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    let served: Vec<&String> = served.iter().filter(|path| path.len() > 1 && *path != "/v1").collect();
    assert!(served.len() >= 8, "{served:?}");
    for path in served {
        let path = if path.ends_with('/') { format!("{path}ID") } else { path.clone() };
        let shown = documented.contains(&path) || documented.contains(&format!("/v1{path}"));
        assert!(shown, "docs/api.md does not show {path}");
    }
}

#[test]
fn urls_of_this_program_in_the_documentation_are_served() {
    let mut found = 0;
    for page in pages() {
        for (at, start) in page.text.match_indices("http://localhost:8000") {
            let rest = &page.text[at + start.len()..];
            let is_end = |c: char| c.is_whitespace() || "\"'`<>|),;".contains(c);
            let path = rest.split(is_end).next().unwrap().trim_end_matches(['.', ':']);
            assert_ne!(Route::of(path), Route::Unknown, "{}: nothing serves {path}", page.path);
            found += 1;
        }
    }
    assert!(found >= 10, "only {found}");
}
