//! Named values that are written once, and shown as lines or as JSON.

use std::fmt;

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

use super::escape::{name_text, printable};

/// As many as the largest digest has.
const HEX_BYTES_SHOWN: usize = 64;

/// Named values in the order in which they are shown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Record(Vec<(String, Item)>);

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    /// There is none.
    Absent,
    /// A number.
    Number(u64),
    /// Yes or no.
    Flag(bool),
    /// Text of ours, or a message.
    Text(String),
    /// A name from evidence: any bytes.
    Name(Vec<u8>),
    /// Bytes in hexadecimal, of which lines show the front only.
    Hex(Vec<u8>),
    /// Several values.
    List(Vec<Item>),
    /// Named values.
    Record(Record),
}

impl Record {
    /// No values.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The record with one more value.
    pub(crate) fn with(mut self, name: impl Into<String>, item: impl Into<Item>) -> Self {
        self.push(name, item);
        self
    }

    /// Adds a value.
    pub(crate) fn push(&mut self, name: impl Into<String>, item: impl Into<Item>) {
        self.0.push((name.into(), item.into()));
    }

    /// The record with the values of another after its own.
    pub(crate) fn followed_by(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, indent: usize) -> fmt::Result {
        let length = |(name, item): &(String, Item)| match item {
            Item::Record(_) => 0,
            _ => name.chars().count(),
        };
        let width = self.0.iter().map(length).max().unwrap_or(0);
        for (name, item) in &self.0 {
            let label = printable(&name.replace('_', " "));
            match item {
                Item::Record(record) => {
                    writeln!(f, "{:indent$}{label}", "")?;
                    record.write(f, indent.saturating_add(2))?;
                }
                _ => writeln!(f, "{:indent$}{label:width$}  {item}", "")?,
            }
        }
        Ok(())
    }
}

/// A line for each value, the values below one another.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, 0)
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("-"),
            Self::Number(number) => number.fmt(f),
            Self::Flag(true) => f.write_str("yes"),
            Self::Flag(false) => f.write_str("no"),
            Self::Text(text) if text.is_empty() => f.write_str("(empty)"),
            Self::Text(text) => f.write_str(&printable(text)),
            Self::Name(name) => f.write_str(&name_text(name)),
            Self::Hex(bytes) => match bytes.split_at_checked(HEX_BYTES_SHOWN) {
                Some((front, rest)) if !rest.is_empty() => {
                    write!(f, "{}... ({} bytes)", hex::encode(front), bytes.len())
                }
                _ if bytes.is_empty() => f.write_str("(empty)"),
                _ => f.write_str(&hex::encode(bytes)),
            },
            Self::List(items) if items.is_empty() => f.write_str("(none)"),
            Self::List(items) => {
                for (nth, item) in items.iter().enumerate() {
                    f.write_str(if nth > 0 { ", " } else { "" })?;
                    item.fmt(f)?;
                }
                Ok(())
            }
            Self::Record(Record(fields)) => {
                for (nth, (name, item)) in fields.iter().enumerate() {
                    f.write_str(if nth > 0 { ", " } else { "" })?;
                    write!(f, "{} {item}", printable(&name.replace('_', " ")))?;
                }
                Ok(())
            }
        }
    }
}

/// A name that is not UTF-8 is escaped, and its bytes follow in hexadecimal under `<name>_hex`.
impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, item) in &self.0 {
            map.serialize_entry(name, item)?;
            if let Item::Name(bytes) = item
                && std::str::from_utf8(bytes).is_err()
            {
                map.serialize_entry(&format!("{name}_hex"), &hex::encode(bytes))?;
            }
        }
        map.end()
    }
}

impl Serialize for Item {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Absent => serializer.serialize_none(),
            Self::Number(number) => serializer.serialize_u64(*number),
            Self::Flag(flag) => serializer.serialize_bool(*flag),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Name(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => serializer.serialize_str(text),
                Err(_) => serializer.serialize_str(&name_text(bytes)),
            },
            Self::Hex(bytes) => serializer.serialize_str(&hex::encode(bytes)),
            Self::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    list.serialize_element(item)?;
                }
                list.end()
            }
            Self::Record(record) => record.serialize(serializer),
        }
    }
}

impl From<&str> for Item {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Item {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for Item {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<u64> for Item {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<usize> for Item {
    fn from(number: usize) -> Self {
        Self::Number(u64::try_from(number).unwrap_or(u64::MAX))
    }
}

impl From<u32> for Item {
    fn from(number: u32) -> Self {
        Self::Number(u64::from(number))
    }
}

impl From<u8> for Item {
    fn from(number: u8) -> Self {
        Self::Number(u64::from(number))
    }
}

impl From<Record> for Item {
    fn from(record: Record) -> Self {
        Self::Record(record)
    }
}

impl<I: Into<Item>> From<Vec<I>> for Item {
    fn from(items: Vec<I>) -> Self {
        Self::List(items.into_iter().map(Into::into).collect())
    }
}

impl<I: Into<Item>> From<Option<I>> for Item {
    fn from(item: Option<I>) -> Self {
        item.map_or(Self::Absent, Into::into)
    }
}
