//! What the scripted agent answers: tensors of width 3 for two classes, a function of member, round and global alone.

#![allow(unreachable_pub)]

use super::Act;
use std::collections::BTreeMap;
use tessera_common::id::Digest;
use tessera_common::param::{ParamSet, Tensor, block_of};
use tessera_common::round::{Assignment, Work};
use tessera_proto::convert::digest_bytes;
use tessera_proto::v1;

const WIDTH: usize = 3;
const CLASSES: usize = 2;

pub struct Answered {
    pub wire: v1::Answer,
    pub blob: Option<Vec<u8>>,
    /// Bytes of the blob that are sent.
    pub sent: usize,
}

pub fn answer(run: &str, member: &v1::Member, assignment: &Assignment, global: Option<&ParamSet>, act: Act) -> Answered {
    let salt = member.name.bytes().map(u32::from).sum::<u32>() + assignment.round;
    let set = match assignment.work {
        Work::Initialise => Some(initial()),
        Work::SurveyInputs => Some(inputs(&member.modalities, salt)),
        Work::Fit => Some(fitted(&member.modalities, global.unwrap(), salt)),
        Work::SurveyFeatures => Some(features(&member.modalities, salt)),
        Work::Evaluate => None,
    };
    let weights: BTreeMap<String, u32> = match (&set, assignment.work) {
        (Some(set), Work::Fit) => set.iter().filter_map(|(n, _)| block_of(n)).map(|b| (b.to_owned(), 10 + salt % 5)).collect(),
        _ => BTreeMap::new(),
    };
    let metric = v1::Metric { sum: f64::from(salt) / 3.0, count: 20.0 };
    let mut wire = v1::Answer {
        run: run.into(),
        member: member.name.clone(),
        assignment: assignment.id.0,
        examples: 20,
        weights,
        metrics: [("loss".to_owned(), metric)].into(),
        ..Default::default()
    };
    let mut blob = set.map(|set| spoil(set, act));
    match act {
        Act::BadMetrics => wire.metrics = [("loss".to_owned(), v1::Metric { sum: f64::NAN, count: 1.0 })].into(),
        Act::NoTensors => blob = None,
        _ => {}
    }
    let mut sent = 0;
    if let Some(bytes) = &blob {
        let named = if act == Act::WrongDigest { Digest::of(b"something else") } else { Digest::of(bytes) };
        wire.blob = digest_bytes(&named);
        wire.blob_bytes = bytes.len() as u64 + u64::from(act == Act::WrongLength);
        sent = if act == Act::Truncated { bytes.len() - 5 } else { bytes.len() };
    }
    Answered { wire, blob, sent }
}

/// Makes the parameter `param/head/w` wrong in the way that `act` says.
fn spoil(mut set: ParamSet, act: Act) -> Vec<u8> {
    let head = "param/head/w";
    match act {
        Act::NotFinite => {
            let mut values = set.get(head).unwrap().to_f32().unwrap();
            values[4] = f32::NAN;
            set.insert(head, Tensor::f32(&[2 * WIDTH, CLASSES], &values));
        }
        Act::WrongShape => set.insert(head, Tensor::f32(&[CLASSES, 2 * WIDTH], &[0.0; 12])),
        Act::WrongName => {
            let tensor = set.get(head).unwrap().clone();
            set = set.iter().filter(|(n, _)| *n != head).fold(ParamSet::new(), |mut rest, (name, tensor)| {
                rest.insert(name, tensor.clone());
                rest
            });
            set.insert("param/head/weight", tensor);
        }
        Act::Extra => set.insert("secret/data", Tensor::f32(&[1], &[1.0])),
        Act::NotCanonical => {
            let mut bytes = set.to_bytes();
            // the same tensors behind a header with eight more spaces
            let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            bytes[..8].copy_from_slice(&(header + 8).to_le_bytes());
            let end = 8 + header as usize;
            bytes.splice(end..end, [b' '; 8]);
            return bytes;
        }
        _ => {}
    }
    set.to_bytes()
}

fn ramp(n: usize, salt: u32) -> Vec<f32> {
    (0..n).map(|i| ((i as u32 * 7 + salt * 13) % 31) as f32 / 10.0 - 1.0).collect()
}

fn ramp64(n: usize, salt: u32) -> Vec<f64> {
    ramp(n, salt).into_iter().map(|v| f64::from(v.abs()) + 0.1).collect()
}

fn initial() -> ParamSet {
    let mut set = ParamSet::new();
    for modality in ["left", "right"] {
        set.insert(format!("param/encoder.{modality}/w"), Tensor::f32(&[2, WIDTH], &ramp(2 * WIDTH, 1)));
        set.insert(format!("width/{modality}"), Tensor::f32(&[WIDTH, 0], &[]));
    }
    set.insert("param/head/w", Tensor::f32(&[2 * WIDTH, CLASSES], &ramp(2 * WIDTH * CLASSES, 2)));
    set.insert("width/fused", Tensor::f32(&[2 * WIDTH, 0], &[]));
    set
}

fn inputs(modalities: &[String], salt: u32) -> ParamSet {
    let mut set = ParamSet::new();
    for modality in modalities {
        set.insert(format!("input/{modality}/count"), Tensor::f64(&[2], &[20.0, 20.0]));
        set.insert(format!("input/{modality}/sum"), Tensor::f64(&[2], &ramp64(2, salt)));
        set.insert(format!("input/{modality}/square"), Tensor::f64(&[2], &[40.0, 50.0 + f64::from(salt)]));
    }
    set
}

/// A step towards a target of the member's own, for the blocks that it has data for, with sums of representations.
fn fitted(modalities: &[String], global: &ParamSet, salt: u32) -> ParamSet {
    let mut set = ParamSet::new();
    let mine = |block: &str| block == "head" || modalities.iter().any(|m| block == format!("encoder.{m}"));
    for (name, tensor) in global.section("param/").filter(|(n, _)| block_of(n).is_some_and(mine)) {
        let old = tensor.to_f32().unwrap();
        let target = ramp(old.len(), salt);
        let new: Vec<f32> = old.iter().zip(target).map(|(w, t)| w + 0.3 * (t - w)).collect();
        set.insert(name, Tensor::f32(tensor.shape(), &new));
    }
    for modality in modalities {
        set.insert(format!("proto/{modality}/sum"), Tensor::f64(&[CLASSES, WIDTH], &ramp64(CLASSES * WIDTH, salt)));
        set.insert(format!("proto/{modality}/count"), Tensor::f64(&[CLASSES], &[9.0, 11.0]));
    }
    set
}

fn features(modalities: &[String], salt: u32) -> ParamSet {
    let mut set = ParamSet::new();
    for modality in modalities {
        set.insert(format!("feature/{modality}/count"), Tensor::f64(&[CLASSES], &[9.0, 11.0]));
        set.insert(format!("feature/{modality}/sum"), Tensor::f64(&[CLASSES, WIDTH], &ramp64(CLASSES * WIDTH, salt)));
        set.insert(format!("feature/{modality}/scatter"), Tensor::f64(&[WIDTH, WIDTH], &ramp64(WIDTH * WIDTH, salt)));
        set.insert(format!("feature/{modality}/groups"), Tensor::f64(&[1], &[2.0]));
    }
    set
}
