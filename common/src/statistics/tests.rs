use super::*;
use crate::rng;
use proptest::prelude::*;
use serde::Deserialize;

/// `n` samples of correlated features, far from 0.
fn features(n: usize, classes: u32, width: usize, seed: u64) -> (Vec<f64>, Vec<u32>) {
    let mut draw = rng::stream(seed, "statistics test", "", 0);
    let labels: Vec<u32> = (0..n).map(|_| draw.below(classes as usize) as u32).collect();
    let mut values = Vec::new();
    for &label in &labels {
        let shared = draw.normal();
        values.extend((0..width).map(|j| 3.0 + f64::from(label) * (j as f64 - 1.5) + shared + 0.5 * draw.normal()));
    }
    (values, labels)
}

/// Raw second moments of one member, or of a pool: `T + sum_c S_c S_c' / N_c`.
fn raw_moments(s: &FeatureStatistics) -> Vec<f64> {
    let mut raw = s.scatter().to_vec();
    for class in 0..s.classes() {
        if let Some(mean) = s.mean(class) {
            let sum = &s.sum()[class * s.width()..(class + 1) * s.width()];
            for (i, m) in mean.iter().enumerate() {
                for (j, x) in sum.iter().enumerate() {
                    raw[i * s.width() + j] += m * x;
                }
            }
        }
    }
    raw
}

fn close(a: &[f64], b: &[f64], tolerance: f64) -> bool {
    let scale = b.iter().fold(1.0f64, |top, v| top.max(v.abs()));
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| (x - y).abs() <= tolerance * scale)
}

proptest! {
    /// Statistics merged over any split of members are those of the pool: counts, sums and raw second moments.
    #[test]
    fn any_split_adds_up_to_the_pool(n in 1usize..80, parts in 1usize..9, seed in any::<u64>()) {
        let (classes, width) = (3, 4);
        let (values, labels) = features(n, classes as u32, width, seed);
        let pooled = FeatureStatistics::of(classes, width, &values, &labels, 1);
        let mut draw = rng::stream(seed, "split", "", 0);
        let owner: Vec<usize> = (0..n).map(|_| draw.below(parts)).collect();
        let mut total = FeatureStatistics::empty(classes, width);
        let mut raw = vec![0.0; width * width];
        for part in 0..parts {
            let rows: Vec<usize> = (0..n).filter(|&i| owner[i] == part).collect();
            let own: Vec<f64> = rows.iter().flat_map(|&i| values[i * width..(i + 1) * width].to_vec()).collect();
            let own_labels: Vec<u32> = rows.iter().map(|&i| labels[i]).collect();
            let one = FeatureStatistics::of(classes, width, &own, &own_labels, 1);
            raw.iter_mut().zip(raw_moments(&one)).for_each(|(a, b)| *a += b);
            total.merge(&one).unwrap();
        }
        prop_assert_eq!(total.count(), pooled.count());
        prop_assert!(close(total.sum(), pooled.sum(), 1e-9));
        prop_assert!(close(&raw, &raw_moments(&pooled), 1e-9));
        // own means never explain less than pooled ones
        let trace = |s: &FeatureStatistics| (0..width).map(|i| s.scatter()[i * width + i]).sum::<f64>();
        prop_assert!(trace(&total) <= trace(&pooled) + 1e-9);
        prop_assert!(total.groups() >= pooled.groups());
    }

    /// The federation's standardisation is the centralised z-score.
    #[test]
    fn any_split_standardises_as_the_pool(n in 1usize..60, seed in any::<u64>()) {
        let (values, owner) = features(n, 5, 3, seed);
        let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
        let mut total = InputStatistics::empty(3);
        for part in 0..5 {
            let mut one = InputStatistics::empty(3);
            (0..n).filter(|&i| owner[i] == part).for_each(|i| one.add(&values[i * 3..(i + 1) * 3]));
            total.merge(&one).unwrap();
        }
        let scale = Standardisation::from(&total);
        for j in 0..3 {
            let column: Vec<f64> = values.iter().skip(j).step_by(3).map(|&v| f64::from(v)).collect();
            let mean = column.iter().sum::<f64>() / n as f64;
            let std = (column.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n as f64).sqrt();
            prop_assert!((scale.mean()[j] - mean).abs() < 1e-9);
            let expected = if std < LEAST_STD { 1.0 } else { std };
            prop_assert!((scale.std()[j] - expected).abs() < 1e-7);
        }
    }
}

#[derive(Deserialize)]
struct Lda {
    classes: usize,
    width: usize,
    train: Vec<f64>,
    labels: Vec<u32>,
    test: Vec<f64>,
    runs: Vec<LdaRun>,
}

#[derive(Deserialize)]
struct LdaRun {
    rho: f64,
    answers: Vec<usize>,
    scores: Vec<Vec<f64>>,
}

/// One member's statistics give scikit-learn's shrunk linear discriminants, see `known_answers/lda.py`.
#[test]
fn one_balanced_modality_is_linear_discriminant_analysis() {
    let lda: Lda = serde_json::from_str(include_str!("../../known_answers/lda.json")).unwrap();
    let statistics = FeatureStatistics::of(lda.classes, lda.width, &lda.train, &lda.labels, 1);
    let n = lda.labels.len() as f64;
    assert_eq!(lda.runs.len(), 5);
    for run in &lda.runs {
        let whitened = Whitened::new(&[("m".to_owned(), statistics.clone())].into(), run.rho, 1);
        let factor = n / (n - lda.classes as f64) * (1.0 + run.rho);
        for (i, row) in lda.test.chunks_exact(lda.width).enumerate() {
            let row: Vec<f32> = row.iter().map(|&v| v as f32).collect();
            assert_eq!(whitened.answer(&[("m", &row)]), Some(run.answers[i]), "rho {}, sample {i}", run.rho);
            if let Some(theirs) = run.scores.get(i) {
                let ours = whitened.scores(&[("m", &row)]);
                for class in 1..lda.classes {
                    let (a, b) = (factor * (ours[class].1 - ours[0].1), theirs[class] - theirs[0]);
                    assert!((a - b).abs() < 1e-5 * b.abs().max(1.0), "rho {}, sample {i}: {a} against {b}", run.rho);
                }
            }
        }
    }
}

#[test]
fn statistics_survive_their_tensors() {
    let (values, labels) = features(20, 3, 4, 1);
    let statistics = FeatureStatistics::of(3, 4, &values, &labels, 1);
    let mut inputs = InputStatistics::empty(2);
    inputs.add(&[1.0, 2.0]);
    inputs.add(&[3.0, -2.0]);
    let scale = Standardisation::from(&inputs);
    let mut set = ParamSet::new();
    statistics.write("left", &mut set);
    inputs.write("left", &mut set);
    scale.write("right", &mut set);
    assert_eq!(FeatureStatistics::read("left", &set), Ok(Some(statistics.clone())));
    assert_eq!(FeatureStatistics::read("right", &set), Ok(None));
    assert_eq!(FeatureStatistics::read_all(&set), Ok([("left".to_owned(), statistics)].into()));
    assert_eq!(InputStatistics::read_all(&set), Ok([("left".to_owned(), inputs)].into()));
    assert_eq!(Standardisation::read("right", &set), Ok(Some(scale)));
    assert_eq!(Standardisation::read("left", &set), Ok(None));
}

#[test]
fn malformed_tensors_are_named() {
    let good = || {
        let mut set = ParamSet::new();
        FeatureStatistics::of(2, 2, &[1.0, 2.0, 3.0, 4.0], &[0, 1], 1).write("m", &mut set);
        set
    };
    let with = |name: &str, tensor: Tensor| {
        let mut set = good();
        set.insert(format!("feature/m/{name}"), tensor);
        FeatureStatistics::read("m", &set).unwrap_err()
    };
    assert!(with("count", Tensor::f64(&[3], &[1.0; 3])).contains("\"feature/m/count\" has shape [3], [2] is expected"));
    assert!(with("count", Tensor::f32(&[2], &[1.0; 2])).contains("is F32, not F64"));
    assert!(with("count", Tensor::f64(&[2], &[1.0, -1.0])).contains("class 1 is negative"));
    assert!(with("count", Tensor::f64(&[2], &[1.0, 0.0])).contains("sum for class 1"));
    assert!(with("scatter", Tensor::f64(&[2, 2], &[1.0, 0.0, f64::NAN, 1.0])).contains("not finite at element 2"));
    assert!(with("groups", Tensor::f64(&[1], &[-1.0])).contains("negative"));
    assert!(with("sum", Tensor::f64(&[4], &[1.0; 4])).contains("2 dimensions are expected"));
    let mut partial = ParamSet::new();
    partial.insert("input/m/sum", Tensor::f64(&[1], &[1.0]));
    assert!(InputStatistics::read("m", &partial).unwrap_err().contains("\"input/m/count\" is missing"));
    partial.insert("input/m/mean", Tensor::f64(&[1], &[1.0]));
    partial.insert("input/m/std", Tensor::f64(&[1], &[0.0]));
    assert!(Standardisation::read("m", &partial).unwrap_err().contains("not above 0"));
    let (one, two) = (FeatureStatistics::empty(2, 2), FeatureStatistics::empty(2, 3));
    assert!(one.clone().merge(&two).unwrap_err().contains("[2, 2] and [2, 3]"));
    assert!(InputStatistics::empty(1).merge(&InputStatistics::empty(2)).is_err());
}

#[test]
fn standardisation_centres_scales_and_clips() {
    let mut inputs = InputStatistics::empty(3);
    (0..4).for_each(|i| inputs.add(&[i as f32, 5.0, 1e6 + 0.5]));
    let scale = Standardisation::from(&inputs);
    assert_eq!(scale.std()[1..], [1.0, 1.0], "a constant feature is only centred");
    let mut out = Vec::new();
    scale.apply(&[1.5, 6.0, 1e6], &mut out);
    scale.apply(&[100.0, -50.0, 1e6 + 0.5], &mut out);
    assert_eq!(out, [0.0, 1.0, -0.5, 6.0, -6.0, 0.0]);
    let nothing = Standardisation::from(&InputStatistics::empty(2));
    assert_eq!((nothing.mean(), nothing.std()), (&[0.0, 0.0][..], &[1.0, 1.0][..]));
}

/// The promise about precision in the docs of [`InputStatistics`].
#[test]
fn a_far_mean_keeps_six_digits() {
    let mut inputs = InputStatistics::empty(1);
    let mut draw = rng::stream(1, "far", "", 0);
    let values: Vec<f32> = (0..1000).map(|_| (1e4 + draw.normal()) as f32).collect();
    values.iter().for_each(|&v| inputs.add(&[v]));
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / 1000.0;
    let std = (values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / 1000.0).sqrt();
    assert!((Standardisation::from(&inputs).std()[0] / std - 1.0).abs() < 1e-6);
}

#[test]
fn rare_classes_are_left_out_of_everything() {
    let (values, mut labels) = features(40, 3, 4, 2);
    labels.iter_mut().skip(3).filter(|l| **l == 1).for_each(|l| *l = 0);
    (labels[0], labels[1], labels[2]) = (1, 1, 1);
    let all = FeatureStatistics::of(3, 4, &values, &labels, 1);
    let some = FeatureStatistics::of(3, 4, &values, &labels, 4);
    assert_eq!((all.count()[1], some.count()[1], all.groups(), some.groups()), (3.0, 0.0, 3.0, 2.0));
    let keep: Vec<usize> = (0..40).filter(|&i| labels[i] != 1).collect();
    let kept: Vec<f64> = keep.iter().flat_map(|&i| values[i * 4..(i + 1) * 4].to_vec()).collect();
    let kept_labels: Vec<u32> = keep.iter().map(|&i| labels[i]).collect();
    assert_eq!(some, FeatureStatistics::of(3, 4, &kept, &kept_labels, 1));
}

fn one(name: &str, statistics: FeatureStatistics) -> BTreeMap<String, FeatureStatistics> {
    [(name.to_owned(), statistics)].into()
}

#[test]
fn no_spread_means_nearest_mean() {
    // one sample per class: the scatter is zero
    let statistics = FeatureStatistics::of(3, 2, &[0.0, 0.0, 4.0, 0.0, 0.0, 4.0], &[0, 1, 2], 1);
    let whitened = Whitened::new(&one("m", statistics), 0.1, 1);
    for (x, class) in [([0.5f32, 0.5], 0), ([3.0, 0.5], 1), ([0.5, 3.0], 2), ([2.0, 2.0], 0), ([3.0, 3.0], 1)] {
        // the last two are ties, which the lowest class wins
        assert_eq!(whitened.answer(&[("m", &x)]), Some(class), "{x:?}");
    }
}

#[test]
fn a_singular_or_forged_scatter_still_answers() {
    // all samples on a line, and no shrinkage
    let line: Vec<f64> = (0..8).flat_map(|i| [f64::from(i), 2.0 * f64::from(i)]).collect();
    let statistics = FeatureStatistics::of(2, 2, &line, &[0, 0, 0, 0, 1, 1, 1, 1], 1);
    let answer = |statistics, x: &[f32]| Whitened::new(&one("m", statistics), 0.0, 1).answer(&[("m", x)]);
    assert_eq!(answer(statistics.clone(), &[1.0, 2.0]), Some(0));
    assert_eq!(answer(statistics.clone(), &[6.0, 12.0]), Some(1));
    let mut set = ParamSet::new();
    statistics.write("m", &mut set);
    set.insert("feature/m/scatter", Tensor::f64(&[2, 2], &[-5.0, 1e300, 1e300, -5.0]));
    let forged = FeatureStatistics::read("m", &set).unwrap().unwrap();
    let whitened = Whitened::new(&one("m", forged), 0.1, 1);
    assert!(whitened.scores(&[("m", &[1.0, 2.0])]).iter().all(|(_, s)| s.is_finite()));
}

#[test]
fn classes_must_be_valid_in_every_present_modality() {
    let a = FeatureStatistics::of(4, 1, &[0.0, 0.1, 1.0, 1.1, 2.0], &[0, 0, 1, 1, 2], 1);
    let b = FeatureStatistics::of(4, 1, &[5.0, 5.1, 7.0], &[1, 1, 3], 1);
    let whitened = Whitened::new(&[("a".to_owned(), a), ("b".to_owned(), b)].into(), 0.1, 1);
    let classes = |present: &[(&str, &[f32])]| whitened.scores(present).iter().map(|(c, _)| *c).collect::<Vec<_>>();
    assert_eq!(classes(&[("a", &[0.0])]), [0, 1, 2]);
    assert_eq!(classes(&[("b", &[0.0])]), [1, 3]);
    assert_eq!(classes(&[("a", &[0.0]), ("b", &[7.0])]), [1]);
    assert_eq!(whitened.answer(&[]), None);
    assert_eq!(whitened.answer(&[("c", &[0.0])]), None);
    let posterior = whitened.posterior(&[("a", &[1.0])]);
    assert!((posterior.iter().map(|(_, p)| p).sum::<f64>() - 1.0).abs() < 1e-12 && posterior[1].1 > 0.99);
    let strict = Whitened::new(&one("a", FeatureStatistics::of(2, 1, &[0.0, 0.1, 1.0], &[0, 0, 1], 1)), 0.1, 2);
    assert_eq!(strict.scores(&[("a", &[1.0])]).len(), 1, "class 1 has fewer than min_total samples");
    assert!(!strict.modality("a").unwrap().is_valid(1) && strict.modality("b").is_none());
}

#[test]
fn fresh_means_are_sums_over_counts() {
    let statistics = FeatureStatistics::of(3, 2, &[1.0, 2.0, 3.0, 6.0, 9.0, 9.0], &[0, 0, 2], 1);
    let library = statistics.means(1);
    assert_eq!(library.valid_classes(), [0, 2]);
    assert_eq!((library.row(0), library.row(2)), (&[2.0, 4.0][..], &[9.0, 9.0][..]));
    assert_eq!(statistics.means(2).valid_classes(), [0]);
}

/// Adding another modality to the statistics changes nothing of the first.
#[test]
fn modalities_do_not_mix() {
    let (values, labels) = features(30, 3, 4, 3);
    let a = FeatureStatistics::of(3, 4, &values, &labels, 1);
    let b = FeatureStatistics::of(3, 4, &features(30, 3, 4, 4).0, &labels, 1);
    let alone = Whitened::new(&one("a", a.clone()), 0.1, 1);
    let both = Whitened::new(&[("a".to_owned(), a), ("b".to_owned(), b)].into(), 0.1, 1);
    let x: Vec<f32> = values[..4].iter().map(|&v| v as f32).collect();
    assert_eq!(alone.scores(&[("a", &x)]), both.scores(&[("a", &x)]));
}
