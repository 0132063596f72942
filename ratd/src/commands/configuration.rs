//! `ratd config show` and `ratd config reference`.

use std::io::{self, Write};

use crate::config::keys::{self, KEYS, value_text};
use crate::config::load::Loaded;

/// Prints every key as a line of TOML, with its origin as a comment when asked for.
pub(crate) fn show(loaded: &Loaded, origin: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for key in KEYS {
        let value = value_text(&loaded.config, key.name).unwrap_or_default();
        write!(out, "{} = {value}", key.name)?;
        if origin {
            write!(out, "  # {}", loaded.origin(key.name))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// Prints the tables of the reference page.
pub(crate) fn reference() -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(keys::reference().as_bytes())?;
    out.write_all(b"\n")?;
    out.write_all(keys::webhook_reference().as_bytes())
}
