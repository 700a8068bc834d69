//! Whatever a client sends: every reader takes it or names what is wrong, and what it takes every writer writes as
//! JSON that the reader of that protocol takes.
#![no_main]

use ai_free_swap::dialect::model::Request;
use ai_free_swap::dialect::request::{
    Target, chat_in, chat_out, estimate, messages_in, messages_out, responses_in, strip_thinking,
};
use ai_free_swap::provider::quirks::Quirks;
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

const PRESETS: [(Option<&str>, &str); 6] = [
    (None, "m"),
    (Some("openai"), "gpt-5"),
    (Some("mistral"), "m"),
    (Some("gemini"), "gemini-3-pro"),
    (Some("anthropic"), "claude-opus-4-8"),
    (Some("anthropic"), "claude-sonnet-4-5"),
];

fn check(mut request: Request<'_>) {
    for (preset, model) in PRESETS {
        let quirks = Quirks::of(preset, model);
        let target = Target { model_json: "\"m\"", quirks: &quirks, default_max_tokens: 1 };
        let (chat, _) = chat_out::write(&request, &target);
        // A conversation in which nothing is said stays one, and chat providers refuse it themselves.
        let is_empty = chat.contains(r#""messages":[]"#);
        assert!(is_json(&chat), "{chat}");
        assert!(is_empty || chat_in::read(&chat).is_ok(), "{chat}");
        let (messages, _) = messages_out::write(&request, &target);
        assert!(is_json(&messages), "{messages}");
        assert!(messages_in::read(&messages).is_ok(), "{messages}");
    }
    let _ = estimate::input_tokens(&request);
    strip_thinking(&mut request);
    assert!(request.turns.windows(2).all(|pair| pair[0].role != pair[1].role));
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok()
}

fuzz_target!(|body: &str| {
    let is_json = is_json(body);
    if let Ok(read) = chat_in::read(body) {
        assert!(is_json, "what is taken is JSON");
        check(read.request);
    }
    if let Ok(read) = messages_in::read(body) {
        assert!(is_json, "what is taken is JSON");
        check(read.request);
    }
    if let Ok(read) = responses_in::read(body) {
        assert!(is_json, "what is taken is JSON");
        check(read.request);
        let items: Vec<_> = read.items.iter().collect();
        assert!(responses_in::read_after(&items, body).is_ok(), "{items:?}");
    }
});
