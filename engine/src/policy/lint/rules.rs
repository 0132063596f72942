//! The rules themselves, in the order in which findings of one severity are reported.

use std::collections::HashSet;

use super::{ExcludeSite, Lint, PathSample};
use crate::hash::HashAlg;
use crate::limits::LINT_TRIES_MAX;
use crate::policy::compiled::{BOOT_AGGREGATE, CompiledPolicy};
use crate::policy::exclude::{Engine, Match, Pattern};
use crate::policy::runtime::RuntimePolicy;

/// Paths that no policy should exclude: users can write there, or name their files so.
const WRITABLE: [&str; 7] = [
    "/tmp/evil",
    "/tmp/tmp.x/evil",
    "/tmp/_MEIevil/evil",
    "/var/tmp/evil",
    "/dev/shm/evil",
    "/run/user/1000/evil",
    "/home/user/evil",
];

/// Appended to the name of a file without a directory entry, and as measured: the kernel writes
/// `_` for every space of a name. Source: Linux `fs/d_path.c`, `ima_template_lib.c`.
const DELETED: [&[u8]; 2] = [b" (deleted)", b"_(deleted)"];

pub(super) fn findings(policy: &RuntimePolicy) -> Vec<Lint> {
    let compiled = policy.compiled();
    let mut findings = Vec::new();
    if policy.is_empty() {
        findings.push(Lint::EmptyPolicy);
    }
    if compiled.ignored_keyrings().iter().any(|name| name == "*") {
        findings.push(Lint::IgnoresEveryKeyring);
    }
    let patterns = compiled.excludes().len();
    let paths_tried = LINT_TRIES_MAX.checked_div(patterns).unwrap_or(usize::MAX);
    if compiled.path_count() > paths_tried {
        findings.push(Lint::ShadowCheckIncomplete { paths_tried });
    }
    for (index, pattern) in compiled.excludes().iter().enumerate() {
        let site = ExcludeSite {
            index,
            pattern: pattern.source().to_owned(),
        };
        exclude_form(pattern, &site, &mut findings);
        exclude_effect(pattern, &site, compiled, paths_tried, &mut findings);
    }
    paths(compiled, &mut findings);
    findings.extend(policy.warnings().iter().cloned().map(Lint::Reading));
    findings
}

/// What a pattern is, whatever the policy lists.
fn exclude_form(pattern: &Pattern, site: &ExcludeSite, findings: &mut Vec<Lint>) {
    let shape = pattern.shape();
    let excludes = |path: &str| pattern.excludes(path) == Match::Excluded;
    if shape.matches_everything() {
        findings.push(Lint::ExcludeMatchesEverything(site.clone()));
    } else {
        if let Some(example) = WRITABLE.into_iter().find(|path| excludes(path)) {
            let site = site.clone();
            findings.push(Lint::ExcludeWritable { site, example });
        }
        let sibling = format!("{}evil", shape.literal_prefix());
        if sibling.len() > "evil".len()
            && !shape.is_end_anchored()
            && !shape.literal_prefix().ends_with('/')
            && excludes(&sibling)
        {
            findings.push(Lint::ExcludeMatchesSiblings {
                site: site.clone(),
                example: sibling,
            });
        }
        if !shape.is_end_anchored() {
            findings.push(Lint::ExcludeStartAnchoredOnly(site.clone()));
        }
        if str::from_utf8(BOOT_AGGREGATE).is_ok_and(excludes) {
            findings.push(Lint::ExcludeBootAggregate(site.clone()));
        }
    }
    if pattern.engine() == Engine::Backtracking {
        findings.push(Lint::ExcludeBacktracks {
            site: site.clone(),
            nested_quantifiers: shape.has_nested_quantifiers(),
        });
    }
}

/// What a pattern does to the listed paths.
fn exclude_effect(
    pattern: &Pattern,
    site: &ExcludeSite,
    policy: &CompiledPolicy,
    paths_tried: usize,
    findings: &mut Vec<Lint>,
) {
    let mut shadowed = Sample::default();
    let mut capped = Sample::default();
    for (path, _) in policy.paths().take(paths_tried) {
        let Ok(text) = str::from_utf8(path) else {
            continue;
        };
        match pattern.excludes(text) {
            Match::Excluded => shadowed.count(path),
            Match::StepCap => capped.count(path),
            Match::NotExcluded => {}
        }
    }
    if let Some(paths) = shadowed.0 {
        let site = site.clone();
        findings.push(Lint::ExcludeShadowsDigests { site, paths });
    }
    if let Some(paths) = capped.0 {
        let site = site.clone();
        findings.push(Lint::ExcludeReachesStepCap { site, paths });
    }
}

#[derive(Debug, Default)]
struct Sample(Option<PathSample>);

impl Sample {
    fn count(&mut self, path: &[u8]) {
        match &mut self.0 {
            Some(sample) => sample.count = sample.count.saturating_add(1),
            None => {
                self.0 = Some(PathSample {
                    count: 1,
                    first: path.to_vec(),
                });
            }
        }
    }
}

/// What the listed paths and digests are.
fn paths(policy: &CompiledPolicy, findings: &mut Vec<Lint>) {
    let [
        mut spaces,
        mut collisions,
        mut deleted,
        mut relative,
        mut sha1,
    ] = [const { Sample(None) }; 5];
    let mut measured_names = HashSet::new();
    for (path, digests) in policy.paths() {
        if DELETED.iter().any(|suffix| path.ends_with(suffix)) {
            deleted.count(path);
        }
        if path.contains(&b' ') {
            spaces.count(path);
            let measured = path
                .iter()
                .map(|byte| if *byte == b' ' { b'_' } else { *byte });
            let measured: Vec<u8> = measured.collect();
            if policy.lists_path(&measured) || !measured_names.insert(measured) {
                collisions.count(path);
            }
        }
        if !path.starts_with(b"/") {
            relative.count(path);
        }
        let mut algs = digests.map(|(alg, _)| alg).peekable();
        if algs.peek().is_some() && algs.all(|alg| alg == HashAlg::Sha1) {
            sha1.count(path);
        }
    }
    findings.extend(spaces.0.map(Lint::PathWithSpace));
    findings.extend(collisions.0.map(Lint::PathCollision));
    findings.extend(deleted.0.map(Lint::PathDeleted));
    findings.extend(relative.0.map(Lint::PathNotAbsolute));
    findings.extend(sha1.0.map(Lint::PathSha1Only));
}
