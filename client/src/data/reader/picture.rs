//! Encoded pictures become planes of red, green and blue.

use super::resample::{Raster, square};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Largest side of a picture, in pixels.
const MAX_SIDE: u32 = 16_384;
/// Most memory of a decoded picture, in bytes.
const MAX_BYTES: u64 = 256 << 20;
/// Memory that any picture may take, and how much more for each byte of its file: beyond what deflate and LZW can pack,
/// a header claims pixels that the file cannot hold.
const BASE: u64 = 32 << 20;
const PACKED: u64 = 4096;

/// Decodes a png, jpeg, gif (its first frame), webp or bmp and takes the largest square in its middle, as planes
/// `[3, size, size]` of 0 to 255. What is transparent becomes white.
///
/// # Errors
/// If the bytes are not a whole picture of these formats, or it is too large.
pub(in super::super) fn decode(bytes: &[u8], size: usize) -> Result<Vec<f32>, String> {
    // decoders are other people's code, and a picture is anybody's
    let picture = catch_unwind(AssertUnwindSafe(|| pixels(bytes))).unwrap_or_else(|_| Err("the decoder failed on it".into()))?;
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let mut out = vec![0.0; 3 * size * size];
    square(&Raster { height, width, steps: [width * 3, 3, 1], bytes: picture.as_raw() }, size, &mut out);
    Ok(out)
}

fn pixels(bytes: &[u8]) -> Result<image::RgbImage, String> {
    let most = (bytes.len() as u64).saturating_mul(PACKED).saturating_add(BASE).min(MAX_BYTES);
    let too_large = || {
        let mib = most >> 20;
        format!("is larger than {MAX_SIDE} x {MAX_SIDE} pixels or than {mib} MiB, the most for a file of its size")
    };
    let broken = |e: ImageError| match e {
        ImageError::Limits(_) => too_large(),
        other => format!("is not a whole picture: {other}"),
    };
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| e.to_string())?;
    let Some(format) = reader.format() else {
        return Err("is no picture of a kind that is read: png, jpeg, gif, webp or bmp".into());
    };
    if format == ImageFormat::Jpeg && !has_end(bytes) {
        return Err("is not a whole picture: the jpeg is cut off".into());
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(most);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(broken)?;
    let (width, height) = decoder.dimensions();
    if width > MAX_SIDE || height > MAX_SIDE || decoder.total_bytes() > most {
        return Err(too_large());
    }
    if width == 0 || height == 0 {
        return Err("has no pixels".into());
    }
    // phones write how the camera was held instead of turning the picture
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(broken)?;
    picture.apply_orientation(orientation);
    Ok(if picture.color().has_alpha() { over_white(&picture.into_rgba8()) } else { picture.into_rgb8() })
}

fn over_white(picture: &image::RgbaImage) -> image::RgbImage {
    image::RgbImage::from_fn(picture.width(), picture.height(), |x, y| {
        let [red, green, blue, alpha] = picture.get_pixel(x, y).0;
        let alpha = u32::from(alpha);
        let over = |value: u8| ((u32::from(value) * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
        image::Rgb([over(red), over(green), over(blue)])
    })
}

/// True if a jpeg has its end mark behind the pixels (ITU-T T.81, annex B): the decoder fills what is missing with grey.
fn has_end(bytes: &[u8]) -> bool {
    // segments: a mark of two bytes, then the length of what follows, up to the start of a scan; previews in them have
    // marks of their own
    let mut at = 2;
    while let Some(&[0xff, mark, high, low]) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        match mark {
            0xff => at += 1,
            0xda => return bytes[at..].windows(2).any(|pair| pair == [0xff, 0xd9]),
            _ => at += 2 + usize::from(u16::from_be_bytes([high, low])),
        }
    }
    false
}
