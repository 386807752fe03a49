//! Subsets of modalities that a model is evaluated on.

/// A non-empty subset of the modalities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subset {
    /// Bit m: modality m, counted in name order.
    pub bits: u32,
    /// Names joined by `+`, in name order.
    pub name: String,
}

/// Up to so many modalities, every subset is evaluated.
const ALL_SUBSETS: usize = 8;

/// The subsets of `modalities` to evaluate, by size, then by name order.
///
/// Every non-empty one up to 8 modalities; for more, each modality alone, all but one, and all, so that
/// the number of metrics stays bounded.
pub fn subsets(modalities: &[&str]) -> Vec<Subset> {
    let count = modalities.len();
    let wanted = |size: usize| count <= ALL_SUBSETS || size == 1 || size + 1 >= count;
    let mut bits: Vec<u32> = (1..1u32 << count).filter(|b| wanted(b.count_ones() as usize)).collect();
    bits.sort_by_key(|b| (b.count_ones(), std::cmp::Reverse(b.reverse_bits())));
    let name = |b: u32| -> String {
        let names: Vec<&str> = (0..count).filter(|m| b >> m & 1 == 1).map(|m| modalities[m]).collect();
        names.join("+")
    };
    bits.into_iter().map(|b| Subset { bits: b, name: name(b) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets_come_by_size_and_name() {
        let names: Vec<String> = subsets(&["a", "b", "c"]).into_iter().map(|s| s.name).collect();
        assert_eq!(names, ["a", "b", "c", "a+b", "a+c", "b+c", "a+b+c"]);
        assert_eq!(subsets(&["a"])[0], Subset { bits: 1, name: "a".into() });
    }

    #[test]
    fn many_modalities_are_not_multiplied_out() {
        let names: Vec<String> = (0..12).map(|i| format!("m{i:02}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(subsets(&names[..8]).len(), 255);
        assert_eq!(subsets(&names).len(), 12 + 12 + 1);
    }
}
