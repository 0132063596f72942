//! What a request asks to be judged, and by what.
//!
//! A body is read in one pass. Values stay the texts that they are until somebody asks for them:
//! most of a body is one list and one policy, and the policy is recognised by its text.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use axum::body::Bytes;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::super::ApiVersion;
use super::Refused;
use super::failure::Failure;
use crate::error::JsonFault;
use crate::json::Text;
use crate::limits::JSON_MEMBERS_MAX;

/// A request with all that it must have.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    members: Members<'a>,
}

/// Members of one object, each with the text of its value.
type Members<'a> = Vec<(Cow<'a, str>, &'a str)>;

/// Why there is nothing to judge.
#[derive(Debug)]
pub(super) enum Fault {
    /// A parameter or policy is missing.
    Incomplete(Failure),
    /// Anything else.
    Refused(Refused),
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

/// Parameters without which nothing is judged, in the order in which Keylime misses them.
///
/// The endorsement key must be there and is not used, as in Keylime: nothing in a quote says which
/// one the attestation key belongs to.
const NEEDED: [&str; 5] = ["quote", "nonce", "hash_alg", "tpm_ek", "tpm_ak"];

impl<'a> Asked<'a> {
    /// Reads a body.
    ///
    /// # Security
    /// Members that occur twice are refused: who reads the claims that are given back must not see
    /// another member than was judged. (X01)
    pub(super) fn read(body: &'a [u8], version: ApiVersion) -> Result<Self, Fault> {
        let Outer { members, data } = Outer::read(body)?;
        let is_flat = data == Data::Missing && find(&members, "type").is_none();
        // As 2.4 was documented: the members stand in the body itself.
        if version == ApiVersion::V2_4 && is_flat {
            return Self::complete(members);
        }
        check_type(text(&members, "type"))?;
        match data {
            Data::Members(members) => Self::complete(members),
            Data::Missing => Err(Refused::request("missing parameter 'data'").into()),
            Data::Other => Err(Refused::request("parameter 'data' must be an object").into()),
        }
    }

    fn complete(members: Members<'a>) -> Result<Self, Fault> {
        let asked = Self { members };
        for name in NEEDED {
            if asked.optional(name)?.is_none() {
                return Err(Fault::Incomplete(Failure::missing_parameter(name)));
            }
        }
        let has_policy = asked.has("runtime_policy")
            || asked.optional("tpm_policy")?.is_some()
            || asked.optional("mb_policy")?.is_some();
        if !has_policy {
            return Err(Fault::Incomplete(Failure::missing_policy()));
        }
        Ok(asked)
    }

    /// The text of a parameter that need not be there; an empty one is none.
    pub(super) fn optional(&self, name: &'static str) -> Result<Option<Cow<'a, str>>, Refused> {
        let text = text(&self.members, name);
        let text = text
            .map_err(|NoText| Refused::request(format!("parameter '{name}' must be a string")))?;
        Ok(text.filter(|text| !text.is_empty()))
    }

    /// The text of a parameter that is there.
    pub(super) fn needed(&self, name: &'static str) -> Result<Cow<'a, str>, Refused> {
        let text = self.optional(name)?;
        text.ok_or_else(|| Refused::request(format!("missing parameter '{name}'")))
    }

    /// The text of the runtime policy as the request writes it: a JSON string, quotes included.
    pub(super) fn runtime_policy(&self) -> Option<&'a str> {
        let string = find(&self.members, "runtime_policy");
        string.filter(|string| *string != EMPTY)
    }

    fn has(&self, name: &str) -> bool {
        find(&self.members, name).is_some_and(|value| value != EMPTY)
    }

    /// Whether there is more to judge than a quote.
    pub(super) fn takes_time(&self) -> bool {
        let long = [
            "runtime_policy",
            "ima_measurement_list",
            "mb_log",
            "mb_policy",
        ];
        long.iter().any(|name| self.has(name))
    }

    /// What was sent, in pieces of its own text. `body` is the one that was read.
    pub(super) fn claims(&self, body: &Bytes) -> Vec<Bytes> {
        let mut pieces = Vec::with_capacity(self.members.len().saturating_mul(2));
        for (nth, (name, value)) in self.members.iter().enumerate() {
            let before = if nth == 0 { '{' } else { ',' };
            // Writing a string as JSON cannot fail.
            let name = serde_json::to_string(name).unwrap_or_default();
            pieces.push(Bytes::from(format!("{before}{name}:")));
            pieces.push(body.slice_ref(value.as_bytes()));
        }
        pieces.push(Bytes::from_static(b"}"));
        pieces
    }
}

/// An empty string, as JSON writes it.
const EMPTY: &str = "\"\"";

/// The text of a member's value; null is none.
fn find<'a>(members: &Members<'a>, name: &str) -> Option<&'a str> {
    let found = members.iter().find(|(known, _)| known == name);
    found
        .map(|(_, value)| *value)
        .filter(|value| *value != "null")
}

/// A value that is no string.
struct NoText;

fn text<'a>(members: &Members<'a>, name: &str) -> Result<Option<Cow<'a, str>>, NoText> {
    let Some(value) = find(members, name) else {
        return Ok(None);
    };
    unescaped(value).map(Some).ok_or(NoText)
}

/// The characters that a JSON string stands for; it was found to be a value of JSON.
///
/// Lists have a short escape at the end of each line and, but for names that are not of ASCII, no
/// other: serde reads those.
fn unescaped(value: &str) -> Option<Cow<'_, str>> {
    let mut rest = value.strip_prefix('"')?.strip_suffix('"')?;
    if !rest.contains('\\') {
        return Some(Cow::Borrowed(rest));
    }
    let mut text = String::with_capacity(rest.len());
    while let Some((before, after)) = rest.split_once('\\') {
        text.push_str(before);
        let mut characters = after.chars();
        text.push(match characters.next()? {
            'n' => '\n',
            't' => '\t',
            same @ ('"' | '\\' | '/') => same,
            _ => return serde_json::from_str(value).ok().map(Cow::Owned),
        });
        rest = characters.as_str();
    }
    text.push_str(rest);
    Some(Cow::Owned(text))
}

fn check_type(kind: Result<Option<Cow<'_, str>>, NoText>) -> Result<(), Refused> {
    match kind.as_ref().map(Option::as_deref) {
        Ok(None | Some("")) => Err(Refused::request("missing parameter 'type'")),
        Ok(Some("tpm")) => Ok(()),
        Ok(Some("tee")) => {
            let text = "evidence of type 'tee' is not verified by this server";
            Err(Refused::not_supported(text))
        }
        Ok(Some(_)) | Err(NoText) => Err(Refused::request("invalid evidence type")),
    }
}

/// A whole body.
struct Outer<'a> {
    /// All members but `data`.
    members: Members<'a>,
    data: Data<'a>,
}

/// The member `data`.
#[derive(Debug, PartialEq, Eq)]
enum Data<'a> {
    /// It is not there, null, or an empty text.
    Missing,
    /// An object.
    Members(Members<'a>),
    /// Something else.
    Other,
}

impl<'a> Outer<'a> {
    fn read(body: &'a [u8]) -> Result<Self, Refused> {
        let malformed =
            |what: &dyn fmt::Display| Refused::request(format!("malformed JSON: {what}"));
        let body = std::str::from_utf8(body).map_err(|_| malformed(&"it is not UTF-8"))?;
        let fault = Cell::new(None);
        let mut deserializer = serde_json::Deserializer::from_str(body);
        let read = deserializer
            .deserialize_map(OuterSeed { fault: &fault })
            .and_then(|outer| deserializer.end().map(|()| outer));
        read.map_err(|error| match fault.get() {
            Some(fault) => malformed(&fault),
            None if error.is_data() => Refused::request("the body must be a JSON object"),
            None => malformed(&JsonFault::Syntax {
                line: error.line(),
                column: error.column(),
            }),
        })
    }
}

struct OuterSeed<'f> {
    fault: &'f Cell<Option<JsonFault>>,
}

impl<'de> Visitor<'de> for OuterSeed<'_> {
    type Value = Outer<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let fault = self.fault;
        let (mut members, mut data) = (Vec::new(), None);
        while let Some(name) = map.next_key_seed(Text)? {
            if name != "data" {
                add(&mut members, name, map.next_value::<&RawValue>()?, fault)?;
            } else if data
                .replace(map.next_value_seed(DataSeed { fault })?)
                .is_some()
            {
                return Err(refuse(fault, JsonFault::Duplicate));
            }
        }
        let data = data.unwrap_or(Data::Missing);
        Ok(Outer { members, data })
    }
}

struct DataSeed<'f> {
    fault: &'f Cell<Option<JsonFault>>,
}

impl<'de> DeserializeSeed<'de> for DataSeed<'_> {
    type Value = Data<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for DataSeed<'_> {
    type Value = Data<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(name) = map.next_key_seed(Text)? {
            add(
                &mut members,
                name,
                map.next_value::<&RawValue>()?,
                self.fault,
            )?;
        }
        Ok(Data::Members(members))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Data::Missing)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(if text.is_empty() {
            Data::Missing
        } else {
            Data::Other
        })
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Data::Other)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Data::Other)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Data::Other)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Data::Other)
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Data::Other)
    }
}

/// Few members are allowed, so that looking for a name in a list is fast.
fn add<'a, E: Error>(
    members: &mut Members<'a>,
    name: Cow<'a, str>,
    value: &'a RawValue,
    fault: &Cell<Option<JsonFault>>,
) -> Result<(), E> {
    if members.len() >= JSON_MEMBERS_MAX {
        return Err(refuse(fault, JsonFault::Members));
    }
    if members.iter().any(|(known, _)| *known == name) {
        return Err(refuse(fault, JsonFault::Duplicate));
    }
    members.push((name, value.get()));
    Ok(())
}

fn refuse<E: Error>(slot: &Cell<Option<JsonFault>>, fault: JsonFault) -> E {
    slot.set(Some(fault));
    E::custom("refused")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_read_as_another_reader_reads_them() {
        for value in [
            "\"\"",
            r#""plain \u00e9""#,
            r#""a\nb\t\"c\"\\\/""#,
            r#""\\n""#,
            r#""\r\b\f\u0041\ud83d\ude00\n""#,
            r#""\ud83d""#,
            "7",
            "[]",
            "{\"a\": 1}",
        ] {
            let expected = serde_json::from_str::<String>(value).ok();
            assert_eq!(unescaped(value).map(Cow::into_owned), expected, "{value}");
        }
    }
}
