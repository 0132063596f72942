//! What does not fit together in a configuration, though each value is of its type.

use std::net::IpAddr;

use anyhow::Context;
use rat_api::core::{Addresses, AgentMode};
use rat_engine::shard::Settings;
use rat_engine::verdict::severity::SeverityError;
use rat_identity::ek::EkTrust;
use rat_identity::keylime::EkCheck;
use rat_runtime::{IMA_CACHE_AGENT_BYTES_MIN, IMA_CACHE_BYTES_MAX, IMA_CACHE_BYTES_MIN};
use rat_store::limits::INTERVAL_MS_MIN;

use super::{Attestation, Config, Listen, Mode, Runtime, webhook};
use crate::failure::{Exit, Failure, Means};

/// Everything that is wrong, by key.
pub(crate) fn check(config: &Config) -> Vec<String> {
    let mut faults = Vec::new();
    let mut fault = |key: &str, text: String| faults.push(format!("{key}: {text}"));
    if config.core.plain_http && !config.core.listen.ip().to_canonical().is_loopback() {
        let listen = config.core.listen;
        fault(
            "core.plain_http",
            format!("{listen} is no loopback address"),
        );
    }
    if config.core.plain_http && config.keylime_is_beside_core() {
        let text = "is never served over plain HTTP".to_owned();
        fault("keylime.listen", text);
    }
    if let Some(text) = registrar_fault(config) {
        fault("keylime.registrar.ek_check", text);
    }
    for (key, text) in verifier_faults(config) {
        fault(key, text);
    }
    if config.address.is_empty() {
        fault("address", "must not be empty".to_owned());
    }
    if config
        .address
        .parse()
        .is_ok_and(|ip: IpAddr| ip.is_unspecified())
    {
        let text = "is no address that anybody can reach".to_owned();
        fault("address", text);
    }
    let url = &config.core.public_url;
    if !url.is_empty() && !url.starts_with("https://") && !config.core.plain_http {
        fault("core.public_url", "must begin with https://".to_owned());
    }
    for address in &config.evidence.addresses {
        let port = address
            .rsplit_once(':')
            .map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(1..))) {
            fault(
                "evidence.addresses",
                format!("{address:?} is not host:port"),
            );
        }
    }
    for (key, _) in places(config).iter().filter(|(_, places)| *places == 0) {
        fault(key, "must be 1 or more".to_owned());
    }
    for (key, text) in config.keylime.pull.faults() {
        fault(key, text);
    }
    for (key, text) in config.keylime.revocation.faults(&config.webhook) {
        fault(key, text);
    }
    for (key, text) in cache_faults(&config.runtime) {
        fault(key, text);
    }
    for (key, text) in attestation_faults(&config.attestation) {
        fault(key, text);
    }
    for text in webhook::faults(&config.webhook) {
        fault("webhook", text);
    }
    if tracing_subscriber::EnvFilter::try_new(&config.log.level).is_err() {
        fault("log.level", "is no level".to_owned());
    }
    faults
}

/// Which times of attestation do not fit together.
fn attestation_faults(attestation: &Attestation) -> Vec<(&'static str, String)> {
    let mut faults = Vec::new();
    if attestation.interval_ms < 10 {
        let text = "must be 10 or more".to_owned();
        faults.push(("attestation.interval_ms", text));
    }
    if attestation.challenge_deadline_ms < 100 {
        let text = "must be 100 or more".to_owned();
        faults.push(("attestation.challenge_deadline_ms", text));
    }
    let deadline = u64::from(attestation.challenge_deadline_ms);
    let needed = attestation.interval_ms.saturating_add(deadline);
    if attestation.max_age_ms < needed {
        let text = format!("must be {needed} or more: interval and deadline together");
        faults.push(("attestation.max_age_ms", text));
    }
    faults
}

fn verifier_faults(config: &Config) -> Vec<(&'static str, String)> {
    let verifier = &config.keylime.verifier;
    let mut faults = Vec::new();
    for (key, seconds, max) in [
        (
            "keylime.verifier.quote_interval_seconds",
            verifier.quote_interval_seconds,
            86_400,
        ),
        (
            "keylime.verifier.challenge_lifetime_seconds",
            verifier.challenge_lifetime_seconds,
            3_600,
        ),
        (
            "keylime.verifier.session_lifetime_seconds",
            verifier.session_lifetime_seconds,
            86_400,
        ),
    ] {
        if !(1..=max).contains(&seconds) {
            faults.push((key, format!("must be 1 to {max}")));
        }
    }
    if let Err(error) = verifier.severities() {
        let key = match error {
            SeverityError::Labels | SeverityError::Twice(_) => "keylime.verifier.severity_labels",
            _ => "keylime.verifier.severity_policy",
        };
        faults.push((key, error.to_string()));
    }
    faults
}

/// Who would be refused for want of anybody who vouches: everybody. That is said at once.
fn registrar_fault(config: &Config) -> Option<String> {
    let registrar = &config.keylime.registrar;
    let is_served = registrar.listen != Listen::Nowhere || registrar.tls_listen != Listen::Nowhere;
    let identity = &config.identity;
    let is_blind = identity.ek_ca.is_empty() && identity.ek_list.is_empty();
    (is_served && is_blind && registrar.ek_check == EkCheck::Enforce).then(|| {
        "enforce needs identity.ek_ca or identity.ek_list; warn and off let every TPM register"
            .to_owned()
    })
}

/// What is wrong with the caches' sizes.
fn cache_faults(runtime: &Runtime) -> Vec<(&'static str, String)> {
    let quarter = runtime.ima_cache_bytes.div_ceil(4);
    [
        (
            "runtime.ima_cache_bytes",
            runtime.ima_cache_bytes,
            IMA_CACHE_BYTES_MIN..=IMA_CACHE_BYTES_MAX,
        ),
        (
            "runtime.ima_cache_agent_bytes",
            runtime.ima_cache_agent_bytes,
            IMA_CACHE_AGENT_BYTES_MIN..=quarter,
        ),
    ]
    .into_iter()
    .filter(|(_, given, range)| !range.contains(given))
    .map(|(key, _, range)| (key, format!("must be {} to {}", range.start(), range.end())))
    .collect()
}

/// The shortest interval that a group can have.
pub(crate) fn group_interval_ms_min(config: &Config) -> u64 {
    let least_ms = Settings::interval_ms_min(config.attestation.challenge_deadline_ms);
    least_ms.max(INTERVAL_MS_MIN)
}

/// Which TPMs are known: none, unless the operator names some. (N09)
pub(crate) fn ek_trust(config: &Config) -> Result<EkTrust, Failure> {
    let identity = &config.identity;
    EkTrust::load(&identity.ek_ca, &identity.ek_list)
        .context("identity.ek_ca, identity.ek_list")
        .means(Exit::Configuration)
}

/// Who is told of changed statuses, with secrets and CAs read.
pub(crate) fn webhooks(config: &Config) -> Result<Vec<rat_ops::webhook::Webhook>, Failure> {
    webhook::read(&config.webhook).means(Exit::Configuration)
}

/// How many of something there may be, of which nothing works without one.
const fn places(config: &Config) -> [(&'static str, usize); 5] {
    [
        (
            "keylime.requests_per_address_per_second",
            config.keylime.requests_per_address_per_second,
        ),
        (
            "core.requests_per_address_per_second",
            config.core.requests_per_address_per_second,
        ),
        ("evidence.connections", config.evidence.connections),
        (
            "evidence.connections_per_address",
            config.evidence.connections_per_address,
        ),
        (
            "evidence.handshakes_per_address",
            config.evidence.handshakes_per_address,
        ),
    ]
}

/// What clients are told of where things are, with these ports bound.
pub(crate) fn addresses(config: &Config, core_port: u16, evidence_port: u16) -> Addresses {
    let host = &config.address;
    // An IPv6 address stands in brackets before a port.
    let authority = match host.parse() {
        Ok(IpAddr::V6(v6)) => format!("[{v6}]"),
        _ => host.clone(),
    };
    let scheme = if config.core.plain_http {
        "http"
    } else {
        "https"
    };
    let core_url = match config.core.public_url.as_str() {
        "" => format!("{scheme}://{authority}:{core_port}"),
        url => url.trim_end_matches('/').to_owned(),
    };
    let evidence = match config.evidence.addresses.as_slice() {
        [] => vec![format!("{authority}:{evidence_port}")],
        given => given.to_vec(),
    };
    Addresses {
        host: host.clone(),
        verifier_port: evidence_port,
        core_url,
        evidence,
        server_name: host.clone(),
    }
}

/// How agents behave.
pub(crate) const fn mode(mode: Mode) -> AgentMode {
    match mode {
        Mode::Stay => AgentMode::Stay,
        Mode::Leave => AgentMode::Leave,
    }
}
