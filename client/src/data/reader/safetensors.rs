//! safetensors: named arrays.

use super::array::{Array, Element};
use super::{Flaw, Matrix, Opened, Pick, Scalar, Source, unknown};
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::ops::Range;

/// Longest header, in bytes.
const MAX_HEADER: u64 = 16 << 20;

/// An opened file: the arrays' places in its bytes.
struct Tensors {
    bytes: Vec<u8>,
    /// Type, shape and bytes of each.
    arrays: BTreeMap<String, (Dtype, Vec<usize>, Range<usize>)>,
}

/// Opens a safetensors file.
pub(super) fn open(bytes: Vec<u8>) -> Opened {
    let broken = |e: safetensors::SafeTensorError| Flaw::new("", format!("is not a whole safetensors file: {e}"));
    if let Some(length) = bytes.first_chunk::<8>().map(|first| u64::from_le_bytes(*first)).filter(|&length| length > MAX_HEADER) {
        return Err(Flaw::new("", format!("has a header of {length} bytes; at most {MAX_HEADER} are read")));
    }
    let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(broken)?;
    // eight bytes hold the length of the header
    let start = header + 8;
    let arrays = metadata.tensors().into_iter().map(|(name, info)| {
        let (from, to) = info.data_offsets;
        (name, (info.dtype, info.shape.clone(), start + from..start + to))
    });
    let arrays: BTreeMap<_, _> = arrays.collect();
    if let Some((name, _)) = arrays.iter().find(|(_, (_, _, range))| bytes.get(range.clone()).is_none()) {
        return Err(Flaw::new(format!("key {name}"), "lies outside the file"));
    }
    Ok(Box::new(Tensors { bytes, arrays }))
}

impl Tensors {
    fn with<T>(&self, key: Option<&str>, read: impl FnOnce(&Array) -> Result<T, Flaw>) -> Result<T, Flaw> {
        let names: Vec<&str> = self.arrays.keys().map(String::as_str).collect();
        let key = match (key, names.as_slice()) {
            (Some(key), _) => key,
            (None, [only]) => only,
            (None, _) => {
                return Err(Flaw::new("", format!("holds {} arrays; name one with `key`: {}", names.len(), names.join(", "))));
            }
        };
        let Some((dtype, shape, range)) = self.arrays.get(key) else {
            return Err(Flaw::new("", unknown("array", key, &names)));
        };
        let place = format!("key {key}");
        let element = element(*dtype).ok_or_else(|| Flaw::new(&place, format!("elements of type {dtype:?} are not read")))?;
        read(&Array { place: &place, element, big_endian: false, shape, data: &self.bytes[range.clone()] })
    }
}

impl Source for Tensors {
    fn matrix(&self, pick: &Pick) -> Result<Matrix, Flaw> {
        self.with(pick.key.as_deref(), |array| array.matrix(pick))
    }

    fn column(&self, key: Option<&str>) -> Result<Vec<Scalar>, Flaw> {
        self.with(key, |array| array.column())
    }

    fn rows(&self, key: Option<&str>) -> Result<usize, Flaw> {
        self.with(key, |array| array.rows())
    }
}

fn element(dtype: Dtype) -> Option<Element> {
    Some(match dtype {
        Dtype::BOOL => Element::Bool,
        Dtype::U8 => Element::U8,
        Dtype::I8 => Element::I8,
        Dtype::U16 => Element::U16,
        Dtype::I16 => Element::I16,
        Dtype::U32 => Element::U32,
        Dtype::I32 => Element::I32,
        Dtype::U64 => Element::U64,
        Dtype::I64 => Element::I64,
        Dtype::F16 => Element::F16,
        Dtype::BF16 => Element::Bf16,
        Dtype::F32 => Element::F32,
        Dtype::F64 => Element::F64,
        // eight bits and fewer are formats of weights, not of data
        _ => return None,
    })
}
