//! The comments that keep a waiting client patient: after 15 s without a word.

use crate::harness::*;

const COMMENT: &str = ": keep-alive";
/// Above the 15 s that a client is left alone.
const LONG: u64 = 16_500;

/// Beyond the deadline of other waits, as two rows wait twice.
fn ask(surface: Surface, backends: Vec<Reply>) -> Result<Events, String> {
    let upstreams: Vec<Upstream> = backends.into_iter().map(|reply| Upstream::replies([reply])).collect();
    let config = upstreams.iter().fold(Config::new(), |config, upstream| config.backend(upstream));
    let proxy = config.start();
    proxy.post(surface.path(), &surface.hello("aifree", true)).try_events()
}

fn slow(reply: &Reply) -> Reply {
    Reply::nothing().wait(&Gate::after(LONG)).write(reply.bytes())
}

fn check_comment(events: &Events, place: usize) -> Result<(), String> {
    expect(events.0.get(place).is_some_and(|e| e.0 == COMMENT), || format!("no comment: {:#?}", events.0))
}

#[test]
fn a_waiting_client_hears_a_comment_and_what_comes_of_it() {
    type Check = fn(&Events) -> Result<(), String>;
    let answer: Check = |events| {
        check_comment(events, 0)?;
        events.check_complete("Hello")
    };
    let failure: Check = |events| {
        check_comment(events, 0)?;
        let code = events.error().map(|error| error["code"].clone());
        expect(code == Some("all_providers_failed".into()), || format!("{:#?}", events.0))
    };
    let good = chat_stream(&["Hel", "lo"]);
    let bad = status(500).error("boom");
    // The provider's own comments do not count: the client does not see them.
    let mut talkative = status(200).stream_head().event(&event(r#"{"content":"Hel"}"#, "null"));
    for _ in 0..LONG / 1500 {
        talkative = talkative.wait(&Gate::after(1500)).write("8\r\n: ping\n\n\r\n");
    }
    let talkative = talkative.event(&event(r#"{"content":"lo"}"#, r#""stop""#)).event("[DONE]").end_chunks();
    let chat: Vec<(&str, (Vec<Reply>, Check))> = vec![
        ("a slow answer", (vec![slow(&good)], answer)),
        ("a slow failure, then an answer", (vec![slow(&bad), good.clone()], answer)),
        ("a slow whole answer", (vec![slow(&chat_whole("Hello"))], answer)),
        ("a slow failure and no other", (vec![slow(&bad)], failure)),
        (
            "comments in the middle",
            (vec![talkative], |events| {
                check_comment(events, 1)?;
                events.check_complete("Hello")
            }),
        ),
    ];
    type Row<'a> = Box<dyn Fn() -> Result<(), String> + Send + 'a>;
    let mut rows: Vec<(String, Row<'_>)> = Vec::new();
    for (name, (backends, check)) in chat {
        rows.push((name.into(), Box::new(move || check(&ask(Surface::Chat, backends.clone())?))));
    }
    for surface in [Surface::Messages, Surface::Responses] {
        let backends = vec![slow(&bad), good.clone()];
        let answered = move || {
            let events = ask(surface, backends.clone())?;
            check_comment(&events, 0)?;
            surface.check_complete(&surface.said_in(&events)?, "Hello")
        };
        rows.push((format!("{surface:?}: a slow failure, then an answer"), Box::new(answered)));
        let backends = vec![slow(&bad)];
        let failed = move || {
            let events = ask(surface, backends.clone())?;
            check_comment(&events, 0)?;
            let said = surface.said_in(&events)?;
            surface.check_broken(&said)?;
            let message = said.error.unwrap_or_default()["message"].to_string();
            expect(message.contains("All configured providers failed"), || message)
        };
        rows.push((format!("{surface:?}: a slow failure and no other"), Box::new(failed)));
    }
    every_at_once(rows, |row| row());
}
