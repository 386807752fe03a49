//! Shards: tar files of samples.

use super::pictures::{encoded, flag};
use super::*;
use image::ImageFormat;

/// A tar file of these members.
fn shard(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

const LAYOUT: &str = "name = \"web\"\nclasses = 3\n[modalities.image]\nfile = \"s-{00..01}.tar\"\nimage = \"png\"\nsize = 1\n\
    missing = \"nan\"\n[modalities.text]\nfile = \"s-{00..01}.tar\"\ntext = \"txt\"\nbytes = 4\nmissing = \"nan\"\n\
    [label]\nfile = \"s-{00..01}.tar\"\nkey = \"json:label\"\n";

fn read(layout: &str, shards: &[&[u8]]) -> Result<Dataset, DataError> {
    let names = ["s-00.tar", "s-01.tar"];
    let shards = names.into_iter().zip(shards.iter().copied());
    Dataset::from_files(&[("dataset.toml", layout.as_bytes())].into_iter().chain(shards).collect::<Vec<_>>())
}

fn two() -> [Vec<u8>; 2] {
    let picture = encoded(&flag(9, 3), ImageFormat::Png);
    let long = format!("{}/c.json", "d".repeat(150));
    [
        shard(&[
            ("./x/a.b.png", b"not asked for"),
            ("./x/a.png", &picture),
            ("./x/a.txt", b" hi\n"),
            ("./x/a.json", b"{\"label\": 2, \"caption\": \"long one\", \"more\": [1]}"),
            ("._hidden.png", b""),
            ("x/b.json", b"{\"label\": 0, \"caption\": \"\"}"),
            ("x/b.txt", b"b"),
            ("x/b.PNG", &picture),
        ]),
        shard(&[(&long, b"{\"label\": 1}"), (&long.replace("json", "png"), &picture)]),
    ]
}

#[test]
fn members_are_grouped_by_name() {
    let [one, two] = two();
    let web = read(LAYOUT, &[&one, &two]).unwrap();
    assert_eq!((web.samples.labels.as_slice(), web.samples.present.as_slice()), (&[2, 0, 1][..], &[3, 3, 1][..]));
    let green = web.samples.modalities[0].values.iter().map(|value| value.round()).collect::<Vec<_>>();
    assert_eq!(green, [0.0, 200.0, 0.0].repeat(3));
    assert_eq!(web.samples.modalities[1].values, [104.0, 105.0, 0.0, 0.0, 98.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    let captions = read(&LAYOUT.replace("\"txt\"", "\"json:caption\""), &[&one, &two]).unwrap();
    assert_eq!(captions.samples.present, [3, 1, 1]);
    assert_eq!(captions.notes, ["s-00.tar, s-01.tar, modality text: 1 texts are longer than 4 bytes and were cut"]);
    // joined with a table by the names of the samples
    let joined = "name = \"web\"\nid = \"__key__\"\nclasses = 2\n[modalities.t]\nfile = \"s-00.tar\"\ntext = \"txt\"\nbytes = 2\n\
        [label]\nfile = \"l.csv\"\nkey = \"y\"\n";
    let files: [(&str, &[u8]); 3] =
        [("dataset.toml", joined.as_bytes()), ("s-00.tar", &one), ("l.csv", b"y,__key__\n1,x/b\n0,x/a\n")];
    let joined = Dataset::from_files(&files).unwrap();
    assert_eq!((joined.samples.labels.as_slice(), joined.samples.modalities[0].row(0)), (&[1, 0][..], &[98.0, 0.0][..]));
}

#[test]
fn shards_that_are_cut_off_are_refused() {
    let [one, two] = two();
    for cut in 0..one.len() - 512 {
        let refused = read(LAYOUT, &[&one[..cut], &two]).map(|_| ()).unwrap_err().to_string();
        assert!(refused.starts_with("s-00.tar"), "{cut}: {refused}");
    }
    // one block of the mark at the end is enough
    assert!(read(LAYOUT, &[&one[..one.len() - 512], &two]).is_ok());
    let refused = read(LAYOUT, &[&one[..one.len() - 1024], &two]).unwrap_err().to_string();
    assert!(refused.contains("is the file cut off?"), "{refused}");
}

#[test]
fn what_is_wrong_with_a_shard_is_said() {
    let [one, two] = two();
    let own = |members: &[(&str, &[u8])]| read(LAYOUT, &[&one, &shard(members)]).map(|_| ()).unwrap_err().to_string();
    for (refused, why) in [
        (own(&[("a.json", b"{\"label\": 1}"), ("a.json", b"{}")]), "s-01.tar, member a.json: is there twice"),
        (own(&[("a.json", b"{\"label\": [1]}")]), "in s-01.tar, member a.json, key label: is a list or an object"),
        (
            own(&[("a.json", b"{\"label\": 1, \"label\": 1}")]),
            "member a.json: is not a JSON object: the key \"label\" is there twice",
        ),
        (own(&[("a.json", b"{")]), "member a.json: is not a JSON object: EOF"),
        (own(&[("a.json", b"{\"label\": 1}"), ("a.txt", b"\xff")]), "member a.txt: is not text in UTF-8"),
        (own(&[("a.txt", b"hi")]), "s-00.tar, s-01.tar, key json:label, row 2: the label \"\" is neither"),
        (own(&[("a.json", b"{\"label\": 1}"), ("b.png", b"")]), "row 3: the label \"\" is neither"),
        (
            own(&[("a.json", b"{\"label\": 1}"), ("a.txt", b""), ("a.png", b"")]),
            "1 of 3 pictures cannot be read, and `skip` allows 0: a.png (is no picture",
        ),
    ] {
        assert!(refused.contains(why), "{refused}");
    }
    for (right, wrong, why) in [
        ("\"png\"", "\"pngs\"", "there is no member that ends in \"pngs\"; did you mean \"png\"?"),
        ("\"txt\"", "\"json:\"", "modality text, row 0: there is no text"),
        ("json:label", "jsonl:label", "did you mean \"json\"?"),
    ] {
        let layout = LAYOUT.replace(right, wrong).replace("missing = \"nan\"\n[label]", "[label]");
        let refused = read(&layout, &[&one, &two]).unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
    let numbers = LAYOUT.replace("text = \"txt\"\nbytes = 4", "key = \"txt\"");
    assert!(read(&numbers, &[&one, &two]).unwrap_err().to_string().contains("a shard gives pictures"));
    let unnamed = LAYOUT.replace("key = \"json:label\"", "");
    assert!(read(&unnamed, &[&one, &two]).unwrap_err().to_string().contains("name the member with `key`"));
    let mut link = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    link.append_link(&mut header, "a.png", "/etc/passwd").unwrap();
    let refused = read(LAYOUT, &[&one, &link.into_inner().unwrap()]).unwrap_err().to_string();
    assert!(refused.contains("s-01.tar, member a.png: is a link or another special file"), "{refused}");
}

proptest! {
    #[test]
    fn damaged_shards_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5)) {
        let [mut one, two] = two();
        for (at, byte) in flips {
            let at = at.index(one.len());
            one[at] = byte;
        }
        let _ = read(LAYOUT, &[&one, &two]);
    }
}
