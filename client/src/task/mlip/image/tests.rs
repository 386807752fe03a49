use super::*;
use crate::glue::{self, host, tensor};
use burn::tensor::Device;
use serde::Deserialize;
use std::collections::BTreeMap;
use tessera_common::param::{ParamSet, Tensor as Stored};
use tessera_common::rng;

#[derive(Deserialize)]
struct Shape {
    size: usize,
    patch: usize,
    width: usize,
    heads: usize,
    layers: usize,
    embed: usize,
    frequency: usize,
    merged: Vec<usize>,
    guide: f64,
}

#[derive(Deserialize)]
struct Known {
    shape: Shape,
    pixels: Vec<f32>,
    parameters: BTreeMap<String, Vec<f32>>,
    seen: BTreeMap<String, Vec<f32>>,
    loss: f64,
    gradients: BTreeMap<String, Vec<f32>>,
}

fn config(size: usize, patch: usize, width: usize) -> ImageConfig {
    ImageConfig {
        kind: ImageKind::Vit,
        modality: "image".to_owned(),
        size,
        patch,
        width,
        heads: 4,
        layers: 2,
        frequency: 1,
        merge: Vec::new(),
        guide: 1.0,
        mean: [0.5, 0.25, 0.0],
        std: [1.0, 0.5, 0.25],
    }
}

fn tower(config: &ImageConfig, input: usize, embed: usize, [frequency, token]: [bool; 2], device: &Device) -> ImageTower {
    let draws = |path: &str| rng::stream(7, path, "", 0);
    ImageTower::new(&Init { draws: &draws, device }, config, input, embed, frequency, token)
}

/// Parameters, or their gradients, by path as they travel.
fn named(module: &ImageTower) -> ParamSet {
    glue::collect(&Holder { image: module.clone() }, &["image".to_owned()]).unwrap()
}

#[derive(Module, Debug)]
struct Holder {
    image: ImageTower,
}

/// Puts each gradient in its parameter's place.
struct Gradients<'a>(&'a burn::tensor::Gradients);

impl burn::module::ModuleMapper for Gradients<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let gradient = param.val().grad(self.0).expect("the loss depends on every parameter");
        param.map(|_| gradient)
    }
}

fn known() -> (Known, ImageTower) {
    let known: Known = serde_json::from_str(include_str!("../../../../known_answers/mlip_image.json")).unwrap();
    let shape = &known.shape;
    let config = ImageConfig {
        heads: shape.heads,
        layers: shape.layers,
        frequency: shape.frequency,
        merge: shape.merged.clone(),
        guide: shape.guide,
        ..config(shape.size, shape.patch, shape.width)
    };
    let start = tower(&config, 3 * shape.size * shape.size, shape.embed, [true, true], &Device::flex());
    let mut set = ParamSet::new();
    for (name, stored) in named(&start).iter() {
        set.insert(name, Stored::f32(stored.shape(), &known.parameters[&name["param/image/".len()..]]));
    }
    assert_eq!(set.len(), known.parameters.len());
    let module = glue::apply(Holder { image: start }, &["image".to_owned()], &set, &Device::flex()).unwrap();
    (known, module.image.train())
}

fn assert_near(name: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let largest = expected.iter().fold(0.0f32, |most, v| most.max(v.abs()));
    let off = found.iter().zip(expected).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
    assert!(off <= tolerance * largest, "{name} is off by {off} where values reach {largest}");
}

#[test]
fn every_block_gives_what_pytorch_gives() {
    let (known, tower) = known();
    let pixels = tensor(known.pixels.clone(), [3, known.pixels.len() / 3], &Device::flex().autodiff());
    let near = |name: &str, found: Vec<f32>| assert_near(name, &found, &known.seen[name], 1e-5);
    let patch = tower.patch.as_ref().unwrap();
    let x = patch.forward(tower.patches(pixels.clone())) + tower.position.as_ref().unwrap().val().unsqueeze();
    let (x, f) = tower.branch(x);
    near("frequency.0", host(x.clone()));
    near("spectral", host(f.clone().unwrap()));
    let class = tower.class.as_ref().unwrap().val().reshape([1, 1, 8]).expand([3, 1, 8]);
    let (x, f) = (Tensor::cat(vec![class, x], 1), f.unwrap());
    let guide = Tensor::cat(vec![f.clone().mean_dim(1), f], 1);
    for layers in [1, 2] {
        let mut short = tower.clone();
        short.block.truncate(layers);
        near(&format!("block.{}", layers - 1), host(short.blocks(x.clone(), Some(guide.clone()))));
    }
    let features = tower.forward(pixels, true);
    near("global", host(features.global));
    near("frequency", host(features.frequency.unwrap()));
    near("tokens", host(features.tokens.unwrap()));
}

#[test]
fn every_gradient_is_that_of_pytorch() {
    let (known, tower) = known();
    let pixels = tensor(known.pixels.clone(), [3, known.pixels.len() / 3], &Device::flex().autodiff());
    let ImageFeatures { global, frequency, tokens } = tower.forward(pixels, true);
    fn off<const D: usize>(found: Tensor<D>) -> Tensor<1> {
        let shape = found.dims();
        let values = (1..=shape.iter().product()).map(|i| (i as f64).sin() as f32).collect();
        (found.clone() - tensor(values, shape, &found.device())).square().sum()
    }
    let loss = off(global) + off(frequency.unwrap()) + off(tokens.unwrap());
    let gradients = loss.backward();
    let value = f64::from(loss.into_scalar::<f32>());
    assert!((value / known.loss - 1.0).abs() < 1e-5, "{value} against {}", known.loss);
    let found = named(&tower.map(&mut Gradients(&gradients)));
    assert_eq!(found.len(), known.gradients.len());
    for (name, gradient) in found.iter() {
        let name = &name["param/image/".len()..];
        assert_near(name, &gradient.to_f32().unwrap(), &known.gradients[name], 1e-5);
    }
}

#[test]
fn parameters_have_the_agreed_number_and_names() {
    let (device, mut config) = (Device::flex(), config(24, 4, 48));
    assert_eq!(tower(&config, 1728, 64, [true, true], &device).num_params(), 91_248);
    assert_eq!(tower(&config, 1728, 64, [false, true], &device).num_params(), 91_248 - 48 * 64);
    assert_eq!(tower(&config, 1728, 64, [true, false], &device).num_params(), 91_248 - 48 * 64);
    config.frequency = 0;
    let plain = tower(&config, 1728, 64, [true, true], &device);
    assert_eq!(plain.num_params(), 66_912);
    let names: Vec<String> = named(&plain).iter().map(|(name, _)| name["param/image/".len()..].to_owned()).collect();
    assert!(!names.iter().any(|name| name.contains("frequency")), "{names:?}");
}

#[test]
fn features_have_the_shapes_that_merging_leaves() {
    let device = Device::flex();
    for (merge, left) in [(vec![], 36), (vec![9, 9], 18), (vec![0, 18], 18), (vec![18, 9], 9)] {
        for (frequency, guide) in [(1, 1.0), (1, 0.0), (0, 1.0), (2, 0.5)] {
            let config = ImageConfig { merge: merge.clone(), frequency, guide, ..config(24, 4, 48) };
            let tower = tower(&config, 1728, 64, [true, true], &device);
            for k in [1, 3] {
                let pixels = tensor((0..k * 1728).map(|i| (i as f32).sin()).collect(), [k, 1728], &device);
                let features = tower.forward(pixels.clone(), true);
                assert_eq!(features.global.dims(), [k, 64]);
                assert_eq!(features.frequency.map(|f| f.dims()), (frequency > 0).then_some([k, 64]));
                assert_eq!(features.tokens.map(|t| t.dims()), Some([k, left, 64]));
                assert!(tower.forward(pixels, false).tokens.is_none());
            }
        }
    }
}

/// A picture's features are its own: they do not depend on what else is in the batch.
#[test]
fn pictures_of_a_batch_do_not_touch_each_other() {
    let (known, tower) = known();
    let (each, device) = (known.pixels.len() / 3, Device::flex().autodiff());
    for at in 0..3 {
        let pixels = tensor(known.pixels[at * each..][..each].to_vec(), [1, each], &device);
        let alone = host(tower.forward(pixels, true).global);
        assert_near("global", &alone, &known.seen["global"][at * known.shape.embed..][..known.shape.embed], 1e-5);
    }
}

#[test]
fn features_of_another_encoder_are_only_projected() {
    let config = ImageConfig { kind: ImageKind::Embedding, frequency: 0, ..config(0, 0, 0) };
    let tower = tower(&config, 5, 3, [true, true], &Device::flex());
    let names: Vec<String> = named(&tower).iter().map(|(name, _)| name.to_owned()).collect();
    assert_eq!((tower.num_params(), names.as_slice()), (15, ["param/image/head.weight".to_owned()].as_slice()));
    let features = tower.forward(tensor(vec![1.0, 0.0, 0.0, 0.0, 0.0], [1, 5], &Device::flex()), true);
    assert_eq!(host(features.global), host(tower.head.weight.val())[..3]);
    assert!(features.frequency.is_none() && features.tokens.is_none());
    let mut out = vec![9.0];
    prepare(&config, &[1.0, 2.0], &mut out);
    shift(&config, &mut out, 1, 0);
    assert_eq!(out, [9.0, 1.0, 2.0]);
}

#[test]
fn pixels_are_normalised_by_plane() {
    let mut out = vec![9.0];
    prepare(&config(1, 1, 4), &[255.0, 0.0, 51.0], &mut out);
    assert!(out.iter().zip([9.0, 0.5, -0.5, 0.8]).all(|(a, b)| (a - b).abs() < 1e-6), "{out:?}");
}

#[test]
fn pictures_move_and_their_border_repeats() {
    let plane = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];
    let picture: Vec<f32> = (0..3).flat_map(|c| plane.map(|v| v + 10.0 * c as f32)).collect();
    for (dx, dy, expected) in [
        (0, 0, plane),
        (1, 0, [1.0, 1.0, 2.0, 4.0, 4.0, 5.0, 7.0, 7.0, 8.0]),
        (-1, 0, [2.0, 3.0, 3.0, 5.0, 6.0, 6.0, 8.0, 9.0, 9.0]),
        (0, 2, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0, 2.0, 3.0]),
        (1, -1, [4.0, 4.0, 5.0, 7.0, 7.0, 8.0, 7.0, 7.0, 8.0]),
        (isize::MIN, isize::MAX, [3.0; 9]),
    ] {
        let mut moved = picture.clone();
        shift(&config(3, 1, 4), &mut moved, dx, dy);
        let expected: Vec<f32> = (0..3).flat_map(|c| expected.map(|v| v + 10.0 * c as f32)).collect();
        assert_eq!(moved, expected, "by {dx}, {dy}");
    }
}
