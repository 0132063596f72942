//! The fingerprint of RSA moduli from the key generator of CVE-2017-15361 ("ROCA").

/// The odd primes up to 167, over which the fingerprint was published.
const PRIMES: [u64; 38] = [
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97,
    101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
];

/// Whether a modulus, big endian, was made by the weak generator of certain Infineon chips.
///
/// Its primes are `k * M + 65537^a mod M` for a product `M` of small primes, so the modulus is a
/// power of 65,537 modulo each of them. A modulus from another generator passes for one with a
/// probability of about 2^-28 (the share of such remainders, multiplied over the primes).
///
/// Source: Nemec, Sys, Svenda, Klinec, Matyas: "The Return of Coppersmith's Attack", CCS 2017, 2.
pub fn has_roca_fingerprint(modulus: &[u8]) -> bool {
    PRIMES
        .iter()
        .all(|prime| is_power_of_65537(remainder(modulus, *prime), *prime))
}

/// Bytes that are divided at once: with a remainder before them, which is below 256, they fill a word.
const STEP_BYTES: usize = 7;

fn remainder(number: &[u8], prime: u64) -> u64 {
    number.chunks(STEP_BYTES).fold(0, |rest, bytes| {
        bytes
            .iter()
            .fold(rest, |word, byte| word.wrapping_shl(8) | u64::from(*byte))
            .checked_rem(prime)
            .unwrap_or(0)
    })
}

fn is_power_of_65537(number: u64, prime: u64) -> bool {
    let mut power = 1;
    // The powers repeat after at most `prime - 1` steps.
    (1..prime).any(|_| {
        let found = power == number;
        power = u64::wrapping_mul(power, 65_537)
            .checked_rem(prime)
            .unwrap_or(0);
        found
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::bn::{BigNum, BigNumContext};
    use openssl::rsa::Rsa;

    /// A prime as the weak generator makes them: `k * M + 65537^a mod M`.
    fn weak_prime(seed: u32) -> BigNum {
        let mut context = BigNumContext::new().unwrap();
        let mut product = BigNum::from_u32(1).unwrap();
        for prime in PRIMES {
            product.mul_word(u32::try_from(prime).unwrap()).unwrap();
        }
        let generator = BigNum::from_u32(65_537).unwrap();
        let mut power = BigNum::new().unwrap();
        let exponent = BigNum::from_u32(seed).unwrap();
        power
            .mod_exp(&generator, &exponent, &product, &mut context)
            .unwrap();
        let mut k = BigNum::new().unwrap();
        k.lshift(&BigNum::from_u32(1).unwrap(), 1023 - product.num_bits())
            .unwrap();
        loop {
            k.add_word(1).unwrap();
            let mut candidate = BigNum::new().unwrap();
            candidate.checked_mul(&k, &product, &mut context).unwrap();
            let mut prime = BigNum::new().unwrap();
            prime.checked_add(&candidate, &power).unwrap();
            if prime.is_prime(20, &mut context).unwrap() {
                return prime;
            }
        }
    }

    #[test]
    fn n13_weak_moduli_are_recognised() {
        let mut context = BigNumContext::new().unwrap();
        let mut modulus = BigNum::new().unwrap();
        modulus
            .checked_mul(&weak_prime(123_456), &weak_prime(654_321), &mut context)
            .unwrap();
        assert!(has_roca_fingerprint(&modulus.to_vec()));
        modulus.add_word(2).unwrap();
        assert!(!has_roca_fingerprint(&modulus.to_vec()));
    }

    #[test]
    fn remainders_are_those_of_the_library() {
        for length in [1, 6, 7, 8, 13, 14, 256, 512] {
            let number: Vec<u8> = (0..length).map(|nth| 255 - nth as u8 % 7).collect();
            let big = BigNum::from_slice(&number).unwrap();
            for prime in PRIMES {
                let expected = big.mod_word(u32::try_from(prime).unwrap()).unwrap();
                assert_eq!(remainder(&number, prime), expected);
            }
        }
    }

    #[test]
    fn n13_moduli_of_other_generators_are_not() {
        for _ in 0..3 {
            let key = Rsa::generate(2048).unwrap();
            assert!(!has_roca_fingerprint(&key.n().to_vec()));
        }
        assert!(!has_roca_fingerprint(&[]));
        assert!(!has_roca_fingerprint(&[0xff; 256]));
    }
}
