//! Right answers per way of answering and subset of modalities.

use super::fed_model::FedModel;
use super::fill::Filler;
use super::retrieval;
use super::subset::Subset;
use super::view::View;
use crate::glue;
use crate::prototype::Prototypes;
use burn::tensor::{Device, Tensor};
use tessera_common::metric::Metrics;
use tessera_common::statistics::Whitened;

/// Most samples of one forward pass.
const CHUNK: usize = 1024;

/// A frozen model on a plain device.
pub(crate) struct Frozen<'a, M: FedModel> {
    pub(crate) model: &'a M,
    pub(crate) module: M::Module,
    pub(crate) device: &'a Device,
}

impl<M: FedModel> Frozen<'_, M> {
    /// Representations of `rows`, which all have the modality, `[k, width]` row-major.
    pub(crate) fn representations(&self, view: &View<'_>, rows: &[usize], modality: usize) -> Vec<f32> {
        let mut out = Vec::with_capacity(rows.len() * self.model.width(modality));
        for chunk in rows.chunks(CHUNK) {
            let values = view.prepared(self.model, chunk, modality);
            let dim = values.len() / chunk.len();
            let inputs = glue::tensor(values, [chunk.len(), dim], self.device); // [k, d]
            out.extend(glue::host(self.model.encode(&self.module, modality, inputs))); // [k, width]
        }
        out
    }

    /// Fused representations of `n` samples, `[n, fused]` row-major, from one `[n, width]` per modality.
    pub(crate) fn fused(&self, n: usize, representations: &[Vec<f32>]) -> Vec<f32> {
        self.in_chunks(n, representations, |fused| fused)
    }

    /// Logits of `n` samples, `[n, C]` row-major, from one `[n, width]` per modality.
    fn logits(&self, n: usize, representations: &[Vec<f32>]) -> Vec<f32> {
        self.in_chunks(n, representations, |fused| self.model.logits(&self.module, fused))
    }

    fn in_chunks(&self, n: usize, representations: &[Vec<f32>], last: impl Fn(Tensor<2>) -> Tensor<2>) -> Vec<f32> {
        let mut out = Vec::new();
        for from in (0..n).step_by(CHUNK) {
            let k = CHUNK.min(n - from);
            let part = |(m, all): (usize, &Vec<f32>)| {
                let width = self.model.width(m);
                glue::tensor(all[from * width..(from + k) * width].to_vec(), [k, width], self.device) // [k, width]
            };
            let parts = representations.iter().enumerate().map(part).collect();
            out.extend(glue::host(last(self.model.fuse(&self.module, parts)))); // [k, fused] or [k, C]
        }
        out
    }

    /// The learned stand-in of a modality on the host.
    fn token(&self, modality: usize) -> Option<Vec<f32>> {
        self.model.token(&self.module, modality).map(glue::host)
    }
}

/// A library to answer with, and what its answers are called.
pub(crate) struct LibraryAnswers<'a> {
    pub(crate) near: &'static str,
    pub(crate) ncm: &'static str,
    pub(crate) cross: &'static str,
    pub(crate) prototypes: &'a Prototypes,
}

/// How answers are made.
pub(crate) struct Answers<'a> {
    /// Names of the modalities.
    pub(crate) names: &'a [&'a str],
    /// Subsets to answer from.
    pub(crate) subsets: &'a [Subset],
    /// Widths of the representations.
    pub(crate) widths: &'a [usize],
    /// Libraries.
    pub(crate) libraries: Vec<LibraryAnswers<'a>>,
    /// Whitened prototypes, if there are statistics.
    pub(crate) whitened: Option<Whitened>,
}

/// Representations of a split's samples, and what is known of them.
struct Encoded<'a> {
    view: &'a View<'a>,
    widths: &'a [usize],
    /// `[n, width]` per modality; zeros where a sample lacks it.
    all: Vec<Vec<f32>>,
}

impl Encoded<'_> {
    fn row(&self, i: usize, modality: usize) -> &[f32] {
        let width = self.widths[modality];
        &self.all[modality][i * width..(i + 1) * width]
    }
}

/// The modalities of a subset given as bits.
fn members(bits: u32, count: usize) -> impl Iterator<Item = usize> {
    (0..count).filter(move |m| bits >> m & 1 == 1)
}

/// Adds the metrics of one split.
pub(crate) fn evaluate<M: FedModel>(
    frozen: &Frozen<'_, M>,
    answers: &Answers<'_>,
    split: &str,
    view: &View<'_>,
    filler: &mut Filler<'_>,
    metrics: &mut Metrics,
) {
    let mut all: Vec<Vec<f32>> = answers.widths.iter().map(|width| vec![0.0; view.len() * width]).collect();
    for (m, into) in all.iter_mut().enumerate() {
        let rows = view.having(m);
        let found = frozen.representations(view, &rows, m);
        for (&i, row) in rows.iter().zip(found.chunks_exact(answers.widths[m])) {
            into[i * row.len()..(i + 1) * row.len()].copy_from_slice(row);
        }
    }
    let encoded = Encoded { view, widths: answers.widths, all };
    let answered = if frozen.model.grouping().is_none() { answers.subsets } else { &[] };
    for subset in answered {
        evaluate_subset(frozen, answers, split, subset, &encoded, filler, metrics);
    }
    retrieval::evaluate(frozen, answers.names, split, view, metrics);
}

fn evaluate_subset<M: FedModel>(
    frozen: &Frozen<'_, M>,
    answers: &Answers<'_>,
    split: &str,
    subset: &Subset,
    encoded: &Encoded<'_>,
    filler: &mut Filler<'_>,
    metrics: &mut Metrics,
) {
    let rows = encoded.view.having_all(subset.bits);
    if rows.is_empty() {
        return;
    }
    let labels = encoded.view.labels(&rows);
    let complete = subset.bits.count_ones() as usize == answers.names.len();
    let mut report = |answer: &str, found: &[usize]| {
        let right = found.iter().zip(&labels).filter(|(c, y)| **c == **y as usize).count();
        metrics.add(format!("{split}/{answer}/{}", subset.name), right as f64, rows.len() as f64);
    };
    let logits = head(frozen, encoded, subset, &rows, filler);
    let fallback = arg_max(&logits, rows.len());
    let headed = frozen.model.answers();
    if headed {
        report("head", &fallback);
    }
    for library in &answers.libraries {
        let nearest: Vec<Option<usize>> = rows.iter().map(|&i| nearest(library.prototypes, encoded, subset, i)).collect();
        if headed && complete {
            // Nothing is missing, so nothing stands in.
            report(library.near, &fallback);
        } else if headed {
            report(library.near, &near(frozen, library, encoded, subset, &rows, &nearest, &fallback, filler));
        }
        report(library.ncm, &or_else(&nearest, &fallback));
        if let Some(found) = across(frozen.model, library.prototypes, encoded, subset, &rows) {
            report(library.cross, &or_else(&found, &fallback));
        }
    }
    if let Some(whitened) = &answers.whitened {
        let answer = |&i: &usize| {
            let present: Vec<(&str, &[f32])> =
                members(subset.bits, answers.names.len()).map(|m| (answers.names[m], encoded.row(i, m))).collect();
            whitened.answer(&present)
        };
        let found: Vec<Option<usize>> = rows.iter().map(answer).collect();
        report("whitened", &or_else(&found, &fallback));
    }
    if headed && complete {
        metrics.add(format!("{split}/loss"), cross_entropy(&logits, &labels), rows.len() as f64);
    }
}

/// The class nearest to what sample `i` has of a subset.
fn nearest(prototypes: &Prototypes, encoded: &Encoded<'_>, subset: &Subset, i: usize) -> Option<usize> {
    let present: Vec<(usize, &[f32])> = members(subset.bits, encoded.widths.len()).map(|m| (m, encoded.row(i, m))).collect();
    prototypes.nearest(&present)
}

/// Logits `[n, C]` of the fused head, with the run's fill for what is not in the subset.
fn head<M: FedModel>(
    frozen: &Frozen<'_, M>,
    encoded: &Encoded<'_>,
    subset: &Subset,
    rows: &[usize],
    filler: &mut Filler<'_>,
) -> Vec<f32> {
    let retrieves = filler.retrieves();
    let found: Vec<Option<usize>> =
        rows.iter().map(|&i| if retrieves { nearest(filler.library(), encoded, subset, i) } else { None }).collect();
    let filled = fill(frozen, encoded, subset, rows, |m, at, out| filler.stand_in(m, None, found[at], out));
    frozen.logits(rows.len(), &filled)
}

/// Answers of the fused head, with the nearest class's prototypes for what is not in the subset.
///
/// Where a modality has no prototype of that class, the run's fill stands in.
#[allow(clippy::too_many_arguments)] // All of them are what an answer depends on.
fn near<M: FedModel>(
    frozen: &Frozen<'_, M>,
    library: &LibraryAnswers<'_>,
    encoded: &Encoded<'_>,
    subset: &Subset,
    rows: &[usize],
    nearest: &[Option<usize>],
    fallback: &[usize],
    filler: &mut Filler<'_>,
) -> Vec<usize> {
    let filled =
        fill(frozen, encoded, subset, rows, |m, at, out| match nearest[at].and_then(|class| library.prototypes.row(m, class)) {
            Some(row) => {
                out.extend(row.iter().map(|&v| v as f32));
                false
            }
            None => filler.stand_in(m, None, nearest[at], out),
        });
    let answers = arg_max(&frozen.logits(rows.len(), &filled), rows.len());
    answers.iter().zip(nearest.iter().zip(fallback)).map(|(a, (n, f))| if n.is_some() { *a } else { *f }).collect()
}

/// One `[n, width]` per modality: what is in the subset, and what `stand_in` appends for the rest (true: the token).
fn fill<M: FedModel>(
    frozen: &Frozen<'_, M>,
    encoded: &Encoded<'_>,
    subset: &Subset,
    rows: &[usize],
    mut stand_in: impl FnMut(usize, usize, &mut Vec<f32>) -> bool,
) -> Vec<Vec<f32>> {
    let column = |m: usize| {
        let token = frozen.token(m);
        let mut out = Vec::with_capacity(rows.len() * encoded.widths[m]);
        for (at, &i) in rows.iter().enumerate() {
            if subset.bits >> m & 1 == 1 {
                out.extend_from_slice(encoded.row(i, m));
            } else if let (true, Some(token)) = (stand_in(m, at, &mut out), &token) {
                out.truncate(out.len() - token.len());
                out.extend_from_slice(token);
            }
        }
        out
    };
    (0..encoded.widths.len()).map(column).collect()
}

/// Of samples that are looked at by one of two matched modalities, the class whose prototype in the other one is nearest.
fn across<M: FedModel>(
    model: &M,
    prototypes: &Prototypes,
    encoded: &Encoded<'_>,
    subset: &Subset,
    rows: &[usize],
) -> Option<Vec<Option<usize>>> {
    let [first, second] = model.matched()?;
    let (own, other) = match subset.bits {
        bits if bits == 1 << first => (first, second),
        bits if bits == 1 << second => (second, first),
        _ => return None,
    };
    let part = |values: &[f32]| -> Vec<f64> { values.iter().map(|&v| f64::from(v)).collect() };
    let unit = |values: Vec<f64>| -> Vec<f64> {
        let length = values.iter().map(|v| v * v).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
        values.into_iter().map(|v| v / length).collect()
    };
    let anchors: Vec<(usize, Vec<f64>)> = (0..prototypes.classes())
        .filter_map(|class| {
            let row: Vec<f32> = prototypes.row(other, class)?.iter().map(|&v| v as f32).collect();
            Some((class, unit(part(model.comparable(&row)))))
        })
        .collect();
    let nearest = |&i: &usize| {
        let query = part(model.comparable(encoded.row(i, own)));
        let cosine = |anchor: &[f64]| anchor.iter().zip(&query).map(|(a, q)| a * q).sum::<f64>();
        let best = anchors.iter().fold(None, |best: Option<(usize, f64)>, (class, anchor)| match (best, cosine(anchor)) {
            (Some(best), value) if best.1 >= value => Some(best),
            (_, value) => Some((*class, value)),
        });
        best.map(|(class, _)| class)
    };
    Some(rows.iter().map(nearest).collect())
}

fn or_else(answers: &[Option<usize>], fallback: &[usize]) -> Vec<usize> {
    answers.iter().zip(fallback).map(|(a, f)| a.unwrap_or(*f)).collect()
}

/// The highest of each of `n` rows; the lowest class wins a tie.
fn arg_max(logits: &[f32], n: usize) -> Vec<usize> {
    let classes = logits.len() / n.max(1);
    let highest = |row: &[f32]| (1..row.len()).fold(0, |best, c| if row[c] > row[best] { c } else { best });
    logits.chunks_exact(classes.max(1)).map(highest).collect()
}

/// Sum over samples of `-log softmax(logits)[label]`.
fn cross_entropy(logits: &[f32], labels: &[u32]) -> f64 {
    let classes = logits.len() / labels.len().max(1);
    let one = |(row, &label): (&[f32], &u32)| {
        let top = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let total: f64 = row.iter().map(|&l| (f64::from(l) - top).exp()).sum();
        top + total.ln() - f64::from(row[label as usize])
    };
    logits.chunks_exact(classes.max(1)).zip(labels).map(one).sum()
}
