//! PCR values.

use std::path::Path;

use crate::evidence::PcrFile;
use crate::input::{self, InputError};
use crate::output::Record;

use super::{FILE, fault};

/// Reads values, by bank and index.
pub(super) fn read(path: &Path) -> Result<Record, InputError> {
    let bytes = input::read(FILE, path, "PCR_BLOB_BYTES_MAX")?;
    let file = PcrFile::parse(&bytes).map_err(|error| fault(path, &error))?;
    let mut record = Record::new().with("form", file.form).with(
        "selection",
        file.selection.map(|selection| selection.to_string()),
    );
    for bank in file.values.banks() {
        let mut values = Record::new();
        for (_, pcr, value) in file.values.iter().filter(|(of, ..)| *of == bank) {
            values.push(pcr.to_string(), value.to_hex());
        }
        record.push(bank.name(), values);
    }
    Ok(record)
}
