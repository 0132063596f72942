//! Versions of the API that Keylime's agents serve.

use std::fmt;

use serde::Deserialize;

use super::failure::Failure;

/// A version that ratd can speak to an agent, oldest first. (keylime.md section 3)
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AgentVersion {
    /// 2.1
    V2_1,
    /// 2.2
    V2_2,
    /// 2.3
    V2_3,
    /// 2.4
    V2_4,
    /// 2.5
    V2_5,
    /// 2.6
    V2_6,
}

impl AgentVersion {
    /// All of them, oldest first.
    pub const ALL: [Self; 6] = [
        Self::V2_1,
        Self::V2_2,
        Self::V2_3,
        Self::V2_4,
        Self::V2_5,
        Self::V2_6,
    ];

    /// As it stands in paths, after a `v`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V2_1 => "2.1",
            Self::V2_2 => "2.2",
            Self::V2_3 => "2.3",
            Self::V2_4 => "2.4",
            Self::V2_5 => "2.5",
            Self::V2_6 => "2.6",
        }
    }

    /// The version of this name; `None` for those that ratd does not speak.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|version| version.as_str() == name)
    }
}

impl fmt::Display for AgentVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Deserialize)]
struct Envelope {
    results: Results,
}

/// Older agents name the newest version alone.
#[derive(Deserialize)]
struct Results {
    #[serde(default)]
    supported_version: Option<String>,
    #[serde(default)]
    supported_versions: Option<Vec<String>>,
}

/// The newest version that an answer to `GET /version` and ratd have in common.
///
/// # Errors
/// [`Failure::Malformed`], [`Failure::Version`].
///
/// # Security
/// `body` is the sender's word; `least` is what keeps it from talking an agent that attested down
/// to an older version.
pub fn common_version(body: &[u8], least: Option<AgentVersion>) -> Result<AgentVersion, Failure> {
    let said: Envelope =
        serde_json::from_slice(body).map_err(|_| Failure::Malformed("its versions"))?;
    let Results {
        supported_version,
        supported_versions,
    } = said.results;
    let named = supported_versions.unwrap_or_default();
    let common = named
        .iter()
        .chain(&supported_version)
        .filter_map(|name| AgentVersion::parse(name))
        .max()
        .ok_or(Failure::Version)?;
    match least {
        Some(least) if common < least => Err(Failure::Downgrade),
        _ => Ok(common),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn said(results: &str, least: Option<AgentVersion>) -> Result<AgentVersion, Failure> {
        let body = format!(r#"{{"code":200,"status":"Success","results":{results}}}"#);
        common_version(body.as_bytes(), least)
    }

    #[test]
    fn the_newest_common_version_is_spoken() {
        let both = r#"{"supported_version":"2.2","supported_versions":["2.1","2.6","9.9"]}"#;
        assert_eq!(said(both, None), Ok(AgentVersion::V2_6));
        let old = r#"{"supported_version":"2.2"}"#;
        assert_eq!(said(old, None), Ok(AgentVersion::V2_2));
        for version in AgentVersion::ALL {
            assert_eq!(AgentVersion::parse(&version.to_string()), Some(version));
        }
    }

    #[test]
    fn what_is_not_common_and_what_is_older_is_refused() {
        for none in [
            "{}",
            r#"{"supported_version":"1.0"}"#,
            r#"{"supported_versions":["3.0"]}"#,
        ] {
            assert_eq!(said(none, None), Err(Failure::Version));
        }
        let old = r#"{"supported_version":"2.2"}"#;
        assert_eq!(said(old, Some(AgentVersion::V2_3)), Err(Failure::Downgrade));
        assert_eq!(said(old, Some(AgentVersion::V2_2)), Ok(AgentVersion::V2_2));
        for no_json in ["", "[]", r#"{"results":7}"#] {
            let refused = common_version(no_json.as_bytes(), None);
            assert_eq!(refused, Err(Failure::Malformed("its versions")));
        }
    }
}
