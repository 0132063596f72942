//! What a policy's author should know before it is enforced.

mod rules;
#[cfg(test)]
mod tests;

use std::fmt;

use super::runtime::{RuntimePolicy, Warning};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The policy lets through what it should not, or can hold nothing.
    Danger,
    /// A part of the policy does not do what it seems to.
    Warning,
    /// Worth knowing.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Danger => "danger",
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
}

/// An exclude pattern of the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExcludeSite {
    /// Its place in the list.
    pub index: usize,
    /// Its text.
    pub pattern: String,
}

/// How many paths a finding is about, and the first of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathSample {
    /// How many.
    pub count: usize,
    /// The first, in the policy's order.
    pub first: Vec<u8>,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lint {
    /// The policy lists nothing (L01).
    EmptyPolicy,
    /// The pattern excludes every path.
    ExcludeMatchesEverything(ExcludeSite),
    /// The pattern excludes files in a place where users can write (L10).
    ExcludeWritable {
        /// The pattern.
        site: ExcludeSite,
        /// A path of that place which it excludes.
        example: &'static str,
    },
    /// The pattern has no end anchor, and also excludes siblings such as `/tmpevil`.
    ExcludeMatchesSiblings {
        /// The pattern.
        site: ExcludeSite,
        /// A sibling that it excludes.
        example: String,
    },
    /// The pattern has no end anchor: whatever follows a match is excluded as well.
    ExcludeStartAnchoredOnly(ExcludeSite),
    /// The pattern excludes paths whose digests are listed: those are never compared (L04).
    ExcludeShadowsDigests {
        /// The pattern.
        site: ExcludeSite,
        /// The paths.
        paths: PathSample,
    },
    /// Patterns times paths were too many to try all of them.
    ShadowCheckIncomplete {
        /// Paths that each pattern was tried on.
        paths_tried: usize,
    },
    /// The pattern matches the boot aggregate, which is never excluded (I24).
    ExcludeBootAggregate(ExcludeSite),
    /// The pattern needs the backtracking engine.
    ExcludeBacktracks {
        /// The pattern.
        site: ExcludeSite,
        /// Whether quantifiers are nested, so that its cap of steps is near.
        nested_quantifiers: bool,
    },
    /// The pattern reached its cap of steps on listed paths: those are not excluded.
    ExcludeReachesStepCap {
        /// The pattern.
        site: ExcludeSite,
        /// The paths.
        paths: PathSample,
    },
    /// Paths with a space: the kernel measures them with `_` (I27).
    PathWithSpace(PathSample),
    /// Paths that are the same once the kernel has written `_` for their spaces (I27).
    PathCollision(PathSample),
    /// Paths with the kernel's suffix for a file removed while in use.
    PathDeleted(PathSample),
    /// Paths that do not begin with `/`.
    PathNotAbsolute(PathSample),
    /// Paths with SHA-1 digests only.
    PathSha1Only(PathSample),
    /// Keys of every keyring are ignored.
    IgnoresEveryKeyring,
    /// What reading the policy warned of.
    Reading(Warning),
}

impl Lint {
    /// A stable name for scripts and documentation.
    pub fn id(&self) -> &'static str {
        match self {
            Self::EmptyPolicy => "policy.empty",
            Self::ExcludeMatchesEverything(_) => "exclude.matches_everything",
            Self::ExcludeWritable { .. } => "exclude.writable_place",
            Self::ExcludeMatchesSiblings { .. } => "exclude.matches_siblings",
            Self::ExcludeStartAnchoredOnly(_) => "exclude.start_anchored_only",
            Self::ExcludeShadowsDigests { .. } => "exclude.shadows_digests",
            Self::ShadowCheckIncomplete { .. } => "exclude.shadow_check_incomplete",
            Self::ExcludeBootAggregate(_) => "exclude.boot_aggregate",
            Self::ExcludeBacktracks { .. } => "exclude.backtracks",
            Self::ExcludeReachesStepCap { .. } => "exclude.step_cap",
            Self::PathWithSpace(_) => "path.space",
            Self::PathCollision(_) => "path.collision",
            Self::PathDeleted(_) => "path.deleted",
            Self::PathNotAbsolute(_) => "path.not_absolute",
            Self::PathSha1Only(_) => "path.sha1_only",
            Self::IgnoresEveryKeyring => "keyring.ignores_all",
            Self::Reading(Warning::UnknownMember { .. }) => "member.unknown",
            Self::Reading(Warning::DigestNeverMatches { .. }) => "digest.never_matches",
            Self::Reading(Warning::DuplicateDigest { .. }) => "digest.duplicate",
        }
    }

    /// How much it matters.
    pub fn severity(&self) -> Severity {
        match self {
            Self::EmptyPolicy
            | Self::ExcludeMatchesEverything(_)
            | Self::ExcludeWritable { .. }
            | Self::ExcludeMatchesSiblings { .. }
            | Self::IgnoresEveryKeyring => Severity::Danger,
            Self::ExcludeStartAnchoredOnly(_)
            | Self::ExcludeShadowsDigests { .. }
            | Self::ExcludeBootAggregate(_)
            | Self::ExcludeReachesStepCap { .. }
            | Self::PathWithSpace(_)
            | Self::PathCollision(_)
            | Self::PathSha1Only(_)
            | Self::Reading(Warning::DigestNeverMatches { .. } | Warning::UnknownMember { .. }) => {
                Severity::Warning
            }
            Self::ShadowCheckIncomplete { .. }
            | Self::PathDeleted(_)
            | Self::PathNotAbsolute(_)
            | Self::Reading(Warning::DuplicateDigest { .. }) => Severity::Note,
            Self::ExcludeBacktracks {
                nested_quantifiers, ..
            } if *nested_quantifiers => Severity::Warning,
            Self::ExcludeBacktracks { .. } => Severity::Note,
        }
    }
}

impl fmt::Display for ExcludeSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "excludes[{}] {:?}", self.index, self.pattern)
    }
}

impl fmt::Display for PathSample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = String::from_utf8_lossy(&self.first);
        match self.count {
            1 => write!(f, "path {first:?}"),
            count => write!(f, "{count} paths, the first {first:?}"),
        }
    }
}

impl fmt::Display for Lint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyPolicy => f.write_str("the policy lists nothing that it could allow"),
            Self::ExcludeMatchesEverything(site) => write!(f, "{site} excludes every path"),
            Self::ExcludeWritable { site, example } => {
                write!(f, "{site} excludes {example:?}, where users can write")
            }
            Self::ExcludeMatchesSiblings { site, example } => {
                write!(f, "{site} also excludes {example:?}")
            }
            Self::ExcludeStartAnchoredOnly(site) => {
                write!(
                    f,
                    "{site} has no end anchor: whatever follows is excluded too"
                )
            }
            Self::ExcludeShadowsDigests { site, paths } => {
                write!(
                    f,
                    "{site} excludes listed paths, whose digests go unread: {paths}"
                )
            }
            Self::ShadowCheckIncomplete { paths_tried } => write!(
                f,
                "excludes were tried on the first {paths_tried} listed paths only"
            ),
            Self::ExcludeBootAggregate(site) => {
                write!(
                    f,
                    "{site} matches boot_aggregate, which is checked all the same"
                )
            }
            Self::ExcludeBacktracks {
                site,
                nested_quantifiers,
            } => {
                write!(f, "{site} needs the backtracking engine")?;
                if *nested_quantifiers {
                    f.write_str(" and nests quantifiers: it may reach its cap of steps")?;
                }
                Ok(())
            }
            Self::ExcludeReachesStepCap { site, paths } => {
                write!(
                    f,
                    "{site} reaches its cap of steps and does not exclude: {paths}"
                )
            }
            Self::PathWithSpace(paths) => {
                write!(
                    f,
                    "the kernel writes _ for a space, so these never match: {paths}"
                )
            }
            Self::PathCollision(paths) => {
                write!(
                    f,
                    "the kernel measures these under another path's name: {paths}"
                )
            }
            Self::PathDeleted(paths) => write!(f, "removed while in use: {paths}"),
            Self::PathNotAbsolute(paths) => write!(f, "not an absolute path: {paths}"),
            Self::PathSha1Only(paths) => write!(f, "SHA-1 digests only: {paths}"),
            Self::IgnoresEveryKeyring => {
                f.write_str("ima.ignored_keyrings has \"*\": keys of no keyring are checked")
            }
            Self::Reading(warning) => warning.fmt(f),
        }
    }
}

/// What is doubtful about the policy, the most severe first.
///
/// Cost: every exclude pattern is tried on every listed path, up to
/// [`crate::limits::LINT_TRIES_MAX`] tries.
pub fn lint(policy: &RuntimePolicy) -> Vec<Lint> {
    let mut findings = rules::findings(policy);
    findings.sort_by_key(Lint::severity);
    findings
}
