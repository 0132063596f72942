//! What operators' requests name: an agent, a group, a version, parameters; and how handlers answer.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use axum::extract::{FromRequestParts, Query, RawPathParams};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use rat_engine::agent_id::AgentId;
use rat_identity::relay_certificate::RelayName;
use serde::Serialize;

use super::groups::is_slug;
use crate::error::{ApiError, MemberFault, ShownName, json_response};
use crate::limits::PAGE_ITEMS_MAX;

/// The agent that the path names.
pub(super) struct AgentInPath(pub(super) AgentId);

/// The group that the path names, if it can be one's name.
pub(super) struct GroupInPath(pub(super) String);

/// The machine of a group that the path names.
pub(super) struct MachineInPath(pub(super) String, pub(super) [u8; 32]);

/// The version of a policy that the path names.
pub(super) struct PolicyInPath(pub(super) PolicyId);

/// The enrolment token's id that the path names.
pub(super) struct TokenInPath(pub(super) String);

/// The webhook's name that the path names.
pub(super) struct WebhookInPath(pub(super) String);

/// The relay that the path names.
pub(super) struct RelayInPath(pub(super) RelayName);

/// The message of a webhook that the path names.
pub(super) struct LetterInPath {
    pub(super) webhook: String,
    pub(super) id: String,
}

/// The name of a version among all groups': `p-GROUP-NNN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PolicyId {
    pub(super) group: String,
    pub(super) version: u64,
}

impl PolicyId {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (group, version) = text.strip_prefix("p-")?.rsplit_once('-')?;
        let id = Self {
            group: is_slug(group).then(|| group.to_owned())?,
            // No version is 0, and none is more than the store can count.
            version: version.parse().ok().filter(is_countable)?,
        };
        // Each version has one name.
        (id.text() == text).then_some(id)
    }

    pub(super) fn text(&self) -> String {
        policy_id(&self.group, self.version)
    }
}

fn is_countable(version: &u64) -> bool {
    *version > 0 && i64::try_from(*version).is_ok()
}

/// The name of a version among all groups'.
pub(super) fn policy_id(group: &str, version: u64) -> String {
    format!("p-{group}-{version:03}")
}

/// The 32 bytes that 64 lower-case hexadecimal digits are.
pub(super) fn sha256(text: &str) -> Option<[u8; 32]> {
    let is_lower = |byte: u8| !byte.is_ascii_uppercase();
    let bytes = hex::decode(text)
        .ok()
        .filter(|_| text.bytes().all(is_lower))?;
    bytes.try_into().ok()
}

/// The text of a path's parameter. What is not UTF-8 names nothing, as an empty text does not.
async fn named(parts: &mut Parts, name: &str) -> String {
    let Ok(parameters) = RawPathParams::from_request_parts(parts, &()).await else {
        return String::new();
    };
    let found = parameters.iter().find(|(key, _)| *key == name);
    found.map_or_else(String::new, |(_, value)| value.to_owned())
}

impl<S: Send + Sync> FromRequestParts<S> for AgentInPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let id = AgentId::parse(&named(parts, "agent_id").await);
        id.map(Self).map_err(|_| ApiError::NotFound("agent"))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for GroupInPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let slug = named(parts, "group_id").await;
        let slug = is_slug(&slug).then_some(slug);
        slug.map(Self).ok_or(ApiError::NotFound("group"))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for MachineInPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let GroupInPath(group) = GroupInPath::from_request_parts(parts, state).await?;
        let ek = sha256(&named(parts, "ek_sha256").await);
        let ek = ek.ok_or(ApiError::NotFound("endorsement key"))?;
        Ok(Self(group, ek))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PolicyInPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let id = PolicyId::parse(&named(parts, "policy_id").await);
        id.map(Self).ok_or(ApiError::NotFound("policy"))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for RelayInPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let name = RelayName::parse(&named(parts, "relay_name").await);
        name.map(Self).map_err(|_| ApiError::NotFound("relay"))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for TokenInPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let id = named(parts, "token_id").await;
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let id = (id.len() == 16 && id.bytes().all(is_digit)).then_some(id);
        id.map(Self).ok_or(ApiError::NotFound("token"))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for WebhookInPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Ok(Self(named(parts, "webhook_name").await))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for LetterInPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Ok(Self {
            webhook: named(parts, "webhook_name").await,
            id: named(parts, "message_id").await,
        })
    }
}

/// The parameters of a query, each at most once.
pub(super) struct Parameters(HashMap<String, String>);

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        type Pairs = Query<Vec<(String, String)>>;
        let malformed = |_| ApiError::UnknownParameter(ShownName::new(""));
        let Query(pairs) = Pairs::from_request_parts(parts, state)
            .await
            .map_err(malformed)?;
        let mut parameters = HashMap::with_capacity(pairs.len());
        for (name, value) in pairs {
            let shown = ShownName::new(&name);
            // Two readers of one that is given twice might take different ones.
            if parameters.insert(name, value).is_some() {
                return Err(ApiError::UnknownParameter(shown));
            }
        }
        Ok(Self(parameters))
    }
}

impl Parameters {
    /// Refuses every parameter but these: a misspelt filter would show too much.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), ApiError> {
        let unknown = self.0.keys().find(|name| !known.contains(&name.as_str()));
        unknown.map_or(Ok(()), |name| {
            Err(ApiError::UnknownParameter(ShownName::new(name)))
        })
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn number(
        &self,
        name: &'static str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|_| is_plain);
        let number = number.filter(|number| range.contains(number));
        let fault = || format!("must be {} to {}", range.start(), range.end());
        number.map(Some).ok_or_else(|| wrong(name, fault()))
    }

    /// How many items a page may have.
    pub(super) fn limit(&self) -> Result<u32, ApiError> {
        let max = u64::try_from(PAGE_ITEMS_MAX).unwrap_or(u64::MAX);
        let limit = self.number("limit", 1..=max)?.unwrap_or(max);
        Ok(u32::try_from(limit).unwrap_or(u32::MAX))
    }
}

/// A parameter whose value it may not have.
pub(super) fn wrong(parameter: &'static str, fault: String) -> ApiError {
    ApiError::Parameter {
        parameter,
        fault: MemberFault::Value(fault),
    }
}

/// What a handler answers with, unless it refuses.
pub(super) type Answered<T> = Result<Reply<T>, ApiError>;

/// An answer in JSON.
pub(super) struct Reply<T> {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: T,
}

impl<T> Reply<T> {
    pub(super) const fn ok(body: T) -> Self {
        Self {
            status: StatusCode::OK,
            headers: Vec::new(),
            body,
        }
    }

    pub(super) const fn created(body: T) -> Self {
        Self {
            status: StatusCode::CREATED,
            headers: Vec::new(),
            body,
        }
    }

    /// The same, with the version of what it shows.
    pub(super) fn of_version(mut self, row_version: u64) -> Self {
        if let Ok(tag) = HeaderValue::from_str(&etag(row_version)) {
            self.headers.push((header::ETAG, tag));
        }
        self
    }

    /// The same, and where the next page is, when there is one. (RFC 8288)
    pub(super) fn with_next(mut self, next: Option<String>) -> Self {
        let link = next.map(|next| HeaderValue::from_str(&format!("<{next}>; rel=\"next\"")));
        if let Some(Ok(link)) = link {
            self.headers.push((header::LINK, link));
        }
        self
    }
}

impl<T: Serialize> IntoResponse for Reply<T> {
    fn into_response(self) -> Response {
        let mut response = json_response(self.status, &self.body);
        response.headers_mut().extend(self.headers);
        response
    }
}

/// The last item of a page that is full, so that there may be more after it.
pub(super) fn last_of_full<T>(items: &[T], limit: u32) -> Option<&T> {
    let is_full = u32::try_from(items.len()).is_ok_and(|found| found >= limit);
    items.last().filter(|_| is_full)
}

/// The version of a row, as a strong entity tag. (RFC 9110, 8.8.3)
pub(super) fn etag(row_version: u64) -> String {
    format!("\"{row_version}\"")
}

/// The address of the page after this item: the same path and parameters, and `after`. Values are
/// ids, digits or what [`Parameters`] took, percent-encoded.
pub(super) fn next_page(path: &str, parameters: &Parameters, after: &str) -> String {
    let mut kept: Vec<(&str, &str)> = parameters
        .0
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .filter(|(name, _)| *name != "after")
        .collect();
    kept.sort_unstable();
    kept.push(("after", after));
    let pairs: Vec<String> = kept
        .into_iter()
        .map(|(name, value)| format!("{}={}", percent_encoded(name), percent_encoded(value)))
        .collect();
    format!("{path}?{}", pairs.join("&"))
}

/// RFC 3986, 2.3: what is unreserved stays.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// Nothing but that it was done.
pub(super) struct Done;

impl IntoResponse for Done {
    fn into_response(self) -> Response {
        StatusCode::NO_CONTENT.into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_has_one_name() {
        let id = PolicyId::parse("p-prod-fleet-003").unwrap();
        assert_eq!((id.group.as_str(), id.version), ("prod-fleet", 3));
        assert_eq!(PolicyId::parse("p-g-1000").unwrap().version, 1000);
        for other in [
            "p-prod-fleet-3",
            "p-prod-fleet-0003",
            "p-prod-fleet-+03",
            "p--003",
            "p-003",
            "003",
            "",
            "p-../x-003",
            "p-g\n-003",
            "p-G-003",
            "p-g-99999999999999999999999",
            "p-g-9223372036854775808",
            "p-g-18446744073709551615",
            "p-g-000",
        ] {
            assert_eq!(PolicyId::parse(other), None, "{other:?}");
        }
    }

    #[test]
    fn x07_links_hold_nothing_but_unreserved_characters() {
        let hostile = "\r\nset-cookie: a<script>&\"\u{1b}[31m";
        let parameters = Parameters(HashMap::from([
            ("hostname".to_owned(), hostile.to_owned()),
            ("after".to_owned(), "old".to_owned()),
        ]));
        let link = next_page("/agents/", &parameters, "b");
        assert_eq!(
            link,
            "/agents/?hostname=%0D%0Aset-cookie%3A%20a%3Cscript%3E%26%22%1B%5B31m&after=b"
        );
    }

    #[test]
    fn machines_are_named_by_lower_case_digits() {
        assert_eq!(sha256(&"ab".repeat(32)), Some([0xab; 32]));
        for other in [
            "AB".repeat(32),
            "ab".repeat(31),
            "zz".repeat(32),
            String::new(),
        ] {
            assert_eq!(sha256(&other), None, "{other}");
        }
    }
}
