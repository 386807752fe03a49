use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

macro_rules! known {
    ($name:literal) => {
        include_bytes!(concat!("../../../known_answers/data/", $name)).as_slice()
    };
}

type Rows = Vec<Vec<f32>>;

fn expected(format: &str) -> BTreeMap<String, Rows> {
    let all: serde_json::Value = serde_json::from_slice(known!("expected.json")).unwrap();
    serde_json::from_value(all[format].clone()).unwrap()
}

fn rows(matrix: &Matrix) -> Rows {
    matrix.values.chunks(matrix.dim).map(<[f32]>::to_vec).collect()
}

/// The bits, so that 0 and -0 differ.
fn bits(rows: &Rows) -> Vec<Vec<u32>> {
    rows.iter().map(|row| row.iter().map(|value| value.to_bits()).collect()).collect()
}

fn pick(key: Option<&str>) -> Pick {
    Pick { key: key.map(str::to_owned), ..Pick::default() }
}

fn text(texts: &[&str]) -> Option<Vec<Index>> {
    Some(texts.iter().map(|text| Index::Text((*text).to_owned())).collect())
}

/// The message of an error.
fn refusal<T: std::fmt::Debug>(result: Result<T, Flaw>) -> String {
    let flaw = result.unwrap_err();
    DataError::content("f", flaw).to_string()
}

fn opened(file: &str, bytes: &[u8]) -> Box<dyn Source> {
    open(file, bytes.to_vec()).unwrap()
}

fn npy_refusal(bytes: &[u8]) -> String {
    open("f.npy", bytes.to_vec()).err().unwrap().to_string()
}

#[test]
fn npy_files_read_as_numpy_wrote_them() {
    let files = [
        ("b1", known!("b1.npy")),
        ("u1", known!("u1.npy")),
        ("i1", known!("i1.npy")),
        ("u2", known!("u2.npy")),
        ("i2_big", known!("i2_big.npy")),
        ("u4", known!("u4.npy")),
        ("i4", known!("i4.npy")),
        ("u8", known!("u8.npy")),
        ("i8_big", known!("i8_big.npy")),
        ("f2", known!("f2.npy")),
        ("f4", known!("f4.npy")),
        ("f4_big", known!("f4_big.npy")),
        ("f8", known!("f8.npy")),
    ];
    let expected = expected("npy");
    assert_eq!(expected.len(), files.len());
    for (name, bytes) in files {
        let matrix = opened("x.npy", bytes).matrix(&Pick::default()).unwrap();
        assert_eq!(bits(&rows(&matrix)), bits(&expected[name]), "{name}");
    }
}

#[test]
fn safetensors_files_read_as_python_wrote_them() {
    let source = opened("types.safetensors", known!("types.safetensors"));
    let expected = expected("safetensors");
    assert_eq!(expected.len(), 13);
    for (name, expected) in expected {
        let matrix = source.matrix(&pick(Some(&name))).unwrap();
        assert_eq!(bits(&rows(&matrix)), bits(&expected), "{name}");
    }
}

#[test]
fn a_column_may_be_whole_numbers_of_any_type() {
    let column = |bytes| opened("x.npy", bytes).column(None).unwrap();
    for bytes in [known!("column.npy"), known!("column_f8.npy")] {
        let integers: Vec<_> = column(bytes).iter().map(|value| value.integer().unwrap()).collect();
        assert_eq!(integers, [3, 1, 2]);
    }
    assert_eq!(Scalar::Float(1.5).integer(), None);
    assert_eq!(Scalar::Text("3.0".into()).integer(), Some(3));
    assert_eq!(Scalar::Text("three".into()).integer(), None);
    let wide = refusal(opened("f.npy", known!("f4.npy")).column(None));
    assert_eq!(wide, "f: has shape [2, 3, 2]; one value per sample is expected here");
}

#[test]
fn arrays_that_are_not_samples_are_refused() {
    assert!(npy_refusal(known!("fortran.npy")).contains("is in Fortran order; save numpy.ascontiguousarray(array)"));
    assert!(npy_refusal(known!("text.npy")).contains("elements of type \"<U1\" are not read"));
    assert!(npy_refusal(known!("structured.npy")).contains("its type is not a simple one"));
    let scalar = refusal(opened("f.npy", known!("scalar.npy")).matrix(&Pick::default()));
    assert_eq!(scalar, "f: is a single number; the first axis must be the samples");
    let empty = refusal(opened("f.npy", known!("empty.npy")).matrix(&Pick::default()));
    assert_eq!(empty, "f: holds nothing: its shape is [0, 3]");
    let key = refusal(opened("f.npy", known!("f4.npy")).matrix(&pick(Some("x"))));
    assert!(key.contains("leave out `key`"), "{key}");
    let unknown = refusal(opened("f.safetensors", known!("types.safetensors")).matrix(&pick(Some("f46"))));
    assert!(unknown.contains("there is no array \"f46\"; did you mean \"f"), "{unknown}");
    let unnamed = refusal(opened("f.safetensors", known!("types.safetensors")).matrix(&Pick::default()));
    assert!(unnamed.contains("holds 13 arrays; name one with `key`: bf16, bool"), "{unnamed}");
    let ending = open("notes.txt", Vec::new()).err().unwrap().to_string();
    assert_eq!(
        ending,
        "notes.txt: no reader for files that end so; there are readers for .csv, .jsonl, .npy, .safetensors, .tar, .tsv"
    );
}

/// A header that claims `shape` over no elements at all.
fn npy_with_shape(shape: &str) -> Vec<u8> {
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes
}

#[test]
fn a_claim_of_many_rows_costs_nothing() {
    for shape in ["(1000000000000, 0)", "(0, 1000000000000)", "(0, 4294967296, 4294967296, 4294967296)"] {
        // the last product cannot be counted before it meets the zero, or can: refused either way
        let whole = open("f.npy", npy_with_shape(shape));
        if let Ok(source) = whole {
            let sliced = Pick { slice: text(&[".."]), ..Pick::default() };
            for pick in [Pick::default(), sliced] {
                assert!(refusal(source.matrix(&pick)).contains("holds nothing"), "{shape}");
            }
            assert!(refusal(source.column(None)).contains("holds nothing"), "{shape}");
        }
    }
    for shape in ["(4294967296, 4294967296, 4294967296)", "(3,)", "(-1,)", "(3", "3", ""] {
        assert!(open("f.npy", npy_with_shape(shape)).is_err(), "{shape}");
    }
}

#[test]
fn parts_of_an_array_are_picked_by_axis_or_by_index() {
    // [2, 3, 2]; a sample is [[a, b], [c, d], [e, f]]
    let source = opened("f.npy", known!("u1.npy"));
    let part = |columns, slice| rows(&source.matrix(&Pick { columns, slice, ..Pick::default() }).unwrap());
    assert_eq!(part(None, text(&["..", "1..2"])), [[255.0, 1.0, 3.0], [5.0, 7.0, 11.0]]);
    assert_eq!(part(None, Some(vec![Index::Text("1..".into()), Index::At(0)])), [[0.0, 2.0], [6.0, 100.0]]);
    assert_eq!(part(Some(vec![Index::At(5), Index::Text("0..2".into())]), None), [[3.0, 0.0, 255.0], [11.0, 127.0, 5.0]]);
    for (columns, slice, why) in [
        (text(&["0..7"]), None, "0..7 is empty or not within the 6 of a row"),
        (text(&["0..6", "0..1"]), None, "`columns` names more than the 6 features"),
        (text(&["pix"]), None, "\"pix\" is neither an index nor a range"),
        (None, text(&[".."]), "`slice` has 1 ranges, but a sample has 2 axes (shape [2, 3, 2])"),
        (None, text(&["..", "2..2"]), "2..2 is empty or not within the 2 of axis 2"),
        (Some(vec![Index::At(usize::MAX)]), None, "is empty or not within"),
        (text(&["0..1"]), text(&["..", ".."]), "give `columns` or `slice`, not both"),
    ] {
        let refused = refusal(source.matrix(&Pick { columns, slice, ..Pick::default() }));
        assert!(refused.contains(why), "{refused}");
    }
}

#[test]
fn tables_name_their_columns() {
    let bytes = "\u{feff}id, a1,a2,b,who\n7,1,2.5,,x\n8,-1e3,NaN,4,\n".as_bytes();
    let source = opened("t.csv", bytes);
    let by = |columns, prefix: Option<&str>| Pick { columns, prefix: prefix.map(str::to_owned), ..Pick::default() };
    let a = source.matrix(&by(None, Some("a"))).unwrap();
    assert_eq!((a.rows, a.dim, a.name(1)), (2, 2, "column a2".to_owned()));
    assert_eq!(a.values[..3], [1.0, 2.5, -1000.0]);
    assert!(a.values[3].is_nan());
    assert!(source.matrix(&by(text(&["b"]), None)).unwrap().values[0].is_nan());
    assert_eq!(source.column(Some("who")).unwrap(), [Scalar::Text("x".into()), Scalar::Empty]);
    assert_eq!(source.column(Some("id")).unwrap()[1].integer(), Some(8));
    assert_eq!(refusal(source.matrix(&by(text(&["who"]), None))), "f, column who, line 2: \"x\" is not a number");
    let unknown = refusal(source.matrix(&by(text(&["a3"]), None)));
    assert_eq!(unknown, "f: there is no column \"a3\"; it has id, a1, a2, b, who");
    assert!(refusal(source.matrix(&by(None, Some("z")))).contains("no column starts with \"z\""));
    assert!(refusal(source.matrix(&Pick::default())).contains("say which columns are features"));
    assert_eq!(opened("t.tsv", b"a\tb\n1\t2\n").column(Some("b")).unwrap(), [Scalar::Int(2)]);
    let uneven = open("t.csv", b"a,b\n1,2\n3\n".to_vec()).err().unwrap().to_string();
    assert!(uneven.starts_with("t.csv, line 3: is not a table"), "{uneven}");
    let twice = open("t.csv", b"a,b,a\n1,2,3\n".to_vec()).err().unwrap().to_string();
    assert_eq!(twice, "t.csv, line 1: two columns are named \"a\"");
}

/// Reads whatever can be read from a damaged file; the point is that it comes back.
fn read_all(file: &str, bytes: Vec<u8>) {
    let Ok(source) = open(file, bytes) else { return };
    let slices = [None, text(&["..", ".."]), text(&["1..", "0..1"])];
    for key in [None, Some("bool"), Some("f16"), Some("f64"), Some("i64"), Some("a1"), Some("id")] {
        let _ = source.column(key);
        for slice in slices.clone() {
            let read = source.matrix(&Pick { key: key.map(str::to_owned), slice, ..Pick::default() });
            if let Ok(matrix) = read {
                assert_eq!(matrix.values.len(), matrix.rows * matrix.dim);
            }
        }
    }
    let _ = source.matrix(&Pick { prefix: Some("a".into()), ..Pick::default() });
    let _ = source.matrix(&Pick { columns: text(&["0..3"]), ..Pick::default() });
}

fn damaged() -> impl Strategy<Value = (&'static str, Vec<u8>)> {
    let files = prop_oneof![
        Just(("x.npy", known!("f4.npy"))),
        Just(("x.npy", known!("i8_big.npy"))),
        Just(("x.safetensors", known!("types.safetensors"))),
        Just(("x.csv", b"id,a1,a2\n1,2.5,3\n2,\"4\n5\",6\n3,,NaN\n".as_slice())),
    ];
    let flips = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (files, flips, prop::option::of(any::<prop::sample::Index>())).prop_map(|((file, bytes), flips, cut)| {
        let mut bytes = bytes.to_vec();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        (file, bytes)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damaged_files_never_panic((file, bytes) in damaged()) {
        read_all(file, bytes);
    }

    #[test]
    fn any_bytes_never_panic(
        file in prop::sample::select(vec!["x.npy", "x.safetensors", "x.csv"]),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        read_all(file, bytes);
    }

    #[test]
    fn cut_arrays_are_refused(cut in 0usize..1340) {
        prop_assert!(open("x.safetensors", known!("types.safetensors")[..cut].to_vec()).is_err());
        if cut < known!("f4.npy").len() {
            prop_assert!(open("x.npy", known!("f4.npy")[..cut].to_vec()).is_err());
        }
    }
}
