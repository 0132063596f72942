//! `rat policies create runtime`: a policy that allows what its sources hold.

mod initramfs;
mod list;
mod rpms;
mod sieve;
mod tree;

use std::io::{self, Write};

use anyhow::{Result, bail};
use rat_engine::hash::HashAlg;
use rat_engine::policy::sources::allowlist::read_allowlist;
use rat_engine::policy::{BOOT_AGGREGATE, PolicyDraft};

use super::{malformed, write};
use crate::Outcome;
use crate::arguments::CreateArguments;
use crate::input::{self, InputError};
use crate::output::Terminal;
use sieve::Sieve;

/// Makes a policy, and says on stderr what it holds.
pub(super) fn run(options: &CreateArguments, terminal: &mut Terminal) -> Result<Outcome> {
    let mut draft = base(options)?;
    let mut sieve = Sieve::new(&draft)?;
    for path in &options.from_allowlist {
        let text = input::read("--from-allowlist", path, "ALLOWLIST_BYTES_MAX")?;
        let fault =
            |error: &dyn std::fmt::Display| InputError::new("--from-allowlist", path, error);
        // By itself first, so that what it is refused for is its own.
        let mut listed = PolicyDraft::new();
        read_allowlist(&text, &mut listed).map_err(|error| fault(&error))?;
        draft.merge(&listed).map_err(|error| fault(&error))?;
    }
    for path in &options.from_ima_log {
        if !list::read(path, options, &mut draft, &mut sieve)? {
            return Ok(Outcome::Failed);
        }
    }
    for path in &options.from_rpms {
        rpms::read(path, &mut draft, &mut sieve)?;
    }
    if !(options.from_directory.is_empty() && options.from_initramfs.is_empty()) {
        let alg = file_hash(options, &draft)?;
        for path in &options.from_initramfs {
            initramfs::read(path, alg, &mut draft, &mut sieve)?;
        }
        tree::read(options, alg, &mut draft, &mut sieve)?;
    }
    let text = match options.as_allowlist {
        true => allowlist(&draft),
        false => write::text(&draft)?,
    };
    write::out(options.out.as_deref(), &text, terminal)?;
    write::say(&draft)?;
    writeln!(io::stderr(), "rat: {} files excluded", sieve.excluded())?;
    if !options.from_ima_log.is_empty() {
        writeln!(
            io::stderr(),
            "rat: verify the list with `rat verify` before you enforce the policy"
        )?;
    }
    Ok(Outcome::Passed)
}

/// The policy that is extended, with what the options say beside its sources.
fn base(options: &CreateArguments) -> Result<PolicyDraft> {
    let mut draft = PolicyDraft::new();
    if let Some(path) = &options.base {
        let text = input::read("--base", path, "POLICY_BYTES_MAX")?;
        draft = PolicyDraft::read(&text).map_err(|error| malformed("--base", path, &error))?;
    }
    if !options.from_ima_log.is_empty() {
        draft.set_log_hash(options.ima_log_hash)?;
    }
    for pattern in &options.exclude {
        draft.exclude(pattern);
    }
    for path in &options.exclude_list {
        write::add_exclude_list(&mut draft, path)?;
    }
    for keyring in &options.ignore_keyring {
        draft.ignore_keyring(keyring);
    }
    for path in &options.verification_key {
        write::add_key(&mut draft, path)?;
    }
    Ok(draft)
}

/// The algorithm that files are hashed with: what the operator says, or what the digests that are
/// there were made with. Digests of another algorithm than the kernel's never match.
fn file_hash(options: &CreateArguments, draft: &PolicyDraft) -> Result<HashAlg> {
    if let Some(alg) = options.hash {
        return Ok(alg);
    }
    let mut found = None;
    for (_, digest) in draft.paths() {
        let size = digest.len().checked_div(2).unwrap_or(0);
        let alg = HashAlg::from_size(size);
        if found.is_some_and(|found| found != alg) {
            bail!("the lists have digests of several algorithms: say with --hash which to use");
        }
        found = Some(alg);
    }
    match found {
        None => Ok(HashAlg::Sha256),
        Some(Some(alg)) => Ok(alg),
        Some(None) => bail!("the lists have digests of no known algorithm: give --hash"),
    }
}

/// Lines as `sha256sum` writes them, the boot aggregate first as Keylime's tools do.
fn allowlist(draft: &PolicyDraft) -> String {
    let is_first = |path: &str| path.as_bytes() == BOOT_AGGREGATE;
    let first = draft.paths().filter(|(path, _)| is_first(path));
    let rest = draft.paths().filter(|(path, _)| !is_first(path));
    let mut text = String::new();
    for (path, digest) in first.chain(rest) {
        // A line break within a path would be another line.
        let (mark, path) = match path.contains(['\\', '\n', '\r']) {
            true => {
                let path = path.replace('\\', "\\\\");
                ("\\", path.replace('\n', "\\n").replace('\r', "\\r"))
            }
            false => ("", path.to_owned()),
        };
        text.push_str(&format!("{mark}{digest}  {path}\n"));
    }
    text
}
