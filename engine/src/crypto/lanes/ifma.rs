//! AVX-512 IFMA: products of 52-bit digits, eight at a time, and halves of 32 bits for hashes.
//!
//! The only unsafe code of the workspace. It is unsafe for one reason: an instruction that the
//! processor does not have must not be reached. No pointer is read or written.
#![allow(unsafe_code, reason = "vector instructions; see the module's text")]
// The operations have to be compiled into the function that enables the instructions.
#![allow(clippy::inline_always, reason = "see above")]

use std::arch::is_x86_feature_detected;
use std::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_add_epi64, _mm512_and_si512, _mm512_madd52hi_epu64,
    _mm512_madd52lo_epu64, _mm512_rol_epi32, _mm512_set1_epi32, _mm512_set1_epi64,
    _mm512_slli_epi64, _mm512_srai_epi64, _mm512_srli_epi32, _mm512_srli_epi64, _mm512_sub_epi64,
    _mm512_ternarylogic_epi64, _mm512_xor_si512,
};
use std::mem::transmute;

use super::{Halves, Job, Lanes, Numbers};

/// The processor has AVX-512 F and IFMA, and the operating system keeps their registers.
///
/// # Security
/// [`Ifma::detect`] is the only way to a value; every unsafe block below stands on that.
#[derive(Clone, Copy)]
pub(super) struct Ifma(());

impl Ifma {
    pub(super) fn detect() -> Option<Self> {
        let has_both =
            is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512ifma");
        has_both.then_some(Self(()))
    }

    pub(super) fn run<J: Job>(self, job: J) -> J::Output {
        // SAFETY: `self` exists, so the processor has what the function enables.
        unsafe { enabled(self, job) }
    }
}

/// Compiles a job, and with it all that is inlined into it, for the vector unit.
#[target_feature(enable = "avx512f,avx512ifma")]
fn enabled<J: Job>(unit: Ifma, job: J) -> J::Output {
    job.run(unit)
}

impl Lanes for Ifma {
    type Vector = __m512i;

    #[inline(always)]
    fn load(self, numbers: &Numbers) -> __m512i {
        // SAFETY: both types are 64 bytes, and every pattern of bits is a value of both.
        unsafe { transmute::<Numbers, __m512i>(*numbers) }
    }

    #[inline(always)]
    fn store(self, vector: __m512i) -> Numbers {
        // SAFETY: as in `load`.
        unsafe { transmute::<__m512i, Numbers>(vector) }
    }

    #[inline(always)]
    fn splat(self, number: u64) -> __m512i {
        // SAFETY: AVX-512 F is there, because `self` exists.
        unsafe { _mm512_set1_epi64(number.cast_signed()) }
    }

    #[inline(always)]
    fn add(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: AVX-512 F is there, because `self` exists.
        unsafe { _mm512_add_epi64(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: AVX-512 F is there, because `self` exists.
        unsafe { _mm512_sub_epi64(a, b) }
    }

    #[inline(always)]
    fn and(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: AVX-512 F is there, because `self` exists.
        unsafe { _mm512_and_si512(a, b) }
    }

    #[inline(always)]
    fn add_low(self, sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: AVX-512 IFMA is there, because `self` exists.
        unsafe { _mm512_madd52lo_epu64(sum, a, b) }
    }

    #[inline(always)]
    fn add_high(self, sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: AVX-512 IFMA is there, because `self` exists.
        unsafe { _mm512_madd52hi_epu64(sum, a, b) }
    }

    #[inline(always)]
    fn carry(self, a: __m512i) -> __m512i {
        // SAFETY: AVX-512 F is there, because `self` exists.
        unsafe { _mm512_srli_epi64::<52>(a) }
    }

    #[inline(always)]
    fn signed_carry(self, a: __m512i) -> __m512i {
        // SAFETY: AVX-512 F is there, because `self` exists.
        unsafe { _mm512_srai_epi64::<52>(a) }
    }

    #[inline(always)]
    fn shift_up<const BITS: u32>(self, a: __m512i) -> __m512i {
        // SAFETY: AVX-512 F is there, because `self` exists.
        unsafe { _mm512_slli_epi64::<BITS>(a) }
    }

    #[inline(always)]
    fn signed_shift_down<const BITS: u32>(self, a: __m512i) -> __m512i {
        // SAFETY: AVX-512 F is there, because `self` exists.
        unsafe { _mm512_srai_epi64::<BITS>(a) }
    }

    #[inline(always)]
    fn select(self, mask: __m512i, yes: __m512i, no: __m512i) -> __m512i {
        // The truth table of "first ? second : third".
        const FIRST_CHOOSES: i32 = 0b1100_1010;
        // SAFETY: AVX-512 F is there, because `self` exists.
        unsafe { _mm512_ternarylogic_epi64::<FIRST_CHOOSES>(mask, yes, no) }
    }
    #[inline(always)]
    fn xor(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: AVX-512 F is there, because `self` exists.
        unsafe { _mm512_xor_si512(a, b) }
    }

    #[inline(always)]
    fn load_halves(self, halves: &Halves) -> __m512i {
        // SAFETY: as in `load`.
        unsafe { transmute::<Halves, __m512i>(*halves) }
    }

    #[inline(always)]
    fn store_halves(self, vector: __m512i) -> Halves {
        // SAFETY: as in `load`.
        unsafe { transmute::<__m512i, Halves>(vector) }
    }

    #[inline(always)]
    fn splat_halves(self, number: u32) -> __m512i {
        // SAFETY: AVX-512 F is there, because `self` exists.
        unsafe { _mm512_set1_epi32(number.cast_signed()) }
    }

    #[inline(always)]
    fn add_halves(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: AVX-512 F is there, because `self` exists.
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    fn rotate_halves<const BITS: i32>(self, a: __m512i) -> __m512i {
        // SAFETY: AVX-512 F is there, because `self` exists.
        unsafe { _mm512_rol_epi32::<BITS>(a) }
    }

    #[inline(always)]
    fn shift_halves_down<const BITS: u32>(self, a: __m512i) -> __m512i {
        // SAFETY: AVX-512 F is there, because `self` exists.
        unsafe { _mm512_srli_epi32::<BITS>(a) }
    }
}
