//! Gemini's thought signatures: remembered for clients whose protocol has no place for them.

use crate::harness::*;
use serde_json::{Value, json};

const SIGNED: &str = r#"{"google":{"thought_signature":"c2lnbmVk"}}"#;

/// A call of `f` with a signature, whole or as a stream.
fn signed_call(request: &Request) -> Reply {
    let call = format!(
        r#"{{"index":0,"id":"call_1","type":"function","function":{{"name":"f","arguments":"{{}}"}},"extra_content":{SIGNED}}}"#
    );
    if request.streams() {
        let chunk = |delta: &str, finish: &str| {
            format!(
                "data: {{\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{finish}}}]}}\n\n"
            )
        };
        let begin = chunk(&format!(r#"{{"role":"assistant","tool_calls":[{call}]}}"#), "null");
        return sse(&(begin + &chunk("{}", "\"tool_calls\"") + "data: [DONE]\n\n"));
    }
    status(200).json(format!(
        r#"{{"choices":[{{"index":0,"message":{{"role":"assistant","content":null,"tool_calls":[{call}]}},"finish_reason":"tool_calls"}}]}}"#
    ))
}

/// What the call of the second request of a conversation carries.
fn echoed(upstream: &Upstream) -> Value {
    let sent = upstream.requests().pop().unwrap().json();
    let messages = sent["messages"].as_array().unwrap();
    let turn = messages.iter().find(|message| message["role"] == "assistant").unwrap();
    turn["tool_calls"][0]["extra_content"].clone()
}

#[test]
fn a_call_comes_back_with_the_signature_that_its_client_had_no_place_for() {
    let tools = json!([{"name": "f", "input_schema": {"type": "object"}}]);
    let asked = json!({"role": "user", "content": "x"});
    let messages_again = json!([
        asked,
        {"role": "assistant", "content": [{"type": "tool_use", "id": "call_1", "name": "f", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "y"}]}
    ]);
    let input_again = json!([
        asked,
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "y"}
    ]);
    let responses_tools = json!([{"type": "function", "name": "f", "parameters": {"type": "object"}}]);
    let message = |messages: &Value, stream| json!({"model": "m", "max_tokens": 9, "messages": messages, "tools": tools, "stream": stream});
    let response = |input: &Value, stream| json!({"model": "m", "input": input, "tools": responses_tools, "stream": stream, "store": false});
    let first = json!([asked]);
    let chat_tools =
        json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]);
    let chat = |messages: &Value, stream| json!({"model": "m", "messages": messages, "tools": chat_tools, "stream": stream});
    let chat_again = json!([
        asked,
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "y"}
    ]);
    let cases = [
        ("chat", "/v1/chat/completions", chat(&first, false), chat(&chat_again, false)),
        ("chat, stream", "/v1/chat/completions", chat(&first, true), chat(&chat_again, true)),
        ("messages", "/v1/messages", message(&first, false), message(&messages_again, false)),
        ("messages, stream", "/v1/messages", message(&first, true), message(&messages_again, true)),
        ("responses", "/v1/responses", response(&first, false), response(&input_again, false)),
        ("responses, stream", "/v1/responses", response(&first, true), response(&input_again, true)),
    ];
    let cases = cases.map(|(name, path, first, again)| (name.to_owned(), (path, first, again)));
    every(cases, |(path, first, again)| {
        let upstream = Upstream::answering(signed_call);
        let proxy = Config::new().backend(Backend::from(&upstream).provider("gemini")).start();
        proxy.post(path, &again.to_string());
        let placeholder = echoed(&upstream);
        expect(placeholder["google"]["thought_signature"] == "skip_thought_signature_validator", || {
            format!("before: {placeholder}")
        })?;
        expect(proxy.post(path, &first.to_string()).status() == 200, || "no answer".into())?;
        proxy.post(path, &again.to_string());
        let extra = echoed(&upstream);
        expect(extra == serde_json::from_str::<Value>(SIGNED).unwrap(), || format!("after: {extra}"))
    });
}
