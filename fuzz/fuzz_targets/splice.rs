//! A request that goes out has another model, perhaps the usage switch, and not one other byte changed; where a provider
//! is known to refuse something, it is still JSON, and nothing that could be changed is left.
#![no_main]

use ai_free_swap::dialect::{ask, chat::ChatRequest, skim, splice::pieces};
use ai_free_swap::provider::quirks::Quirks;
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, value::RawValue};
use std::collections::HashSet;

/// A name that has to be escaped.
const MODEL: &str = r#"@cf/"é"\model"#;

fn is_json(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok()
}

/// The body as an object; `None` where [`Value`] cannot hold it (nesting beyond 128, 1e999, half surrogates).
fn object(text: &str) -> Option<Map<String, Value>> {
    serde_json::from_str(text).ok()
}

fn asks_usage(body: &Map<String, Value>) -> Option<bool> {
    body.get("stream_options")?.get("include_usage")?.as_bool()
}

/// What the proxy has no business with: neither the model nor the switch, nor options that hold nothing else.
fn rest(mut body: Map<String, Value>) -> Map<String, Value> {
    body.remove("model");
    if let Some(Value::Object(options)) = body.get_mut("stream_options") {
        options.remove("include_usage");
    }
    if body.get("stream_options").is_some_and(|o| o.is_null() || o.as_object().is_some_and(Map::is_empty)) {
        body.remove("stream_options");
    }
    body
}

fn splice(body: &str, request: &ChatRequest, ask_usage: bool) -> String {
    let model_json = Value::from(MODEL).to_string();
    let mut edits = request.edits(body, &model_json, ask_usage);
    let joined = pieces(body.as_bytes(), &mut edits).concat();
    // Without the edits' texts, the new body is the old one without their spans.
    let (mut old, mut new) = (0, 0);
    for edit in &edits {
        let kept = &body.as_bytes()[old..edit.span.start];
        assert_eq!(&joined[new..new + kept.len()], kept);
        new += kept.len();
        assert_eq!(&joined[new..new + edit.text.len()], edit.text.as_bytes());
        new += edit.text.len();
        old = edit.span.end;
    }
    assert_eq!(joined[new..], body.as_bytes()[old..]);
    String::from_utf8(joined).expect("spans lie on character boundaries")
}

fn repaired(body: &str, quirks: &Quirks) -> Option<String> {
    let request = ChatRequest::parse(body).ok()?;
    let mut edits = request.repairs(body, quirks, &|id| Some(id.to_owned())).edits;
    edits.sort_by_key(|edit| edit.span.start);
    assert!(edits.windows(2).all(|two| two[0].span.end <= two[1].span.start), "edits do not overlap");
    String::from_utf8(pieces(body.as_bytes(), &mut edits).concat()).ok()
}

const PRESETS: [&str; 8] =
    ["mistral", "gemini", "deepseek", "zai", "nvidia", "cloudflare", "openai", "together"];

fuzz_target!(|data: &[u8]| {
    let Some((&flags, input)) = data.split_first() else { return };
    let ask_usage = flags & 1 == 1;
    let text = std::str::from_utf8(input).ok();
    let request = match ask::text(input).and_then(ChatRequest::parse) {
        Ok(request) => request,
        Err(error) => {
            assert_eq!(error.status, 400);
            assert!(!error.message.is_empty() && !error.message.contains(char::is_control));
            // Only what a client must mend is refused: no JSON object, a wrong type, or a key that is there twice.
            let named = error.param.is_some() || error.message.contains(" twice ");
            assert!(named || text.and_then(object).is_none(), "{}", error.message);
            return;
        }
    };
    let body = text.expect("what is accepted is text");
    assert!(is_json(body), "what is accepted is JSON");
    let spliced = splice(body, &request, ask_usage);
    assert!(is_json(&spliced), "{spliced}");

    let again = ChatRequest::parse(&spliced).expect("it is as good as it was");
    assert_eq!(again.model.as_deref(), Some(MODEL));
    assert_eq!(again.stream, request.stream);
    assert_eq!(again.include_usage, request.include_usage || (ask_usage && request.stream));
    assert_eq!(splice(&spliced, &again, ask_usage), spliced, "a second time changes nothing");

    let quirks = Quirks::of(Some(PRESETS[usize::from(flags >> 1) % PRESETS.len()]), "o3");
    let once = repaired(body, &quirks).expect("spans lie on character boundaries");
    assert!(is_json(&once), "{once}");
    let members = skim::members(body).expect("it has been read");
    let keys: HashSet<_> = members.iter().map(|member| &member.key).collect();
    if keys.len() == members.len() {
        assert_eq!(repaired(&once, &quirks).as_deref(), Some(&*once), "a second time changes nothing");
    }

    let (Some(before), Some(after)) = (object(body), object(&spliced)) else { return };
    assert_eq!(after.get("model").and_then(Value::as_str), Some(MODEL));
    assert_eq!(request.stream, before.get("stream") == Some(&Value::Bool(true)));
    if ask_usage && request.stream {
        assert_eq!(asks_usage(&after), Some(true));
    } else {
        assert_eq!(asks_usage(&after), asks_usage(&before));
    }
    assert_eq!(rest(after), rest(before));
});
