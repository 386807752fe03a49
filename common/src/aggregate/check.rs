//! What an answer must look like before it may count. The text of every refusal reaches the member.

use crate::param::{Dtype, Layout, Source, TensorSpec, block_of};
use crate::spec::{FUSED, RunSpec, is_modality};
use crate::update::{MAX_WEIGHT, UpdateRef};
use std::collections::BTreeSet;

/// Largest magnitude of a value. Sums over all members, and products of two, stay finite in f64.
pub const MAX_MAGNITUDE: f64 = 1e100;

/// Bytes scanned at a time.
const CHUNK: usize = 1 << 18;

fn refuse(ok: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if ok { Ok(()) } else { Err(why()) }
}

/// Width of a modality's representation, as the initial global declares it.
pub fn declared_width(base: &Layout, modality: &str) -> Option<usize> {
    base.spec(&format!("width/{modality}")).and_then(|s| s.shape.first().copied())
}

/// Checks a trained update against the global that it was trained from.
///
/// # Errors
/// Names the tensor that is missing, unknown, or of another shape or dtype, or the block without a weight.
pub fn check_update(spec: &RunSpec, base: &Layout, update: &UpdateRef, layout: &Layout) -> Result<(), String> {
    refuse(update.examples > 0, || "the update was trained on 0 examples".into())?;
    let blocks: BTreeSet<&str> = layout.entries().keys().filter_map(|n| block_of(n)).collect();
    for (block, &weight) in &update.weights {
        refuse(weight <= MAX_WEIGHT && weight <= update.examples, || {
            format!("block {block:?} has weight {weight}, more than its {} examples or than {MAX_WEIGHT}", update.examples)
        })?;
        refuse(weight == 0 || blocks.contains(block.as_str()), || format!("block {block:?} has a weight but no parameters"))?;
    }
    refuse(update.examples <= MAX_WEIGHT, || format!("{} examples, at most {MAX_WEIGHT} can be weighed", update.examples))?;
    refuse(!blocks.is_empty(), || "the update holds no parameters".into())?;
    for block in &blocks {
        let prefix = format!("param/{block}/");
        let missing = base.entries().keys().find(|n| n.starts_with(&prefix) && layout.spec(n).is_none());
        refuse(missing.is_none(), || format!("parameter {:?} is missing from the update", missing.map_or("", |n| n)))?;
    }
    for (name, entry) in layout.entries() {
        let expected = if block_of(name).is_some() { base.spec(name).cloned() } else { expected_proto(spec, base, name) };
        check_spec(name, &entry.spec, expected)?;
    }
    check_pairs(layout, "proto", &["sum", "count"])
}

fn check_spec(name: &str, found: &TensorSpec, expected: Option<TensorSpec>) -> Result<(), String> {
    let expected = expected.ok_or_else(|| format!("tensor {name:?} is not part of this run's model"))?;
    refuse(*found == expected, || {
        format!("tensor {name:?} is {:?} {:?}, expected {:?} {:?}", found.dtype, found.shape, expected.dtype, expected.shape)
    })
}

fn expected_proto(spec: &RunSpec, base: &Layout, name: &str) -> Option<TensorSpec> {
    let (modality, part) = name.strip_prefix("proto/")?.split_once('/')?;
    let width = declared_width(base, modality)?;
    match part {
        "sum" => Some(TensorSpec::f64(&[spec.task.classes, width])),
        "count" => Some(TensorSpec::f64(&[spec.task.classes])),
        _ => None,
    }
}

/// Every group of `section` has all of `parts` or none.
fn check_pairs(layout: &Layout, section: &str, parts: &[&str]) -> Result<(), String> {
    for name in layout.entries().keys() {
        let Some((group, _)) = name.strip_prefix(section).and_then(|n| n.strip_prefix('/')).and_then(|n| n.split_once('/'))
        else {
            continue;
        };
        for part in parts {
            let partner = format!("{section}/{group}/{part}");
            refuse(layout.spec(&partner).is_some(), || format!("tensor {partner:?} is missing, {name:?} needs it"))?;
        }
    }
    Ok(())
}

/// Checks the answer to a survey of inputs.
///
/// # Errors
/// Names the tensor that is at fault.
pub fn check_inputs(spec: &RunSpec, layout: &Layout) -> Result<(), String> {
    for (name, entry) in layout.entries() {
        let expected = name.strip_prefix("input/").and_then(|n| n.split_once('/')).and_then(|(modality, part)| {
            let dim = *spec.task.modalities.get(modality)?;
            ["count", "sum", "square"].contains(&part).then(|| TensorSpec::f64(&[dim]))
        });
        check_spec(name, &entry.spec, expected)?;
    }
    check_pairs(layout, "input", &["count", "sum", "square"])
}

/// Checks the answer to a survey of features against the global that it was made with.
///
/// # Errors
/// Names the tensor that is at fault.
pub fn check_features(spec: &RunSpec, base: &Layout, layout: &Layout) -> Result<(), String> {
    for (name, entry) in layout.entries() {
        let expected = name.strip_prefix("feature/").and_then(|n| n.split_once('/')).and_then(|(modality, part)| {
            let (width, classes) = (declared_width(base, modality)?, spec.task.classes);
            match part {
                "count" => Some(TensorSpec::f64(&[classes])),
                "sum" => Some(TensorSpec::f64(&[classes, width])),
                "scatter" => Some(TensorSpec::f64(&[width, width])),
                "groups" => Some(TensorSpec::f64(&[1])),
                _ => None,
            }
        });
        check_spec(name, &entry.spec, expected)?;
    }
    check_pairs(layout, "feature", &["count", "sum", "scatter", "groups"])
}

/// Checks the parameters that a member initialised: only they and the declared widths may be there.
///
/// # Errors
/// Names the tensor that is at fault.
pub fn check_initial(spec: &RunSpec, layout: &Layout) -> Result<(), String> {
    refuse(!layout.blocks().is_empty(), || "the initial model has no parameters".into())?;
    for (name, entry) in layout.entries() {
        if let Some(modality) = name.strip_prefix("width/") {
            let known = modality == FUSED || is_modality(spec, modality);
            refuse(known, || format!("tensor {name:?} declares a width for a modality that the run does not have"))?;
            // The width is the shape itself: layouts can then be checked without reading data.
            let good = entry.spec.dtype == Dtype::F32 && entry.spec.shape.len() == 2 && entry.spec.shape[1] == 0;
            refuse(good && entry.spec.shape[0] > 0, || format!("tensor {name:?} must be f32 [width, 0]"))?;
        } else {
            let good = block_of(name).is_some_and(crate::id::is_valid_name) && entry.spec.dtype == Dtype::F32;
            refuse(good, || format!("tensor {name:?} is not an f32 parameter named param/BLOCK/LEAF"))?;
        }
    }
    Ok(())
}

/// Reads every value once and refuses what is not finite or beyond [`MAX_MAGNITUDE`]; counts must not be negative.
///
/// # Errors
/// Names the tensor and the element.
pub fn check_values(source: &dyn Source) -> Result<(), String> {
    let mut buffer = vec![0; CHUNK];
    for (name, entry) in source.layout().entries() {
        let counts = name.ends_with("/count") && !name.starts_with("param/");
        let (size, total) = (entry.spec.dtype.size(), entry.spec.bytes());
        let mut from = 0;
        while from < total {
            let len = CHUNK.min(total - from);
            source.read(name, from, &mut buffer[..len])?;
            let values = crate::param::decode_as_f64(entry.spec.dtype, &buffer[..len]);
            if let Some(i) = values.iter().position(|v| !v.is_finite() || v.abs() > MAX_MAGNITUDE || (counts && *v < 0.0)) {
                return Err(format!("tensor {name:?} holds {} at element {}", values[i], from / size + i));
            }
            from += len;
        }
    }
    Ok(())
}
