//! Whether a message representative is what had to be signed: EMSA-PKCS1-v1_5 and EMSA-PSS.

use crate::crypto::rsa::pss_salt_lengths;
use crate::crypto::{Hasher, digest};
use crate::hash::{DIGEST_SIZE_MAX, Digest, HashAlg};

/// `DigestInfo` up to the digest, with the parameter NULL, and nothing else, as RFC 8017, 9.2 note 1
/// lists them.
const fn digest_info(hash: HashAlg) -> &'static [u8] {
    match hash {
        HashAlg::Sha1 => b"\x30\x21\x30\x09\x06\x05\x2b\x0e\x03\x02\x1a\x05\x00\x04\x14",
        HashAlg::Sha256 => {
            b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20"
        }
        HashAlg::Sha384 => {
            b"\x30\x41\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02\x05\x00\x04\x30"
        }
        HashAlg::Sha512 => {
            b"\x30\x51\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x03\x05\x00\x04\x40"
        }
    }
}

/// More padding than any modulus has room for.
const ONES: [u8; 512] = [0xff; 512];

/// Whether `encoded` is the one encoding of a digest: built anew and compared in full, nothing is
/// parsed.
// RFC 8017, 8.2.2, steps 3 and 4; 9.2
pub(crate) fn is_pkcs1(encoded: &[u8], digest: &Digest) -> bool {
    let (info, digest_bytes) = (digest_info(digest.alg()), digest.as_bytes());
    let Some((rest, found)) =
        encoded.split_at_checked(encoded.len().saturating_sub(digest_bytes.len()))
    else {
        return false;
    };
    let Some((rest, found_info)) = rest.split_at_checked(rest.len().saturating_sub(info.len()))
    else {
        return false;
    };
    // At least eight bytes of padding: the smallest modulus leaves far more.
    let [0, 1, padding @ .., 0] = rest else {
        return false;
    };
    let is_padding = padding.len() >= 8 && ONES.get(..padding.len()) == Some(padding);
    is_padding && found_info == info && found == digest_bytes
}

/// Whether `encoded` is a PSS encoding of a digest, with MGF1 of the same hash and a salt as long as
/// the hash or as long as fits (Q18).
// RFC 8017, 9.1.2, for moduli whose size is a multiple of eight: the encoding has one bit less.
pub(crate) fn is_pss(encoded: &[u8], digest: &Digest) -> bool {
    let hash = digest.alg();
    let [rest @ .., 0xbc] = encoded else {
        return false;
    };
    let Some((masked, h)) = rest.split_at_checked(rest.len().saturating_sub(hash.size())) else {
        return false;
    };
    // Room for what is larger than any modulus.
    let mut buffer = [0; 512];
    let Some(db) = buffer.get_mut(..masked.len()) else {
        return false;
    };
    let Some(first) = masked.first() else {
        return false;
    };
    if first & 0x80 != 0 {
        return false;
    }
    db.copy_from_slice(masked);
    unmask(hash, h, db);
    if let Some(first) = db.first_mut() {
        *first &= 0x7f;
    }
    pss_salt_lengths(hash, encoded).into_iter().any(|salt| {
        let Some((head, salt)) = db.split_at_checked(db.len().saturating_sub(salt)) else {
            return false;
        };
        let [zeros @ .., 1] = head else {
            return false;
        };
        let mut hasher = Hasher::new(hash);
        for part in [&[0; 8], digest.as_bytes(), salt] {
            hasher.update(part);
        }
        zeros.iter().all(|byte| *byte == 0) && hasher.finish().as_bytes() == h
    })
}

/// Takes the mask off: MGF1, RFC 8017, B.2.1.
fn unmask(hash: HashAlg, seed: &[u8], masked: &mut [u8]) {
    let mut block = [0; DIGEST_SIZE_MAX + 4];
    for (counter, piece) in (0_u32..).zip(masked.chunks_mut(hash.size())) {
        let (at, counter) = (seed.len(), counter.to_be_bytes());
        let length = at.saturating_add(counter.len());
        // Always there: the seed is a digest.
        let Some(input) = block.get_mut(..length) else {
            return;
        };
        if let Some((head, tail)) = input.split_at_mut_checked(at) {
            head.copy_from_slice(seed);
            tail.copy_from_slice(&counter);
        }
        for (byte, mask) in piece.iter_mut().zip(digest(hash, input).as_bytes()) {
            *byte ^= mask;
        }
    }
}
