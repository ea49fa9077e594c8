//! Which examples are for training, where the data do not say.
//!
//! In: the text that an example goes by. Out: its split, 80 % for training and 10 % each for tuning
//! and reporting. The text alone decides, so that an example keeps its split when others come or
//! go, and equal texts never lie on both sides.

use t2lc_runtime::digest::Digest;

use super::ExampleSplit;

/// The split of the example that goes by `key`: the first 8 bytes of the sha256 of `key`, as a
/// little-endian number, modulo 10.
pub(super) fn split_of(key: &str) -> ExampleSplit {
    let digest = Digest::of(key.as_bytes());
    let number = digest.as_bytes().first_chunk().map_or(0, |first| u64::from_le_bytes(*first));
    match number % 10 {
        8 => ExampleSplit::Valid,
        9 => ExampleSplit::Test,
        _ => ExampleSplit::Train,
    }
}

#[cfg(test)]
mod tests {
    use super::{ExampleSplit, split_of};

    #[test]
    fn shares_are_as_promised_and_lasting() {
        let splits: Vec<_> = (0..10_000).map(|i| split_of(&format!("task001-{i}"))).collect();
        let count = |split| splits.iter().filter(|s| **s == split).count();
        assert!((7_800..8_200).contains(&count(ExampleSplit::Train)));
        assert!((850..1_150).contains(&count(ExampleSplit::Valid)));
        assert!((850..1_150).contains(&count(ExampleSplit::Test)));
        assert_eq!(split_of("abc"), ExampleSplit::Train);
        assert_eq!(split_of("m"), ExampleSplit::Valid);
        assert_eq!(split_of("g"), ExampleSplit::Test);
    }
}
