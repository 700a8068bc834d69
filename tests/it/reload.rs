//! What a reload keeps and what it forgets.

use crate::harness::*;

/// Reloads and waits until it is done.
fn reload(proxy: &Proxy, yaml: &str) {
    let before = proxy.log_lines();
    proxy.reload(yaml);
    proxy.wait_for_log(before, |line| line.contains("configuration reloaded"));
}

#[test]
fn benches_outlive_a_reload_and_a_new_key_begins_anew() {
    let keyed = Upstream::answering(|r| match r.header("authorization") {
        Some("Bearer sk-secret-alpha") => status(401).error("no such key"),
        _ => good_answer(r, "new key"),
    });
    let limited = Upstream::replies([status(429).header("retry-after", "500").error("slow down")]);
    let rescue = Upstream::healthy("rescue");
    let config = Config::new().backend(&keyed).backend(&limited).backend(&rescue);
    let proxy = config.clone().start();
    proxy.chat(HELLO).check_answer("rescue").unwrap();
    reload(&proxy, &config.clone().top("keep_cycles: 2").yaml());
    proxy.chat(HELLO).check_answer("rescue").unwrap();
    assert_eq!((keyed.hits(), limited.hits()), (1, 1), "asked again in spite of their benches");
    reload(&proxy, &config.yaml().replace("sk-secret-alpha", "sk-secret-new"));
    proxy.chat(HELLO).check_answer("new key").unwrap();
    assert_eq!((keyed.hits(), limited.hits()), (2, 1));
}

#[test]
fn who_shares_a_key_or_an_account_shares_its_benches() {
    let url = |upstream: &Upstream| Backend::from(upstream).provider("openai");
    // A refused key: nobody asks with it again, whatever the model; another key is another matter.
    let upstream = Upstream::replies([status(401).error("no such key")]);
    let rescue = Upstream::healthy("rescue");
    let config = Config::new().backend(url(&upstream)).backend(url(&upstream)).backend(url(&upstream));
    let yaml = config.backend(&rescue).yaml().replace("sk-secret-beta", "sk-secret-alpha");
    let proxy = Proxy::start(&yaml);
    for _ in 0..2 {
        proxy.chat(HELLO).check_answer("rescue").unwrap();
    }
    assert_eq!(upstream.hits(), 2, "once for each key");
    // No credit: the account has none, whatever the key.
    let upstream = Upstream::replies([status(402).error("Insufficient balance")]);
    let member = || url(&upstream).line("account: mine");
    let config = Config::new().backend(member()).backend(member()).backend(url(&upstream)).backend(&rescue);
    let proxy = config.start();
    for _ in 0..2 {
        proxy.chat(HELLO).check_answer("rescue").unwrap();
    }
    assert_eq!(upstream.hits(), 2, "once for each account");
}
