//! Matrix products: `[…, m, k] × [k, n]` with a constant weight, and `[…, m, k] × […, k, n]` with
//! leading dimensions that broadcast.
//!
//! An output element is the sum over `k = 0, 1, …` of separately rounded products, added one after
//! the other to 0. Nothing else here has any influence on it: a panel of [`WIDTH`] columns is
//! computed for up to eight rows at once, the sums wait in memory while the next [`DEPTH`] rows of
//! some panels are widened, and threads divide the panels among them, but each element has its own
//! sum that takes its terms in the same order.
//!
//! The loops are plain Rust, compiled several times: [`Arch::dispatch`] runs the copy that is made
//! for the widest vectors the CPU has. That is sound because Rust never contracts `a * b + c` into
//! a fused multiply-add and never reorders float operations, whatever instructions it may use: the
//! copies differ in how many columns one instruction handles.

#![allow(clippy::inline_always, reason = "only inlined code is compiled for the CPU's vectors")]

use std::ops::Range;
use std::thread;

use pulp::{Arch, Simd, WithSimd};

use super::fault::{Fault, differs};
use super::strides::{Offsets, broadcast, broadcast_strides};
use super::tensor::{Dense, Element, element_count};
use super::weight::{Rows, WIDTH};

/// Rows of a weight that are widened at once: 16 KiB of f32 a panel, so that they stay in the
/// first-level cache.
const DEPTH: usize = 256;

/// Panels that are computed side by side: as many as have a cache line of a row of int8 weights in
/// common, which is then read once.
const BESIDE: usize = 4;

/// Multiplications that are worth a thread.
const PRODUCTS_PER_THREAD: usize = 1 << 20;

/// `x [..., inner] × weight [inner, columns]`.
///
/// # Errors
/// Operands that do not fit, a result over the limits.
pub(super) fn linear(x: &Dense, weight: Rows<'_>, threads: usize) -> Result<Dense, Fault> {
    let values = x.floats()?;
    match x.shape() {
        [leading @ .., rows, inner] if *inner == weight.inner() => {
            let mut shape = leading.to_vec();
            shape.extend([*rows, weight.columns()]);
            element_count(&shape, Element::F32)?;
            let rows = leading.iter().product::<usize>() * rows;
            Dense::f32(shape, product(values, rows, weight, threads)?)
        }
        shape => {
            let right = vec![weight.inner(), weight.columns()];
            Err(Fault::Shapes { left: shape.to_vec(), right })
        }
    }
}

/// `left [..., rows, inner] × right [..., inner, columns]`; leading dimensions broadcast.
///
/// # Errors
/// Operands that do not fit or have less than two dimensions, a result over the limits.
pub(super) fn matmul(left: &Dense, right: &Dense, threads: usize) -> Result<Dense, Fault> {
    let (a, b) = (left.floats()?, right.floats()?);
    let ([left_batch @ .., rows, inner], [right_batch @ .., right_inner, columns]) =
        (left.shape(), right.shape())
    else {
        return Err(differs("number of dimensions", "at least 2", "less"));
    };
    if inner != right_inner {
        let (left, right) = (left.shape().to_vec(), right.shape().to_vec());
        return Err(Fault::Shapes { left, right });
    }
    if right_batch.is_empty() {
        return linear(left, Rows::new(b, *inner, *columns), threads);
    }
    let batch = broadcast(left_batch, right_batch)?;
    let mut shape = batch.clone();
    shape.extend([*rows, *columns]);
    let mut values = Vec::with_capacity(element_count(&shape, Element::F32)?);
    let strides = [broadcast_strides(left_batch, &batch), broadcast_strides(right_batch, &batch)];
    let (left_size, right_size) = (rows * inner, inner * columns);
    for [i, j] in Offsets::new(&batch, strides) {
        let a = &a[i * left_size..(i + 1) * left_size];
        let b = &b[j * right_size..(j + 1) * right_size];
        values.extend(product(a, *rows, Rows::new(b, *inner, *columns), threads)?);
    }
    Dense::f32(shape, values)
}

/// `left [rows, inner] × weight`, row-major.
fn product(left: &[f32], rows: usize, weight: Rows<'_>, threads: usize) -> Result<Vec<f32>, Fault> {
    let (inner, columns) = (weight.inner(), weight.columns());
    if rows == 0 || columns == 0 || inner == 0 {
        return Ok(vec![0.0; rows * columns]);
    }
    let panels = columns.div_ceil(WIDTH);
    let mut sums = vec![[0.0; WIDTH]; element_count(&[panels, rows, WIDTH], Element::F32)? / WIDTH];
    let left = Left::new(left, rows, inner);
    let work = rows.saturating_mul(columns).saturating_mul(inner);
    let parts = (work / PRODUCTS_PER_THREAD).min(threads).clamp(1, panels);
    let panels_per_part = panels.div_ceil(parts);
    let complete = thread::scope(|scope| {
        let left = &left;
        let mut complete = true;
        let mut strips = sums.chunks_mut(panels_per_part * rows).enumerate();
        let own = strips.next();
        for (part, sums) in strips {
            let strip = Strip { left, weight, first_panel: part * panels_per_part, sums };
            let thread = thread::Builder::new().spawn_scoped(scope, || strip.run());
            complete &= thread.is_ok();
        }
        if let Some((_, sums)) = own {
            Strip { left, weight, first_panel: 0, sums }.run();
        }
        complete
    });
    if !complete {
        // The system has no thread left: this one does it all.
        Strip { left: &left, weight, first_panel: 0, sums: &mut sums }.run();
    }
    let mut values = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        for panel in 0..panels {
            let width = WIDTH.min(columns - panel * WIDTH);
            values.extend_from_slice(&sums[panel * rows + row][..width]);
        }
    }
    Ok(values)
}

/// The left operand, in blocks of rows that are computed together; a block holds the first element
/// of each of its rows, then the second, and so on.
#[derive(Debug)]
struct Left {
    values: Vec<f32>,
    /// Number of rows of each block: 8, 4, 2 or 1.
    heights: Vec<usize>,
    rows: usize,
    inner: usize,
}

impl Left {
    fn new(values: &[f32], rows: usize, inner: usize) -> Self {
        let most = Arch::new().dispatch(BlockHeight);
        let mut heights = Vec::new();
        let mut packed = Vec::with_capacity(values.len());
        let mut rest = values;
        while !rest.is_empty() {
            let remaining = rest.len() / inner;
            let height = if remaining >= most { most } else { 1 << remaining.ilog2() };
            let (block, after) = rest.split_at(height * inner);
            for k in 0..inner {
                packed.extend((0..height).map(|row| block[row * inner + k]));
            }
            heights.push(height);
            rest = after;
        }
        Self { values: packed, heights, rows, inner }
    }

    /// Adds the products of some columns of this with as many rows of a panel to its sums.
    #[inline(always)]
    fn add(&self, columns: Range<usize>, right: &[[f32; WIDTH]], sums: &mut [[f32; WIDTH]]) {
        let mut row = 0;
        for &height in &self.heights {
            let first = row * self.inner;
            let place = first + columns.start * height..first + columns.end * height;
            let (left, sums) = (&self.values[place], &mut sums[row..row + height]);
            match height {
                8 => add_8(left, right, sums),
                4 => add_4(left, right, sums),
                2 => add_2(left, right, sums),
                _ => add_1(left, right, sums),
            }
            row += height;
        }
    }
}

/// How many rows of sums fit into the CPU's vector registers, with room for operands.
struct BlockHeight;

impl WithSimd for BlockHeight {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> usize {
        if S::F32_LANES >= WIDTH {
            8
        } else if S::F32_LANES >= WIDTH / 2 || S::REGISTER_COUNT >= 32 {
            4
        } else {
            2
        }
    }
}

/// The part of a product that one thread computes: all rows of some panels.
struct Strip<'a> {
    left: &'a Left,
    weight: Rows<'a>,
    first_panel: usize,
    /// Row `r` of the strip's panel `p` is entry `p · rows + r`.
    sums: &'a mut [[f32; WIDTH]],
}

impl Strip<'_> {
    fn run(self) {
        Arch::new().dispatch(self);
    }
}

impl WithSimd for Strip<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let (rows, inner) = (self.left.rows, self.left.inner);
        let mut buffer = vec![[0.0; WIDTH]; DEPTH.min(inner)];
        self.sums.fill([0.0; WIDTH]);
        for (some, panels) in self.sums.chunks_mut(BESIDE * rows).enumerate() {
            for start in (0..inner).step_by(DEPTH) {
                let end = inner.min(start + DEPTH);
                let right = &mut buffer[..end - start];
                for (panel, sums) in panels.chunks_exact_mut(rows).enumerate() {
                    let panel = self.first_panel + some * BESIDE + panel;
                    self.weight.widen(panel, start..end, right);
                    self.left.add(start..end, right, sums);
                }
            }
        }
    }
}

/// Adds `left × right` to as many rows of sums; written out row by row, so that the sums are local
/// arrays of a fixed size, which live in registers.
macro_rules! add_block {
    ($name:ident, $height:literal, $($sum:ident: $row:literal),+) => {
        #[inline(always)]
        fn $name(left: &[f32], right: &[[f32; WIDTH]], sums: &mut [[f32; WIDTH]]) {
            let (left, _) = left.as_chunks::<$height>();
            $(let mut $sum = sums[$row];)+
            for (left, right) in left.iter().zip(right) {
                $(add_products(&mut $sum, left[$row], right);)+
            }
            $(sums[$row] = $sum;)+
        }
    };
}

add_block!(add_1, 1, sum_0: 0);
add_block!(add_2, 2, sum_0: 0, sum_1: 1);
add_block!(add_4, 4, sum_0: 0, sum_1: 1, sum_2: 2, sum_3: 3);
add_block!(
    add_8, 8, sum_0: 0, sum_1: 1, sum_2: 2, sum_3: 3, sum_4: 4, sum_5: 5, sum_6: 6, sum_7: 7
);

#[inline(always)]
fn add_products(sums: &mut [f32; WIDTH], left: f32, right: &[f32; WIDTH]) {
    for (sum, right) in sums.iter_mut().zip(right) {
        *sum += left * right;
    }
}
