//! The version of Keylime's API that a path begins with.

/// A version that is spoken here.
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
