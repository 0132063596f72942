//! What an agent asks to be registered.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rat_identity::keylime::{RegistrationError, certificate_of};
use rat_store::KeylimeMtlsCertificate;

use crate::error::ApiError;
use crate::keylime::params::{Given, Params};
use crate::limits::{
    HOSTNAME_CHARACTERS_MAX, REGISTRATION_CERTIFICATE_CHARACTERS_MAX, REGISTRATION_KEY_BYTES_MAX,
};

/// A registration as it was sent, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) ek_public: Given<Vec<u8>>,
    pub(super) ek_certificate: Given<Vec<u8>>,
    pub(super) ak_public: Given<Vec<u8>>,
    pub(super) iak_public: Given<Vec<u8>>,
    pub(super) iak_certificate: Given<Vec<u8>>,
    pub(super) idevid_public: Given<Vec<u8>>,
    pub(super) idevid_certificate: Given<Vec<u8>>,
    pub(super) iak_attest: Option<Vec<u8>>,
    pub(super) iak_sign: Option<Vec<u8>>,
    pub(super) ip: Given<String>,
    pub(super) port: Given<u16>,
    pub(super) mtls_cert: Given<KeylimeMtlsCertificate>,
}

/// Why a registration cannot be read: a stable word, and more about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) code: &'static str,
    pub(super) detail: String,
}

impl Fault {
    pub(super) fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
        }
    }
}

impl From<ApiError> for Fault {
    fn from(error: ApiError) -> Self {
        Self::new("request", error.to_string())
    }
}

impl From<RegistrationError> for Fault {
    fn from(error: RegistrationError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl Asked {
    /// Reads a request's parameters. Those that nobody knows say nothing.
    pub(super) fn read(params: &Params<'_>) -> Result<Self, Fault> {
        let certified = |name| match bytes(params, name)? {
            Given::Value(bytes) => Ok::<_, Fault>(Some(bytes)),
            Given::Absent | Given::Null => Ok(None),
        };
        Ok(Self {
            ek_public: bytes(params, "ek_tpm")?,
            ek_certificate: certificate(params, "ekcert")?,
            ak_public: bytes(params, "aik_tpm")?,
            iak_public: bytes(params, "iak_tpm")?,
            iak_certificate: certificate(params, "iak_cert")?,
            idevid_public: bytes(params, "idevid_tpm")?,
            idevid_certificate: certificate(params, "idevid_cert")?,
            iak_attest: certified("iak_attest")?,
            iak_sign: certified("iak_sign")?,
            ip: host(params)?,
            port: params.port("port")?,
            mtls_cert: mtls_cert(params)?,
        })
    }
}

/// An empty text is as good as null.
fn text<'p>(
    params: &'p Params<'_>,
    name: &'static str,
    max: usize,
) -> Result<Given<&'p str>, ApiError> {
    Ok(match params.text(name, max)? {
        Given::Value("") => Given::Null,
        given => given,
    })
}

fn bytes(params: &Params<'_>, name: &'static str) -> Result<Given<Vec<u8>>, Fault> {
    let characters = REGISTRATION_KEY_BYTES_MAX.div_ceil(3).saturating_mul(4);
    let decode = |text: &str| {
        let decoded = BASE64.decode(text);
        decoded.map_err(|_| Fault::new("request", format!("{name} is no base64")))
    };
    text(params, name, characters)?.try_map(decode)
}

fn certificate(params: &Params<'_>, name: &'static str) -> Result<Given<Vec<u8>>, Fault> {
    let given = text(params, name, REGISTRATION_CERTIFICATE_CHARACTERS_MAX)?;
    given.try_map(|text| {
        certificate_of(text).map_err(|error| Fault::new(error.code(), format!("{name}: {error}")))
    })
}

/// The certificate of the agent's own server, which it may say that it has not.
fn mtls_cert(params: &Params<'_>) -> Result<Given<KeylimeMtlsCertificate>, Fault> {
    let name = "mtls_cert";
    let given = text(params, name, REGISTRATION_CERTIFICATE_CHARACTERS_MAX)?;
    if given == Given::Value("disabled") {
        return Ok(Given::Value(KeylimeMtlsCertificate::Disabled));
    }
    let certificate = certificate(params, name)?;
    certificate.try_map(|der| Ok(KeylimeMtlsCertificate::Certificate(der)))
}

/// An address, or a name of letters, digits, `-` and `.`. (X07)
fn host(params: &Params<'_>) -> Result<Given<String>, Fault> {
    let given = text(params, "ip", HOSTNAME_CHARACTERS_MAX)?;
    given.try_map(|text| match is_host(text) {
        true => Ok(text.to_owned()),
        false => Err(Fault::new("request", "ip is neither an address nor a name")),
    })
}

/// Whether it is an address or such a name.
pub(in crate::keylime) fn is_host(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let is_name =
        !text.is_empty() && text.len() <= HOSTNAME_CHARACTERS_MAX && text.bytes().all(is_plain);
    text.parse::<IpAddr>().is_ok() || is_name
}
