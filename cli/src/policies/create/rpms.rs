//! RPM packages as sources: what their headers say of their files.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use rat_engine::policy::PolicyDraft;
use rat_engine::policy::sources::rpm::{PackagedFile, RpmError, package_files};

use super::super::progress;
use super::sieve::Sieve;
use crate::input::{Input, InputError};
use crate::output::{counted, name_text};

const OPTION: &str = "--from-rpms";

/// What is read of a package first; most headers are shorter.
const FIRST_BYTES: usize = 64 * 1024;

/// Packages of one folder. The largest distributions have under 100,000.
const PACKAGES_MAX: usize = 1_000_000;

/// Lists the files of a package, or of each package in a folder and those below it.
pub(super) fn read(path: &Path, draft: &mut PolicyDraft, sieve: &mut Sieve) -> Result<()> {
    let packages = packages(path)?;
    let length = u64::try_from(packages.len()).unwrap_or(u64::MAX);
    let bar = progress::bar("packages", length);
    for package in &packages {
        let fault = |error: &dyn std::fmt::Display| InputError::new(OPTION, package, error);
        for file in files(package)? {
            let listed = sieve.list(draft, &file.path, &file.digest);
            listed.map_err(|error| fault(&format_args!("{}: {error}", name_text(&file.path))))?;
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    writeln!(
        io::stderr(),
        "rat: {}: {}\n     signatures of packages were not verified: rpm -K does",
        path.display(),
        counted(length, "package", "packages"),
    )?;
    Ok(())
}

fn packages(path: &Path) -> Result<Vec<PathBuf>, InputError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let fault = |path: &Path, error: &dyn std::fmt::Display| InputError::new(OPTION, path, error);
    let mut packages = Vec::new();
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(|error| fault(&folder, &error))? {
            let entry = entry.map_err(|error| fault(&folder, &error))?;
            let path = entry.path();
            // Of a symbolic link this is the link's own: no loop is ever entered.
            let kind = entry.file_type().map_err(|error| fault(&path, &error))?;
            let is_package = path.extension().is_some_and(|end| end == "rpm");
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() && is_package {
                packages.push(path);
            }
            if packages.len() > PACKAGES_MAX {
                return Err(fault(&folder, &"more than a million packages"));
            }
        }
    }
    packages.sort();
    match packages.is_empty() {
        true => Err(fault(path, &"no file whose name ends with .rpm")),
        false => Ok(packages),
    }
}

/// The files of one package, reading no more of it than its header.
fn files(path: &Path) -> Result<Vec<PackagedFile>, InputError> {
    let mut input = Input::open(OPTION, path)?;
    let mut front = Vec::new();
    let mut wanted = FIRST_BYTES;
    loop {
        let have = front.len();
        front.resize(wanted, 0);
        let read = input.read_piece(front.get_mut(have..).unwrap_or_default())?;
        let ended = read < wanted.saturating_sub(have);
        front.truncate(have.saturating_add(read));
        match package_files(&front) {
            // What is needed is bounded by limits on headers.
            Err(RpmError::Truncated { needed }) if needed > front.len() && !ended => {
                wanted = needed;
            }
            other => return other.map_err(|error| input.error(&error)),
        }
    }
}
