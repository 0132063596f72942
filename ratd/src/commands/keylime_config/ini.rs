//! The form of Keylime's configuration files: what Python's `RawConfigParser` reads.
//!
//! Source: Python 3 documentation, "configparser", "Supported INI File Structure" and "Customizing
//! Parser Behaviour"; its defaults, which Keylime uses.

use std::collections::BTreeSet;

use thiserror::Error;

/// Bytes of a file.
pub(super) const FILE_BYTES_MAX: u64 = 1 << 20;

/// One option, where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) section: String,
    /// In lower case, as Python reads it.
    pub(super) option: String,
    pub(super) value: String,
    /// Counted from 1.
    pub(super) line: usize,
}

/// Why a file cannot be read; Keylime does not read it either.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum IniError {
    #[error("line {0}: an option before the first [section]")]
    NoSection(usize),
    #[error("line {0}: the section [{1}] stands there twice")]
    SectionTwice(usize, String),
    #[error("line {0}: {1} stands in [{2}] twice")]
    OptionTwice(usize, String, String),
    #[error("line {0} is neither a [section] nor `option = value`")]
    Line(usize),
}

/// Every option of a file, in its order. Those of `[DEFAULT]` stand under this name.
pub(super) fn parse(text: &str) -> Result<Vec<Entry>, IniError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader::default();
    for (number, line) in (1_usize..).zip(text.lines()) {
        reader.line(number, line)?;
    }
    for entry in &mut reader.entries {
        entry.value.truncate(entry.value.trim_end().len());
    }
    Ok(reader.entries)
}

#[derive(Default)]
struct Reader {
    entries: Vec<Entry>,
    section: Option<String>,
    sections: BTreeSet<String>,
    options: BTreeSet<(String, String)>,
    /// How far the option was indented that a deeper line goes on with.
    indent: Option<usize>,
}

impl Reader {
    fn line(&mut self, number: usize, line: &str) -> Result<(), IniError> {
        let trimmed = line.trim();
        if trimmed.starts_with(['#', ';']) {
            return Ok(());
        }
        if trimmed.is_empty() {
            // An empty line may stand within a value.
            if let (Some(_), Some(entry)) = (self.indent, self.entries.last_mut()) {
                entry.value.push('\n');
            }
            return Ok(());
        }
        let indent = line.len().saturating_sub(line.trim_start().len());
        if let (Some(before), Some(entry)) = (self.indent, self.entries.last_mut())
            && indent > before
        {
            entry.value.push('\n');
            entry.value.push_str(trimmed);
            return Ok(());
        }
        let header = trimmed
            .strip_prefix('[')
            .and_then(|rest| rest.rsplit_once(']'));
        match header {
            Some((section, _)) if !section.is_empty() => self.section(number, section),
            _ => self.option(number, trimmed, indent),
        }
    }

    fn section(&mut self, number: usize, section: &str) -> Result<(), IniError> {
        self.indent = None;
        if !self.sections.insert(section.to_owned()) && section != "DEFAULT" {
            return Err(IniError::SectionTwice(number, shown(section)));
        }
        self.section = Some(section.to_owned());
        Ok(())
    }

    fn option(&mut self, number: usize, line: &str, indent: usize) -> Result<(), IniError> {
        let section = self.section.clone().ok_or(IniError::NoSection(number))?;
        let (option, value) = line.split_once(['=', ':']).ok_or(IniError::Line(number))?;
        let option = option.trim_end().to_lowercase();
        if option.is_empty() {
            return Err(IniError::Line(number));
        }
        if !self.options.insert((section.clone(), option.clone())) {
            return Err(IniError::OptionTwice(
                number,
                shown(&option),
                shown(&section),
            ));
        }
        self.indent = Some(indent);
        self.entries.push(Entry {
            section,
            option,
            value: value.trim().to_owned(),
            line: number,
        });
        Ok(())
    }
}

/// A name as messages show it. (X07)
pub(super) fn shown(text: &str) -> String {
    let text: String = text.chars().take(80).collect();
    text.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<(String, String, String)> {
        let entries = parse(text).unwrap();
        let entry = |it: Entry| (it.section, it.option, it.value);
        entries.into_iter().map(entry).collect()
    }

    #[test]
    fn files_are_read_as_python_reads_them() {
        let text = "# of the verifier\n[verifier]\nUUID = default\nip: 127.0.0.1\n\
                    ; not this\nempty =\nlist = ['a',\n\n    # inside\n    'b']\nurl = a=b # no comment\n\
                    [ revocations ]x\nzmq_port=8992\n";
        let expected = [
            ("verifier", "uuid", "default"),
            ("verifier", "ip", "127.0.0.1"),
            ("verifier", "empty", ""),
            ("verifier", "list", "['a',\n\n'b']"),
            ("verifier", "url", "a=b # no comment"),
            (" revocations ", "zmq_port", "8992"),
        ];
        let expected = expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned()));
        assert_eq!(values(text), expected);
    }

    #[test]
    fn what_python_does_not_read_is_refused_by_line() {
        for (text, error) in [
            ("a = 1\n", IniError::NoSection(1)),
            (
                "[v]\na = 1\nA = 2\n",
                IniError::OptionTwice(3, "a".into(), "v".into()),
            ),
            ("[v]\n[v]\n", IniError::SectionTwice(2, "v".into())),
            ("[v]\nnothing\n", IniError::Line(2)),
            ("[v]\n= 3\n", IniError::Line(2)),
            ("[]\n", IniError::NoSection(1)),
        ] {
            assert_eq!(parse(text), Err(error), "{text:?}");
        }
        assert_eq!(parse(""), Ok(Vec::new()));
    }
}
