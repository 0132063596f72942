//! A reference state made from the event log of a machine that is as it should be.
//!
//! The members are those that Keylime's `keylime-policy create measured-boot` finds in the same
//! log, so that either tool's output serves either server.
//!
//! Source: Keylime 7.14 `keylime/policy/create_mb_policy.py`.

use serde::Serialize;
use thiserror::Error;

use super::seen::text;
use super::{Breach, Guid, MeasuredBootPolicy, PolicyName};
use crate::hash::HashAlg;
use crate::uefi::decode::signature_list;
use crate::uefi::decode::variable::UefiVariable;
use crate::uefi::decode::{EventData, event_data};
use crate::uefi::error::UefiError;
use crate::uefi::event::{Event, EventType};
use crate::uefi::log::EventLog;
use crate::uefi::replay::compare;

/// A reference state and what is doubtful about it.
#[derive(Debug, Clone)]
pub struct Created {
    /// Its JSON text.
    pub text: String,
    /// Whether the log says that Secure Boot is on.
    pub has_secureboot: bool,
    /// What the log has not, so that the policy `example` cannot be held with it.
    pub incomplete: Vec<Incomplete>,
    /// How the log itself fails the policy `example` with it.
    pub breaches: Vec<Breach>,
}

/// A member that could not be filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Incomplete {
    /// Firmware logged no version of the CRTM.
    #[error("the log has no EV_S_CRTM_VERSION")]
    Crtm,
    /// Not as many images were started as shim, GRUB and the kernel.
    #[error(
        "{found} images were started, {wanted} are wanted (shim, GRUB and, with Secure Boot, the kernel)"
    )]
    Images {
        /// How many were.
        found: usize,
        /// How many the policy knows.
        wanted: &'static str,
    },
    /// GRUB measured no initial RAM disk.
    #[error("PCR 9 has no initrd or initramfs")]
    Initrd,
    /// GRUB measured no kernel.
    #[error("PCR 9 has no vmlinuz")]
    Vmlinuz,
    /// GRUB measured no command line.
    #[error("PCR 8 has no kernel_cmdline")]
    CommandLine,
}

/// Why no reference state is made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CreateError {
    /// The log cannot be replayed.
    #[error(transparent)]
    Log(#[from] UefiError),
    /// Secure Boot is off, and that was not asked for.
    #[error("the log says that Secure Boot is off")]
    SecureBootOff,
}

#[derive(Debug, Serialize)]
struct State {
    has_secureboot: bool,
    scrtm_and_bios: [FirmwareMembers; 1],
    pk: Vec<KeyMembers>,
    kek: Vec<KeyMembers>,
    db: Vec<KeyMembers>,
    dbx: Vec<KeyMembers>,
    vendor_db: Vec<KeyMembers>,
    mokdig: Vec<Sha256>,
    mokxdig: Vec<Sha256>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernels: Option<[KernelMembers; 1]>,
}

#[derive(Debug, Serialize)]
struct FirmwareMembers {
    #[serde(skip_serializing_if = "Option::is_none")]
    scrtm: Option<Sha256>,
    platform_firmware: Vec<Sha256>,
}

#[derive(Debug, Clone, Serialize)]
struct Sha256 {
    sha256: String,
}

#[derive(Debug, Clone, Serialize)]
struct KeyMembers {
    #[serde(rename = "SignatureOwner")]
    owner: String,
    #[serde(rename = "SignatureData")]
    data: String,
}

#[derive(Debug, Default, Serialize)]
struct KernelMembers {
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel_authcode_sha256: Option<String>,
    shim_authcode_sha256: String,
    grub_authcode_sha256: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    initrd_plain_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vmlinuz_plain_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel_cmdline: Option<String>,
}

/// Makes a reference state of a log, and judges the log by it.
///
/// # Errors
/// [`CreateError`]: the log has no SHA-256 digests, cannot be replayed in them, or says that Secure
/// Boot is off where `without_secureboot` is not set.
///
/// # Security
/// The log is taken at its word, apart from what a replay checks: make reference states on machines
/// that are known to be good.
pub fn reference_state(
    log: &EventLog<'_>,
    without_secureboot: bool,
) -> Result<Created, CreateError> {
    let replay = log.replay(HashAlg::Sha256)?;
    let has_secureboot = says_secure_boot(log);
    if !has_secureboot && !without_secureboot {
        return Err(CreateError::SecureBootOff);
    }
    let mut incomplete = Vec::new();
    let scrtm = events(log, EventType::S_CRTM_VERSION).find_map(sha256);
    if scrtm.is_none() {
        incomplete.push(Incomplete::Crtm);
    }
    let is_blob = |event: &&Event<'_>| {
        let blob = EventType::EFI_PLATFORM_FIRMWARE_BLOB;
        event.event_type() == blob || event.event_type() == EventType::EFI_PLATFORM_FIRMWARE_BLOB2
    };
    let firmware = log.events().iter().filter(is_blob).filter_map(sha256);
    let state = State {
        has_secureboot,
        scrtm_and_bios: [FirmwareMembers {
            scrtm,
            platform_firmware: firmware.collect(),
        }],
        pk: keys(log, "pk"),
        kek: keys(log, "kek"),
        db: keys(log, "db"),
        dbx: keys(log, "dbx"),
        vendor_db: vendor_keys(log),
        mokdig: labelled(log, "MokList").filter_map(sha256).collect(),
        mokxdig: labelled(log, "MokListX").filter_map(sha256).collect(),
        kernels: kernel(log, has_secureboot, &mut incomplete).map(|it| [it]),
    };
    // Only texts and lists: writing them cannot fail.
    let text = serde_json::to_string(&state).unwrap_or_default();
    let policy = MeasuredBootPolicy::parse(PolicyName::Example, text.as_bytes());
    let breaches = match policy {
        Ok(Some(policy)) => {
            // Its own values: whether they are a TPM's is not asked here.
            let proof = compare(&replay, replay.values(), policy.relevant_pcrs());
            let proofs: Vec<_> = proof.into_iter().collect();
            policy.judge(log, &proofs).err().unwrap_or_default()
        }
        Ok(None) | Err(_) => Vec::new(),
    };
    Ok(Created {
        text,
        has_secureboot,
        incomplete,
        breaches,
    })
}

fn events<'l, 'a>(log: &'l EventLog<'a>, wanted: EventType) -> impl Iterator<Item = &'l Event<'a>> {
    let events = log.events().iter();
    events.filter(move |event| event.event_type() == wanted)
}

fn sha256(event: &Event<'_>) -> Option<Sha256> {
    let digest = event.digest(HashAlg::Sha256)?;
    Some(Sha256 {
        sha256: format!("0x{}", digest.to_hex()),
    })
}

fn variables<'a>(
    log: &EventLog<'a>,
    event_type: EventType,
) -> impl Iterator<Item = UefiVariable<'a>> {
    events(log, event_type).filter_map(|event| UefiVariable::parse(event.unverified_data()).ok())
}

/// What the first SecureBoot variable says; of a log without one, no.
fn says_secure_boot(log: &EventLog<'_>) -> bool {
    let mut configuration = variables(log, EventType::EFI_VARIABLE_DRIVER_CONFIG);
    let found = configuration.find(|it| it.name == "SecureBoot");
    found.is_some_and(|it| it.data == [1])
}

/// The signatures of the last such variable that has any form.
fn keys(log: &EventLog<'_>, name: &str) -> Vec<KeyMembers> {
    let configuration = variables(log, EventType::EFI_VARIABLE_DRIVER_CONFIG);
    let mut of_name = configuration.filter(|it| it.name.to_lowercase() == name);
    let lists = of_name.by_ref().filter(|it| !it.data.is_empty());
    let last = lists.filter_map(|it| signature_list::parse(it.data).ok());
    let signatures = last.last().unwrap_or_default().into_iter();
    signatures
        .flat_map(|list| list.signatures)
        .map(|signature| key_members(signature.owner, signature.data))
        .collect()
}

fn vendor_keys(log: &EventLog<'_>) -> Vec<KeyMembers> {
    let authorities = variables(log, EventType::EFI_VARIABLE_AUTHORITY);
    let of_vendor = authorities.filter(|it| it.name.to_lowercase() == "vendor_db");
    of_vendor
        .filter_map(|it| {
            let (owner, data) = it.data.split_first_chunk::<16>()?;
            Some(key_members(Guid::from_bytes(*owner), data))
        })
        .collect()
}

fn key_members(owner: Guid, data: &[u8]) -> KeyMembers {
    KeyMembers {
        owner: owner.to_string(),
        data: format!("0x{}", hex::encode(data)),
    }
}

/// `EV_IPL` events with this label.
fn labelled<'l, 'a>(log: &'l EventLog<'a>, label: &'l str) -> impl Iterator<Item = &'l Event<'a>> {
    events(log, EventType::IPL).filter(move |event| text(event.unverified_data()) == Some(label))
}

/// The digest of the first file of GRUB's whose path has one of these in it.
fn grub_file(log: &EventLog<'_>, parts: &[&str]) -> Option<String> {
    let mut files = events(log, EventType::IPL).filter(|event| is_of(event, 9));
    let named = files.find(|event| {
        let path = text(event.unverified_data()).unwrap_or_default();
        parts.iter().any(|part| path.contains(part))
    });
    sha256(named?).map(|it| it.sha256)
}

fn is_of(event: &Event<'_>, pcr: u8) -> bool {
    event.pcr().is_some_and(|it| it.get() == pcr)
}

fn kernel(
    log: &EventLog<'_>,
    has_secureboot: bool,
    incomplete: &mut Vec<Incomplete>,
) -> Option<KernelMembers> {
    let started = events(log, EventType::EFI_BOOT_SERVICES_APPLICATION);
    let started = started.filter(|event| !is_of_firmware(event));
    let images: Vec<_> = started.filter_map(sha256).map(|it| it.sha256).collect();
    let (shim, grub, kernel) = match (&*images, has_secureboot) {
        ([shim, grub, kernel] | [shim, grub, kernel, _], true) => (shim, grub, Some(kernel)),
        ([shim, grub], false) => (shim, grub, None),
        (found, _) => {
            let found = found.len();
            let wanted = if has_secureboot { "3 or 4" } else { "2" };
            incomplete.push(Incomplete::Images { found, wanted });
            return None;
        }
    };
    let initrd = grub_file(log, &["initrd", "initramfs"]);
    let vmlinuz = (!has_secureboot).then(|| grub_file(log, &["vmlinuz"]));
    let command_line = command_line(log);
    let missing = [
        (initrd.is_none(), Incomplete::Initrd),
        (vmlinuz == Some(None), Incomplete::Vmlinuz),
        (command_line.is_none(), Incomplete::CommandLine),
    ];
    incomplete.extend(missing.into_iter().filter(|(is, _)| *is).map(|(_, it)| it));
    Some(KernelMembers {
        kernel_authcode_sha256: kernel.cloned(),
        shim_authcode_sha256: shim.clone(),
        grub_authcode_sha256: grub.clone(),
        initrd_plain_sha256: initrd,
        vmlinuz_plain_sha256: vmlinuz.flatten(),
        kernel_cmdline: command_line.map(|text| escaped(&text)),
    })
}

/// Whether the image lies in a volume of the firmware: its boot menu, say, which `example` does not
/// know.
fn is_of_firmware(event: &Event<'_>) -> bool {
    // UEFI 2.10, 10.3.5.6 and 10.3.5.7: media device path, firmware volume and file.
    const VOLUME: (u8, u8) = (4, 7);
    const FILE: (u8, u8) = (4, 6);
    let Ok(EventData::ImageLoad(image)) = event_data(event.event_type(), event.unverified_data())
    else {
        return false;
    };
    let mut nodes = image
        .device_path
        .iter()
        .map(|node| (node.node_type, node.sub_type));
    (nodes.next(), nodes.next()) == (Some(VOLUME), Some(FILE))
}

/// The text behind the label of the first event that names a command line.
fn command_line(log: &EventLog<'_>) -> Option<String> {
    const LABEL: &str = "kernel_cmdline: ";
    let mut texts = events(log, EventType::IPL)
        .filter(|event| is_of(event, 8))
        .filter_map(|event| text(event.unverified_data()));
    let found = texts.find(|text| text.contains("kernel_cmdline"))?;
    Some(found.chars().skip(LABEL.len()).collect())
}

/// A pattern that matches this text alone, written as Python's `re.escape` writes it.
fn escaped(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for character in text.chars() {
        if "()[]{}?*+-|^$\\.&~# \t\n\r\u{b}\u{c}".contains(character) {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}
