//! The reader of reference states: one pass over the text.

mod kernel;

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

use self::kernel::KernelMembers;
use super::{Alternatives, Firmware, Keys, RefState};
use crate::hash::{Digest, HashAlg};
use crate::limits::{
    EXCLUDES_BYTES_MAX, EXCLUDES_PROGRAM_BYTES_MAX, MB_POLICY_BYTES_MAX, MB_POLICY_ENTRIES_MAX,
    POLICY_WARNINGS_MAX,
};
use crate::policy::exclude::{Pattern, PatternError};
use crate::policy::json::{Array, Elements, Members, Object, Place, Skip, TextSeed};
use crate::policy::{Fault, NeverMatches, PolicyError, Warning};
use crate::uefi::decode::guid::Guid;

/// Reads a reference state for `example`; `None` when it is empty.
pub(super) fn state(text: &[u8]) -> Result<Option<(RefState, Vec<Warning>)>, PolicyError> {
    let mut top = Top {
        reader: Reader::default(),
        state: RefState {
            has_secureboot: true,
            ..RefState::default()
        },
        kernels: Vec::new(),
        seen: Vec::new(),
    };
    let form = run(text, &mut top)?;
    match form {
        Form::EmptyOther => return Ok(None),
        Form::Object if !top.reader.has_members => return Ok(None),
        Form::Object => {}
    }
    for member in REQUIRED {
        if !top.seen.contains(&member) {
            return Err(PolicyError::Missing { member });
        }
    }
    let mut state = top.state;
    let kernels = top.kernels.into_iter();
    let kernels = kernels.map(|it| it.complete(state.has_secureboot));
    state.kernels = kernels.collect::<Result<_, _>>()?;
    Ok(Some((state, top.reader.warnings)))
}

/// Whether the text is JSON that asks for nothing.
pub(super) fn is_empty(text: &[u8]) -> Result<bool, PolicyError> {
    let mut any = Any(Reader::default());
    Ok(match run(text, &mut any)? {
        Form::EmptyOther => true,
        Form::Object => !any.0.has_members,
    })
}

/// Members that `example` cannot do without. `has_secureboot` and `vendor_db` have defaults.
const REQUIRED: [&str; 8] = [
    "kernels",
    "scrtm_and_bios",
    "pk",
    "kek",
    "db",
    "dbx",
    "mokdig",
    "mokxdig",
];

trait Document: Members {
    fn reader(&mut self) -> &mut Reader;
}

fn run<D: Document>(text: &[u8], document: &mut D) -> Result<Form, PolicyError> {
    if text.len() > MB_POLICY_BYTES_MAX {
        return Err(PolicyError::TooLarge {
            bytes: text.len(),
            max: MB_POLICY_BYTES_MAX,
        });
    }
    let mut json = serde_json::Deserializer::from_slice(text);
    let result = Value(document).deserialize(&mut json);
    let result = result.and_then(|form| json.end().map(|()| form));
    result.map_err(|error| document.reader().located(&error))
}

/// What a text turned out to be.
enum Form {
    Object,
    /// Empty, and no object: Keylime takes it for no policy.
    EmptyOther,
}

/// The whole document, an object or something empty.
struct Value<'d, D>(&'d mut D);

impl<'de, D: Document> DeserializeSeed<'de> for Value<'_, D> {
    type Value = Form;

    fn deserialize<J: Deserializer<'de>>(self, deserializer: J) -> Result<Form, J::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, D: Document> Visitor<'de> for Value<'_, D> {
    type Value = Form;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a measured boot reference state")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Form, A::Error> {
        Object(self.0).visit_map(map)?;
        Ok(Form::Object)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Form, A::Error> {
        let place = &mut self.0.reader().place;
        if array.next_element_seed(Skip(place))?.is_some() {
            return Err(place.refuse(Fault::Type));
        }
        Ok(Form::EmptyOther)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Form, E> {
        empty(text.is_empty())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Form, E> {
        empty(!value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Form, E> {
        empty(value == 0)
    }
}

fn empty<E: Error>(is_empty: bool) -> Result<Form, E> {
    if is_empty {
        return Ok(Form::EmptyOther);
    }
    Err(E::custom("no object"))
}

/// What every reader carries.
#[derive(Debug, Default)]
struct Reader {
    place: Place,
    warnings: Vec<Warning>,
    has_members: bool,
    pattern_bytes: usize,
    program_bytes: usize,
}

impl Reader {
    fn located(&mut self, error: &serde_json::Error) -> PolicyError {
        let (line, column) = (error.line(), error.column());
        let fault = match (self.place.fault(), error.classify()) {
            (Some(fault), _) => fault,
            (None, Category::Data) => Fault::Type,
            (None, Category::Syntax | Category::Eof | Category::Io) => {
                return PolicyError::Json { line, column };
            }
        };
        let at = self.place.path();
        PolicyError::Content {
            at,
            line,
            column,
            fault,
        }
    }

    fn refuse<E: Error>(&mut self, fault: Fault) -> E {
        self.place.refuse(fault)
    }

    fn limit<E: Error>(&mut self, limit: &'static str, max: usize) -> E {
        self.refuse(Fault::Limit { limit, max })
    }

    fn warn<E: Error>(&mut self, warning: Warning) -> Result<(), E> {
        if self.warnings.len() >= POLICY_WARNINGS_MAX {
            return Err(self.limit("POLICY_WARNINGS_MAX", POLICY_WARNINGS_MAX));
        }
        self.warnings.push(warning);
        Ok(())
    }

    fn unknown<'de, A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error> {
        let at = self.place.path();
        self.warn(Warning::UnknownMember { at })?;
        map.next_value_seed(Skip(&mut self.place))
    }

    /// `0x` and lower-case hexadecimal digits, as Keylime writes digests.
    fn digest<'de, A: MapAccess<'de>>(
        &mut self,
        alg: HashAlg,
        map: &mut A,
    ) -> Result<Digest, A::Error> {
        let text = map.next_value_seed(TextSeed)?;
        let Some(digits) = text.strip_prefix("0x") else {
            return Err(self.refuse(Fault::NotHex));
        };
        if digits.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(self.refuse(Fault::UpperCaseDigest));
        }
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(self.refuse(Fault::NotHex));
        }
        let digest = Digest::from_hex(alg, digits.as_bytes());
        digest.ok_or_else(|| self.refuse(Fault::DigestLength))
    }

    /// The pattern behind `kernel_cmdline: `, for a full match.
    ///
    /// Keylime compiles the joined text, so that a `|` of the pattern divides all of it.
    fn command_line<E: Error>(&mut self, text: &str) -> Result<Pattern, E> {
        self.pattern_bytes = self.pattern_bytes.saturating_add(text.len());
        if self.pattern_bytes > EXCLUDES_BYTES_MAX {
            return Err(self.limit("EXCLUDES_BYTES_MAX", EXCLUDES_BYTES_MAX));
        }
        let pattern = full_match(&format!("kernel_cmdline: {text}"));
        let pattern = pattern.map_err(|error| self.refuse(Fault::Pattern(error)))?;
        self.program_bytes = self.program_bytes.saturating_add(pattern.size_bytes());
        if self.program_bytes > EXCLUDES_PROGRAM_BYTES_MAX {
            let limit = "EXCLUDES_PROGRAM_BYTES_MAX";
            return Err(self.limit(limit, EXCLUDES_PROGRAM_BYTES_MAX));
        }
        Ok(pattern)
    }
}

/// A pattern whose `re.match` is Python's `re.fullmatch` of `source`.
///
/// It is compiled alone first: a parenthesis that closes the group around it must not pass.
pub(super) fn full_match(source: &str) -> Result<Pattern, PatternError> {
    Pattern::compile(source)?;
    Pattern::compile(&format!("(?:{source})\\Z"))
}

/// Any JSON, of which only the form counts.
struct Any(Reader);

impl Members for Any {
    const EXPECTED: &'static str = "an object";

    fn place(&mut self) -> &mut Place {
        &mut self.0.place
    }

    fn member<'de, A: MapAccess<'de>>(&mut self, _: &str, map: &mut A) -> Result<(), A::Error> {
        self.0.has_members = true;
        map.next_value_seed(Skip(&mut self.0.place))
    }
}

impl Document for Any {
    fn reader(&mut self) -> &mut Reader {
        &mut self.0
    }
}

/// The reference state.
struct Top {
    reader: Reader,
    state: RefState,
    kernels: Vec<KernelMembers>,
    seen: Vec<&'static str>,
}

impl Document for Top {
    fn reader(&mut self) -> &mut Reader {
        &mut self.reader
    }
}

impl Members for Top {
    const EXPECTED: &'static str = "a measured boot reference state";

    fn place(&mut self) -> &mut Place {
        &mut self.reader.place
    }

    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        let (reader, state) = (&mut self.reader, &mut self.state);
        reader.has_members = true;
        self.seen
            .extend(REQUIRED.into_iter().find(|it| *it == name));
        let keys = match name {
            "has_secureboot" => {
                state.has_secureboot = map.next_value()?;
                return Ok(());
            }
            "kernels" => return list(reader, &mut self.kernels, map),
            "scrtm_and_bios" => return list(reader, &mut state.firmware, map),
            "mokdig" => return digests(reader, &mut state.mok, map),
            "mokxdig" => return digests(reader, &mut state.mokx, map),
            "pk" => &mut state.pk,
            "kek" => &mut state.kek,
            "db" => &mut state.db,
            "dbx" => &mut state.dbx,
            "vendor_db" => &mut state.vendor_db,
            _ => return reader.unknown(map),
        };
        list(reader, &mut keys.0, map)
    }
}

/// An element of one of the lists.
trait Element: Sized {
    const LIMIT: (&'static str, usize) = ("MB_POLICY_ENTRIES_MAX", MB_POLICY_ENTRIES_MAX);

    fn read<'de, A: SeqAccess<'de>>(
        reader: &mut Reader,
        array: &mut A,
    ) -> Result<Option<Self>, A::Error>;
}

struct List<'r, T> {
    reader: &'r mut Reader,
    elements: &'r mut Vec<T>,
}

impl<T: Element> Elements for List<'_, T> {
    const EXPECTED: &'static str = "an array";

    fn place(&mut self) -> &mut Place {
        &mut self.reader.place
    }

    fn element<'de, A: SeqAccess<'de>>(&mut self, array: &mut A) -> Result<bool, A::Error> {
        let Some(element) = T::read(self.reader, array)? else {
            return Ok(false);
        };
        let (limit, max) = T::LIMIT;
        if self.elements.len() >= max {
            return Err(self.reader.limit(limit, max));
        }
        self.elements.push(element);
        Ok(true)
    }
}

fn list<'de, T: Element, A: MapAccess<'de>>(
    reader: &mut Reader,
    elements: &mut Vec<T>,
    map: &mut A,
) -> Result<(), A::Error> {
    map.next_value_seed(Array(&mut List { reader, elements }))?;
    Ok(())
}

/// A list of maps from algorithm to digest, of which any may match.
fn digests<'de, A: MapAccess<'de>>(
    reader: &mut Reader,
    into: &mut Vec<Digest>,
    map: &mut A,
) -> Result<(), A::Error> {
    let mut elements: Vec<Alternatives> = Vec::new();
    list(reader, &mut elements, map)?;
    *into = elements.into_iter().flatten().collect();
    Ok(())
}

impl Element for Alternatives {
    fn read<'de, A: SeqAccess<'de>>(
        reader: &mut Reader,
        array: &mut A,
    ) -> Result<Option<Self>, A::Error> {
        let digests = Vec::new();
        let mut members = DigestMembers { reader, digests };
        let read = array.next_element_seed(Object(&mut members))?;
        Ok(read.map(|()| members.digests))
    }
}

/// `{"sha256": "0x…"}`.
struct DigestMembers<'r> {
    reader: &'r mut Reader,
    digests: Alternatives,
}

impl Members for DigestMembers<'_> {
    const EXPECTED: &'static str = "an object of digests by algorithm";

    fn place(&mut self) -> &mut Place {
        &mut self.reader.place
    }

    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        let Some(alg) = HashAlg::from_name(name.as_bytes()) else {
            let (at, reason) = (self.reader.place.path(), NeverMatches::Algorithm);
            self.reader
                .warn(Warning::DigestNeverMatches { at, reason })?;
            return map.next_value_seed(Skip(&mut self.reader.place));
        };
        self.digests.push(self.reader.digest(alg, map)?);
        Ok(())
    }
}

impl Element for Firmware {
    fn read<'de, A: SeqAccess<'de>>(
        reader: &mut Reader,
        array: &mut A,
    ) -> Result<Option<Self>, A::Error> {
        let mut members = FirmwareMembers {
            reader,
            scrtm: None,
            blobs: None,
        };
        let read = array.next_element_seed(Object(&mut members))?;
        if read.is_none() {
            return Ok(None);
        }
        match (members.scrtm.take(), members.blobs.take()) {
            (Some(scrtm), Some(blobs)) => Ok(Some(Self { scrtm, blobs })),
            // Keylime's tool leaves `scrtm` out where a log has none, and no policy reads that.
            _ => Err(members.reader.refuse(Fault::Incomplete {
                members: "scrtm and platform_firmware",
            })),
        }
    }
}

struct FirmwareMembers<'r> {
    reader: &'r mut Reader,
    scrtm: Option<Alternatives>,
    blobs: Option<Vec<Alternatives>>,
}

impl Members for FirmwareMembers<'_> {
    const EXPECTED: &'static str = "an object of scrtm and platform_firmware";

    fn place(&mut self) -> &mut Place {
        &mut self.reader.place
    }

    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "scrtm" => {
                let (reader, digests) = (&mut *self.reader, Vec::new());
                let mut members = DigestMembers { reader, digests };
                map.next_value_seed(Object(&mut members))?;
                self.scrtm = Some(members.digests);
                Ok(())
            }
            "platform_firmware" => {
                let mut blobs = Vec::new();
                list(self.reader, &mut blobs, map)?;
                self.blobs = Some(blobs);
                Ok(())
            }
            _ => self.reader.unknown(map),
        }
    }
}

impl Element for (Guid, Box<[u8]>) {
    fn read<'de, A: SeqAccess<'de>>(
        reader: &mut Reader,
        array: &mut A,
    ) -> Result<Option<Self>, A::Error> {
        let mut members = SignatureMembers {
            reader,
            owner: None,
            data: None,
        };
        let read = array.next_element_seed(Object(&mut members))?;
        if read.is_none() {
            return Ok(None);
        }
        match (members.owner.take(), members.data.take()) {
            (Some(owner), Some(data)) => Ok(Some((owner, data))),
            _ => Err(members.reader.refuse(Fault::Incomplete {
                members: "SignatureOwner and SignatureData",
            })),
        }
    }
}

struct SignatureMembers<'r> {
    reader: &'r mut Reader,
    owner: Option<Guid>,
    data: Option<Box<[u8]>>,
}

impl Members for SignatureMembers<'_> {
    const EXPECTED: &'static str = "an object of SignatureOwner and SignatureData";

    fn place(&mut self) -> &mut Place {
        &mut self.reader.place
    }

    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "SignatureOwner" => {
                let text = map.next_value_seed(TextSeed)?;
                let Some(guid) = Guid::from_text(&text) else {
                    return Err(self.reader.refuse(Fault::NotGuid));
                };
                self.owner = Some(guid);
            }
            "SignatureData" => {
                let text = map.next_value_seed(TextSeed)?;
                let digits = text.strip_prefix("0x");
                let Some(bytes) = digits.and_then(|digits| hex::decode(digits).ok()) else {
                    return Err(self.reader.refuse(Fault::NotHex));
                };
                self.data = Some(bytes.into());
            }
            _ => self.reader.unknown(map)?,
        }
        Ok(())
    }
}

impl Keys {
    /// The signatures in the document's order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &(Guid, Box<[u8]>)> {
        self.0.iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
