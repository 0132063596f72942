//! Every option of Keylime 7.14.3, with its default, and what becomes of those that are no key here.

/// What becomes of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It leads to a key: `translate` says to which.
    Mapped,
    /// Nothing here does what it does.
    None(&'static str),
    /// The same, and without it less is demanded than Keylime demanded.
    Weaker(&'static str),
    /// It is done in another way.
    Elsewhere(&'static str),
    /// Its value is not shown.
    Secret(&'static str),
}

/// One option.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    /// What Keylime's own files say; `None` where they say nothing.
    pub(super) default: Option<&'static str>,
    pub(super) kind: Kind,
}

use Kind::{Elsewhere, Mapped, None as Nothing, Secret, Weaker};

type Option4 = (&'static str, Option<&'static str>, Kind);

const TLS: &str = "`ratd keylime ca import` takes over the folder with its files";
const LATER: &str = "durable attestation backends are not built";
const FIXED: &str = "fixed here; docs/keylime.md has the limits";
const DATABASE: &str = "records are ratd's own, in data_dir";
const ONE: &str = "verifier and registrar are one server here";
const TENANT: &str = "the tenant's own: it reads its file as before";
const CA: &str = "the CA in cv_ca makes its certificates by rules of its own";
const PASSWORD: &str = "keys here are not encrypted, and only their owner can read them: decrypt a copy \
                        with `openssl pkey` for `ratd keylime ca import`";
const LOGS: &str = "logs go to standard error";

const VERIFIER: &[Option4] = &[
    ("version", None, Mapped),
    ("uuid", Some("default"), Mapped),
    ("ip", Some("127.0.0.1"), Mapped),
    ("port", Some("8881"), Mapped),
    ("registrar_ip", Some("127.0.0.1"), Nothing(ONE)),
    ("registrar_port", Some("8891"), Nothing(ONE)),
    ("enable_agent_mtls", Some("True"), Mapped),
    ("tls_dir", Some("generate"), Mapped),
    ("server_key", Some("default"), Elsewhere(TLS)),
    ("server_cert", Some("default"), Elsewhere(TLS)),
    ("server_key_password", Some(""), Secret(PASSWORD)),
    ("client_key", Some("default"), Mapped),
    ("client_cert", Some("default"), Mapped),
    ("client_key_password", Some(""), Secret(PASSWORD)),
    (
        "trusted_client_ca",
        Some("default"),
        Elsewhere("the CA in cv_ca alone vouches for tenants"),
    ),
    ("trusted_server_ca", Some("default"), Nothing(ONE)),
    ("cert_subject_alternative_names", Some(""), Mapped),
    (
        "authorization_provider",
        Some("simple"),
        Weaker("routes have fixed permissions, those of `simple`"),
    ),
    ("database_url", Some("sqlite"), Mapped),
    ("database_pool_sz_ovfl", Some("5,10"), Nothing(DATABASE)),
    ("auto_migrate_db", Some("True"), Nothing(DATABASE)),
    (
        "num_workers",
        Some("0"),
        Nothing("runtime.workers counts threads, and 0 fits the machine"),
    ),
    (
        "max_workers",
        Some("16"),
        Nothing("runtime.workers counts threads, and 0 fits the machine"),
    ),
    ("exponential_backoff", Some("True"), Mapped),
    ("retry_interval", Some("2"), Mapped),
    (
        "max_retries",
        Some("5"),
        Nothing("an agent that is not reached is asked on, and overdue"),
    ),
    ("quote_interval", Some("2"), Mapped),
    (
        "request_timeout",
        Some("60.0"),
        Nothing("an answer has keylime.verifier.challenge_lifetime_seconds"),
    ),
    ("max_upload_size", Some("104857600"), Nothing(FIXED)),
    ("measured_boot_policy_name", Some("accept-all"), Mapped),
    (
        "measured_boot_imports",
        Some("[]"),
        Weaker("policies in Python are not loaded"),
    ),
    ("measured_boot_evaluate", Some("once"), Mapped),
    ("severity_labels", Some(DEFAULT_LABELS), Mapped),
    ("severity_policy", Some(DEFAULT_SEVERITY), Mapped),
    ("ignore_tomtou_errors", Some("False"), Mapped),
    ("require_allow_list_signatures", Some("False"), Mapped),
    ("mode", Some("pull"), Mapped),
    ("challenge_lifetime", Some("1800"), Mapped),
    (
        "verification_timeout",
        Some("0"),
        Nothing("evidence is judged as it comes"),
    ),
    (
        "session_create_rate_limit_per_ip",
        Some("50"),
        Nothing(FIXED),
    ),
    (
        "session_create_rate_limit_window_ip",
        Some("60"),
        Nothing(FIXED),
    ),
    (
        "session_create_rate_limit_per_agent",
        Some("15"),
        Nothing(FIXED),
    ),
    (
        "session_create_rate_limit_window_agent",
        Some("60"),
        Nothing(FIXED),
    ),
    ("session_lifetime", Some("180"), Mapped),
    (
        "extend_token_on_attestation",
        Some("True"),
        Nothing("an attestation that passes extends it always"),
    ),
    ("auto_recover_attestation_failures", Some("False"), Mapped),
    ("shutdown_drain_timeout", Some("10"), Mapped),
    ("nonce_lifetime", Some("60"), Nothing(FIXED)),
    ("durable_attestation_import", Some(""), Nothing(LATER)),
    ("persistent_store_url", Some(""), Nothing(LATER)),
    ("transparency_log_url", Some(""), Nothing(LATER)),
    ("time_stamp_authority_url", Some(""), Nothing(LATER)),
    ("time_stamp_authority_certs_path", Some(""), Nothing(LATER)),
    ("persistent_store_format", Some("json"), Nothing(LATER)),
    ("persistent_store_encoding", Some(""), Nothing(LATER)),
    ("transparency_log_sign_algo", Some("sha256"), Nothing(LATER)),
    ("signed_attributes", Some(""), Nothing(LATER)),
];

const DEFAULT_LABELS: &str =
    r#"["info", "notice", "warning", "error", "critical", "alert", "emergency"]"#;
const DEFAULT_SEVERITY: &str = r#"[{"event_id": ".*", "severity_label": "emergency"}]"#;

const REVOCATIONS: &[Option4] = &[
    (
        "enabled_revocation_notifications",
        Some("['agent']"),
        Mapped,
    ),
    ("zmq_ip", Some("127.0.0.1"), Mapped),
    ("zmq_port", Some("8992"), Mapped),
    ("webhook_url", Some(""), Mapped),
];

const REGISTRAR: &[Option4] = &[
    ("version", None, Mapped),
    ("ip", Some("127.0.0.1"), Mapped),
    ("port", Some("8890"), Mapped),
    ("tls_port", Some("8891"), Mapped),
    ("tls_dir", Some("default"), Mapped),
    ("server_key", Some("default"), Elsewhere(TLS)),
    ("server_cert", Some("default"), Elsewhere(TLS)),
    ("server_key_password", Some(""), Secret(PASSWORD)),
    (
        "trusted_client_ca",
        Some("default"),
        Elsewhere("the CA in cv_ca alone vouches for tenants"),
    ),
    ("cert_subject_alternative_names", Some(""), Mapped),
    ("database_url", Some("sqlite"), Mapped),
    ("database_pool_sz_ovfl", Some("5,10"), Nothing(DATABASE)),
    ("auto_migrate_db", Some("True"), Nothing(DATABASE)),
    (
        "malformed_cert_action",
        Some("warn"),
        Nothing("certificates that are not strict DER are refused"),
    ),
    ("tpm_identity", Some("default"), Mapped),
    (
        "authorization_provider",
        Some("simple"),
        Weaker("routes have fixed permissions, those of `simple`"),
    ),
    (
        "max_workers",
        Some("16"),
        Nothing("runtime.workers counts threads, and 0 fits the machine"),
    ),
    ("durable_attestation_import", Some(""), Nothing(LATER)),
    ("persistent_store_url", Some(""), Nothing(LATER)),
    ("transparency_log_url", Some(""), Nothing(LATER)),
    ("time_stamp_authority_url", Some(""), Nothing(LATER)),
    ("time_stamp_authority_certs_path", Some(""), Nothing(LATER)),
    ("persistent_store_format", Some("json"), Nothing(LATER)),
    ("persistent_store_encoding", Some(""), Nothing(LATER)),
    ("transparency_log_sign_algo", Some("sha256"), Nothing(LATER)),
    (
        "signed_attributes",
        Some("ek_tpm,aik_tpm,ekcert"),
        Nothing(LATER),
    ),
];

const OF_TENANT: &[Option4] = &[
    ("version", None, Mapped),
    (
        "tpm_cert_store",
        Some("/var/lib/keylime/tpm_cert_store"),
        Mapped,
    ),
    ("require_ek_cert", Some("True"), Mapped),
    (
        "ek_check_script",
        Some(""),
        Weaker("no script is run here: tenants that have one run it still"),
    ),
    ("client_key_password", Some(""), Secret(TENANT)),
];

const OF_CA: &[Option4] = &[
    ("version", None, Mapped),
    ("password", Some("default"), Secret(CA)),
];

const LOGGING: &[Option4] = &[("version", None, Mapped)];

/// The sections whose options are known one by one.
const SECTIONS: [(&str, &str, &[Option4]); 6] = [
    ("verifier", "verifier", VERIFIER),
    ("verifier", "revocations", REVOCATIONS),
    ("registrar", "registrar", REGISTRAR),
    ("tenant", "tenant", OF_TENANT),
    ("ca", "ca", OF_CA),
    ("logging", "logging", LOGGING),
];

/// An option, if Keylime knows it.
pub(super) fn known(component: &str, section: &str, option: &str) -> Option<Known> {
    let found = SECTIONS
        .iter()
        .find(|(known, of, _)| *known == component && *of == section)?;
    let (_, _, options) = found;
    let entry = options.iter().find(|(name, ..)| *name == option);
    let of = |default, kind| Some(Known { default, kind });
    match (entry, component) {
        (Some((_, default, kind)), _) => of(*default, *kind),
        // Of these, ratd reads what the servers read.
        (None, "tenant") => of(None, Elsewhere(TENANT)),
        (None, "ca") => of(None, Nothing(CA)),
        _ => None,
    }
}

/// Sections of `logging.conf` are named by whoever writes it.
pub(super) fn of_logging(section: &str, option: &str) -> Kind {
    match (section, option) {
        ("logger_root" | "logger_keylime", "level") => Mapped,
        _ => Nothing(LOGS),
    }
}
