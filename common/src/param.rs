//! Named tensors as bytes, in one canonical encoding.
//!
//! Everything that travels or is stored (globals, updates, statistics) is a [`ParamSet`], written as a safetensors
//! file of exactly one form: names sorted, no metadata, data in name order, header padded with spaces to 8 bytes.
//! One content has one byte string, hence one [`Digest`]; a file that holds the same tensors in another form is
//! refused at the door rather than stored under a second name.
//!
//! Names have sections, `section/group/leaf`:
//!
//! | name | dtype, shape | meaning |
//! |---|---|---|
//! | `param/BLOCK/LEAF` | f32, any | parameter `BLOCK.LEAF` of the model, in the block `BLOCK` |
//! | `width/MODALITY` | f32 `[D, 0]` | in a global: declares the width D of a modality's representation, by its shape |
//! | `proto/MODALITY/{sum,count}` | f64 `[C, D]`, `[C]` | in an update: sums and counts of representations per class |
//! | `proto/MODALITY/{mean,count,contributors,round}` | f64 `[C, D]`, `[C]` x 3 | in a global: the prototype library |
//! | `input/MODALITY/{count,sum,square}` | f64 `[d]` x 3 | in an answer to a survey of inputs |
//! | `input/MODALITY/{mean,std}` | f64 `[d]` x 2 | in a global: the standardisation |
//! | `feature/MODALITY/{count,sum,scatter,groups}` | f64 `[C]`, `[C, D]`, `[D, D]`, `[1]` | statistics of features under a frozen global |

use crate::id::{Digest, excerpt};
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Element type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dtype {
    /// 32-bit float: parameters.
    F32,
    /// 64-bit float: sums, counts, statistics.
    F64,
}

impl Dtype {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F64 => 8,
        }
    }
}

/// Dtype and shape of one tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, row major; empty for a scalar.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// An f32 tensor.
    pub fn f32(shape: &[usize]) -> Self {
        Self { dtype: Dtype::F32, shape: shape.to_vec() }
    }

    /// An f64 tensor.
    pub fn f64(shape: &[usize]) -> Self {
        Self { dtype: Dtype::F64, shape: shape.to_vec() }
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Number of bytes.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.size()
    }
}

/// One tensor: little-endian bytes in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    spec: TensorSpec,
    data: Vec<u8>,
}

impl Tensor {
    /// From values; panics if their number does not fit the shape, which is a bug of the caller.
    pub fn f32(shape: &[usize], values: &[f32]) -> Self {
        let spec = TensorSpec::f32(shape);
        assert_eq!(spec.elements(), values.len(), "values do not fill shape {shape:?}");
        Self { spec, data: values.iter().flat_map(|v| v.to_le_bytes()).collect() }
    }

    /// From values; panics if their number does not fit the shape, which is a bug of the caller.
    pub fn f64(shape: &[usize], values: &[f64]) -> Self {
        let spec = TensorSpec::f64(shape);
        assert_eq!(spec.elements(), values.len(), "values do not fill shape {shape:?}");
        Self { spec, data: values.iter().flat_map(|v| v.to_le_bytes()).collect() }
    }

    /// From little-endian bytes.
    ///
    /// # Errors
    /// If their number does not fit the spec.
    pub fn from_bytes(spec: TensorSpec, data: Vec<u8>) -> Result<Self, String> {
        if data.len() != spec.bytes() {
            return Err(format!("{} bytes do not fill {:?} {:?}", data.len(), spec.dtype, spec.shape));
        }
        Ok(Self { spec, data })
    }

    /// Dtype and shape.
    pub fn spec(&self) -> &TensorSpec {
        &self.spec
    }

    /// Dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.spec.shape
    }

    /// Raw little-endian bytes.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Values as f32; None for another dtype.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        (self.spec.dtype == Dtype::F32).then(|| decode_f32(&self.data))
    }

    /// Values as f64; an f32 tensor is widened.
    pub fn to_f64(&self) -> Vec<f64> {
        decode_as_f64(self.spec.dtype, &self.data)
    }
}

/// Little-endian f32 values of `bytes`.
pub fn decode_f32(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// Values of `bytes`, widened to f64 where they are f32.
pub fn decode_as_f64(dtype: Dtype, bytes: &[u8]) -> Vec<f64> {
    match dtype {
        Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
        Dtype::F64 => bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
    }
}

/// Limits for parameter sets that come from outside.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Largest header, in bytes.
    pub header: usize,
    /// Largest number of tensors.
    pub tensors: usize,
    /// Largest rank.
    pub rank: usize,
    /// Longest tensor name, in bytes.
    pub name: usize,
    /// Largest file, in bytes.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { header: 16 << 20, tensors: 65_536, rank: 8, name: 512, bytes: 16 << 30 }
    }
}

/// Why bytes are not an acceptable parameter set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The file ends before its header or data do, or goes on after them.
    #[error("the file has {found} bytes, its header asks for {expected}")]
    Length {
        /// Bytes that the header asks for.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// A limit is passed.
    #[error("{what} is {found}, the limit is {limit}")]
    Limit {
        /// What is limited.
        what: &'static str,
        /// Value found.
        found: u64,
        /// Limit.
        limit: u64,
    },
    /// The header is not the JSON of safetensors.
    #[error("the header is not valid: {0}")]
    Header(String),
    /// The same content has another canonical form.
    #[error("the file is not in canonical form (sorted names, no metadata, no gaps): {0}")]
    NotCanonical(String),
}

/// Where a tensor's bytes lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Dtype and shape.
    pub spec: TensorSpec,
    /// Offset of its first byte from the start of the file.
    pub offset: u64,
}

/// The table of contents of an encoded parameter set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    entries: BTreeMap<String, Entry>,
    header: Vec<u8>,
    total: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    dtype: Dtype,
    #[serde(deserialize_with = "short_shape")]
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

/// Dimensions after which reading a shape ends: a header of dimensions alone would take eight times its size. Whether
/// the rank is within [`Limits`] is looked at later.
const MAX_DIMENSIONS: usize = 64;

fn short_shape<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<usize>, D::Error> {
    struct Dimensions;
    impl<'de> Visitor<'de> for Dimensions {
        type Value = Vec<usize>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of dimensions")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<usize>, A::Error> {
            let mut shape = Vec::new();
            while let Some(dimension) = seq.next_element()? {
                if shape.len() == MAX_DIMENSIONS {
                    return Err(A::Error::custom("a tensor of more than 64 dimensions"));
                }
                shape.push(dimension);
            }
            Ok(shape)
        }
    }
    d.deserialize_seq(Dimensions)
}

impl Layout {
    /// The layout that holds tensors of these names and specs.
    pub fn new(specs: BTreeMap<String, TensorSpec>) -> Self {
        let mut json = String::from("{");
        let mut at = 0u64;
        let mut placed = Vec::with_capacity(specs.len());
        for (name, spec) in specs {
            if json.len() > 1 {
                json.push(',');
            }
            let end = at + spec.bytes() as u64;
            let dims: Vec<String> = spec.shape.iter().map(usize::to_string).collect();
            let quoted = serde_json::Value::String(name.clone()).to_string();
            json +=
                &format!(r#"{quoted}:{{"dtype":"{:?}","shape":[{}],"data_offsets":[{at},{end}]}}"#, spec.dtype, dims.join(","));
            placed.push((name, spec, at));
            at = end;
        }
        json.push('}');
        while json.len() % 8 != 0 {
            json.push(' ');
        }
        let start = 8 + json.len() as u64;
        let mut header = (json.len() as u64).to_le_bytes().to_vec();
        header.extend_from_slice(json.as_bytes());
        let entries = placed.into_iter().map(|(name, spec, at)| (name, Entry { spec, offset: start + at })).collect();
        Self { entries, header, total: start + at }
    }

    /// Length of the header that starts with these 8 bytes, length field included.
    pub fn header_len(first: [u8; 8], limits: &Limits) -> Result<usize, CodecError> {
        let len = u64::from_le_bytes(first);
        if len > limits.header as u64 {
            return Err(CodecError::Limit { what: "header length", found: len, limit: limits.header as u64 });
        }
        Ok(8 + len as usize)
    }

    /// Parses a header (length field included) and checks it against `limits`, the file's length and the canonical form.
    pub fn parse(header: &[u8], file_len: u64, limits: &Limits) -> Result<Self, CodecError> {
        if file_len > limits.bytes {
            return Err(CodecError::Limit { what: "file length", found: file_len, limit: limits.bytes });
        }
        let Some((first, json)) = header.split_first_chunk::<8>() else {
            return Err(CodecError::Length { expected: 8, found: header.len() as u64 });
        };
        let expected = Self::header_len(*first, limits)?;
        if header.len() != expected {
            return Err(CodecError::Length { expected: expected as u64, found: header.len() as u64 });
        }
        let raw: BTreeMap<String, RawEntry> =
            serde_json::from_slice(json).map_err(|e| CodecError::Header(excerpt(&e.to_string(), 500)))?;
        let limit = |what, found: usize, limit: usize| {
            if found > limit { Err(CodecError::Limit { what, found: found as u64, limit: limit as u64 }) } else { Ok(()) }
        };
        limit("number of tensors", raw.len(), limits.tensors)?;
        let mut specs = BTreeMap::new();
        let mut total = 0u64;
        for (name, entry) in raw {
            limit("length of a tensor name", name.len(), limits.name)?;
            limit("rank of a tensor", entry.shape.len(), limits.rank)?;
            let elements = entry.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
            let bytes = elements.and_then(|n| n.checked_mul(entry.dtype.size() as u64));
            let end = bytes.and_then(|b| total.checked_add(b)).filter(|&end| end <= limits.bytes);
            let Some(end) = end else {
                return Err(CodecError::Limit { what: "size of the tensors", found: u64::MAX, limit: limits.bytes });
            };
            if entry.data_offsets != (total, end) {
                return Err(CodecError::NotCanonical(format!(
                    "offsets of {name:?} are {:?}, not {:?}",
                    entry.data_offsets,
                    (total, end)
                )));
            }
            total = end;
            specs.insert(name, TensorSpec { dtype: entry.dtype, shape: entry.shape });
        }
        let layout = Self::new(specs);
        if layout.header != header {
            return Err(CodecError::NotCanonical("the header is written in another way".into()));
        }
        if layout.total != file_len {
            return Err(CodecError::Length { expected: layout.total, found: file_len });
        }
        Ok(layout)
    }

    /// Header bytes: what a file of this layout starts with.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Length of the whole file.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Tensors by name, in file order.
    pub fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    /// Dtype and shape of a tensor.
    pub fn spec(&self, name: &str) -> Option<&TensorSpec> {
        self.entries.get(name).map(|e| &e.spec)
    }

    /// Names of the parameter blocks, in order.
    pub fn blocks(&self) -> Vec<String> {
        let mut blocks: Vec<String> = self.entries.keys().filter_map(|n| block_of(n)).map(str::to_owned).collect();
        blocks.dedup();
        blocks
    }
}

/// Block of a tensor named `param/BLOCK/LEAF`; None for any other section.
pub fn block_of(name: &str) -> Option<&str> {
    let (block, leaf) = name.strip_prefix("param/")?.split_once('/')?;
    (!leaf.is_empty()).then_some(block)
}

/// Name of the parameter `leaf` of `block` within a parameter set.
pub fn param_name(block: &str, leaf: &str) -> String {
    format!("param/{block}/{leaf}")
}

/// Named tensors, sorted by name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ParamSet {
    tensors: BTreeMap<String, Tensor>,
}

impl ParamSet {
    /// No tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces a tensor.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor) {
        self.tensors.insert(name.into(), tensor);
    }

    /// A tensor by name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// All tensors in name order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(n, t)| (n.as_str(), t))
    }

    /// Tensors whose name starts with `prefix`.
    pub fn section<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Tensor)> {
        self.tensors.range(prefix.to_owned()..).take_while(move |(n, _)| n.starts_with(prefix)).map(|(n, t)| (n.as_str(), t))
    }

    /// Moves every tensor of `other` in.
    pub fn extend(&mut self, other: ParamSet) {
        self.tensors.extend(other.tensors);
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// True if there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Table of contents of [`Self::to_bytes`].
    pub fn layout(&self) -> Layout {
        Layout::new(self.tensors.iter().map(|(n, t)| (n.clone(), t.spec.clone())).collect())
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let layout = self.layout();
        let mut bytes = Vec::with_capacity(layout.total as usize);
        bytes.extend_from_slice(&layout.header);
        self.tensors.values().for_each(|t| bytes.extend_from_slice(&t.data));
        bytes
    }

    /// Digest of the canonical bytes.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.to_bytes())
    }

    /// Decodes canonical bytes.
    pub fn from_bytes(bytes: &[u8], limits: &Limits) -> Result<Self, CodecError> {
        let Some(first) = bytes.first_chunk::<8>() else {
            return Err(CodecError::Length { expected: 8, found: bytes.len() as u64 });
        };
        let header_len = Layout::header_len(*first, limits)?;
        let header =
            bytes.get(..header_len).ok_or(CodecError::Length { expected: header_len as u64, found: bytes.len() as u64 })?;
        let layout = Layout::parse(header, bytes.len() as u64, limits)?;
        let tensors = layout.entries.into_iter().map(|(name, entry)| {
            let data = bytes[entry.offset as usize..][..entry.spec.bytes()].to_vec();
            (name, Tensor { spec: entry.spec, data })
        });
        Ok(Self { tensors: tensors.collect() })
    }
}

/// Reads tensors of an encoded parameter set one at a time, from wherever it lies.
pub trait Source: Send + Sync {
    /// Its table of contents.
    fn layout(&self) -> &Layout;

    /// Bytes `[from, from + out.len())` of the tensor `name`.
    ///
    /// # Errors
    /// If the tensor is not there or cannot be read; the text says what and where.
    fn read(&self, name: &str, from: usize, out: &mut [u8]) -> Result<(), String>;
}

/// A parameter set in memory, as a [`Source`].
#[derive(Debug)]
pub struct MemorySource {
    layout: Layout,
    set: ParamSet,
}

impl From<ParamSet> for MemorySource {
    fn from(set: ParamSet) -> Self {
        Self { layout: set.layout(), set }
    }
}

impl Source for MemorySource {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn read(&self, name: &str, from: usize, out: &mut [u8]) -> Result<(), String> {
        let data = self.set.get(name).map(Tensor::data).and_then(|d| d.get(from..from + out.len()));
        out.copy_from_slice(data.ok_or_else(|| format!("no such bytes in tensor {name:?}"))?);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
