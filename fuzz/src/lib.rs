//! Fuzz targets of Tessera's decoders; `just fuzz` runs them all.

#![allow(clippy::panic)]

pub mod decoders;
pub mod seeds;

/// Runs the decoder of this name.
pub fn run(name: &str, data: &[u8]) {
    let (_, decoder) = decoders::all().find(|(known, _)| *known == name).expect("each target is named after a decoder");
    decoder(data);
}
