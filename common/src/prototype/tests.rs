use super::*;
use crate::rng;
use proptest::prelude::*;

const CLASSES: usize = 4;
const WIDTH: usize = 3;

/// Sums of a member that has about half of the classes; never class `without`.
fn member(seed: u64, without: Option<usize>) -> ProtoSums {
    let mut draw = rng::stream(seed, "prototype test", "", 0);
    let mut sums = ProtoSums::empty(CLASSES, WIDTH);
    for _ in 0..draw.below(12) {
        let class = draw.below(CLASSES);
        let row: Vec<f32> = (0..WIDTH).map(|_| draw.normal() as f32).collect();
        if Some(class) != without {
            sums.add(class, &row);
        }
    }
    sums
}

fn total(members: &[ProtoSums]) -> (ProtoSums, Vec<f64>) {
    let mut sums = ProtoSums::empty(CLASSES, WIDTH);
    let mut contributors = vec![0.0; CLASSES];
    for one in members {
        sums.merge(one).unwrap();
        contributors.iter_mut().zip(one.count()).for_each(|(n, c)| *n += f64::from(u8::from(*c > 0.0)));
    }
    (sums, contributors)
}

fn renew(old: Option<&Library>, members: &[ProtoSums], round: Round, ema: f64, max_age: u32) -> Library {
    let (sums, contributors) = total(members);
    Library::renew(old, &sums, &contributors, round, 1.0, ema, max_age).unwrap()
}

proptest! {
    /// A member that lacks a class (or a whole modality, which sends nothing) neither shifts nor erases its row.
    #[test]
    fn a_member_that_lacks_a_class_leaves_its_row_alone(seed in any::<u32>(), n in 0usize..5, class in 0..CLASSES, ema in 0.0..0.9) {
        let seed = u64::from(seed) * 100;
        let old = renew(None, &[member(seed, None), member(seed + 1, None)], 1, 0.0, 0);
        let mut members: Vec<ProtoSums> = (0..n as u64).map(|i| member(seed + 10 + i, None)).collect();
        let without = renew(Some(&old), &members, 2, ema, 0);
        members.push(member(seed + 50, Some(class)));
        let with = renew(Some(&old), &members, 2, ema, 0);
        prop_assert_eq!(with.row(class), without.row(class));
        prop_assert_eq!(with.count()[class], without.count()[class]);
        prop_assert_eq!(with.contributors()[class], without.contributors()[class]);
        prop_assert_eq!(with.round()[class], without.round()[class]);
        members.pop();
        members.push(ProtoSums::empty(CLASSES, WIDTH));
        prop_assert_eq!(renew(Some(&old), &members, 2, ema, 0), without);
    }

    /// Means of merged sums are the means over all samples, however they lie at members.
    #[test]
    fn merging_is_pooling(seed in any::<u32>(), n in 1usize..6) {
        let seed = u64::from(seed) * 100;
        let members: Vec<ProtoSums> = (0..n as u64).map(|i| member(seed + i, None)).collect();
        let library = renew(None, &members, 1, 0.0, 0);
        for class in 0..CLASSES {
            let count: f64 = members.iter().map(|m| m.count()[class]).sum();
            prop_assert_eq!(library.is_valid(class), count > 0.0);
            for d in 0..WIDTH {
                let sum: f64 = members.iter().map(|m| m.row(class)[d]).sum();
                let mean = if count > 0.0 { sum / count } else { 0.0 };
                prop_assert!((library.row(class)[d] - mean).abs() < 1e-12);
            }
        }
    }
}

fn sums(rows: &[(usize, [f32; WIDTH])]) -> ProtoSums {
    let mut sums = ProtoSums::empty(CLASSES, WIDTH);
    rows.iter().for_each(|(class, row)| sums.add(*class, row));
    sums
}

#[test]
fn renewal_follows_counts_momentum_and_age() {
    let first = renew(None, &[sums(&[(0, [1.0, 0.0, 0.0]), (0, [3.0, 0.0, 0.0]), (1, [0.0, 5.0, 0.0])])], 1, 0.5, 2);
    assert_eq!((first.row(0), first.row(1)), (&[2.0, 0.0, 0.0][..], &[0.0, 5.0, 0.0][..]), "no momentum from nothing");
    let second = renew(Some(&first), &[sums(&[(0, [4.0, 0.0, 0.0])]), sums(&[(0, [4.0, 0.0, 0.0])])], 2, 0.5, 2);
    assert_eq!(second.row(0), [3.0, 0.0, 0.0]);
    assert_eq!((second.count()[0], second.contributors()[0], second.round()[0]), (2.0, 2.0, 2.0));
    assert_eq!((second.row(1), second.round()[1]), (&[0.0, 5.0, 0.0][..], 1.0), "kept, with its own stamp");
    let third = renew(Some(&second), &[], 3, 0.5, 2);
    assert!(third.is_valid(1), "two rounds old");
    let fourth = renew(Some(&third), &[], 4, 0.5, 2);
    assert!(!fourth.is_valid(1) && fourth.row(1) == [0.0; 3] && fourth.round()[1] == 0.0, "three rounds old");
    assert_eq!(renew(Some(&third), &[], 9, 0.5, 0), third, "age 0 keeps for ever");
    let few = Library::renew(None, &sums(&[(0, [1.0; 3]), (1, [1.0; 3]), (1, [1.0; 3])]), &[1.0, 1.0, 0.0, 0.0], 1, 2.0, 0.0, 0);
    assert_eq!(few.unwrap().valid_classes(), [1], "class 0 has fewer than min_total samples");
    assert!(Library::renew(Some(&Library::empty(2, 3)), &sums(&[]), &[0.0; 4], 1, 1.0, 0.0, 0).is_err());
}

/// Exact check: what is sent and kept of one modality does not depend on another being there.
#[test]
fn removing_one_modality_changes_no_number_of_another() {
    let mut both = ParamSet::new();
    member(1, None).write("a", &mut both);
    member(2, None).write("b", &mut both);
    let mut only_a = ParamSet::new();
    member(1, None).write("a", &mut only_a);
    let library = |set: &ParamSet, m: &str| ProtoSums::read(m, set).unwrap().map(|s| renew(None, &[s], 1, 0.0, 0));
    assert_eq!(library(&both, "a"), library(&only_a, "a"));
    assert_eq!(library(&only_a, "b"), None);
}

#[test]
fn nearest_adds_cosines_over_what_is_present() {
    let a = Directions::from(&sums(&[(0, [1.0, 0.0, 0.0]), (1, [0.0, 2.0, 0.0]), (3, [0.0, 0.0, 9.0])]).means(1, 1));
    let b = Directions::from(&sums(&[(0, [0.0, 1.0, 0.0]), (1, [1.0, 0.0, 0.0]), (2, [1.0, 1.0, 0.0])]).means(1, 1));
    assert_eq!(nearest(&[(&a, &[0.1, 5.0, 0.0])]), Some(1));
    assert_eq!(nearest(&[(&a, &[0.0, 0.0, 0.1])]), Some(3));
    assert_eq!(nearest(&[(&b, &[3.0, 3.0, 0.0])]), Some(2));
    // a leans to 1, b more so to 0; classes 2 and 3 are not in both
    assert_eq!(nearest(&[(&a, &[0.9, 1.0, 0.0]), (&b, &[0.0, 1.0, 0.0])]), Some(0));
    assert_eq!(nearest(&[(&a, &[1.0, 1.0, 0.0])]), Some(0), "the lowest class wins a tie");
    assert_eq!(nearest(&[(&a, &[0.0, 0.0, 0.0])]), Some(0), "a query without direction is a tie of all");
    assert_eq!(nearest(&[]), None);
    let none = Directions::from(&Library::empty(CLASSES, WIDTH));
    assert_eq!(nearest(&[(&a, &[1.0, 0.0, 0.0]), (&none, &[1.0, 0.0, 0.0])]), None);
}

#[test]
fn sums_and_library_survive_their_tensors() {
    let one = sums(&[(0, [1.0, 2.0, 3.0]), (2, [4.0, 5.0, 6.0])]);
    let library = one.means(7, 1);
    let mut set = ParamSet::new();
    one.write("left", &mut set);
    assert_eq!(ProtoSums::read("left", &set), Ok(Some(one.clone())));
    assert_eq!(ProtoSums::read("right", &set), Ok(None));
    assert_eq!(Library::read("left", &set), Ok(None), "sums are no library");
    let mut set = ParamSet::new();
    library.write("left", &mut set);
    library.write("fused", &mut set);
    assert_eq!(Library::read("left", &set), Ok(Some(library.clone())));
    assert_eq!(Library::read_all(&set).unwrap().keys().collect::<Vec<_>>(), ["fused", "left"]);
    assert_eq!((library.round()[0], library.round()[1], library.valid_classes()), (7.0, 0.0, vec![0, 2]));
}

#[test]
fn malformed_tensors_are_named() {
    let one = sums(&[(0, [1.0, 2.0, 3.0])]);
    let broken = |name: &str, tensor: Tensor| {
        let mut set = ParamSet::new();
        one.write("m", &mut set);
        one.means(1, 1).write("n", &mut set);
        set.insert(name, tensor);
        (ProtoSums::read("m", &set).err(), Library::read("n", &set).err())
    };
    let sums = |name: &str, tensor| broken(name, tensor).0.unwrap();
    assert!(sums("proto/m/count", Tensor::f64(&[3], &[1.0; 3])).contains("\"proto/m/count\" has shape [3], [4] is expected"));
    assert!(sums("proto/m/count", Tensor::f64(&[4], &[1.0, -1.0, 0.0, 0.0])).contains("count of class 1 is negative"));
    assert!(sums("proto/m/count", Tensor::f64(&[4], &[0.0; 4])).contains("sum for class 0"));
    assert!(sums("proto/m/sum", Tensor::f32(&[4, 3], &[0.0; 12])).contains("is F32, not F64"));
    let library = |name: &str, tensor| broken(name, tensor).1.unwrap();
    assert!(library("proto/n/mean", Tensor::f64(&[4, 3], &[f64::INFINITY; 12])).contains("not finite at element 0"));
    assert!(library("proto/n/round", Tensor::f64(&[4], &[-1.0; 4])).contains("\"proto/n/round\" is negative"));
    assert!(library("proto/n/mean", Tensor::f64(&[0, 3], &[])).contains("is empty"));
    let mut partial = ParamSet::new();
    partial.insert("proto/n/mean", Tensor::f64(&[1, 1], &[1.0]));
    assert!(Library::read("n", &partial).unwrap_err().contains("\"proto/n/count\" is missing"));
    assert!(ProtoSums::new(2, 2, vec![0.0; 3], vec![0.0; 2]).is_err());
    assert!(ProtoSums::empty(2, 2).merge(&ProtoSums::empty(2, 3)).is_err());
}
