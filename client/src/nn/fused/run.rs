//! A fused operation as a node of Burn's graph, or without a graph.

use super::memory;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, BackendTypes, Flex};
use burn::tensor::{DType, Tensor};
use burn_flex::FlexTensor;
use std::fmt::Debug;

type Node = <Autodiff<Flex> as BackendTypes>::FloatTensorPrimitive;

/// An operation of `N` tensors with its own gradient.
pub(in crate::nn) trait Fused<const N: usize>: Debug + Send + 'static {
    /// What the gradient needs of the forward pass.
    type Saved: Clone + Send + Debug + 'static;

    /// The value, and what [`Self::backward`] needs if `keep`. All inputs are row-major.
    fn forward(&self, inputs: [FlexTensor; N], keep: bool) -> (FlexTensor, Option<Self::Saved>);

    /// Gradients of those inputs that are `wanted`, from the row-major gradient of the value. Others may be given too.
    fn backward(self, saved: Self::Saved, gradient: FlexTensor, wanted: [bool; N]) -> [Option<FlexTensor>; N];
}

/// A tensor in the memory of this process.
#[derive(Debug, Clone)]
pub(in crate::nn) enum Operand {
    /// Outside any graph.
    Plain(FlexTensor),
    /// With a place in the graph.
    Graph(Node),
}

impl Operand {
    /// None if the tensor lies on another device, or is not f32.
    pub(in crate::nn) fn of<const D: usize>(tensor: &Tensor<D>) -> Option<Self> {
        if tensor.dtype() != DType::F32 {
            return None;
        }
        match tensor.clone().try_into_primitive::<Autodiff<Flex>>() {
            Ok(node) => Some(Self::Graph(node)),
            Err(_) => tensor.clone().try_into_primitive::<Flex>().ok().map(Self::Plain),
        }
    }

    /// True if a gradient is wanted.
    pub(in crate::nn) fn is_tracked(&self) -> bool {
        matches!(self, Self::Graph(node) if node.is_tracked())
    }

    /// The memory alone.
    pub(in crate::nn) fn into_memory(self) -> FlexTensor {
        match self {
            Self::Plain(tensor) => tensor,
            Self::Graph(node) => node.into_primitive(),
        }
    }

    fn into_node(self) -> Node {
        match self {
            Self::Plain(tensor) => Node::new(tensor),
            Self::Graph(node) => node,
        }
    }
}

#[derive(Debug)]
struct Step<O>(O);

impl<O: Fused<N>, const N: usize> Backward<Flex, N> for Step<O> {
    type State = O::Saved;

    fn backward(self, ops: Ops<Self::State, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = memory::contiguous(gradients.consume::<Flex>(&ops.node));
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let found = self.0.backward(ops.state, gradient, wanted);
        for (parent, gradient) in ops.parents.iter().zip(found) {
            if let Some(parent) = parent {
                gradients.register::<Flex>(parent.id, gradient.expect("`backward` gives every gradient that is wanted"));
            }
        }
    }
}

/// Runs an operation: as a node of the graph if an input is in one.
pub(in crate::nn) fn run<O: Fused<N>, const N: usize, const D: usize>(op: O, inputs: [Operand; N]) -> Tensor<D> {
    if inputs.iter().all(|input| matches!(input, Operand::Plain(_))) {
        let inputs = inputs.map(|input| memory::contiguous(input.into_memory()));
        return Tensor::from_primitive::<Flex>(op.forward(inputs, false).0);
    }
    let tracked = inputs.iter().any(Operand::is_tracked);
    let nodes = inputs.map(Operand::into_node);
    let guards = nodes.each_ref().map(Node::node);
    let (value, saved) = op.forward(nodes.map(|node| memory::contiguous(node.into_primitive())), tracked);
    let value = match Step(op).prepare::<NoCheckpointing>(guards).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(saved.expect("`forward` was asked to keep it"), value),
        OpsKind::UnTracked(prepared) => prepared.finish(value),
    };
    Tensor::from_primitive::<Autodiff<Flex>>(value)
}
