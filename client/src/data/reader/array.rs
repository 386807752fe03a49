//! Arrays of numbers as bytes: the common ground of npy and safetensors.

use super::resample::{Raster, square};
use super::{Flaw, Index, Matrix, Pick, Scalar};
use std::ops::Range;

/// Type of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    Bool,
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F16,
    Bf16,
    F32,
    F64,
}

impl Element {
    /// Bytes of an element.
    pub(super) fn size(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 | Self::F16 | Self::Bf16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// The value of `bytes`, of which there are [`Self::size`].
    fn decode(self, bytes: &[u8], big_endian: bool) -> Scalar {
        let mut raw = [0; 8];
        let raw_used = &mut raw[..bytes.len()];
        raw_used.copy_from_slice(bytes);
        if big_endian {
            raw_used.reverse();
        }
        let bits = u64::from_le_bytes(raw);
        match self {
            Self::Bool | Self::U8 | Self::U16 | Self::U32 | Self::U64 => Scalar::Int(i128::from(bits)),
            Self::I8 => Scalar::Int(i128::from(bits as u8 as i8)),
            Self::I16 => Scalar::Int(i128::from(bits as u16 as i16)),
            Self::I32 => Scalar::Int(i128::from(bits as u32 as i32)),
            Self::I64 => Scalar::Int(i128::from(bits as i64)),
            Self::F16 => Scalar::Float(half(bits as u16)),
            Self::Bf16 => Scalar::Float(f64::from(f32::from_bits((bits as u32) << 16))),
            Self::F32 => Scalar::Float(f64::from(f32::from_bits(bits as u32))),
            Self::F64 => Scalar::Float(f64::from_bits(bits)),
        }
    }

    fn decode_f32(self, bytes: &[u8], big_endian: bool) -> f32 {
        match self.decode(bytes, big_endian) {
            Scalar::Int(value) => value as f32,
            Scalar::Float(value) => value as f32,
            Scalar::Text(_) | Scalar::Empty => f32::NAN,
        }
    }
}

/// IEEE 754 binary16: one sign bit, five of exponent (bias 15), ten of fraction.
fn half(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
    match (exponent, bits & 0x3ff) {
        (0, _) => sign * fraction * 2f64.powi(-24),
        (31, 0) => sign * f64::INFINITY,
        (31, _) => f64::NAN,
        _ => sign * (1.0 + fraction / 1024.0) * 2f64.powi(exponent - 15),
    }
}

/// An array in C order whose first axis is the samples.
#[derive(Debug, Clone, Copy)]
pub(super) struct Array<'a> {
    /// "key image", or empty.
    pub(super) place: &'a str,
    pub(super) element: Element,
    pub(super) big_endian: bool,
    pub(super) shape: &'a [usize],
    pub(super) data: &'a [u8],
}

/// Elements of `shape`; `None` if that is beyond what can be counted.
pub(super) fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |product, &axis| product.checked_mul(axis))
}

impl Array<'_> {
    fn flaw(&self, why: impl Into<String>) -> Flaw {
        Flaw::new(self.place, why)
    }

    /// Rows, and elements of a row, checked against the bytes there are.
    fn size(&self) -> Result<(usize, usize), Flaw> {
        let Some((&rows, axes)) = self.shape.split_first() else {
            return Err(self.flaw("is a single number; the first axis must be the samples"));
        };
        let bytes = elements(self.shape).and_then(|n| n.checked_mul(self.element.size()));
        if bytes != Some(self.data.len()) {
            return Err(self.flaw(format!(
                "has {} bytes, which do not make an array of shape {:?}",
                self.data.len(),
                self.shape
            )));
        }
        // an array without bytes may claim any number of rows
        match elements(axes) {
            Some(width) if rows > 0 && width > 0 => Ok((rows, width)),
            _ => Err(self.flaw(format!("holds nothing: its shape is {:?}", self.shape))),
        }
    }

    /// Number of rows.
    pub(super) fn rows(&self) -> Result<usize, Flaw> {
        Ok(self.size()?.0)
    }

    fn cell(&self, index: usize) -> &[u8] {
        let size = self.element.size();
        &self.data[index * size..(index + 1) * size]
    }

    /// The features that `pick` means, axes after the first flattened.
    pub(super) fn matrix(&self, pick: &Pick) -> Result<Matrix, Flaw> {
        if pick.prefix.is_some() {
            return Err(self.flaw("`prefix` is for CSV columns; an array takes `columns = [\"0..32\"]` or `slice`"));
        }
        if let Some(size) = pick.size {
            return self.pictures(pick, size);
        }
        let (rows, width) = self.size()?;
        let picked = match (&pick.columns, &pick.slice) {
            (Some(_), Some(_)) => return Err(self.flaw("give `columns` or `slice`, not both")),
            (Some(columns), None) => Some(self.flat(columns, width)?),
            (None, Some(slice)) => Some(self.sliced(slice)?),
            (None, None) => None,
        };
        let dim = picked.as_ref().map_or(width, Vec::len);
        let mut values = Vec::with_capacity(rows * dim);
        for start in (0..rows).map(|row| row * width) {
            let mut push = |offset: usize| values.push(self.element.decode_f32(self.cell(start + offset), self.big_endian));
            match &picked {
                Some(picked) => picked.iter().for_each(|&offset| push(offset)),
                None => (0..width).for_each(&mut push),
            }
        }
        Ok(Matrix { rows, dim, values, names: None })
    }

    /// The array as pictures: `[n, 3, h, w]`, `[n, h, w, 3]`, `[n, 1, h, w]` or `[n, h, w]` of bytes, 0 to 255. Each
    /// becomes planes `[3, size, size]`.
    fn pictures(&self, pick: &Pick, size: usize) -> Result<Matrix, Flaw> {
        if pick.columns.is_some() || pick.slice.is_some() {
            return Err(self.flaw("`size` makes squares of whole pictures; leave out `columns` and `slice`"));
        }
        if self.element != Element::U8 {
            return Err(self.flaw("`size` is for pictures, whose elements are bytes (u8), 0 to 255"));
        }
        let (rows, width) = self.size()?;
        let (h, w, steps) = match self.shape[1..] {
            [3, h, w] => (h, w, [w, 1, h * w]),
            [h, w, 3] => (h, w, [w * 3, 3, 1]),
            [1, h, w] | [h, w, 1] | [h, w] => (h, w, [w, 1, 0]),
            _ => {
                let why = format!("has shape {:?}; pictures are [n, 3, h, w], [n, h, w, 3] or, grey, [n, h, w]", self.shape);
                return Err(self.flaw(why));
            }
        };
        let dim = 3 * size * size;
        let mut values = vec![0.0; rows * dim];
        for (bytes, out) in self.data.chunks_exact(width).zip(values.chunks_exact_mut(dim)) {
            square(&Raster { height: h, width: w, steps, bytes }, size, out);
        }
        Ok(Matrix { rows, dim, values, names: None })
    }

    /// One value per row: an array of shape `[n]` or `[n, 1]`.
    pub(super) fn column(&self) -> Result<Vec<Scalar>, Flaw> {
        let (rows, width) = self.size()?;
        if width != 1 {
            return Err(self.flaw(format!("has shape {:?}; one value per sample is expected here", self.shape)));
        }
        Ok((0..rows).map(|row| self.element.decode(self.cell(row), self.big_endian)).collect())
    }

    /// Offsets of `columns` in a row of `width`.
    fn flat(&self, columns: &[Index], width: usize) -> Result<Vec<usize>, Flaw> {
        let mut offsets = Vec::new();
        for column in columns {
            offsets.extend(self.range(column, width, "a row")?);
            if offsets.len() > width {
                return Err(self.flaw(format!("`columns` names more than the {width} features of a row")));
            }
        }
        Ok(offsets)
    }

    /// Offsets of a range per axis in a row, in row-major order.
    fn sliced(&self, slice: &[Index]) -> Result<Vec<usize>, Flaw> {
        let axes = self.shape.get(1..).unwrap_or_default();
        if slice.len() != axes.len() {
            let why =
                format!("`slice` has {} ranges, but a sample has {} axes (shape {:?})", slice.len(), axes.len(), self.shape);
            return Err(self.flaw(why));
        }
        let mut offsets = vec![0];
        for (axis, (index, &length)) in slice.iter().zip(axes).enumerate() {
            let range = self.range(index, length, &format!("axis {}", axis + 1))?;
            offsets = offsets.iter().flat_map(|&outer| range.clone().map(move |inner| outer * length + inner)).collect();
        }
        Ok(offsets)
    }

    fn range(&self, index: &Index, length: usize, of: &str) -> Result<Range<usize>, Flaw> {
        let range = match index {
            Index::At(at) => Some(*at..at.saturating_add(1)),
            Index::Text(text) => text.split_once("..").and_then(|(start, end)| {
                let bound = |text: &str, default| if text.trim().is_empty() { Some(default) } else { text.trim().parse().ok() };
                Some(bound(start, 0)?..bound(end, length)?)
            }),
        };
        let Some(range) = range else {
            return Err(self.flaw(format!("{:?} is neither an index nor a range such as \"0..4\"", index.to_string())));
        };
        if range.start >= range.end || range.end > length {
            return Err(self.flaw(format!("{index} is empty or not within the {length} of {of}")));
        }
        Ok(range)
    }
}
