//! One whole local run against PyTorch, see `known_answers/local_run.py`.

use super::*;
use crate::glue;
use crate::task::adapter::Adapter;
use crate::task::view::View;
use serde::Deserialize;
use tessera_common::param::Tensor;
use tessera_common::prototype::ProtoSums;

#[derive(Deserialize)]
struct Known {
    classes: usize,
    dims: BTreeMap<String, usize>,
    hidden: usize,
    width: usize,
    fused: usize,
    batch: usize,
    lr: f64,
    tau: f64,
    contrast: f64,
    contrast_fused: f64,
    labels: Vec<u32>,
    present: Vec<u32>,
    inputs: BTreeMap<String, Vec<f32>>,
    orders: Vec<Vec<usize>>,
    prototypes: BTreeMap<String, Vec<f64>>,
    valid: BTreeMap<String, Vec<usize>>,
    start: BTreeMap<String, Vec<f32>>,
    end: BTreeMap<String, Vec<f32>>,
    loss: f64,
}

impl Known {
    fn spec(&self) -> RunSpec {
        let sets = [
            format!(
                "task={{kind=\"classify\", classes={}, modalities={{a={}, b={}}}, standardise=false}}",
                self.classes, self.dims["a"], self.dims["b"]
            ),
            format!("model={{hidden={}, width={}, fused={}}}", self.hidden, self.width, self.fused),
            format!("train={{batch={}, lr={}, epochs={}}}", self.batch, self.lr, self.orders.len()),
            format!("prototypes={{tau={}, contrast={}, contrast_fused={}}}", self.tau, self.contrast, self.contrast_fused),
        ];
        spec("classify", &sets.each_ref().map(String::as_str))
    }

    fn data(&self) -> MemberData {
        let modality = |(name, &dim): (&String, &usize)| Modality { name: name.clone(), dim, values: self.inputs[name].clone() };
        let modalities = self.dims.iter().map(modality).collect();
        let train = Samples { modalities, labels: self.labels.clone(), present: self.present.clone() };
        MemberData { name: "m".parse().unwrap(), train, held_out: Samples::default(), test: Samples::default() }
    }

    fn global(&self, initial: &ParamSet) -> ParamSet {
        let mut global = ParamSet::new();
        for (name, values) in &self.start {
            let shape = initial.get(name).unwrap_or_else(|| panic!("{name} is not in the model")).shape().to_vec();
            global.insert(name, Tensor::f32(&shape, values));
        }
        for (name, rows) in &self.prototypes {
            let width = rows.len() / self.classes;
            let is_valid = |class: usize| self.valid[name].contains(&class);
            let kept = rows.iter().enumerate().map(|(i, &v)| if is_valid(i / width) { v } else { 0.0 }).collect();
            let count = (0..self.classes).map(|c| f64::from(u8::from(is_valid(c)))).collect();
            ProtoSums::new(self.classes, width, kept, count).unwrap().means(1, 1).write(name, &mut global);
        }
        global
    }
}

#[test]
fn a_local_run_ends_where_pytorch_ends() {
    let known: Known = serde_json::from_str(include_str!("../../../known_answers/local_run.json")).unwrap();
    let (spec, data) = (known.spec(), known.data());
    let mut adapter = Adapter::<classify::Classifier>::new(&spec, &State::default(), &Device::flex()).unwrap();
    let global = known.global(&adapter.initialise().unwrap());
    let cx = FitContext { data: &data, global: &global, round: 2, cancel: &AtomicBool::new(false) };
    let view = View::new(&spec, &data.name, &data.train, &global, true).unwrap();
    let mut orders = known.orders.clone().into_iter();
    let batches = crate::train::batches(&spec.train, || orders.next().unwrap());
    let (module, metrics) = adapter.train(&cx, &view, (crate::train::steps(&spec.train, view.len()), batches), 0.0).unwrap();
    let blocks: Vec<String> = ["encoder.a", "encoder.b", "fusion", "head"].map(str::to_owned).to_vec();
    let found = glue::collect(&module, &blocks).unwrap();
    assert_eq!(found.len(), known.end.len());
    let mut moved = 0.0f64;
    let mut worst = 0.0f64;
    for (name, end) in &known.end {
        let ours = found.get(name).unwrap().to_f32().unwrap();
        for ((ours, theirs), start) in ours.iter().zip(end).zip(&known.start[name]) {
            worst = worst.max(f64::from((ours - theirs).abs()) / f64::from(theirs.abs().max(0.1)));
            moved = moved.max(f64::from((theirs - start).abs()));
        }
    }
    assert!(moved > 0.05, "the run must move the weights, it moved them by {moved}");
    assert!(worst < 1e-5, "weights differ by {worst} relative");
    let loss = metrics.value("fit/loss").unwrap();
    assert!((loss / known.loss - 1.0).abs() < 1e-6, "{loss} against {}", known.loss);
}
