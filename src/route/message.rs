//! Error bodies as text: everything they say for the classifier, one short masked sentence for people.
//!
//! Any bytes are a body. Knows the shapes of errors, not what they mean.

use std::borrow::Cow;

use serde_json::Value;

use crate::limits::ERROR_BODY_BYTES_MAX;
use crate::secret::Secret;

/// Characters of a message kept for logs and clients.
const MESSAGE_CHARS_MAX: usize = 300;
/// JSON inside strings inside JSON: gateways wrap once, rarely twice.
const WRAPPED_DEPTH_MAX: usize = 4;
/// All text of one body, wrapped JSON counted again.
const TEXT_BYTES_MAX: usize = 256 * 1024;
/// Shorter values are placeholders (`x`, `-`), and to mask them would make every message unreadable.
const SECRET_BYTES_MIN: usize = 4;
/// What every masked secret becomes.
const MASK: &str = "***";

/// An error body, read as far as it can be.
pub enum Body {
    /// JSON, possibly out of an SSE `data:` line.
    Json(Value),
    /// A page of some server in between: its words are not the provider's. The title is kept.
    Page(String),
    /// Anything else, empty included.
    Text(String),
}

impl Body {
    /// Never fails: what is no JSON is text, and what is no UTF-8 is replaced. Of an answer that turned out to be an
    /// error, as much is read as of an error body: a tree takes thirty times the memory of its text.
    pub fn read(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes.get(..ERROR_BODY_BYTES_MAX).unwrap_or(bytes));
        let text = text.trim_start_matches('\u{feff}').trim();
        if text.starts_with('<') {
            return Self::Page(title(text));
        }
        let event = || text.lines().find_map(|line| serde_json::from_str(line.strip_prefix("data:")?).ok());
        // serde_json refuses nesting beyond 128, so that nothing below recurses deeper than that.
        match serde_json::from_str(text).ok().or_else(event) {
            Some(json) => Self::Json(json),
            None if bytes.len() >= ERROR_BODY_BYTES_MAX => Self::Text(without_last_word(text).to_owned()),
            None => Self::Text(text.to_owned()),
        }
    }

    /// The JSON, if it is some.
    pub fn json(&self) -> Option<&Value> {
        match self {
            Self::Json(json) => Some(json),
            _ => None,
        }
    }

    /// All strings and numbers, those of JSON inside strings too, in ASCII lower case.
    pub fn text(&self) -> String {
        let mut text = String::new();
        match self {
            Self::Json(json) => gather(json, WRAPPED_DEPTH_MAX, &mut text),
            Self::Text(plain) => text.push_str(plain),
            Self::Page(_) => {}
        }
        text.make_ascii_lowercase();
        text
    }

    /// The values of code-like keys, lower-cased.
    pub fn codes(&self) -> Vec<String> {
        let mut codes = Vec::new();
        if let Self::Json(json) = self {
            gather_codes(json, &mut codes);
        }
        codes
    }

    /// The provider's own words in ASCII lower case, without what else the body repeats (the request, say).
    pub fn sentence(&self) -> String {
        let mut sentence = match self {
            Self::Json(json) => said(json, 8).unwrap_or_default(),
            Self::Text(text) => text.clone(),
            Self::Page(_) => String::new(),
        };
        sentence.make_ascii_lowercase();
        sentence
    }

    /// The provider's own words, short, on one line, without secrets (see [`mask`]). May be empty.
    pub fn message(&self, secrets: &[Secret]) -> String {
        match self {
            Self::Json(json) => short(&said(json, 8).unwrap_or_default(), secrets),
            Self::Page(title) => short(title, secrets),
            Self::Text(text) => short(text.lines().next().unwrap_or_default(), secrets),
        }
    }
}

/// The text without the word at its end, which may have been cut: half a key does not look like one. A text of one word
/// stays, as its end is never shown.
fn without_last_word(text: &str) -> &str {
    let end = text.rfind(|c: char| c.is_whitespace() || c.is_control());
    end.and_then(|end| text.get(..end)).unwrap_or(text)
}

/// One line of at most 300 characters, control characters removed and secrets masked.
pub fn short(text: &str, secrets: &[Secret]) -> String {
    // Masked before it is cut: half a key would no longer look like one.
    let masked = mask(text, secrets);
    let mut line = String::new();
    for word in masked.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if let Some((cut, _)) = line.char_indices().nth(MESSAGE_CHARS_MAX) {
        line.truncate(cut);
        line.push('…');
    }
    line
}

/// Replaces the known `secrets` (longest first) by `***`, and then whatever looks like one: known prefixes, long
/// random runs, `Bearer x`, `key=x` and `user:password@` in URLs. Errs on the side of masking.
pub fn mask(text: &str, secrets: &[Secret]) -> String {
    let mut text = Cow::Borrowed(text);
    // The known ones first: a pattern may match one half of a key (`id.secret`) and leave the other.
    for secret in secrets.iter().map(Secret::expose).filter(|secret| secret.len() >= SECRET_BYTES_MIN) {
        if text.contains(secret) {
            text = text.replace(secret, MASK).into();
        }
    }
    mask_lookalikes(&text)
}

fn mask_lookalikes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        // Runs are ASCII, so both cuts are on character boundaries.
        let (run, after) = rest.split_at(rest.bytes().take_while(|b| is_run(*b)).count());
        if run.is_empty() {
            if let Some(url) = rest.strip_prefix("://") {
                out.push_str("://");
                let authority = url.find(|c: char| "/?#\"'<>".contains(c) || c.is_whitespace());
                let at = url.get(..authority.unwrap_or(url.len())).and_then(|host| host.rfind('@'));
                rest = at.and_then(|at| url.get(at..)).unwrap_or(url);
                if at.is_some() {
                    out.push_str(MASK);
                }
            } else {
                out.push(first);
                rest = rest.get(first.len_utf8()..).unwrap_or_default();
            }
            continue;
        }
        out.push_str(if is_secret(run) { MASK } else { run });
        rest = after;
        if let Some(lead) = secret_follows(run, after) {
            let (lead, value) = after.split_at(lead);
            out.push_str(lead);
            let end = value.find(|c: char| "&\"'<>,;)]}".contains(c) || c.is_whitespace());
            let (value, after) = value.split_at(end.unwrap_or(value.len()));
            if !value.is_empty() {
                out.push_str(MASK);
            }
            rest = after;
        }
    }
    out
}

fn is_run(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

fn is_secret(run: &str) -> bool {
    const PREFIXES: [&str; 18] = [
        "sk-",
        "sk_",
        "gsk_",
        "csk-",
        "AIza",
        "xai-",
        "hf_",
        "nvapi-",
        "r8_",
        "fw_",
        "tgp_",
        "key_",
        "ghp_",
        "gho_",
        "github_pat_",
        "pplx-",
        "cpk_",
        "vck_",
    ];
    if PREFIXES.iter().any(|prefix| run.len() > prefix.len() + 1 && run.starts_with(prefix)) {
        return true;
    }
    // Words, model names and UUIDs have dashes; keys have long stretches without.
    run.split(['-', '_']).any(|part| {
        part.len() >= 20
            && part.bytes().any(|b| b.is_ascii_digit())
            && part.bytes().any(|b| b.is_ascii_alphabetic())
    })
}

/// Whether a secret follows this word, and after how many bytes of what comes next.
fn secret_follows(word: &str, after: &str) -> Option<usize> {
    let ends = |tail: &str| {
        let at = word.len().checked_sub(tail.len());
        at.and_then(|at| word.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(tail))
    };
    if word.eq_ignore_ascii_case("bearer") {
        let spaces = after.bytes().take_while(|b| *b == b' ').count();
        return (spaces > 0).then_some(spaces);
    }
    let named = ["key", "token", "secret", "password", "signature"].iter().any(|name| ends(name));
    (named && after.starts_with('=')).then_some(1)
}

fn gather(value: &Value, wrapped: usize, out: &mut String) {
    if out.len() > TEXT_BYTES_MAX {
        return;
    }
    match value {
        Value::Object(fields) => fields.values().for_each(|value| gather(value, wrapped, out)),
        Value::Array(items) => items.iter().for_each(|value| gather(value, wrapped, out)),
        Value::String(text) => {
            out.push_str(text);
            out.push(' ');
            if let Some(inner) = unwrap_json(text).filter(|_| wrapped > 0) {
                gather(&inner, wrapped - 1, out);
            }
        }
        Value::Number(_) | Value::Bool(_) => {
            out.push_str(&value.to_string());
            out.push(' ');
        }
        Value::Null => {}
    }
}

fn gather_codes(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let named = matches!(
                    name.as_str(),
                    "code" | "type" | "status" | "status_code" | "reason" | "error_code"
                );
                match value {
                    Value::String(text) if named => out.push(text.to_ascii_lowercase()),
                    Value::Number(number) if named => out.push(number.to_string()),
                    _ => gather_codes(value, out),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| gather_codes(item, out)),
        _ => {}
    }
}

fn unwrap_json(text: &str) -> Option<Value> {
    text.trim_start().starts_with(['{', '[']).then(|| serde_json::from_str(text).ok()).flatten()
}

/// The sentence in an error, whatever its shape: providers.md calls them nested, array, flat, RFC 7807 and so on.
fn said(value: &Value, depth: usize) -> Option<String> {
    let depth = depth.checked_sub(1)?;
    match value {
        Value::String(text) => {
            let inner = unwrap_json(text).and_then(|inner| said(&inner, depth));
            inner.or_else(|| Some(text.clone()).filter(|text| !text.trim().is_empty()))
        }
        Value::Array(items) => items.iter().find_map(|item| said(item, depth)),
        Value::Object(fields) => {
            // `code` and the like hold no sentence; `title` is only a status in words.
            let keys = [
                "error",
                "message",
                "errors",
                "detail",
                "status_msg",
                "base_resp",
                "msg",
                "response",
                "title",
            ];
            let found = keys.iter().find_map(|key| said(fields.get(*key)?, depth))?;
            // OpenRouter's own sentence is always the same; what its upstream said stands behind.
            let raw = fields.get("metadata").and_then(|metadata| said(metadata.get("raw")?, depth));
            Some(match raw.filter(|raw| raw.trim() != "{}") {
                Some(raw) => format!("{found}: {raw}"),
                None => found,
            })
        }
        _ => None,
    }
}

fn title(page: &str) -> String {
    // ASCII lower case keeps every byte's place.
    let lower = page.to_ascii_lowercase();
    let found = lower.find("<title").and_then(|open| {
        let start = open + lower.get(open..)?.find('>')? + 1;
        let end = start + lower.get(start..)?.find("</")?;
        page.get(start..end)
    });
    let title = found.unwrap_or_default().trim();
    if title.is_empty() { "an HTML page instead of an answer".to_owned() } else { title.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_read_than_of_an_error_body() {
        let of_len = |len: usize| format!("{{\"error\":\"{}\"}}", "x".repeat(len - r#"{"error":""}"#.len()));
        assert!(Body::read(of_len(ERROR_BODY_BYTES_MAX).as_bytes()).json().is_some());
        let long = Body::read(of_len(ERROR_BODY_BYTES_MAX + 1).as_bytes());
        assert!(long.json().is_none());
        assert_eq!(long.text().len(), ERROR_BODY_BYTES_MAX);
    }

    #[test]
    fn a_key_that_the_end_cuts_in_half_is_not_shown() {
        let key = "f00dfeedf00dfeed";
        let secrets = [Secret::new(key)];
        for shown in 1..=key.len() {
            let lead = format!("no{}", " ".repeat(ERROR_BODY_BYTES_MAX - 2 - shown));
            let (whole, cut) = (format!("{lead}{key} more"), format!("{lead}{}", &key[..shown]));
            for body in [whole, cut] {
                assert_eq!(Body::read(body.as_bytes()).message(&secrets), "no", "{shown} bytes of it");
            }
        }
    }

    #[test]
    fn messages_in_every_shape() {
        for (body, expected) in [
            (r#"{"error":{"message":"nested","type":"t"}}"#, "nested"),
            (r#"[{"error":{"code":400,"message":"array"}}]"#, "array"),
            (r#"{"type":"error","error":{"type":"t","message":"anthropic"}}"#, "anthropic"),
            (r#"{"object":"error","message":"flat","code":"1300"}"#, "flat"),
            (r#"{"object":"error","message":{"detail":[{"loc":["body"],"msg":"extra"}]}}"#, "extra"),
            (r#"{"code":"Client specified","error":"xai"}"#, "xai"),
            (r#"{"error":"string"}"#, "string"),
            (r#"{"detail":"fastapi"}"#, "fastapi"),
            (r#"{"detail":{"message":"object"}}"#, "object"),
            (r#"{"detail":[{"msg":"list"}]}"#, "list"),
            (r#"{"status":401,"title":"Unauthorized","detail":"rfc 7807"}"#, "rfc 7807"),
            (r#"{"status":429,"title":"Too Many Requests"}"#, "Too Many Requests"),
            (r#"{"choices":null,"base_resp":{"status_code":1002,"status_msg":"minimax"}}"#, "minimax"),
            (r#"{"success":false,"errors":[{"code":7,"message":"cloudflare"}]}"#, "cloudflare"),
            (
                r#"{"error":{"message":"Provider returned error","metadata":{"raw":"{\"error\":{\"message\":\"inner\"}}"}}}"#,
                "Provider returned error: inner",
            ),
            (
                r#"{"error":{"message":"Provider returned error","metadata":{"raw":"{}"}}}"#,
                "Provider returned error",
            ),
            ("event: error\ndata: {\"error\":{\"message\":\"sse\"}}\n\n", "sse"),
            ("plain text\nsecond line", "plain text"),
            ("<html><head><TITLE>502 Bad\n Gateway</title></html>", "502 Bad Gateway"),
            ("<html>", "an HTML page instead of an answer"),
            ("\u{feff}{\"error\":\"bom\"}", "bom"),
            ("{}", ""),
            ("{\"error\":null}", ""),
            ("", ""),
        ] {
            assert_eq!(Body::read(body.as_bytes()).message(&[]), expected, "{body}");
        }
    }

    #[test]
    fn any_bytes_are_a_body() {
        assert_eq!(Body::read(b"\xff\xfe\x00bad").message(&[]), "\u{fffd}\u{fffd} bad");
        let deep = "[".repeat(10_000) + &"]".repeat(10_000);
        assert!(matches!(Body::read(deep.as_bytes()), Body::Text(_)), "too deep for JSON");
        let mut wrapped = "\"x\"".to_owned();
        for _ in 0..8 {
            wrapped = serde_json::to_string(&format!("[{wrapped}]")).unwrap();
        }
        assert!(Body::read(wrapped.as_bytes()).text().len() < TEXT_BYTES_MAX);
        let deepest = "[".repeat(127) + "\"end\"" + &"]".repeat(127);
        assert_eq!(Body::read(deepest.as_bytes()).text(), "end ");
    }

    #[test]
    fn messages_are_short_and_on_one_line() {
        assert_eq!(short("a\r\n\tb\u{0}c  d\u{1b}[31m", &[]), "a b c d [31m");
        assert_eq!(short(&"é".repeat(300), &[]), "é".repeat(300));
        assert_eq!(short(&"é".repeat(301), &[]), "é".repeat(300) + "…");
        let late = "x".repeat(290) + " sk-proj-abcdefghijklmnop";
        assert!(!short(&late, &[]).contains("sk-"), "{}", short(&late, &[]));
    }

    #[test]
    fn secrets_are_masked() {
        for (text, expected) in [
            ("key sk-proj-Ab1_x-y.", "key ***."),
            ("Incorrect API key provided: sk-xx.", "Incorrect API key provided: ***."),
            ("gsk_abc 'AIzaSyA-1' xai-k1 hf_abc", "*** '***' *** ***"),
            ("0123456789abcdef0123", "***"),
            ("0123456789abcdef012", "0123456789abcdef012"),
            ("01234567890123456789", "01234567890123456789"),
            ("aVeryLongWordWithoutAnyDigitInIt", "aVeryLongWordWithoutAnyDigitInIt"),
            ("authorization: Bearer x, next", "authorization: Bearer ***, next"),
            ("https://h/p?key=abc&x=1 api_key=q", "https://h/p?key=***&x=1 api_key=***"),
            ("http://user:pw@proxy:1/x?a@b", "http://***@proxy:1/x?a@b"),
            (
                "meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8",
                "meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8",
            ),
            ("task-force key: none; é key=", "task-force key: none; é key="),
            ("models/gemini-2.5-flash-preview-09-2025", "models/gemini-2.5-flash-preview-09-2025"),
            ("123e4567-e89b-12d3-a456-426614174000", "123e4567-e89b-12d3-a456-426614174000"),
        ] {
            assert_eq!(mask(text, &[]), expected);
        }
    }

    #[test]
    fn known_secrets_are_masked_whole_and_before_the_cut() {
        let secrets = ["0123456789abcdef0123456789abcdef.AbCdEfGh12345678", "hunter2pass", "hunter2", "x"];
        let secrets = secrets.map(Secret::new);
        for secret in &secrets[..3] {
            let secret = secret.expose();
            assert_eq!(mask(&format!("bad key {secret}!"), &secrets), "bad key ***!");
            // Half of it would stand before the cut.
            let padding = "y ".repeat(145);
            assert_eq!(short(&format!("{padding}{secret}"), &secrets), format!("{padding}***"));
        }
        assert_eq!(mask("example", &secrets), "example", "a placeholder is no secret");
    }
}
