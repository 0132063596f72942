//! What Keylime reads in a text.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Python's truth values in configuration files.
pub(super) fn flag(text: &str) -> Option<bool> {
    match text.to_lowercase().as_str() {
        "1" | "yes" | "true" | "on" => Some(true),
        "0" | "no" | "false" | "off" => Some(false),
        _ => None,
    }
}

/// Seconds, whole or not, as whole ones: more of them rather than fewer.
pub(super) fn seconds(text: &str, max: u64) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let is_more = part.bytes().any(|byte| byte != b'0');
    let seconds = whole.checked_add(u64::from(is_more))?;
    (seconds <= max).then_some(seconds)
}

/// An address to listen on.
pub(super) fn socket(ip: &str, port: &str) -> Option<SocketAddr> {
    let ip = match ip {
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        ip => ip.parse().ok()?,
    };
    let port: u16 = port.parse().ok().filter(|port| *port > 0)?;
    Some(SocketAddr::new(ip, port))
}

/// A URL without its password.
pub(super) fn without_password(url: &str) -> String {
    let hidden = || {
        let (scheme, rest) = url.split_once("://")?;
        let (login, place) = rest.rsplit_once('@')?;
        let (user, _) = login.split_once(':')?;
        Some(format!("{scheme}://{user}@{place}"))
    };
    let url = hidden().unwrap_or_else(|| url.to_owned());
    match url.split_once("password=") {
        Some((before, _)) => format!("{before}password=…"),
        None => url,
    }
}

/// The names in a list of Python's, `['agent', 'zeromq']`.
pub(super) fn names(text: &str) -> impl Iterator<Item = &str> {
    let is_around = |c: char| c.is_whitespace() || "[]()'\"".contains(c);
    let names = text
        .split(',')
        .map(move |name| name.trim_matches(is_around));
    names.filter(|name| !name.is_empty())
}

/// A text as TOML writes it.
pub(super) fn toml(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(character);
            }
            other if other.is_control() => {
                quoted.push_str(&format!("\\u{:04X}", u32::from(other)));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_mean_what_python_takes_them_for() {
        assert_eq!(
            [flag("True"), flag("OFF"), flag("2")],
            [Some(true), Some(false), None]
        );
        assert_eq!(seconds("2", 10), Some(2));
        assert_eq!(seconds("0.25", 10), Some(1));
        assert_eq!(seconds("60.0", 60), Some(60));
        for text in [
            "",
            "-1",
            "1e3",
            "inf",
            "11",
            "1.x",
            "18446744073709551615.5",
        ] {
            assert_eq!(seconds(text, 10), None, "{text}");
        }
        assert!(socket("0.0.0.0", "8881").is_some() && socket("::1", "1").is_some());
        assert!(socket("host", "1").is_none() && socket("::1", "0").is_none());
    }

    #[test]
    fn no_password_is_shown_and_no_text_ends_its_quotes() {
        let shown = without_password("postgresql://u:s3cret@h/kl?x=1");
        assert_eq!(shown, "postgresql://u@h/kl?x=1");
        assert_eq!(
            without_password("postgresql:///kl?password=s3cret"),
            "postgresql:///kl?password=…"
        );
        assert_eq!(without_password("sqlite"), "sqlite");
        assert_eq!(toml("a\"\\\n"), "\"a\\\"\\\\\\u000A\"");
    }
}
