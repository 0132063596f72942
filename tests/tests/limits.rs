//! Every limit of the engine, hit at its value and at one more, through public interfaces.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::print_stdout,
    reason = "a panic is how a test fails, and its output says of what"
)]

use std::collections::BTreeSet;

use rat_engine::limits::ALL;

#[path = "limits/ima.rs"]
mod ima;
#[path = "limits/measured_boot.rs"]
mod measured_boot;
#[path = "limits/names.rs"]
mod names;
#[path = "limits/policy.rs"]
mod policy;
#[path = "limits/refused.rs"]
mod refused;
#[path = "limits/severity.rs"]
mod severity;
#[path = "limits/sources.rs"]
mod sources;
#[path = "limits/tpm.rs"]
mod tpm;
#[path = "limits/uefi.rs"]
mod uefi;

/// Proves one limit.
type Case = fn();

const CASES: &[(&str, Case)] = &[
    ("AGENT_ID_BYTES_MAX", names::agent_id_bytes),
    ("ATTEST_BYTES_MAX", tpm::attest_bytes),
    ("SIGNATURE_BYTES_MAX", tpm::signature_bytes),
    ("PUBLIC_BYTES_MAX", tpm::public_bytes),
    ("QUALIFYING_DATA_BYTES_MAX", tpm::qualifying_data_bytes),
    ("NAME_BYTES_MAX", tpm::name_bytes),
    ("PCR_BANKS_MAX", tpm::pcr_banks),
    ("PCR_COUNT", tpm::pcr_count),
    ("PCR_SELECT_BYTES", tpm::pcr_select_bytes),
    ("RSA_BYTES_MAX", tpm::rsa_bytes),
    ("ECC_PARAMETER_BYTES_MAX", tpm::ecc_parameter_bytes),
    ("KEY_FILE_BYTES_MAX", tpm::key_file_bytes),
    ("FILE_KEY_BITS_MAX", tpm::file_key_bits),
    ("PCR_BLOB_BYTES_MAX", tpm::pcr_blob_bytes),
    ("PCR_JSON_BYTES_MAX", tpm::pcr_json_bytes),
    ("IMA_ENTRY_BYTES_MAX", ima::entry_bytes),
    ("IMA_LINE_BYTES_MAX", ima::line_bytes),
    ("IMA_LOG_BYTES_MAX", ima::log_bytes),
    ("IMA_NAME_BYTES_MAX", ima::name_bytes),
    ("IMA_KEYS_MAX", ima::keys),
    ("IMA_KEY_BYTES_MAX", ima::key_bytes),
    ("UEFI_LOG_BYTES_MAX", uefi::log_bytes),
    ("UEFI_EVENTS_MAX", uefi::events),
    ("UEFI_EVENT_BYTES_MAX", uefi::event_bytes),
    ("UEFI_ALGORITHMS_MAX", uefi::algorithms),
    ("UEFI_DIGEST_BYTES_MAX", uefi::digest_bytes),
    ("UEFI_VARIABLE_NAME_BYTES_MAX", uefi::variable_name_bytes),
    ("UEFI_SIGNATURES_MAX", uefi::signatures),
    ("UEFI_DEVICE_PATH_NODES_MAX", uefi::device_path_nodes),
    ("POLICY_BYTES_MAX", policy::bytes),
    ("POLICY_PATHS_MAX", policy::paths),
    ("POLICY_DIGESTS_PER_PATH_MAX", policy::digests_per_path),
    ("POLICY_WARNINGS_MAX", policy::warnings),
    ("POLICY_NAME_SHOWN_MAX", policy::name_shown),
    ("LINT_TRIES_MAX", policy::lint_tries),
    ("EXCLUDES_MAX", policy::excludes),
    ("EXCLUDE_PATTERN_BYTES_MAX", policy::exclude_pattern_bytes),
    ("EXCLUDE_PROGRAM_BYTES_MAX", policy::exclude_program_bytes),
    ("EXCLUDE_STEPS_MAX", policy::exclude_steps),
    ("EXCLUDE_STEPS_PER_LIST_MAX", policy::exclude_steps_per_list),
    ("EXCLUDE_NESTING_MAX", policy::exclude_nesting),
    ("EXCLUDE_LOOK_BEHIND_MAX", policy::exclude_look_behind),
    ("EXCLUDES_BYTES_MAX", policy::excludes_bytes),
    ("EXCLUDES_PROGRAM_BYTES_MAX", policy::excludes_program_bytes),
    ("MB_POLICY_BYTES_MAX", measured_boot::bytes),
    ("MB_POLICY_ENTRIES_MAX", measured_boot::entries),
    ("MB_POLICY_KERNELS_MAX", measured_boot::kernels),
    ("MB_POLICY_FINDINGS_MAX", measured_boot::findings),
    ("MB_POLICY_SHOWN_MAX", measured_boot::shown),
    ("DSSE_BYTES_MAX", sources::dsse_bytes),
    ("DSSE_SIGNATURES_MAX", sources::dsse_signatures),
    ("DSSE_SIGNATURE_BYTES_MAX", sources::dsse_signature_bytes),
    ("ALLOWLIST_BYTES_MAX", sources::allowlist_bytes),
    (
        "INITRAMFS_UNPACKED_BYTES_MAX",
        sources::initramfs_unpacked_bytes,
    ),
    ("INITRAMFS_MEMBERS_MAX", sources::initramfs_members),
    ("INITRAMFS_NAME_BYTES_MAX", sources::initramfs_name_bytes),
    ("RPM_HEADER_BYTES_MAX", sources::rpm_header_bytes),
    ("RPM_TAGS_MAX", sources::rpm_tags),
    ("RPM_FILES_MAX", sources::rpm_files),
    ("TPM_POLICY_BYTES_MAX", tpm::policy_bytes),
    ("TPM_POLICY_VALUES_MAX", tpm::policy_values),
    ("SEVERITY_LABELS_MAX", severity::labels),
    ("SEVERITY_RULES_MAX", severity::rules),
    ("SEVERITY_PATTERN_BYTES_MAX", severity::pattern_bytes),
    (
        "SEVERITY_PATTERN_COMPILED_BYTES_MAX",
        severity::pattern_compiled_bytes,
    ),
];

/// Limits that are not hit at n and n + 1, and why.
const NOT_HIT: &[(&str, &str)] = &[
    (
        "EXCLUDE_AUTOMATON_BYTES_MAX",
        "it refuses nothing: `a_full_cache_of_the_linear_engine_changes_no_meaning`",
    ),
    (
        "INITRAMFS_BYTES_MAX",
        "`rat` reads the file: `images_that_are_too_large_are_not_read`",
    ),
];

#[test]
fn every_limit_has_a_case_or_a_reason() {
    let known: BTreeSet<_> = ALL.iter().map(|limit| limit.name).collect();
    let names = CASES.iter().map(|(name, _)| *name);
    let names: Vec<_> = names.chain(NOT_HIT.iter().map(|(name, _)| *name)).collect();
    let listed: BTreeSet<_> = names.iter().copied().collect();
    assert_eq!(listed.len(), names.len(), "a limit is listed twice");
    assert_eq!(listed, known);
}

#[test]
fn every_limit_is_hit_at_its_value_and_at_one_more() {
    for (name, case) in CASES {
        // Names the limit in the output of a failing test.
        println!("{name}");
        case();
    }
}

#[test]
fn a_full_cache_of_the_linear_engine_changes_no_meaning() {
    policy::exclude_automaton_bytes();
}
