//! Everything that is answered without a provider: models, health, auth, unknown paths and methods.

use crate::harness::*;

fn proxy() -> (Upstream, Proxy) {
    let upstream = Upstream::healthy("Hello");
    let proxy = Proxy::with_backends([&upstream]);
    (upstream, proxy)
}

#[test]
fn the_model_list_is_what_sdks_expect() {
    let (_upstream, proxy) = proxy();
    for path in ["/v1/models", "/models", "/v1/models/", "/v1/models?limit=1000"] {
        let list = proxy.get(path).json();
        assert_eq!(list["object"], "list", "{path}");
        let data = list["data"].as_array().unwrap();
        assert_eq!(data.len(), 1, "{list}");
        assert_eq!(data[0]["id"], "aifree");
        assert_eq!((&data[0]["object"], &data[0]["owned_by"]), (&"model".into(), &"ai-free-swap".into()));
        assert!(data[0]["created"].is_u64(), "the SDK types say an integer: {list}");
    }
}

#[test]
fn the_model_list_follows_the_config() {
    let upstream = Upstream::healthy("Hello");
    let config = Config::new().backend(&upstream).backend(&upstream).top("model_name: mine");
    let ids = |proxy: &Proxy| -> Vec<String> {
        let list = proxy.get("/v1/models").json();
        list["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&config.clone().start()), ["mine"]);
    let mut matching = ids(&config.top("model_routing: MATCH").start());
    matching.sort();
    assert_eq!(matching, ["mine", "model-alpha", "model-beta"]);
}

#[test]
fn one_model_can_be_asked_for() {
    let (_upstream, proxy) = proxy();
    for path in ["/v1/models/aifree", "/models/aifree", "/v1/models/aifree/"] {
        let response = proxy.get(path);
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!((&response.json()["id"], &response.json()["object"]), (&"aifree".into(), &"model".into()));
    }
    let response = proxy.get("/v1/models/nope");
    assert_eq!((response.status(), response.error().2.as_str()), (404, "model_not_found"));
}

#[test]
fn health_is_public_and_cheap() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Config::new().backend(&upstream).server("api_key: client-key").start();
    for path in ["/", "/health", "/health/", "/?x=1"] {
        let response = proxy.get(path);
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(response.json()["status"], "ok", "{path}");
        let mut connection = proxy.connect();
        let request = get(path, "");
        let head = [b"HEAD", &request[3..]].concat();
        let response = connection.send(&head).response_to(Asked::HEAD);
        assert_eq!((response.status(), response.body.len()), (200, 0), "HEAD {path}");
        // Nothing may follow an answer to HEAD: the next one on the connection has to be in step.
        assert_eq!(connection.send(get("/health", "")).response().status(), 200);
    }
    assert_eq!(upstream.hits(), 0);
}

#[test]
fn the_key_is_taken_from_where_clients_put_it() {
    let upstream = Upstream::healthy("Hello");
    let proxy = Config::new().backend(&upstream).server("api_key: client-key").start();
    every(
        [
            ("none", ("", false)),
            ("bearer", ("Authorization: Bearer client-key\r\n", true)),
            ("bearer in small letters", ("authorization: bearer client-key\r\n", true)),
            ("bare", ("Authorization: client-key\r\n", true)),
            ("x-api-key", ("x-api-key: client-key\r\n", true)),
            ("wrong bearer", ("Authorization: Bearer client-kez\r\n", false)),
            ("a prefix", ("Authorization: Bearer client-ke\r\n", false)),
            ("longer", ("Authorization: Bearer client-key1\r\n", false)),
            ("other case", ("Authorization: Bearer CLIENT-KEY\r\n", false)),
            ("empty bearer", ("Authorization: Bearer \r\n", false)),
            ("another scheme", ("Authorization: Basic client-key\r\n", false)),
            ("wrong x-api-key", ("x-api-key: other\r\n", false)),
            (
                "authorization alone is right",
                ("Authorization: Bearer client-key\r\nx-api-key: other\r\n", true),
            ),
            ("x-api-key alone is right", ("Authorization: Bearer other\r\nx-api-key: client-key\r\n", true)),
            ("both are wrong", ("Authorization: Bearer other\r\nx-api-key: client-kez\r\n", false)),
        ],
        |(fields, good)| {
            for (request, path) in [
                (get("/v1/models", fields), "/v1/models"),
                (with_fields(post("/v1/chat/completions", HELLO), fields), "/v1/chat/completions"),
            ] {
                let response = proxy.connect().send(request).try_response(Asked::USUAL)?;
                if good {
                    expect(response.status() == 200, || format!("{path}: {}", response.text()))?;
                } else {
                    expect(response.status() == 401, || {
                        format!("{path}: {} {}", response.status(), response.text())
                    })?;
                    expect(response.try_error()?.1 == "auth_error", || response.text())?;
                    expect(!response.text().contains("client-ke"), || {
                        format!("shows a key: {}", response.text())
                    })?;
                }
            }
            Ok(())
        },
    );
    assert_eq!(upstream.hits(), 6, "refused requests must not reach a provider");
    assert!(!proxy.whole_log().contains("client-ke"), "a client's key in the log");
}

fn with_fields(request: Vec<u8>, fields: &str) -> Vec<u8> {
    String::from_utf8(request).unwrap().replacen("\r\n", &format!("\r\n{fields}"), 1).into_bytes()
}

#[test]
fn unknown_paths_and_methods_are_told_in_json() {
    let (upstream, proxy) = proxy();
    every(
        [
            ("GET /v1/nothing", 404),
            ("POST /v1/embeddings", 404),
            ("POST /v1/completions", 404),
            ("GET /v1/chat", 404),
            ("GET /v1/chat/completionsx", 404),
            ("GET /../etc/passwd", 404),
            ("GET /v1/models/../../x", 404),
            ("GET /%00", 404),
            ("GET /v1/chat/completions", 405),
            ("DELETE /v1/models", 405),
            ("POST /health", 405),
            ("PUT /v1/chat/completions", 405),
        ]
        .map(|(line, status)| (line, (line, status))),
        |(line, status)| {
            let request = format!("{line} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
            let mut connection = proxy.connect();
            let response = connection.send(request).try_response(Asked::USUAL)?;
            response.try_error()?;
            expect(response.status() == status, || format!("{} {}", response.status(), response.text()))?;
            if status == 405 {
                let allow = response.header("allow").unwrap_or_default();
                let right = if line.contains("chat") { "POST" } else { "GET" };
                expect(allow.split(", ").any(|m| m == right), || format!("allow {allow:?}"))?;
            }
            Ok(())
        },
    );
    assert_eq!(upstream.hits(), 0);
}

#[test]
fn a_web_socket_for_responses_is_told_426() {
    let (_upstream, proxy) = proxy();
    let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                  Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for path in ["/v1/responses", "/responses"] {
        let mut connection = proxy.connect();
        let response = connection.send(get(path, fields)).response();
        assert_eq!(response.status(), 426, "{path}");
        response.error();
        if response.head.closes() {
            connection.closed();
        }
    }
}
