//! Reading JSON without a tree: every object refuses duplicate members, and every error knows its
//! place in the document.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::runtime::Fault;
use crate::limits::POLICY_NAME_SHOWN_MAX;

/// One step from the document's root towards a value.
#[derive(Debug, Clone)]
enum Segment {
    Member(String),
    Index(usize),
}

/// Where the reader is, and the typed error when it has met one.
#[derive(Debug, Default)]
pub(crate) struct Place {
    segments: Vec<Segment>,
    fault: Option<Fault>,
}

impl Place {
    /// The place as `digests["/usr/bin/dd"][0]`.
    pub(crate) fn path(&self) -> String {
        let mut path = String::new();
        for segment in &self.segments {
            match segment {
                Segment::Member(name) if name.len() <= POLICY_NAME_SHOWN_MAX && is_plain(name) => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(name);
                }
                // Debug form: control characters of a hostile name are escaped (X07). Warnings
                // keep a place each, so that a long name would be kept very often.
                Segment::Member(name) => match name.char_indices().nth(POLICY_NAME_SHOWN_MAX) {
                    Some((end, _)) => {
                        let shown = name.get(..end).unwrap_or_default();
                        path.push_str(&format!("[{shown:?}…]"));
                    }
                    None => path.push_str(&format!("[{name:?}]")),
                },
                Segment::Index(index) => path.push_str(&format!("[{index}]")),
            }
        }
        path
    }

    /// The typed error met last, if any.
    pub(crate) fn fault(&mut self) -> Option<Fault> {
        self.fault.take()
    }

    /// Records `fault` at the present place and returns what stops the JSON reader.
    pub(crate) fn refuse<E: Error>(&mut self, fault: Fault) -> E {
        self.fault = Some(fault);
        E::custom("refused")
    }
}

fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// Text, borrowed from the document where it holds no escapes.
pub(crate) struct TextSeed;

impl<'de> DeserializeSeed<'de> for TextSeed {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for TextSeed {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

/// Something that reads the members of one kind of object.
pub(crate) trait Members {
    /// What the object is, for error messages.
    const EXPECTED: &'static str;
    /// Whether the reader itself refuses duplicates; otherwise the names are kept to do so.
    const KEEPS_NAMES: bool = true;

    /// The place, which every reader carries.
    fn place(&mut self) -> &mut Place;

    /// Reads the value of the member `name`.
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error>;
}

/// Reads one object with a reader of its members.
pub(crate) struct Object<'a, M>(pub(crate) &'a mut M);

impl<'de, M: Members> DeserializeSeed<'de> for Object<'_, M> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, M: Members> Visitor<'de> for Object<'_, M> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(M::EXPECTED)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = map.next_key_seed(TextSeed)? {
            self.0
                .place()
                .segments
                .push(Segment::Member(name.clone().into_owned()));
            if M::KEEPS_NAMES && !names.insert(name.clone().into_owned()) {
                return Err(self.0.place().refuse(Fault::DuplicateMember));
            }
            self.0.member(&name, &mut map)?;
            self.0.place().segments.pop();
        }
        Ok(())
    }
}

/// Something that reads the elements of one kind of array.
pub(crate) trait Elements {
    /// What the array is, for error messages.
    const EXPECTED: &'static str;

    /// The place, which every reader carries.
    fn place(&mut self) -> &mut Place;

    /// Reads the next element; false at the end of the array.
    fn element<'de, A: SeqAccess<'de>>(&mut self, array: &mut A) -> Result<bool, A::Error>;
}

/// Reads one array with a reader of its elements.
pub(crate) struct Array<'a, R>(pub(crate) &'a mut R);

impl<'de, R: Elements> DeserializeSeed<'de> for Array<'_, R> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, R: Elements> Visitor<'de> for Array<'_, R> {
    /// The number of elements.
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(R::EXPECTED)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<usize, A::Error> {
        let mut index: usize = 0;
        loop {
            self.0.place().segments.push(Segment::Index(index));
            if !self.0.element(&mut array)? {
                self.0.place().segments.pop();
                return Ok(index);
            }
            self.0.place().segments.pop();
            index = index.saturating_add(1);
        }
    }
}

/// Reads and drops a value of an unknown member. Duplicate members are refused in it too; the
/// JSON reader bounds its depth.
pub(crate) struct Skip<'a>(pub(crate) &'a mut Place);

impl<'de> DeserializeSeed<'de> for Skip<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Members for Skip<'_> {
    const EXPECTED: &'static str = "an object";

    fn place(&mut self) -> &mut Place {
        self.0
    }

    fn member<'de, A: MapAccess<'de>>(&mut self, _: &str, map: &mut A) -> Result<(), A::Error> {
        map.next_value_seed(Skip(self.0))
    }
}

impl Elements for Skip<'_> {
    const EXPECTED: &'static str = "an array";

    fn place(&mut self) -> &mut Place {
        self.0
    }

    fn element<'de, A: SeqAccess<'de>>(&mut self, array: &mut A) -> Result<bool, A::Error> {
        Ok(array.next_element_seed(Skip(self.0))?.is_some())
    }
}

impl<'de> Visitor<'de> for Skip<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, map: A) -> Result<(), A::Error> {
        Object(&mut self).visit_map(map)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, array: A) -> Result<(), A::Error> {
        Array(&mut self).visit_seq(array).map(drop)
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}
