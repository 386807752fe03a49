//! Late interaction: cosines of all patches of pictures with all tokens of texts, of which only maxima are kept.
//!
//! The plain graph keeps every cosine, twice, with a gradient for each. Here tokens of padding are left out from the
//! start, the places of the maxima are kept, and the gradient is two products with a matrix that is zero elsewhere.

use super::kernel::vectorised;
use super::memory;
use super::run::Fused;
use burn::backend::Flex;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::Shape;
use burn_flex::FlexTensor;

/// Most cosines that are held at a time, 64 MiB. Part of the results: sums over parts are rounded part by part.
const MOST: usize = 1 << 24;

/// Both late interactions `[2, n, m]` of the unit rows of n pictures `[n, N, E]` and m texts `[m, M, E]`: for each picture
/// and text the mean over patches of the largest cosine with a token, and the mean over tokens of that with a patch.
#[derive(Debug, Clone)]
pub(in crate::nn) struct LateInteraction {
    /// Rows of the real tokens among all, `[K]`.
    rows: Vec<usize>,
    /// Where each text's tokens start in `rows`, and the end, `[m + 1]`.
    starts: Vec<usize>,
    most: usize,
}

/// What the gradient needs.
#[derive(Debug, Clone)]
pub(in crate::nn) struct Saved {
    /// `[n N, E]`.
    patches: FlexTensor,
    /// Real tokens, `[K, E]`.
    words: FlexTensor,
    /// The token that was largest for each picture, patch and text, `[n, N, m]`; nothing of use for a text without tokens.
    by_patch: Vec<u32>,
    /// The patch that was largest for each picture and token, `[n, K]`.
    by_word: Vec<u32>,
    /// n, N, M.
    sizes: [usize; 3],
}

vectorised! {
    /// Maxima of one picture: `cosines` `[N, K]` along both axes, with their places, and their means per text `[m]`.
    maxima(
        cosines: &[f32], starts: &[usize], forth: &mut [f32], back: &mut [f32], by_patch: &mut [u32], by_word: &mut [u32],
    ) {
        let (words, texts) = (by_word.len(), forth.len());
        let share = 1.0 / (cosines.len() / words) as f32;
        let mut best = cosines[..words].to_vec();
        for (patch, line) in cosines.chunks_exact(words).enumerate() {
            for ((best, place), &cosine) in best.iter_mut().zip(by_word.iter_mut()).zip(line) {
                let larger = cosine > *best;
                *best = if larger { cosine } else { *best };
                *place = if larger { patch as u32 } else { *place };
            }
            let places = &mut by_patch[patch * texts..][..texts];
            for ((ends, place), forth) in starts.windows(2).zip(places).zip(forth.iter_mut()) {
                let Some(&first) = line[ends[0]..ends[1]].first() else { continue };
                let (mut top, mut at) = (first, ends[0]);
                for (word, &cosine) in (ends[0]..).zip(&line[ends[0]..ends[1]]) {
                    let larger = cosine > top;
                    top = if larger { cosine } else { top };
                    at = if larger { word } else { at };
                }
                *place = at as u32;
                *forth += top * share;
            }
        }
        for (ends, back) in starts.windows(2).zip(back) {
            let of = &best[ends[0]..ends[1]];
            *back = of.iter().sum::<f32>() / of.len().max(1) as f32;
        }
    }
}

impl LateInteraction {
    /// For texts whose tokens are real where `real` `[m M]` is not 0.
    pub(in crate::nn) fn new(real: FlexTensor) -> Self {
        let real = memory::contiguous(real);
        let (flags, tokens) = (memory::values(&real), memory::width(&real));
        let rows: Vec<usize> = (0..flags.len()).filter(|&row| flags[row] != 0.0).collect();
        let texts = memory::shape(&real).first().copied().unwrap_or(0);
        let starts = (0..=texts).map(|text| rows.partition_point(|&row| row < text * tokens)).collect();
        Self { rows, starts, most: MOST }
    }

    /// With at most so many cosines at a time, but always those of one picture.
    #[cfg(test)]
    pub(in crate::nn) fn in_parts(self, most: usize) -> Self {
        Self { most, ..self }
    }

    /// Pictures of N patches in a part.
    fn part(&self, patches: usize) -> usize {
        (self.most / (patches * self.rows.len()).max(1)).max(1)
    }

    /// What a picture's gradient `[m]` of both interactions is per cosine, `[N, K]`, added to zeros.
    fn spread(&self, gradients: [&[f32]; 2], saved: &Saved, picture: usize, into: &mut [f32]) {
        let (texts, words, patches) = (self.starts.len() - 1, self.rows.len(), saved.sizes[1]);
        let share = 1.0 / patches as f32;
        let by_patch = &saved.by_patch[picture * patches * texts..][..patches * texts];
        for (line, places) in into.chunks_exact_mut(words).zip(by_patch.chunks_exact(texts)) {
            for ((ends, &place), &gradient) in self.starts.windows(2).zip(places).zip(gradients[0]) {
                if ends[1] > ends[0] {
                    line[place as usize] += gradient * share;
                }
            }
        }
        let by_word = &saved.by_word[picture * words..][..words];
        for (ends, &gradient) in self.starts.windows(2).zip(gradients[1]) {
            let each = gradient / (ends[1] - ends[0]).max(1) as f32;
            for word in ends[0]..ends[1] {
                into[by_word[word] as usize * words + word] += each;
            }
        }
    }
}

/// `a b` of matrices, row-major.
fn product(a: FlexTensor, b: FlexTensor) -> FlexTensor {
    memory::contiguous(Flex::float_matmul(a, b))
}

impl Fused<2> for LateInteraction {
    type Saved = Saved;

    fn forward(&self, [v, t]: [FlexTensor; 2], keep: bool) -> (FlexTensor, Option<Saved>) {
        let (shape, tokens) = (memory::shape(&v), memory::shape(&t)[1]);
        let ([pictures, patches, embed], texts, words) = ([shape[0], shape[1], shape[2]], self.starts.len() - 1, self.rows.len());
        let all = memory::values(&t);
        let chosen: Vec<f32> = self.rows.iter().flat_map(|&row| &all[row * embed..][..embed]).copied().collect();
        let chosen = memory::tensor(chosen, &[words, embed]);
        let v = v.reshape(Shape::from(vec![pictures * patches, embed]));
        let (mut by_patch, mut by_word) = (vec![0u32; pictures * patches * texts], vec![0u32; pictures * words]);
        let mut both = vec![0.0; 2 * pictures * texts];
        if words > 0 && patches > 0 {
            let (forth, back) = both.split_at_mut(pictures * texts);
            let part = self.part(patches);
            let means = forth.chunks_mut(part * texts).zip(back.chunks_mut(part * texts));
            let places = by_patch.chunks_mut(part * patches * texts).zip(by_word.chunks_mut(part * words));
            for (at, ((forth, back), (by_patch, by_word))) in means.zip(places).enumerate() {
                let some = part.min(pictures - at * part);
                let cosines = product(v.narrow(0, at * part * patches, some * patches), chosen.transpose(0, 1)); // [c N, K]
                let means = forth.chunks_mut(texts).zip(back.chunks_mut(texts));
                let places = by_patch.chunks_mut(patches * texts).zip(by_word.chunks_mut(words));
                let each = memory::values(&cosines).chunks(patches * words);
                memory::spread(means.zip(places).zip(each), |(((forth, back), (by_patch, by_word)), cosines)| {
                    maxima(cosines, &self.starts, forth, back, by_patch, by_word);
                });
            }
        }
        let sizes = [pictures, patches, tokens];
        let saved = keep.then_some(Saved { patches: v, words: chosen, by_patch, by_word, sizes });
        (memory::tensor(both, &[2, pictures, texts]), saved)
    }

    fn backward(self, saved: Saved, gradient: FlexTensor, wanted: [bool; 2]) -> [Option<FlexTensor>; 2] {
        let ([pictures, patches, tokens], embed) = (saved.sizes, memory::width(&saved.words));
        let (texts, words) = (self.starts.len() - 1, self.rows.len());
        let (mut of_v, mut of_words) = (Vec::with_capacity(pictures * patches * embed), vec![0.0; words * embed]);
        if words > 0 && patches > 0 {
            let (forth, back) = memory::values(&gradient).split_at(pictures * texts);
            let part = self.part(patches);
            for from in (0..pictures).step_by(part) {
                let some = part.min(pictures - from);
                let mut weights = vec![0.0; some * patches * words];
                memory::spread(weights.chunks_mut(patches * words).zip(from..), |(into, picture)| {
                    let of = picture * texts..(picture + 1) * texts;
                    self.spread([&forth[of.clone()], &back[of]], &saved, picture, into);
                });
                let weights = memory::tensor(weights, &[some * patches, words]);
                if wanted[1] {
                    let rows = saved.patches.narrow(0, from * patches, some * patches); // [c N, E]
                    let add = product(weights.transpose(0, 1), rows); // [K, E]
                    of_words.iter_mut().zip(memory::values(&add)).for_each(|(sum, &value)| *sum += value);
                }
                if wanted[0] {
                    of_v.extend_from_slice(memory::values(&product(weights, saved.words.clone()))); // [c N, E]
                }
            }
        }
        of_v.resize(pictures * patches * embed, 0.0);
        let mut of_t = vec![0.0; texts * tokens * embed];
        for (&row, gradient) in self.rows.iter().zip(of_words.chunks_exact(embed.max(1))) {
            of_t[row * embed..][..embed].copy_from_slice(gradient);
        }
        let of_v = memory::tensor(of_v, &[pictures, patches, embed]);
        [Some(of_v), Some(memory::tensor(of_t, &[texts, tokens, embed]))]
    }
}
