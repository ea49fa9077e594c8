//! Packed rows: several examples of one task in one row, behind the prompt prefix they share.
//!
//! A row is a list of tokens with an id, a position and a segment. Segment 0 is the shared prefix;
//! every example is a segment of its own whose positions continue the prefix. A token sees the
//! prefix and its own segment, up to its own position, so each example is computed exactly as if
//! it stood alone, while the prefix is computed once per row and no row holds padding inside.

use std::sync::Arc;

/// Marks padding at the end of the shorter rows of a batch: it sees nothing and nothing sees it.
const PADDING: u32 = u32::MAX;

/// One row under construction.
#[derive(Debug, Clone, Default)]
pub struct PackedRow {
    ids: Vec<u32>,
    positions: Vec<u32>,
    segments: Vec<u32>,
}

impl PackedRow {
    /// A row that starts with `prefix` as segment 0, at positions `0..prefix.len()`.
    pub fn with_prefix(prefix: &[u32]) -> Self {
        let mut row = Self::default();
        row.extend(prefix, 0, 0);
        row
    }

    /// Appends `ids` to `segment` (1 and up) from `position` on; returns the index of the first.
    pub fn extend(&mut self, ids: &[u32], segment: u32, position: usize) -> usize {
        let start = self.ids.len();
        for (offset, &id) in ids.iter().enumerate() {
            self.ids.push(id);
            self.positions.push(u32::try_from(position + offset).unwrap_or(u32::MAX));
            self.segments.push(segment);
        }
        start
    }

    /// Number of tokens so far.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether the row has no tokens.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// Rows of equal width, flattened row by row.
#[derive(Debug, Clone)]
pub struct PackedBatch {
    /// Number of rows.
    pub rows: usize,
    /// Tokens per row, padding included.
    pub width: usize,
    /// Token ids `[rows · width]`; padding is id 0.
    pub ids: Vec<u32>,
    /// Positions `[rows · width]`.
    pub positions: Vec<u32>,
    segments: Vec<u32>,
}

impl PackedBatch {
    /// Pads the rows at their ends to a common width.
    pub fn new(rows: &[PackedRow]) -> Self {
        let width = rows.iter().map(PackedRow::len).max().unwrap_or(0);
        let pad = |of: fn(&PackedRow) -> &Vec<u32>, value: u32| -> Vec<u32> {
            let padded = |row| {
                let values = of(row).iter().copied();
                values.chain(std::iter::repeat(value)).take(width)
            };
            rows.iter().flat_map(padded).collect()
        };
        Self {
            rows: rows.len(),
            width,
            ids: pad(|r| &r.ids, 0),
            positions: pad(|r| &r.positions, 0),
            segments: pad(|r| &r.segments, PADDING),
        }
    }

    /// Who sees whom: `[rows, width, keys]` of 0 and 1, where the keys are those of `earlier`
    /// batches (a cache, oldest first) followed by the batch's own.
    pub fn visibility(&self, earlier: &[PackedBatch]) -> Arc<Vec<u8>> {
        self.visibility_within(earlier, None)
    }

    /// As [`PackedBatch::visibility`], where a token sees the last `window` positions only, its
    /// own included.
    pub fn visibility_within(
        &self,
        earlier: &[PackedBatch],
        window: Option<usize>,
    ) -> Arc<Vec<u8>> {
        // A window longer than any position hides nothing.
        let window = window.and_then(|window| u32::try_from(window).ok()).unwrap_or(u32::MAX);
        let keys: usize = earlier.iter().map(|b| b.width).sum::<usize>() + self.width;
        let mut mask = Vec::with_capacity(self.rows * self.width * keys);
        for row in 0..self.rows {
            for query in 0..self.width {
                let (segment, position) = self.at(row, query);
                for batch in earlier.iter().chain(std::iter::once(self)) {
                    mask.extend((0..batch.width).map(|key| {
                        let (of, at) = batch.at(row, key);
                        let same = of == 0 || of == segment;
                        let near = at <= position && position - at < window;
                        u8::from(same && segment != PADDING && of != PADDING && near)
                    }));
                }
            }
        }
        Arc::new(mask)
    }

    /// Whether a window of so many positions hides anything from the batch's tokens.
    pub fn exceeds(&self, window: usize) -> bool {
        let last = self.positions.iter().max().copied().unwrap_or(0);
        usize::try_from(last).is_ok_and(|last| last >= window)
    }

    /// Segment and position of a token.
    fn at(&self, row: usize, token: usize) -> (u32, u32) {
        let index = row * self.width + token;
        (self.segments[index], self.positions[index])
    }
}

/// Length of the prefix that all prompts share, leaving each prompt at least one token of its own.
pub fn shared_prefix(prompts: &[impl AsRef<[u32]>]) -> usize {
    let Some((first, rest)) = prompts.split_first() else { return 0 };
    let first = first.as_ref();
    let mut shared = first.len().saturating_sub(1);
    for prompt in rest {
        let prompt = prompt.as_ref();
        let common = first.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        shared = shared.min(common).min(prompt.len().saturating_sub(1));
    }
    shared
}

#[cfg(test)]
mod tests {
    use super::{PackedBatch, PackedRow, shared_prefix};

    #[test]
    fn examples_see_the_prefix_and_themselves() {
        let mut row = PackedRow::with_prefix(&[7]);
        row.extend(&[8, 9], 1, 1);
        row.extend(&[10], 2, 1);
        let batch = PackedBatch::new(&[row, PackedRow::with_prefix(&[1])]);
        assert_eq!((batch.rows, batch.width), (2, 4));
        let expected = [
            [1, 0, 0, 0],
            [1, 1, 0, 0],
            [1, 1, 1, 0],
            [1, 0, 0, 1], // first row
            [1, 0, 0, 0],
            [0, 0, 0, 0],
            [0, 0, 0, 0],
            [0, 0, 0, 0], // second row: padding
        ];
        assert_eq!(*batch.visibility(&[]), expected.concat());
    }

    #[test]
    fn later_tokens_see_their_segment_in_the_cache() {
        let mut row = PackedRow::with_prefix(&[7]);
        row.extend(&[8], 1, 1);
        row.extend(&[9], 2, 1);
        let cache = PackedBatch::new(&[row]);
        let mut next = PackedRow::default();
        next.extend(&[5], 1, 2);
        next.extend(&[6], 2, 2);
        let next = PackedBatch::new(&[next]);
        assert_eq!(*next.visibility(&[cache]), [[1, 1, 0, 1, 0], [1, 0, 1, 0, 1]].concat());
    }

    #[test]
    fn a_window_counts_positions_not_places() {
        let mut row = PackedRow::with_prefix(&[7, 8]);
        row.extend(&[9], 1, 2);
        row.extend(&[10, 11], 2, 2);
        let batch = PackedBatch::new(&[row]);
        let expected = [
            [1, 0, 0, 0, 0],
            [1, 1, 0, 0, 0],
            [0, 1, 1, 0, 0], // position 2: no longer sees position 0
            [0, 1, 0, 1, 0], // position 2 of the other segment
            [0, 0, 0, 1, 1], // position 3
        ];
        assert_eq!(*batch.visibility_within(&[], Some(2)), expected.concat());
        assert!(batch.exceeds(3) && !batch.exceeds(4));
        assert_eq!(batch.visibility_within(&[], Some(4)), batch.visibility(&[]));
    }

    #[test]
    fn the_shared_prefix_leaves_each_prompt_a_token() {
        assert_eq!(shared_prefix(&[vec![1, 2, 3], vec![1, 2, 4, 5]]), 2);
        assert_eq!(shared_prefix(&[vec![1, 2], vec![1, 2]]), 1);
        assert_eq!(shared_prefix(&[vec![1, 2, 3], vec![1]]), 0);
    }
}
