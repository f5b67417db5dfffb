//! The `config.json` that the pairs of a GGUF file describe.
//!
//! Fields are those of the family's row ([`super::super::family`]): what that reads is written, so
//! that nothing depends on a default. What no pair says is seen from the tensors: biases, a head of
//! its own, and factors of rotary frequencies.

use serde_json::{Map, Value, json};

use super::keys::{Keys, digits};
use super::rows::{CHANGING, Extra, GgufFamily, WINDOW};
use crate::base::{Error, Result};
use crate::model::families::FAMILIES;
use crate::model::family::{Family, PositionEncoding};
use crate::model::fields::{Dim, Eps, Flag, Windows};
use crate::model::rotary::{RotaryDim, RotaryKeys, Turns};
use crate::ops::norm::NormKind;
use crate::store::gguf::MetadataValue;

/// A configuration in the making.
struct Writer<'a> {
    keys: Keys<'a>,
    family: &'static Family,
    fields: Map<String, Value>,
    /// D, H, E of the file.
    width: u64,
    n_heads: u64,
    head_dim: u64,
}

/// The configuration of a file of this row, without the type of its elements.
///
/// # Errors
///
/// A key that is missing, of another type, or says what the family has no field for.
pub(super) fn config(keys: Keys, row: &GgufFamily) -> Result<Value> {
    let family = FAMILIES.iter().find(|family| family.name == row.family);
    let own = |key: &str| keys.own(key);
    let width = keys.required(&own("embedding_length"))?;
    let n_heads = keys.required(&own("attention.head_count"))?;
    let head_dim = keys.whole(&own("attention.key_length"))?;
    let mut writer = Writer {
        keys,
        family: family.expect("a family for each row"),
        fields: Map::new(),
        width,
        n_heads,
        head_dim: head_dim.unwrap_or_else(|| width.checked_div(n_heads).unwrap_or(0)),
    };
    writer.refuse_changing(row)?;
    writer.put("model_type", row.family);
    writer.put("architectures", json!([row.class]));
    writer.sizes()?;
    writer.options()?;
    writer.windows()?;
    if let PositionEncoding::Rotary(rotary) = writer.family.positions {
        writer.rotary(rotary)?;
    }
    for extra in row.extra {
        writer.extra(*extra)?;
    }
    Ok(writer.fields.into())
}

impl Writer<'_> {
    fn put(&mut self, field: &str, value: impl Into<Value>) {
        self.fields.insert(field.to_owned(), value.into());
    }

    fn own(&self, key: &str) -> String {
        self.keys.own(key)
    }

    fn wrong(&self, key: &str, what: impl Into<String>) -> Error {
        self.keys.wrong(&self.own(key), what)
    }

    fn has(&self, tensor: &str) -> bool {
        self.keys.file.header().tensor(tensor).is_some()
    }

    /// Refuses what changes the computation and has no field in this family.
    fn refuse_changing(&self, row: &GgufFamily) -> Result<()> {
        let named = |key: &str| {
            row.extra.iter().any(|extra| matches!(extra, Extra::Key(own, _) if *own == key))
        };
        for key in CHANGING.into_iter().filter(|key| !named(key)) {
            if self.keys.number(&self.own(key))?.is_some_and(|x| x != 0.0) {
                let what = format!("no model of {} has it that is implemented", row.family);
                return Err(self.wrong(key, what));
            }
        }
        if self.keys.flag(&self.own("attention.causal"))? == Some(false) {
            return Err(self.wrong("attention.causal", "only causal attention is implemented"));
        }
        Ok(())
    }

    fn sizes(&mut self) -> Result<()> {
        let (own, keys) = (&self.family.keys, self.keys);
        let width = self.width;
        self.put(own.width[0], width);
        self.put(own.layers[0], keys.required(&self.own("block_count"))?);
        self.put(own.n_heads[0], self.n_heads);
        self.put(own.max_positions[0], keys.required(&self.own("context_length"))?);
        let groups = keys.whole(&self.own("attention.head_count_kv"))?.unwrap_or(self.n_heads);
        self.dim(own.n_kv_heads, "attention.head_count_kv", groups, self.n_heads)?;
        let by_width = self.width.checked_div(self.n_heads).unwrap_or(0);
        self.dim(own.head_dim, "attention.key_length", self.head_dim, by_width)?;
        let values = keys.whole(&self.own("attention.value_length"))?;
        if values.is_some_and(|values| values != self.head_dim) {
            let what = format!("is not the width of keys, {}", self.head_dim);
            return Err(self.wrong("attention.value_length", what));
        }
        let inner = keys.required(&self.own("feed_forward_length"))?;
        self.dim(own.inner, "feed_forward_length", inner, self.width.saturating_mul(4))?;
        let embed = keys.file.header().tensor("token_embd.weight");
        let embed = embed.filter(|tensor| tensor.shape.len() == 2);
        let embed = embed.ok_or_else(|| keys.wrong("token_embd.weight", "no such matrix"))?;
        self.put("vocab_size", embed.shape[0]);
        for (field, key) in [
            ("bos_token_id", "tokenizer.ggml.bos_token_id"),
            ("eos_token_id", "tokenizer.ggml.eos_token_id"),
            ("pad_token_id", "tokenizer.ggml.padding_token_id"),
        ] {
            self.put(field, keys.whole(key)?);
        }
        Ok(())
    }

    /// A size; where the family has no field for it, it must be what the family derives.
    fn dim(&mut self, dim: Dim, key: &str, size: u64, derived: u64) -> Result<()> {
        let fixed = match dim {
            Dim::Config(field) | Dim::ConfigOr(field, _) | Dim::Required(field) => {
                self.put(field, size);
                return Ok(());
            }
            Dim::Derived => derived,
            Dim::Const(n) => n as u64,
        };
        if size == fixed {
            return Ok(());
        }
        let what = format!("is {size}, and in {} it is always {fixed}", self.family.name);
        Err(self.wrong(key, what))
    }

    /// Norms, activation, biases, the head.
    fn options(&mut self) -> Result<()> {
        let own = &self.family.keys;
        if let Eps::Config(field, _) = own.eps {
            let key = self.own(match self.family.norm {
                NormKind::Rms => "attention.layer_norm_rms_epsilon",
                NormKind::Layer => "attention.layer_norm_epsilon",
            });
            let eps = self.keys.number(&key)?;
            self.put(field, eps.ok_or_else(|| self.keys.wrong(&key, "is missing"))?);
        }
        self.put(own.act.field, own.act.default);
        let qkv = ["attn_q", "attn_qkv"].map(|name| self.has(&format!("blk.0.{name}.bias")));
        let [o, up] = ["attn_output", "ffn_up"].map(|name| self.has(&format!("blk.0.{name}.bias")));
        let flags = [(own.bias_qkv, qkv.contains(&true)), (own.bias_o, o), (own.bias_mlp, up)];
        for (flag, there) in flags {
            let Flag::Config(field, _) = flag else { continue };
            if self.fields.get(field).is_some_and(|before| *before != json!(there)) {
                let what = format!("some of the biases that {field} switches are there, not all");
                return Err(self.keys.wrong("blk.0", what));
            }
            self.put(field, there);
        }
        if let Some(parallel) = self.keys.flag(&self.own("use_parallel_residual"))? {
            self.put("use_parallel_residual", parallel);
        }
        let tied = !self.has("output.weight");
        self.put("tie_word_embeddings", tied);
        Ok(())
    }

    /// Which layers have a window, where the file says it layer by layer.
    fn windows(&mut self) -> Result<()> {
        if matches!(self.family.keys.windows, Windows::None) {
            return Ok(());
        }
        let key = self.own("attention.sliding_window_pattern");
        match self.keys.get(&key) {
            None => {}
            Some(MetadataValue::Bools(each)) => {
                let kind = |&sliding| ["full_attention", "sliding_attention"][usize::from(sliding)];
                self.put("layer_types", each.iter().map(kind).collect::<Vec<_>>());
            }
            Some(_) => {
                let every = self.keys.whole(&key)?;
                self.put("sliding_window_pattern", every);
            }
        }
        Ok(())
    }

    fn rotary(&mut self, rotary: RotaryKeys) -> Result<()> {
        let base = |key: &str| Ok(self.keys.number(&self.own(key))?.unwrap_or(1e4));
        let (theta, local) = (base("rope.freq_base")?, base("rope.freq_base_swa")?);
        self.put(rotary.theta.0, theta);
        if let Turns::ByWindow(field, _) = rotary.turns
            && !field.is_empty()
        {
            self.put(field, local);
        }
        let elements = self.keys.whole(&self.own("rope.dimension_count"))?;
        let elements = elements.unwrap_or(self.head_dim);
        match rotary.dim {
            RotaryDim::Fraction(field, _) => self.put(field, fraction(elements, self.head_dim)),
            RotaryDim::Elements(field, _) => self.put(field, elements),
            RotaryDim::Full if elements == self.head_dim => {}
            RotaryDim::Full => {
                let what = format!("is {elements}, and in this family all {}", self.head_dim);
                return Err(self.wrong("rope.dimension_count", what));
            }
        }
        if let Some(scaling) = self.scaling(theta)? {
            self.put("rope_scaling", scaling);
        }
        Ok(())
    }

    /// How frequencies are scaled, if they are.
    fn scaling(&self, theta: f64) -> Result<Option<Value>> {
        let number = |key: &str| self.keys.number(&self.own(&format!("rope.scaling.{key}")));
        if let Some(short) = self.factors("rope_factors_short.weight")? {
            let long = self.factors("rope_factors_long.weight")?.unwrap_or_else(|| short.clone());
            let mut scaling = longrope(&short, &long);
            if let Some(factor) = number("attn_factor")? {
                scaling["attention_factor"] = factor.into();
            }
            return Ok(Some(scaling));
        }
        if let Some(factors) = self.factors("rope_freqs.weight")? {
            let length = self.keys.whole(&self.own("context_length"))?;
            return Ok(Some(llama3(&factors, theta).unwrap_or_else(|| {
                // The same factors up to the last token, and no other factor of cos and sin.
                let mut scaling = longrope(&factors, &factors);
                scaling["attention_factor"] = 1.0.into();
                scaling["original_max_position_embeddings"] = length.into();
                scaling
            })));
        }
        let by = match number("factor")? {
            None => self.keys.number(&self.own("rope.scale_linear"))?,
            by => by,
        };
        match (self.keys.text(&self.own("rope.scaling.type"))?, by) {
            (None | Some("linear"), Some(by)) => {
                Ok(Some(json!({"rope_type": "linear", "factor": by})))
            }
            (None | Some("none" | "linear" | "longrope"), _) => Ok(None),
            (Some("yarn"), Some(by)) => self.yarn(by).map(Some),
            (Some(kind), _) => {
                let what = format!("`{kind}` is not implemented, or has no factor");
                Err(self.wrong("rope.scaling.type", what))
            }
        }
    }

    /// YaRN by this factor.
    fn yarn(&self, by: f64) -> Result<Value> {
        let number = |key: &str| self.keys.number(&self.own(&format!("rope.scaling.{key}")));
        for (key, usual) in [("yarn_attn_factor", 1.0), ("yarn_log_multiplier", 0.0)] {
            if number(key)?.is_some_and(|x| x != usual) {
                let what = format!("only {usual} is implemented");
                return Err(self.wrong(&format!("rope.scaling.{key}"), what));
            }
        }
        let mut scaling = json!({"rope_type": "yarn", "factor": by});
        // The converter writes OLMo 3's `attention_factor` there, the whole factor of cos and sin;
        // 1 is what files say that have the paper's.
        if let Some(factor) = number("attn_factor")?.filter(|x| *x != 1.0) {
            scaling["attention_factor"] = factor.into();
        }
        let trained = self.keys.whole(&self.own("rope.scaling.original_context_length"))?;
        if let Some(trained) = trained {
            scaling["original_max_position_embeddings"] = trained.into();
        }
        for (field, key) in [("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")] {
            if let Some(x) = number(key)? {
                scaling[field] = x.into();
            }
        }
        Ok(scaling)
    }

    /// A tensor of factors, one a frequency.
    fn factors(&self, name: &str) -> Result<Option<Vec<f32>>> {
        let Some(tensor) = self.keys.file.header().tensor(name) else { return Ok(None) };
        // A head has at most 2¹⁶ elements.
        let [n] = tensor.shape[..] else { return Err(self.keys.wrong(name, "is no vector")) };
        if n > 1 << 15 {
            return Err(self.keys.wrong(name, format!("has {n} factors, more than any head")));
        }
        let mut factors = vec![0.0; n];
        self.keys.file.rows(tensor, 0, &mut factors)?;
        Ok(Some(factors))
    }

    fn extra(&mut self, extra: Extra) -> Result<()> {
        match extra {
            Extra::Key(key, field) => {
                if let Some(value) = self.keys.json(&self.own(key))? {
                    self.put(field, value);
                }
            }
            Extra::Window(field) => {
                if let Some(window) = self.keys.whole(&self.own(WINDOW))? {
                    self.put(field, if window == 0 { Value::Null } else { json!(window) });
                }
            }
            Extra::KeyOrNull(key, field) => {
                let value = self.keys.json(&self.own(key))?;
                self.put(field, value.unwrap_or(Value::Null));
            }
            Extra::PreAttention(field, layers) => {
                let largest = self.keys.whole(&self.own("block_count"))? == Some(layers);
                let by_width = self.width.checked_div(self.n_heads).unwrap_or(0);
                self.put(field, if largest { by_width } else { self.head_dim });
            }
        }
        Ok(())
    }
}

/// The fraction of E elements that R is, such that the whole part of E times it is R.
fn fraction(elements: u64, head_dim: u64) -> f64 {
    let fraction = elements as f64 / head_dim.max(1) as f64;
    if (head_dim as f64 * fraction) as u64 == elements { fraction } else { fraction.next_up() }
}

fn longrope(short: &[f32], long: &[f32]) -> Value {
    let list = |factors: &[f32]| factors.iter().map(|&x| digits(x)).collect::<Vec<f64>>();
    json!({"rope_type": "longrope", "short_factor": list(short), "long_factor": list(long)})
}

/// The scaling of Llama 3 that has these factors, if one has: the file keeps only them. Its models
/// differ in s alone, which the last factor is.
fn llama3(factors: &[f32], theta: f64) -> Option<Value> {
    let (trained, low, high) = (8192.0, 1.0, 4.0);
    let s = f64::from(*factors.last()?);
    let n = factors.len() as f64;
    let by_wavelength = |i: usize| {
        let turns = trained / std::f64::consts::TAU / theta.powf(i as f64 / n); // C/λ
        let t = ((turns - low) / (high - low)).clamp(0.0, 1.0);
        1.0 / ((1.0 - t) / s + t)
    };
    // A few roundings in single precision, and θ^(i/n) multiplies one of i/n by up to ln θ.
    let bound = 8.0 * f64::from(f32::EPSILON) * theta.ln().max(1.0);
    let alike = |(i, &factor): (usize, &f32)| {
        let want = by_wavelength(i);
        (f64::from(factor) - want).abs() <= bound * want * s.max(1.0)
    };
    let all = s.is_finite() && factors.iter().enumerate().all(alike);
    all.then(|| {
        json!({"rope_type": "llama3", "factor": digits(s as f32), "low_freq_factor": low,
               "high_freq_factor": high, "original_max_position_embeddings": 8192})
    })
}
