//! Limits from the config: what is counted, who shares it, who waits for it, and what a client is told who cannot wait.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::*;

/// Sooner than any wait that these tests could mistake for none.
const AT_ONCE: Duration = Duration::from_secs(5);

fn limited(backend: Backend, limits: &str) -> Backend {
    backend.line(format!("limits: {{{limits}}}"))
}

fn backend_of(response: &Response) -> Option<String> {
    response.header("x-ai-free-swap-backend").map(str::to_owned)
}

/// A chat request with this text.
fn saying(text: &str, stream: bool) -> String {
    format!(r#"{{"messages":[{{"role":"user","content":"{text}"}}],"stream":{stream}}}"#)
}

/// The last text of each request, in the order of their arrival.
fn texts(upstream: &Upstream) -> Vec<String> {
    let text = |r: Request| {
        let json = r.json();
        let last = json["messages"].as_array().and_then(|turns| turns.last().cloned());
        last.unwrap_or_default()["content"].as_str().unwrap_or_default().to_owned()
    };
    upstream.requests().into_iter().map(text).collect()
}

/// Sends without reading the answer, and returns when the program says that it waits.
#[track_caller]
fn send_and_wait(proxy: &Proxy, surface: Surface, body: &str) -> Connection {
    let before = proxy.log_lines();
    let mut connection = proxy.connect();
    connection.send(surface.post(body));
    proxy.wait_for_log(before, |line| line.contains("waiting"));
    connection
}

#[test]
fn a_request_beyond_a_limit_goes_to_the_next_backend_without_a_call() {
    every(
        [
            ("requests of the minute", "rpm: 3"),
            ("requests of the day", "rpd: 3"),
            ("both", "rpm: 5, rpd: 3"),
            ("the tighter one", "rpm: 3, rpd: 5"),
            // 37 are told each time, and what is left has to do for a further 500 or so.
            ("tokens of the minute", "tpm: 620"),
            ("tokens of the day", "tpd: 620"),
        ],
        |limits| {
            let first = Protocol::OpenAi.saying(Answer::text("first"));
            let second = Upstream::healthy("second");
            let backend = limited(Backend::from(&first), limits);
            let proxy = Config::new().backend(backend).backend(&second).start();
            let by: Vec<_> = (0..5).map(|_| backend_of(&proxy.chat(HELLO)).unwrap_or_default()).collect();
            let expected = ["alpha", "alpha", "alpha", "beta", "beta"];
            expect(by == expected, || format!("answered by {by:?}"))?;
            expect((first.hits(), second.hits()) == (3, 2), || format!("{} calls", first.hits()))
        },
    );
}

#[test]
fn a_limit_holds_however_many_come_at_once() {
    for (limits, selection) in
        [("rpm: 20", "random"), ("rpd: 20", "least_used"), ("rpm: 20, concurrency: 50", "sticky")]
    {
        let (first, second) = (Upstream::healthy("Hello"), Upstream::healthy("Hello"));
        let backend = limited(Backend::from(&first), limits);
        let config = Config::new().backend(backend).backend(&second).server("threads: 4");
        let proxy = config.top(&format!("selection: {selection}")).start();
        thread::scope(|scope| {
            for client in 0..10 {
                let proxy = &proxy;
                scope.spawn(move || {
                    for n in 0..6 {
                        let body = saying(&format!("{client} {n}"), (client + n) % 2 == 0);
                        assert_eq!(proxy.chat(&body).status(), 200);
                    }
                });
            }
        });
        assert_eq!((first.hits(), second.hits()), (20, 40), "{limits}");
    }
}

/// Who stops too early counts what was expected, who never stops counts nothing.
#[test]
fn what_the_answer_says_it_took_is_what_is_counted() {
    let mut rows = Vec::new();
    for surface in Surface::ALL {
        for protocol in Protocol::ALL {
            for stream in [false, true] {
                rows.push((
                    format!("{surface:?} over {protocol:?}, stream: {stream}"),
                    (surface, protocol, stream),
                ));
            }
        }
    }
    every(rows, |(surface, protocol, stream)| {
        let first = protocol.saying(Answer::text("first"));
        let second = Upstream::healthy("second");
        // 37 a time: 0, 37, 74 and 111 leave 518 and more, 148 do not.
        let backend = limited(protocol.backend(&first, ""), "tpm: 640");
        let proxy = Config::new().backend(backend).backend(&second).start();
        for request in 0..5 {
            let response = proxy.post(surface.path(), &surface.hello("aifree", stream));
            let expected = if request < 4 { "first" } else { "second" };
            surface.check_said(&response, stream, expected).map_err(|e| format!("request {request}: {e}"))?;
        }
        expect(first.hits() == 4, || format!("{} calls", first.hits()))
    });
}

#[test]
fn a_call_that_failed_gives_back_what_was_reserved_unless_the_provider_counts_it() {
    let config = |upstream: &Upstream, provider: &str| {
        let backend = limited(Backend::from(upstream).provider(provider), "rpm: 1");
        Config::new().backend(backend).top("keep_cycles: 2").top("max_wait: 0")
    };
    let upstream = Upstream::replies([status(500).error("hiccup"), chat_whole("Hello")]);
    let proxy = config(&upstream, "mine").start();
    proxy.chat(HELLO).check_answer("Hello").unwrap();
    assert_eq!(proxy.chat(HELLO).status(), 503, "the one that was answered counts");
    assert_eq!(upstream.hits(), 2);
    for (provider, failure) in
        // One that counts whatever arrives; and who can know whether one that says nothing has counted.
        [("openrouter", status(500).error("hiccup")), ("mine", Reply::nothing().close())]
    {
        let upstream = Upstream::replies([failure, chat_whole("Hello")]);
        let response = config(&upstream, provider).start().chat(HELLO);
        assert_eq!((response.status(), upstream.hits()), (503, 1), "{}", response.text());
    }
}

#[test]
fn a_request_that_cannot_wait_is_refused_at_once_and_told_when() {
    // What is used up, the earliest and the latest moment of the next room, in seconds.
    let kinds = [("rpm: 1", 50, 61), ("rpd: 1", 23 * 3600, 24 * 3600 + 901), ("tpm: 530", 50, 61)];
    let mut rows = Vec::new();
    for surface in Surface::ALL {
        for stream in [false, true] {
            for kind in kinds {
                rows.push((format!("{surface:?}, stream: {stream}, {}", kind.0), (surface, stream, kind)));
            }
        }
    }
    every(rows, |(surface, stream, (limits, earliest, latest))| {
        let upstream = Protocol::OpenAi.saying(Answer::text("Hello"));
        let proxy = Config::new().backend(limited(Backend::from(&upstream), limits)).start();
        let ask = || proxy.post(surface.path(), &surface.hello("aifree", stream));
        surface.check_said(&ask(), stream, "Hello")?;
        let asked = Instant::now();
        let response = ask();
        expect(asked.elapsed() < AT_ONCE, || format!("after {:?}", asked.elapsed()))?;
        let (code, kind) =
            if surface == Surface::Messages { (529, "overloaded_error") } else { (503, "server_error") };
        surface.check_error(&response, code, kind, "All configured providers failed: alpha: ")?;
        let told = response.header("retry-after").and_then(|v| v.parse::<u64>().ok()).unwrap_or_default();
        expect((50..=60).contains(&told), || format!("Retry-After {told}"))?;
        let json: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        let message = json["error"]["message"].as_str().unwrap_or_default();
        let seconds = message.split("room in ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        expect(seconds.is_some_and(|s: u64| (earliest..=latest).contains(&s)), || message.to_owned())?;
        expect(upstream.hits() == 1, || format!("{} calls", upstream.hits()))
    });
}

#[test]
fn limits_of_an_account_are_shared_by_its_backends() {
    let first = Upstream::answering(|r| good_answer(r, r.json()["model"].as_str().unwrap()));
    let rescue = Upstream::healthy("rescue");
    let member = || Backend::from(&first).provider("same");
    let check = |backends: [Backend; 3], expected: &[&str]| {
        let config = backends.into_iter().fold(Config::new(), Config::backend).backend(&rescue);
        let proxy = config.start();
        let by: Vec<_> = expected.iter().map(|_| backend_of(&proxy.chat(HELLO)).unwrap()).collect();
        assert_eq!(by, expected);
    };
    let mine = || member().line("account: mine");
    // Other keys and other models; who states no limit has that of the others.
    check([limited(mine(), "rpm: 2"), mine(), mine()], &["alpha", "alpha", "delta", "delta"]);
    // The tightest of its own kind holds, and others have accounts of their own.
    check(
        [limited(mine(), "rpm: 3"), limited(mine(), "rpd: 1"), member()],
        &["alpha", "gamma", "gamma", "gamma"],
    );
    check(
        [limited(mine(), "rpm: 1"), limited(member().line("account: yours"), "rpm: 1"), mine()],
        &["alpha", "beta", "delta", "delta"],
    );
    // Without a name of an account, keys and models have limits of their own.
    check([limited(member(), "rpm: 1"), limited(member(), "rpm: 1"), member()], &["alpha", "beta", "gamma"]);
}

#[test]
fn an_account_that_is_busy_is_busy_for_all_its_backends() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::answering(move |r| {
        let reply = good_answer(r, "Hello");
        if r.number == 0 { Reply::nothing().wait(&held).write(reply.bytes()) } else { reply }
    });
    let member =
        || limited(Backend::from(&upstream).provider("same").line("account: mine"), "concurrency: 1");
    let proxy = Config::new().backend(member()).backend(member()).start();
    let mut first = proxy.connect();
    first.send(Surface::Chat.post(HELLO));
    upstream.wait_for_requests(1);
    let mut second = send_and_wait(&proxy, Surface::Chat, HELLO);
    assert_eq!(upstream.hits(), 1, "the other key is the same account");
    gate.open();
    for connection in [&mut first, &mut second] {
        connection.response().check_answer("Hello").unwrap();
    }
}

/// A provider that holds each request until its gate opens.
fn gated(gates: &[Gate]) -> Upstream {
    let gates = gates.to_vec();
    Upstream::answering(move |r| {
        let reply = good_answer(r, "Hello");
        match gates.get(r.number) {
            Some(gate) => Reply::nothing().wait(gate).write(reply.bytes()),
            None => reply,
        }
    })
}

#[test]
fn one_at_a_time_means_one_after_the_other_in_the_order_of_arrival() {
    let gates: Vec<Gate> = (0..6).map(|_| Gate::new()).collect();
    let upstream = gated(&gates);
    let proxy = Config::new().backend(limited(Backend::from(&upstream), "concurrency: 1")).start();
    let mut first = proxy.connect();
    first.send(Surface::Chat.post(&saying("0", false)));
    upstream.wait_for_requests(1);
    let others = (1..6).map(|n| {
        let (surface, body) = match n {
            2 => (Surface::Messages, Surface::Messages.hello("aifree", true).replace("hi", "2")),
            4 => (Surface::Responses, Surface::Responses.hello("aifree", false).replace("hi", "4")),
            _ => (Surface::Chat, saying(&n.to_string(), n == 3)),
        };
        send_and_wait(&proxy, surface, &body)
    });
    let connections: Vec<Connection> = std::iter::once(first).chain(others.collect::<Vec<_>>()).collect();
    for (n, (mut connection, gate)) in connections.into_iter().zip(&gates).enumerate() {
        assert_eq!(upstream.hits(), n + 1, "more than one at a time");
        gate.open();
        assert_eq!(connection.response().status(), 200, "client {n}");
        if n < 5 {
            upstream.wait_for_requests(n + 2);
        }
    }
    assert_eq!(texts(&upstream), ["0", "1", "2", "3", "4", "5"], "the first come are first served");
}

#[test]
fn parallel_clients_of_a_backend_that_takes_few_are_all_served() {
    for (limits, threads) in [("concurrency: 1", 1), ("concurrency: 3", 1), ("concurrency: 1", 4)] {
        let upstream = Upstream::healthy("Hello");
        let backend = limited(Backend::from(&upstream), limits);
        let config = Config::new().backend(backend).top("max_wait: 60");
        let proxy = config.server(&format!("threads: {threads}")).start();
        thread::scope(|scope| {
            for client in 0..12 {
                let proxy = &proxy;
                scope.spawn(move || {
                    let mut connection = proxy.connect();
                    for _ in 0..10 {
                        connection.send(Surface::Chat.post(&saying("hi", client % 2 == 0)));
                        let response = connection.response();
                        assert_eq!(response.status(), 200, "{}", response.text());
                    }
                });
            }
        });
        assert_eq!(upstream.hits(), 120);
        // Each client would have one without the limit.
        let connections = upstream.connections();
        assert!(connections < 7, "{connections} connections for {limits}");
    }
}

#[test]
fn a_turn_that_ends_badly_is_given_on() {
    let say = event(r#"{"content":"Hel"}"#, "null");
    let head = status(200).stream_head().event(&say);
    let rows = [
        ("the stream is reset", head.clone(), Step::Reset),
        ("the stream is cut", head.clone(), Step::Close),
        ("no answer", Reply::nothing(), Step::Close),
        ("an error in the stream", head.event(r#"{"error":{"message":"boom","code":500}}"#), Step::Close),
        ("an error", status(500).error("boom"), Step::Close),
    ];
    every_at_once(rows.map(|(name, reply, end)| (name, (reply, end))), |(reply, end)| {
        let gate = Gate::new();
        let held = gate.clone();
        let upstream = Upstream::answering(move |r| {
            let (last, first) =
                reply.steps.split_last().map_or((None, &[][..]), |(last, first)| (Some(last), first));
            match r.number {
                0 => {
                    let begun = Reply { steps: first.to_vec() }.wait(&held);
                    last.into_iter().fold(begun, |reply, step| reply.then(step.clone())).then(end.clone())
                }
                _ => good_answer(r, "Hello"),
            }
        });
        let proxy = Config::new().backend(limited(Backend::from(&upstream), "concurrency: 1")).start();
        let mut first = proxy.connect();
        first.send(Surface::Chat.post(STREAM_HELLO));
        upstream.wait_for_requests(1);
        let mut second = send_and_wait(&proxy, Surface::Chat, HELLO);
        gate.open();
        second.response().check_answer("Hello")?;
        first.response();
        expect(upstream.hits() == 2, || format!("{} calls", upstream.hits()))
    });
}

#[test]
fn who_waits_takes_whichever_backend_is_free_first() {
    let gates = [Gate::new(), Gate::new()];
    let upstreams = gates.each_ref().map(|gate| gated(std::slice::from_ref(gate)));
    let busy = |n: usize, line: &str| limited(Backend::from(&upstreams[n]), "concurrency: 1").line(line);
    let config = Config::new().backend(busy(0, "context: 100000")).backend(busy(1, "context: 500"));
    let proxy = config.start();
    let mut running = Vec::new();
    for upstream in &upstreams {
        let mut connection = proxy.connect();
        connection.send(Surface::Chat.post(HELLO));
        upstream.wait_for_requests(1);
        running.push(connection);
    }
    // The first one fits at `alpha` only, and holds up nobody at `beta`.
    let mut long = send_and_wait(&proxy, Surface::Chat, &saying(&"word ".repeat(1000), false));
    let mut short = send_and_wait(&proxy, Surface::Chat, HELLO);
    gates[1].open();
    assert_eq!(backend_of(&short.response()).as_deref(), Some("beta"));
    assert_eq!(upstreams[0].hits(), 1);
    gates[0].open();
    assert_eq!(backend_of(&long.response()).as_deref(), Some("alpha"));
    for connection in &mut running {
        connection.response().check_answer("Hello").unwrap();
    }
}

/// A limit that is used up is no reason to fall behind those that come later.
#[test]
fn who_comes_later_does_not_overtake_those_that_wait() {
    let gate = Gate::new();
    let upstream = gated(std::slice::from_ref(&gate));
    let proxy = Config::new().backend(limited(Backend::from(&upstream), "concurrency: 1")).start();
    let mut running = proxy.connect();
    running.send(Surface::Chat.post(&saying("running", false)));
    upstream.wait_for_requests(1);
    let mut waiting: Vec<Connection> =
        (0..20).map(|n| send_and_wait(&proxy, Surface::Chat, &saying(&n.to_string(), n % 2 == 0))).collect();
    gate.open();
    // They come while the others are served one by one.
    let mut later: Vec<Connection> = (0..20).map(|_| proxy.connect()).collect();
    for connection in &mut later {
        connection.send(Surface::Chat.post(&saying("later", false)));
    }
    for connection in [&mut running].into_iter().chain(&mut waiting).chain(&mut later) {
        assert_eq!(connection.response().status(), 200);
    }
    let order = texts(&upstream);
    let first: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    let waited: Vec<&String> = order.iter().filter(|text| *text != "running" && *text != "later").collect();
    assert_eq!(waited, first.iter().collect::<Vec<_>>());
    let overtaken = order.iter().skip_while(|text| *text != "later").filter(|text| *text != "later").count();
    assert_eq!(overtaken, 0, "{order:?}");
}

#[test]
fn who_waits_longer_than_may_be_is_refused() {
    let gate = Gate::new();
    let upstream = gated(std::slice::from_ref(&gate));
    let backend = limited(Backend::from(&upstream), "concurrency: 1");
    let proxy = Config::new().backend(backend).top("max_wait: 300ms").start();
    let mut first = proxy.connect();
    first.send(Surface::Chat.post(HELLO));
    upstream.wait_for_requests(1);
    let asked = Instant::now();
    let response = proxy.chat(HELLO);
    let took = asked.elapsed();
    Surface::Chat.check_error(&response, 503, "server_error", "alpha: ").unwrap();
    assert!(took >= Duration::from_millis(290) && took < AT_ONCE, "refused after {took:?}");
    gate.open();
    first.response().check_answer("Hello").unwrap();
    proxy.chat(HELLO).check_answer("Hello").unwrap();
    assert_eq!(upstream.hits(), 2, "who was refused is not asked for any more");
}

#[test]
fn without_a_wait_a_busy_backend_is_passed_over_at_once() {
    let gate = Gate::new();
    let upstream = gated(std::slice::from_ref(&gate));
    let second = Upstream::healthy("second");
    let backend = limited(Backend::from(&upstream), "concurrency: 1");
    for (config, expected) in [
        (Config::new().backend(backend.clone()).top("max_wait: 0"), 503),
        (Config::new().backend(backend).backend(&second), 200),
    ] {
        let proxy = config.start();
        let before = upstream.hits();
        let mut first = proxy.connect();
        first.send(Surface::Chat.post(&saying("0", true)));
        upstream.wait_for_requests(before + 1);
        let asked = Instant::now();
        assert_eq!(proxy.chat(HELLO).status(), expected);
        assert!(asked.elapsed() < AT_ONCE, "after {:?}", asked.elapsed());
        gate.open();
        assert_eq!(first.response().status(), 200);
    }
}

#[test]
fn a_client_that_leaves_frees_its_turn_at_once() {
    let say = event(r#"{"content":"Hel"}"#, "null");
    let rows = [
        ("before the head", Reply::nothing().stall()),
        ("in mid-stream", status(200).stream_head().event(&say).stall()),
        ("in mid-stream, translated", status(200).stream_head().event(&say).stall()),
        ("in a whole answer", raw("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{").stall()),
    ];
    every_at_once(rows.map(|(name, reply)| (name, (name, reply))), |(name, reply)| {
        let upstream =
            Upstream::answering(move |r| if r.number == 0 { reply.clone() } else { good_answer(r, "Hello") });
        let proxy = Config::new().backend(limited(Backend::from(&upstream), "concurrency: 1")).start();
        let surface = if name.contains("translated") { Surface::Messages } else { Surface::Chat };
        let stream = name.contains("stream");
        let mut leaving = proxy.connect();
        leaving.send(surface.post(&surface.hello("aifree", stream)));
        upstream.wait_for_requests(1);
        if stream {
            let mut started = leaving.stream();
            started.next_event();
            let mut waiting = send_and_wait(&proxy, Surface::Chat, HELLO);
            started.close();
            waiting.response().check_answer("Hello")
        } else {
            let mut waiting = send_and_wait(&proxy, Surface::Chat, HELLO);
            drop(leaving);
            waiting.response().check_answer("Hello")
        }
    });
}

#[test]
fn who_waits_and_leaves_gives_the_place_to_the_next() {
    for leaves_first in [true, false] {
        let gate = Gate::new();
        let upstream = gated(std::slice::from_ref(&gate));
        let proxy = Config::new().backend(limited(Backend::from(&upstream), "concurrency: 1")).start();
        let mut running = proxy.connect();
        running.send(Surface::Chat.post(&saying("0", false)));
        upstream.wait_for_requests(1);
        let mut waiting = Vec::new();
        for n in 1..4 {
            waiting.push(send_and_wait(&proxy, Surface::Chat, &saying(&n.to_string(), n == 2)));
        }
        let before = proxy.log_lines();
        drop(waiting.remove(usize::from(!leaves_first)));
        proxy.wait_for_log(before, |line| line.contains("the client left"));
        gate.open();
        running.response().check_answer("Hello").unwrap();
        for connection in &mut waiting {
            assert_eq!(connection.response().status(), 200);
        }
        let expected = if leaves_first { ["0", "2", "3"] } else { ["0", "1", "3"] };
        assert_eq!(texts(&upstream), expected);
    }
}

/// The comment comes after 15 s, and what comes then is an answer like any other, or an error inside the stream.
#[test]
fn a_streaming_client_that_waits_for_its_turn_hears_comments() {
    let rows = Surface::ALL.into_iter().flat_map(|surface| {
        [true, false].map(|served| (format!("{surface:?}, served: {served}"), (surface, served)))
    });
    every_at_once(rows, |(surface, served)| {
        let gate = Gate::new();
        let upstream = gated(std::slice::from_ref(&gate));
        let backend = limited(Backend::from(&upstream), "concurrency: 1");
        let wait = if served { "max_wait: 60" } else { "max_wait: 15500ms" };
        let proxy = Config::new().backend(backend).top(wait).start();
        let mut running = proxy.connect();
        running.send(Surface::Chat.post(&saying("0", false)));
        upstream.wait_for_requests(1);
        let mut stream = send_and_wait(&proxy, surface, &surface.hello("aifree", true)).stream();
        let comment = stream.next_event();
        expect(comment == Some(Event(": keep-alive".into())), || format!("{comment:?}"))?;
        if served {
            gate.open();
            surface.check_complete(&surface.said_in(&stream.rest())?, "Hello")?;
        } else {
            let said = surface.said_in(&stream.rest())?;
            surface.check_broken(&said)?;
            let message = said.error.unwrap_or_default()["message"].to_string();
            expect(message.contains("alpha: skipped: running requests take all there is"), || message)?;
            expect(upstream.hits() == 1, || "asked in spite of its limit".into())?;
            gate.open();
        }
        running.response().check_answer("Hello")
    });
}

/// A told wait is waited out by all who came meanwhile, and none is lost.
#[test]
fn a_burst_against_a_provider_that_wants_a_second_of_rest_is_served() {
    let start = Instant::now();
    let upstream = Upstream::answering(move |r| match start.elapsed() < Duration::from_millis(900) {
        true => status(429).header("retry-after", "1").error("slow down"),
        false => good_answer(r, "Hello"),
    });
    let proxy = Config::new().backend(&upstream).start();
    thread::scope(|scope| {
        for client in 0..10 {
            let proxy = &proxy;
            let surface = Surface::ALL[client % 3];
            scope.spawn(move || {
                let stream = client % 2 == 0;
                let response = proxy.post(surface.path(), &surface.hello("aifree", stream));
                surface.check_said(&response, stream, "Hello").unwrap();
            });
        }
    });
    // Each asked once in vain at most, and nobody while it was known that it rests.
    assert!((11..=20).contains(&upstream.hits()), "{} calls", upstream.hits());
}

/// One that refuses the first ones only, whenever they come.
#[test]
fn a_burst_that_is_refused_in_full_is_served_after_the_wait() {
    let upstream = Upstream::answering(move |r| match r.number < 10 {
        true => status(429).header("retry-after", "1").error("slow down"),
        false => good_answer(r, "Hello"),
    });
    let proxy = Config::new().backend(&upstream).start();
    let mut connections: Vec<Connection> = (0..10).map(|_| proxy.connect()).collect();
    connections.iter_mut().for_each(|connection| {
        connection.send(Surface::Chat.post(HELLO));
    });
    for mut connection in connections {
        connection.response().check_answer("Hello").unwrap();
    }
}

/// What runs has set tokens aside that it will hardly take: who waits for them is not refused.
#[test]
fn tokens_that_are_only_set_aside_are_waited_for() {
    let gate = Gate::new();
    let upstream = gated(&[gate.clone(), gate.clone()]);
    // Room for two of 518; each takes 5.
    let proxy = Config::new().backend(limited(Backend::from(&upstream), "tpm: 1100")).start();
    let mut running: Vec<Connection> = (0..2).map(|_| proxy.connect()).collect();
    for (n, connection) in running.iter_mut().enumerate() {
        connection.send(Surface::Chat.post(HELLO));
        upstream.wait_for_requests(n + 1);
    }
    let mut third = send_and_wait(&proxy, Surface::Chat, HELLO);
    gate.open();
    for connection in running.iter_mut().chain([&mut third]) {
        connection.response().check_answer("Hello").unwrap();
    }
}

/// A bucket that lets one in each 400 ms and says exactly when: all who came at once are served one after the other.
#[test]
fn a_burst_against_a_bucket_that_drips_is_served() {
    let full = std::sync::Mutex::new(Instant::now());
    let upstream = Upstream::answering(move |r| {
        let mut full = full.lock().unwrap();
        let left = full.saturating_duration_since(Instant::now());
        if left.is_zero() {
            *full = Instant::now() + Duration::from_millis(400);
            return good_answer(r, "Hello");
        }
        status(429).header("retry-after-ms", &(left.as_millis() + 1).to_string()).error("slow down")
    });
    let proxy = Config::new().backend(&upstream).start();
    let mut connections: Vec<Connection> = (0..10).map(|_| proxy.connect()).collect();
    connections.iter_mut().for_each(|connection| {
        connection.send(Surface::Chat.post(HELLO));
    });
    let codes: Vec<u16> = connections.iter_mut().map(|connection| connection.response().status()).collect();
    let served = codes.iter().filter(|code| **code == 200).count();
    // Ten that are let in, and at most one in vain for each of them, beside the first ten.
    assert!(served == 10 && upstream.hits() <= 30, "{served} served with {} calls", upstream.hits());
}

/// Who had to wait for a turn has the same passes as who had not.
#[test]
fn a_hiccup_after_a_wait_is_tried_again_in_the_next_cycle() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::answering(move |r| match r.number {
        0 => Reply::nothing().wait(&held).write(good_answer(r, "Hello").bytes()),
        1 => status(500).error("hiccup"),
        _ => good_answer(r, "Hello"),
    });
    let backend = limited(Backend::from(&upstream), "concurrency: 1");
    let proxy = Config::new().backend(backend).top("keep_cycles: 3").start();
    let mut first = proxy.connect();
    first.send(Surface::Chat.post(HELLO));
    upstream.wait_for_requests(1);
    let mut second = send_and_wait(&proxy, Surface::Chat, HELLO);
    gate.open();
    first.response().check_answer("Hello").unwrap();
    second.response().check_answer("Hello").unwrap();
}
