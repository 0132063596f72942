//! Every limit on what a peer or an operator can make us do, in one place.
//!
//! A limit is checked before the allocation or loop it bounds. Each has a name, a value with its
//! unit, and a reason. [`ALL`] lists them, and a test enumerates that list.

/// A limit by name, for documentation, metrics and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The label that metrics and messages use.
    pub name: &'static str,
    /// The largest value that is accepted.
    pub max: usize,
    /// What the value counts.
    pub unit: &'static str,
    /// Why there is a limit, and why this one.
    pub reason: &'static str,
}

/// Declares the limits of a crate: a documented constant for each, a list of all for metrics,
/// documentation and tests, and the test that each has a name of its own, a value and a reason. A
/// crate calls it once, in its own `limits` module.
///
/// `NAME = value, "unit", "Reason.";` makes constants of `usize`, and `ALL`. With a type behind
/// each name (`NAME: u64 = ...`) the constants have that type, and `all()` returns the list.
#[macro_export]
macro_rules! limits {
    (@tested $all:expr) => {
        #[cfg(test)]
        mod declared {
            #[test]
            fn every_limit_has_a_distinct_name_a_value_and_a_reason() {
                let all = $all;
                let mut names: Vec<&str> = all.iter().map(|limit| limit.name).collect();
                names.sort_unstable();
                names.dedup();
                assert_eq!(names.len(), all.len());
                for limit in all {
                    assert!(limit.max > 0 && limit.reason.ends_with('.'), "{limit:?}");
                }
            }
        }
    };
    ($($name:ident = $value:expr, $unit:literal, $reason:literal;)*) => {
        $(
            #[doc = concat!($reason, " Unit: ", $unit, ".")]
            pub const $name: usize = $value;
        )*

        /// Every limit of this crate.
        pub const ALL: &[$crate::limits::Limit] = &[
            $($crate::limits::Limit {
                name: stringify!($name),
                max: $name,
                unit: $unit,
                reason: $reason,
            },)*
        ];

        $crate::limits!(@tested super::ALL);
    };
    ($($name:ident: $kind:ty = $value:expr, $unit:literal, $reason:literal;)*) => {
        $(
            #[doc = concat!($reason, " Unit: ", $unit, ".")]
            pub const $name: $kind = $value;
        )*

        /// Every limit of this crate.
        pub fn all() -> Vec<$crate::limits::Limit> {
            vec![$($crate::limits::Limit {
                name: stringify!($name),
                max: usize::try_from($name).unwrap_or(usize::MAX),
                unit: $unit,
                reason: $reason,
            },)*]
        }

        $crate::limits!(@tested super::all());
    };
}

limits! {
    // Names
    AGENT_ID_BYTES_MAX = 80, "bytes",
        "An id stands in routes, certificates and metrics' logs; a UUID has 36.";
    // TPM structures
    ATTEST_BYTES_MAX = 1024, "bytes",
        "TPMS_ATTEST is a few hundred bytes even with four banks (TPM 2.0 Part 2, 10.12.12).";
    SIGNATURE_BYTES_MAX = 1024, "bytes",
        "TPMT_SIGNATURE of RSA-4096 is 518 bytes.";
    PUBLIC_BYTES_MAX = 1024, "bytes",
        "TPMT_PUBLIC of RSA-4096 with an authPolicy is under 640 bytes.";
    QUALIFYING_DATA_BYTES_MAX = 66, "bytes",
        "TPM2B_DATA holds at most a TPMT_HA: algorithm and largest digest (Part 2, 10.4.3).";
    NAME_BYTES_MAX = 68, "bytes",
        "TPM2B_NAME holds an algorithm and a digest, or a handle (Part 2, 10.5.3).";
    PCR_BANKS_MAX = 16, "banks",
        "TPML_PCR_SELECTION of tpm2-tools has 16 slots (HASH_COUNT).";
    PCR_COUNT = 24, "PCRs",
        "The PC Client profile has PCR 0-23; a select is three bytes.";
    PCR_SELECT_BYTES = 3, "bytes",
        "Bits of 24 PCRs; PC Client TPMs write no other size (Part 2, 10.6.2).";
    RSA_BYTES_MAX = 512, "bytes",
        "Modulus and signature of RSA-4096, the largest key that we verify with.";
    ECC_PARAMETER_BYTES_MAX = 66, "bytes",
        "Coordinates and signature numbers of P-521, the largest curve that we verify on.";
    KEY_FILE_BYTES_MAX = 16 * 1024, "bytes",
        "A key or certificate as PEM or DER; real certificates of TPM and IMA keys are under 4 KiB.";
    FILE_KEY_BITS_MAX = 8192, "bits",
        "RSA keys that sign files; verifying costs the square of the size.";
    PCR_BLOB_BYTES_MAX = 64 * 1024, "bytes",
        "tpm2-tools writes 132 + 4 + 532 n bytes; n is at most 24 x 4 banks / 8.";
    PCR_JSON_BYTES_MAX = 64 * 1024, "bytes",
        "24 values in four banks are under 13 KiB of JSON.";
    // IMA
    IMA_ENTRY_BYTES_MAX = 512 * 1024, "bytes",
        "Template data of one entry: a 4 KiB path, a signature, or one measured buffer.";
    IMA_LINE_BYTES_MAX = 1024 * 1024 + 4096, "bytes",
        "An ascii line carries the template data in hexadecimal.";
    IMA_LOG_BYTES_MAX = 1 << 30, "bytes",
        "One log, streamed in constant memory: 10 million entries of 100 bytes.";
    IMA_NAME_BYTES_MAX = 4096 + 64, "bytes",
        "PATH_MAX and the kernel's suffix for deleted files.";
    IMA_KEYS_MAX = 1024, "keys",
        "Keys of a policy, or learned from one measurement list.";
    IMA_KEY_BYTES_MAX = 8 * 1024, "bytes",
        "SubjectPublicKeyInfo of RSA-16384 is about 2 KiB.";
    // UEFI event log
    UEFI_LOG_BYTES_MAX = 4 * 1024 * 1024, "bytes",
        "Firmware reserves 64 KiB to 1 MiB for its log.";
    UEFI_EVENTS_MAX = 65_536, "events",
        "Real logs hold some hundreds of events.";
    UEFI_EVENT_BYTES_MAX = 1024 * 1024, "bytes",
        "The largest real events are dbx variables of tens of KiB.";
    UEFI_ALGORITHMS_MAX = 16, "algorithms",
        "Digest sizes that TCG_EfiSpecIdEvent lists.";
    UEFI_DIGEST_BYTES_MAX = 64, "bytes",
        "The largest digest of the TCG Algorithm Registry is SHA-512's.";
    UEFI_VARIABLE_NAME_BYTES_MAX = 2048, "bytes",
        "Names of measured variables are some tens of UTF-16 characters.";
    UEFI_SIGNATURES_MAX = 65_536, "signatures",
        "The largest dbx published holds some hundreds of digests.";
    UEFI_DEVICE_PATH_NODES_MAX = 256, "nodes",
        "Real device paths have fewer than twenty nodes.";
    // Policies
    POLICY_BYTES_MAX = 256 * 1024 * 1024, "bytes",
        "Two million paths with one SHA-256 each.";
    POLICY_PATHS_MAX = 4_000_000, "paths",
        "A distribution with every package of it installed has about two million files.";
    POLICY_DIGESTS_PER_PATH_MAX = 65_536, "digests",
        "A path gains one digest per package update.";
    POLICY_WARNINGS_MAX = 100_000, "warnings",
        "A policy with more is not one; each warning names its place.";
    POLICY_NAME_SHOWN_MAX = 1024, "characters",
        "How much of a name the place of a warning shows; most paths are under 256.";
    LINT_TRIES_MAX = 20_000_000, "tries",
        "Exclude patterns times listed paths that lint tries: some seconds.";
    EXCLUDES_MAX = 10_000, "patterns",
        "Each pattern is compiled alone and tried on each distinct path.";
    EXCLUDE_PATTERN_BYTES_MAX = 64 * 1024, "bytes",
        "Generated alternations of paths are long; nothing else is.";
    EXCLUDE_PROGRAM_BYTES_MAX = 4 * 1024 * 1024, "bytes",
        "Compiled size of one pattern.";
    EXCLUDE_AUTOMATON_BYTES_MAX = 256 * 1024, "bytes",
        "Cache of the linear engine for one pattern; a full cache costs time, not meaning.";
    EXCLUDE_STEPS_MAX = 100_000, "steps",
        "Backtracking steps of one pattern on one path; reaching it means not excluded.";
    EXCLUDE_STEPS_PER_LIST_MAX = 100_000_000, "steps",
        "Backtracking steps of all patterns over one list, whose paths its sender chooses: a third \
         of a second. Beyond it no such pattern excludes.";
    EXCLUDE_NESTING_MAX = 128, "groups",
        "Depth of groups in one pattern.";
    EXCLUDE_LOOK_BEHIND_MAX = 4096, "characters",
        "A look-behind wider than PATH_MAX can never match.";
    EXCLUDES_BYTES_MAX = 1024 * 1024, "bytes",
        "All patterns of a policy together, as they are written.";
    EXCLUDES_PROGRAM_BYTES_MAX = 64 * 1024 * 1024, "bytes",
        "All patterns of a policy together, compiled: a second of work and twice the memory.";
    MB_POLICY_BYTES_MAX = 8 * 1024 * 1024, "bytes",
        "A measured boot reference state: keys of some KiB, a dbx of some hundred KiB in hexadecimal.";
    MB_POLICY_ENTRIES_MAX = 65_536, "entries",
        "One list of a measured boot reference state; the largest is dbx.";
    MB_POLICY_KERNELS_MAX = 1024, "entries",
        "Kernels that a reference state allows: each has a pattern that is compiled.";
    MB_POLICY_FINDINGS_MAX = 64, "findings",
        "What is told of one event log; a person needs the first few.";
    MB_POLICY_SHOWN_MAX = 160, "characters",
        "How much of an event's content a finding shows.";
    DSSE_BYTES_MAX = 384 * 1024 * 1024, "bytes",
        "An envelope: the largest policy in base64, and signatures.";
    DSSE_SIGNATURES_MAX = 16, "signatures",
        "Each costs a verification over the whole payload; Keylime's tool makes one.";
    DSSE_SIGNATURE_BYTES_MAX = 256, "bytes",
        "ECDSA on P-521 in DER takes 139.";
    // What policies are made of
    ALLOWLIST_BYTES_MAX = 512 * 1024 * 1024, "bytes",
        "A line for each path of the largest policy, 128 bytes on average.";
    INITRAMFS_BYTES_MAX = 1 << 30, "bytes",
        "Compressed images are 20 to 500 MB; one is held in memory.";
    INITRAMFS_UNPACKED_BYTES_MAX = 2 << 30, "bytes",
        "What one image may decompress to, all its archives together; it is hashed and not kept.";
    INITRAMFS_MEMBERS_MAX = 1_000_000, "members",
        "Real images have some thousands of files.";
    INITRAMFS_NAME_BYTES_MAX = 4096, "bytes",
        "PATH_MAX with its NUL: the kernel passes over longer names.";
    RPM_HEADER_BYTES_MAX = 256 * 1024 * 1024, "bytes",
        "The data of one header; rpm's own limit (header.c, headerMaxbytes).";
    RPM_TAGS_MAX = 65_535, "tags",
        "The index of one header; rpm's own limit (header.c, hdrchkTags).";
    RPM_FILES_MAX = 1_000_000, "files",
        "The largest package, kernel sources, has under 100,000.";
    TPM_POLICY_BYTES_MAX = 64 * 1024, "bytes",
        "A PCR policy lists a few values for each of 24 PCRs.";
    TPM_POLICY_VALUES_MAX = 256, "values",
        "Allowed values of one PCR.";
    SEVERITY_LABELS_MAX = 64, "labels",
        "Keylime's default has seven; a level is one byte.";
    SEVERITY_RULES_MAX = 256, "rules",
        "Each may be matched with every failure.";
    SEVERITY_PATTERN_BYTES_MAX = 1024, "bytes",
        "The longest event id has 80 characters.";
    SEVERITY_PATTERN_COMPILED_BYTES_MAX = 256 * 1024, "bytes",
        "What a pattern may take when it is compiled.";
}
