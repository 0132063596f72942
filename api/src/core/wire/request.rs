//! The bodies of requests, as the document shows them. Handlers read them member by member, with
//! the limits and texts that each member has.

use utoipa::ToSchema;

use super::group::Approval;
use super::policy::Slot;

/// R10.
#[derive(ToSchema)]
#[allow(dead_code)]
pub(crate) struct ValidateToken {
    /// `esp_…` or `esp_b_…`.
    #[schema(max_length = 256)]
    token: String,
}

/// R4. Without keys the request is Keylime's agent's, which is not supported yet.
#[derive(ToSchema)]
#[allow(dead_code)]
pub(crate) struct Enrol {
    #[schema(max_length = 256)]
    token: String,
    #[schema(min_length = 1, max_length = 253, pattern = "^[A-Za-z0-9._-]+$")]
    hostname: String,
    #[schema(min_length = 1, max_length = 80)]
    agent_uuid: String,
    /// DER in base64.
    ek_cert: Option<String>,
    /// `TPM2B_PUBLIC` or `TPMT_PUBLIC` in base64.
    ek_public: Option<String>,
    /// The same.
    ak_public: Option<String>,
    /// PKCS#10, DER in base64.
    csr: Option<String>,
}

/// R5.
#[derive(ToSchema)]
#[allow(dead_code)]
pub(crate) struct EnrolBaseline {
    #[schema(max_length = 256)]
    token: String,
    #[schema(min_length = 1, max_length = 253, pattern = "^[A-Za-z0-9._-]+$")]
    hostname: String,
    #[schema(min_length = 1, max_length = 80)]
    agent_uuid: String,
    /// As in R4. Without any key the list becomes a candidate for an operator.
    ek_cert: Option<String>,
    ek_public: Option<String>,
    ak_public: Option<String>,
    csr: Option<String>,
    /// The raw ascii measurement list.
    ima_log: String,
}

/// The proof that a machine's keys are in one TPM.
#[derive(ToSchema)]
#[allow(dead_code)]
#[schema(as = AnswerActivation)]
pub(crate) struct Activate {
    #[schema(max_length = 64)]
    activation_id: String,
    /// HMAC-SHA-256 in hexadecimal.
    #[schema(max_length = 64)]
    proof: String,
}

/// R8.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
pub(crate) struct GenerateBaselineToken {
    #[schema(min_length = 1, max_length = 63, pattern = "^[a-z0-9_-]+$")]
    policy_group_id: String,
    /// 24 when missing.
    #[schema(minimum = 1, maximum = 8760)]
    ttl_hours: Option<u64>,
}

/// R9.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
pub(crate) struct GenerateToken {
    #[schema(min_length = 1, max_length = 63, pattern = "^[a-z0-9_-]+$")]
    policy_group_id: String,
    /// 1 when missing.
    #[schema(minimum = 1, maximum = 8760)]
    ttl_hours: Option<u64>,
    /// Any number when missing.
    #[schema(minimum = 1, maximum = 10000000)]
    max_uses: Option<u64>,
}

/// A new version of a group's policy.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
pub(crate) struct NewPolicy {
    #[schema(min_length = 1, max_length = 63, pattern = "^[a-z0-9_-]+$")]
    policy_group_id: String,
    /// A line without control characters.
    #[schema(min_length = 1, max_length = 128)]
    name: String,
    /// A runtime policy in Keylime's form.
    #[schema(value_type = Object)]
    content: (),
}

/// Which slot to put a version into.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
pub(crate) struct ActivatePolicy {
    /// `enforced` when missing.
    slot: Option<Slot>,
}

/// An approval.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
pub(crate) struct Approve {
    /// Which machine, by its endorsement key. Needed for one that wants to enrol; for an attestation
    /// key, only if it is that of this machine.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    ek_sha256: Option<String>,
    /// Only if this attestation key is the one that is proposed, as the agent shows it.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    ak_proposed_sha256: Option<String>,
}

/// Why a failure is cleared.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
pub(crate) struct Clear {
    /// For the audit log.
    #[schema(min_length = 1, max_length = 512)]
    reason: String,
}

/// Where an agent belongs from now on.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
pub(crate) struct Move {
    #[schema(min_length = 1, max_length = 63, pattern = "^[a-z0-9_-]+$")]
    policy_group_id: String,
}

/// A new group; settings that are missing enforce, and waive nothing.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
pub(crate) struct NewGroup {
    #[schema(min_length = 1, max_length = 63, pattern = "^[a-z0-9_-]+$")]
    policy_group_id: String,
    #[schema(min_length = 1, max_length = 128, nullable = false)]
    name: Option<String>,
    #[schema(nullable = false)]
    protected: Option<bool>,
    #[schema(nullable = false)]
    bypass: Option<bool>,
    #[schema(nullable = false)]
    block: Option<bool>,
    /// `sha256`, `sha384` or `sha512`; `sha1` with `allow_sha1`.
    #[schema(nullable = false)]
    bank: Option<Bank>,
    #[schema(nullable = false)]
    require_boot_log: Option<bool>,
    #[schema(nullable = false)]
    accept_violations: Option<bool>,
    #[schema(nullable = false)]
    auto_recover: Option<bool>,
    /// Milliseconds from one challenge of its agents to the next, not less than half of the server's
    /// challenge deadline; null for the server's interval.
    #[schema(minimum = 1000, maximum = 86400000)]
    interval_ms: Option<u64>,
    /// Accept SHA-1: as the hash of attestation keys and quotes, and as the bank.
    #[schema(nullable = false)]
    allow_sha1: Option<bool>,
    /// Fail a file whose signature does not verify, also when its digest is listed.
    #[schema(nullable = false)]
    require_valid_ima_sig: Option<bool>,
    #[schema(nullable = false)]
    approval: Option<Approval>,
    /// In the form of Keylime's `tpm_policy`; null takes it away.
    #[schema(value_type = Option<Object>)]
    pcr_policy: Option<()>,
}

/// Settings of a group; those that are missing stay as they are.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
pub(crate) struct GroupChange {
    #[schema(min_length = 1, max_length = 128, nullable = false)]
    name: Option<String>,
    #[schema(nullable = false)]
    protected: Option<bool>,
    #[schema(nullable = false)]
    bypass: Option<bool>,
    #[schema(nullable = false)]
    block: Option<bool>,
    /// `sha256`, `sha384` or `sha512`; `sha1` with `allow_sha1`.
    #[schema(nullable = false)]
    bank: Option<Bank>,
    #[schema(nullable = false)]
    require_boot_log: Option<bool>,
    #[schema(nullable = false)]
    accept_violations: Option<bool>,
    #[schema(nullable = false)]
    auto_recover: Option<bool>,
    /// Milliseconds from one challenge of its agents to the next, not less than half of the server's
    /// challenge deadline; null for the server's interval.
    #[schema(minimum = 1000, maximum = 86400000)]
    interval_ms: Option<u64>,
    /// Accept SHA-1: as the hash of attestation keys and quotes, and as the bank.
    #[schema(nullable = false)]
    allow_sha1: Option<bool>,
    /// Fail a file whose signature does not verify, also when its digest is listed.
    #[schema(nullable = false)]
    require_valid_ima_sig: Option<bool>,
    #[schema(nullable = false)]
    approval: Option<Approval>,
    /// In the form of Keylime's `tpm_policy`; null takes it away.
    #[schema(value_type = Option<Object>)]
    pcr_policy: Option<()>,
}

/// A PCR bank.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[allow(dead_code)]
pub(crate) enum Bank {
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

/// A relay, and the request for its certificate.
#[derive(ToSchema)]
#[allow(dead_code)]
pub(crate) struct AddRelay {
    #[schema(
        min_length = 1,
        max_length = 64,
        pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$",
        example = "site-1"
    )]
    name: String,
    /// PKCS#10, DER in base64.
    csr: String,
}

/// Through which relay an agent speaks.
#[derive(ToSchema)]
#[allow(dead_code)]
#[schema(as = ChangeRelay)]
pub(crate) struct Relay {
    /// The relay's name, or `null` for an agent that comes directly.
    #[schema(required = true, example = "site-1")]
    relay: Option<String>,
}
