//! Fields of a configuration in both dialects, and which values are refused, by name.

use incise::model::arch::{Arch, Caps};
use incise::model::families;
use incise::model::rotary::Rotary;
use incise::ops::act::Act;
use serde_json::{Value, json};

use crate::support::golden::Golden;

/// The configuration of a recorded model with some fields changed; null deletes one.
fn read(name: &'static str, changes: Value) -> Result<Arch, String> {
    let text = std::fs::read_to_string(Golden::open(name).dir.join("config.json")).unwrap();
    let mut value: Value = serde_json::from_str(&text).unwrap();
    let fields = value.as_object_mut().unwrap();
    for (field, change) in changes.as_object().unwrap() {
        match change {
            Value::String(s) if s == "(absent)" => fields.remove(field),
            change => fields.insert(field.clone(), change.clone()),
        };
    }
    let described = families::describe(&value, "config.json".as_ref());
    described.map(|described| described.arch).map_err(|e| e.to_string())
}

const FULL: &str = "full_attention";
const TYPES: [&str; 3] = ["sliding_attention", "full_attention", "sliding_attention"];

fn llama3(low: f64, high: f64) -> Value {
    json!({"rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 16,
        "low_freq_factor": low, "high_freq_factor": high,
    }})
}

/// Two tables, and a scaling that does not say of which.
fn both_dialects() -> Value {
    json!({
        "rope_parameters": {"full_attention": {"rope_theta": 1e6}},
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    })
}

#[test]
fn options_that_are_not_implemented_are_refused_by_name() {
    let cases = [
        ("gpt2", json!({"model_type": "gpt_bigcode"}), "model_type"),
        ("gpt2", json!({"model_type": "(absent)"}), "model_type"),
        ("gpt2", json!({"add_cross_attention": true}), "add_cross_attention"),
        ("gpt2", json!({"activation_function": "quick_gelu"}), "activation_function"),
        ("opt", json!({"do_layer_norm_before": false}), "do_layer_norm_before"),
        ("opt", json!({"_remove_final_layer_norm": true}), "_remove_final_layer_norm"),
        ("opt", json!({"layer_norm_elementwise_affine": false}), "layer_norm_elementwise_affine"),
        ("opt", json!({"word_embed_proj_dim": 7}), "word_embed_proj_dim"),
        ("llama", json!({"rope_scaling": {"rope_type": "proportional"}}), "proportional"),
        ("llama", json!({"rope_scaling": {"rope_type": "longrope"}}), "short_factor"),
        ("gemma", json!({"use_bidirectional_attention": true}), "use_bidirectional_attention"),
        ("gemma2", json!({"final_logit_softcapping": -30.0}), "final_logit_softcapping"),
        ("gemma2", json!({"attn_logit_softcapping": 0}), "attn_logit_softcapping"),
        ("gemma2", json!({"attn_logit_softcapping": 1e300}), "attn_logit_softcapping"),
        ("granite", json!({"embedding_multiplier": 1e300}), "embedding_multiplier"),
        ("gemma2", json!({"attn_logit_softcapping": "50"}), "attn_logit_softcapping"),
        ("gemma3", json!({"final_logit_softcapping": 30.0}), "final_logit_softcapping"),
        ("gemma3", json!({"attn_logit_softcapping": 50.0}), "attn_logit_softcapping"),
        ("gemma3", json!({"rope_parameters": {"rope_theta": 1e4}}), "rope_parameters"),
        ("gemma3", both_dialects(), "rope_scaling"),
        ("ministral3", json!({"rope_parameters": "(absent)"}), "rope_parameters"),
        ("gemma3", json!({"query_pre_attn_scalar": -1}), "query_pre_attn_scalar"),
        ("gemma3-inner", json!({"text_config": null}), "text_config"),
        ("mistral-inner", json!({"text_config": {"model_type": "mamba"}}), "model_type"),
        ("olmo", json!({"clip_qkv": 8.0}), "clip_qkv"),
        ("phi", json!({"qk_layernorm": true}), "qk_layernorm"),
        ("smollm3", json!({"no_rope_layers": [1, 0]}), "no_rope_layers"),
        ("smollm3", json!({"use_sliding_window": true}), "use_sliding_window"),
        ("granite", json!({"residual_multiplier": 0}), "residual_multiplier"),
        ("cohere", json!({"use_qk_norm": true}), "use_qk_norm"),
        ("stablelm", json!({"use_parallel_residual": true}), "use_parallel_residual"),
        ("falcon", json!({"alibi": true}), "alibi"),
        ("falcon", json!({"new_decoder_architecture": true}), "new_decoder_architecture"),
        ("llama", json!({"rope_scaling": {"rope_type": "linear"}}), "factor"),
        ("llama", json!({"rope_scaling": {"rope_type": "yarn", "factor": -1.0}}), "factor"),
        ("llama", json!({"rope_scaling": 3}), "rope_scaling"),
        ("llama", llama3(4.0, 1.0), "low_freq_factor"),
    ];
    for (name, changes, field) in cases {
        let error = read(name, changes.clone()).expect_err(&changes.to_string());
        assert!(error.contains(field), "{changes}: {error}");
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused_by_name() {
    let cases = [
        ("gpt2", json!({"n_head": 3}), "n_head"),
        ("gpt2", json!({"n_head": 1000}), "n_head"),
        ("gpt2", json!({"n_layer": 0}), "n_layer"),
        ("gpt2", json!({"n_layer": (1 << 16) + 1}), "n_layer"),
        ("gpt2", json!({"n_embd": -4}), "n_embd"),
        ("gpt2", json!({"n_embd": 4.5}), "n_embd"),
        ("gpt2", json!({"vocab_size": "many"}), "vocab_size"),
        ("gpt2", json!({"layer_norm_epsilon": 0.0}), "layer_norm_epsilon"),
        ("gpt2", json!({"scale_attn_weights": 1}), "scale_attn_weights"),
        ("gptj", json!({"rotary_dim": 3}), "rotary_dim"),
        ("gptj", json!({"rotary_dim": 10}), "rotary_dim"),
        ("gptj", json!({"rotary_dim": null}), "rotary_dim"),
        ("gptj", json!({"rotary_dim": "(absent)"}), "64 of a head's"),
        ("neox", json!({"rotary_pct": 0.4}), "rotary_pct"),
        ("neox", json!({"rotary_pct": 1.5}), "rotary_pct"),
        ("neox", json!({"rotary_pct": 0.0}), "rotary_pct"),
        ("llama", json!({"num_key_value_heads": 4}), "num_key_value_heads"),
        ("llama", json!({"intermediate_size": null}), "intermediate_size"),
        ("mistral", json!({"sliding_window": 0}), "sliding_window"),
        ("qwen3", json!({"head_dim": 7}), "head_dim"),
        ("qwen3", json!({"head_dim": (1u64 << 31) - 2}), "head_dim"),
        ("qwen3", json!({"layer_types": ["full_attention"]}), "layer_types"),
        ("qwen3", json!({"layer_types": ["full_attention", "linear_attention", 3]}), "layer_types"),
        ("qwen3", json!({"use_sliding_window": false}), "layer_types"),
        ("qwen3", json!({"sliding_window": null}), "layer_types"),
        ("gemma3", json!({"layer_types": ["full_attention"]}), "layer_types"),
        ("gemma3", json!({"layer_types": TYPES, "sliding_window": null}), "layer_types"),
    ];
    for (name, changes, field) in cases {
        let error = read(name, changes.clone()).expect_err(&changes.to_string());
        assert!(error.contains(field), "{changes}: {error}");
    }
}

/// What the framework's configurations hold where a file says nothing.
#[test]
fn absent_fields_are_the_frameworks() {
    let arch = |name, changes| read(name, changes).unwrap();
    let llama = arch("llama", json!({"num_key_value_heads": "(absent)"}));
    assert_eq!((llama.n_heads, llama.n_kv_heads), (6, 6));
    let wide = json!({"num_attention_heads": 16, "head_dim": 4});
    let mut absent = wide.clone();
    absent["num_key_value_heads"] = json!("(absent)");
    let mut null = wide.clone();
    null["num_key_value_heads"] = json!(null);
    assert_eq!(arch("mistral", absent).n_kv_heads, 8);
    assert_eq!(arch("mistral", null).n_kv_heads, 16);
    assert_eq!(arch("qwen3", json!({"head_dim": "(absent)"})).head_dim, 128);
    assert_eq!(arch("gpt2", json!({"n_inner": "(absent)"})).inner, 4 * 28);
    let wide = arch("gptj", json!({"rotary_dim": "(absent)", "n_embd": 256, "n_head": 2}));
    assert_eq!(wide.rotary()[0].frequency.len(), 32, "64 elements");
    let seven = json!({"num_attention_heads": 7, "num_key_value_heads": 7, "head_dim": 4});
    assert_eq!(arch("llama", seven).head_dim, 4, "given, so 7 need not divide the width");
    assert!(arch("gpt2", json!({"tie_word_embeddings": "(absent)"})).tie_embeddings);
    assert!(!arch("llama", json!({"tie_word_embeddings": "(absent)"})).tie_embeddings);
    let neox = arch("neox", json!({"rotary_pct": "(absent)", "use_parallel_residual": null}));
    assert_eq!(
        (neox.rotary()[0].frequency.len(), neox.parallel),
        (1, true),
        "a quarter of 8 elements"
    );
}

/// GPT-2's and GPT-J's sizes under the names of other families, as the framework reads them.
#[test]
fn sizes_have_the_names_of_other_families_too() {
    let names = [
        ("n_embd", "hidden_size"),
        ("n_layer", "num_hidden_layers"),
        ("n_head", "num_attention_heads"),
        ("n_positions", "max_position_embeddings"),
    ];
    for model in ["gpt2", "gptj"] {
        let text = Golden::open(model).dir.join("config.json");
        let config: Value = serde_json::from_slice(&std::fs::read(text).unwrap()).unwrap();
        let of = |arch: Arch| (arch.width, arch.layers, arch.n_heads, arch.max_positions);
        let plain = of(read(model, json!({})).unwrap());
        for (own, other) in names {
            let size = &config[own];
            let both = json!({other: size});
            let instead = json!({own: "(absent)", other: size});
            let null = json!({own: null, other: size});
            for changes in [both, instead, null] {
                assert_eq!(of(read(model, changes.clone()).unwrap()), plain, "{changes}");
            }
            let differ = read(model, json!({other: size.as_u64().unwrap() * 2})).unwrap_err();
            assert!(differ.contains(own) && differ.contains(other), "{differ}");
            let wrong = read(model, json!({own: "(absent)", other: -3})).unwrap_err();
            assert!(wrong.contains(&format!("{other}: -3")), "{wrong}");
            let neither = read(model, json!({own: "(absent)"})).unwrap_err();
            assert!(neither.contains(&format!("{own}: is missing")), "{neither}");
        }
    }
    // Others have no such names.
    let llama = json!({"hidden_size": "(absent)", "n_embd": 48});
    assert!(read("llama", llama).unwrap_err().contains("hidden_size: is missing"));
}

#[test]
fn windows_are_those_of_each_layer() {
    let windows = |name, changes| read(name, changes).unwrap().windows;
    assert_eq!(windows("mistral", json!({})), [Some(5); 3]);
    assert_eq!(windows("mistral", json!({"sliding_window": "(absent)"})), [Some(4096); 3]);
    assert_eq!(windows("mistral", json!({"sliding_window": null})), [None; 3]);
    let types = json!({"layer_types": TYPES});
    assert_eq!(windows("mistral", types), [Some(5); 3], "which this family does not read");
    let types = json!("(absent)");
    let null = json!({"layer_types": types, "sliding_window": null});
    assert_eq!(windows("qwen2", null), [None; 3]);
    assert_eq!(windows("qwen2", json!({"layer_types": types})), [None, Some(6), Some(6)]);
    let off = json!({"layer_types": types, "use_sliding_window": false});
    assert_eq!(windows("qwen2", off), [None; 3]);
    assert_eq!(windows("qwen3", json!({})), [None, Some(4), None]);
    // A field that this family's code does not read.
    assert_eq!(windows("llama", json!({"sliding_window": 4})), [None; 3]);
    // All but every n-th layer.
    assert_eq!(windows("gemma3", json!({"layer_types": types})), [Some(4); 3]);
    let second = json!({"layer_types": types, "sliding_window_pattern": 2});
    assert_eq!(windows("gemma3", second), [Some(4), None, Some(4)]);
    let word = json!({"sliding_window_pattern": "LLLG"});
    assert_eq!(windows("exaone4", word), [Some(4), Some(4), None]);
    assert_eq!(windows("gemma2", json!({"layer_types": types})), [Some(4), None, Some(4)]);
    assert_eq!(windows("starcoder2", json!({"sliding_window": "(absent)"})), [None; 3]);
}

/// Which layers are turned, by which table, and how long a text may be.
#[test]
fn layers_have_their_own_rotary_tables_or_none() {
    let arch = |name, changes| read(name, changes).unwrap();
    let turned = |name, changes| arch(name, changes).turned_by;
    assert_eq!(turned("gpt2", json!({})), [None; 3]);
    assert_eq!(turned("llama", json!({})), [Some(0); 3]);
    assert_eq!(turned("gemma3", json!({})), [Some(0), Some(0), Some(1)]);
    assert_eq!(turned("smollm3", json!({})), [Some(0), None, Some(0)]);
    let every = json!({"no_rope_layers": "(absent)", "no_rope_layer_interval": 3});
    assert_eq!(turned("smollm3", every), [Some(0), Some(0), None]);
    assert_eq!(turned("exaone4", json!({})), [Some(0), Some(0), None]);
    let full = json!({"sliding_window": null, "layer_types": [FULL, FULL, FULL]});
    assert_eq!(turned("exaone4", full), [Some(0); 3]);
    let [local, global] = &arch("gemma3", json!({})).rotary().to_vec()[..] else { panic!() };
    assert!(local.frequency[1] > 2.0 * global.frequency[1], "another base, and divided");
    let [phi, ministral] = ["phi3", "ministral3"].map(|name| arch(name, json!({})).max_positions);
    assert_eq!([phi, ministral], [48, 64], "longer texts have other frequencies, or queries");
}

#[test]
fn factors_are_those_of_the_family() {
    let scales = |name| read(name, json!({})).unwrap().scales;
    let granite = scales("granite");
    assert_eq!([granite.score, granite.embed, granite.residual], [0.4, 3.5, 0.3]);
    assert_eq!(granite.logits, 1.0 / 1.75);
    assert_eq!(scales("gemma").embed, 4.0, "the root of its width");
    assert_eq!(scales("gemma3").score, 14f64.powf(-0.5));
    assert_eq!(scales("cohere").logits, 0.0625);
    let caps = |changes| read("gemma2", changes).unwrap().caps;
    assert_eq!(caps(json!({})), Caps { scores: Some(0.3), logits: Some(2.0) });
    let fields = ["attn_logit_softcapping", "final_logit_softcapping"];
    let [null, absent] = [json!(null), json!("(absent)")]
        .map(|value| caps(json!({fields[0]: value, fields[1]: value})));
    assert_eq!(null, Caps::default());
    assert_eq!(absent, Caps { scores: Some(50.0), logits: Some(30.0) });
    let first = read("gemma", json!({"hidden_act": "gelu"})).unwrap();
    assert_eq!(first.act, Act::GeluTanh, "as Gemma's first configurations mean it");
}

#[test]
fn activations_have_their_names() {
    let act = |name: &str| read("gpt2", json!({"activation_function": name})).unwrap().act;
    assert_eq!([act("gelu"), act("gelu_python")], [Act::Gelu; 2]);
    assert_eq!([act("gelu_new"), act("gelu_fast"), act("gelu_pytorch_tanh")], [Act::GeluTanh; 3]);
    assert_eq!([act("relu"), act("silu")], [Act::Relu, Act::Silu]);
}

/// Each kind of scaling changes the frequencies it should, and dynamic none.
#[test]
fn scalings_are_read_in_both_dialects() {
    let frequency = |changes| {
        let Rotary { frequency, factor, .. } =
            read("llama-linear", changes).unwrap().rotary()[0].clone();
        (frequency, factor)
    };
    let plain = frequency(json!({"rope_scaling": null}));
    let dynamic = json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}});
    assert_eq!(frequency(dynamic), plain);
    let old = json!({"rope_scaling": {"type": "linear", "factor": 2.5}, "rope_theta": 1e4});
    let new = json!({"rope_type": "linear", "factor": 2.5, "rope_theta": 1e4});
    let new = json!({"rope_scaling": null, "rope_theta": "(absent)", "rope_parameters": new});
    assert_eq!(frequency(old.clone()), frequency(new));
    assert_ne!(frequency(old), plain);
    assert_eq!(frequency(json!({"rope_scaling": {}})), plain);
    let mut outer = llama3(1.0, 4.0);
    let inner = frequency(outer.clone());
    outer["original_max_position_embeddings"] = json!(16);
    assert_eq!(frequency(outer.clone()), inner);
    outer["original_max_position_embeddings"] = json!(99);
    assert_ne!(frequency(outer.clone()), inner, "the outer field wins");
    let won = frequency(outer.clone());
    outer["rope_scaling"]["original_max_position_embeddings"] = json!(99);
    assert_eq!(frequency(outer), won);
    let yarn = json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}});
    assert_eq!(frequency(yarn).1, (0.1 * 4f64.ln() + 1.0) as f32);
    let said = json!({"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5});
    assert_eq!(frequency(json!({"rope_scaling": said})).1, 1.5);
    let both = json!({"rope_type": "yarn", "factor": 4.0, "mscale": 2.0, "mscale_all_dim": 2.0});
    assert_eq!(frequency(json!({"rope_scaling": both})).1, 1.0);
}

/// Of one table of two the outer length says nothing, as in the framework.
#[test]
fn tables_by_kind_have_lengths_of_their_own() {
    let frequency = |outer: Value| {
        let full = json!({"rope_theta": 1e4, "rope_type": "llama3", "factor": 8.0,
            "original_max_position_embeddings": 16, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0});
        let changes = json!({
            "rope_parameters": {"full_attention": full, "sliding_attention": {"rope_theta": 1e4}},
            "rope_scaling": null,
            "original_max_position_embeddings": outer,
        });
        read("gemma3", changes).unwrap().rotary().to_vec()
    };
    assert_eq!(frequency(json!(99)), frequency(json!(null)));
    assert_ne!(frequency(json!(null))[0], frequency(json!(null))[1]);
}
