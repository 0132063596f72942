//! What a client is told when its request is refused: one shape, `{"detail": "<text>", "code":
//! "<stable text>"}`.

use std::borrow::Cow;
use std::fmt;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use thiserror::Error;
use utoipa::ToSchema;

use crate::{keylime, metrics, people};

/// Why a request is refused.
///
/// # Security
/// The text may name members, limits and positions of the request. It never repeats a token, a
/// key or a secret, and it does not say which of "unknown", "wrong", "expired" and "used" a token
/// is. (X08)
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ApiError {
    /// The body is not one JSON text that we read.
    #[error("malformed JSON: {0}")]
    Json(JsonFault),
    /// The body ended before its announced length, or broke its transfer coding.
    #[error("the body could not be read to its end")]
    BodyBroken,
    /// The body is encoded; nothing is decompressed. (X02)
    #[error("content-encoding is not supported: send the body as it is")]
    ContentEncoding,
    /// The body is longer than the route takes.
    #[error("the body is longer than {max} bytes")]
    BodyTooLong {
        /// The route's limit.
        max: usize,
    },
    /// The request was not read and answered in time.
    #[error("the request took too long")]
    TooSlow,
    /// No credential, or one that is not valid now. One text for every reason.
    #[error("the token is not valid")]
    NotAuthenticated,
    /// A valid credential that does not give this permission.
    #[error("not permitted: this needs the permission `{0}`")]
    NotPermitted(&'static str),
    /// A username that nobody has, a password that is not the user's, or a user who is disabled. One
    /// text for every reason.
    #[error("the username or the password is wrong")]
    WrongPassword,
    /// The session is good for nothing but a change of its user's password.
    #[error("the password must be changed first")]
    PasswordChangeRequired,
    /// A route of Keylime's for administrators, over a connection that others can read.
    #[error("this needs TLS")]
    NeedsTls,
    /// A route of Keylime's for administrators, asked for without a certificate of theirs.
    #[error("Action {0} requires admin authentication (mTLS certificate)")]
    NotKeylimeAdmin(&'static str),
    /// A route of Keylime's for agents, asked for without a token of theirs.
    #[error("Action {0} requires agent authentication (PoP token)")]
    NotKeylimeAgent(&'static str),
    /// A valid credential that is no login.
    #[error("not permitted: this needs a login")]
    NeedsLogin,
    /// What a caller would give to somebody is more than the caller has.
    #[error("not permitted: this role may do what you may not")]
    BeyondCaller,
    /// An enrolment token of the other kind; it was not consumed.
    #[error("this is a {found} token: {hint}")]
    TokenKind {
        /// Its kind.
        found: &'static str,
        /// Which route takes it.
        hint: &'static str,
    },
    /// The thing named by the request does not exist.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// The route exists, but not with this method.
    #[error("this route does not take that method")]
    Method,
    /// The request contradicts a record.
    #[error("{0}")]
    Conflict(Conflict),
    /// A member of the body is missing, of the wrong type or not a value that it may have.
    #[error("member `{member}`: {fault}")]
    Member {
        /// Its name.
        member: &'static str,
        /// What is wrong with it.
        fault: MemberFault,
    },
    /// The JSON text is not an object.
    #[error("the body must be a JSON object")]
    NotAnObject,
    /// The body has a member that the route does not know. It is shown when it looks like a name.
    #[error("the body has the unknown member {0}")]
    UnknownMember(ShownName),
    /// A parameter of the query is not a value that it may have.
    #[error("parameter `{parameter}`: {fault}")]
    Parameter {
        /// Its name.
        parameter: &'static str,
        /// What is wrong with it.
        fault: MemberFault,
    },
    /// The query has a parameter that the route does not know.
    #[error("the query has the unknown parameter {0}")]
    UnknownParameter(ShownName),
    /// What the request was made for is no longer so: `If-Match` names another version.
    #[error("this was changed meanwhile: read it again")]
    Changed,
    /// Machines wait under an id, and the request does not say which one is meant. An id is whatever
    /// a machine says, so that it names nobody. (N12)
    #[error(
        "name the machine that you approve with `ek_sha256`: an agent id is what it calls itself"
    )]
    MachineNotNamed,
    /// What the agent presented is refused, with a stable code.
    #[error("{code}: {detail}")]
    Refused {
        /// The code.
        code: &'static str,
        /// What it is, in a sentence.
        detail: String,
    },
    /// What is asked for is not built yet.
    #[error("not supported: {0}")]
    NotSupported(&'static str),
    /// A limit on rates or on work at once is reached.
    #[error("too many requests: {limit}")]
    Limited {
        /// The limit's name.
        limit: &'static str,
        /// How long to wait.
        retry_after_seconds: u64,
    },
    /// The server cannot decide now; nothing was changed.
    #[error("unavailable: {0}")]
    Unavailable(&'static str),
    /// The answer did not come in time; what was asked for may have been done.
    #[error("not finished in time; it may still take effect")]
    Unfinished,
}

/// What contradicts what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Conflict {
    /// The id is enrolled already, from another endorsement key. (N06)
    #[error("this agent id is enrolled with another endorsement key")]
    IdTaken,
    /// The endorsement key is enrolled already, under another id. (N06)
    #[error("this endorsement key is enrolled under another agent id")]
    EkTaken,
    /// The machine belongs to another group, or failed in one: a token does not move it. (S16)
    #[error(
        "agent.other_group: this machine belongs to another group: an operator must move the agent"
    )]
    OtherGroup,
    /// The endorsement key is known, the attestation key is new: an operator decides.
    #[error("this agent has another attestation key: an operator must approve a new one")]
    NewAk,
    /// The group enforces a policy already, so a baseline cannot give it one. (L08)
    #[error("this group has an active policy: a baseline never replaces one")]
    PolicyActive,
    /// Somebody has this name, in any case.
    #[error("this username is taken")]
    UsernameTaken,
    /// Nobody would be left who could do what this user can.
    #[error("this is the last administrator who can log in")]
    LastAdministrator,
    /// There are as many as there may be.
    #[error("there are as many as there may be: end or disable others")]
    Full,
    /// A group of this slug is there.
    #[error("there is a group of this name")]
    GroupExists,
    /// Another relay has this name or this key.
    #[error("another relay has this name or this key")]
    RelayExists,
    /// There are as many relays as there may be.
    #[error("there are as many relays as there may be: remove others")]
    RelaysFull,
    /// No version of the group's policy was enforced before the present one.
    #[error("no other version of this group's policy was enforced before")]
    NothingBefore,
    /// The agent has no failure that could be cleared.
    #[error("this agent has not failed")]
    NotFailed,
    /// Neither a key nor a machine waits under this id.
    #[error("nothing waits for an approval under this agent id")]
    NothingWaits,
    /// One machine waits in several groups.
    #[error(
        "this machine waits in several groups: let it into one with \
         PUT /groups/{{group_id}}/ek/{{ek_sha256}}"
    )]
    SeveralWait,
}

impl Conflict {
    /// The stable text.
    pub const fn code(self) -> &'static str {
        match self {
            Self::IdTaken => "agent.id_taken",
            Self::EkTaken => "agent.ek_taken",
            Self::OtherGroup => "agent.other_group",
            Self::NewAk => "agent.new_ak",
            Self::PolicyActive => "policy.active",
            Self::GroupExists => "group.exists",
            Self::RelayExists => "relay.exists",
            Self::RelaysFull => "relay.too_many",
            Self::NothingBefore => "policy.nothing_before",
            Self::NotFailed => "agent.not_failed",
            Self::NothingWaits => "agent.nothing_waits",
            Self::SeveralWait => "agent.several_wait",
            Self::UsernameTaken => "user.name_taken",
            Self::LastAdministrator => "user.last_administrator",
            Self::Full => "request.full",
        }
    }
}

/// A name that a client made up, as far as it is repeated: letters, digits and `_`, few of them.
/// (X07)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownName(Option<String>);

impl ShownName {
    const CHARACTERS_MAX: usize = 64;

    pub(crate) fn new(name: &str) -> Self {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let is_shown = (1..=Self::CHARACTERS_MAX).contains(&name.len());
        Self((is_shown && name.bytes().all(is_plain)).then(|| name.to_owned()))
    }
}

impl fmt::Display for ShownName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(name) => write!(f, "`{name}`"),
            None => f.write_str("(no name that can be shown)"),
        }
    }
}

/// What is wrong with a member.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MemberFault {
    /// It is missing.
    #[error("is missing")]
    Missing,
    /// It is of another type.
    #[error("must be {expected}, found {found}")]
    Type {
        /// The type.
        expected: &'static str,
        /// The type found.
        found: &'static str,
    },
    /// It is too long.
    #[error("is longer than {max} {unit}")]
    TooLong {
        /// The limit.
        max: usize,
        /// Its unit.
        unit: &'static str,
    },
    /// It is not encoded as documented.
    #[error("must be {0}")]
    Encoding(&'static str),
    /// It is SHA-1 where `allow_sha1` is false.
    #[error("sha1 needs allow_sha1")]
    NeedsAllowSha1,
    /// It is no value that this member may have.
    #[error("{0}")]
    Value(String),
}

/// Why a text is no JSON that we read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum JsonFault {
    /// It breaks JSON's grammar, or is not UTF-8.
    #[error("syntax error at line {line}, column {column}")]
    Syntax {
        /// From 1.
        line: usize,
        /// In bytes, from 1.
        column: usize,
    },
    /// An object has a member twice.
    #[error("a member occurs twice")]
    Duplicate,
    /// It is nested too deeply.
    #[error("nested deeper than {max} levels", max = crate::limits::JSON_DEPTH_MAX)]
    Depth,
    /// An object has too many members.
    #[error("an object has more than {max} members", max = crate::limits::JSON_MEMBERS_MAX)]
    Members,
}

impl ApiError {
    /// A refusal because of a named limit, counted.
    pub(crate) fn limited(limit: &'static str, retry_after_seconds: u64) -> Self {
        metrics::limit_rejected(limit);
        Self::Limited {
            limit,
            retry_after_seconds,
        }
    }

    /// A fault of one member.
    pub(crate) const fn member(member: &'static str, fault: MemberFault) -> Self {
        Self::Member { member, fault }
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Json(_) | Self::BodyBroken | Self::NeedsTls => StatusCode::BAD_REQUEST,
            Self::NotAuthenticated | Self::WrongPassword => StatusCode::UNAUTHORIZED,
            Self::NotPermitted(_)
            | Self::NotKeylimeAdmin(_)
            | Self::NotKeylimeAgent(_)
            | Self::PasswordChangeRequired
            | Self::NeedsLogin
            | Self::BeyondCaller
            | Self::TokenKind { .. } => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::BodyTooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::ContentEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Member { .. }
            | Self::NotAnObject
            | Self::UnknownMember(_)
            | Self::Parameter { .. }
            | Self::UnknownParameter(_)
            | Self::MachineNotNamed => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Changed => StatusCode::PRECONDITION_FAILED,
            Self::Refused { code, .. } => refused_status(code),
            Self::Limited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::NotSupported(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            // Not 503: clients repeat what was answered with that.
            Self::Unfinished => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// A stable text for programs: what it is about, dot, what is wrong.
    pub fn code(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Json(_) => "request.malformed",
            Self::BodyBroken => "request.broken",
            Self::ContentEncoding => "request.encoding",
            Self::BodyTooLong { .. } => "request.too_long",
            Self::TooSlow => "request.too_slow",
            Self::Member { .. } => "request.member",
            Self::NotAnObject => "request.not_an_object",
            Self::UnknownMember(_) => "request.unknown_member",
            Self::Parameter { .. } => "request.parameter",
            Self::UnknownParameter(_) => "request.unknown_parameter",
            Self::Changed => "request.changed",
            Self::MachineNotNamed => "agent.machine_not_named",
            Self::Method => "request.method",
            Self::NotSupported(_) => "request.not_supported",
            Self::Limited { .. } => "request.limited",
            Self::NotAuthenticated => "auth.not_authenticated",
            Self::NotPermitted(_) => "auth.not_permitted",
            Self::NeedsTls => "request.needs_tls",
            Self::NotKeylimeAdmin(_) => "auth.not_keylime_admin",
            Self::NotKeylimeAgent(_) => "auth.not_keylime_agent",
            Self::WrongPassword => "auth.wrong_password",
            Self::PasswordChangeRequired => "auth.password_change_required",
            Self::NeedsLogin => "auth.needs_login",
            Self::BeyondCaller => "auth.beyond_caller",
            Self::TokenKind { .. } => "token.wrong_kind",
            Self::Unavailable(_) => "server.unavailable",
            Self::Unfinished => "server.unfinished",
            Self::Conflict(conflict) => conflict.code(),
            Self::Refused { code, .. } => code,
            Self::NotFound(what) => return format!("{}.not_found", what.replace(' ', "_")).into(),
        })
    }

    const fn retry_after_seconds(&self) -> Option<u64> {
        match self {
            Self::Limited {
                retry_after_seconds,
                ..
            } => Some(*retry_after_seconds),
            Self::Unavailable(_) => Some(UNAVAILABLE_RETRY_SECONDS),
            _ => None,
        }
    }
}

/// What cannot be read is the request's fault; what can be read and is not accepted is forbidden.
fn refused_status(code: &str) -> StatusCode {
    if code.ends_with(".malformed") {
        StatusCode::UNPROCESSABLE_ENTITY
    } else {
        StatusCode::FORBIDDEN
    }
}

/// Long enough for a restart, short enough that an enrolling machine still waits.
const UNAVAILABLE_RETRY_SECONDS: u64 = 5;

/// The body of every error.
#[derive(Serialize, ToSchema)]
#[schema(as = Error)]
pub(crate) struct Detail {
    /// What is wrong, for people; the text may change.
    detail: String,
    /// What is wrong, for programs; it does not change.
    #[schema(example = "agent.not_found")]
    code: String,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Detail {
            detail: self.to_string(),
            code: self.code().into_owned(),
        };
        self.answer(self.status(), &body)
    }
}

/// The refusal of a request to this path, in the shape that clients of its API expect.
pub(crate) fn refuse(path: &str, error: ApiError) -> Response {
    if path.starts_with(people::PREFIX) {
        return people::refuse(error);
    }
    if keylime::serves(path) {
        return keylime::refuse(&error);
    }
    error.into_response()
}

impl ApiError {
    /// An answer with this body, and the headers that belong to the refusal.
    pub(crate) fn answer(&self, status: StatusCode, body: &impl Serialize) -> Response {
        let mut response = json_response(status, body);
        self.add_headers(&mut response);
        response
    }

    /// Adds the headers that belong to the refusal.
    pub(crate) fn add_headers(&self, response: &mut Response) {
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_seconds() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if *self == Self::NotAuthenticated {
            let scheme = HeaderValue::from_static("Bearer");
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        if matches!(
            self,
            Self::BodyTooLong { .. } | Self::TooSlow | Self::BodyBroken
        ) {
            // What is left of the body is not read, so nothing can follow on this connection.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

/// An answer in JSON. A browser that is led to it neither guesses its type nor keeps it.
pub(crate) fn json_response(status: StatusCode, body: &impl Serialize) -> Response {
    // Serialising our own types of strings, numbers and lists cannot fail.
    let text = serde_json::to_vec(body).unwrap_or_default();
    json_body(status, Body::from(text))
}

/// An answer whose body is JSON already.
pub(crate) fn json_body(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let json = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    // No page may show it in a frame, and it loads nothing. (A04)
    let policy = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    response
}
