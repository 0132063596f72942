//! Requests in JSON: one object, read strictly, asked for by member.
//!
//! Objects with a member twice are refused at every depth, because two readers would see two
//! requests. (X01) Members that nobody asks for are checked for form and otherwise ignored, so that
//! newer agents and clients can speak to older servers; in requests that have a [`Form`] they are
//! refused, because an operator's misspelt member would be a wish that nobody hears.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::ops::RangeInclusive;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::{ApiError, JsonFault, MemberFault, ShownName};
use crate::limits::{JSON_DEPTH_MAX, JSON_MEMBERS_MAX, JSON_TEXTS_MAX};

/// One JSON object, borrowed from the body where its texts hold no escapes.
#[derive(Debug)]
pub struct Object<'a> {
    members: Vec<(Cow<'a, str>, Member<'a>)>,
}

/// A value, as far as requests use values.
#[derive(Debug)]
enum Member<'a> {
    Text(Cow<'a, str>),
    Texts(Texts<'a>),
    Number(u64),
    Flag(bool),
    Null,
    /// The text of a value that is another reader's, byte for byte.
    Document(&'a str),
    Other(&'static str),
}

/// The strings of an array: the first of them, and how many there are. What a request has no use for
/// takes no memory, however long its body may be. (X01)
#[derive(Debug, Default)]
struct Texts<'a> {
    kept: Vec<Cow<'a, str>>,
    count: usize,
}

impl<'a> Texts<'a> {
    fn push(&mut self, text: Cow<'a, str>) {
        self.count = self.count.saturating_add(1);
        if self.kept.len() < JSON_TEXTS_MAX {
            self.kept.push(text);
        }
    }

    /// All of them, when there are no more than `max`.
    fn up_to(&self, max: usize) -> Option<&[Cow<'a, str>]> {
        let is_whole = self.count == self.kept.len();
        (is_whole && self.count <= max).then_some(&*self.kept)
    }
}

impl Member<'_> {
    /// What it is, as messages say it.
    const fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Texts(_) => "an array",
            Self::Number(_) => "a number",
            Self::Flag(_) => "a boolean",
            Self::Null => "null",
            Self::Document(_) => "a document",
            Self::Other(kind) => kind,
        }
    }

    fn is_not(&self, name: &'static str, expected: &'static str) -> ApiError {
        let found = self.kind();
        ApiError::member(name, MemberFault::Type { expected, found })
    }
}

/// What an operator's request may hold.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// Names of members.
    pub members: &'static [&'static str],
    /// The member whose value is another reader's: a policy.
    pub document: Option<&'static str>,
}

impl<'a> Object<'a> {
    /// The object that `body` is.
    ///
    /// # Errors
    /// [`ApiError::Json`] when it is no JSON text (a byte order mark, bytes that are not UTF-8 and
    /// trailing bytes included), [`ApiError::NotAnObject`] when it is another value.
    pub fn parse(body: &'a [u8]) -> Result<Self, ApiError> {
        Self::read(body, None)
    }

    /// The object that `body` is, when it holds nothing but what this form has. No body at all is
    /// an object without members.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), and [`ApiError::UnknownMember`].
    pub fn of_form(body: &'a [u8], form: &Form) -> Result<Self, ApiError> {
        let body = if body.is_empty() { b"{}" } else { body };
        let object = Self::read(body, form.document)?;
        let is_known = |name: &str| form.members.contains(&name) || form.document == Some(name);
        let unknown = object.members.iter().find(|(name, _)| !is_known(name));
        match unknown {
            Some((name, _)) => Err(ApiError::UnknownMember(ShownName::new(name))),
            None => Ok(object),
        }
    }

    /// The same, where no body is no request.
    ///
    /// # Errors
    /// As [`of_form`](Self::of_form), and [`ApiError::NotAnObject`] for no body at all.
    pub fn of_whole_form(body: &'a [u8], form: &Form) -> Result<Self, ApiError> {
        if body.is_empty() {
            return Err(ApiError::NotAnObject);
        }
        Self::of_form(body, form)
    }

    fn read(body: &'a [u8], document: Option<&'static str>) -> Result<Self, ApiError> {
        let fault = Cell::new(None);
        let mut deserializer = serde_json::Deserializer::from_slice(body);
        let root = Root {
            fault: &fault,
            document,
        };
        let parsed = deserializer.deserialize_map(root).and_then(|members| {
            deserializer.end()?;
            Ok(Self { members })
        });
        parsed.map_err(|error| match fault.get() {
            Some(fault) => ApiError::Json(fault),
            None if error.is_data() => ApiError::NotAnObject,
            None => ApiError::Json(JsonFault::Syntax {
                line: error.line(),
                column: error.column(),
            }),
        })
    }

    fn member(&self, name: &str) -> Option<&Member<'a>> {
        let same = |(key, _): &&(Cow<'a, str>, Member<'a>)| key == name;
        self.members.iter().find(same).map(|(_, member)| member)
    }

    /// The text of a member that may be missing or null.
    ///
    /// # Errors
    /// [`ApiError::Member`] when it is no string, or longer than `max` characters.
    pub fn optional_text(&self, name: &'static str, max: usize) -> Result<Option<&str>, ApiError> {
        match self.member(name) {
            None | Some(Member::Null) => Ok(None),
            Some(Member::Text(text)) if text.chars().nth(max).is_some() => {
                let unit = "characters";
                Err(ApiError::member(name, MemberFault::TooLong { max, unit }))
            }
            Some(Member::Text(text)) => Ok(Some(text)),
            Some(other) => Err(other.is_not(name, "a string")),
        }
    }

    /// The texts of a member that may be missing or null.
    ///
    /// # Errors
    /// [`ApiError::Member`] when it is no array of strings, or has more than `max`.
    pub fn optional_texts(
        &self,
        name: &'static str,
        max: usize,
    ) -> Result<Option<&[Cow<'a, str>]>, ApiError> {
        match self.member(name) {
            None | Some(Member::Null) => Ok(None),
            Some(Member::Texts(texts)) => match texts.up_to(max) {
                None => {
                    let max = max.min(JSON_TEXTS_MAX);
                    let unit = "elements";
                    Err(ApiError::member(name, MemberFault::TooLong { max, unit }))
                }
                texts => Ok(texts),
            },
            Some(other) => Err(other.is_not(name, "an array of strings")),
        }
    }

    /// The truth value of a member that may be missing or null.
    ///
    /// # Errors
    /// [`ApiError::Member`] when it is none.
    pub fn optional_flag(&self, name: &'static str) -> Result<Option<bool>, ApiError> {
        match self.member(name) {
            None | Some(Member::Null) => Ok(None),
            Some(Member::Flag(flag)) => Ok(Some(*flag)),
            Some(other) => Err(other.is_not(name, "a boolean")),
        }
    }

    /// The natural number of a member that may be missing or null.
    ///
    /// # Errors
    /// [`ApiError::Member`] when it is none of this range.
    pub fn optional_number(
        &self,
        name: &'static str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, ApiError> {
        match self.member(name) {
            None | Some(Member::Null) => Ok(None),
            Some(Member::Number(number)) if range.contains(number) => Ok(Some(*number)),
            Some(Member::Number(_)) => {
                let fault = format!("must be {} to {}", range.start(), range.end());
                Err(ApiError::member(name, MemberFault::Value(fault)))
            }
            Some(other) => Err(other.is_not(name, "a natural number")),
        }
    }

    /// The natural number of a member that may be null: the outer is `None` when it is missing, the
    /// inner when it is null.
    ///
    /// # Errors
    /// [`ApiError::Member`] when it is none of this range.
    pub fn nullable_number(
        &self,
        name: &'static str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<Option<u64>>, ApiError> {
        match self.member(name) {
            None => Ok(None),
            Some(_) => self.optional_number(name, range).map(Some),
        }
    }

    /// The text of the form's document; the outer is `None` when it is missing, the inner when it
    /// is null.
    pub fn optional_document(&self, name: &str) -> Option<Option<&'a str>> {
        match self.member(name) {
            Some(Member::Document(text)) => Some((*text != "null").then_some(*text)),
            _ => None,
        }
    }

    /// The text of a member.
    ///
    /// # Errors
    /// [`ApiError::Member`] when it is missing, null, no string, or longer than `max` characters.
    pub fn text(&self, name: &'static str, max: usize) -> Result<&str, ApiError> {
        let text = self.optional_text(name, max)?;
        text.ok_or_else(|| ApiError::member(name, MemberFault::Missing))
    }

    /// The bytes that a member holds in base64, if it is there.
    ///
    /// # Errors
    /// [`ApiError::Member`] when it is no string, no base64, or longer than `max` bytes.
    pub fn optional_bytes(
        &self,
        name: &'static str,
        max: usize,
    ) -> Result<Option<Vec<u8>>, ApiError> {
        // Four characters for three bytes, rounded up.
        let characters = max.div_ceil(3).saturating_mul(4);
        let Some(text) = self.optional_text(name, characters)? else {
            return Ok(None);
        };
        let encoding = || {
            let expected = "base64 with the standard alphabet and padding";
            ApiError::member(name, MemberFault::Encoding(expected))
        };
        let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text)
            .map_err(|_| encoding())?;
        if bytes.len() > max {
            let unit = "bytes";
            return Err(ApiError::member(name, MemberFault::TooLong { max, unit }));
        }
        Ok(Some(bytes))
    }

    /// Refuses null in these members. Where a member that is missing leaves something as it is,
    /// null would be a wish that nobody hears.
    ///
    /// # Errors
    /// [`ApiError::Member`].
    pub fn refuse_null(&self, names: &[&'static str]) -> Result<(), ApiError> {
        let null = names.iter().find_map(|name| match self.member(name) {
            Some(member @ Member::Null) => Some(member.is_not(name, "a value")),
            _ => None,
        });
        null.map_or(Ok(()), Err)
    }

    /// Whether a member is there, null or not.
    pub fn names(&self, name: &str) -> bool {
        self.member(name).is_some()
    }

    /// Whether a member is there and not null.
    pub fn has(&self, name: &str) -> bool {
        !matches!(self.member(name), None | Some(Member::Null))
    }
}

struct Root<'f> {
    fault: &'f Cell<Option<JsonFault>>,
    document: Option<&'static str>,
}

impl<'de> Visitor<'de> for Root<'_> {
    type Value = Vec<(Cow<'de, str>, Member<'de>)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let document = self.document;
        read_members(map, self.fault, 1, document)
    }
}

/// Reads the members of one object. Few are allowed, so that looking for a name in a list is fast.
fn read_members<'de, A: MapAccess<'de>>(
    mut map: A,
    fault: &Cell<Option<JsonFault>>,
    depth: usize,
    document: Option<&str>,
) -> Result<Vec<(Cow<'de, str>, Member<'de>)>, A::Error> {
    let mut members: Vec<(Cow<'de, str>, Member<'de>)> = Vec::new();
    while let Some(name) = map.next_key_seed(Text)? {
        if members.len() >= JSON_MEMBERS_MAX {
            return Err(refuse(fault, JsonFault::Members));
        }
        if members.iter().any(|(known, _)| *known == name) {
            return Err(refuse(fault, JsonFault::Duplicate));
        }
        let value = if document == Some(&*name) {
            Member::Document(map.next_value::<&RawValue>()?.get())
        } else {
            map.next_value_seed(Value { fault, depth })?
        };
        members.push((name, value));
    }
    Ok(members)
}

fn refuse<E: Error>(slot: &Cell<Option<JsonFault>>, fault: JsonFault) -> E {
    slot.set(Some(fault));
    E::custom("refused")
}

/// A string, borrowed where it holds no escapes.
pub(crate) struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

/// Any value, at this depth of objects and arrays around it.
#[derive(Clone, Copy)]
struct Value<'f> {
    fault: &'f Cell<Option<JsonFault>>,
    depth: usize,
}

impl Value<'_> {
    fn deeper<E: Error>(&self) -> Result<Self, E> {
        if self.depth >= JSON_DEPTH_MAX {
            return Err(refuse(self.fault, JsonFault::Depth));
        }
        Ok(Self {
            fault: self.fault,
            depth: self.depth.saturating_add(1),
        })
    }
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = Member<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = Member<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Member::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Member::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Self::Value, E> {
        Ok(Member::Text(Cow::Owned(text)))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Member::Null)
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Self::Value, E> {
        Ok(Member::Flag(flag))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Member::Number(number))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Member::Other("a number"))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Member::Other("a number"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let deeper = self.deeper()?;
        let mut texts = Some(Texts::default());
        while let Some(element) = seq.next_element_seed(deeper)? {
            texts = match (texts, element) {
                (Some(mut texts), Member::Text(text)) => {
                    texts.push(text);
                    Some(texts)
                }
                _ => None,
            };
        }
        Ok(texts.map_or(Member::Other("an array"), Member::Texts))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let deeper: Self = self.deeper()?;
        read_members(map, self.fault, deeper.depth, None)?;
        Ok(Member::Other("an object"))
    }
}

#[cfg(test)]
mod tests;
