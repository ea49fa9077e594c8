//! A base model in a GGUF file, of any tensor type that candle dequantizes.
//!
//! llama.cpp stores the rows of `attn_q` and `attn_k` of architecture `llama` interleaved for its
//! rotary layout; they are put back into the Hugging Face order here.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Keys that a file leaves
//! out have the defaults of llama.cpp.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{Device, Tensor};

use super::{Part, check_shape};
use crate::base::family::{
    DecoderConfig, Family, RopeScaling, check_layers, check_sizes, frequencies, periodic_windows,
};

/// An open GGUF file.
#[derive(Debug)]
pub struct GgufSource {
    reader: BufReader<File>,
    content: Content,
    config: DecoderConfig,
}

impl GgufSource {
    /// Reads the header of a GGUF file.
    ///
    /// # Errors
    /// An unreadable file, an unknown architecture, a configuration that is not supported.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open `{}`", path.display()))?;
        let mut reader = BufReader::new(file);
        let content = Content::read(&mut reader)
            .with_context(|| format!("`{}` is not a GGUF file", path.display()))?;
        let config = read_config(&content, &mut reader)?;
        config.check()?;
        Ok(Self { reader, content, config })
    }

    /// What the decoder needs to know of the model.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    pub(super) fn weight(&mut self, part: Part, device: &Device) -> Result<Tensor> {
        let name = format!("{}.weight", part.gguf_name());
        let weight = self.tensor(&name, &part.shape(&self.config), device)?;
        self.hugging_face_rows(part, weight)
    }

    pub(super) fn bias(&mut self, part: Part, device: &Device) -> Result<Tensor> {
        let name = format!("{}.bias", part.gguf_name());
        let shape = part.shape(&self.config);
        let bias = self.tensor(&name, &shape[..1], device)?.unsqueeze(1)?;
        Ok(self.hugging_face_rows(part, bias)?.squeeze(1)?)
    }

    fn tensor(&mut self, name: &str, shape: &[usize], device: &Device) -> Result<Tensor> {
        check_shape(name, stored_shape(&self.content, name)?, shape)?;
        read_tensor(&self.content, &mut self.reader, name, device)
    }

    fn hugging_face_rows(&self, part: Part, weight: Tensor) -> Result<Tensor> {
        let heads = match part {
            Part::Query(_) => self.config.heads,
            Part::Key(_) => self.config.kv_heads,
            _ => return Ok(weight),
        };
        let interleaved = self.config.family.traits().interleaved_in_gguf;
        if interleaved { half_split_rows(&weight, heads) } else { Ok(weight) }
    }
}

fn stored_shape<'c>(content: &'c Content, name: &str) -> Result<&'c [usize]> {
    let info = content.tensor_infos.get(name);
    Ok(info.with_context(|| format!("the base has no tensor `{name}`"))?.shape.dims())
}

fn read_tensor(
    content: &Content,
    reader: &mut BufReader<File>,
    name: &str,
    device: &Device,
) -> Result<Tensor> {
    let stored =
        content.tensor(reader, name, device).with_context(|| format!("tensor `{name}`"))?;
    stored.dequantize(device).with_context(|| format!("tensor `{name}`"))
}

/// Interleaved rows `(x₁⁰, x₂⁰, x₁¹, x₂¹, …)` of each head → halves `(x₁…, x₂…)`.
fn half_split_rows(weight: &Tensor, heads: usize) -> Result<Tensor> {
    let (rows, columns) = weight.dims2()?;
    ensure!(
        rows.is_multiple_of(2 * heads),
        "{rows} rows do not split into {heads} heads of even size"
    );
    let split = weight.reshape((heads, rows / heads / 2, 2, columns))?;
    Ok(split.transpose(1, 2)?.contiguous()?.reshape((rows, columns))?)
}

/// The metadata of one architecture.
struct Keys<'c> {
    content: &'c Content,
    architecture: &'static str,
}

impl Keys<'_> {
    fn value(&self, key: &str) -> (String, Option<&Value>) {
        let key = format!("{}.{key}", self.architecture);
        let value = self.content.metadata.get(&key);
        (key, value)
    }

    fn number(&self, key: &str) -> Result<Option<usize>> {
        let (key, value) = self.value(key);
        let Some(value) = value else { return Ok(None) };
        let number = value.to_u32().with_context(|| format!("`{key}` is not one number"))?;
        Ok(Some(usize::try_from(number)?))
    }

    fn required(&self, key: &str) -> Result<usize> {
        self.number(key)?.with_context(|| format!("the base has no `{}.{key}`", self.architecture))
    }

    fn real(&self, key: &str) -> Result<Option<f32>> {
        let (key, value) = self.value(key);
        let Some(value) = value else { return Ok(None) };
        Ok(Some(value.to_f32().with_context(|| format!("`{key}` is not one number"))?))
    }

    fn rope_scaling(&self) -> Result<RopeScaling> {
        let (key, value) = self.value("rope.scaling.type");
        let kind = match value {
            Some(value) => value.to_string().with_context(|| format!("`{key}`"))?.as_str(),
            None => "none",
        };
        let factor = self.real("rope.scaling.factor")?;
        match (kind, factor) {
            ("linear", Some(factor)) if factor > 0.0 => Ok(RopeScaling::Linear { factor }),
            ("linear", factor) => bail!("`{key}` is `linear` with the factor {factor:?}"),
            ("none", _) => Ok(RopeScaling::None),
            _ => bail!("`{key}` is `{kind}`, which is not supported; expected `none` or `linear`"),
        }
    }
}

fn read_config(content: &Content, reader: &mut BufReader<File>) -> Result<DecoderConfig> {
    let architecture = content.metadata.get("general.architecture").context("no architecture")?;
    let family = Family::of_gguf(architecture.to_string()?)?;
    let keys = Keys { content, architecture: family.traits().gguf_architecture };

    let (hidden, heads) =
        (keys.required("embedding_length")?, keys.required("attention.head_count")?);
    ensure!(heads > 0, "0 attention heads");
    let kv_heads = keys.number("attention.head_count_kv")?.unwrap_or(heads);
    let head_size = keys.number("attention.key_length")?.unwrap_or(hidden / heads);
    check_sizes(heads, kv_heads, head_size)?;
    let value_size = keys.number("attention.value_length")?.unwrap_or(head_size);
    ensure!(value_size == head_size, "value heads of {value_size}, key heads of {head_size}");
    let rotated = keys.number("rope.dimension_count")?.unwrap_or(head_size);
    ensure!(rotated == head_size, "{rotated} of {head_size} values are rotated, expected all");
    let layers = check_layers(keys.required("block_count")?)?;
    let feed_forward = match keys.number("feed_forward_length")? {
        Some(size) => size,
        None => stored_shape(content, "blk.0.ffn_gate.weight")?.first().copied().unwrap_or(0),
    };

    let base = keys.real("rope.freq_base")?.unwrap_or(10_000.0);
    let mut global_frequencies = frequencies(head_size, base, keys.rope_scaling()?);
    if content.tensor_infos.contains_key("rope_freqs.weight") {
        check_shape(
            "rope_freqs.weight",
            stored_shape(content, "rope_freqs.weight")?,
            &[head_size / 2],
        )?;
        let factors = read_tensor(content, reader, "rope_freqs.weight", &Device::Cpu)?;
        for (frequency, factor) in global_frequencies.iter_mut().zip(factors.to_vec1::<f32>()?) {
            *frequency /= factor;
        }
    }
    let mut config = DecoderConfig {
        family,
        vocabulary: stored_shape(content, "token_embd.weight")?.first().copied().unwrap_or(0),
        hidden,
        feed_forward,
        heads,
        kv_heads,
        head_size,
        norm_eps: keys
            .real("attention.layer_norm_rms_epsilon")?
            .context("the base has no `attention.layer_norm_rms_epsilon`")?,
        query_key_value_bias: content.tensor_infos.contains_key("blk.0.attn_q.bias"),
        output_bias: content.tensor_infos.contains_key("blk.0.attn_output.bias"),
        tied_head: !content.tensor_infos.contains_key("output.weight"),
        attention_scale: (head_size as f32).sqrt().recip(),
        attention_soft_cap: None,
        logit_soft_cap: None,
        windows: vec![None; layers],
        local_frequencies: global_frequencies.clone(),
        global_frequencies,
    };
    match family {
        Family::Gemma2 => gemma_2(&mut config, &keys)?,
        Family::Gemma3 => gemma_3(&mut config, &keys)?,
        Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 => {}
    }
    Ok(config)
}

/// The one size of each generation whose scores are scaled by `hidden / heads`; the file does not
/// say, so llama.cpp tells it by the number of layers, too.
fn scale_of_27b(config: &mut DecoderConfig, layers_of_27b: usize) {
    if config.windows.len() == layers_of_27b {
        config.attention_scale = (config.hidden as f32 / config.heads as f32).sqrt().recip();
    }
}

fn gemma_2(config: &mut DecoderConfig, keys: &Keys<'_>) -> Result<()> {
    let window = keys.number("attention.sliding_window")?.unwrap_or(4096);
    config.windows = periodic_windows(config.windows.len(), 2, window);
    config.attention_soft_cap = Some(keys.real("attn_logit_softcapping")?.unwrap_or(50.0));
    config.logit_soft_cap = Some(keys.real("final_logit_softcapping")?.unwrap_or(30.0));
    scale_of_27b(config, 46);
    Ok(())
}

fn gemma_3(config: &mut DecoderConfig, keys: &Keys<'_>) -> Result<()> {
    let window = keys.required("attention.sliding_window")?;
    let period = keys.number("attention.sliding_window_pattern")?.unwrap_or(6);
    config.windows = periodic_windows(config.windows.len(), period, window);
    let local_base = keys.real("rope.freq_base_swa")?.unwrap_or(10_000.0);
    config.local_frequencies = frequencies(config.head_size, local_base, RopeScaling::None);
    config.logit_soft_cap = keys.real("final_logit_softcapping")?;
    scale_of_27b(config, 62);
    Ok(())
}
