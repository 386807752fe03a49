//! JSON lines, and samples without labels.

use super::*;

const LINES: &str = "{\"id\": \"p\", \"a0\": 1, \"a1\": 2.5, \"say\": \"hello\", \"y\": \"dog\", \"tags\": [1, {\"b\": []}]}\n\n\
    {\"id\": 7, \"a1\": null, \"say\": \" \", \"y\": 0, \"tags\": {}}\r\n\
    {\"id\": \"r\", \"a0\": true, \"a1\": -3, \"say\": 12, \"y\": \"1\"}";

fn layout(more: &str) -> String {
    format!(
        "name = \"toy\"\nclasses = [\"cat\", \"dog\"]\n[modalities.a]\nfile = \"t.jsonl\"\n{more}\n\
        [label]\nfile = \"t.jsonl\"\nkey = \"y\"\n"
    )
}

#[test]
fn lines_are_features_texts_labels_and_ids() {
    let read = |more: &str| load(&[("dataset.toml", &layout(more)), ("t.jsonl", LINES)]).unwrap();
    let toy = read("prefix = \"a\"\nmissing = \"nan\"");
    assert_eq!(toy.samples.modalities[0].values, [1.0, 2.5, 0.0, 0.0, 1.0, -3.0]);
    assert_eq!((toy.samples.present.as_slice(), toy.samples.labels.as_slice()), (&[1, 0, 1][..], &[1, 0, 1][..]));
    assert_eq!(read("columns = [\"a1\"]\nmissing = \"any-nan\"").samples.modalities[0].values, [2.5, 0.0, -3.0]);
    let texts = read("text = \"say\"\nbytes = 5\nmissing = \"nan\"");
    assert_eq!(texts.samples.present, [1, 0, 1]);
    assert_eq!(texts.samples.modalities[0].row(2), [49.0, 50.0, 0.0, 0.0, 0.0]);
    // a key that only one file of a list has
    let more = "prefix = \"a\"\nmissing = \"any-nan\"";
    let list = layout(more).replace("\"t.jsonl\"", "[\"t.jsonl\", \"u.jsonl\"]");
    let list = load(&[("dataset.toml", &list), ("t.jsonl", LINES), ("u.jsonl", "{\"y\": 1, \"a0\": 4}")]).unwrap();
    assert_eq!((list.samples.modalities[0].dim, list.samples.present.as_slice()), (2, &[1, 0, 1, 0][..]));
    // joined with a table, whose ids are texts and numbers too
    let joined = layout("prefix = \"b\"").replacen("t.jsonl", "b.csv", 1).replace("classes =", "id = \"id\"\nclasses =");
    let joined = load(&[("dataset.toml", &joined), ("t.jsonl", LINES), ("b.csv", "b,id\n3,r\n1,p\n2,7\n")]).unwrap();
    assert_eq!(joined.samples.modalities[0].values, [1.0, 2.0, 3.0]);
}

#[test]
fn lines_that_cannot_be_read_are_named() {
    let long = format!("{{\"y\": \"{}\"}}", "x".repeat(1 << 20));
    for (more, lines, why) in [
        ("prefix = \"a\"", LINES, "t.jsonl, modality a, row 1, column a0: is not a number or empty"),
        ("prefix = \"b\"", LINES, "t.jsonl: no key starts with \"b\""),
        ("columns = [\"sayy\"]", LINES, "t.jsonl: there is no key \"sayy\"; did you mean \"say\"? It has a0, a1"),
        ("columns = [\"tags\"]", LINES, "t.jsonl, line 1, key tags: is a list or an object; a number, a text"),
        ("columns = [\"say\"]", LINES, "t.jsonl, line 1, key say: \"hello\" is not a number"),
        ("key = \"a0\"", LINES, "`key`, `slice` and `size` are for arrays"),
        ("", LINES, "say which keys are features"),
        ("prefix = \"a\"", "{\"y\": 0, \"a\": 1}\n[1]", "t.jsonl, line 2: is not a JSON object: invalid type"),
        (
            "prefix = \"a\"",
            "{\"y\": 0, \"a\": 1, \"a\": 2}",
            "t.jsonl, line 1: is not a JSON object: the key \"a\" is there twice",
        ),
        ("prefix = \"a\"", "{\"y\": 0, \"a\": 1", "t.jsonl, line 1: is not a JSON object: EOF"),
        ("prefix = \"a\"", "{\"y\": 0, \"a\": 1e999}", "t.jsonl, line 1: is not a JSON object: number out of range"),
        ("prefix = \"a\"", "", "t.jsonl: there is no key \"y\""),
        ("prefix = \"a\"", &long, "t.jsonl, line 1: has 1048585 bytes; at most 1048576 are read"),
        ("text = \"tags\"\nbytes = 3", LINES, "t.jsonl, line 1, key tags: is a list"),
    ] {
        let refused = refusal(&[("dataset.toml", &layout(more)), ("t.jsonl", lines)]);
        assert!(refused.contains(why), "{more}: {refused}");
    }
}

#[test]
fn samples_may_have_no_labels() {
    let samples = "[samples]\nfile = \"t.jsonl\"\n";
    let plain =
        format!("name = \"toy\"\n[modalities.a]\nfile = \"t.jsonl\"\ntext = \"say\"\nbytes = 5\nmissing = \"nan\"\n{samples}");
    let toy = load(&[("dataset.toml", &plain), ("t.jsonl", LINES)]).unwrap();
    assert_eq!((toy.samples.labels.as_slice(), toy.classes.len(), toy.is_labelled()), (&[0, 0, 0][..], 2, false));
    let labelled = layout("prefix = \"a\"\nmissing = \"nan\"");
    assert!(load(&[("dataset.toml", &labelled), ("t.jsonl", LINES)]).unwrap().is_labelled());
    for (layout, why) in [
        (plain.replace("name =", "classes = 2\nname ="), "`classes` is not valid: samples without labels have none"),
        (format!("{labelled}{samples}"), "`samples` is not valid: [label] says which samples there are"),
        (labelled.replace("classes = [\"cat\", \"dog\"]", ""), "`classes` is not valid: give their number or their names"),
        (plain.replace(samples, ""), "`label` is not valid: say where the labels are; for samples without labels"),
        (plain.replace("[samples]\n", "[samples]\nunknown = 2\n"), "unknown key `unknown` in [samples]"),
    ] {
        let refused = refusal(&[("dataset.toml", &layout), ("t.jsonl", LINES)]);
        assert!(refused.contains(why), "{refused}");
    }
    // the rows of an array, joined in their order
    let array = "name = \"f\"\n[modalities.m]\nfile = \"x.npy\"\n[samples]\nfile = \"x.npy\"\n";
    let npy: &[u8] = include_bytes!("../../../../known_answers/data/column.npy");
    let read = Dataset::from_files(&[("dataset.toml", array.as_bytes()), ("x.npy", npy)]).unwrap();
    assert_eq!(read.samples.len(), 3);
}
