//! Everything that a verification reads before it judges.
//!
//! Key and policies are the operator's: one that cannot be read leaves nothing to judge against,
//! and is an [`InputError`]. Evidence is somebody else's: what is malformed in it is a verdict.

use std::path::Path;
use std::sync::Arc;

use rat_engine::crypto::{KeyError, VerifyingKey};
use rat_engine::pcr::PcrValues;
use rat_engine::pcr_policy::PcrPolicy;
use rat_engine::policy::RuntimePolicy;
use rat_engine::tpm::attributes::{KeyAttributeError, check_attestation_key};
use rat_engine::uefi::policy::MeasuredBootPolicy;
use rat_engine::verdict::Code;

use crate::arguments::VerifyArguments;
use crate::evidence::{AttestationKey, PcrFile};
use crate::input::{self, Input, InputError};
use crate::policies;

/// The files of one verification; the measurement list is only opened.
pub(super) struct Files<'o> {
    pub(super) ak: Ak,
    pub(super) quote: Vec<u8>,
    pub(super) signature: Vec<u8>,
    /// The values, or what is wrong with the file.
    pub(super) pcrs: Result<PcrValues, String>,
    pub(super) boot_log: Option<Vec<u8>>,
    pub(super) ima_log: Option<Input<'o>>,
    pub(super) policy: Option<Arc<RuntimePolicy>>,
    pub(super) pcr_policy: Option<Arc<PcrPolicy>>,
    pub(super) boot_policy: Option<Arc<MeasuredBootPolicy>>,
}

/// The attestation key.
pub(super) struct Ak {
    /// The form of its file.
    pub(super) form: &'static str,
    /// The key, or why it is of a kind that is not accepted.
    pub(super) key: Result<VerifyingKey, KeyError>,
    /// What its attributes say, if the file has them.
    pub(super) attributes: Option<Result<(), KeyAttributeError>>,
}

impl<'o> Files<'o> {
    /// Reads what the options name.
    pub(super) fn read(options: &'o VerifyArguments) -> Result<Self, InputError> {
        let policy = options.policy.as_deref();
        let policy_key = options
            .policy_key
            .as_deref()
            .map(|key| ("--policy-key", key));
        let pcr_policy = options.tpm_policy.as_deref();
        let boot_log = options.boot_log.as_deref();
        let ima_log = options.ima_log.as_deref();
        let pcrs = input::read("--pcrs", &options.pcrs, "PCR_BLOB_BYTES_MAX")?;
        Ok(Self {
            ak: read_ak(&options.ak, options.allow_sha1)?,
            quote: input::read("--quote", &options.quote, "ATTEST_BYTES_MAX")?,
            signature: input::read("--signature", &options.signature, "SIGNATURE_BYTES_MAX")?,
            pcrs: PcrFile::parse(&pcrs).map(|file| file.values),
            boot_log: boot_log
                .map(|path| input::read("--boot-log", path, "UEFI_LOG_BYTES_MAX"))
                .transpose()?,
            ima_log: ima_log
                .map(|path| Input::open("--ima-log", path))
                .transpose()?,
            policy: policy
                .map(|path| policies::read("--policy", path, policy_key))
                .transpose()?
                .map(Arc::new),
            pcr_policy: pcr_policy.map(read_pcr_policy).transpose()?.map(Arc::new),
            boot_policy: read_boot_policy(options)?,
        })
    }
}

/// The measured boot policy. An empty reference state asks for nothing, and somebody who names one
/// wants something.
fn read_boot_policy(
    options: &VerifyArguments,
) -> Result<Option<Arc<MeasuredBootPolicy>>, InputError> {
    const OPTION: &str = "--mb-policy";
    let Some(path) = &options.mb_policy else {
        return Ok(None);
    };
    match policies::read_boot(OPTION, path, options.mb_policy_name)? {
        Some(policy) => Ok(Some(Arc::new(policy))),
        None => {
            let reason = "the reference state is empty: nothing would be judged";
            Err(InputError::new(OPTION, path, &reason).with_code(Code::PolicyMissing))
        }
    }
}

fn read_ak(path: &Path, allow_sha1: bool) -> Result<Ak, InputError> {
    let bytes = input::read("--ak", path, "KEY_FILE_BYTES_MAX")?;
    let ak = AttestationKey::parse(&bytes)
        .map_err(|error| InputError::new("--ak", path, &error).with_code(Code::AkMalformed))?;
    Ok(Ak {
        form: ak.form,
        attributes: ak
            .public
            .map(|public| check_attestation_key(&public, allow_sha1)),
        key: ak.key,
    })
}

/// Reads `JSON`, or the file of `@FILE`.
fn read_pcr_policy(text: &str) -> Result<PcrPolicy, InputError> {
    let (path, json) = match text.strip_prefix('@') {
        Some(file) => {
            let path = Path::new(file);
            (
                path,
                input::read("--tpm-policy", path, "TPM_POLICY_BYTES_MAX")?,
            )
        }
        None => (Path::new("(text)"), text.as_bytes().to_vec()),
    };
    PcrPolicy::parse(&json).map_err(|error| {
        InputError::new("--tpm-policy", path, &error).with_code(Code::PolicyMalformed)
    })
}
