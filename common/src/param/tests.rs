use super::*;
use proptest::prelude::*;

fn set() -> impl Strategy<Value = ParamSet> {
    let tensor = (prop::collection::vec(0usize..4, 0..3), any::<bool>(), any::<u64>()).prop_map(|(shape, wide, bits)| {
        let n = shape.iter().product::<usize>();
        if wide {
            Tensor::f64(&shape, &vec![f64::from_bits(bits); n])
        } else {
            Tensor::f32(&shape, &vec![f32::from_bits(bits as u32); n])
        }
    });
    prop::collection::btree_map("[a-z/.\"\\\\é]{0,12}", tensor, 0..6).prop_map(|tensors| ParamSet { tensors })
}

proptest! {
    #[test]
    fn bytes_survive_a_round_trip(set in set()) {
        let bytes = set.to_bytes();
        let back = ParamSet::from_bytes(&bytes, &Limits::default()).unwrap();
        prop_assert_eq!(back.to_bytes(), bytes);
    }

    // Should: be refused with a reason, or decode to a set that encodes to the very same bytes. Should not: panic.
    #[test]
    fn damaged_bytes_are_refused_or_canonical(set in set(), at in any::<prop::sample::Index>(), flip in 1u8..) {
        let mut bytes = set.to_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(back) = ParamSet::from_bytes(&bytes, &Limits::default()) {
            prop_assert_eq!(back.to_bytes(), bytes);
        }
    }

    #[test]
    fn any_bytes_are_refused_or_canonical(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(back) = ParamSet::from_bytes(&bytes, &Limits::default()) {
            prop_assert_eq!(back.to_bytes(), bytes);
        }
    }

    #[test]
    fn truncation_is_refused(set in set(), cut in 1usize..9) {
        let bytes = set.to_bytes();
        let kept = bytes.len().saturating_sub(cut);
        prop_assert!(ParamSet::from_bytes(&bytes[..kept], &Limits::default()).is_err());
    }
}

fn file(json: &str, data: &[u8]) -> Vec<u8> {
    [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), data].concat()
}

#[test]
fn other_forms_of_the_same_content_are_refused() {
    let cases = [
        // metadata
        r#"{"__metadata__":{"a":"b"},"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
        // a gap
        r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}      "#,
        // spaces inside
        r#"{"x": {"dtype":"F32","shape":[1],"data_offsets":[0,4]}}     "#,
        // a shape whose product overflows
        r#"{"x":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}"#,
        // an unknown dtype
        r#"{"x":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}      "#,
        // not JSON
        "{",
    ];
    for json in cases {
        let error = ParamSet::from_bytes(&file(json, &[0; 4]), &Limits::default());
        assert!(error.is_err(), "{json} gave {error:?}");
    }
    let huge = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    let error = ParamSet::from_bytes(&huge, &Limits::default()).unwrap_err();
    assert!(error.to_string().contains("header length"), "{error}");
}

#[test]
fn the_public_safetensors_crate_reads_our_files() {
    let mut set = ParamSet::new();
    set.insert("param/head/weight", Tensor::f32(&[2, 2], &[1.0, 2.0, 3.0, 4.0]));
    set.insert("proto/left/count", Tensor::f64(&[3], &[0.0, 5.0, 1.0]));
    let bytes = set.to_bytes();
    let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let weight = theirs.tensor("param/head/weight").unwrap();
    assert_eq!((weight.shape(), weight.dtype()), (&[2, 2][..], safetensors::Dtype::F32));
    assert_eq!(decode_f32(weight.data()), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(set.layout().blocks(), ["head"]);
    assert_eq!(set.section("proto/").count(), 1);
}

#[test]
fn hostile_headers_are_refused_in_short() {
    let parse = |json: &str| {
        let mut header = (json.len() as u64).to_le_bytes().to_vec();
        header.extend_from_slice(json.as_bytes());
        Layout::parse(&header, header.len() as u64, &Limits::default()).unwrap_err().to_string()
    };
    let shape = "0,".repeat(1 << 20);
    let error = parse(&format!(r#"{{"a":{{"dtype":"F32","shape":[{shape}0],"data_offsets":[0,0]}}}}"#));
    assert!(error.contains("more than 64 dimensions"), "{error}");
    let name = "x".repeat(1 << 20);
    assert!(parse(&format!(r#"{{"a":{{"{name}":1}}}}"#)).len() < 600);
    let error = parse(r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#);
    assert!(error.contains("size of the tensors"), "{error}");
    assert!(Layout::header_len([0xff; 8], &Limits::default()).unwrap_err().to_string().contains("header length"));
}
