//! Paths and queries, made of what operators type.

use std::fmt::Write;

use thiserror::Error;

/// A name that is longer stands in no address of the server.
const SEGMENT_BYTES_MAX: usize = 256;

/// A path and its query, each part percent-encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address(String);

/// Why a name cannot stand in an address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum AddressError {
    /// It would mean another address.
    #[error("`{0}` is no name on the server")]
    Segment(String),
    /// It is too long.
    #[error("a name on the server has {SEGMENT_BYTES_MAX} bytes at most")]
    TooLong,
}

impl Address {
    /// An address of ours.
    pub(crate) fn new(path: &'static str) -> Self {
        Self(path.to_owned())
    }

    /// The address that a server gave for the next page of this one: the same path, another query.
    /// Anything else is none.
    pub(crate) fn next(&self, target: &str) -> Option<Self> {
        let (path, _) = target.split_once('?')?;
        let is_plain = target.bytes().all(|byte| byte.is_ascii_graphic());
        let is_next = path == self.path() && is_plain && target != self.0;
        is_next.then(|| Self(target.to_owned()))
    }

    /// The address of what has this name below this one.
    ///
    /// # Errors
    /// [`AddressError`]: `..` and the like never walk to another route.
    pub(crate) fn child(mut self, name: &str) -> Result<Self, AddressError> {
        if name.len() > SEGMENT_BYTES_MAX {
            return Err(AddressError::TooLong);
        }
        if matches!(name, "" | "." | "..") {
            return Err(AddressError::Segment(name.to_owned()));
        }
        if !self.0.ends_with('/') {
            self.0.push('/');
        }
        encode(&mut self.0, name);
        Ok(self)
    }

    /// The same, with a parameter when there is a value for it.
    pub(crate) fn with(mut self, name: &str, value: Option<&str>) -> Self {
        if let Some(value) = value {
            self.0.push(if self.0.contains('?') { '&' } else { '?' });
            encode(&mut self.0, name);
            self.0.push('=');
            encode(&mut self.0, value);
        }
        self
    }

    /// All of it.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Without the query.
    pub(crate) fn path(&self) -> &str {
        self.0.split_once('?').map_or(&self.0, |(path, _)| path)
    }
}

/// RFC 3986, 2.3: what is unreserved stays.
fn encode(encoded: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            // Writing to a String cannot fail.
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x07_names_never_leave_their_place() {
        let agents = Address::new("/agents");
        let agent = |name: &str| agents.clone().child(name);
        assert_eq!(agent("a-1").unwrap().as_str(), "/agents/a-1");
        let hostile = agent("../policies?x#\r\n y").unwrap();
        assert_eq!(hostile.as_str(), "/agents/..%2Fpolicies%3Fx%23%0D%0A%20y");
        for name in ["", ".", ".."] {
            assert_eq!(agent(name), Err(AddressError::Segment(name.to_owned())));
        }
        assert_eq!(agent(&"a".repeat(300)), Err(AddressError::TooLong));
        let filtered = Address::new("/agents/")
            .with("group", Some("a&b"))
            .with("status", None)
            .with("limit", Some("5"));
        assert_eq!(filtered.as_str(), "/agents/?group=a%26b&limit=5");
        assert_eq!(filtered.path(), "/agents/");
    }

    #[test]
    fn a_server_leads_to_no_other_path() {
        let page = Address::new("/agents/").with("limit", Some("2"));
        let next = page.next("/agents/?limit=2&after=b").unwrap();
        assert_eq!(next.as_str(), "/agents/?limit=2&after=b");
        for elsewhere in [
            "https://evil.example/agents/?after=b",
            "//evil.example/agents/?after=b",
            "/users?after=b",
            "/agents/",
            "/agents/?limit=2",
            "/agents/?after=b\u{e9}",
            "/agents/?after=b c",
        ] {
            assert_eq!(page.next(elsewhere), None, "{elsewhere}");
        }
    }
}
