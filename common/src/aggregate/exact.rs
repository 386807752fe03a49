//! Exact sums of floats: the result has the same bits whatever the order and grouping of the terms.
//!
//! Each element is a wide fixed-point integer ("superaccumulator", after Kulisch): 32-bit digits kept in 64-bit limbs,
//! so that a term touches three limbs and carries are settled once, at the end. Integer addition is associative, hence
//! so is this. Rounding happens once, to the nearest f64, ties to even.

use rayon::prelude::*;

/// Which terms an accumulator holds exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// f32 values times whole weights below 2^29: 88 bytes per element.
    Weighted,
    /// Any finite f64: 536 bytes per element.
    Full,
}

impl Span {
    /// Exponent of the lowest bit.
    const fn base(self) -> i32 {
        match self {
            Span::Weighted => -149,
            Span::Full => -1074,
        }
    }

    /// Number of 32-bit digits: up to 2^(128 + 29), or up to 2^1024, and room for carries.
    const fn limbs(self) -> usize {
        match self {
            Span::Weighted => 11,
            Span::Full => 67,
        }
    }
}

/// Most terms per element: a limb takes less than 2^32 from each, and has 2^63.
pub const MAX_TERMS: u64 = 1 << 30;

const DIGIT: u32 = 32;
const MASK: i64 = 0xffff_ffff;
/// Elements handled by one thread at a time.
const GRAIN: usize = 4096;

/// A vector of exact sums.
#[derive(Debug, Clone)]
pub struct ExactSum {
    span: Span,
    limbs: Vec<i64>,
    terms: u64,
}

/// A term or a number of terms that the accumulator cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SumError {
    /// NaN or infinite.
    #[error("element {0} is not finite")]
    NotFinite(usize),
    /// More than [`MAX_TERMS`].
    #[error("more than 2^30 terms")]
    TooMany,
}

impl ExactSum {
    /// `len` sums, all zero.
    pub fn new(span: Span, len: usize) -> Self {
        Self { span, limbs: vec![0; len * span.limbs()], terms: 0 }
    }

    /// Adds `values[i] * weight` to sum i. `values` are f32 where the span is `Weighted`, and `weight` is below 2^29.
    ///
    /// # Errors
    /// If a value is not finite. The sums are then unusable.
    pub fn add_weighted(&mut self, values: &[f32], weight: u32) -> Result<(), SumError> {
        assert!(weight < 1 << 29, "weights are below 2^29");
        self.add_terms(values.len(), |i| Term::of_f32(values[i]).map(|t| Term { mantissa: t.mantissa * u64::from(weight), ..t }))
    }

    /// Adds `values[i]` to sum i; the span is `Full`.
    ///
    /// # Errors
    /// As [`Self::add_weighted`].
    pub fn add(&mut self, values: &[f64]) -> Result<(), SumError> {
        assert_eq!(self.span, Span::Full, "only the full span holds every f64");
        self.add_terms(values.len(), |i| Term::of_f64(values[i]))
    }

    fn add_terms(&mut self, len: usize, term: impl Fn(usize) -> Option<Term> + Sync) -> Result<(), SumError> {
        self.terms += 1;
        if self.terms > MAX_TERMS {
            return Err(SumError::TooMany);
        }
        let (stride, base) = (self.span.limbs(), self.span.base());
        assert_eq!(len * stride, self.limbs.len(), "as many values as sums");
        self.limbs.par_chunks_mut(GRAIN * stride).enumerate().try_for_each(|(chunk, limbs)| {
            limbs.chunks_exact_mut(stride).enumerate().try_for_each(|(i, limbs)| {
                let at = chunk * GRAIN + i;
                add_one(limbs, base, term(at).ok_or(SumError::NotFinite(at))?);
                Ok(())
            })
        })
    }

    /// Adds every sum of `other`, which has the same span and length.
    pub fn merge(&mut self, other: &ExactSum) {
        assert_eq!((self.span, self.limbs.len()), (other.span, other.limbs.len()), "sums of one kind");
        self.terms += other.terms;
        self.limbs.iter_mut().zip(&other.limbs).for_each(|(a, b)| *a += b);
    }

    /// The sums, each rounded once.
    pub fn round(&self) -> Vec<f64> {
        let (stride, base) = (self.span.limbs(), self.span.base());
        self.limbs
            .par_chunks(GRAIN * stride)
            .flat_map_iter(|limbs| limbs.chunks_exact(stride).map(|limbs| round_one(limbs, base)).collect::<Vec<f64>>())
            .collect()
    }
}

/// A finite number, `mantissa * 2^exponent`.
///
/// Taken apart by its bits: the threads that train treat denormal numbers as zero, and sums must not depend on whose
/// thread they are made on.
#[derive(Clone, Copy)]
struct Term {
    negative: bool,
    mantissa: u64,
    exponent: i32,
}

impl Term {
    fn of_f64(value: f64) -> Option<Self> {
        let bits = value.to_bits();
        let (raw, fraction) = (((bits >> 52) & 0x7ff) as i32, bits & ((1 << 52) - 1));
        let (mantissa, exponent) = if raw == 0 { (fraction, -1074) } else { (fraction | 1 << 52, raw - 1075) };
        (raw != 0x7ff).then_some(Self { negative: bits >> 63 == 1, mantissa, exponent })
    }

    fn of_f32(value: f32) -> Option<Self> {
        let bits = value.to_bits();
        let (raw, fraction) = (((bits >> 23) & 0xff) as i32, u64::from(bits & ((1 << 23) - 1)));
        let (mantissa, exponent) = if raw == 0 { (fraction, -149) } else { (fraction | 1 << 23, raw - 150) };
        (raw != 0xff).then_some(Self { negative: bits >> 31 == 1, mantissa, exponent })
    }
}

fn add_one(limbs: &mut [i64], base: i32, term: Term) {
    // no exponent is below the base: the span is chosen so
    let offset = (term.exponent - base) as u32;
    let shifted = u128::from(term.mantissa) << (offset % DIGIT);
    let at = (offset / DIGIT) as usize;
    for (k, limb) in limbs[at..].iter_mut().take(3).enumerate() {
        let digit = ((shifted >> (DIGIT as usize * k)) as i64) & MASK;
        *limb += if term.negative { -digit } else { digit };
    }
}

fn round_one(limbs: &[i64], base: i32) -> f64 {
    let mut digits = limbs.to_vec();
    let mut carry = settle(&mut digits);
    let negative = carry < 0;
    if negative {
        digits.iter_mut().zip(limbs).for_each(|(d, l)| *d = -l);
        carry = settle(&mut digits);
    }
    debug_assert_eq!(carry, 0, "the top limb has room for every carry");
    let Some(top) = digits.iter().rposition(|&d| d != 0) else {
        return 0.0;
    };
    let digit = |k: i64| if k >= 0 { digits[k as usize] as u128 } else { 0 };
    let top = top as i64;
    let head = digit(top) << 64 | digit(top - 1) << 32 | digit(top - 2);
    let sticky = (0..top - 2).any(|k| digit(k) != 0);
    let exponent = base + DIGIT as i32 * (top as i32 - 2);
    let magnitude = assemble(head, exponent, sticky);
    if negative { -magnitude } else { magnitude }
}

/// Brings every limb into [0, 2^32) and returns what is carried out of the top.
fn settle(digits: &mut [i64]) -> i64 {
    digits.iter_mut().fold(0, |carry, digit| {
        let total = *digit + carry;
        *digit = total & MASK;
        total >> DIGIT
    })
}

/// `head * 2^exponent`, with a little more if `sticky`, to the nearest f64, ties to even.
fn assemble(head: u128, exponent: i32, sticky: bool) -> f64 {
    let bits = 128 - head.leading_zeros() as i32;
    // a subnormal result keeps fewer than 53 bits
    let drop = (bits - 53).max(-1074 - exponent);
    let (mut mantissa, rest, half) = if drop <= 0 {
        ((head << -drop) as u64, 0, 1)
    } else {
        ((head >> drop) as u64, head & ((1 << drop) - 1), 1u128 << (drop - 1))
    };
    if rest > half || (rest == half && (sticky || mantissa & 1 == 1)) {
        mantissa += 1;
    }
    let exponent = exponent + drop;
    if mantissa < 1 << 52 {
        return f64::from_bits(mantissa);
    }
    let biased = (exponent + 1075) as u64;
    if biased >= 2047 {
        return f64::INFINITY;
    }
    // a mantissa that was rounded up to 2^53 carries into the exponent, as it should
    f64::from_bits((biased << 52) + (mantissa - (1 << 52)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn finite() -> impl proptest::strategy::Strategy<Value = f64> {
        any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |v| v.is_finite())
    }

    fn total(values: &[f64]) -> f64 {
        let mut sum = ExactSum::new(Span::Full, 1);
        values.iter().for_each(|v| sum.add(&[*v]).unwrap());
        sum.round()[0]
    }

    proptest! {
        #[test]
        fn one_term_comes_back(value in finite()) {
            prop_assert_eq!(total(&[value]), value);
        }

        // Two terms: IEEE addition is correctly rounded, so it must agree.
        #[test]
        fn two_terms_are_rounded_correctly(a in finite(), b in finite()) {
            prop_assert_eq!(total(&[a, b]).to_bits(), (a + b + 0.0).to_bits());
        }

        #[test]
        fn near_terms_are_rounded_correctly(a in -1e3f64..1e3, b in -1e-13f64..1e-13) {
            prop_assert_eq!(total(&[a, b]), a + b);
        }

        #[test]
        fn order_and_grouping_do_not_matter(values in prop::collection::vec(finite(), 1..20), cut in any::<prop::sample::Index>(), seed in any::<u64>()) {
            let reference = total(&values);
            let mut shuffled = values.clone();
            crate::rng::stream(seed, "test", "", 0).shuffle(&mut shuffled);
            prop_assert_eq!(total(&shuffled).to_bits(), reference.to_bits());
            let (left, right) = values.split_at(cut.index(values.len()));
            let [mut a, mut b] = [ExactSum::new(Span::Full, 1), ExactSum::new(Span::Full, 1)];
            left.iter().for_each(|v| a.add(&[*v]).unwrap());
            right.iter().for_each(|v| b.add(&[*v]).unwrap());
            b.merge(&a);
            prop_assert_eq!(b.round()[0].to_bits(), reference.to_bits());
        }

        #[test]
        fn a_weighted_term_divides_back_to_itself(value in any::<u32>().prop_map(f32::from_bits), weight in 1u32..1 << 29) {
            prop_assume!(value.is_finite());
            let mut sum = ExactSum::new(Span::Weighted, 1);
            sum.add_weighted(&[value], weight).unwrap();
            prop_assert_eq!((sum.round()[0] / f64::from(weight)) as f32, value);
        }
    }

    #[test]
    fn opposite_terms_cancel_and_small_ones_survive() {
        assert_eq!(total(&[1e300, 1.0, -1e300, f64::from_bits(1)]), 1.0);
        assert_eq!(total(&[1e300, -1e300, f64::from_bits(1)]), f64::from_bits(1));
        assert_eq!(total(&[f64::MAX, f64::MAX]), f64::INFINITY);
        let mut sum = ExactSum::new(Span::Weighted, 2);
        assert_eq!(sum.add_weighted(&[1.0, f32::NAN], 3), Err(SumError::NotFinite(1)));
    }

    #[test]
    fn many_terms_of_one_sign_carry() {
        let mut sum = ExactSum::new(Span::Weighted, 1);
        for _ in 0..8192 {
            sum.add_weighted(&[-f32::MAX], (1 << 29) - 1).unwrap();
        }
        assert_eq!(sum.round()[0] / 8192.0, -f64::from(f32::MAX) * f64::from((1u32 << 29) - 1));
    }
}
