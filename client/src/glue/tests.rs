use super::*;
use burn::nn::{Linear, LinearConfig};
use tessera_common::param::TensorSpec;

#[derive(Module, Debug)]
struct Net {
    encoder: Named<Linear>,
    other: Other,
}

#[derive(Module, Debug)]
struct Other {
    weight: Param<Tensor<2>>,
}

fn blocks() -> Vec<String> {
    ["encoder.a", "encoder", "other"].map(str::to_owned).to_vec()
}

fn net() -> Net {
    let device = Device::flex();
    let linear = |values: &[f32]| {
        let mut linear = LinearConfig::new(2, 3).init(&device);
        linear.weight = Param::from_tensor(tensor(values.to_vec(), [2, 3], &device));
        linear.bias = Some(Param::from_tensor(tensor(vec![7.0, 8.0, 9.0], [3], &device)));
        linear
    };
    let first = linear(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let encoder = Named::new(vec![("a".to_owned(), first), ("b".to_owned(), linear(&[0.5; 6]))]);
    let weight = Param::from_tensor(tensor(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [2, 3], &device));
    Net { encoder, other: Other { weight } }
}

#[test]
fn names_have_the_longest_block_and_linear_weights_are_transposed() {
    let set = collect(&net(), &blocks()).unwrap();
    let names: Vec<&str> = set.iter().map(|(name, _)| name).collect();
    let expected = [
        "param/encoder.a/bias",
        "param/encoder.a/weight",
        "param/encoder/b.bias",
        "param/encoder/b.weight",
        "param/other/weight",
    ];
    assert_eq!(names, expected);
    // [out, in] for the linear layer; a matrix that is no linear layer's stays as it is
    assert_eq!(set.get("param/encoder.a/weight"), Some(&Stored::f32(&[3, 2], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0])));
    assert_eq!(set.get("param/other/weight"), Some(&Stored::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])));
}

#[test]
fn a_parameter_needs_a_block() {
    let error = collect(&net(), &["encoder".to_owned()]).unwrap_err().to_string();
    assert_eq!(error, "parameter \"other.weight\" of the model lies in none of its blocks: encoder");
}

#[test]
fn parameters_survive_the_way_there_and_back() {
    let (module, device) = (net().encoder, Device::flex());
    let blocks = ["a", "b"].map(str::to_owned).to_vec();
    let mut set = collect(&module, &blocks).unwrap();
    set.insert("param/a/bias", Stored::f32(&[3], &[-1.0, -2.0, -3.0]));
    set.insert("proto/a/count", Stored::f64(&[1], &[1.0]));
    let module = apply(module, &blocks, &set, &device).unwrap();
    let back = collect(&module, &blocks).unwrap();
    assert!(back.iter().all(|(name, tensor)| set.get(name) == Some(tensor)) && back.len() == 4);
    // what the numbers do is what the names say
    let out = host(module.at(0).forward(tensor(vec![1.0, 10.0], [1, 2], &device)));
    assert_eq!(out, [1.0 + 40.0 - 1.0, 2.0 + 50.0 - 2.0, 3.0 + 60.0 - 3.0]);
}

#[test]
fn a_set_that_does_not_fit_is_named_and_nothing_aborts() {
    let blocks = ["a", "b"].map(str::to_owned).to_vec();
    let good = collect(&net().encoder, &blocks).unwrap();
    let with = |name: &str, tensor: Option<Stored>| {
        let mut set = ParamSet::new();
        good.iter().filter(|(n, _)| *n != name).for_each(|(n, t)| set.insert(n, t.clone()));
        tensor.into_iter().for_each(|t| set.insert(name, t));
        apply(net().encoder, &blocks, &set, &Device::flex()).unwrap_err().to_string()
    };
    assert_eq!(with("param/b/bias", None), "parameter \"param/b/bias\" is missing");
    assert_eq!(with("param/c/bias", Some(Stored::f32(&[1], &[0.0]))), "parameter \"param/c/bias\" is not part of this model");
    let transposed = with("param/a/weight", Some(Stored::f32(&[2, 3], &[0.0; 6])));
    assert_eq!(transposed, "parameter \"param/a/weight\" is F32 [2, 3], the model needs F32 [3, 2]");
    let double = with("param/a/bias", Some(Stored::f64(&[3], &[0.0; 3])));
    assert_eq!(double, "parameter \"param/a/bias\" is F64 [3], the model needs F32 [3]");
}

#[test]
fn what_is_not_finite_is_named() {
    let mut set = collect(&net().encoder, &["a".to_owned(), "b".to_owned()]).unwrap();
    assert_eq!(non_finite(&set), None);
    set.insert("param/b/bias", Stored::f32(&[3], &[0.0, f32::NAN, 1.0]));
    assert_eq!(non_finite(&set).unwrap(), "tensor \"param/b/bias\" is not finite at element 1");
    assert_eq!(set.get("param/b/bias").map(Stored::spec), Some(&TensorSpec::f32(&[3])));
}
