//! What config files of the public code say beside a method's parameters. Most of it is about that
//! code alone and is read over; what can contradict the model or the method is held against it.

use serde_json::{Value, json};

use super::method::{Batching, Method};
use super::params::number;
use crate::model::family::{Family, Names};

/// Names that say nothing here, and why.
pub const IGNORED: [(&str, &str); 11] = [
    ("P_loc", "the null space is found from the statistics, which are named with the edit"),
    ("device", "where to compute is said with the edit"),
    ("fp16", "weights are read as they are stored, and computed with in F32"),
    ("keep_original_weight", "the original stays, unless it is changed in place and can be undone"),
    ("max_length", "nothing is cut"),
    ("model_name", "the checkpoint is named with the edit"),
    ("model_parallel", "where to compute is said with the edit"),
    ("mom2_dataset", "statistics are collected before, from any text"),
    ("mom2_dtype", "statistics are collected before; their totals are F64"),
    ("mom2_n_samples", "statistics are collected before, of any number of tokens"),
    ("stats_dir", "statistics are named with the edit"),
];

/// Names that are held against the model or the method, and how.
pub const HELD: [(&str, &str); 11] = [
    ("alg_name", "another method is warned of"),
    ("attn_module_tmp", "a module outside the model's layers is warned of"),
    (
        "batch_size",
        "above 1, methods for many facts that train nothing warn: they edit all, or batches of \
         `sequential`",
    ),
    (
        "inner_params",
        "of methods that choose matrices, others than those of layers and matrices are refused",
    ),
    ("layer_module_tmp", "other layers than the model's are warned of"),
    ("lm_head_module", "another model's head is warned of"),
    ("ln_f_module", "another model's last norm is warned of"),
    ("mlp_module_tmp", "a module outside the model's layers is warned of"),
    ("objective_optimization", "of fine-tuning, another than the method's is warned of"),
    ("rewrite_module_tmp", MODULE),
    ("rewrite_module_tmps", MODULE),
];

const MODULE: &str = "another module than the MLP's down projection is refused, but by \
                      fine-tuning, which trains it";

/// The names of the edited module.
pub const MODULES: [&str; 2] = ["rewrite_module_tmp", "rewrite_module_tmps"];

/// Whether config files are known to have a name that is no parameter.
pub fn knows(name: &str) -> bool {
    IGNORED.iter().chain(&HELD).any(|(known, _)| *known == name)
}

/// The table of these names, as the documentation has it.
pub fn markdown() -> String {
    let rows = IGNORED.iter().chain(&HELD).map(|(name, how)| format!("| `{name}` | {how} |\n"));
    format!("| name | what becomes of it |\n| --- | --- |\n{}", rows.collect::<String>())
}

/// The first module of a value, a name or a list of them, that is not the edited one.
pub fn other_module(value: &Value, edited: &str) -> Option<Value> {
    let all = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    all.iter().find(|module| *module != edited).cloned()
}

/// What a value says that is not so here; `edited` is the edited module, with `{}` for the layer.
pub fn contradiction(
    name: &str,
    value: &Value,
    method: &dyn Method,
    (family, edited): (Option<&Family>, &str),
) -> Option<String> {
    let layer = edited.split_once("{}").map_or(edited, |(before, _)| before).to_owned() + "{}";
    let plain = |word: &str| -> String {
        word.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
    };
    let about = method.about().name;
    let inside = |module: &str| module.strip_prefix(&layer).is_some_and(|at| at.starts_with('.'));
    match (name, value) {
        // EasyEdit's name for two of them.
        ("alg_name", Value::String(ft)) if ft == "FT" && about.starts_with("ft-") => None,
        ("objective_optimization", Value::String(objective)) => {
            let fits = match about {
                "ft-l" => "prompt_last",
                "ft-m" | "locft-bf" => "target_new",
                _ => return None,
            };
            (objective != fits).then(|| {
                format!("`objective_optimization` is {objective}, and {about}'s is {fits}")
            })
        }
        ("alg_name", other)
            if !other.is_null() && other.as_str().map(plain) != Some(plain(about)) =>
        {
            let what =
                "its values were chosen for that method, and may be wrong or too few for this";
            let other = other.as_str().map_or(other.to_string(), str::to_owned);
            Some(format!(
                "the hyperparameters are those of {other}, and the edit is by {about}: {what}"
            ))
        }
        ("batch_size", value)
            if method.batching() == Batching::Together
                && number(value).is_some_and(|n| n > 1.0) =>
        {
            Some(format!(
                "`batch_size` {value} is not followed: all facts are edited at once, or in batches \
                 where the edit is sequential"
            ))
        }
        ("layer_module_tmp", Value::String(found)) if *found != layer => {
            Some(not_this_model(name, found, "layers are", &layer))
        }
        ("mlp_module_tmp" | "attn_module_tmp", Value::String(found)) if !inside(found) => {
            Some(not_this_model(name, found, "layers are", &layer))
        }
        ("ln_f_module", Value::String(found)) => {
            let norm = family.map(|family| [family.names.prefix, family.names.norm].concat())?;
            (*found != norm).then(|| not_this_model(name, found, "last norm is", &norm))
        }
        ("lm_head_module", Value::String(found)) => {
            let Names { head, prefix, embed, .. } = family?.names;
            // Of models whose head is the embedding, files name either.
            let is_own = head.contains(&&**found) || *found == [prefix, embed].concat();
            (!is_own).then(|| not_this_model(name, found, "head is", head[0]))
        }
        _ => None,
    }
}

fn not_this_model(name: &str, found: &str, are: &str, ours: &str) -> String {
    format!(
        "`{name}` is {}, and this model's {are} {ours}: the hyperparameters may be those of \
         another model",
        json!(found)
    )
}
