//! Products of small matrices, too small for a general library to be worth its preparations.

use super::kernel::vectorised;

/// Columns of a full panel: two registers.
const PANEL: usize = 16;
/// Columns of the last panel if no more are left; widths are padded to it.
const HALF: usize = 8;
/// Rows of a block: with two registers each, half of the sixteen that there are.
const ROWS: usize = 4;

/// `columns` with those that pad the last panel.
pub(super) fn padded(columns: usize) -> usize {
    columns.next_multiple_of(HALF)
}

/// The left factor: entry `(i, k)` is at `i stride + k`, or if turned at `k stride + i`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) values: &'a [f32],
    pub(super) stride: usize,
    pub(super) turned: bool,
}

/// Lays a right factor of `depth` rows out for [`multiply`]: panels of 16 columns, the last of 8 if that is enough, each
/// row by row, with zeros in columns that pad it. `entry` gives the value at a row and a column.
#[inline(always)]
pub(super) fn pack(depth: usize, columns: usize, packed: &mut [f32], entry: impl Fn(usize, usize) -> f32) {
    let mut start = 0;
    while start < padded(columns) {
        let width = if padded(columns) - start >= PANEL { PANEL } else { HALF };
        let panel = &mut packed[start * depth..][..width * depth];
        let here = width.min(columns - start);
        for (row, line) in panel.chunks_exact_mut(width).enumerate() {
            for (column, value) in line[..here].iter_mut().enumerate() {
                *value = entry(row, start + column);
            }
            line[here..].fill(0.0);
        }
        start += width;
    }
}

/// `R` rows times a panel of `C` columns, summed over the panel's rows in their order.
#[inline(always)]
fn block<const R: usize, const C: usize>(left: Left<'_>, first: usize, panel: &[f32]) -> [[f32; C]; R] {
    let mut sums = [[0.0_f32; C]; R];
    let depth = panel.len() / C;
    if left.turned {
        for (line, factors) in panel.chunks_exact(C).zip(left.values[first..].chunks(left.stride)) {
            let factors = &factors[..R];
            for (sums, &factor) in sums.iter_mut().zip(factors) {
                for (sum, &value) in sums.iter_mut().zip(line) {
                    *sum += factor * value;
                }
            }
        }
    } else {
        let rows: [&[f32]; R] = std::array::from_fn(|row| &left.values[(first + row) * left.stride..][..depth]);
        for (at, line) in panel.chunks_exact(C).enumerate() {
            for (sums, row) in sums.iter_mut().zip(&rows) {
                for (sum, &value) in sums.iter_mut().zip(line) {
                    *sum += row[at] * value;
                }
            }
        }
    }
    sums
}

#[inline(always)]
fn rows_of<const R: usize, const C: usize>(
    left: Left<'_>,
    first: usize,
    panel: &[f32],
    out: &mut [f32],
    out_stride: usize,
    here: usize,
) {
    for (row, sums) in block::<R, C>(left, first, panel).iter().enumerate() {
        out[(first + row) * out_stride..][..here].copy_from_slice(&sums[..here]);
    }
}

#[inline(always)]
fn panel_of<const C: usize>(left: Left<'_>, rows: usize, panel: &[f32], out: &mut [f32], out_stride: usize, here: usize) {
    let even = rows / ROWS * ROWS;
    for first in (0..even).step_by(ROWS) {
        rows_of::<ROWS, C>(left, first, panel, out, out_stride, here);
    }
    match rows - even {
        3 => rows_of::<3, C>(left, even, panel, out, out_stride, here),
        2 => rows_of::<2, C>(left, even, panel, out, out_stride, here),
        1 => rows_of::<1, C>(left, even, panel, out, out_stride, here),
        _ => {}
    }
}

vectorised! {
    /// Writes the product of `left`, `rows` by `depth`, and the factor in `packed`, `depth` by `columns`, to rows of
    /// `stride` of `out`.
    multiply(left: Left<'_>, rows: usize, packed: &[f32], depth: usize, columns: usize, out: &mut [f32], stride: usize) {
        let mut start = 0;
        while start < padded(columns) {
            let wide = padded(columns) - start >= PANEL;
            let width = if wide { PANEL } else { HALF };
            let (panel, here) = (&packed[start * depth..][..width * depth], width.min(columns - start));
            let out = &mut out[start..];
            if wide {
                panel_of::<PANEL>(left, rows, panel, out, stride, here);
            } else {
                panel_of::<HALF>(left, rows, panel, out, stride, here);
            }
            start += width;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_all_sizes_are_those_of_the_definition() {
        for (rows, depth, columns) in [(1, 1, 1), (4, 3, 8), (5, 7, 12), (37, 12, 37), (6, 9, 25), (3, 2, 16), (2, 5, 17)] {
            let a: Vec<f32> = (0..rows * depth).map(|i| (i * 7 % 13) as f32 - 6.0).collect();
            let b: Vec<f32> = (0..depth * columns).map(|i| (i * 5 % 11) as f32 - 5.0).collect();
            let turned: Vec<f32> = (0..depth * rows).map(|i| a[i % rows * depth + i / rows]).collect();
            let mut packed = vec![f32::NAN; depth * padded(columns)];
            pack(depth, columns, &mut packed, |k, j| b[k * columns + j]);
            let whole = |i: usize, j: usize| (0..depth).map(|k| a[i * depth + k] * b[k * columns + j]).sum::<f32>();
            for (values, stride, turned) in [(&a, depth, false), (&turned, rows, true)] {
                let mut out = vec![f32::NAN; rows * (columns + 3)];
                multiply(Left { values, stride, turned }, rows, &packed, depth, columns, &mut out, columns + 3);
                for (at, &value) in out.iter().enumerate() {
                    let (i, j) = (at / (columns + 3), at % (columns + 3));
                    assert!(if j < columns { value == whole(i, j) } else { value.is_nan() }, "{rows} {depth} {columns}");
                }
            }
        }
    }
}
