mod emoji;
mod lines;
mod pictures;
mod shards;

use super::*;
use crate::data::Modality;
use proptest::prelude::*;
use std::path::PathBuf;

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

const TABLE: &str = "id,a0,a1,b0,label,who,fold\n\
    p,1,2,3,cat,x,0\n\
    q,4,5,6,dog,x,1\n\
    r,7,8,9,cat,y,1\n";

fn toml(more: &str) -> String {
    format!(
        "name = \"toy\"\nclasses = [\"cat\", \"dog\"]\n{more}\n\
        [modalities.a]\nfile = \"t.csv\"\nprefix = \"a\"\n\
        [modalities.b]\nfile = \"t.csv\"\ncolumns = [\"b0\"]\n\
        [label]\nfile = \"t.csv\"\nkey = \"label\"\n"
    )
}

fn load(files: &[(&str, &str)]) -> Result<Dataset, DataError> {
    Dataset::load(folder(files).path())
}

/// The message, without the name of the temporary folder.
fn refusal(files: &[(&str, &str)]) -> String {
    let folder = folder(files);
    let message = Dataset::load(folder.path()).unwrap_err().to_string();
    message.replace(&format!("{}/", folder.path().display()), "")
}

fn mfeat(file: &str) -> Dataset {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", builtin::MFEAT, file].iter().collect();
    Dataset::load(&folder).unwrap()
}

#[test]
fn the_documented_layout_is_valid() {
    let docs = include_str!("../dataset.rs").split("//! ```").nth(1).unwrap();
    let layout = layout::Layout::parse(&docs.replace("toml", "").replace("//!", "")).unwrap();
    assert_eq!((layout.name.as_str(), layout.modalities.len(), layout.classes.len()), ("wards", 2, 2));
    assert!(
        layout.fold.is_some()
            && layout.client.is_some()
            && matches!(layout.listing, layout::Listing::Label(label) if label.unknown == Some(255))
    );
}

#[test]
fn digits_are_what_their_card_says() {
    let digits = Dataset::builtin("digits").unwrap();
    assert_eq!((digits.samples.len(), digits.classes.len()), (1797, 10));
    assert_eq!(digits.dims(), [("left".to_owned(), 32), ("right".to_owned(), 32)].into());
    assert!(digits.samples.present.iter().all(|&mask| mask == 3));
    assert_eq!(digits.card.licence, "CC BY 4.0");
    let known: serde_json::Value = serde_json::from_slice(include_bytes!("../../../known_answers/data/expected.json")).unwrap();
    for modality in &digits.samples.modalities {
        let known = &known[format!("digits_{}", modality.name)];
        let sums: Vec<f64> = serde_json::from_value(known["sums"].clone()).unwrap();
        let last: Vec<f32> = serde_json::from_value(known["last_row"].clone()).unwrap();
        let own = (0..32).map(|feature| (0..1797).map(|row| f64::from(modality.row(row)[feature])).sum::<f64>());
        assert_eq!(own.collect::<Vec<_>>(), sums);
        assert_eq!(modality.row(1796), last);
    }
    let folds = digits.fold.as_ref().unwrap();
    assert_eq!((0..5).map(|fold| folds.iter().filter(|&&of| of == fold).count()).sum::<usize>(), 1797);
}

#[test]
fn a_folder_and_the_binary_hold_the_same_digits() {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "deploy", "data", "digits"].iter().collect();
    let (folder, binary) = (Dataset::load(&path).unwrap(), Dataset::open("digits").unwrap());
    assert_eq!(folder, binary);
    assert_eq!(Dataset::load(&path.join("dataset.toml")).unwrap().digest, binary.digest);
}

#[test]
fn mfeat_has_six_views() {
    let mfeat = mfeat("dataset.toml");
    assert_eq!((mfeat.samples.len(), mfeat.classes.len()), (2000, 10));
    let dims = [("fac", 216), ("fou", 76), ("kar", 64), ("mor", 6), ("pix", 240), ("zer", 47)];
    assert_eq!(mfeat.dims(), dims.map(|(name, dim)| (name.to_owned(), dim)).into());
    assert!((0..10).all(|class| mfeat.samples.labels.iter().filter(|&&label| label == class).count() == 200));
}

#[test]
fn tables_and_tensors_of_the_same_views_agree() {
    let (tensors, tables) = (mfeat("dataset.toml"), mfeat("tables.toml"));
    assert_eq!(tables.samples.labels, tensors.samples.labels);
    for own in &tables.samples.modalities {
        let theirs = tensors.samples.modalities.iter().find(|modality| modality.name == own.name).unwrap();
        assert_eq!(own.values.len(), theirs.values.len());
        // the tables have six digits
        for (a, b) in own.values.iter().zip(&theirs.values) {
            assert!((a - b).abs() <= 1e-5 * b.abs(), "{}: {a} {b}", own.name);
        }
    }
}

#[test]
fn columns_of_a_table_become_modalities() {
    let more = "[fold]\nfile = \"t.csv\"\nkey = \"fold\"\n[client]\nfile = \"t.csv\"\nkey = \"who\"\n";
    let toy = load(&[("dataset.toml", &(toml("") + more)), ("t.csv", TABLE)]).unwrap();
    assert_eq!(toy.samples.labels, [0, 1, 0]);
    let m = |name: &str, dim, values: &[f32]| Modality { name: name.into(), dim, values: values.to_vec() };
    assert_eq!(toy.samples.modalities, [m("a", 2, &[1.0, 2.0, 4.0, 5.0, 7.0, 8.0]), m("b", 1, &[3.0, 6.0, 9.0])]);
    assert_eq!(toy.samples.present, [3, 3, 3]);
    assert_eq!(toy.fold.as_deref(), Some(&[0, 1, 1][..]));
    assert_eq!(toy.client.as_deref(), Some(&["x", "x", "y"].map(str::to_owned)[..]));
}

#[test]
fn files_are_joined_by_id() {
    let layout = |missing: &str| {
        format!(
            "name = \"toy\"\nclasses = 2\nid = \"id\"\n\
            [modalities.a]\nfile = \"a.csv\"\nprefix = \"a\"\n{missing}\n[label]\nfile = \"l.csv\"\nkey = \"y\"\n"
        )
    };
    let labels = "id,y\np,0\nq,1\nr,1\n";
    let shuffled = "a,id\n3,r\n1,p\n2,q\n";
    let toy = load(&[("dataset.toml", &layout("")), ("a.csv", shuffled), ("l.csv", labels)]).unwrap();
    assert_eq!(toy.samples.modalities[0].values, [1.0, 2.0, 3.0]);
    let short = "a,id\n3,r\n1,p\n";
    let toy = load(&[("dataset.toml", &layout("missing = \"nan\"")), ("a.csv", short), ("l.csv", labels)]).unwrap();
    assert_eq!(toy.samples.modalities[0].values, [1.0, 0.0, 3.0]);
    assert_eq!(toy.samples.present, [1, 0, 1]);
    for (a, why) in [
        (short, "a.csv, modality a: has no row for the id \"q\"; if such samples lack a, say `missing = \"nan\"`"),
        ("a,id\n3,s\n", "a.csv, row 0: the id \"s\" has no label in l.csv"),
        ("a,id\n3,r\n4,r\n", "a.csv, column id, row 1: the id \"r\" is there already in row 0"),
        ("a,id\n3,\n", "a.csv, column id, row 0: the id is empty"),
        (
            "a,ID\n3,p\n",
            "a.csv: there is no column \"id\"; it has a, ID. The data set joins its files by `id = \"id\"`, so each needs it",
        ),
    ] {
        assert_eq!(refusal(&[("dataset.toml", &layout("")), ("a.csv", a), ("l.csv", labels)]), why);
    }
}

#[test]
fn missing_values_are_refused_unless_declared() {
    let layout = |missing: &str| {
        format!(
            "name = \"toy\"\nclasses = 2\n[modalities.a]\nfile = \"t.csv\"\nprefix = \"a\"\n{missing}\n\
            [label]\nfile = \"t.csv\"\nkey = \"y\"\nunknown = 255\n"
        )
    };
    let table = "a0,a1,has,y\n1,2,1,0\n,NaN,0,1\n5,6,1,255\n7,8,0,1\n";
    let masks =
        |missing: &str, table: &str| load(&[("dataset.toml", &layout(missing)), ("t.csv", table)]).map(|d| d.samples.present);
    // the third sample has no known label and is left out
    assert_eq!(masks("missing = \"nan\"", table).unwrap(), [1, 0, 1]);
    assert_eq!(masks("has = { key = \"has\" }", table).unwrap(), [1, 0, 0]);
    let toy = load(&[("dataset.toml", &layout("has = { file = \"t.csv\", key = \"has\" }")), ("t.csv", table)]).unwrap();
    assert_eq!(toy.samples.modalities[0].values, [1.0, 2.0, 0.0, 0.0, 0.0, 0.0]);
    let partial = "a0,a1,y\n1,2,0\n3,,1\n";
    assert_eq!(masks("missing = \"any-nan\"", partial).unwrap(), [1, 0]);
    let refused = |missing: &str, table: &str| refusal(&[("dataset.toml", &layout(missing)), ("t.csv", table)]);
    assert!(refused("", table).starts_with("t.csv, modality a, row 1, column a0: is not a number or empty"));
    assert!(refused("missing = \"nan\"", partial).starts_with("t.csv, modality a, row 1, column a1: is missing while other"));
    let infinite = "a0,a1,y\n1,2,0\n3,1e300,1\n";
    assert_eq!(
        refused("missing = \"nan\"", infinite),
        "t.csv, modality a, row 1, column a1: is infinite, or too large for 32 bits"
    );
    let has = "a0,has,y\n1,1,0\n2,2,0\n";
    assert_eq!(
        refused("has = { key = \"has\" }", has),
        "t.csv, key has, row 1: \"2\" is neither 1 (has the modality) nor 0 (lacks it)"
    );
    assert!(refused("has = { key = \"has\" }\nmissing = \"nan\"", has).contains("give `missing` or `has`, not both"));
}

#[test]
fn what_is_wrong_with_a_layout_is_said() {
    let long = TABLE.to_owned() + "s,1,1,1,cat,y,0\n";
    let fold = "[fold]\nfile = \"u.csv\"\nkey = \"fold\"\n";
    let odd = TABLE.replace("9,cat,y,1", "9,cow,y,1");
    for (toml, table, why) in [
        (toml("clases = 2"), TABLE, "unknown key `clases` in [dataset]: did you mean `classes`?"),
        (toml("").replace("prefix", "prefx"), TABLE, "unknown key `prefx` in [modalities.a]: did you mean `prefix`?"),
        (toml("").replace("key", "keys"), TABLE, "unknown key `keys` in [label]: did you mean `key`?"),
        (toml("").replace("name =", "nam3 ="), TABLE, "did you mean `name`?"),
        (toml("version = 2"), TABLE, "`version` is not valid: this build reads version 1"),
        (toml("").replace("[\"cat\", \"dog\"]", "\"two\""), TABLE, "`classes` is a number, or a list of names"),
        (toml("").replace("[\"cat\", \"dog\"]", "1000000"), TABLE, "`classes` is not valid: there can be at most 100000"),
        (
            toml("").replace("[\"cat\", \"dog\"]", "1"),
            TABLE,
            "t.csv, key label, row 0: the label \"cat\" is neither one of 0 to 0 nor",
        ),
        (toml("").replace("t.csv", "../t.csv"), TABLE, "a data set's files lie in its own folder"),
        (toml("").replace("t.csv", "/t.csv"), TABLE, "a data set's files lie in its own folder"),
        (toml("").replace("t.csv", "none.csv"), TABLE, "cannot read none.csv: No such file"),
        (toml("").replace("modalities.b", "modalities.fused"), TABLE, "toy, modality fused: not a usable name"),
        (toml(""), &odd, "t.csv, key label, row 2: the label \"cow\" is neither one of 0 to 1 nor the name of a class"),
        (toml("") + fold, TABLE, "u.csv: has 4 rows, but t.csv, which holds the labels, has 3"),
        (toml("[[["), TABLE, "dataset.toml: "),
    ] {
        let refused = refusal(&[("dataset.toml", &toml), ("t.csv", table), ("u.csv", &long)]);
        assert!(refused.contains(why), "{refused}");
    }
    assert!(
        Dataset::open("digit")
            .unwrap_err()
            .to_string()
            .contains("did you mean \"digits\"? These come with Tessera: digits, mfeat")
    );
    assert!(Dataset::builtin("mfeat").unwrap_err().to_string().starts_with("mfeat: is not part of the binary"));
}

fn toy(labels: &[u32], present: &[u32], values: &[f32]) -> Result<Dataset, DataError> {
    let modality = Modality { name: "a".into(), dim: 1, values: values.to_vec() };
    let samples = Samples { modalities: vec![modality], labels: labels.to_vec(), present: present.to_vec() };
    Dataset::new("toy", vec!["x".into(), "y".into()], samples, None, None, Card::default())
}

#[test]
fn the_digest_is_of_the_contents() {
    let base = toy(&[0, 1], &[1, 1], &[1.0, 2.0]).unwrap();
    assert_eq!(base.digest, toy(&[0, 1], &[1, 1], &[1.0, 2.0]).unwrap().digest);
    for other in [toy(&[1, 0], &[1, 1], &[1.0, 2.0]), toy(&[0, 1], &[1, 0], &[1.0, 2.0]), toy(&[0, 1], &[1, 1], &[1.0, 3.0])] {
        assert_ne!(base.digest, other.unwrap().digest);
    }
    // what a sample lacks is no content
    assert_eq!(toy(&[0, 1], &[1, 0], &[1.0, 2.0]).unwrap(), toy(&[0, 1], &[1, 0], &[1.0, f32::NAN]).unwrap());
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    for (made, why) in [
        (toy(&[0, 2], &[1, 1], &[1.0, 2.0]), "toy, row 1: the label 2 is not below the number of classes, 2"),
        (toy(&[0, 1], &[1, 2], &[1.0, 2.0]), "toy, row 1: a presence bit of a modality that does not exist"),
        (toy(&[0, 1], &[1], &[1.0, 2.0]), "toy: has 2 labels, but not as many presence bits, folds or clients"),
        (toy(&[0, 1], &[1, 1], &[1.0]), "toy, modality a: 1 values are not 2 samples of 1 features"),
        (toy(&[0, 1], &[1, 1], &[1.0, f32::INFINITY]), "toy, modality a, row 1, feature 0: inf is not a finite number"),
        (toy(&[], &[], &[]), "toy: holds no samples"),
    ] {
        assert_eq!(made.unwrap_err().to_string(), why);
    }
}

proptest! {
    #[test]
    fn damaged_layouts_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<char>()), 1..4)) {
        let mut text: Vec<char> = toml("id = \"id\"").chars().collect();
        for (at, char) in flips {
            let at = at.index(text.len());
            text[at] = char;
        }
        let text: String = text.into_iter().collect();
        if let Ok(dataset) = load(&[("dataset.toml", &text), ("t.csv", TABLE)]) {
            prop_assert_eq!(dataset.samples.len(), 3);
        }
    }
}
