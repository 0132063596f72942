//! What failed, by the names of Keylime's events. Where Keylime has none, the engine's own stands.

use rat_engine::verdict::Code;

/// The `event_id` of a failure.
///
/// Source: Keylime 7.14 `keylime/failure.py`, `keylime/ima/ima.py`.
pub(super) fn event_id(code: Code) -> String {
    let text = code.as_str();
    let known = match code {
        Code::PcrValueNotAllowed => "pcr_validation.invalid_pcr",
        Code::PcrNotAttested => "pcr_validation.missing_pcrs",
        Code::UefiPcrMismatch => "measured_boot.invalid_pcr",
        Code::ImaPcrMismatch => "ima.pcr_mismatch",
        Code::ImaTemplateHash => "ima.validation.ima_hash",
        Code::ImaWrongPcr => "ima.validation.ima_pcr",
        Code::ImaMalformed => "ima.parser.entry",
        Code::ImaViolation => "ima.validation.tomtou",
        Code::ImaPathNotListed => "ima.validation.ima-ng.not_in_allowlist",
        Code::ImaDigestNotListed => "ima.validation.ima-ng.runtime_policy_hash",
        Code::ImaSigInvalid => "ima.validator.ima-sig.invalid_signature",
        Code::UefiPolicyRejected => "measured_boot.policy_reject-all",
        _ if text.starts_with("uefi.policy_") => "measured_boot.policy_example",
        _ if text.starts_with("quote.") || text.starts_with("time.") => {
            "qoute_validation.quote_validation"
        }
        _ if text.starts_with("uefi.") => "measured_boot.parser.events",
        _ => text,
    };
    known.to_owned()
}
