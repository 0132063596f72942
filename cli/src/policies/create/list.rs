//! Measurement lists as sources.

use std::io::{self, Write};
use std::path::Path;

use anyhow::Result;
use rat_engine::crypto::FileKey;
use rat_engine::hash::{Digest, HashAlg};
use rat_engine::ima::{DigestOf, Entry, Event, Template};
use rat_engine::policy::{BOOT_AGGREGATE, Listing, PolicyDraft};

use super::sieve::Sieve;
use crate::arguments::CreateArguments;
use crate::input::Input;
use crate::measurements;
use crate::output::{counted, name_text};

/// What is collected from one list.
struct Collecting<'a> {
    options: &'a CreateArguments,
    draft: &'a mut PolicyDraft,
    sieve: &'a mut Sieve,
    violations: u64,
    /// The first violation, and the name that it claims.
    first_violation: Option<(u64, Vec<u8>)>,
    /// The first entry that no policy can hold, and why.
    fault: Option<(u64, String)>,
}

/// Takes all of a list; false when it has violations that nobody allowed.
pub(super) fn read(
    path: &Path,
    options: &CreateArguments,
    draft: &mut PolicyDraft,
    sieve: &mut Sieve,
) -> Result<bool> {
    let mut log = Input::open("--from-ima-log", path)?;
    let mut collecting = Collecting {
        options,
        draft,
        sieve,
        violations: 0,
        first_violation: None,
        fault: None,
    };
    let reading = measurements::stream(&mut log, options.ima_log_hash, &mut |position, entry| {
        collecting.take(position, entry);
    })?;
    if let Some(fault) = reading.fault {
        return Err(log.error(&fault).into());
    }
    if let Some((entry, fault)) = &collecting.fault {
        return Err(log.error(&format_args!("entry {entry}: {fault}")).into());
    }
    writeln!(
        io::stderr(),
        "rat: {}: {} entries",
        path.display(),
        reading.entries
    )?;
    let Some((entry, name)) = &collecting.first_violation else {
        return Ok(true);
    };
    let name = name_text(name);
    let count = counted(collecting.violations, "violation", "violations");
    let (effect, advice) = if options.allow_violations {
        ("left out", "")
    } else {
        ("found", "\n     --allow-violations leaves them out")
    };
    writeln!(
        io::stderr(),
        "rat: {count} {effect}, the first at entry {entry}: {name}\n     \
         a file was written while it was measured, so nothing is known of it{advice}"
    )?;
    Ok(options.allow_violations)
}

impl Collecting<'_> {
    fn take(&mut self, position: u64, entry: &Entry<'_>) {
        if self.fault.is_none()
            && let Err(fault) = self.try_take(position, entry)
        {
            self.fault = Some((position, fault));
        }
    }

    fn try_take(&mut self, position: u64, entry: &Entry<'_>) -> Result<(), String> {
        if !measurements::hash_fits(entry, self.options.ima_log_hash) {
            return Err("the logged template hash is not the hash of the template data".to_owned());
        }
        let event = Event::parse(entry.template, entry.data).map_err(|error| error.to_string())?;
        if entry.is_violation() {
            self.violations = self.violations.saturating_add(1);
            self.first_violation
                .get_or_insert_with(|| (position, event.name.to_vec()));
            return Ok(());
        }
        // It is recomputed from quoted PCRs.
        if event.name == BOOT_AGGREGATE && !self.options.with_boot_aggregate {
            return Ok(());
        }
        let listing = listing_of(&event);
        let left_out = match listing {
            Listing::Digests => self.sieve.leaves_out(event.name),
            Listing::Keyrings => self.options.no_keyrings || self.draft.ignores_keyring(event.name),
            Listing::Buffers => self.options.no_ima_buf,
        };
        if left_out {
            return Ok(());
        }
        if event.digest.of == DigestOf::Verity {
            return Err("an fs-verity digest, which a policy cannot list".to_owned());
        }
        let digest = HashAlg::from_name(event.digest.alg)
            .and_then(|alg| Digest::new(alg, event.digest.bytes).ok())
            .ok_or_else(|| {
                let alg = name_text(event.digest.alg);
                format!("digests of {alg} are not supported")
            })?;
        self.draft
            .allow(listing, event.name, &digest)
            .map_err(|fault| format!("{}: {fault}", name_text(event.name)))?;
        Ok(())
    }
}

/// A buffer that holds a key, usable or not, belongs to a keyring.
fn listing_of(event: &Event<'_>) -> Listing {
    if event.template != Template::ImaBuf {
        return Listing::Digests;
    }
    match FileKey::from_measured(event.tail) {
        Ok(None) => Listing::Buffers,
        Ok(Some(_)) | Err(_) => Listing::Keyrings,
    }
}
