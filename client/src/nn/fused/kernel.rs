//! Parts of kernels: wide registers where the processor has them, the exponential, sums in a fixed order.

/// Defines a function of slices and numbers whose loops use AVX2 where the processor has it.
///
/// The body is the same code either way, compiled twice; without fused multiply-add both give the same bits.
macro_rules! vectorised {
    ($(#[$note:meta])* $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block) => {
        $(#[$note])*
        #[allow(clippy::too_many_arguments)] // Slices of one call; a struct of them would be one for each kernel.
        pub(super) fn $name($($argument: $type),*) {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body($($argument: $type),*) $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                #[allow(clippy::too_many_arguments)]
                fn wide($($argument: $type),*) {
                    body($($argument),*)
                }
                if std::is_x86_feature_detected!("avx2") {
                    #[allow(unsafe_code)] // The compiler cannot know what the processor has.
                    // SAFETY: the processor has AVX2, the only thing that a call of this safe function asks for.
                    unsafe {
                        return wide($($argument),*);
                    }
                }
            }
            body($($argument),*)
        }
    };
}
pub(super) use vectorised;

/// Sums kept side by side: one register of AVX2.
pub(super) const LANES: usize = 8;

/// `e^x` of at most e^88, to 2.5e-7 of it; 0 below -87, near where floats end; not-a-number stays so.
///
/// Cephes' polynomial on `x - n ln 2`, times `2^n` by the exponent's bits.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let most = if x > 88.0 { 88.0 } else { x };
    let shifted = most * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = most - n * LN2_HIGH - n * LN2_LOW;
    let p = 1.987_569_2e-4 * r + 1.398_2e-3;
    let p = ((p * r + 8.333_452e-3) * r + 4.166_579_6e-2) * r + 1.666_666_6e-1;
    let p = (p * r + 0.5) * r * r + r + 1.0;
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -87.0 { 0.0 } else { p * power }
}

/// Sum of `f(0)` to `f(n - 1)`, in eight sums.
#[inline(always)]
pub(super) fn sum(n: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let even = n / LANES * LANES;
    let mut at = 0;
    while at < even {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += f(at + lane);
        }
        at += LANES;
    }
    let mut total = fold(lanes, |a, b| a + b);
    while at < n {
        total += f(at);
        at += 1;
    }
    total
}

/// The largest value; not-a-number is passed over, and minus infinity of none.
#[inline(always)]
pub(super) fn largest(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut pieces = values.chunks_exact(LANES);
    for piece in &mut pieces {
        for (lane, &value) in lanes.iter_mut().zip(piece) {
            *lane = larger(*lane, value);
        }
    }
    pieces.remainder().iter().fold(fold(lanes, larger), |a, &b| larger(a, b))
}

#[inline(always)]
fn fold(l: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    f(f(f(l[0], l[4]), f(l[1], l[5])), f(f(l[2], l[6]), f(l[3], l[7])))
}

vectorised! {
    /// Adds each row of `rows` to `sums`.
    add_rows(rows: &[f32], sums: &mut [f32]) {
        for row in rows.chunks_exact(sums.len()) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_right_to_the_last_places_and_nothing_is_repaired() {
        for i in -8700..=8799 {
            let x = i as f32 / 100.0;
            let right = f64::from(x).exp();
            assert!((f64::from(exp(x)) / right - 1.0).abs() < 2.5e-7, "e^{x}");
        }
        assert_eq!([exp(0.0), exp(-1e30), exp(f32::NEG_INFINITY)], [1.0, 0.0, 0.0]);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn sums_and_the_largest_are_of_all_values() {
        for n in [0, 1, 7, 8, 9, 37] {
            let values: Vec<f32> = (0..n).map(|i| (i * 7 % 11) as f32).collect();
            assert_eq!(sum(n, |i| values[i]), values.iter().sum::<f32>(), "{n}");
            assert_eq!(largest(&values), values.iter().copied().fold(f32::NEG_INFINITY, f32::max), "{n}");
        }
    }
}
