//! Named values that are written once, and shown as lines, JSON or YAML; and what a server answered.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

use super::escape::{name_text, printable};

/// As many as the largest digest has.
const HEX_BYTES_SHOWN: usize = 64;

/// Named values in the order in which they are shown.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Record(Vec<(String, Item)>);

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Item {
    /// There is none.
    Absent,
    /// A number.
    Number(u64),
    /// A number below zero.
    Negative(i64),
    /// A number with decimals.
    Decimal(f64),
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

    /// The value of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&Item> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map(|(_, item)| item)
    }

    /// The record without the value of this name.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.0.retain(|(key, _)| key != name);
        self
    }

    /// The names and values, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Item)> {
        self.0.iter().map(|(name, item)| (name.as_str(), item))
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
                Item::Record(record) if !record.0.is_empty() => {
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
            Self::Negative(number) => number.fmt(f),
            Self::Decimal(number) => number.fmt(f),
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
            Self::Record(Record(fields)) if fields.is_empty() => f.write_str("(none)"),
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

impl Item {
    /// The value of this name, when this is a record that has one.
    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Record(record) => record.get(name),
            _ => None,
        }
    }

    /// The text of this name, unless it is empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.get(name) {
            Some(Self::Text(text)) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// The number of this name.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        match self.get(name) {
            Some(Self::Number(number)) => Some(*number),
            _ => None,
        }
    }

    /// The values of the list of this name; none when there is no such list.
    pub(crate) fn list(&self, name: &str) -> &[Self] {
        match self.get(name) {
            Some(Self::List(items)) => items,
            _ => &[],
        }
    }
}

/// Any JSON, with members in their order, also those that we do not know.
impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyItem)
    }
}

/// An object of JSON, and nothing else.
impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Item::deserialize(deserializer)? {
            Item::Record(record) => Ok(record),
            _ => Err(D::Error::custom("expected an object")),
        }
    }
}

struct AnyItem;

impl<'de> Visitor<'de> for AnyItem {
    type Value = Item;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Item, E> {
        Ok(Item::Absent)
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Item, E> {
        Ok(Item::Flag(flag))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Item, E> {
        Ok(Item::Number(number))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Item, E> {
        Ok(u64::try_from(number).map_or(Item::Negative(number), Item::Number))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Item, E> {
        Ok(Item::Decimal(number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Item, E> {
        Ok(Item::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Item, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Item::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Item, A::Error> {
        let mut record = Vec::new();
        while let Some(member) = members.next_entry()? {
            record.push(member);
        }
        Ok(Item::Record(Record(record)))
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
            Self::Negative(number) => serializer.serialize_i64(*number),
            Self::Decimal(number) => serializer.serialize_f64(*number),
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
