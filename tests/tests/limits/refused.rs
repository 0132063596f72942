//! What it means to be refused for a length.

use rat_engine::malformed::{Fault, Malformed};

/// Panics unless the first result is not refused for a length above `max`, and the second is.
#[track_caller]
pub(crate) fn refused_above<T, E>(max: usize, at: Result<T, E>, above: Result<T, E>)
where
    E: AsMalformed + std::fmt::Debug,
{
    let is_limit = |error: &E| {
        let fault = error.as_malformed().map(|malformed| malformed.fault);
        matches!(fault, Some(Fault::Length { value, max: found, .. }) if found == max && value > max)
    };
    assert!(!at.is_err_and(|error| is_limit(&error)), "refused at {max}");
    let above = above.err().expect("refused above the limit");
    assert!(is_limit(&above), "{max}: {above:?}");
}

/// Errors that may be about malformed bytes.
pub(crate) trait AsMalformed {
    fn as_malformed(&self) -> Option<&Malformed>;
}

impl AsMalformed for Malformed {
    fn as_malformed(&self) -> Option<&Malformed> {
        Some(self)
    }
}

macro_rules! as_malformed {
    ($($error:path),*) => {
        $(impl AsMalformed for $error {
            fn as_malformed(&self) -> Option<&Malformed> {
                match self {
                    Self::Malformed(malformed) => Some(malformed),
                    _ => None,
                }
            }
        })*
    };
}
as_malformed!(
    rat_engine::tpm::AttestError,
    rat_engine::tpm::PublicError,
    rat_engine::tpm::SignatureFormatError,
    rat_engine::uefi::UefiError
);

impl AsMalformed for rat_engine::ima::DecodeError {
    fn as_malformed(&self) -> Option<&Malformed> {
        match &self.fault {
            rat_engine::ima::EntryFault::Malformed(malformed) => Some(malformed),
            _ => None,
        }
    }
}
