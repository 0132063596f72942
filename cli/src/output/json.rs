//! JSON that is also safe to look at on a terminal.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter, Serializer};

use super::escape::is_printable;

/// Writes one value over several lines.
pub(super) fn write_pretty(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let formatter = Printable(PrettyFormatter::new());
    let mut serializer = Serializer::with_formatter(out, formatter);
    Ok(value.serialize(&mut serializer)?)
}

/// Writes one value on one line.
pub(super) fn write_line(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut serializer = Serializer::with_formatter(out, Printable(CompactFormatter));
    Ok(value.serialize(&mut serializer)?)
}

/// Writes a JSON text. What a terminal would not show plainly can only stand within strings, where
/// it can be escaped; line ends and tabs between values stay.
pub(super) fn write_text(out: &mut impl Write, text: &str) -> io::Result<()> {
    for line in text.split_inclusive(['\n', '\r', '\t']) {
        let (shown, end) = line.split_at(line.trim_end_matches(['\n', '\r', '\t']).len());
        write_escaped(out, shown)?;
        // A carriage return alone would let the next line write over this one.
        out.write_all(end.replace('\r', "").as_bytes())?;
    }
    Ok(())
}

fn write_escaped<W: ?Sized + Write>(out: &mut W, text: &str) -> io::Result<()> {
    let mut units = [0; 2];
    let mut utf8 = [0; 4];
    for character in text.chars() {
        if is_printable(character) {
            out.write_all(character.encode_utf8(&mut utf8).as_bytes())?;
        } else {
            for unit in character.encode_utf16(&mut units) {
                write!(out, "\\u{unit:04x}")?;
            }
        }
    }
    Ok(())
}

/// Writes what a terminal would not show plainly as `\uNNNN`. JSON itself demands that only of
/// the first 32 characters.
struct Printable<F>(F);

impl<F: Formatter> Formatter for Printable<F> {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        write_escaped(writer, fragment)
    }

    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_array(writer)
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array(writer)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(out, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array_value(writer)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(out, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x07_json_shows_no_control_character_and_reads_back_the_same() {
        let text = "a\u{1b}[2J\u{7f}\u{9b}\u{202e}\u{e0041}\"\\\nü文";
        let value = serde_json::json!({ "path": text, "list": [1, { "deep": text }] });
        for pretty in [true, false] {
            let mut out = Vec::new();
            if pretty {
                write_pretty(&mut out, &value).unwrap();
            } else {
                write_line(&mut out, &value).unwrap();
            }
            let shown = String::from_utf8(out).unwrap();
            assert!(
                shown.chars().all(|c| c == '\n' || is_printable(c)),
                "{shown}"
            );
            assert!(shown.contains("\\u009b") && shown.contains('文'));
            let read: serde_json::Value = serde_json::from_str(&shown).unwrap();
            assert_eq!(read, value);
        }
    }

    #[test]
    fn x07_texts_of_others_lose_nothing_but_control_characters() {
        let text = "{\r\n\t\"a\u{202e}\": [\"\u{9b}31m\u{7f}\u{e0041}\", 1.50]\r}";
        let mut out = Vec::new();
        write_text(&mut out, text).unwrap();
        let shown = String::from_utf8(out).unwrap();
        let is_plain = |c: char| is_printable(c) || matches!(c, '\n' | '\t');
        assert!(shown.chars().all(is_plain), "{shown:?}");
        let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(read(&shown), read(text));
        assert!(shown.contains("1.50"));
    }
}
