//! Adapters from GGUF files, as the decoder applies them.
//!
//! In: the bytes of an adapter file that llama.cpp would load. Out: a [`LoraBatch`] of one row. Per
//! target module and layer the file has `<weight>.lora_a`, `[rank, in]`, and `<weight>.lora_b`,
//! `[out, rank]`, both row-major (ne order is the reverse). llama.cpp applies
//! `alpha / rank · B A x`, or `B A x` where alpha is 0 or missing.
//!
//! The file has the rows of `lora_b` in the order of llama.cpp's rotary layout; [`Decoder`] works
//! in the Hugging Face order, so rows of rotated modules are put back.
//!
//! Source: llama.cpp's `llama-adapter.cpp`, and `convert_hf_to_gguf.py` for the row order.
//!
//! [`Decoder`]: super::decoder::Decoder

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use t2lc_runtime::base::{BaseModel, TargetModule};
use t2lc_runtime::gguf::{Gguf, Value};
use t2lc_runtime::quantize::{Quantization, dequantize};

use super::adapter::{LoraBatch, LoraPair};

/// Reads an adapter for the target modules of `base`; one row, ready for a batch of one row.
///
/// # Errors
/// Bytes that are not a GGUF file, a file that is not a LoRA adapter for the base's architecture,
/// tensors that are missing or unknown, of the wrong shape, of an unsupported type or not finite,
/// and ranks that differ between tensors.
pub fn load_gguf_adapter(bytes: &[u8], base: &BaseModel, device: &Device) -> Result<LoraBatch> {
    let gguf = Gguf::parse(bytes).context("the adapter is not a usable GGUF file")?;
    for (key, expected) in [
        ("general.type", "adapter"),
        ("adapter.type", "lora"),
        ("general.architecture", base.architecture.as_str()),
    ] {
        let got = gguf.get(key).and_then(Value::as_str).unwrap_or_default();
        ensure!(got == expected, "the adapter's `{key}` is `{got}`, expected `{expected}`");
    }
    let mut rank = None;
    let mut pairs = BTreeMap::new();
    let mut known = HashSet::new();
    for module in &base.modules {
        let mut layers = Vec::new();
        for layer in 0..base.layers {
            let weight = module.gguf_name(layer);
            let weight = weight.with_context(|| format!("unknown module `{}`", module.name))?;
            let a = Matrix::read(&gguf, format!("{weight}.lora_a"))?;
            let b = Matrix::read(&gguf, format!("{weight}.lora_b"))?;
            let rank = *rank.get_or_insert(a.rows);
            a.check_shape(rank, module.in_features)?;
            b.check_shape(module.out_features, rank)?;
            let transposed = transpose_in_decoder_order(&b, module)?;
            layers.push(LoraPair {
                a: Tensor::from_vec(a.values, (1, rank, module.in_features), device)?,
                b_transposed: Tensor::from_vec(transposed, (1, rank, module.out_features), device)?,
            });
            known.extend([a.name, b.name]);
        }
        pairs.insert(module.name.clone(), layers);
    }
    if let Some(unknown) = gguf.tensors().iter().find(|tensor| !known.contains(&tensor.name)) {
        anyhow::bail!("the adapter has the tensor `{}`, which no module takes", unknown.name);
    }
    let rank = rank.context("the base has no layers or no target modules")?;
    Ok(LoraBatch::new(pairs, scale(&gguf, rank)?))
}

/// `alpha / rank`, or 1 without alpha.
fn scale(gguf: &Gguf<'_>, rank: usize) -> Result<f64> {
    let key = "adapter.lora.alpha";
    let Some(value) = gguf.get(key) else { return Ok(1.0) };
    let alpha = value
        .as_f32()
        .with_context(|| format!("the adapter's `{key}` is {}, expected f32", value.type_name()))?;
    ensure!(alpha.is_finite(), "the adapter's `{key}` is {alpha}, expected a finite number");
    Ok(if alpha.abs() > 0.0 { f64::from(alpha) / rank as f64 } else { 1.0 })
}

/// A dequantized tensor of two dimensions.
struct Matrix {
    name: String,
    rows: usize,
    columns: usize,
    /// Row-major.
    values: Vec<f32>,
}

impl Matrix {
    fn read(gguf: &Gguf<'_>, name: String) -> Result<Self> {
        let info =
            gguf.tensor(&name).with_context(|| format!("the adapter has no tensor `{name}`"))?;
        let [columns, rows] = info.dimensions[..] else {
            let got = info.dimensions.len();
            anyhow::bail!("tensor `{name}` has {got} dimensions, expected 2");
        };
        let ggml_type = info.ggml_type;
        let quantization = Quantization::ALL
            .into_iter()
            .find(|quantization| quantization.ggml_type() == ggml_type);
        let quantization = quantization.with_context(|| {
            format!("tensor `{name}` has the unsupported type `{}`", ggml_type.name())
        })?;
        let values = dequantize(quantization, gguf.data(info))
            .with_context(|| format!("cannot read tensor `{name}`"))?;
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            anyhow::bail!("tensor `{name}` has the value {value}, expected finite numbers");
        }
        Ok(Self { rows: usize::try_from(rows)?, columns: usize::try_from(columns)?, values, name })
    }

    fn check_shape(&self, rows: usize, columns: usize) -> Result<()> {
        ensure!(
            (self.rows, self.columns) == (rows, columns),
            "tensor `{}` has the shape [{}, {}], expected [{rows}, {columns}]",
            self.name,
            self.rows,
            self.columns,
        );
        Ok(())
    }
}

/// `lora_b [out, rank]` of the file → `[rank, out]` with `out` in the Hugging Face order.
fn transpose_in_decoder_order(b: &Matrix, module: &TargetModule) -> Result<Vec<f32>> {
    let (out, rank) = (b.rows, b.columns);
    let order: Vec<usize> = match module.permute_heads {
        None => (0..out).collect(),
        Some(heads) => {
            let fits = heads.checked_mul(2).is_some_and(|halves| out.is_multiple_of(halves));
            ensure!(
                fits,
                "the {out} rows of tensor `{}` do not split into {heads} heads of even size",
                b.name
            );
            let head = out / heads;
            // The file interleaves the halves of each head: row 2i + j there is row j·head/2 + i.
            let file_row = |row: usize| {
                let (start, inside) = (row - row % head, row % head);
                start + 2 * (inside % (head / 2)) + inside / (head / 2)
            };
            (0..out).map(file_row).collect()
        }
    };
    let column = |r: usize| order.iter().map(move |&row| b.values[row * rank + r]);
    Ok((0..rank).flat_map(column).collect())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use t2lc_runtime::base::{BaseModel, TargetModule};
    use t2lc_runtime::gguf::{GgmlType, GgufWriter, Value};
    use t2lc_runtime::quantize::{Quantization, quantize};

    use super::load_gguf_adapter;
    use crate::base::adapter::LoraBatch;

    /// `q_proj` has two heads of four rows.
    fn base() -> BaseModel {
        let module = |name: &str, permute_heads| TargetModule {
            name: name.into(),
            in_features: 4,
            out_features: 8,
            permute_heads,
        };
        BaseModel {
            name: "tiny".into(),
            architecture: "llama".into(),
            layers: 1,
            tied_head: true,
            fingerprint: String::new(),
            modules: vec![module("q_proj", Some(2)), module("v_proj", None)],
        }
    }

    /// Rows of `lora_b`: the two values of row `r` are `r` and `r + 0.5`.
    fn rows(order: &[u16]) -> Vec<f32> {
        order.iter().flat_map(|&row| [f32::from(row), f32::from(row) + 0.5]).collect()
    }

    /// Name, dimensions in ne order, values.
    type NamedMatrix = (&'static str, [u64; 2], Vec<f32>);

    fn matrices() -> Vec<NamedMatrix> {
        let a = |start: u8| (start..start + 8).map(f32::from).collect::<Vec<_>>();
        vec![
            ("blk.0.attn_q.weight.lora_a", [4, 2], a(0)),
            // The Hugging Face rows that the file's rows 0 to 7 are.
            ("blk.0.attn_q.weight.lora_b", [2, 8], rows(&[0, 2, 1, 3, 4, 6, 5, 7])),
            ("blk.0.attn_v.weight.lora_a", [4, 2], a(8)),
            ("blk.0.attn_v.weight.lora_b", [2, 8], rows(&[0, 1, 2, 3, 4, 5, 6, 7])),
        ]
    }

    fn file(alpha: Option<Value>, matrices: &[NamedMatrix]) -> Vec<u8> {
        let mut file = GgufWriter::new();
        for (key, value) in [
            ("general.type", "adapter"),
            ("general.architecture", "llama"),
            ("adapter.type", "lora"),
        ] {
            file.metadata(key, Value::String(value.into())).unwrap();
        }
        if let Some(alpha) = alpha {
            file.metadata("adapter.lora.alpha", alpha).unwrap();
        }
        for (name, dimensions, values) in matrices {
            let row_length = usize::try_from(dimensions[0]).unwrap();
            let bytes = quantize(name, Quantization::F16, row_length, values).unwrap();
            file.tensor(name, dimensions, GgmlType::F16, bytes).unwrap();
        }
        file.finish().unwrap()
    }

    fn load(alpha: Option<Value>, matrices: &[NamedMatrix]) -> anyhow::Result<LoraBatch> {
        load_gguf_adapter(&file(alpha, matrices), &base(), &Device::Cpu)
    }

    #[test]
    fn matrices_come_back_in_the_order_of_the_decoder() {
        let adapter = load(Some(Value::F32(16.0)), &matrices()).unwrap();
        assert!((adapter.scale - 8.0).abs() < 1e-12);
        let transposed: Vec<Vec<f32>> = vec![
            (0_u8..8).map(f32::from).collect(),
            (0_u8..8).map(|row| f32::from(row) + 0.5).collect(),
        ];
        for module in ["q_proj", "v_proj"] {
            let [pair] = &adapter.pairs[module][..] else { panic!("not one layer") };
            assert_eq!(pair.a.dims(), [1, 2, 4]);
            let b_transposed = pair.b_transposed.to_vec3::<f32>().unwrap();
            assert_eq!(b_transposed, std::slice::from_ref(&transposed), "{module}");
        }
        let a = adapter.pairs["v_proj"][0].a.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(a, (8_u8..16).map(f32::from).collect::<Vec<_>>());
    }

    #[test]
    fn without_alpha_the_product_is_not_scaled() {
        for alpha in [None, Some(Value::F32(0.0))] {
            assert!((load(alpha, &matrices()).unwrap().scale - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn files_that_do_not_fit_the_base_are_named() {
        let error = |matrices: &[NamedMatrix]| load(None, matrices).unwrap_err().to_string();
        assert_eq!(
            error(&matrices()[..3]),
            "the adapter has no tensor `blk.0.attn_v.weight.lora_b`"
        );
        let mut wrong = matrices();
        wrong[2] = ("blk.0.attn_v.weight.lora_a", [4, 1], vec![0.0; 4]);
        assert_eq!(
            error(&wrong),
            "tensor `blk.0.attn_v.weight.lora_a` has the shape [1, 4], expected [2, 4]"
        );
        let mut more = matrices();
        more.push(("blk.1.attn_q.weight.lora_a", [4, 2], vec![0.0; 8]));
        assert_eq!(
            error(&more),
            "the adapter has the tensor `blk.1.attn_q.weight.lora_a`, which no module takes"
        );
        let alpha = load(Some(Value::F64(16.0)), &matrices()).unwrap_err().to_string();
        assert_eq!(alpha, "the adapter's `adapter.lora.alpha` is f64, expected f32");
    }

    #[test]
    fn other_files_are_refused() {
        let load = |bytes: &[u8], base: &BaseModel| {
            load_gguf_adapter(bytes, base, &Device::Cpu).unwrap_err().to_string()
        };
        assert_eq!(load(b"not GGUF", &base()), "the adapter is not a usable GGUF file");
        let mut other = base();
        other.architecture = "qwen2".into();
        assert_eq!(
            load(&file(None, &matrices()), &other),
            "the adapter's `general.architecture` is `llama`, expected `qwen2`"
        );
        let mut odd = base();
        odd.modules[0].permute_heads = Some(3);
        assert_eq!(
            load(&file(None, &matrices()), &odd),
            "the 8 rows of tensor `blk.0.attn_q.weight.lora_b` do not split into 3 heads of even \
             size"
        );
    }
}
