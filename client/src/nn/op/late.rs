//! Late interaction of patches of pictures with tokens of texts, FILIP's.

use crate::nn::fused::{LateInteraction, Operand, run};
use burn::tensor::Tensor;

/// Added to the cosines of padding. Finite: a text of padding alone must not divide zero by zero.
const OUT: f32 = -1e4;

/// Most cosines of the plain graph that are made at a time, 64 MiB.
const MOST: usize = 1 << 24;

/// i2t and t2i, `[n, m]` each, of unit rows: patches `v` `[n, N, E]` of n pictures, tokens `t` `[m, M, E]` of m texts.
///
/// ```text
/// S_ij = v_i t_j^T;  i2t_ij = mean_n max_{m in K_j} S_ij,  t2i_ij = sum_{m in K_j} max_n S_ij / |K_j|
/// ```
/// with K_j the tokens of text j that are real: 1 in `real` `[m, M]`, else 0. Both are 0 for a text without any.
pub fn late_interaction(v: Tensor<3>, t: Tensor<3>, real: &Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    let ([pictures, _, embed], [texts, tokens, width]) = (v.dims(), t.dims());
    assert!(embed == width && real.dims() == [texts, tokens], "tokens of the width of patches, and a flag for each");
    match [Operand::of(&v), Operand::of(&t), Operand::of(real)] {
        [Some(patches), Some(words), Some(flags)] => {
            let both: Tensor<3> = run(LateInteraction::new(flags.into_memory()), [patches, words]); // [2, n, m]
            let of = |at: usize| both.clone().narrow(0, at, 1).reshape([pictures, texts]); // [n, m]
            (of(0), of(1))
        }
        _ => plain(v, t, real, MOST),
    }
}

/// [`late_interaction`] by the plain graph, with at most `most` cosines at a time, but always those of one picture.
fn plain(v: Tensor<3>, t: Tensor<3>, real: &Tensor<2>, most: usize) -> (Tensor<2>, Tensor<2>) {
    let ([pictures, patches, embed], [texts, tokens, _]) = (v.dims(), t.dims());
    let none = Tensor::zeros([0, texts], &v.device()); // [0, m]
    let words = t.reshape([texts * tokens, embed]).transpose(); // [E, m M]
    let views = v.reshape([pictures * patches, embed]); // [n N, E]
    let out = real.clone().neg().add_scalar(1.0).mul_scalar(OUT).reshape([1, 1, texts, tokens]); // [1, 1, m, M]
    let counts = real.clone().sum_dim(1); // [m, 1]
    let any = counts.clone().clamp_max(1.0).transpose(); // [1, m]
    let share = (real.clone() / counts.clamp_min(1.0)).reshape([1, texts, tokens]); // [1, m, M]
    let part = (most / (patches * texts * tokens).max(1)).max(1);
    let (mut forth, mut back) = (vec![none.clone()], vec![none]);
    for from in (0..pictures).step_by(part) {
        let some = part.min(pictures - from);
        let rows = views.clone().narrow(0, from * patches, some * patches); // [c N, E]
        let cosines = rows.matmul(words.clone()); // [c N, m M]
        let by_word = cosines.clone().reshape([some, patches, texts * tokens]).max_dim(1); // [c, 1, m M]
        let by_word = by_word.reshape([some, texts, tokens]) * share.clone(); // [c, m, M]
        back.push(by_word.sum_dim(2).reshape([some, texts])); // [c, m]
        let by_patch = (cosines.reshape([some, patches, texts, tokens]) + out.clone()).max_dim(3); // [c, N, m, 1]
        forth.push(by_patch.mean_dim(1).reshape([some, texts]) * any.clone()); // [c, m]
    }
    (Tensor::cat(forth, 0), Tensor::cat(back, 0)) // [n, m] each
}

#[cfg(test)]
mod tests;
