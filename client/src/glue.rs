//! Burn modules as named tensors, and back.
//!
//! A parameter at the path `encoder.left.l1.weight` of a module travels as `param/encoder.left/l1.weight`: the block is
//! the longest name in the model's list of blocks that the path starts with, the leaf is the rest. Weights of linear
//! layers travel as `[out, in]`, which is PyTorch's layout; Burn keeps `[in, out]`.

mod named;
#[cfg(test)]
mod tests;

pub use named::Named;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};
use std::collections::{BTreeMap, BTreeSet};
use tessera_common::param::{Dtype, ParamSet, Tensor as Stored, param_name};

/// Why a module and a parameter set do not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GlueError {
    /// The module has a parameter that no block claims: a fault of the model.
    #[error("parameter {path:?} of the model lies in none of its blocks: {blocks}")]
    NoBlock {
        /// Path in the module.
        path: String,
        /// All blocks.
        blocks: String,
    },
    /// A parameter that the model needs is not there.
    #[error("parameter {0:?} is missing")]
    Missing(String),
    /// A parameter that the model does not have.
    #[error("parameter {0:?} is not part of this model")]
    Unused(String),
    /// A parameter of another shape or dtype.
    #[error("parameter {name:?} is {found}, the model needs {expected}")]
    Mismatch {
        /// Its name.
        name: String,
        /// Dtype and shape found.
        found: String,
        /// Dtype and shape needed.
        expected: String,
    },
}

/// Where a traversal of a module is.
#[derive(Debug, Default)]
struct Path {
    parts: Vec<String>,
    containers: Vec<String>,
}

impl Path {
    fn enter(&mut self, name: &str, container: &str) {
        self.parts.push(name.to_owned());
        self.containers.push(container.to_owned());
    }

    fn exit(&mut self) {
        self.parts.pop();
        self.containers.pop();
    }

    fn text(&self) -> String {
        self.parts.join(".")
    }

    /// True at the weight of a linear layer, which is stored transposed.
    fn is_linear_weight(&self) -> bool {
        self.containers.last().is_some_and(|c| c == "Struct:Linear") && self.parts.last().is_some_and(|p| p == "weight")
    }
}

/// One parameter of a module, as it travels.
struct Found {
    id: ParamId,
    path: String,
    shape: Vec<usize>,
    transposed: bool,
    values: Vec<f32>,
}

/// Collects parameters; their values only if asked.
struct Collect {
    path: Path,
    with_values: bool,
    found: Vec<Found>,
}

impl ModuleVisitor for Collect {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let transposed = D == 2 && self.path.is_linear_weight();
        let mut shape = param.lazy_shape().to_vec();
        let mut values = Vec::new();
        if self.with_values {
            values = host(param.val());
        }
        if transposed {
            values = transpose(&values, shape[0], shape[1]);
            shape.swap(0, 1);
        }
        self.found.push(Found { id: param.id, path: self.path.text(), shape, transposed, values });
    }
}

fn visit<M: Module>(module: &M, with_values: bool) -> Vec<Found> {
    let mut collect = Collect { path: Path::default(), with_values, found: Vec::new() };
    module.visit(&mut collect);
    collect.found
}

/// Values of a tensor in row-major order.
pub fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data_as::<f32>().try_into_vec::<f32>().expect("into_data_as has made it f32")
}

/// A tensor of these values; panics if they do not fill `shape`, which is a bug of the caller.
pub fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    if values.is_empty() {
        return Vec::new();
    }
    (0..columns).flat_map(|j| (0..rows).map(move |i| values[i * columns + j])).collect()
}

/// Name of the parameter at `path` in a parameter set.
fn stored_name(path: &str, blocks: &[String]) -> Result<String, GlueError> {
    let leaf_in = |block: &String| path.strip_prefix(block.as_str())?.strip_prefix('.').map(str::to_owned);
    let longest = blocks.iter().filter_map(|b| Some((b, leaf_in(b)?))).max_by_key(|(b, _)| b.len());
    match longest {
        Some((block, leaf)) => Ok(param_name(block, &leaf)),
        None => Err(GlueError::NoBlock { path: path.to_owned(), blocks: blocks.join(", ") }),
    }
}

/// All parameters of a module, `param/BLOCK/LEAF`.
///
/// # Errors
/// If a parameter lies in no block.
pub fn collect<M: Module>(module: &M, blocks: &[String]) -> Result<ParamSet, GlueError> {
    let mut set = ParamSet::new();
    for found in visit(module, true) {
        set.insert(stored_name(&found.path, blocks)?, Stored::f32(&found.shape, &found.values));
    }
    Ok(set)
}

/// Ids of the parameters whose name, `param/BLOCK/LEAF`, is `wanted`.
///
/// # Errors
/// If a parameter lies in no block.
pub fn ids<M: Module>(module: &M, blocks: &[String], wanted: impl Fn(&str) -> bool) -> Result<BTreeSet<ParamId>, GlueError> {
    let mut ids = BTreeSet::new();
    for found in visit(module, false) {
        if wanted(&stored_name(&found.path, blocks)?) {
            ids.insert(found.id);
        }
    }
    Ok(ids)
}

/// The module with its parameters replaced by those of `set`, on `device`. Sections other than `param` are ignored.
///
/// Everything is checked before anything is replaced: Burn's own loader ends the process on a bad tensor.
///
/// # Errors
/// Names the parameter that is missing, unknown, or of another shape or dtype.
pub fn apply<M: Module>(module: M, blocks: &[String], set: &ParamSet, device: &Device) -> Result<M, GlueError> {
    let mut values = BTreeMap::new();
    let mut known = BTreeSet::new();
    for found in visit(&module, false) {
        let name = stored_name(&found.path, blocks)?;
        let tensor = set.get(&name).ok_or_else(|| GlueError::Missing(name.clone()))?;
        let stored = (tensor.shape() == found.shape).then(|| tensor.to_f32()).flatten();
        let Some(mut stored) = stored else {
            let expected = format!("{:?} {:?}", Dtype::F32, found.shape);
            return Err(GlueError::Mismatch { name, found: format!("{:?} {:?}", tensor.spec().dtype, tensor.shape()), expected });
        };
        if found.transposed {
            stored = transpose(&stored, found.shape[0], found.shape[1]);
        }
        known.insert(name);
        values.insert(found.path, stored);
    }
    match set.section("param/").find(|(name, _)| !known.contains(*name)) {
        Some((name, _)) => Err(GlueError::Unused(name.to_owned())),
        None => Ok(module.map(&mut Replace { path: Path::default(), values, device })),
    }
}

struct Replace<'a> {
    path: Path,
    values: BTreeMap<String, Vec<f32>>,
    device: &'a Device,
}

impl ModuleMapper for Replace<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let values = self.values.remove(&self.path.text()).expect("a visit of this module has found the path");
        let shape = param.lazy_shape().to_vec();
        let data = TensorData::new(values, shape);
        param.map(|_| Tensor::from_data(data, self.device))
    }
}

/// The first tensor of `set` that is not finite, and where.
pub fn non_finite(set: &ParamSet) -> Option<String> {
    set.iter().find_map(|(name, tensor)| {
        let at = tensor.to_f64().iter().position(|v| !v.is_finite())?;
        Some(format!("tensor {name:?} is not finite at element {at}"))
    })
}
