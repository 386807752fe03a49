//! What a run has learned, loaded into a PyTorch model of its own: `just pytorch`, which needs torch, numpy and safetensors.

// A test may panic, and no test uses all of what the tests share.
#![allow(clippy::unwrap_used, clippy::print_stdout, dead_code, unreachable_pub, missing_debug_implementations)]

mod support;

use std::process::Command;
use tessera_client::data::Dataset;
use tessera_client::glue;
use tessera_client::task::FedModel;
use tessera_client::task::mlip::{Config, Mlip};
use tessera_common::param::{Limits, ParamSet, Tensor, param_name};
use tessera_common::rng;
use tessera_common::spec::RunSpec;

/// The export of a run, under the names that the agent has for its parameters.
fn parameters(export: &ParamSet, blocks: &[String]) -> ParamSet {
    let mut set = ParamSet::new();
    for (name, tensor) in export.iter() {
        let block = blocks.iter().find(|b| name.starts_with(&format!("{b}."))).unwrap();
        set.insert(param_name(block, &name[block.len() + 1..]), tensor.clone());
    }
    set
}

fn check(settings: &[&str]) {
    let out = tempfile::tempdir().unwrap();
    let folder = out.path().join("run");
    let mut arguments = vec!["deploy/runs/mlip/vendors.toml", "--set", "rounds=2", "--set", "train.steps=3"];
    settings.iter().for_each(|set| arguments.extend(["--set", set]));
    let output = support::simulate(&arguments, &folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let folder = folder.join("federated");
    let spec = RunSpec::from_toml(&std::fs::read_to_string(folder.join("run.toml")).unwrap()).unwrap();
    let model = Mlip::new(&spec).unwrap();
    let device = tessera_client::device::open("cpu").unwrap();
    let blocks: Vec<String> = model.blocks().into_iter().map(|b| b.name).collect();
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let export = parameters(&ParamSet::from_bytes(&bytes, &Limits::default()).unwrap(), &blocks);
    let module = glue::apply(model.init(&|path| rng::stream(0, path, "", 0), &device), &blocks, &export, &device).unwrap();

    let data = Dataset::open("deploy/data/emoji/things.toml").unwrap().samples;
    let rows: Vec<usize> = (0..64).map(|i| i * 40).collect();
    let input = |modality: usize| {
        let mut values = Vec::new();
        rows.iter().for_each(|&row| model.prepare(modality, data.modalities[modality].row(row), &mut values));
        let width = values.len() / rows.len();
        glue::tensor(values, [rows.len(), width], &device) // [64, d]
    };
    let embed = model.width(1);
    let seen = model.encode(&module, 0, input(0)); // [64, E] or [64, 2 E]
    let mut known = ParamSet::new();
    let mut put = |name: &str, shape: [usize; 2], values: &[f32]| known.insert(name, Tensor::f32(&shape, values));
    let (texts, seen) = (input(1), glue::host(seen));
    put("tokens", texts.dims(), &glue::host(texts.clone()));
    put("text", [rows.len(), embed], &glue::host(model.encode(&module, 1, texts)));
    let part =
        |from: usize| seen.chunks_exact(model.width(0)).flat_map(|row| row[from..from + embed].to_vec()).collect::<Vec<f32>>();
    put("image", [rows.len(), embed], &part(0));
    if model.width(0) > embed {
        put("frequency", [rows.len(), embed], &part(embed));
    }
    let pixels: Vec<f32> = rows.iter().flat_map(|&row| data.modalities[0].row(row).to_vec()).collect();
    known.insert("pixels", Tensor::f32(&[rows.len(), data.modalities[0].dim], &pixels));
    let (embeddings, config) = (out.path().join("embeddings.safetensors"), out.path().join("model.json"));
    std::fs::write(&embeddings, known.to_bytes()).unwrap();
    std::fs::write(&config, serde_json::to_string(&Config::read(&spec).unwrap()).unwrap()).unwrap();
    let python = std::env::var("TESSERA_PYTHON").unwrap_or_else(|_| "python3".into());
    let checked = Command::new(&python)
        .arg("tests/pytorch/check_export.py")
        .args([&folder.join("model.safetensors"), &embeddings, &config])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    println!("{}", String::from_utf8_lossy(&checked.stdout));
    assert!(checked.status.success(), "{settings:?}: {}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
#[ignore = "needs torch; run by `just pytorch`"]
fn an_export_is_the_same_model_in_pytorch() {
    check(&[]);
    check(&["model.loss.token=0.3"]);
    check(&["model.image.frequency=0"]);
    let transformer = "model.text={ kind = \"transformer\", width = 32, heads = 4, layers = 2, words = \"bytes\", context = 24 }";
    check(&[transformer]);
}
