//! What a request asks to be judged, and by what.

use axum::http::StatusCode;

use super::super::ApiVersion;
use super::Refused;
use super::failure::Failure;
use crate::error::ApiError;
use crate::json::Object;

/// A request with all that it must have.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    members: Object<'a>,
    /// The text of the object that holds the members.
    pub(super) data: &'a str,
    /// The text of the runtime policy, as the request writes it: a JSON string, quotes included.
    pub(super) runtime_policy: Option<&'a str>,
}

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

/// The member that is kept as it was written, so that a policy that was compiled before is
/// recognised without being read.
const RUNTIME_POLICY: &str = "runtime_policy";

impl<'a> Asked<'a> {
    /// Reads a body.
    ///
    /// # Security
    /// Members that occur twice, at any depth, are refused: who reads the claims that are given back
    /// must not see another member than was judged. (X01)
    pub(super) fn read(body: &'a [u8], version: ApiVersion) -> Result<Self, Fault> {
        let outer = Object::with_documents(body, &["data"]).map_err(malformed)?;
        let is_flat = !outer.has("type") && outer.optional_document("data").is_none();
        let (data, needs_type) = match version {
            // As 2.4 was documented: the members stand in the body itself.
            ApiVersion::V2_4 if is_flat => (whole(body), false),
            _ => (outer.optional_document("data").flatten(), true),
        };
        if needs_type {
            check_type(&outer)?;
        }
        let data = data.filter(|data| *data != "\"\"");
        let data = data.ok_or_else(|| missing_outside("data"))?;
        Self::of_data(data)
    }

    fn of_data(data: &'a str) -> Result<Self, Fault> {
        let members =
            Object::with_documents(data.as_bytes(), &[RUNTIME_POLICY]).map_err(malformed)?;
        let runtime_policy = members.optional_document(RUNTIME_POLICY).flatten();
        let asked = Self {
            members,
            data,
            runtime_policy: runtime_policy.filter(|text| *text != "\"\""),
        };
        for name in NEEDED {
            if asked.optional(name)?.is_none() {
                return Err(Fault::Incomplete(Failure::missing_parameter(name)));
            }
        }
        let has_policy = asked.runtime_policy.is_some()
            || asked.optional("tpm_policy")?.is_some()
            || asked.optional("mb_policy")?.is_some();
        if !has_policy {
            return Err(Fault::Incomplete(Failure::missing_policy()));
        }
        Ok(asked)
    }

    /// The text of a parameter that need not be there; an empty one is none.
    pub(super) fn optional(&self, name: &'static str) -> Result<Option<&str>, Refused> {
        let text = self.members.whole_text(name).map_err(|found| {
            Refused::request(format!(
                "parameter '{name}' must be a string, found {found}"
            ))
        })?;
        Ok(text.filter(|text| !text.is_empty()))
    }

    /// The text of a parameter that is there.
    pub(super) fn needed(&self, name: &'static str) -> Result<&str, Refused> {
        let text = self.optional(name)?;
        text.ok_or_else(|| Refused::request(format!("missing parameter '{name}'")))
    }

    /// Whether there is more to judge than a quote.
    pub(super) fn takes_time(&self) -> bool {
        self.runtime_policy.is_some()
            || self.members.has("ima_measurement_list")
            || self.members.has("mb_log")
    }
}

/// A body that was read as JSON is UTF-8.
fn whole(body: &[u8]) -> Option<&str> {
    std::str::from_utf8(body).ok().map(str::trim_ascii)
}

fn check_type(outer: &Object<'_>) -> Result<(), Fault> {
    match outer.whole_text("type") {
        Ok(None | Some("")) => Err(missing_outside("type")),
        Ok(Some("tpm")) => Ok(()),
        Ok(Some("tee")) => {
            let text = "evidence of type 'tee' is not verified by this server";
            Err(Refused::not_supported(text).into())
        }
        Ok(Some(_)) | Err(_) => Err(Refused::request("invalid evidence type").into()),
    }
}

fn missing_outside(name: &str) -> Fault {
    Refused::request(format!("missing parameter '{name}'")).into()
}

fn malformed(error: ApiError) -> Fault {
    Fault::Refused(Refused {
        status: StatusCode::BAD_REQUEST,
        text: error.to_string(),
    })
}
