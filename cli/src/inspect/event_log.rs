//! A firmware event log: every event, and the PCR values that they give.

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use rat_engine::crypto::digest;
use rat_engine::hash::HashAlg;
use rat_engine::pcr::{PcrIndex, PcrSet, PcrValues};
use rat_engine::uefi::decode::{EventData, device_path, event_data};
use rat_engine::uefi::{Event, EventLog};

use crate::Outcome;
use crate::input;
use crate::output::{Format, Item, Look, Record, Terminal};

use super::{FILE, fault, headline, unverified};

/// Shows a log.
pub(super) fn run(path: &Path, format: Format, terminal: &mut Terminal) -> Result<Outcome> {
    let bytes = input::read(FILE, path, "UEFI_LOG_BYTES_MAX")?;
    let log = EventLog::parse(&bytes).map_err(|error| fault(path, &error))?;
    let banks: Vec<HashAlg> = log.banks().collect();
    let mut replayed = Record::new();
    let mut faults = Vec::new();
    for bank in &banks {
        match log.replay(*bank) {
            Ok(replay) => replayed.push(
                bank.name(),
                values(*bank, replay.values(), replay.measured()),
            ),
            Err(error) => faults.push(format!("{bank}: {error}")),
        }
    }
    let outcome = match faults.is_empty() {
        true => Outcome::Passed,
        false => Outcome::Failed,
    };
    let form = match log.spec_id() {
        Some(_) => "crypto-agile",
        None => "SHA-1 only",
    };
    let names: Vec<&str> = banks.iter().map(|bank| bank.name()).collect();
    let summary = Record::new()
        .with("form", form)
        .with("events", log.events().len())
        .with("banks", names)
        .with("padding_bytes", log.padding_bytes())
        .with("faults", faults);
    match format {
        Format::Table => {
            headline(terminal)?;
            for event in log.events() {
                let place = terminal.styled(Look::Bold, &event.place().to_string());
                let record = event_record(event, &banks);
                write!(terminal, "\n{place} {}\n{record}", event.event_type())?;
            }
            write!(terminal, "\n{summary}\nReplayed PCR values\n{replayed}")?;
        }
        format => {
            let events = log.events().iter().map(|event| {
                let place = event.place();
                Record::new()
                    .with("event", place.index)
                    .with("pcr", event.pcr().map(PcrIndex::get))
                    .with("type", event.event_type().to_string())
                    .with("offset", place.offset)
                    .followed_by(event_record(event, &banks))
            });
            let events: Vec<Record> = events.collect();
            let record = unverified(summary).with("replayed", replayed);
            terminal.document(format, &record.with("list", events))?;
        }
    }
    Ok(outcome)
}

/// The digests and the data of an event.
fn event_record(event: &Event<'_>, banks: &[HashAlg]) -> Record {
    let mut record = Record::new();
    for bank in banks {
        if let Some(digest) = event.digest(*bank) {
            record.push(bank.name(), digest.to_hex());
        }
    }
    record.with("data", data_item(event))
}

/// The data by its meaning, or as bytes.
fn data_item(event: &Event<'_>) -> Item {
    let data = event.unverified_data();
    let decoded = match event_data(event.event_type(), data) {
        Ok(decoded) => decoded,
        Err(error) => {
            return Record::new()
                .with("bytes", Item::Hex(data.to_vec()))
                .with("not_decoded", error.to_string())
                .into();
        }
    };
    match decoded {
        EventData::SpecId(spec) => format!(
            "Spec ID Event03, 2.{} errata {}, {} algorithms",
            spec.minor,
            spec.errata,
            spec.algorithms.len()
        )
        .into(),
        EventData::StartupLocality(locality) => format!("StartupLocality {locality}").into(),
        EventData::Separator(value) => format!("separator {}", hex::encode(value)).into(),
        EventData::Text(text) => text.into(),
        EventData::Variable(variable) => Record::new()
            .with("variable", variable.name.as_str())
            .with("vendor", variable.vendor.to_string())
            .with("secure_boot", variable.secure_boot_enabled())
            .with("value", Item::Hex(variable.data.to_vec()))
            .into(),
        EventData::ImageLoad(image) => Record::new()
            .with("image", device_path::text(&image.device_path))
            .with("image_bytes", image.length)
            .into(),
        EventData::FirmwareBlob { base, length } => Record::new()
            .with("firmware_at", format!("{base:#x}"))
            .with("firmware_bytes", length)
            .into(),
        EventData::Tagged { id, data } => Record::new()
            .with("tag", format!("{id:#010x}"))
            .with("value", Item::Hex(data.to_vec()))
            .into(),
        EventData::Bytes(bytes) => Item::Hex(bytes.to_vec()),
    }
}

/// The values of measured PCRs, and the boot_aggregates that IMA would make of them.
fn values(bank: HashAlg, values: &PcrValues, measured: PcrSet) -> Record {
    let mut record = Record::new();
    for pcr in measured.iter() {
        record.push(
            pcr.to_string(),
            values.get(bank, pcr).map(|value| value.to_hex()),
        );
    }
    for (name, pcrs) in [
        ("boot_aggregate_0_7", PcrSet::FIRMWARE),
        ("boot_aggregate_0_9", PcrSet::BOOT),
    ] {
        let mut boot = Vec::new();
        for value in pcrs.iter().filter_map(|pcr| values.get(bank, pcr)) {
            boot.extend_from_slice(value.as_bytes());
        }
        record.push(name, digest(bank, &boot).to_hex());
    }
    record
}
