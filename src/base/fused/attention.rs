//! Attention of a batch over its own keys that keeps nothing but its output for the backward pass.
//!
//! In: `q [rows, tokens, heads · head_size]`, `k`, `v [rows, tokens, kv_heads · head_size]` and who
//! sees whom. Out: `[rows, tokens, heads · head_size]`. The weights, tokens² of them per head, are
//! computed again in the backward pass, a row and key head at a time, as `FlashAttention` does
//! (Dao et al., 2022, arXiv 2205.14135, algorithm 4): kept for every layer they would be most of
//! the memory of long rows. Heads are read where they are; nothing is transposed.

use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Storage, Tensor, bail};

use super::slice_of;
use super::softmax::{softmax_backward_lines, softmax_lines};

const NAME: &str = "packed-attention";

/// How the heads of a batch are laid out.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// Query heads, a multiple of the key heads.
    pub queries: usize,
    /// Key and value heads.
    pub keys: usize,
    /// Width of a head.
    pub size: usize,
    /// Factor on the scores.
    pub scale: f32,
}

struct PackedAttention {
    heads: Heads,
    rows: usize,
    tokens: usize,
    /// `[rows, tokens, tokens]`, 1 where the query sees the key.
    mask: Arc<Vec<u8>>,
}

/// The values behind q, k and v.
struct Inputs<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
}

/// The query heads of one row that share a key head, as matrices `[group · tokens, head_size]` and
/// `[tokens, head_size]`.
struct Group {
    q: CpuStorage,
    k: CpuStorage,
    v: CpuStorage,
}

/// A product of row-major matrices of which either may be read transposed.
#[allow(clippy::many_single_char_names)] // the sizes of a product are called m, n and k
fn product(
    a: (&CpuStorage, bool),
    b: (&CpuStorage, bool),
    (m, n, k): (usize, usize, usize),
) -> Result<CpuStorage> {
    let layout = |rows: usize, columns: usize, transposed: bool| {
        let strides = if transposed { vec![1, rows] } else { vec![columns, 1] };
        Layout::new(Shape::from((rows, columns)), strides, 0)
    };
    a.0.matmul(b.0, (1, m, n, k), &layout(m, k, a.1), &layout(k, n, b.1))
}

fn values(storage: &CpuStorage) -> Result<&[f32]> {
    storage.as_slice::<f32>()
}

impl PackedAttention {
    /// Query heads per key head.
    fn group(&self) -> usize {
        self.heads.queries / self.heads.keys
    }

    /// Copies `heads` heads of `all` from the tokens of a row, head after head.
    fn gather(&self, x: &[f32], row: usize, first: usize, heads: usize, all: usize) -> Vec<f32> {
        let (size, tokens) = (self.heads.size, self.tokens);
        let mut gathered = Vec::with_capacity(heads * tokens * size);
        for head in first..first + heads {
            for token in 0..tokens {
                let start = ((row * tokens + token) * all + head) * size;
                gathered.extend_from_slice(&x[start..start + size]);
            }
        }
        gathered
    }

    /// The reverse of [`PackedAttention::gather`].
    fn scatter(&self, from: &[f32], x: &mut [f32], row: usize, first: usize, all: usize) {
        let (size, tokens) = (self.heads.size, self.tokens);
        for (place, values) in from.chunks_exact(size).enumerate() {
            let (head, token) = (first + place / tokens, place % tokens);
            let start = ((row * tokens + token) * all + head) * size;
            x[start..start + size].copy_from_slice(values);
        }
    }

    fn gather_group(&self, Inputs { q, k, v }: &Inputs<'_>, row: usize, key: usize) -> Group {
        let Heads { queries, keys, .. } = self.heads;
        let group = self.group();
        Group {
            q: CpuStorage::F32(self.gather(q, row, key * group, group, queries)),
            k: CpuStorage::F32(self.gather(k, row, key, 1, keys)),
            v: CpuStorage::F32(self.gather(v, row, key, 1, keys)),
        }
    }

    /// Attention weights `[group · tokens, tokens]` of a group.
    fn weights(&self, Group { q, k, .. }: &Group, row: usize) -> Result<CpuStorage> {
        let (tokens, stacked) = (self.tokens, self.group() * self.tokens);
        let scores = product((q, false), (k, true), (stacked, tokens, self.heads.size))?;
        let mask = &self.mask[row * tokens * tokens..(row + 1) * tokens * tokens];
        Ok(CpuStorage::F32(softmax_lines(values(&scores)?, mask, tokens, self.heads.scale)))
    }

    fn forward(&self, inputs: &Inputs<'_>) -> Result<Vec<f32>> {
        let Heads { queries, keys, size, .. } = self.heads;
        let (tokens, group) = (self.tokens, self.group());
        let mut mixed = vec![0f32; inputs.q.len()];
        for row in 0..self.rows {
            for key in 0..keys {
                let of = self.gather_group(inputs, row, key);
                let weights = self.weights(&of, row)?;
                let y = product((&weights, false), (&of.v, false), (group * tokens, size, tokens))?;
                self.scatter(values(&y)?, &mut mixed, row, key * group, queries);
            }
        }
        Ok(mixed)
    }

    /// Gradients of q, k and v. With weights `P` and `y = P v`:
    /// `dv = Pᵀ dy`, `dS = scale · P · (dy vᵀ − Σ P · dy vᵀ)`, `dq = dS k`, `dk = dSᵀ q`.
    fn backward(&self, inputs: &Inputs<'_>, dy: &[f32]) -> Result<[Vec<f32>; 3]> {
        let Heads { queries, keys, size, scale } = self.heads;
        let (tokens, group) = (self.tokens, self.group());
        let stacked = group * tokens;
        let mut dq = vec![0f32; inputs.q.len()];
        let mut dk = vec![0f32; inputs.k.len()];
        let mut dv = vec![0f32; inputs.v.len()];
        for row in 0..self.rows {
            for key in 0..keys {
                let of = self.gather_group(inputs, row, key);
                let dy = CpuStorage::F32(self.gather(dy, row, key * group, group, queries));
                let weights = self.weights(&of, row)?;
                let of_v = product((&weights, true), (&dy, false), (tokens, size, stacked))?;
                let dp = product((&dy, false), (&of.v, true), (stacked, tokens, size))?;
                let ds = softmax_backward_lines(values(&weights)?, values(&dp)?, tokens, scale);
                let ds = CpuStorage::F32(ds);
                let of_q = product((&ds, false), (&of.k, false), (stacked, size, tokens))?;
                let of_k = product((&ds, true), (&of.q, false), (tokens, size, stacked))?;
                self.scatter(values(&of_q)?, &mut dq, row, key * group, queries);
                self.scatter(values(&of_k)?, &mut dk, row, key, keys);
                self.scatter(values(&of_v)?, &mut dv, row, key, keys);
            }
        }
        Ok([dq, dk, dv])
    }
}

impl CustomOp3 for PackedAttention {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let inputs = Inputs {
            q: slice_of(q, q_layout, NAME)?,
            k: slice_of(k, k_layout, NAME)?,
            v: slice_of(v, v_layout, NAME)?,
        };
        Ok((CpuStorage::F32(self.forward(&inputs)?), q_layout.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let of = |x: &Tensor, values: Vec<f32>| Tensor::from_vec(values, x.shape(), x.device());
        let storages = (q.storage_and_layout(), k.storage_and_layout(), v.storage_and_layout());
        let (dy_storage, dy_layout) = dy.storage_and_layout();
        let [dq, dk, dv] = match (&*storages.0.0, &*storages.1.0, &*storages.2.0, &*dy_storage) {
            (Storage::Cpu(q), Storage::Cpu(k), Storage::Cpu(v), Storage::Cpu(dy)) => {
                let inputs = Inputs {
                    q: slice_of(q, storages.0.1, NAME)?,
                    k: slice_of(k, storages.1.1, NAME)?,
                    v: slice_of(v, storages.2.1, NAME)?,
                };
                self.backward(&inputs, slice_of(dy, dy_layout, NAME)?)?
            }
            _ => bail!("{NAME}: the inputs are not on the CPU"),
        };
        Ok((Some(of(q, dq)?), Some(of(k, dk)?), Some(of(v, dv)?)))
    }
}

/// Attention of every token over those of its row that it sees: `mask [rows, tokens, tokens]`.
///
/// # Errors
/// Shapes that do not fit the heads, tensors that are not on the CPU.
pub fn packed_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: &Arc<Vec<u8>>,
    heads: Heads,
) -> Result<Tensor> {
    let (rows, tokens, width) = q.dims3()?;
    let keys = (rows, tokens, heads.keys * heads.size);
    let fits = width == heads.queries * heads.size
        && heads.queries.is_multiple_of(heads.keys)
        && (k.dims3()?, v.dims3()?) == (keys, keys)
        && mask.len() == rows * tokens * tokens;
    if !fits {
        bail!("{NAME}: {heads:?} do not fit {:?}, {:?}, {:?}", q.dims(), k.dims(), v.dims());
    }
    let op = PackedAttention { heads, rows, tokens, mask: Arc::clone(mask) };
    q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op)
}
