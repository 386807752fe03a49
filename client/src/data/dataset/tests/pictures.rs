//! Files of pictures.

use super::*;
use crate::data::dataset::pictures::decode_all;
use crate::data::reader::Encoded;
use image::{DynamicImage, ImageFormat, Rgb, Rgba};
use std::io::Cursor;

/// A picture in a format.
pub(super) fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// Wide and red, green and blue in thirds.
pub(super) fn flag(width: u32, height: u32) -> DynamicImage {
    let colours = [Rgb([200, 0, 0]), Rgb([0, 200, 0]), Rgb([0, 0, 200])];
    image::RgbImage::from_fn(width, height, |x, _| colours[(x * 3 / width) as usize]).into()
}

fn layout(more: &str) -> String {
    format!(
        "name = \"toy\"\nclasses = 2\n[modalities.image]\nfile = \"t.tsv\"\nimage = \"path\"\nsize = 2\n{more}\n\
        [label]\nfile = \"t.tsv\"\nkey = \"y\"\n"
    )
}

/// A data set of these pictures.
fn gallery(more: &str, files: &[(&str, &[u8])]) -> Result<Dataset, DataError> {
    let rows: Vec<String> = files.iter().map(|(path, _)| format!("{path}\t0\n")).collect();
    let (layout, table) = (layout(more), format!("path\ty\n{}", rows.concat()));
    let own = [("dataset.toml", layout.as_bytes()), ("t.tsv", table.as_bytes())];
    Dataset::from_files(&[&own[..], files].concat())
}

#[test]
fn every_format_is_read_and_cut_to_its_middle() {
    let flag = flag(90, 30);
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif, ImageFormat::WebP, ImageFormat::Bmp] {
        let bytes = encoded(&flag, format);
        // the name says nothing; the bytes do
        let read = gallery("", &[("a/b.txt", &bytes)]).unwrap();
        let values = read.samples.modalities[0].row(0);
        let green = [[0.0f32; 4], [200.0; 4], [0.0; 4]].concat();
        assert!(values.iter().zip(&green).all(|(own, green)| (own - green).abs() < 6.0), "{format:?}: {values:?}");
        // whatever is cut off is not there
        for part in [1, 2, 3] {
            let cut = &bytes[..bytes.len() * part / 4];
            let refused = gallery("", &[("cut", cut)]).unwrap_err().to_string();
            assert!(refused.contains("1 of 1 pictures cannot be read, and `skip` allows 0: cut (is"), "{format:?}: {refused}");
        }
    }
}

#[test]
fn what_is_transparent_is_white_and_grey_is_grey() {
    let half = image::RgbaImage::from_fn(2, 2, |x, y| Rgba([0, 0, 100, [0, 255, 128, 255][(y * 2 + x) as usize]]));
    let read = gallery("", &[("a.png", &encoded(&half.into(), ImageFormat::Png))]).unwrap();
    let expected = [[255.0, 0.0, 127.0, 0.0], [255.0, 0.0, 127.0, 0.0], [255.0, 100.0, 177.0, 100.0]].concat();
    assert_eq!(read.samples.modalities[0].row(0), expected);
    let grey = image::GrayImage::from_fn(2, 2, |x, y| image::Luma([(x + 2 * y) as u8 * 80]));
    let read = gallery("", &[("a.png", &encoded(&grey.into(), ImageFormat::Png))]).unwrap();
    assert_eq!(read.samples.modalities[0].row(0), [0.0, 80.0, 160.0, 240.0].repeat(3));
}

#[test]
fn a_picture_is_turned_as_it_was_taken() {
    // red above blue, and a note of the camera (EXIF orientation 3) that it was held upside down
    let picture = image::RgbImage::from_fn(16, 16, |_, y| if y < 8 { Rgb([250, 0, 0]) } else { Rgb([0, 0, 250]) });
    let plain = encoded(&picture.into(), ImageFormat::Jpeg);
    let exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x03\0\0\0\0\0\0";
    let length = (exif.len() as u16 + 2).to_be_bytes();
    let turned = [&plain[..2], &[0xff, 0xe1], &length, exif, &plain[2..]].concat();
    let red = |bytes: &[u8]| gallery("", &[("a.jpg", bytes)]).unwrap().samples.modalities[0].row(0)[..4].to_vec();
    let (plain, turned) = (red(&plain), red(&turned));
    assert!(plain[0] > 200.0 && plain[2] < 50.0 && turned[0] < 50.0 && turned[2] > 200.0, "{plain:?} {turned:?}");
}

/// A png that says it is `side` pixels wide and high, and has none.
fn bomb(side: u32) -> Vec<u8> {
    let mut png = encoded(&flag(3, 3), ImageFormat::Png);
    png[16..20].copy_from_slice(&side.to_be_bytes());
    png[20..24].copy_from_slice(&side.to_be_bytes());
    let crc = !png[12..29].iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    });
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    png
}

#[test]
fn pictures_that_cannot_be_read_are_named_and_skipped() {
    let good = encoded(&flag(6, 6), ImageFormat::Png);
    let mut broken = good.clone();
    let middle = broken.len() / 2;
    broken[middle] ^= 0xff;
    let (huge, large) = (bomb(60_000), bomb(16_000));
    let files: &[(&str, &[u8])] = &[
        ("a.png", &good),
        ("b.png", &broken),
        ("c.png", &good),
        ("d.png", &huge),
        ("e.png", &large),
        ("f.png", b""),
        ("g.png", b"no picture"),
        ("h.png", &good[..20]),
    ];
    let refused = gallery("", files).unwrap_err().to_string();
    assert!(
        refused.starts_with("t.tsv, modality image: 6 of 8 pictures cannot be read, and `skip` allows 0: b.png (is"),
        "{refused}"
    );
    for part in [
        "d.png (is larger than 16384 x 16384 pixels or than 32 MiB, the most for a file of its size)",
        "e.png (is larger than",
        "f.png (is no picture of a kind that is read: png, jpeg, gif, webp or bmp)",
        "h.png (is not a whole picture",
        "With `skip = 6` their samples lack it",
    ] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    assert!(gallery("skip = 5", files).unwrap_err().to_string().contains("`skip` allows 5"));
    let read = gallery("skip = 6", files).unwrap();
    assert_eq!(read.samples.present, [1, 0, 1, 0, 0, 0, 0, 0]);
    assert!(read.notes[0].starts_with("t.tsv, modality image: 6 of 8 pictures cannot be read, and their samples lack it: b.png"));
    assert!(read.notes[0].contains("g.png") && read.notes[0].ends_with(", ..."), "{}", read.notes[0]);
}

#[test]
fn paths_stay_in_the_folder() {
    let table = |path: &str| format!("path\ty\n{path}\t0\n");
    let good = encoded(&flag(6, 6), ImageFormat::Png);
    let read = |more: &str, path: &str| {
        let folder = folder(&[("dataset.toml", &layout(more)), ("t.tsv", &table(path))]);
        std::fs::create_dir(folder.path().join("in")).unwrap();
        std::fs::write(folder.path().join("in/a.png"), &good).unwrap();
        Dataset::load(folder.path()).map_err(|e| e.to_string().replace(&format!("{}/", folder.path().display()), ""))
    };
    assert_eq!(read("", "in/a.png").unwrap().samples.present, [1]);
    // `skip` is for pictures, not for paths that should not be there
    for path in ["../a.png", "/etc/passwd", "in/../../a.png", "./in/../a.png"] {
        let refused = read("skip = 9", path).unwrap_err();
        assert!(refused.contains("row 0") && refused.contains("a data set's files lie in its own folder"), "{refused}");
    }
    assert!(read("", "in/b.png").unwrap_err().contains("in/b.png (cannot read in/b.png: No such file"));
    assert!(read("", "in").unwrap_err().contains("is not a regular file"));
    assert!(read("", "").unwrap_err().contains("row 0: there is no picture; `missing = \"nan\"`"));
    assert_eq!(read("missing = \"nan\"", "").unwrap().samples.present, [0]);
    for (more, why) in [
        ("key = \"x\"", "`text` and `image` take no `key`"),
        ("text = \"path\"\nbytes = 2", "give `text` or `image`, not both"),
        ("imag = \"path\"", "did you mean `image`?"),
    ] {
        assert!(read(more, "in/a.png").unwrap_err().contains(why));
    }
    let without = layout("").replace("size = 2\n", "");
    assert!(refusal(&[("dataset.toml", &without), ("t.tsv", &table("a"))]).contains("`image` needs the `size` of the squares"));
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let pictures: Vec<Vec<u8>> = (1..30).map(|n| encoded(&flag(3 * n, 40 - n), ImageFormat::Png)).collect();
    let asked: Vec<Encoded<'_>> = pictures
        .iter()
        .map(|bytes| Encoded::Bytes { name: "x".into(), bytes: if bytes.len() % 5 == 0 { b"" } else { bytes } })
        .collect();
    let read = |threads| {
        let mut out = vec![None; asked.len()];
        decode_all(&Folder::Embedded(&[]), &asked, 4, threads, |at, decoded| {
            assert!(out[at].replace(decoded).is_none());
        });
        out
    };
    let one = read(1);
    assert!(one.iter().all(Option::is_some) && one.iter().any(|read| matches!(read, Some(Ok(_)))));
    for threads in [2, 3, 9, 64] {
        assert_eq!(read(threads), one);
    }
}

#[test]
fn arrays_of_pictures_become_squares() {
    // [2, 2, 4, 3]: channels last, twice as wide as high
    let header = |shape: &str, kind: &str| {
        let text = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n");
        [&b"\x93NUMPY\x01\x00"[..], &(text.len() as u16).to_le_bytes(), text.as_bytes()].concat()
    };
    let pixels: Vec<u8> = (0..48).collect();
    let read = |shape: &str, kind: &str, more: &str| {
        let npy = [header(shape, kind), pixels.clone()].concat();
        let layout = format!("name = \"t\"\n[modalities.i]\nfile = \"x.npy\"\n{more}\n[samples]\nfile = \"x.npy\"\n");
        Dataset::from_files(&[("dataset.toml", layout.as_bytes()), ("x.npy", &npy)])
    };
    let last = read("(2, 2, 4, 3)", "|u1", "size = 2").unwrap();
    assert_eq!(last.samples.modalities[0].row(0), [3.0, 6.0, 15.0, 18.0, 4.0, 7.0, 16.0, 19.0, 5.0, 8.0, 17.0, 20.0]);
    let first = read("(2, 3, 2, 4)", "|u1", "size = 2").unwrap();
    assert_eq!(first.samples.modalities[0].row(1)[..8], [25.0, 26.0, 29.0, 30.0, 33.0, 34.0, 37.0, 38.0]);
    assert_eq!(read("(2, 4, 6)", "|u1", "size = 1").unwrap().samples.modalities[0].row(0), [11.5; 3]);
    for (shape, kind, more, why) in [
        ("(2, 6, 4)", "|i1", "size = 2", "whose elements are bytes (u8)"),
        ("(2, 24)", "|u1", "size = 2", "has shape [2, 24]; pictures are [n, 3, h, w]"),
        ("(2, 2, 4, 3)", "|u1", "size = 2\nslice = [\"..\"]", "leave out `columns` and `slice`"),
        ("(2, 2, 4, 3)", "|u1", "size = 0", "must be 1 to 512"),
        ("(2, 2, 4, 3)", "|u1", "size = 2\nskip = 1", "is for pictures that are named by `image`"),
        ("(2, 2, 4, 3)", "|u1", "size = 2\nimage = \"x\"", "an array holds numbers"),
    ] {
        let refused = read(shape, kind, more).unwrap_err().to_string();
        assert!(refused.contains(why), "{shape}: {refused}");
    }
}
