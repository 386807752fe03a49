//! The emoji that come along, and what they need: lists of files, texts, pictures.

use super::*;

fn emoji(file: &str) -> Dataset {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "deploy", "data", "emoji", file].iter().collect();
    Dataset::load(&folder).unwrap()
}

fn name(dataset: &Dataset, row: usize) -> String {
    let bytes: Vec<u8> = dataset.samples.modalities[1].row(row).iter().map(|&byte| byte as u8).filter(|&byte| byte > 0).collect();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn emoji_are_what_their_card_says() {
    let all = emoji("");
    assert_eq!((all.samples.len(), all.classes.len()), (4936, 91));
    assert_eq!(all.dims(), [("image".to_owned(), 3 * 24 * 24), ("text".to_owned(), 64)].into());
    assert!(all.samples.present.iter().all(|&mask| mask == 3) && all.notes.is_empty());
    let clients = all.client.as_ref().unwrap();
    for (at, vendor) in ["fluent", "noto", "openmoji", "twemoji"].into_iter().enumerate() {
        assert!(clients[1234 * at..1234 * (at + 1)].iter().all(|client| client == vendor));
    }
    // the same emoji, fold and name in each style
    let folds = all.fold.as_ref().unwrap();
    assert!((0..1234).all(|row| folds[row] == folds[row + 3702] && all.samples.labels[row] == all.samples.labels[row + 2468]));
    assert_eq!(
        (name(&all, 0).as_str(), name(&all, 1234 + 700), name(&all, 4935).as_str()),
        ("grinning face", name(&all, 700), "trade mark")
    );
    // by an independent sum over the areas
    let image = &all.samples.modalities[0];
    for (row, sum, some) in [
        (0, 333_312.75, [255.0, 246.5, 45.5, 132.375]),
        (4935, 350_322.75, [255.0, 124.6875, 240.375, 255.0]),
        (2468 + 700, 411_127.312_5, [255.0, 171.0, 255.0, 255.0]),
    ] {
        let own = image.row(row);
        assert!((own.iter().map(|&v| f64::from(v)).sum::<f64>() - sum).abs() < 0.1);
        for (at, value) in [0, 24 * 12 + 12, 576 + 24 * 7 + 9, 1152 + 24 * 20 + 5].into_iter().zip(some) {
            assert!((own[at] - value).abs() < 1e-3, "{row} {at}: {} {value}", own[at]);
        }
    }
}

#[test]
fn parts_of_the_emoji_are_left_out_and_named_otherwise() {
    let (things, groups) = (emoji("things.toml"), emoji("groups.toml"));
    assert_eq!((things.samples.len(), things.classes.len()), (4 * 732, 44));
    assert_eq!((groups.samples.len(), groups.classes.len()), (4936, 8));
    let count = |group: u32| groups.samples.labels[..1234].iter().filter(|&&label| label == group).count();
    assert_eq!((0..8).map(count).collect::<Vec<_>>(), [149, 135, 143, 123, 215, 84, 251, 134]);
    assert_eq!((things.classes[0].as_str(), name(&things, 0).as_str()), ("animal-mammal", "monkey face"));
    assert!((0..44).all(|class| things.samples.labels.contains(&class)));
}

#[test]
fn rows_of_a_list_of_files_follow_each_other() {
    let layout = |files: &str| {
        format!(
            "name = \"toy\"\nclasses = 2\n[modalities.a]\nfile = {files}\nprefix = \"a\"\n\
            [label]\nfile = [\"p-1.csv\", \"p-2.csv\"]\nkey = \"y\"\n"
        )
    };
    let [one, two] = ["a0,y\n1,0\n2,1\n", "a0,y\n3,1\n"];
    for files in ["[\"p-1.csv\", \"p-2.csv\"]", "\"p-{1..2}.csv\""] {
        let toy = load(&[("dataset.toml", &layout(files)), ("p-1.csv", one), ("p-2.csv", two)]).unwrap();
        assert_eq!(
            (toy.samples.modalities[0].values.as_slice(), toy.samples.labels.as_slice()),
            (&[1.0, 2.0, 3.0][..], &[0, 1, 1][..])
        );
    }
    for (files, second, why) in [
        ("[]", two, "`file` names no file"),
        ("\"p-{2..1}.csv\"", two, "must go up"),
        ("\"p-{1..x}.csv\"", two, "\"x\" in the file \"p-{1..x}.csv\" is not a number"),
        ("\"p-{0..99999}.csv\"", two, "over at most 10000 files"),
        ("[\"p-1.csv\", \"p.npy\"]", two, "p.npy: is not of the kind of p-1.csv"),
        ("3", two, "expected the name of a file, or a list of names"),
        ("\"p-1.csv\"", two, "p-1.csv: has 2 rows, but p-1.csv, p-2.csv, which holds the labels, has 3"),
        ("\"p-{1..2}.csv\"", "a0,a1,y\n1,1,1\n", "p-1.csv, p-2.csv, in p-2.csv: has 2 features, p-1.csv has 1"),
        ("\"p-{1..2}.csv\"", "a0,y\nx,1\n", "p-1.csv, p-2.csv, in p-2.csv, column a0, line 2: \"x\" is not a number"),
    ] {
        let refused = refusal(&[("dataset.toml", &layout(files)), ("p-1.csv", one), ("p-2.csv", second)]);
        assert!(refused.contains(why), "{files}: {refused}");
    }
}

#[test]
fn texts_are_their_bytes() {
    let layout = |more: &str| {
        format!(
            "name = \"toy\"\nclasses = 2\n[modalities.t]\nfile = \"t.csv\"\ntext = \"say\"\n{more}\n\
            [label]\nfile = \"t.csv\"\nkey = \"y\"\n"
        )
    };
    let table = "say,y\nab,0\n007,1\n\"a\u{fc}\u{fc}\",0\n,1\n";
    let read = |more: &str| load(&[("dataset.toml", &layout(more)), ("t.csv", table)]);
    let toy = read("bytes = 4\nmissing = \"nan\"").unwrap();
    assert_eq!(toy.samples.present, [1, 1, 1, 0]);
    // the third is cut before its last letter, which has two bytes
    let expected = [*b"ab\0\0", *b"007\0", *b"a\xc3\xbc\0", [0; 4]].concat();
    assert_eq!(toy.samples.modalities[0].values, expected.iter().map(|&b| f32::from(b)).collect::<Vec<_>>());
    assert_eq!(toy.notes, ["t.csv, modality t: 1 texts are longer than 4 bytes and were cut"]);
    for (more, why) in [
        ("bytes = 4", "t.csv, modality t, row 3: there is no text; `missing = \"nan\"`"),
        ("", "`text` and `bytes` go together"),
        ("bytes = 0", "must be 1 to 65536"),
        ("bytes = 4\nsize = 3", "is for pictures; a text has `bytes`"),
        ("bytes = 4\nprefix = \"s\"", "`text` and `image` take no `key`"),
    ] {
        let refused = refusal(&[("dataset.toml", &layout(more)), ("t.csv", table)]);
        assert!(refused.contains(why), "{more}: {refused}");
    }
}
