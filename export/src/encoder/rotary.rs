//! Rotary position embeddings: queries and keys are turned by an angle that grows with the
//! position.
//!
//! In go queries or keys f32 `[batch, heads, tokens, d]`, out comes the same shape. Element `i` of
//! the first half of a head and element `i` of its second half are a point of the plane; at
//! position `p` it is turned by `p · w_i` (<https://arxiv.org/abs/2104.09864>, but with the two
//! elements half a head apart). With base `θ` and the factor `f` of NTK scaling, which is 1 where
//! there is none: `w_i = (θ · f)^(-2i/d) / f^(2/d)`.
//!
//! The graph computes `x · cos + (x R) · sin` with `R [d, d]`, a permutation with signs that takes
//! the halves `(a, b)` to `(-b, a)`. Every column of `R` has a single element that is not 0, so
//! that the product is exact. Tables of cosine and sine, `[positions, d]`, are computed in f64 and
//! rounded once.

use super::blocks::Blocks;
use crate::error::ExportError;
use crate::graph::{GraphBuilder, Value};

/// What the angles depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Angles {
    /// Size of a head, even.
    pub(super) head_size: usize,
    /// Positions that the tables have.
    pub(super) positions: usize,
    /// Base of the frequencies, positive.
    pub(super) theta: f64,
    /// Factor of NTK scaling, at least 1.
    pub(super) factor: f64,
}

impl Angles {
    /// Angle per position of each element, in radians; the two halves of a head have the same.
    fn frequencies(&self) -> Vec<f64> {
        let size = self.head_size as f64;
        let base = self.theta * self.factor;
        let stretch = self.factor.powf(2.0 / size);
        let half = (0..self.head_size / 2).map(|i| base.powf(-2.0 * i as f64 / size) / stretch);
        half.collect::<Vec<f64>>().repeat(2)
    }

    /// `function` of every angle: `[positions, head_size]`.
    #[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is what this is for")]
    fn table(&self, function: fn(f64) -> f64) -> Vec<f32> {
        let frequencies = self.frequencies();
        let mut table = Vec::with_capacity(self.positions * frequencies.len());
        for position in 0..self.positions {
            let angles = frequencies.iter().map(|frequency| position as f64 * frequency);
            table.extend(angles.map(|angle| function(angle) as f32));
        }
        table
    }

    /// `R`, see the module documentation, row-major.
    fn half_turn(&self) -> Vec<f32> {
        let (size, half) = (self.head_size, self.head_size / 2);
        let mut matrix = vec![0.0; size * size];
        for i in 0..half {
            matrix[(half + i) * size + i] = -1.0;
            matrix[i * size + half + i] = 1.0;
        }
        matrix
    }
}

/// The constants of the rotation, stored once for all layers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rotary {
    /// `[tokens, head_size]`
    cos: Value,
    /// `[tokens, head_size]`
    sin: Value,
    /// `[head_size, head_size]`
    half_turn: Value,
}

impl Rotary {
    /// Stores the tables and cuts them to the number of tokens of `ids`.
    ///
    /// # Errors
    /// A name in use.
    pub(super) fn store(
        blocks: &mut Blocks<'_>,
        ids: Value,
        angles: Angles,
    ) -> Result<Self, ExportError> {
        let size = angles.head_size;
        let shape = [angles.positions, size];
        let graph = &mut blocks.graph;
        let cos = graph.initializer_f32("rotary.cos", &shape, &angles.table(f64::cos))?;
        let sin = graph.initializer_f32("rotary.sin", &shape, &angles.table(f64::sin))?;
        let half_turn =
            graph.initializer_f32("rotary.half_turn", &[size, size], &angles.half_turn())?;
        let count = blocks.token_count(ids)?;
        let (cos, sin) = (blocks.per_token(cos, count)?, blocks.per_token(sin, count)?);
        Ok(Self { cos, sin, half_turn })
    }

    /// Queries or keys `[batch, heads, tokens, head_size]`, turned.
    ///
    /// # Errors
    /// [`ExportError::Graph`] for another shape.
    pub(super) fn apply(self, graph: &mut GraphBuilder, x: Value) -> Result<Value, ExportError> {
        let along = graph.mul(x, self.cos)?;
        let turned = graph.matmul(x, self.half_turn)?;
        let across = graph.mul(turned, self.sin)?;
        graph.add(along, across)
    }
}
