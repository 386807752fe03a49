use super::known::{Encoder, known};
use super::*;
use crate::glue;
use crate::task::mlip::words::Words;
use burn::module::ModuleMapper;
use burn::tensor::{Device, Gradients};
use tessera_common::param::{ParamSet, Tensor as Stored};
use tessera_common::rng;

/// The encoder where it stands in a model.
#[derive(Module, Debug)]
struct Whole {
    text: TextTower,
}

/// A module of gradients in place of parameters.
struct Slope<'a>(&'a Gradients);

impl ModuleMapper for Slope<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let gradient = param.val().grad(self.0).unwrap();
        Param::from_tensor(gradient)
    }
}

fn config(kind: TextKind, context: usize, width: usize, heads: usize, layers: usize, words: usize) -> TextConfig {
    TextConfig { kind, modality: "text".to_owned(), context, width, heads, layers, words: Words::Hash(words) }
}

fn tower(config: &TextConfig, input: usize, embed: usize, tokens: bool, device: &Device) -> TextTower {
    let draws = |path: &str| rng::stream(7, path, "", 0);
    TextTower::new(&Init { draws: &draws, device }, config, input, embed, tokens)
}

fn of_known(kind: TextKind, known: &Encoder, device: &Device) -> Whole {
    let config = config(kind, known.context, known.width, known.heads, known.layers, known.vocabulary - 1);
    let fresh = Whole { text: tower(&config, 0, known.embed, true, device) };
    let mut set = ParamSet::new();
    for (name, values) in &known.parameters {
        set.insert(format!("param/text/{name}"), Stored::f32(&values.shape, &values.f32()));
    }
    glue::apply(fresh, &["text".to_owned()], &set, device).unwrap().train()
}

#[test]
fn features_and_gradients_are_those_of_pytorch() {
    let device = Device::flex().autodiff();
    for (name, known) in &known().encoders {
        let kind = if name == "bag" { TextKind::Bag } else { TextKind::Transformer };
        let whole = of_known(kind, known, &device);
        let TextFeatures { global, tokens, mask } = whole.text.forward(known.ids.tensor(&device), true);
        let tokens = tokens.unwrap() * mask.real.unsqueeze_dim(2);
        known.global.check(&format!("{name} global"), &glue::host(global.clone()), 1e-5);
        known.tokens.check(&format!("{name} tokens"), &glue::host(tokens.clone()), 1e-5);
        let objective = (global * known.by_text.tensor(&device)).sum() + (tokens * known.by_token.tensor(&device)).sum();
        let gradients = objective.backward();
        let slopes = glue::collect(&whole.map(&mut Slope(&gradients)), &["text".to_owned()]).unwrap();
        assert_eq!(slopes.len(), known.gradients.len());
        for (leaf, gradient) in &known.gradients {
            let found = slopes.get(&format!("param/text/{leaf}")).unwrap().to_f32().unwrap();
            gradient.check(&format!("{name} gradient of {leaf}"), &found, 1e-5);
        }
    }
}

#[test]
fn a_longer_context_and_what_stands_in_the_padding_change_nothing() {
    let device = Device::flex();
    for kind in [TextKind::Bag, TextKind::Transformer] {
        let of = |context: usize, ids: &[f32]| {
            let tower = tower(&config(kind, context, 8, 2, 2, 10), 0, 4, true, &device);
            // positions are drawn row by row, so those of a shorter context start those of a longer one
            tower.forward(glue::tensor(ids.to_vec(), [1, context], &device), true)
        };
        let (short, long) = (of(3, &[4.0, 9.0, 0.0]), of(6, &[4.0, 9.0, 0.0, 0.0, 0.0, 0.0]));
        assert_eq!(glue::host(short.global.clone()), glue::host(long.global), "{kind:?}");
        let first = |features: &TextFeatures| glue::host(features.tokens.clone().unwrap())[..8].to_vec();
        assert_eq!(first(&short), first(&of(6, &[4.0, 9.0, 0.0, 0.0, 0.0, 0.0])), "{kind:?}");
        for odd in [11.0, -1.0, f32::NAN, f32::INFINITY, 1e20] {
            let other = of(3, &[4.0, 9.0, odd]);
            assert_eq!(glue::host(short.global.clone()), glue::host(other.global), "{kind:?} {odd}");
            assert_eq!(glue::host(other.mask.real), [1.0, 1.0, 0.0], "{kind:?} {odd}");
        }
        assert_ne!(glue::host(short.global), glue::host(of(3, &[4.0, 9.0, 10.0]).global), "{kind:?}: 10 is a word");
    }
}

#[test]
fn the_order_of_words_counts_for_the_transformer_alone() {
    let device = Device::flex();
    for (kind, counts) in [(TextKind::Bag, false), (TextKind::Transformer, true)] {
        let tower = tower(&config(kind, 2, 8, 2, 1, 10), 0, 4, false, &device);
        let features = tower.forward(glue::tensor(vec![3.0, 5.0, 5.0, 3.0], [2, 2], &device), true);
        assert!(features.tokens.is_none(), "there is no head for tokens");
        let values = glue::host(features.global);
        let differs = values[..4].iter().zip(&values[4..]).any(|(a, b)| (a - b).abs() > 1e-5);
        assert_eq!(differs, counts, "{kind:?}");
    }
}

#[test]
fn a_text_without_a_token_has_the_state_0_and_finite_gradients() {
    let device = Device::flex().autodiff();
    for kind in [TextKind::Bag, TextKind::Transformer] {
        let whole = Whole { text: tower(&config(kind, 3, 8, 2, 2, 10), 0, 4, true, &device) };
        let features = whole.text.forward(Tensor::zeros([2, 3], &device), true);
        assert_eq!(glue::host(features.global.clone()), [0.0; 8], "{kind:?}");
        let objective = features.global.square().sum() + features.tokens.unwrap().square().sum();
        let gradients = objective.backward();
        let slopes = glue::collect(&whole.map(&mut Slope(&gradients)), &["text".to_owned()]).unwrap();
        assert_eq!(glue::non_finite(&slopes), None, "{kind:?}");
    }
}

#[test]
fn features_of_another_encoder_are_projected() {
    let device = Device::flex();
    let tower = tower(&config(TextKind::Embedding, 0, 0, 0, 0, 10), 5, 3, true, &device);
    let features = tower.forward(Tensor::ones([2, 5], &device), true);
    assert!(features.tokens.is_none());
    assert_eq!(features.mask.real.dims(), [2, 1]);
    let weight = glue::host(tower.head.weight.val()); // [5, 3]
    let sums: Vec<f32> = (0..3).map(|e| (0..5).map(|i| weight[3 * i + e]).sum()).collect();
    for (found, sum) in glue::host(features.global).iter().zip(sums.iter().cycle()) {
        assert!((found - sum).abs() < 1e-6);
    }
    assert_eq!(tower.num_params(), 15, "there is nothing but the head");
}

#[test]
fn initial_values_have_the_deviations_of_their_kind_and_names_are_those_of_pytorch() {
    let device = Device::flex();
    for (kind, deviation) in [(TextKind::Bag, 1.0), (TextKind::Transformer, 0.02)] {
        let whole = Whole { text: tower(&config(kind, 16, 64, 4, 1, 199), 0, 8, true, &device) };
        let set = glue::collect(&whole, &["text".to_owned()]).unwrap();
        let of = |name: &str| set.get(&format!("param/text/{name}")).unwrap();
        let spread = |name: &str| {
            let values = of(name).to_f64();
            (values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64).sqrt()
        };
        assert_eq!(of("embed.weight").shape(), [200, 64]);
        assert!((spread("embed.weight") / deviation - 1.0).abs() < 0.05, "{kind:?}");
        assert_eq!([of("head.weight").shape(), of("token_head.weight").shape()], [[8, 64]; 2]);
        let names: Vec<&str> = set.iter().map(|(name, _)| &name["param/text/".len()..]).collect();
        if kind == TextKind::Bag {
            assert_eq!(names, ["embed.weight", "head.weight", "token_head.weight"]);
            continue;
        }
        assert!((spread("position") / 0.01 - 1.0).abs() < 0.1);
        assert_eq!(of("position").shape(), [16, 64]);
        for name in ["block.0.norm1.bias", "block.0.attention.qkv.weight", "block.0.mlp.fc2.bias", "norm.weight"] {
            assert!(names.contains(&name), "{name} is not among {names:?}");
        }
        assert_eq!(names.len(), 4 + 12 + 2);
    }
}
