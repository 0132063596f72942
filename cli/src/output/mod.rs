//! Where results go: text for people, JSON or YAML for programs, on standard output.

mod escape;
mod json;
mod record;
mod table;
mod yaml;

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use clap::ValueEnum;
use rat_engine::pcr::PcrSet;
use serde::Serialize;

pub(crate) use escape::{name_text, printable};
pub(crate) use record::{Item, Record};
pub(crate) use table::{Column, status_look, table};

/// How a result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// Lines for people
    #[default]
    Table,
    /// JSON for programs
    Json,
    /// YAML for programs
    Yaml,
}

/// What a piece of text should look like, where the terminal can show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// A heading.
    Bold,
    /// Good news.
    Green,
    /// A warning.
    Yellow,
    /// Bad news.
    Red,
}

/// Standard output, buffered, coloured only when a person looks at it.
pub(crate) struct Terminal {
    out: BufWriter<Stdout>,
    colours: bool,
}

/// Standard output. That its reader has seen enough, as `head` has, is no fault.
struct Stdout {
    lock: StdoutLock<'static>,
    closed: bool,
}

impl Terminal {
    /// Standard output. `NO_COLOR`, when set and not empty, forbids colours (no-color.org).
    pub(crate) fn stdout() -> Self {
        let lock = io::stdout().lock();
        let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colours = lock.is_terminal() && !forbidden;
        Self {
            out: BufWriter::new(Stdout {
                lock,
                closed: false,
            }),
            colours,
        }
    }

    /// Whether nobody reads any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.out.get_ref().closed
    }

    /// The text in this look, or as it is where there are no colours.
    pub(crate) fn styled(&self, look: Look, text: &str) -> String {
        if !self.colours {
            return text.to_owned();
        }
        let code = match look {
            Look::Bold => "1",
            Look::Green => "1;32",
            Look::Yellow => "1;33",
            Look::Red => "1;31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// One value for programs: indented JSON, unless the format is YAML.
    pub(crate) fn document(&mut self, format: Format, value: &impl Serialize) -> io::Result<()> {
        if format == Format::Yaml {
            return yaml::write(&mut self.out, value);
        }
        json::write_pretty(&mut self.out, value)?;
        writeln!(self.out)
    }

    /// JSON that somebody else wrote, with the same meaning and without what a terminal obeys.
    pub(crate) fn json_text(&mut self, text: &str) -> io::Result<()> {
        json::write_text(&mut self.out, text)?;
        writeln!(self.out)
    }

    /// One of several values for programs: JSON on one line, or a document of a YAML stream.
    pub(crate) fn document_of_many(
        &mut self,
        format: Format,
        value: &impl Serialize,
    ) -> io::Result<()> {
        if format == Format::Yaml {
            writeln!(self.out, "---")?;
            return yaml::write(&mut self.out, value);
        }
        json::write_line(&mut self.out, value)?;
        writeln!(self.out)
    }
}

impl Write for Terminal {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// `0-9,14`.
pub(crate) fn pcr_ranges(pcrs: PcrSet) -> String {
    let mut ranges: Vec<(u8, u8)> = Vec::new();
    for pcr in pcrs.iter() {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(pcr.get()) => *last = pcr.get(),
            _ => ranges.push((pcr.get(), pcr.get())),
        }
    }
    let texts = ranges.into_iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    texts.collect::<Vec<_>>().join(",")
}

/// `1 entry`, `2 entries`.
pub(crate) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

impl Stdout {
    fn unless_closed<T>(&mut self, result: io::Result<T>, closed: T) -> io::Result<T> {
        match result {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(closed)
            }
            Err(error) => Err(io::Error::new(
                error.kind(),
                format!("cannot write to standard output: {error}"),
            )),
            Ok(value) => Ok(value),
        }
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.lock.write(bytes);
        self.unless_closed(written, bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.lock.flush();
        self.unless_closed(flushed, ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pcrs_are_shown_as_ranges() {
        for (bits, shown) in [
            (0, ""),
            (1, "0"),
            (0b1011, "0-1,3"),
            (0x0080_43ff, "0-9,14,23"),
        ] {
            assert_eq!(pcr_ranges(PcrSet::from_bits(bits).unwrap()), shown);
        }
    }
}
