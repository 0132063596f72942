//! The server, as commands see it: requests with a credential, over HTTPS to a pinned CA.
//!
//! [`settings`] finds out which server, [`credential`] as whom, [`saved`] keeps both between two
//! runs, [`Client`] asks, and [`error`] says what went wrong and which exit code that is.

mod address;
mod credential;
mod error;
mod paging;
pub(crate) mod saved;
mod settings;

use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use hyper::header::{
    AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, IF_MATCH, USER_AGENT,
};
use rat_client::https::{self, Asked, Trust};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;

pub(crate) use address::{Address, AddressError};
pub(crate) use credential::{Credential, CredentialError, Source};
pub(crate) use error::ClientError;
pub(crate) use settings::{Pinned, server};

/// A policy of half a million paths, both ways.
const ANSWER_BYTES_MAX: usize = 80 * 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(120);

/// A server, and as whom it is asked.
pub(crate) struct Client {
    https: https::Client,
    runtime: Runtime,
    bearer: Option<HeaderValue>,
}

/// What the server answered to a request that it granted.
pub(crate) struct Answer {
    /// The headers.
    pub(crate) headers: HeaderMap,
    body: Bytes,
    path: String,
    server: String,
}

impl Client {
    /// A client of this server, as nobody.
    pub(crate) fn new(pinned: &Pinned) -> Result<Self, ClientError> {
        let trust = Trust::Fingerprint(pinned.ca_sha256);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        Ok(Self {
            https: https::Client::new(pinned.server.clone(), trust)?,
            runtime: runtime.map_err(ClientError::Runtime)?,
            bearer: None,
        })
    }

    /// The same, with a credential.
    pub(crate) fn with(mut self, credential: &Credential) -> Result<Self, CredentialError> {
        self.bearer = Some(credential.header()?);
        Ok(self)
    }

    /// The server.
    pub(crate) fn server(&self) -> String {
        self.https.server().to_string()
    }

    /// What is at an address.
    pub(crate) fn get(&self, address: &Address) -> Result<Answer, ClientError> {
        self.ask(Method::GET, address, &[], Bytes::new())
    }

    /// Sends a value.
    pub(crate) fn post(
        &self,
        address: &Address,
        body: &impl Serialize,
    ) -> Result<Answer, ClientError> {
        self.send(Method::POST, address, None, body)
    }

    /// Has something done that its address says all about.
    pub(crate) fn post_empty(&self, address: &Address) -> Result<Answer, ClientError> {
        self.ask(Method::POST, address, &[], Bytes::new())
    }

    /// Sends a value that goes over what is there; with `if_match` only over that version.
    pub(crate) fn put(
        &self,
        address: &Address,
        if_match: Option<u64>,
        body: &impl Serialize,
    ) -> Result<Answer, ClientError> {
        self.send(Method::PUT, address, if_match, body)
    }

    /// Makes something be there, by its address alone.
    pub(crate) fn put_empty(&self, address: &Address) -> Result<Answer, ClientError> {
        self.ask(Method::PUT, address, &[], Bytes::new())
    }

    /// Takes something away.
    pub(crate) fn delete(&self, address: &Address) -> Result<Answer, ClientError> {
        self.ask(Method::DELETE, address, &[], Bytes::new())
    }

    fn send(
        &self,
        method: Method,
        address: &Address,
        if_match: Option<u64>,
        body: &impl Serialize,
    ) -> Result<Answer, ClientError> {
        let body = serde_json::to_vec(body).map_err(ClientError::Body)?;
        let mut headers = vec![(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        if let Some(version) = if_match {
            let tag = HeaderValue::from_str(&format!("\"{version}\""));
            headers.extend(tag.ok().map(|tag| (IF_MATCH, tag)));
        }
        self.ask(method, address, &headers, Bytes::from(body))
    }

    fn ask(
        &self,
        method: Method,
        address: &Address,
        more: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<Answer, ClientError> {
        let agent = concat!("rat/", env!("CARGO_PKG_VERSION"));
        let mut headers = vec![(USER_AGENT, HeaderValue::from_static(agent))];
        let bearer = self.bearer.clone();
        headers.extend(bearer.map(|bearer| (AUTHORIZATION, bearer)));
        headers.extend_from_slice(more);
        let asked = Asked {
            method,
            path: address.as_str(),
            headers,
            body,
            patience: PATIENCE,
            answer_bytes_max: ANSWER_BYTES_MAX,
        };
        let reply = self.runtime.block_on(self.https.exchange(asked))?;
        let (path, server) = (address.path().to_owned(), self.server());
        if reply.status.is_success() {
            return Ok(Answer {
                headers: reply.headers,
                body: reply.body,
                path,
                server,
            });
        }
        Err(ClientError::refused(server, path, &reply))
    }
}

impl Answer {
    /// The body, read as JSON. Members that we do not know are passed over.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body).map_err(|source| ClientError::Content {
            server: self.server.clone(),
            path: self.path.clone(),
            source,
        })
    }
}
