//! Keylime's policy `example`: a rule for each kind of event in each PCR.
//!
//! An event of another kind, or in another PCR, is a breach. What is collected here of the boot
//! chain is judged as a whole when all events were seen (`chain`).
//!
//! Beyond Keylime's rules, the state of Secure Boot must have been measured, and so must each key
//! database for which the reference state lists something: the type of an event is not hashed, and
//! a log that gives the measurement of `db` another type must not pass for one without it. (E01)

use super::breach::{Breach, BreachRule, Breaches};
use super::chain::Chain;
use super::seen::{Seen, text};
use super::{Guid, Keys, RefState};
use crate::crypto::digest;
use crate::hash::{Digest, HashAlg};
use crate::uefi::coverage::AuthenticatedData;
use crate::uefi::decode::variable::UefiVariable;
use crate::uefi::event::EventType;

/// Judges the events of a log.
pub(super) fn judge(state: &RefState, events: &[Seen<'_>], breaches: &mut Breaches) {
    let mut example = Example {
        state,
        seen: Vec::new(),
        chain: Chain::default(),
        breaches,
    };
    for event in events {
        example.event(event);
    }
    example.finish();
}

/// What may come a few times only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limited {
    NoAction,
    Microcode,
    HandoffTables,
    HandoffTables2,
    ConfigFlags,
    Gpt,
    Variable(Variable),
    AuthorityDb,
    AuthorityVendorDb,
    SbatLevel,
    Shim,
    AuthorityMokListTrusted,
    MokListRt,
    MokListTrusted,
    SecureBoot,
}

/// A variable with keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variable {
    Pk,
    Kek,
    Db,
    Dbx,
    VendorDb,
}

impl Variable {
    /// The variable of this vendor and name.
    fn of(variable: &UefiVariable<'_>) -> Option<Self> {
        match (variable.vendor, &*variable.name) {
            (Guid::GLOBAL_VARIABLE, "PK") => Some(Self::Pk),
            (Guid::GLOBAL_VARIABLE, "KEK") => Some(Self::Kek),
            (Guid::IMAGE_SECURITY_DATABASE, "db") => Some(Self::Db),
            (Guid::IMAGE_SECURITY_DATABASE, "dbx") => Some(Self::Dbx),
            (Guid::IMAGE_SECURITY_DATABASE, "vendor_db") => Some(Self::VendorDb),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Pk => "PK",
            Self::Kek => "KEK",
            Self::Db => "db",
            Self::Dbx => "dbx",
            Self::VendorDb => "vendor_db",
        }
    }

    fn keys(self, state: &RefState) -> &Keys {
        match self {
            Self::Pk => &state.pk,
            Self::Kek => &state.kek,
            Self::Db => &state.db,
            Self::Dbx => &state.dbx,
            Self::VendorDb => &state.vendor_db,
        }
    }
}

struct Example<'p, 'e> {
    state: &'p RefState,
    seen: Vec<Limited>,
    chain: Chain<'e>,
    breaches: &'p mut Breaches,
}

impl<'e> Example<'_, 'e> {
    fn event(&mut self, event: &'e Seen<'e>) {
        let Some(pcr) = event.pcr else {
            return self.unexpected(event);
        };
        match (pcr.get(), event.event_type) {
            (0, EventType::NO_ACTION) => self.at_most(1, Limited::NoAction, event),
            (0, EventType::S_CRTM_VERSION) => self.chain.crtm.push(event),
            (0, EventType::EFI_PLATFORM_FIRMWARE_BLOB | EventType::EFI_PLATFORM_FIRMWARE_BLOB2) => {
                self.chain.firmware.push(event)
            }
            (1, EventType::CPU_MICROCODE) => self.at_most(1, Limited::Microcode, event),
            (1, EventType::EFI_HANDOFF_TABLES) => self.at_most(1, Limited::HandoffTables, event),
            (1, EventType::EFI_HANDOFF_TABLES2) => self.at_most(1, Limited::HandoffTables2, event),
            // EDK2 measures up to four. (keylime#1393)
            (1, EventType::PLATFORM_CONFIG_FLAGS) => self.at_most(4, Limited::ConfigFlags, event),
            (1, EventType::EFI_VARIABLE_BOOT) => self.boot_variable(event),
            (2, EventType::EFI_BOOT_SERVICES_DRIVER) => {}
            (1 | 4 | 5, EventType::EFI_ACTION) => self.action(pcr.get(), event),
            (0..=7, EventType::SEPARATOR) => self.separator(event),
            (4, EventType::EFI_BOOT_SERVICES_APPLICATION) => self.chain.applications.push(event),
            (5, EventType::EFI_GPT_EVENT) => self.at_most(1, Limited::Gpt, event),
            (7, EventType::EFI_VARIABLE_DRIVER_CONFIG) => self.configuration(event),
            (7, EventType::EFI_VARIABLE_AUTHORITY) => self.authority(event),
            (8, EventType::IPL) => self.grub_text(event),
            (9, EventType::IPL) => self.grub_file(event),
            (14, EventType::IPL) => self.mok(event),
            _ => self.unexpected(event),
        }
    }

    fn finish(self) {
        let Self {
            state,
            seen,
            chain,
            breaches,
        } = self;
        if !seen.contains(&Limited::SecureBoot) {
            let wanted = "the variable SecureBoot in PCR 7";
            let rule = BreachRule::SecureBoot;
            breaches.push(Breach::of_log(rule, "no measurement of it", wanted));
        }
        for variable in [Variable::Pk, Variable::Kek, Variable::Db, Variable::Dbx] {
            if !variable.keys(state).is_empty() && !seen.contains(&Limited::Variable(variable)) {
                let wanted = format!("the variable {} in PCR 7", variable.name());
                let rule = match variable {
                    Variable::Dbx => BreachRule::Dbx,
                    _ => BreachRule::Keys,
                };
                breaches.push(Breach::of_log(rule, "no measurement of it", &wanted));
            }
        }
        chain.judge(state, breaches);
    }

    fn breach(&mut self, rule: BreachRule, event: &Seen<'_>, found: &str, wanted: &str) {
        self.breaches
            .push(Breach::of_event(rule, event, found, wanted));
    }

    fn unexpected(&mut self, event: &Seen<'_>) {
        let wanted = "no event of this type in this PCR";
        self.breach(BreachRule::Event, event, "one", wanted);
    }

    fn unbound(&mut self, event: &Seen<'_>, what: &str) {
        let wanted = "the digest of that content";
        self.breach(BreachRule::Unbound, event, what, wanted);
    }

    fn at_most(&mut self, max: usize, limited: Limited, event: &Seen<'_>) {
        let before = self.seen.iter().filter(|it| **it == limited).count();
        if before < max {
            self.seen.push(limited);
            return;
        }
        let found = format!("event {} of this kind", before.saturating_add(1));
        let wanted = format!("at most {max}");
        self.breach(BreachRule::Event, event, &found, &wanted);
    }

    /// The replay refuses separators whose digest is not of their value, and other values.
    fn separator(&mut self, event: &Seen<'_>) {
        match event.covered.bytes() {
            Some([0, 0, 0, 0] | [0xff, 0xff, 0xff, 0xff]) => {}
            _ => self.unbound(event, "a separator"),
        }
    }

    /// PFP 1.06, table 9 "Events": the digest is of the text without a NUL.
    fn action(&mut self, pcr: u8, event: &Seen<'_>) {
        const OF_SETUP: &[&str] = &["Entering ROM Based Setup"];
        const OF_BOOT: &[&str] = &[
            "Calling EFI Application from Boot Option",
            "Returning from EFI Application from Boot Option",
        ];
        const OF_EXIT: &[&str] = &[
            "Exit Boot Services Invocation",
            "Exit Boot Services Returned with Failure",
            "Exit Boot Services Returned with Success",
        ];
        let wanted = match pcr {
            1 => OF_SETUP,
            4 => OF_BOOT,
            _ => OF_EXIT,
        };
        let Some(content) = event.covered.bytes() else {
            return self.unbound(event, "an action");
        };
        if !wanted.iter().any(|text| text.as_bytes() == content) {
            let found = String::from_utf8_lossy(content);
            self.breach(BreachRule::Event, event, &found, &wanted.join(" or "));
        }
    }

    /// PFP 1.06, 10.4.1: the digest is of the VariableData alone; some firmware hashes the whole
    /// structure. The name is a label, and any order of booting is accepted.
    fn boot_variable(&mut self, event: &Seen<'_>) {
        if event.covered == AuthenticatedData::Nothing {
            return self.unbound(event, "a boot variable");
        }
        let is_boot = |name: &str| {
            let number = name.strip_prefix("Boot");
            let is_number =
                |rest: &str| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_hexdigit());
            name == "BootOrder" || number.is_some_and(is_number)
        };
        match UefiVariable::parse(event.label) {
            Ok(it) if it.vendor == Guid::GLOBAL_VARIABLE && is_boot(&it.name) => {}
            Ok(it) => {
                let found = format!("variable {}", it.name);
                self.breach(
                    BreachRule::Event,
                    event,
                    &found,
                    "BootOrder or Boot and a number",
                );
            }
            Err(error) => self.breach(BreachRule::Event, event, &error.to_string(), "a variable"),
        }
    }

    /// The variable of which the digest is made, name and vendor included.
    fn variable(&mut self, event: &'e Seen<'e>) -> Option<UefiVariable<'e>> {
        let AuthenticatedData::Event(content) = event.covered else {
            self.unbound(event, "a variable");
            return None;
        };
        match UefiVariable::parse(content) {
            Ok(variable) => Some(variable),
            Err(error) => {
                self.breach(BreachRule::Event, event, &error.to_string(), "a variable");
                None
            }
        }
    }

    fn configuration(&mut self, event: &'e Seen<'e>) {
        let Some(variable) = self.variable(event) else {
            return;
        };
        if variable.vendor == Guid::GLOBAL_VARIABLE && variable.name == "SecureBoot" {
            return self.secure_boot(&variable, event);
        }
        let Some(of_keys) = Variable::of(&variable) else {
            let found = format!("variable {} of {}", variable.name, variable.vendor);
            let wanted = "SecureBoot, PK, KEK, db, dbx or vendor_db";
            return self.breach(BreachRule::Event, event, &found, wanted);
        };
        self.at_most(1, Limited::Variable(of_keys), event);
        let keys = of_keys.keys(self.state);
        // Without Secure Boot the databases may hold anything, where none is listed.
        if !self.state.has_secureboot && keys.is_empty() {
            return;
        }
        let breaches = &mut *self.breaches;
        match of_keys {
            Variable::Pk | Variable::Kek => {
                keys.allow(&[Guid::CERT_X509], variable.data, event, breaches);
            }
            Variable::Db | Variable::VendorDb => {
                let types = [Guid::CERT_X509, Guid::CERT_SHA256];
                keys.allow(&types, variable.data, event, breaches);
            }
            Variable::Dbx => keys.require(Guid::CERT_SHA256, variable.data, event, breaches),
        }
    }

    /// A variable without content is one that the firmware has not: Secure Boot is off.
    fn secure_boot(&mut self, variable: &UefiVariable<'_>, event: &Seen<'_>) {
        self.seen.push(Limited::SecureBoot);
        let state = match variable.data {
            [] => Some(false),
            _ => variable.secure_boot_enabled(),
        };
        let words = |is_on| if is_on { "on" } else { "off" };
        if state != Some(self.state.has_secureboot) {
            let found = format!("Secure Boot {}", state.map_or("of no known state", words));
            let wanted = words(self.state.has_secureboot);
            self.breach(BreachRule::SecureBoot, event, &found, wanted);
        }
    }

    /// What verified an image. The image's own digest is judged, so that any key may have, but for
    /// those of shim's vendor.
    fn authority(&mut self, event: &'e Seen<'e>) {
        let Some(variable) = self.variable(event) else {
            return;
        };
        let limited = match (variable.vendor, &*variable.name) {
            (Guid::IMAGE_SECURITY_DATABASE, "db") => Limited::AuthorityDb,
            (Guid::IMAGE_SECURITY_DATABASE, "vendor_db") => Limited::AuthorityVendorDb,
            (Guid::SHIM_LOCK, "SbatLevel") => Limited::SbatLevel,
            (Guid::SHIM_LOCK, "Shim") => Limited::Shim,
            (Guid::SHIM_LOCK, "MokListTrusted") => Limited::AuthorityMokListTrusted,
            (Guid::SHIM_LOCK, "MokListRT") => Limited::MokListRt,
            _ => {
                let found = format!("variable {} of {}", variable.name, variable.vendor);
                let wanted = "db, vendor_db, SbatLevel, Shim, MokListTrusted or MokListRT";
                return self.breach(BreachRule::Event, event, &found, wanted);
            }
        };
        self.at_most(1, limited, event);
        let vendor_db = &self.state.vendor_db;
        match limited {
            Limited::AuthorityVendorDb if self.state.has_secureboot || !vendor_db.is_empty() => {
                vendor_db.allow_single(variable.data, event, self.breaches);
            }
            Limited::AuthorityMokListTrusted if !matches!(variable.data, [] | [0 | 1]) => {
                let found = hex::encode(variable.data.get(..8).unwrap_or(variable.data));
                self.breach(BreachRule::Mok, event, &found, "0 or 1");
            }
            _ => {}
        }
    }

    /// GRUB manual, "Measuring Boot Components": what is measured is the text behind the label.
    fn grub_text(&mut self, event: &'e Seen<'e>) {
        let label = event.label_text().unwrap_or_default();
        let is_command = label.starts_with("grub_cmd: ");
        let command_line = label.strip_prefix("kernel_cmdline: ");
        if !is_command && command_line.is_none_or(|text| text.contains('\n')) {
            let wanted = "grub_cmd: or kernel_cmdline: and text";
            return self.breach(BreachRule::Event, event, label, wanted);
        }
        let AuthenticatedData::GrubText(measured) = event.covered else {
            return self.unbound(event, label);
        };
        if !is_command {
            self.chain
                .command_lines
                .push((event, text(measured).unwrap_or_default()));
        }
    }

    /// The digest is the file's, the path a label.
    fn grub_file(&mut self, event: &'e Seen<'e>) {
        let path = event.label_text().unwrap_or_default();
        let has = |part: &str| !path.contains('\n') && path.contains(part);
        if has("/loader/entries") || has("/grub") {
            return;
        }
        if has("/vmlinuz") {
            self.chain.kernels.push(event);
        } else if has("/initrd") || has("/initramfs") {
            self.chain.initrds.push(event);
        } else {
            let wanted = "a path of GRUB, /loader/entries, /vmlinuz, /initrd or /initramfs";
            self.breach(BreachRule::Event, event, path, wanted);
        }
    }

    /// shim `mok.c`: the digest is that of the list's content, the name a label.
    fn mok(&mut self, event: &Seen<'_>) {
        let name = event.label_text().unwrap_or_default();
        let listed = match name {
            "MokList" => &self.state.mok,
            "MokListX" => &self.state.mokx,
            // One byte, 0 or 1. Another content stands for another list. (E01)
            "MokListTrusted" => {
                self.at_most(1, Limited::MokListTrusted, event);
                let values = HashAlg::ALL.map(|alg| [[0_u8], [1]].map(|it| digest(alg, &it)));
                return self.mok_listed(event, values.as_flattened());
            }
            _ => {
                let wanted = "MokList, MokListX or MokListTrusted";
                return self.breach(BreachRule::Event, event, name, wanted);
            }
        };
        self.mok_listed(event, listed);
    }

    fn mok_listed(&mut self, event: &Seen<'_>, listed: &[Digest]) {
        if !event.is_one_of(listed) {
            let found = event.digests_text();
            let wanted = format!("one of {} digests", listed.len());
            self.breach(BreachRule::Mok, event, &found, &wanted);
        }
    }
}
