//! YAML that is also safe to look at on a terminal.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_saphyr::{DoubleQuoted, ser_options};

use super::escape::is_printable;
use super::record::{Item, Record};

/// Writes one value as a block.
pub(super) fn write(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let item: Item = serde_json::from_slice(&serde_json::to_vec(value)?)?;
    let options = ser_options! { prefer_block_scalars: false };
    let text = serde_saphyr::to_string_with_options(&Yaml(&item), options);
    let text = text.map_err(io::Error::other)?;
    out.write_all(printable(&text).as_bytes())
}

/// What a terminal would not show plainly stands between double quotes, where it can be escaped.
/// (YAML 1.2.2, 5.7)
fn printable(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        let code = u32::from(character);
        // Writing to a String cannot fail.
        let _ = match character {
            '\n' => escaped.write_char(character),
            _ if is_printable(character) => escaped.write_char(character),
            _ if code <= 0xffff => write!(escaped, "\\u{code:04x}"),
            _ => write!(escaped, "\\U{code:08x}"),
        };
    }
    escaped
}

/// A value whose texts are between double quotes where they must be.
struct Yaml<'i>(&'i Item);

/// The same for a text.
struct Text<'t>(&'t str);

impl Serialize for Yaml<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Item::Text(text) => Text(text).serialize(serializer),
            Item::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    list.serialize_element(&Yaml(item))?;
                }
                list.end()
            }
            Item::Record(record) => members(record, serializer),
            other => other.serialize(serializer),
        }
    }
}

fn members<S: Serializer>(record: &Record, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    for (name, item) in record.iter() {
        map.serialize_entry(&Text(name), &Yaml(item))?;
    }
    map.end()
}

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.chars().all(is_printable) {
            serializer.serialize_str(self.0)
        } else {
            DoubleQuoted(self.0).serialize(serializer)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x07_yaml_shows_no_control_character() {
        let text = "a\u{1b}[2J\u{7f}\u{9b}\u{202e}\u{e0041}\"\\\nü文";
        let value = serde_json::json!({ "path": text, "list": [1, { "deep": text }], text: null });
        let mut out = Vec::new();
        write(&mut out, &value).unwrap();
        let shown = String::from_utf8(out).unwrap();
        assert!(
            shown.chars().all(|c| c == '\n' || is_printable(c)),
            "{shown}"
        );
        for escaped in ["\\u202e", "\\U000e0041", "\\n", "文"] {
            assert!(shown.contains(escaped), "{shown}");
        }
        assert_eq!(shown.lines().count(), 5, "{shown}");
    }

    #[test]
    fn texts_that_look_like_something_else_stay_texts() {
        for text in [
            "yes",
            "null",
            "1e3",
            "0x10",
            "",
            "- a",
            "a: b",
            "~",
            "2026-01-01",
        ] {
            let mut out = Vec::new();
            write(&mut out, &serde_json::json!({ "text": text })).unwrap();
            let shown = String::from_utf8(out).unwrap();
            assert!(shown.contains(['"', '\'']), "{shown}");
        }
    }
}
