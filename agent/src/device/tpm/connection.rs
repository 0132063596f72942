//! One conversation with a TPM: opened for an operation, closed after it.
//!
//! Nothing is kept open between operations, so a reset of the TPM, or a resource manager that was
//! restarted, costs one operation at most. Closing flushes every object and session that the
//! operation loaded, on all paths: [`Context`] keeps account of them.

use std::str::FromStr;
use std::time::Duration;

use tss_esapi::constants::response_code::Tss2ResponseCodeKind;
use tss_esapi::constants::{CapabilityType, SessionType};
use tss_esapi::handles::{AuthHandle, ObjectHandle, PersistentTpmHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{Auth, CapabilityData, SymmetricDefinition};
use tss_esapi::tcti_ldr::TctiNameConf;
use tss_esapi::{Context, Error as TssError};

use super::{Authorizations, Tcti, TpmError};

/// Tries of one command that the TPM puts off. The waits between them add up to five seconds,
/// which is more than the self-test of a discrete TPM takes.
pub(super) const COMMAND_TRIES: u32 = 15;
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_millis(640);

/// An open connection.
pub(super) struct Connection {
    context: Context,
}

impl Connection {
    pub(super) fn open(tcti: &Tcti, authorizations: &Authorizations) -> Result<Self, TpmError> {
        let failed = |source| TpmError::Tcti {
            tcti: tcti.clone(),
            source,
        };
        let name = TctiNameConf::from_str(tcti.as_str()).map_err(failed)?;
        let mut context = Context::new(name).map_err(failed)?;
        for (handle, value) in [
            (ObjectHandle::Endorsement, &authorizations.endorsement),
            (ObjectHandle::Owner, &authorizations.owner),
        ] {
            if !value.is_empty() {
                let auth = Auth::try_from(value.as_slice());
                auth.and_then(|auth| context.tr_set_auth(handle, auth))
                    .map_err(|source| TpmError::Command {
                        command: "an authorization value",
                        source,
                    })?;
            }
        }
        Ok(Self { context })
    }

    /// Runs one command, again when the TPM asks for patience.
    pub(super) fn run<T>(
        &mut self,
        command: &'static str,
        mut execute: impl FnMut(&mut Context) -> Result<T, TssError>,
    ) -> Result<T, TpmError> {
        patiently(command, std::thread::sleep, || execute(&mut self.context))
    }

    /// Runs one command authorized by the empty password, or by the hierarchy's.
    pub(super) fn run_with_password<T>(
        &mut self,
        command: &'static str,
        mut execute: impl FnMut(&mut Context) -> Result<T, TssError>,
    ) -> Result<T, TpmError> {
        self.run(command, |context| {
            context.execute_with_session(Some(AuthSession::Password), &mut execute)
        })
    }

    /// A policy session that satisfies `PolicyA` of the EK templates: the endorsement hierarchy's
    /// authorization.
    // TCG EK Credential Profile 2.5, B.6.2
    pub(super) fn endorsement_policy(&mut self) -> Result<AuthSession, TpmError> {
        let session = self
            .run("TPM2_StartAuthSession", |context| {
                context.start_auth_session(
                    None,
                    None,
                    None,
                    SessionType::Policy,
                    SymmetricDefinition::AES_128_CFB,
                    HashingAlgorithm::Sha256,
                )
            })?
            .ok_or(TpmError::Unexpected("TPM2_StartAuthSession"))?;
        let policy = PolicySession::try_from(session).map_err(|source| TpmError::Command {
            command: "TPM2_StartAuthSession",
            source,
        })?;
        self.run_with_password("TPM2_PolicySecret", |context| {
            context.policy_secret(
                policy,
                AuthHandle::Endorsement,
                Default::default(),
                Default::default(),
                Default::default(),
                None,
            )
        })?;
        Ok(session)
    }

    /// Whether an object or index has this handle; asked without provoking an error.
    pub(super) fn is_defined(&mut self, handle: TpmHandle) -> Result<bool, TpmError> {
        let number = u32::from(handle);
        let (capability, _) = self.run("TPM2_GetCapability", |context| {
            context.get_capability(CapabilityType::Handles, number, 1)
        })?;
        match capability {
            CapabilityData::Handles(handles) => {
                Ok(handles.iter().any(|found| u32::from(*found) == number))
            }
            _ => Err(TpmError::Unexpected("TPM2_GetCapability")),
        }
    }

    /// The object at a persistent handle.
    pub(super) fn persistent(
        &mut self,
        handle: PersistentTpmHandle,
    ) -> Result<ObjectHandle, TpmError> {
        self.run("TPM2_ReadPublic", |context| {
            context.tr_from_tpm_public(TpmHandle::Persistent(handle))
        })
    }
}

/// Executes until the TPM has done it, or has asked for patience too often.
fn patiently<T>(
    command: &'static str,
    mut pause: impl FnMut(Duration),
    mut execute: impl FnMut() -> Result<T, TssError>,
) -> Result<T, TpmError> {
    let mut wait = FIRST_WAIT;
    for nth in 0..COMMAND_TRIES {
        if nth > 0 {
            pause(wait);
            wait = wait.saturating_mul(2).min(LONGEST_WAIT);
        }
        match execute() {
            Ok(value) => return Ok(value),
            Err(error) if asks_for_patience(&error) => {}
            Err(source) => return Err(TpmError::Command { command, source }),
        }
    }
    Err(TpmError::Busy { command })
}

// TPM 2.0 Part 2, 6.6.3 "TPM_RC Values": warnings after which the same command may be sent again.
fn asks_for_patience(error: &TssError) -> bool {
    let TssError::Tss2Error(code) = error else {
        return false;
    };
    matches!(
        code.kind(),
        Some(
            Tss2ResponseCodeKind::Retry
                | Tss2ResponseCodeKind::Yielded
                | Tss2ResponseCodeKind::Testing
                | Tss2ResponseCodeKind::NvRate
        )
    )
}

#[cfg(test)]
mod tests {
    use tss_esapi::constants::response_code::Tss2ResponseCode;

    use super::*;

    /// What comes of a command that a TPM answers with these codes, one after the other, and then
    /// does; with how often it was sent, and the pauses between.
    fn answered(codes: &[u32]) -> (Result<&'static str, TpmError>, usize, Vec<Duration>) {
        let mut codes = codes.iter();
        let (mut sent, mut pauses) = (0, Vec::new());
        let done = patiently(
            "TPM2_Test",
            |wait| pauses.push(wait),
            || {
                sent += 1;
                match codes.next() {
                    Some(code) => Err(TssError::Tss2Error(Tss2ResponseCode::from(*code))),
                    None => Ok("done"),
                }
            },
        );
        (done, sent, pauses)
    }

    // TPM 2.0 Part 2, 6.6.3: TPM_RC_RETRY, _YIELDED, _TESTING, _NV_RATE.
    const PUT_OFF: [u32; 4] = [0x922, 0x908, 0x90a, 0x920];

    #[test]
    fn a_command_that_the_tpm_puts_off_is_sent_again_after_a_pause() {
        for code in PUT_OFF {
            let (done, sent, pauses) = answered(&[code]);
            assert!(matches!(done, Ok("done")), "{code:#x}: {done:?}");
            assert_eq!((sent, &pauses[..]), (2, &[FIRST_WAIT][..]), "{code:#x}");
        }
        let (done, sent, _) = answered(&PUT_OFF);
        assert!(done.is_ok() && sent == 5);
    }

    #[test]
    fn a_command_that_fails_is_not_sent_again() {
        // TPM_RC_VALUE, TPM_RC_FAILURE, TPM_RC_LOCKOUT, and TPM_RC_BAD_AUTH of the first session.
        for code in [0x084, 0x101, 0x921, 0x9a2] {
            let (done, sent, pauses) = answered(&[code]);
            let error = done.expect_err("a command that failed");
            assert!(
                matches!(error, TpmError::Command { .. }),
                "{code:#x}: {error}"
            );
            assert_eq!((sent, pauses.len()), (1, 0), "{code:#x}");
        }
        // Nor is one that fails after it was put off.
        let (done, sent, _) = answered(&[0x922, 0x101]);
        assert!(matches!(done, Err(TpmError::Command { .. })) && sent == 2);
    }

    #[test]
    fn a_tpm_that_never_gets_to_it_is_busy() {
        let (done, sent, pauses) = answered(&[0x922; 100]);
        assert!(matches!(
            done,
            Err(TpmError::Busy {
                command: "TPM2_Test"
            })
        ));
        assert_eq!((sent, pauses.len()), (COMMAND_TRIES as usize, sent - 1));
        let in_all: Duration = pauses.iter().sum();
        assert!(in_all >= Duration::from_secs(5), "{in_all:?}");
        assert!(pauses.iter().all(|pause| *pause <= LONGEST_WAIT));
    }
}
