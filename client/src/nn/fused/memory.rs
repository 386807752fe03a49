//! The memory of tensors on the processor, and work spread over threads.

use burn::tensor::{Bytes, DType, Shape};
use burn_flex::{FlexTensor, Layout};
use rayon::prelude::*;

/// Elements of a piece of elementwise work. Part of the results: sums over pieces are rounded piece by piece.
pub(super) const PIECE: usize = 1 << 14;

/// Rows of `width` in a piece.
pub(super) fn rows_of_piece(width: usize) -> usize {
    (PIECE / width.max(1)).max(1)
}

/// The same values in row-major order.
pub(super) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
}

/// Values of a row-major tensor.
pub(super) fn values(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice::<f32>().expect("inputs of fused operations are row-major f32")
}

/// Lengths of the axes.
pub(super) fn shape(tensor: &FlexTensor) -> Vec<usize> {
    tensor.layout().shape().to_vec()
}

/// Length of the last axis.
pub(super) fn width(tensor: &FlexTensor) -> usize {
    tensor.layout().shape().last().copied().unwrap_or(1)
}

/// A tensor of these values.
pub(super) fn tensor(values: Vec<f32>, shape: &[usize]) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(Shape::from(shape.to_vec())), DType::F32)
}

/// A row-major tensor as one whose memory holds its values and nothing else, to write over with `storage_mut`.
pub(super) fn whole(found: FlexTensor) -> FlexTensor {
    let found = contiguous(found);
    if found.storage::<f32>().len() == found.layout().num_elements() {
        return found;
    }
    tensor(values(&found).to_vec(), &shape(&found))
}

/// Does every job, on several threads if there are. The result of a job must not depend on other jobs.
pub(super) fn spread<T: Send>(jobs: impl Iterator<Item = T>, work: impl Fn(T) + Sync + Send) {
    gather(jobs, work);
}

/// As [`spread`], with what each job gives, in the order of jobs.
pub(super) fn gather<T: Send, R: Send>(jobs: impl Iterator<Item = T>, work: impl Fn(T) -> R + Sync + Send) -> Vec<R> {
    // A call from outside the pool goes to another thread, which costs more than most operations.
    if rayon::current_num_threads() == 1 {
        return jobs.map(work).collect();
    }
    let jobs: Vec<T> = jobs.collect();
    if jobs.len() == 1 {
        return jobs.into_iter().map(work).collect();
    }
    jobs.into_par_iter().map(work).collect()
}

/// Sums rows of `width`, in order.
pub(super) fn total(parts: &[Vec<f32>], width: usize) -> Vec<f32> {
    let mut sum = vec![0.0; width];
    for part in parts {
        for (sum, &value) in sum.iter_mut().zip(part) {
            *sum += value;
        }
    }
    sum
}
