//! The URLs of the configuration: where a provider is, where a proxy is. Refuses what it would have to guess, and
//! never shows the text it was given: keys and passwords end up in URLs.

use crate::limits::URL_BYTES_MAX;
use crate::secret::Secret;
use std::fmt;
use std::net::Ipv6Addr;

/// Where a provider's API is: `{scheme}://{host}:{port}{path}`, to which the endpoint's path is appended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BaseUrl {
    /// `https`.
    pub tls: bool,
    /// Name or address in lower case, IPv6 without brackets.
    pub host: String,
    /// TCP port, 1 to 65535.
    pub port: u16,
    /// Empty, or starts with a slash and does not end with one.
    pub path: String,
}

/// An HTTP proxy that is asked to `CONNECT`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProxyUrl {
    /// Name or address in lower case, IPv6 without brackets.
    pub host: String,
    /// TCP port, 1 to 65535.
    pub port: u16,
    /// `user:password` with percent-encoding removed, as `Proxy-Authorization: Basic` wants it.
    pub credentials: Option<Secret>,
}

/// Why a URL was refused. Each has one remedy, told by `Display`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UrlError {
    /// Longer than [`URL_BYTES_MAX`].
    TooLong,
    /// Neither `https://` nor `http://`.
    Scheme,
    /// A proxy that is reached by another protocol than plain HTTP.
    ProxyScheme,
    /// `user@` in the URL of a provider.
    UserInfo,
    /// Broken percent-encoding or control characters in `user:password@`.
    Credentials,
    /// A `?` or `#` part.
    Query,
    /// Empty, or with characters that no host name has.
    Host,
    /// Not a number from 1 to 65535.
    Port,
    /// Spaces, placeholders in braces, or other characters a path must not have.
    Path,
    /// A proxy has no path.
    ProxyPath,
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "is too long for a URL; give the base of the API only",
            Self::Scheme => "must start with `https://` or `http://`",
            Self::ProxyScheme => "must be an `http://` proxy; other kinds of proxy are not supported",
            Self::UserInfo => "must not contain `user@`; put the key into `api_key`",
            Self::Credentials => "has a malformed `user:password@`; percent-encode special characters",
            Self::Query => "must not contain `?` or `#`; give the base of the API only",
            Self::Host => {
                "has no valid host name; international names in their `xn--` form, IPv6 in brackets"
            }
            Self::Port => "has no valid port; it must be a number from 1 to 65535",
            Self::Path => "contains characters a URL must not have, or a `{placeholder}` to replace",
            Self::ProxyPath => "must not have a path; write `http://host:port`",
        })
    }
}

impl std::error::Error for UrlError {}

impl BaseUrl {
    /// Reads an absolute `http` or `https` URL. A trailing slash and a whole `/chat/completions` are cut off, as
    /// people paste both; `/v1` is never added, as many APIs have another root.
    ///
    /// # Errors
    /// User info, query, fragment, another scheme, no host, port 0, or characters that do not belong there.
    pub fn parse(text: &str) -> Result<BaseUrl, UrlError> {
        let (scheme, rest) = split_scheme(text)?;
        let tls = match scheme {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(UrlError::Scheme),
        };
        if rest.contains(['?', '#']) {
            return Err(UrlError::Query);
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(UrlError::UserInfo);
        }
        let (host, port) = host_and_port(authority)?;
        if !path.bytes().all(|b| b.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&b)) {
            return Err(UrlError::Path);
        }
        let path = path.trim_end_matches('/');
        let path = path.strip_suffix("/chat/completions").unwrap_or(path).trim_end_matches('/');
        Ok(BaseUrl { tls, host, port: port.unwrap_or(if tls { 443 } else { 80 }), path: path.to_owned() })
    }

    /// The value of the `Host` field (RFC 9110 §7.2): without the scheme's default port, IPv6 in brackets.
    pub fn host_header(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == if self.tls { 443 } else { 80 } { host } else { format!("{host}:{}", self.port) }
    }
}

impl ProxyUrl {
    /// Reads `http://[user[:password]@]host[:port][/]`; the scheme may be missing, as in proxy variables. The port
    /// is 80 unless given.
    ///
    /// # Errors
    /// Another scheme, a path, no host, port 0, or malformed credentials.
    pub fn parse(text: &str) -> Result<ProxyUrl, UrlError> {
        let (scheme, rest) = split_scheme(text)?;
        if !matches!(scheme, None | Some("http")) {
            return Err(UrlError::ProxyScheme);
        }
        // A password may hold anything but a raw `@` after which the host comes, so cut at the last one.
        let (credentials, rest) = match rest.rsplit_once('@') {
            Some((credentials, rest)) => (Some(credentials), rest),
            None => (None, rest),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#']) {
            return Err(UrlError::ProxyPath);
        }
        let (host, port) = host_and_port(authority)?;
        let credentials = match credentials {
            None => None,
            Some(text) => {
                let (user, password) = text.split_once(':').unwrap_or((text, ""));
                // RFC 7617 §2: the user name ends at the first colon.
                let user = percent_decode(user)?;
                if user.contains(':') {
                    return Err(UrlError::Credentials);
                }
                Some(Secret::new(format!("{user}:{}", percent_decode(password)?)))
            }
        };
        Ok(ProxyUrl { host, port: port.unwrap_or(80), credentials })
    }
}

/// The scheme, if it is one we know (others are reported as `""`), and what follows `://`.
fn split_scheme(text: &str) -> Result<(Option<&'static str>, &str), UrlError> {
    let text = text.trim();
    if text.len() > URL_BYTES_MAX {
        return Err(UrlError::TooLong);
    }
    Ok(match text.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Some("https"), rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Some("http"), rest),
        Some((_, rest)) => (Some(""), rest),
        None => (None, text),
    })
}

fn host_and_port(authority: &str) -> Result<(String, Option<u16>), UrlError> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or(UrlError::Host)?;
        let address: Ipv6Addr = host.parse().map_err(|_| UrlError::Host)?;
        let port = match after.strip_prefix(':') {
            Some(port) => Some(port),
            None if after.is_empty() => None,
            None => return Err(UrlError::Host),
        };
        (address.to_string(), port)
    } else {
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        };
        // One trailing dot is a legal, fully qualified name (RFC 3986 §3.2.2), but certificates do not have it.
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let label_ok = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        };
        if host.len() > 253 || !host.split('.').all(label_ok) {
            return Err(UrlError::Host);
        }
        (host, port)
    };
    let port = match port {
        None => None,
        Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            Some(digits.parse::<u16>().ok().filter(|&port| port != 0).ok_or(UrlError::Port)?)
        }
        Some(_) => return Err(UrlError::Port),
    };
    Ok((host, port))
}

/// RFC 3986 §2.1. The result goes into a header, so it must be UTF-8 without control characters (RFC 7617 §2).
fn percent_decode(text: &str) -> Result<String, UrlError> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit =
            || bytes.next().and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        let (high, low) = (digit().ok_or(UrlError::Credentials)?, digit().ok_or(UrlError::Credentials)?);
        // Both are below 16.
        decoded.push(high << 4 | low);
    }
    String::from_utf8(decoded)
        .ok()
        .filter(|text| !text.contains(char::is_control))
        .ok_or(UrlError::Credentials)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<(bool, &str, u16, &str), UrlError>) {
        let url = BaseUrl::parse(text);
        let found = url.as_ref().map(|u| (u.tls, u.host.as_str(), u.port, u.path.as_str())).map_err(|e| *e);
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn bases_as_people_write_them() {
        for text in [
            "https://api.x.ai/v1",
            "https://api.x.ai/v1/",
            " https://API.x.ai:443/v1// ",
            "HTTPS://api.x.ai/v1/chat/completions",
            "https://api.x.ai/v1/chat/completions/",
            "https://api.x.ai./v1",
        ] {
            check(text, Ok((true, "api.x.ai", 443, "/v1")));
        }
        check("https://api.deepseek.com", Ok((true, "api.deepseek.com", 443, "")));
        check("https://a.b/v1beta/openai/", Ok((true, "a.b", 443, "/v1beta/openai")));
        check("http://localhost:11434/", Ok((false, "localhost", 11434, "")));
        check("http://my_box:1/%7Euser/v1", Ok((false, "my_box", 1, "/%7Euser/v1")));
        check("http://[::1]:8080/v1", Ok((false, "::1", 8080, "/v1")));
        check("http://[2001:DB8:0::1]", Ok((false, "2001:db8::1", 80, "")));
        check("https://a.b/chat/completions", Ok((true, "a.b", 443, "")));
    }

    #[test]
    fn bases_that_are_refused() {
        use UrlError as E;
        for (text, error) in [
            ("", E::Scheme),
            ("api.x.ai/v1", E::Scheme),
            ("ftp://a/", E::Scheme),
            ("https:/a", E::Scheme),
            ("https://", E::Host),
            ("https:///v1", E::Host),
            ("https://:443/v1", E::Host),
            ("https://user:pw@a/v1", E::UserInfo),
            ("https://a/v1?key=1", E::Query),
            ("https://a?key=1", E::Query),
            ("https://a/v1#x", E::Query),
            ("https://a:0/", E::Port),
            ("https://a:/", E::Port),
            ("https://a:+1/", E::Port),
            ("https://a:65536/", E::Port),
            ("https://a:1:2/", E::Port),
            ("https://a b/", E::Host),
            ("https://a..b/", E::Host),
            ("https://.a/", E::Host),
            ("https://bücher.example/", E::Host),
            ("https://a\\b/", E::Host),
            ("https://[::1", E::Host),
            ("https://[::1]x/", E::Host),
            ("https://[fe80::1%eth0]/", E::Host),
            ("https://a/v 1", E::Path),
            ("https://a/\r\nx", E::Path),
            ("https://a/{ACCOUNT_ID}/v1", E::Path),
        ] {
            check(text, Err(error));
        }
        let long = format!("https://a/{}", "x".repeat(URL_BYTES_MAX - 10));
        assert!(BaseUrl::parse(&long).is_ok());
        check(&format!("{long}x"), Err(E::TooLong));
    }

    #[test]
    fn host_header_leaves_out_the_default_port() {
        for (text, header) in [
            ("https://a.b/v1", "a.b"),
            ("https://a.b:80", "a.b:80"),
            ("http://a.b:80", "a.b"),
            ("http://[::1]:8080", "[::1]:8080"),
            ("http://[::1]", "[::1]"),
        ] {
            assert_eq!(BaseUrl::parse(text).unwrap().host_header(), header, "{text}");
        }
    }

    #[track_caller]
    fn check_proxy(text: &str, expected: Result<(&str, u16, Option<&str>), UrlError>) {
        let url = ProxyUrl::parse(text);
        let found = url
            .as_ref()
            .map(|u| (u.host.as_str(), u.port, u.credentials.as_ref().map(Secret::expose)))
            .map_err(|e| *e);
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn proxies() {
        use UrlError as E;
        check_proxy("http://proxy:3128", Ok(("proxy", 3128, None)));
        check_proxy("proxy:3128/", Ok(("proxy", 3128, None)));
        check_proxy("HTTP://Proxy", Ok(("proxy", 80, None)));
        check_proxy("http://u:p%40s%3as@[::1]:1", Ok(("::1", 1, Some("u:p@s:s"))));
        check_proxy("u@h:1", Ok(("h", 1, Some("u:"))));
        check_proxy("http://u:p@w@h:1", Ok(("h", 1, Some("u:p@w"))));
        check_proxy("http://u:p/w@h:1", Ok(("h", 1, Some("u:p/w"))));
        check_proxy("socks5://h:1", Err(E::ProxyScheme));
        check_proxy("https://h:1", Err(E::ProxyScheme));
        check_proxy("http://h:1/x", Err(E::ProxyPath));
        check_proxy("http://u:%0d%0a@h:1", Err(E::Credentials));
        check_proxy("http://u:%4@h:1", Err(E::Credentials));
        check_proxy("http://u:%+4@h:1", Err(E::Credentials));
        check_proxy("http://u%3a:p@h:1", Err(E::Credentials));
        check_proxy("http://u:%ff@h:1", Err(E::Credentials));
        check_proxy("http://h:0", Err(E::Port));
        check_proxy("", Err(E::Host));
    }

    #[test]
    fn nothing_of_the_url_is_shown() {
        let text = format!("{:?}", ProxyUrl::parse("http://MARKER:MARKER@h:1"));
        assert!(!text.contains("MARKER"), "{text}");
    }
}
