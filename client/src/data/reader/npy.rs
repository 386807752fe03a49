//! npy, the file format of NumPy: one array (versions 1 to 3 of the format, NEP 1).

use super::array::{Array, Element, elements};
use super::{Flaw, Matrix, Opened, Pick, Scalar, Source};

/// Longest header, in bytes: NumPy itself reads 10,000 unless told otherwise.
const MAX_HEADER: usize = 64 << 10;
/// Most axes: those of NumPy.
const MAX_AXES: usize = 64;

/// An opened file: one array.
struct Npy {
    element: Element,
    big_endian: bool,
    shape: Vec<usize>,
    bytes: Vec<u8>,
    /// Where the elements start.
    start: usize,
}

/// Opens an npy file.
pub(super) fn open(bytes: Vec<u8>) -> Opened {
    let (header, start) = split(&bytes).map_err(|why| Flaw::new("", why))?;
    let header = parse(header).map_err(|why| Flaw::new("", format!("the npy header is broken: {why}")))?;
    let flaw = |why: String| Err(Flaw::new("", why));
    if header.fortran && header.shape.len() > 1 {
        return flaw("is in Fortran order; save numpy.ascontiguousarray(array) instead".into());
    }
    let Some((element, big_endian)) = element(&header.descr) else {
        return flaw(format!("elements of type {:?} are not read; save whole numbers or floats", header.descr));
    };
    let expected = elements(&header.shape).and_then(|n| n.checked_mul(element.size()));
    let found = bytes.len() - start;
    if expected != Some(found) {
        return flaw(format!("is cut off or damaged: an array of shape {:?} does not fill {found} bytes", header.shape));
    }
    Ok(Box::new(Npy { element, big_endian, shape: header.shape, bytes, start }))
}

impl Npy {
    fn array(&self, key: Option<&str>) -> Result<Array<'_>, Flaw> {
        if let Some(key) = key {
            return Err(Flaw::new("", format!("an npy file holds one array without a name; leave out `key` ({key:?})")));
        }
        let data = &self.bytes[self.start..];
        Ok(Array { place: "", element: self.element, big_endian: self.big_endian, shape: &self.shape, data })
    }
}

impl Source for Npy {
    fn matrix(&self, pick: &Pick) -> Result<Matrix, Flaw> {
        self.array(pick.key.as_deref())?.matrix(pick)
    }

    fn column(&self, key: Option<&str>) -> Result<Vec<Scalar>, Flaw> {
        self.array(key)?.column()
    }

    fn rows(&self, key: Option<&str>) -> Result<usize, Flaw> {
        self.array(key)?.rows()
    }
}

/// The text of the header, and where the elements start.
fn split(bytes: &[u8]) -> Result<(&str, usize), String> {
    let Some([major, _minor]) = bytes.strip_prefix(b"\x93NUMPY").and_then(|rest| rest.first_chunk()) else {
        return Err("is not an npy file".into());
    };
    let (start, length) = match (major, bytes.get(8..)) {
        (1, Some([a, b, ..])) => (10, usize::from(u16::from_le_bytes([*a, *b]))),
        (2 | 3, Some([a, b, c, d, ..])) => (12, u32::from_le_bytes([*a, *b, *c, *d]) as usize),
        (1..=3, _) => return Err("is cut off in its header".into()),
        _ => return Err(format!("is of version {major} of the npy format; versions 1 to 3 are read")),
    };
    if length > MAX_HEADER {
        return Err(format!("has a header of {length} bytes; at most {MAX_HEADER} are read"));
    }
    let end = start + length;
    let header = bytes.get(start..end).ok_or("is cut off in its header")?;
    Ok((std::str::from_utf8(header).map_err(|_| "its header is no text")?, end))
}

/// What the header says.
#[derive(Debug, Default)]
struct Header {
    descr: String,
    fortran: bool,
    shape: Vec<usize>,
}

/// The header is a Python dict literal: `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
fn parse(text: &str) -> Result<Header, String> {
    let body = text.trim().strip_prefix('{').and_then(|t| t.strip_suffix('}')).ok_or("no { } around it")?;
    let (mut descr, mut fortran, mut shape) = (None, None, None);
    let mut rest = body.trim_start();
    while !rest.is_empty() {
        let (key, after) = quoted(rest).ok_or("a key is missing")?;
        let value = after.trim_start().strip_prefix(':').ok_or("a colon is missing")?.trim_start();
        rest = match key {
            "descr" => {
                let (text, after) = quoted(value).ok_or("its type is not a simple one (no structured arrays)")?;
                descr = Some(text.to_owned());
                after
            }
            "fortran_order" => {
                let (flag, after) = match (value.strip_prefix("True"), value.strip_prefix("False")) {
                    (Some(after), _) => (true, after),
                    (_, Some(after)) => (false, after),
                    _ => return Err("fortran_order is neither True nor False".into()),
                };
                fortran = Some(flag);
                after
            }
            "shape" => {
                let (tuple, after) = value.strip_prefix('(').and_then(|t| t.split_once(')')).ok_or("the shape is no tuple")?;
                let axes = tuple.split(',').map(str::trim).filter(|axis| !axis.is_empty());
                let axes: Result<Vec<usize>, _> = axes.take(MAX_AXES + 1).map(str::parse).collect();
                shape = Some(axes.map_err(|_| "the shape is not made of whole numbers")?);
                after
            }
            other => return Err(format!("unknown key {other:?}")),
        };
        rest = rest.trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
    if shape.as_ref().is_some_and(|shape: &Vec<usize>| shape.len() > MAX_AXES) {
        return Err(format!("the shape has more than {MAX_AXES} axes"));
    }
    match (descr, fortran, shape) {
        (Some(descr), Some(fortran), Some(shape)) => Ok(Header { descr, fortran, shape }),
        _ => Err("descr, fortran_order or shape is missing".into()),
    }
}

/// The text in quotes at the start, and what follows it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text[1..].split_once(quote)
}

/// `<f4` and the like: byte order, kind and size; true for big-endian.
fn element(descr: &str) -> Option<(Element, bool)> {
    let order = descr.chars().next()?;
    let element = match descr.get(1..)? {
        "b1" => Element::Bool,
        "u1" => Element::U8,
        "i1" => Element::I8,
        "u2" => Element::U16,
        "i2" => Element::I16,
        "u4" => Element::U32,
        "i4" => Element::I32,
        "u8" => Element::U64,
        "i8" => Element::I64,
        "f2" => Element::F16,
        "f4" => Element::F32,
        "f8" => Element::F64,
        _ => return None,
    };
    match order {
        '<' => Some((element, false)),
        '>' => Some((element, true)),
        '|' if element.size() == 1 => Some((element, false)),
        _ => None,
    }
}
