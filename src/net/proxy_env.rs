//! Outbound proxies: their URLs, and the environment variables that say which targets go through which.
//!
//! What is not understood is an error and never ignored: it would send traffic around the proxy in silence. Loopback
//! is never proxied. Knows no socket; the environment is a function given by the caller.

use std::fmt;
use std::net::IpAddr;

use crate::url::{ProxyUrl, UrlError};

/// Which target goes through which proxy, as the environment wants it.
#[derive(Debug, Clone, Default)]
pub struct ProxyEnv {
    https: Option<ProxyUrl>,
    http: Option<ProxyUrl>,
    no_proxy: Vec<Exception>,
}

/// A proxy variable that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyEnvError {
    /// Its name.
    pub variable: &'static str,
    /// What is wrong with its value.
    pub why: UrlError,
}

impl fmt::Display for ProxyEnvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "environment variable {} {}", self.variable, self.why)
    }
}

impl std::error::Error for ProxyEnvError {}

impl ProxyEnv {
    /// Reads `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` in either case through `get`.
    ///
    /// Lower case wins, a variable that is set but empty means "no proxy" (both as in curl), and `HTTP_PROXY` does
    /// not count in a CGI process, where a client's `Proxy` header would set it.
    pub fn from_env(get: &dyn Fn(&str) -> Option<String>) -> Result<Self, ProxyEnvError> {
        let first = |names: &[&'static str]| names.iter().find_map(|name| Some((*name, get(name)?)));
        let parse = |found: Option<(&'static str, String)>| match found {
            Some((variable, value)) if !value.trim().is_empty() => {
                ProxyUrl::parse(&value).map(Some).map_err(|why| ProxyEnvError { variable, why })
            }
            _ => Ok(None),
        };
        let is_cgi = get("REQUEST_METHOD").is_some();
        let http_names: &[&str] = if is_cgi { &["http_proxy"] } else { &["http_proxy", "HTTP_PROXY"] };
        let all = || first(&["all_proxy", "ALL_PROXY"]);
        let no_proxy = first(&["no_proxy", "NO_PROXY"]).map(|(_, value)| value).unwrap_or_default();
        Ok(Self {
            https: parse(first(&["https_proxy", "HTTPS_PROXY"]).or_else(all))?,
            http: parse(first(http_names).or_else(all))?,
            no_proxy: no_proxy
                .split(|c: char| c == ',' || c.is_whitespace())
                .filter_map(Exception::parse)
                .collect(),
        })
    }

    /// The proxy for a target, if it goes through one.
    pub fn for_target(&self, tls: bool, host: &str, port: u16) -> Option<&ProxyUrl> {
        let proxy = if tls { self.https.as_ref() } else { self.http.as_ref() }?;
        let host = bare(host);
        let ip = host.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
        let direct =
            is_loopback(&host, ip) || self.no_proxy.iter().any(|exception| exception.covers(&host, ip, port));
        (!direct).then_some(proxy)
    }
}

/// One entry of `NO_PROXY`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Exception {
    All,
    /// The name itself and everything below it.
    Name(String, Option<u16>),
    Ip(IpAddr, Option<u16>),
    /// The first `bits` of an address.
    Net(IpAddr, u8),
}

impl Exception {
    /// `None` for an entry that cannot match anything, as everywhere: other programs share this variable.
    fn parse(entry: &str) -> Option<Self> {
        if entry == "*" {
            return Some(Self::All);
        }
        if let Some((ip, bits)) = entry.split_once('/') {
            let ip: IpAddr = bare(ip).parse().ok()?;
            let bits: u8 = bits.parse().ok()?;
            let most = if ip.is_ipv4() { 32 } else { 128 };
            return (bits <= most).then_some(Self::Net(ip, bits));
        }
        if let Ok(ip) = bare(entry).parse::<IpAddr>() {
            return Some(Self::Ip(ip.to_canonical(), None));
        }
        let (host, port) = split_port(entry)?;
        let host = bare(host);
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Some(Self::Ip(ip.to_canonical(), port));
        }
        let name = host.strip_prefix('*').unwrap_or(&host);
        let name = name.strip_prefix('.').unwrap_or(name);
        (!name.is_empty()).then(|| Self::Name(name.to_owned(), port))
    }

    fn covers(&self, host: &str, ip: Option<IpAddr>, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Name(name, of) => {
                let below = host.strip_suffix(name.as_str());
                ip.is_none()
                    && below.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
                    && of.is_none_or(|of| of == port)
            }
            Self::Ip(excepted, of) => ip == Some(*excepted) && of.is_none_or(|of| of == port),
            Self::Net(net, bits) => ip.is_some_and(|ip| in_net(ip, *net, *bits)),
        }
    }
}

fn in_net(ip: IpAddr, net: IpAddr, bits: u8) -> bool {
    match (ip, net) {
        // A shift by the whole width is None: a prefix of 0 bits covers everything.
        (IpAddr::V4(ip), IpAddr::V4(net)) => {
            let differing = ip.to_bits() ^ net.to_bits();
            differing.checked_shr(32_u32.saturating_sub(bits.into())).unwrap_or(0) == 0
        }
        (IpAddr::V6(ip), IpAddr::V6(net)) => {
            let differing = ip.to_bits() ^ net.to_bits();
            differing.checked_shr(128_u32.saturating_sub(bits.into())).unwrap_or(0) == 0
        }
        _ => false,
    }
}

/// `localhost` by RFC 6761 §6.3, and addresses that reach this machine only (the unspecified one does on Linux).
fn is_loopback(host: &str, ip: Option<IpAddr>) -> bool {
    match ip {
        Some(ip) => ip.is_loopback() || ip.is_unspecified(),
        None => host == "localhost" || host.ends_with(".localhost"),
    }
}

/// A host without brackets and trailing dot, in lower case.
fn bare(host: &str) -> String {
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// Cuts `host`, `host:port`, `[v6]` or `[v6]:port`; the host comes without brackets.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':')?)),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let is_v6 = text.starts_with('[');
    let valid = |b: u8| b.is_ascii_alphanumeric() || b"-._*".contains(&b) || (is_v6 && b == b':');
    if host.is_empty() || !host.bytes().all(valid) {
        return None;
    }
    match port {
        None => Some((host, None)),
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
            Some((host, Some(port.parse().ok().filter(|port| *port != 0)?)))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Result<ProxyEnv, ProxyEnvError> {
        ProxyEnv::from_env(&|name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string())
        })
    }

    #[test]
    fn nothing_shows_the_password() {
        for bad in ["http://me:hunter2@", "me:hunter2://proxy", "http://me:hunter2%@proxy"] {
            let err = env(&[("HTTPS_PROXY", bad)]).unwrap_err();
            assert!(!format!("{err} {err:?}").contains("hunter2"), "{err:?}");
        }
    }

    #[test]
    fn variables() {
        let check = |pairs: &[(&str, &str)], https: Option<&str>, http: Option<&str>| {
            let env = env(pairs).unwrap();
            let host = |tls| env.for_target(tls, "api.example", 443).map(|proxy| proxy.host.as_str());
            assert_eq!((host(true), host(false)), (https, http), "{pairs:?}");
        };
        check(&[], None, None);
        check(&[("HTTPS_PROXY", "a")], Some("a"), None);
        check(&[("HTTP_PROXY", "a")], None, Some("a"));
        check(&[("ALL_PROXY", "a")], Some("a"), Some("a"));
        check(&[("ALL_PROXY", "a"), ("https_proxy", "b")], Some("b"), Some("a"));
        check(&[("HTTPS_PROXY", "a"), ("https_proxy", "b")], Some("b"), None);
        check(&[("all_proxy", "a"), ("ALL_PROXY", "b")], Some("a"), Some("a"));
        check(&[("ALL_PROXY", "a"), ("https_proxy", "")], None, Some("a"));
        check(&[("HTTPS_PROXY", " ")], None, None);
        check(&[("HTTP_PROXY", "a"), ("REQUEST_METHOD", "GET")], None, None);
        check(&[("http_proxy", "a"), ("REQUEST_METHOD", "GET")], None, Some("a"));
        check(&[("HTTP_PROXY", "a"), ("ALL_PROXY", "b"), ("REQUEST_METHOD", "")], Some("b"), Some("b"));
        // Not used, so not wrong.
        check(
            &[("ALL_PROXY", "socks5://s"), ("https_proxy", "a"), ("http_proxy", "b")],
            Some("a"),
            Some("b"),
        );
        check(&[("HTTP_PROXY", "socks5://s"), ("REQUEST_METHOD", "GET")], None, None);
    }

    #[test]
    fn an_unsupported_scheme_names_the_variable() {
        for variable in ["https_proxy", "HTTP_PROXY", "ALL_PROXY"] {
            let text = env(&[(variable, "socks5://proxy:1080")]).unwrap_err().to_string();
            let what = "must be an `http://` proxy; other kinds of proxy are not supported";
            assert_eq!(text, format!("environment variable {variable} {what}"));
        }
    }

    #[test]
    fn no_proxy() {
        let check = |no_proxy: &str, host: &str, port: u16, direct: bool| {
            let env = env(&[("ALL_PROXY", "proxy:1"), ("NO_PROXY", no_proxy)]).unwrap();
            for tls in [true, false] {
                let got = env.for_target(tls, host, port).is_none();
                assert_eq!(got, direct, "NO_PROXY={no_proxy:?} {host}:{port} is direct");
            }
        };
        check("", "api.example", 443, false);
        check("*", "api.example", 443, true);
        check("a, *", "api.example", 443, true);
        for entry in [
            "example.com",
            ".example.com",
            "*.example.com",
            "EXAMPLE.com",
            "x,example.com",
            "x example.com.",
            "a.b , ,\texample.com",
            "example.com:443",
        ] {
            check(entry, "example.com", 443, true);
            check(entry, "api.Example.COM", 443, true);
            check(entry, "api.example.com.", 443, true);
            check(entry, "notexample.com", 443, false);
            check(entry, "example.com.evil", 443, false);
            check(entry, "com", 443, false);
        }
        check("example.com:443", "example.com", 8443, false);
        check("10.1.2.3", "10.1.2.3", 80, true);
        check("10.1.2.3", "10.1.2.30", 80, false);
        check("10.1.2.3:80", "10.1.2.3", 80, true);
        check("10.1.2.3:80", "10.1.2.3", 81, false);
        check("2.3", "10.1.2.3", 80, false);
        check("10.1.2.3", "::ffff:10.1.2.3", 80, true);
        check("fd00::1", "[fd00::1]", 80, true);
        check("FD00:0::1", "fd00::1", 80, true);
        check("[fd00::1]", "fd00::1", 80, true);
        check("[fd00::1]:80", "fd00::1", 80, true);
        check("[fd00::1]:80", "fd00::1", 81, false);
        check("10.0.0.0/8", "10.200.1.1", 80, true);
        check("10.0.0.0/8", "11.0.0.1", 80, false);
        check("10.0.0.0/8", "10.example", 80, false);
        check("192.168.4.0/22", "192.168.7.255", 80, true);
        check("192.168.4.0/22", "192.168.8.0", 80, false);
        check("1.2.3.4/32", "1.2.3.4", 80, true);
        check("1.2.3.4/32", "1.2.3.5", 80, false);
        check("0.0.0.0/0", "8.8.8.8", 80, true);
        check("0.0.0.0/0", "2001:db8::1", 80, false);
        check("fd00::/8", "fdff::1", 80, true);
        check("fd00::/8", "fe00::1", 80, false);
        check("::/0", "2001:db8::1", 80, true);
        check("10.0.0.0/33, 10.0.0.0/x, 10.0.0.0/-1, /8, :80, ., *., %", "10.0.0.1", 80, false);
        for host in [
            "localhost",
            "LOCALHOST.",
            "api.localhost",
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "[::1]",
            "::ffff:127.0.0.1",
            "0.0.0.0",
            "::",
        ] {
            check("", host, 80, true);
        }
        check("", "localhost.example", 80, false);
        check("", "notlocalhost", 80, false);
        check("", "128.0.0.1", 80, false);
    }
}
