//! A policy's JSON text: the shape that Keylime's schema demands, all eight members.

use std::collections::BTreeMap;

use serde::Serialize;

/// The policy; `D` is what stands for the digests of a name.
#[derive(Serialize)]
pub(super) struct Document<'a, D: Serialize> {
    pub(super) meta: DocumentMeta<'a>,
    pub(super) release: u64,
    pub(super) digests: BTreeMap<&'a str, D>,
    pub(super) excludes: &'a [String],
    pub(super) keyrings: BTreeMap<&'a str, D>,
    pub(super) ima: DocumentIma<'a>,
    #[serde(rename = "ima-buf")]
    pub(super) buffers: BTreeMap<&'a str, D>,
    #[serde(rename = "verification-keys")]
    pub(super) verification_keys: &'a str,
}

#[derive(Serialize)]
pub(super) struct DocumentMeta<'a> {
    version: u64,
    generator: u64,
    timestamp: &'a str,
}

impl<'a> DocumentMeta<'a> {
    /// The present version, made by a tool (Keylime: 3 is what its own tools write).
    pub(super) fn new(timestamp: &'a str) -> Self {
        Self {
            version: 1,
            generator: 3,
            timestamp,
        }
    }
}

#[derive(Serialize)]
pub(super) struct DocumentIma<'a> {
    pub(super) ignored_keyrings: Vec<&'a str>,
    pub(super) log_hash_alg: &'a str,
    dm_policy: Option<()>,
}

impl<'a> DocumentIma<'a> {
    pub(super) fn new(log_hash_alg: &'a str, ignored_keyrings: Vec<&'a str>) -> Self {
        Self {
            ignored_keyrings,
            log_hash_alg,
            dm_policy: None,
        }
    }
}
