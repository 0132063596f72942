//! Where a webhook is.

use std::fmt;
use std::net::IpAddr;

use hyper::Uri;
use thiserror::Error;

use crate::limits::WEBHOOK_URL_CHARACTERS_MAX;

/// Whether TLS is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Scheme {
    Https,
    /// Only to this machine, and only when the operator says so.
    PlainHttp,
}

/// A receiver's URL, in its parts.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) scheme: Scheme,
    /// A name, or an address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Path and query, as they are requested.
    pub(super) target: String,
}

/// Why a text is no URL of a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum EndpointError {
    #[error("is no URL of the form https://host[:port]/path")]
    Form,
    #[error("is longer than {WEBHOOK_URL_CHARACTERS_MAX} characters")]
    TooLong,
    #[error("holds a user name: receivers know the server by its signatures")]
    UserInfo,
    #[error("must begin with https://, or be at a loopback address beside plain_http = true")]
    Plain,
}

const HTTPS_PORT: u16 = 443;
const HTTP_PORT: u16 = 80;

impl Endpoint {
    pub(super) fn parse(text: &str, may_be_plain: bool) -> Result<Self, EndpointError> {
        if text.len() > WEBHOOK_URL_CHARACTERS_MAX {
            return Err(EndpointError::TooLong);
        }
        if text.contains('#') {
            return Err(EndpointError::Form);
        }
        let uri: Uri = text.parse().map_err(|_| EndpointError::Form)?;
        let scheme = match uri.scheme_str() {
            Some("https") => Scheme::Https,
            Some("http") => Scheme::PlainHttp,
            _ => return Err(EndpointError::Form),
        };
        let authority = uri.authority().ok_or(EndpointError::Form)?;
        if authority.as_str().contains('@') {
            return Err(EndpointError::UserInfo);
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        if host.is_empty() {
            return Err(EndpointError::Form);
        }
        let is_plain = scheme == Scheme::PlainHttp;
        if is_plain && !(may_be_plain && is_this_machine(&host)) {
            return Err(EndpointError::Plain);
        }
        let default = match scheme {
            Scheme::Https => HTTPS_PORT,
            Scheme::PlainHttp => HTTP_PORT,
        };
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => default,
            // By hand: `Authority` takes a port that is none for no port.
            Some(rest) => port(rest).ok_or(EndpointError::Form)?,
            None => return Err(EndpointError::Form),
        };
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        Ok(Self {
            scheme,
            host,
            port,
            target: if target.is_empty() { "/" } else { target }.to_owned(),
        })
    }

    /// Host and port as the `Host` header has them.
    pub(super) fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        let host = match host.contains(':') {
            true => format!("[{host}]"),
            false => host.clone(),
        };
        match (self.scheme, *port) {
            (Scheme::Https, HTTPS_PORT) | (Scheme::PlainHttp, HTTP_PORT) => host,
            _ => format!("{host}:{port}"),
        }
    }

    /// The URL as people may see it: a query may hold a secret.
    pub(super) fn shown(&self) -> String {
        let scheme = match self.scheme {
            Scheme::Https => "https",
            Scheme::PlainHttp => "http",
        };
        let path = self.target.split('?').next().unwrap_or_default();
        format!("{scheme}://{}{path}", self.authority())
    }
}

/// The port of `:port`.
fn port(text: &str) -> Option<u16> {
    let digits = text.strip_prefix(':')?;
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|port| is_plain && *port > 0)
}

/// Never the query.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

/// Whether a host as it is written is this machine; a name that leads here is not enough.
fn is_this_machine(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse()
            .is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        Endpoint::parse(text, false).unwrap().shown()
    }

    #[test]
    fn x08_a_url_is_shown_without_its_query() {
        let url = "https://hooks.example.com/ratd?token=secret";
        let endpoint = Endpoint::parse(url, false).unwrap();
        assert_eq!(endpoint.target, "/ratd?token=secret");
        assert_eq!(endpoint.shown(), "https://hooks.example.com/ratd");
        assert!(!format!("{endpoint:?}").contains("secret"));
        assert_eq!(shown("https://a"), "https://a/");
        assert_eq!(shown("https://a:8443/x"), "https://a:8443/x");
        assert_eq!(
            shown("https://[2001:db8::1]:444/"),
            "https://[2001:db8::1]:444/"
        );
    }

    #[test]
    fn a05_plain_http_is_for_this_machine_and_whoever_says_so() {
        use EndpointError::{Form, Plain, UserInfo};
        for (url, may_be_plain, expected) in [
            ("http://127.0.0.1:9000/", true, Ok(())),
            ("http://127.9.9.9/", true, Ok(())),
            ("http://[::1]:9000/", true, Ok(())),
            ("http://localhost/", true, Ok(())),
            ("https://a/", true, Ok(())),
            ("http://127.0.0.1:9000/", false, Err(Plain)),
            ("http://example.com/", false, Err(Plain)),
            ("http://example.com/", true, Err(Plain)),
            ("http://10.0.0.1/", true, Err(Plain)),
            ("http://localhost.example.com/", true, Err(Plain)),
            ("http://2130706433/", true, Err(Plain)),
            ("ftp://a/", true, Err(Form)),
            ("a:8001", true, Err(Form)),
            ("https://", false, Err(Form)),
            ("https://:443/", false, Err(Form)),
            ("https://a:0/", false, Err(Form)),
            ("https://a:99999/", false, Err(Form)),
            ("https://a:/", false, Err(Form)),
            ("https://a:+1/", false, Err(Form)),
            ("https://a/#fragment", false, Err(Form)),
            ("https://user@a/", false, Err(UserInfo)),
            ("https://user:secret@a/", false, Err(UserInfo)),
            ("https://a\r\nx: y/", false, Err(Form)),
            ("", false, Err(Form)),
        ] {
            let parsed = Endpoint::parse(url, may_be_plain).map(drop);
            assert_eq!(parsed, expected, "{url:?}");
        }
        let long = format!("https://a/{}", "x".repeat(WEBHOOK_URL_CHARACTERS_MAX));
        assert_eq!(Endpoint::parse(&long, false), Err(EndpointError::TooLong));
    }
}
