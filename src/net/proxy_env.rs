//! Outbound proxies: their URLs, and the environment variables that say which targets go through which.
//!
//! What is not understood is an error and never ignored: it would send traffic around the proxy in silence. Loopback
//! is never proxied. Knows no socket; the environment is a function given by the caller.

use std::fmt;
use std::net::IpAddr;

use crate::secret::Secret;

/// An HTTP proxy. The scheme is always `http`: the way to the proxy itself is in the clear.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProxyUrl {
    /// Name or IP address, lower case, IPv6 without brackets.
    pub host: String,
    /// 80 if the URL names none.
    pub port: u16,
    /// `user:password`, decoded.
    pub credentials: Option<Secret>,
}

impl ProxyUrl {
    /// Reads `http://[user[:password]@]host[:port][/]`; the scheme may be left out.
    pub fn parse(text: &str) -> Result<Self, ProxyUrlError> {
        let text = text.trim();
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            // Anything longer or stranger may be a password.
            Some((scheme, _)) if scheme.len() <= 10 && scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                return Err(ProxyUrlError::Scheme(scheme.to_ascii_lowercase()));
            }
            Some(_) => return Err(ProxyUrlError::Host),
            None => text,
        };
        let (authority, path) = rest.split_once(['/', '?', '#']).unwrap_or((rest, ""));
        // A bare slash in a password, which would make a host of what stands before it.
        if path.contains('@') {
            return Err(ProxyUrlError::Host);
        }
        let (user, address) = match authority.rsplit_once('@') {
            Some((user, address)) => (Some(user), address),
            None => (None, authority),
        };
        let credentials = match user {
            Some(user) if !user.is_empty() => {
                let decoded = percent_decode(user).ok_or(ProxyUrlError::Credentials)?;
                Some(Secret::new(decoded))
            }
            _ => None,
        };
        let (host, port) = split_port(address).ok_or(ProxyUrlError::Host)?;
        Ok(Self { host: host.to_ascii_lowercase(), port: port.unwrap_or(80), credentials })
    }
}

/// What is wrong with the URL of a proxy. Never quotes it: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyUrlError {
    /// `https`, `socks5` and the like.
    Scheme(String),
    /// No usable host or port.
    Host,
    /// A `%` without two hexadecimal digits, or not UTF-8.
    Credentials,
}

impl fmt::Display for ProxyUrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scheme(scheme) => write!(f, "{scheme}:// proxies are not supported, use http://HOST:PORT"),
            Self::Host => f.write_str("not the URL of a proxy, use http://[USER:PASSWORD@]HOST:PORT"),
            Self::Credentials => f.write_str("user or password is not percent-encoded UTF-8"),
        }
    }
}

impl std::error::Error for ProxyUrlError {}

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
    pub why: ProxyUrlError,
}

impl fmt::Display for ProxyEnvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "environment variable {}: {}", self.variable, self.why)
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

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        // Two hexadecimal digits are at most 255.
        decoded.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
    }
    String::from_utf8(decoded).ok()
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
    fn urls() {
        let check = |text: &str, expect: Result<(&str, u16, Option<&str>), ProxyUrlError>| {
            let got = ProxyUrl::parse(text);
            let got = got.as_ref().map(|url| {
                (url.host.as_str(), url.port, url.credentials.as_ref().map(|secret| secret.expose()))
            });
            assert_eq!(got, expect.as_ref().copied(), "{text}");
        };
        let scheme = |scheme: &str| Err(ProxyUrlError::Scheme(scheme.to_owned()));
        check("http://proxy.example:3128", Ok(("proxy.example", 3128, None)));
        check(" HTTP://Proxy.Example:3128/ ", Ok(("proxy.example", 3128, None)));
        check("proxy:8080", Ok(("proxy", 8080, None)));
        check("proxy", Ok(("proxy", 80, None)));
        check("10.1.2.3:8080", Ok(("10.1.2.3", 8080, None)));
        check("http://[::1]:8080", Ok(("::1", 8080, None)));
        check("[::1]", Ok(("::1", 80, None)));
        check("http://me:s%40c%3Aret@proxy:1", Ok(("proxy", 1, Some("me:s@c:ret"))));
        check("me:p@ss@proxy:1", Ok(("proxy", 1, Some("me:p@ss"))));
        check("http://me@proxy", Ok(("proxy", 80, Some("me"))));
        check("http://@proxy", Ok(("proxy", 80, None)));
        check("http://me:%C3%BC@proxy", Ok(("proxy", 80, Some("me:ü"))));
        check("socks5://proxy:1080", scheme("socks5"));
        check("SOCKS5h://proxy:1080", scheme("socks5h"));
        check("https://proxy:443", scheme("https"));
        check("user:secret://proxy", Err(ProxyUrlError::Host));
        check("averyverylongpassword://proxy", Err(ProxyUrlError::Host));
        for bad in [
            "",
            "http://",
            "http://:80",
            "proxy:0",
            "proxy:65536",
            "proxy:",
            "proxy:+1",
            "::1:80",
            "a b",
            "http://[::1",
            "http://[::1]80",
            "u:pa/ss@proxy:1",
            "proxy\r\nx:1",
            "[]:1",
            "http://пр:1",
        ] {
            check(bad, Err(ProxyUrlError::Host));
        }
        for bad in ["http://u:%4@proxy", "http://u:%@proxy", "http://u:%zz@proxy", "http://u:%ff@proxy"] {
            check(bad, Err(ProxyUrlError::Credentials));
        }
    }

    #[test]
    fn nothing_shows_the_password() {
        let url = ProxyUrl::parse("http://me:hunter2@proxy").unwrap();
        assert!(!format!("{url:?}").contains("hunter2"));
        for bad in ["http://me:hunter2@", "me:hunter2://proxy", "http://me:hunter2%@proxy", "hunter2/:@x"] {
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
            assert_eq!(
                text,
                format!(
                    "environment variable {variable}: socks5:// proxies are not supported, use http://HOST:PORT"
                )
            );
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
