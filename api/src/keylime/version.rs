//! The version of Keylime's API that a path begins with.

/// Every version that is told to clients, oldest first.
pub(super) const SUPPORTED: [&str; 9] = [
    "1.0", "2.0", "2.1", "2.2", "2.3", "2.4", "2.5", "2.6", "3.0",
];
/// The version that is told to be the present one.
pub(super) const CURRENT: &str = "2.6";

/// A version by what its routes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Major {
    /// Any of 2.0 to 2.6.
    V2,
    /// 3.0.
    V3,
}

impl Major {
    /// Reads `v2.6`, `2.6`, or `v2` for the newest of these. `None` for what is not spoken; 1.0 is
    /// told to clients, and has no routes.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let version = match text.strip_prefix('v').unwrap_or(text) {
            "2" => CURRENT,
            "3" => "3.0",
            other => SUPPORTED.into_iter().find(|known| *known == other)?,
        };
        match version.split_once('.')?.0 {
            "2" => Some(Self::V2),
            "3" => Some(Self::V3),
            _ => None,
        }
    }
}

/// A version that is spoken here where evidence is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ApiVersion {
    /// 2.4: evidence is verified.
    V2_4,
    /// 2.5: `valid` is a boolean, and claims are given back.
    V2_5,
    /// 2.6: nothing else here.
    V2_6,
}

/// Why a version is not spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum VersionFault {
    /// It is no version, or one of an API that Keylime does not have.
    NotFound,
    /// It is one of the API's second version, and not one that has what is asked for.
    NotSupported,
}

impl ApiVersion {
    /// Reads `v2.6`, `2.6`, or `v2` for the newest of these.
    pub(super) fn parse(text: &str) -> Result<Self, VersionFault> {
        match text.strip_prefix('v').unwrap_or(text) {
            "2" | "2.6" => Ok(Self::V2_6),
            "2.5" => Ok(Self::V2_5),
            "2.4" => Ok(Self::V2_4),
            other => Err(match other.strip_prefix("2.").map(str::parse::<u16>) {
                Some(Ok(_)) => VersionFault::NotSupported,
                _ => VersionFault::NotFound,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn majors_are_read_as_keylime_reads_them() {
        for (text, expected) in [
            ("v2.0", Some(Major::V2)),
            ("2.6", Some(Major::V2)),
            ("v2", Some(Major::V2)),
            ("v3.0", Some(Major::V3)),
            ("3", Some(Major::V3)),
            ("v1.0", None),
            ("v2.7", None),
            ("v2.9", None),
            ("v3.1", None),
            ("v4", None),
            ("vv2", None),
            ("agents", None),
            ("", None),
        ] {
            assert_eq!(Major::parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn versions_are_read_as_keylime_reads_them() {
        for (text, expected) in [
            ("v2.6", Ok(ApiVersion::V2_6)),
            ("2.6", Ok(ApiVersion::V2_6)),
            ("v2", Ok(ApiVersion::V2_6)),
            ("v2.5", Ok(ApiVersion::V2_5)),
            ("v2.4", Ok(ApiVersion::V2_4)),
            ("v2.3", Err(VersionFault::NotSupported)),
            ("v2.99", Err(VersionFault::NotSupported)),
            ("v3.0", Err(VersionFault::NotFound)),
            ("v1.0", Err(VersionFault::NotFound)),
            ("v2.x", Err(VersionFault::NotFound)),
            ("vv2.6", Err(VersionFault::NotFound)),
            ("agents", Err(VersionFault::NotFound)),
            ("", Err(VersionFault::NotFound)),
        ] {
            assert_eq!(ApiVersion::parse(text), expected, "{text:?}");
        }
    }
}
