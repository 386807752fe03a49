//! Pictures of any size become squares of a given side.

/// A picture in memory: `channels` bytes of pixel (y, x) start at `y * row + x * column`, one every `channel`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Raster<'a> {
    pub(super) height: usize,
    pub(super) width: usize,
    /// Steps from one row, column and channel to the next; the step of a grey picture's channels is 0.
    pub(super) steps: [usize; 3],
    pub(super) bytes: &'a [u8],
}

/// For each pixel of a side of `size` the first source pixel and the weights from there on, which add up to 1.
///
/// The source is the middle `window` of `length` pixels. Shrinking is by area: a source pixel counts by the share of
/// it that the target pixel covers. Enlarging is linear between the centres of the source pixels.
fn weights(length: usize, window: usize, size: usize) -> Vec<(usize, Vec<f32>)> {
    let scale = window as f64 / size as f64;
    let start = (length - window) as f64 / 2.0;
    let area = |at: usize| {
        let (from, to) = (start + at as f64 * scale, start + (at + 1) as f64 * scale);
        let first = from.floor() as usize;
        let last = (to.ceil() as usize).clamp(first + 1, length);
        let covered = (first..last).map(|pixel| (to.min(pixel as f64 + 1.0) - from.max(pixel as f64)).max(0.0));
        (first, covered.map(|part| (part / scale) as f32).collect())
    };
    let linear = |at: usize| {
        let centre = (start + (at as f64 + 0.5) * scale - 0.5).clamp(0.0, (length - 1) as f64);
        let first = centre.floor() as usize;
        let share = (centre - first as f64) as f32;
        if first + 1 < length { (first, vec![1.0 - share, share]) } else { (first, vec![1.0]) }
    };
    (0..size).map(|at| if scale >= 1.0 { area(at) } else { linear(at) }).collect()
}

/// The largest square in the middle of a picture, as planes `[3, size, size]` of 0 to 255.
///
/// `out` has `3 * size * size` elements; the picture has pixels.
pub(super) fn square(picture: &Raster<'_>, size: usize, out: &mut [f32]) {
    let window = picture.height.min(picture.width);
    let (rows, columns) = (weights(picture.height, window, size), weights(picture.width, window, size));
    let [row_step, column_step, channel_step] = picture.steps;
    let mut line = vec![0.0f32; size];
    for (channel, plane) in out.chunks_exact_mut(size * size).enumerate() {
        plane.fill(0.0);
        for (target, (top, down)) in plane.chunks_exact_mut(size).zip(&rows) {
            for (y, weight) in down.iter().enumerate() {
                let base = (top + y) * row_step + channel * channel_step;
                for (value, (left, across)) in line.iter_mut().zip(&columns) {
                    let pixel = |x: usize| f32::from(picture.bytes[base + (left + x) * column_step]);
                    *value = across.iter().enumerate().map(|(x, weight)| weight * pixel(x)).sum();
                }
                target.iter_mut().zip(&line).for_each(|(to, from)| *to += weight * from);
            }
            // weights add up to 1 but for rounding
            target.iter_mut().for_each(|value| *value = value.min(255.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(height: usize, width: usize, bytes: &[u8], size: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; 3 * size * size];
        square(&Raster { height, width, steps: [width, 1, 0], bytes }, size, &mut out);
        assert_eq!(out[..size * size], out[2 * size * size..], "a grey picture has three equal planes");
        out.truncate(size * size);
        out
    }

    #[test]
    fn shrinking_is_by_area() {
        let ramp: Vec<u8> = (0..16).collect();
        assert_eq!(grey(4, 4, &ramp, 4), ramp.iter().map(|&v| f32::from(v)).collect::<Vec<_>>());
        assert_eq!(grey(4, 4, &ramp, 2), [2.5, 4.5, 10.5, 12.5]);
        // a target pixel of 1.5 x 1.5: weights 2/3 and 1/3, and the other way round
        let close = |a: &[f32], b: &[f32]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
        assert!(close(&grey(3, 3, &[0, 30, 60, 0, 30, 60, 0, 30, 60], 2), &[10.0, 50.0, 10.0, 50.0]));
        // the mean is kept: 32 to 24
        let noise: Vec<u8> = (0..1024u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let mean = noise.iter().map(|&v| f64::from(v)).sum::<f64>() / 1024.0;
        let small = grey(32, 32, &noise, 24);
        assert!((small.iter().map(|&v| f64::from(v)).sum::<f64>() / 576.0 - mean).abs() < 1e-3);
        assert!(small.iter().all(|v| (0.0..=255.0).contains(v)));
    }

    #[test]
    fn the_middle_is_taken_and_enlarged_linearly() {
        // of 1 x 4 the middle pixel lies between the second and the third
        assert_eq!(grey(1, 4, &[0, 10, 20, 200], 1), [15.0]);
        assert_eq!(grey(5, 1, &[0, 10, 20, 30, 200], 1), [20.0]);
        assert_eq!(grey(2, 2, &[0, 100, 0, 100], 4)[..4], [0.0, 25.0, 75.0, 100.0]);
        assert_eq!(grey(1, 1, &[7], 3), [7.0; 9]);
    }

    #[test]
    fn every_weight_lies_in_the_picture() {
        for (length, window) in [(1, 1), (2, 1), (7, 5), (16, 16), (333, 17), (1000, 999)] {
            for size in [1, 2, 3, 24, 100] {
                for (first, weights) in weights(length, window, size) {
                    assert!(first + weights.len() <= length, "{length} {window} {size}");
                    assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-5);
                }
            }
        }
    }
}
