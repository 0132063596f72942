//! One signature in a lane: what the vector unit takes, and how it is asked.

use crate::crypto::batch::BatchItem;
use crate::crypto::digest;
use crate::crypto::ecdsa;
use crate::crypto::key::{Curve, KeyMaterial};
use crate::crypto::lanes::{Answer, LANES};
use crate::crypto::p256_mb;
use crate::crypto::rsa_mb::{self, Operand, Recover, Size, encoding, known};
use crate::crypto::signature::Fitting;
use crate::hash::{Digest, HashAlg};
use crate::tpm::Signature;

/// What is verified together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Rsa(Size),
    P256,
}

impl Kind {
    /// Every kind.
    pub(super) const ALL: [Self; 4] = [
        Self::Rsa(Size::Bits2048),
        Self::Rsa(Size::Bits3072),
        Self::Rsa(Size::Bits4096),
        Self::P256,
    ];
}

/// A signature that fits its key in type, length and range, and that the vector unit can verify.
#[derive(Clone, Copy)]
pub(super) struct Lane<'a> {
    /// Where its verdict belongs.
    pub(super) index: usize,
    pub(super) item: &'a BatchItem<'a>,
    pub(super) digest: Digest,
    work: Work<'a>,
}

#[derive(Clone, Copy)]
enum Work<'a> {
    Rsa {
        size: Size,
        operand: Operand<'a>,
        is_pss: bool,
    },
    P256 {
        point: [&'a [u8; 32]; 2],
        /// Without leading zeros.
        numbers: [&'a [u8]; 2],
    },
}

/// The lanes in use come first.
pub(super) type Lanes<'a> = [Option<Lane<'a>>; LANES];

/// What is right of the known signatures in the lanes that are to spare.
pub(super) const KNOWN_ANSWERS: [Answer; LANES] = [
    Answer::Invalid,
    Answer::Valid,
    Answer::Invalid,
    Answer::Valid,
    Answer::Invalid,
    Answer::Valid,
    Answer::Invalid,
    Answer::Valid,
];

/// The known signatures in the order of [`KNOWN_ANSWERS`].
fn known<T: Copy>(valid: T, changed: T) -> [T; LANES] {
    KNOWN_ANSWERS.map(|answer| match answer {
        Answer::Valid => valid,
        Answer::Invalid | Answer::Undecided => changed,
    })
}

impl<'a> Lane<'a> {
    /// The item in a lane; `None` for what has to be left to libraries, good or bad.
    pub(super) fn new(index: usize, item: &'a BatchItem<'a>) -> Option<Self> {
        let work = match item.key.material() {
            KeyMaterial::Rsa { modulus, .. } => rsa(item, modulus)?,
            KeyMaterial::Ecc {
                curve: Curve::P256,
                x,
                y,
            } => p256(item, x, y)?,
            KeyMaterial::Ecc { .. } => return None,
        };
        Some(Self {
            index,
            item,
            digest: digest(item.signature.hash(), item.message),
            work,
        })
    }

    pub(super) fn kind(&self) -> Kind {
        match self.work {
            Work::Rsa { size, .. } => Kind::Rsa(size),
            Work::P256 { .. } => Kind::P256,
        }
    }
}

fn rsa<'a>(item: &'a BatchItem<'a>, modulus: &'a [u8]) -> Option<Work<'a>> {
    let size = Size::of(item.key.material())?;
    let fitting = Fitting::new(item.key.material(), &item.signature, item.allow_sha1).ok()?;
    let (signature, is_pss) = match fitting {
        Fitting::RsaSsa { sig, .. } => (sig, false),
        Fitting::RsaPss { sig, .. } => (sig, true),
        Fitting::Ecdsa { .. } => return None,
    };
    let operand = Operand {
        modulus,
        reciprocal: item.key.reciprocal(size)?,
        signature,
    };
    Some(Work::Rsa {
        size,
        operand,
        is_pss,
    })
}

fn p256<'a>(item: &'a BatchItem<'a>, x: &'a [u8], y: &'a [u8]) -> Option<Work<'a>> {
    let Signature::Ecdsa { hash, r, s } = item.signature else {
        return None;
    };
    // Q09
    if hash == HashAlg::Sha1 && !item.allow_sha1 {
        return None;
    }
    Some(Work::P256 {
        point: [x.try_into().ok()?, y.try_into().ok()?],
        numbers: ecdsa::numbers(Curve::P256, r, s).ok()?,
    })
}

/// Computes in lanes, if it can.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backend {
    pub(crate) recover: Recover,
    pub(crate) verify_p256: p256_mb::Verifier,
}

impl Backend {
    /// The processor's vector unit.
    pub(crate) const VECTOR_UNIT: Self = Self {
        recover: rsa_mb::recover,
        verify_p256: p256_mb::verify,
    };
    /// The same computation in plain Rust.
    pub(crate) const MODEL: Self = Self {
        recover: rsa_mb::recover_in_model,
        verify_p256: p256_mb::verify_in_model,
    };
}

/// What the unit says of each lane, known signatures in the last ones; `None` when there is none.
pub(super) fn in_lanes(
    backend: &Backend,
    kind: Kind,
    lanes: &Lanes<'_>,
) -> Option<[Answer; LANES]> {
    match kind {
        Kind::Rsa(size) => rsa_in_lanes(backend.recover, size, lanes),
        Kind::P256 => p256_in_lanes(backend.verify_p256, lanes),
    }
}

fn p256_in_lanes(verify: p256_mb::Verifier, lanes: &Lanes<'_>) -> Option<[Answer; LANES]> {
    let mut operands = known(p256_mb::KNOWN_VALID, p256_mb::KNOWN_CHANGED);
    for (slot, lane) in operands.iter_mut().zip(lanes.iter().flatten()) {
        if let Work::P256 { point, numbers } = lane.work {
            let ([x, y], [r, s]) = (point, numbers);
            *slot = p256_mb::Operand {
                x: *x,
                y: *y,
                digest: p256_mb::leftmost_bits(lane.digest.as_bytes()),
                r: p256_mb::left_padded(r),
                s: p256_mb::left_padded(s),
            };
        }
    }
    verify(&operands)
}

fn rsa_in_lanes(recover: Recover, size: Size, lanes: &Lanes<'_>) -> Option<[Answer; LANES]> {
    let [valid, changed] = known::answers(size)?;
    let known = known(valid, changed);
    let mut operands = known.map(known::Known::operand);
    let mut expected = known.map(|known| (known.digest, false));
    let slots = operands.iter_mut().zip(&mut expected);
    for ((slot, expected), lane) in slots.zip(lanes.iter().flatten()) {
        if let Work::Rsa {
            operand, is_pss, ..
        } = lane.work
        {
            *slot = operand;
            *expected = (lane.digest, is_pss);
        }
    }
    let mut recovered = [[0; 512]; LANES];
    recover(size, &operands, &mut recovered)?;
    let mut answers = [Answer::Invalid; LANES];
    let slots = answers.iter_mut().zip(&recovered).zip(&expected);
    for ((answer, recovered), (digest, is_pss)) in slots {
        let encoded = recovered.get(..size.bytes())?;
        let holds = if *is_pss {
            encoding::is_pss(encoded, digest)
        } else {
            encoding::is_pkcs1(encoded, digest)
        };
        if holds {
            *answer = Answer::Valid;
        }
    }
    Some(answers)
}
