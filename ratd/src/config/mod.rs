//! The configuration: what it holds, and what it is when nobody says anything.
//!
//! Values come from a TOML file, then from `RATD_*` variables, then from flags; [`load`] puts them
//! together, [`keys`] documents each, [`check`] says what does not fit together. No secret is in
//! here: secrets are in files, which the configuration names at most.

pub(crate) mod check;
pub(crate) mod keys;
pub(crate) mod load;
pub(crate) mod pull;
pub(crate) mod revocation;
pub(crate) mod webhook;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use rat_api::keylime::{self, MeasuredBoot};
use rat_engine::ima::CacheLimits;
use rat_engine::uefi::policy::PolicyName;
use rat_engine::verdict::severity::{self, SeverityError, SeverityPolicy};
use rat_identity::keylime::{EkCheck, TpmIdentity};
use serde::{Deserialize, Serialize};

use pull::Pull;
use revocation::Revocation;
use webhook::Webhook;

/// The name among the webhooks by which other agents are told of revocations.
pub(crate) const AGENTS_CHANNEL: &str = "keylime-agents";

/// Everything that can be configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    pub(crate) data_dir: PathBuf,
    pub(crate) address: String,
    pub(crate) core: Core,
    pub(crate) evidence: Evidence,
    pub(crate) keylime: Keylime,
    pub(crate) identity: Identity,
    pub(crate) attestation: Attestation,
    pub(crate) runtime: Runtime,
    pub(crate) log: Log,
    pub(crate) drain: Drain,
    pub(crate) webhook: Vec<Webhook>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Core {
    pub(crate) listen: SocketAddr,
    pub(crate) plain_http: bool,
    pub(crate) public_url: String,
    pub(crate) requests_per_address_per_second: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Evidence {
    pub(crate) listen: SocketAddr,
    pub(crate) addresses: Vec<String>,
    pub(crate) connections: usize,
    pub(crate) connections_per_address: usize,
    pub(crate) handshakes_per_address: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Keylime {
    pub(crate) listen: Listen,
    pub(crate) requests_per_address_per_second: usize,
    pub(crate) verifications: usize,
    pub(crate) registrar: Registrar,
    pub(crate) verifier: Verifier,
    pub(crate) pull: Pull,
    pub(crate) revocation: Revocation,
    pub(crate) measured_boot_policy_name: BootPolicy,
    pub(crate) measured_boot_evaluate: Evaluate,
}

impl Keylime {
    /// How the content of boot logs is judged.
    pub(crate) const fn measured_boot(&self) -> MeasuredBoot {
        MeasuredBoot {
            policy_name: match self.measured_boot_policy_name {
                BootPolicy::AcceptAll => PolicyName::AcceptAll,
                BootPolicy::RejectAll => PolicyName::RejectAll,
                BootPolicy::Example => PolicyName::Example,
            },
            evaluate: match self.measured_boot_evaluate {
                Evaluate::Always => keylime::Evaluate::Always,
                Evaluate::Once => keylime::Evaluate::Once,
            },
        }
    }
}

/// Which policy judges what boot logs hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum BootPolicy {
    AcceptAll,
    RejectAll,
    Example,
}

/// When it judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Evaluate {
    Always,
    Once,
}

/// Keylime's verifier, for tenants and for agents that push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Verifier {
    pub(crate) listen: Listen,
    pub(crate) mode: rat_api::keylime::verifier::Mode,
    pub(crate) uuid: String,
    pub(crate) quote_interval_seconds: u64,
    pub(crate) challenge_lifetime_seconds: u64,
    pub(crate) session_lifetime_seconds: u64,
    pub(crate) auto_recover_attestation_failures: bool,
    pub(crate) accept_violations: bool,
    pub(crate) require_allow_list_signatures: bool,
    pub(crate) severity_labels: Vec<String>,
    pub(crate) severity_policy: Vec<SeverityRule>,
}

/// What a kind of failure is called in severity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SeverityRule {
    pub(crate) event_id: String,
    pub(crate) severity_label: String,
}

impl Verifier {
    /// How grave failures are.
    pub(crate) fn severities(&self) -> Result<SeverityPolicy, SeverityError> {
        let rules = self.severity_policy.iter();
        let rules: Vec<_> = rules
            .map(|rule| severity::SeverityRule {
                event_id: rule.event_id.clone(),
                severity_label: rule.severity_label.clone(),
            })
            .collect();
        SeverityPolicy::new(&self.severity_labels, &rules)
    }
}

/// Keylime's registrar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Registrar {
    pub(crate) listen: Listen,
    pub(crate) tls_listen: Listen,
    pub(crate) ek_check: EkCheck,
    pub(crate) tpm_identity: TpmIdentity,
    pub(crate) shared_ek: bool,
}

/// Where a surface is served that need not be; nowhere is the empty text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum Listen {
    #[default]
    Nowhere,
    At(SocketAddr),
}

impl TryFrom<String> for Listen {
    type Error = std::net::AddrParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.as_str() {
            "" => Ok(Self::Nowhere),
            address => address.parse().map(Self::At),
        }
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> Self {
        match listen {
            Listen::Nowhere => Self::new(),
            Listen::At(address) => address.to_string(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Identity {
    pub(crate) ek_ca: Vec<PathBuf>,
    pub(crate) ek_list: Vec<PathBuf>,
    pub(crate) server_names: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Attestation {
    pub(crate) interval_ms: u64,
    pub(crate) challenge_deadline_ms: u32,
    pub(crate) max_age_ms: u64,
    pub(crate) mode: Mode,
}

/// How agents behave between challenges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mode {
    Stay,
    Leave,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Runtime {
    pub(crate) workers: usize,
    pub(crate) arith_threads: usize,
    pub(crate) io_threads: usize,
    pub(crate) ima_cache_bytes: usize,
    pub(crate) ima_cache_agent_bytes: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    pub(crate) format: LogFormat,
    pub(crate) level: String,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Drain {
    pub(crate) deadline_ms: u64,
}

/// Reachable from this machine alone, until somebody says otherwise.
const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("./ratd-data"),
            address: "127.0.0.1".to_owned(),
            core: Core::default(),
            evidence: Evidence::default(),
            keylime: Keylime::default(),
            identity: Identity::default(),
            attestation: Attestation::default(),
            runtime: Runtime::default(),
            log: Log::default(),
            drain: Drain::default(),
            webhook: Vec::new(),
        }
    }
}

impl Default for Core {
    fn default() -> Self {
        Self {
            listen: loopback(8001),
            plain_http: false,
            public_url: String::new(),
            requests_per_address_per_second: rat_api::limits::REQUESTS_PER_ADDRESS_PER_SECOND,
        }
    }
}

impl Default for Evidence {
    fn default() -> Self {
        Self {
            listen: loopback(8882),
            addresses: Vec::new(),
            connections: rat_transport::limits::CONNECTIONS_MAX,
            connections_per_address: rat_transport::limits::CONNECTIONS_PER_ADDRESS_MAX,
            handshakes_per_address: rat_transport::limits::HANDSHAKES_PER_ADDRESS_MAX,
        }
    }
}

impl Default for Keylime {
    fn default() -> Self {
        Self {
            listen: Listen::Nowhere,
            requests_per_address_per_second: rat_api::limits::REQUESTS_PER_ADDRESS_PER_SECOND,
            verifications: 0,
            registrar: Registrar::default(),
            verifier: Verifier::default(),
            pull: Pull::default(),
            revocation: Revocation::default(),
            measured_boot_policy_name: BootPolicy::AcceptAll,
            measured_boot_evaluate: Evaluate::Always,
        }
    }
}

impl Default for Verifier {
    fn default() -> Self {
        Self {
            listen: Listen::Nowhere,
            mode: rat_api::keylime::verifier::Mode::Auto,
            uuid: "default".to_owned(),
            quote_interval_seconds: 10,
            challenge_lifetime_seconds: 30,
            session_lifetime_seconds: 180,
            auto_recover_attestation_failures: false,
            accept_violations: false,
            require_allow_list_signatures: false,
            severity_labels: severity::SEVERITY_LABELS.map(str::to_owned).to_vec(),
            severity_policy: Vec::new(),
        }
    }
}

impl Default for Attestation {
    fn default() -> Self {
        Self {
            interval_ms: 10_000,
            challenge_deadline_ms: 5_000,
            max_age_ms: 30_000,
            mode: Mode::Stay,
        }
    }
}

impl Default for Runtime {
    fn default() -> Self {
        let caches = CacheLimits::default();
        Self {
            workers: 0,
            arith_threads: 0,
            io_threads: 0,
            ima_cache_bytes: caches.bytes_max,
            ima_cache_agent_bytes: caches.agent_bytes_max,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: "info".to_owned(),
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            deadline_ms: 20_000,
        }
    }
}

impl Config {
    /// Whether Keylime's API is served by the Core API's listener: both have one address. Ports that
    /// the system chooses are two.
    pub(crate) fn keylime_is_beside_core(&self) -> bool {
        let core = self.core.listen;
        core.port() != 0 && self.keylime.listen == Listen::At(core)
    }

    /// The names and addresses in the server's certificate; the first is what agents ask for.
    pub(crate) fn server_names(&self) -> Vec<String> {
        let mut names = vec![self.address.clone()];
        let own = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        for name in self.identity.server_names.iter().cloned().chain(own) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}
