//! Hyperparameters: presets, files of both kinds, and what is refused.

use std::collections::BTreeSet;
use std::path::Path;

use incise::base::remedy::{Setting, SettingKind};
use incise::edit::hparams::HparamSet;
use incise::edit::method::Method;
use incise::edit::methods::find;
use incise::edit::methods::memit::MEMIT;
use incise::edit::methods::rome::{R_ROME, ROME};
use incise::edit::params::{CLAMP_NORM_FACTOR, Params, V_LR, V_NUM_GRAD_STEPS, V_WEIGHT_DECAY};
use incise::edit::presets;
use incise::edit::state::State;
use incise::model::{Arch, At, Model, Site};
use incise::tensor::Precision;
use serde_json::{Value, json};

use crate::support::golden::Golden;

pub fn model() -> Model {
    Golden::open("gpt2").model(Precision::F32)
}

/// As EasyEdit ships them: YAML 1.1 numbers, module templates, places on a disk.
const YAML: &str = "\
alg_name: \"ROME\"
model_name: \"./models/tiny\"
device: 0
layers: [1]
fact_token: \"subject_last\"
v_num_grad_steps: 25
v_lr: 5e-1
v_weight_decay: \"1e-3\"
clamp_norm_factor: 4
kl_factor: 0.0625
mom2_adjustment: false
context_template_length_params: [[5, 10], [10, 10]]
rewrite_module_tmp: \"transformer.h.{}.mlp.c_proj\"
layer_module_tmp: \"transformer.h.{}\"
mom2_dataset: \"wikipedia\"
mom2_n_samples: 100000
fp16: false
";

pub fn yaml(text: &str) -> incise::Result<HparamSet> {
    HparamSet::parse(Path::new("rome.yaml"), text.as_bytes())
}

/// The file with one line changed, read for the tiny model.
fn with(line: &str) -> incise::Result<Params> {
    yaml(&changed(&[line]))?.resolve(&ROME, &model())
}

/// The file with other lines in place of those of the same names.
fn changed(lines: &[&str]) -> String {
    let name = |line: &str| line.split(':').next().unwrap().to_owned();
    let others: Vec<String> = lines.iter().map(|line| name(line)).collect();
    let kept = YAML.lines().filter(|line| !others.contains(&name(line)));
    kept.chain(lines.iter().copied()).collect::<Vec<_>>().join("\n")
}

/// Whether ROME reads statistics.
fn uses_c(by: &Params) -> bool {
    !ROME.needs(by, &State::default()).statistics.is_empty()
}

#[test]
fn yaml_and_json_files_say_the_same() {
    let from_yaml = yaml(YAML).unwrap();
    assert_eq!(from_yaml.unknown(&ROME), Vec::<&str>::new());
    let h = from_yaml.resolve(&ROME, &model()).unwrap();
    assert_eq!((h.last_layer(), h.count(&V_NUM_GRAD_STEPS)), (1, 25));
    assert!(!uses_c(&h));
    assert_eq!([V_LR, V_WEIGHT_DECAY, CLAMP_NORM_FACTOR].map(|p| h.number(&p)), [0.5, 1e-3, 4.0]);
    let json = "{\n\t\"layers\": [1], \"v_num_grad_steps\": 25, \"v_lr\": 5e-1,\n\t\
        \"v_weight_decay\": 1e-3, \"clamp_norm_factor\": 4, \"kl_factor\": 0.0625,\n\t\
        \"mom2_adjustment\": false}";
    let from_json = HparamSet::parse(Path::new("rome.json"), json.as_bytes()).unwrap();
    assert_eq!(from_json.resolve(&ROME, &model()).unwrap(), h);
}

#[test]
fn yaml_has_the_spellings_of_its_first_version() {
    for (word, yes) in [("no", false), ("off", false), ("yes", true), ("on", true)] {
        assert_eq!(uses_c(&with(&format!("mom2_adjustment: {word}")).unwrap()), yes);
    }
    assert_eq!(with("v_lr: 5e-4").unwrap().number(&V_LR), 5e-4);
}

#[test]
fn the_last_layer_is_the_only_loss_layer() {
    let last = model().arch.layers - 1;
    assert!(with(&format!("v_loss_layer: {last}")).is_ok());
    let error = with("v_loss_layer: 0").unwrap_err().to_string();
    assert!(error.contains("rome.yaml: v_loss_layer: is 0"), "{error}");
}

#[test]
fn broken_values_are_named_with_their_file_and_a_remedy() {
    for line in [
        "layers: [99]",
        "layers: [-1]",
        "layers: [0, 1]",
        "layers: 1.5",
        "layers: all",
        "layers: 0-1",
        "layers: [1.5]",
        "v_num_grad_steps: 0",
        "v_num_grad_steps: -20",
        "v_num_grad_steps: 2.5",
        "v_lr: -0.5",
        "v_lr: 0",
        "v_lr: \"nan\"",
        "v_lr: fast",
        "v_lr: [0.5]",
        "v_lr: null",
        "v_weight_decay: -1",
        "v_weight_decay: 1000001",
        "kl_factor: 1e300",
        "clamp_norm_factor: 0",
        "clamp_norm_factor: true",
        "kl_factor: -1e-9",
        "mom2_adjustment: 1",
        "mom2_adjustment: \"yes\"",
        "fact_token: first",
        "context_template_length_params: [[3, 10]]",
        "enable_prompt_keys: true",
        "rewrite_module_tmp: \"transformer.h.{}.mlp.c_fc\"",
        "rewrite_module_tmp: \"model.layers.{}.mlp.down_proj\"",
        "rewrite_module_tmps: [\"transformer.h.{}.mlp.c_proj\", \"transformer.h.{}.attn.c_proj\"]",
        "rewrite_module_tmps: 3",
    ] {
        let error = with(line).unwrap_err();
        let name = line.split(':').next().unwrap();
        assert!(error.to_string().contains(&format!("rome.yaml: {name}: ")), "{line}: {error}");
        let settings = error.remedy().unwrap().settings;
        let is_it = |s: &Setting| s.kind == SettingKind::Hyperparameter && s.name == name;
        assert!(settings.iter().any(is_it), "{line}: {settings:?}");
    }
}

#[test]
fn files_that_cannot_be_read_name_the_line() {
    for (text, line) in [
        ("layers: [5]\nv_lr: [0.5\nkl_factor: 1\n", "line "),
        ("layers: [5]\n\tv_lr: 0.5\n", "line 2"),
        ("layers: [5]\nlayers: [6]\n", "line 2"),
        ("layers: [5]\nv_lr: .nan\n", "line 2"),
        ("layers: [5]\nv_lr: -.inf\n", "line 2"),
        ("{\"layers\": [5],\n \"v_lr\": }", "line 2"),
        ("{\"layers\": [5]} x", "line 1"),
        ("- layers\n", "hyperparameters"),
        ("", "hyperparameters"),
        ("\"layers\"", "hyperparameters"),
    ] {
        let error = yaml(text).unwrap_err().to_string();
        assert!(error.starts_with("rome.yaml: ") && error.contains(line), "{text:?}: {error}");
    }
    for (text, what) in [
        ("layers: [5]\nlayers: [6]\n", "duplicate"),
        ("layers: [5]\n---\nlayers: [6]\n", "single YAML document"),
        ("{\"layers\": [5],\n \"layers\": [6]}", "line 2: \"layers\" is named twice"),
    ] {
        let error = yaml(text).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
        assert!(!error.contains("Options") && !error.contains("from_str"), "{error}");
    }
    let error = HparamSet::parse(Path::new("f"), b"v_lr: \xff\xfe").unwrap_err().to_string();
    assert!(error.starts_with("f: "), "{error}");
}

#[test]
fn a_missing_value_is_named() {
    let error = yaml("layers: [1]").unwrap().resolve(&ROME, &model()).unwrap_err().to_string();
    assert!(error.contains("v_num_grad_steps: is given nowhere"), "{error}");
}

#[test]
fn layers_may_be_said_as_on_the_command_line() {
    for (line, want) in
        [("layers: 1", 1), ("layers: \"1\"", 1), ("layers: 1-1", 1), ("layers: 0", 0)]
    {
        assert_eq!(with(line).unwrap().layers(), [want], "{line}");
    }
    let mut values = yaml(YAML).unwrap();
    for (said, want) in [(json!("0-2"), [0, 1, 2]), (json!("0,1,2"), [0, 1, 2])] {
        values.put("layers", said, "--set");
        assert_eq!(values.to_json()["layers"], json!(want), "as it is recorded");
    }
}

/// Each name that config files of the public code have: held against what it contradicts, and
/// silent where it does not.
#[test]
fn what_a_file_says_of_another_method_or_model_is_told() {
    let said = |method: &dyn Method, lines: &[&str]| {
        yaml(&changed(lines)).unwrap().contradictions(method, &model())
    };
    let fine = [
        "mlp_module_tmp: transformer.h.{}.mlp.c_proj",
        "rewrite_module_tmps: [\"transformer.h.{}.mlp.c_proj\"]",
        "attn_module_tmp: transformer.h.{}.attn",
        "lm_head_module: transformer.wte",
        "ln_f_module: transformer.ln_f",
        "batch_size: \"1\"",
    ];
    let own = [(&ROME as &dyn Method, "ROME"), (&R_ROME, "R-ROME"), (&R_ROME, "RROME")];
    for (method, name) in own {
        let name = format!("alg_name: {name}");
        assert_eq!(said(method, &[&fine[..], &[&name]].concat()), Vec::<String>::new());
    }
    for (method, line, words) in [
        (&ROME as &dyn Method, "alg_name: MEMIT", "are those of MEMIT, and the edit is by rome"),
        (&MEMIT, "alg_name: \"AlphaEdit\"", "are those of AlphaEdit, and the edit is by memit"),
        (&R_ROME, "alg_name: ROME", "are those of ROME, and the edit is by r-rome"),
        (
            &ROME,
            "mlp_module_tmp: model.layers.{}.mlp",
            "`mlp_module_tmp` is \"model.layers.{}.mlp\"",
        ),
        (&ROME, "attn_module_tmp: h.{}.attn", "this model's layers are transformer.h.{}"),
        (&MEMIT, "batch_size: 10", "`batch_size` 10 is not followed"),
        (&MEMIT, "batch_size: \"10\"", "`batch_size` \"10\" is not followed"),
        (&ROME, "ln_f_module: model.norm", "this model's last norm is transformer.ln_f"),
        (&ROME, "lm_head_module: embed_out", "this model's head is lm_head"),
        (&ROME, "lm_head_module: model.embed_tokens", "`lm_head_module` is"),
    ] {
        let name = format!("alg_name: {}", method.about().name);
        let other = [line, &name[..]];
        let told = said(method, if line.starts_with("alg_name") { &other[..1] } else { &other });
        assert!(told.len() == 1 && told[0].contains(words), "{line}: {told:?}");
    }
    let other = with("layer_module_tmp: model.layers.{}");
    assert!(other.is_ok(), "warned of, not refused");
}

/// The last norm and the head as the public code's files name them, for the models they are of.
#[test]
fn each_familys_last_norm_and_head_are_known() {
    for (name, norm, heads) in [
        ("gpt2", "transformer.ln_f", &["transformer.wte", "lm_head"][..]),
        ("gptj", "transformer.ln_f", &["lm_head"]),
        ("neox", "gpt_neox.final_layer_norm", &["embed_out"]),
        ("opt", "model.decoder.final_layer_norm", &["lm_head"]),
        ("llama", "model.norm", &["lm_head"]),
        ("mistral", "model.norm", &["lm_head"]),
        ("qwen2", "model.norm", &["lm_head", "model.embed_tokens"]),
        ("qwen3", "model.norm", &["lm_head"]),
    ] {
        let model = Golden::open(name).model(Precision::F32);
        for head in heads {
            let text = format!("ln_f_module: {norm}\nlm_head_module: {head}\n");
            let told = yaml(&text).unwrap().contradictions(&ROME, &model);
            assert_eq!(told, Vec::<String>::new(), "{name}");
        }
        let other = yaml("ln_f_module: ln_f\nlm_head_module: output_layer\n").unwrap();
        assert_eq!(other.contradictions(&ROME, &model).len(), 2, "{name}");
    }
}

#[test]
fn unknown_names_are_told() {
    let values = yaml("layers: [1]\nlearning_rate: 3\n").unwrap();
    assert_eq!(values.unknown(&ROME), ["learning_rate"]);
}

/// A decoder of the sizes by which a published model is known.
fn arch(family: &'static str, layers: usize, width: usize, vocabulary: usize) -> Arch {
    Arch { family, layers, width, vocabulary, ..model().arch }
}

#[test]
fn published_models_are_known_by_their_sizes() {
    for (a, name) in [
        (arch("gpt2", 48, 1600, 50257), Some("gpt2-xl")),
        (arch("gpt2", 36, 1280, 50257), Some("gpt2-large")),
        (arch("gpt2", 24, 1024, 50257), Some("gpt2-medium")),
        (arch("gptj", 28, 4096, 50400), Some("gpt-j-6b")),
        (arch("gpt_neox", 44, 6144, 50432), Some("gpt-neox-20b")),
        (arch("llama", 32, 4096, 32000), Some("llama-2-7b")),
        (arch("llama", 32, 4096, 128256), Some("llama-3-8b")),
        (arch("llama", 28, 3072, 128256), Some("llama-3.2-3b")),
        (arch("mistral", 32, 4096, 32768), Some("mistral-7b")),
        (arch("qwen2", 28, 3584, 152064), Some("qwen2-7b")),
        (arch("gpt2", 12, 768, 50257), None),
        (arch("llama", 32, 4096, 1000), None),
        (arch("gpt_neox", 48, 1600, 50257), None),
    ] {
        for method in [&ROME, &R_ROME] {
            let found = presets::of(method, &a).map(|p| p.model);
            assert_eq!(found.as_deref(), name, "{} {} {}", a.family, a.layers, a.width);
        }
    }
}

#[test]
fn every_row_of_the_table_fits_its_model() {
    let text = include_str!("../../src/edit/presets.yaml");
    let table: Value = serde_saphyr::from_str(text).unwrap();
    let mut seen = BTreeSet::new();
    for (method, rows) in table["methods"].as_object().unwrap() {
        for (model, row) in rows.as_object().unwrap() {
            let Some(sizes) = table["models"].get(model) else {
                assert_eq!((&method[..], &model[..]), ("ke", "de-cao"), "is of no model");
                assert!(row.get("layers").is_none());
                continue;
            };
            let layers = sizes["layers"].as_u64().unwrap();
            if let Some(top) = row.get("v_loss_layer") {
                assert_eq!(top.as_u64().unwrap(), layers - 1, "{method} {model}");
            }
            if let Some(edited) = row.get("layers").and_then(Value::as_array) {
                assert!(edited.iter().all(|l| l.as_u64().unwrap() < layers), "{method} {model}");
            }

            seen.insert(model);
        }
    }
    assert_eq!(seen.len(), table["models"].as_object().unwrap().len(), "each model has a row");
    let xl = presets::all(&ROME).into_iter().find(|p| p.model == "gpt2-xl").unwrap();
    let want = r#"{"layers": [17], "v_num_grad_steps": 20, "v_lr": 0.5, "v_loss_layer": 47,
        "v_weight_decay": 0.5, "clamp_norm_factor": 4, "kl_factor": 0.0625,
        "mom2_adjustment": true}"#;
    assert_eq!(Value::Object(xl.values), serde_json::from_str::<Value>(want).unwrap());
}

/// Which matrices a file of fine-tuning names, or why it names none.
fn matrices(name: &str, text: &str) -> incise::Result<Vec<&'static str>> {
    let mut values = yaml(&format!("layers: [1]\n{text}"))?;
    let method = find(name).unwrap();
    values.fill(method);
    let by = values.resolve(method, &model())?;
    Ok(by.matrices().iter().map(|matrix| matrix.name()).collect())
}

#[test]
fn fine_tuning_names_matrices_by_their_own_names_or_a_module() {
    let of = |text: &str| matrices("ft-m", text).unwrap();
    assert_eq!(of(""), ["down"]);
    assert_eq!(of("matrices: [down, q, q]"), ["q", "down"]);
    assert_eq!(of("matrices: up"), ["up"]);
    assert_eq!(of("rewrite_module_tmp: transformer.h.{}.mlp.c_fc"), ["up"]);
    assert_eq!(of("rewrite_module_tmp: transformer.h.{}.attn.c_attn.weight"), ["q", "k", "v"]);
    let both = "rewrite_module_tmp: transformer.h.{}.mlp.c_fc\nmatrices: [up]";
    assert_eq!(of(both), ["up"]);
    for (text, what) in [
        ("matrices: [gate]", "no matrix of layer 1"),
        ("matrices: [c_fc]", "is no matrix"),
        ("matrices: []", "names no matrix"),
        ("rewrite_module_tmp: transformer.h.{}.mlp", "names no matrix"),
        ("rewrite_module_tmp: transformer.h.0.mlp.c_fc", "no place for the layer"),
        ("rewrite_module_tmp: transformer.h.{}.mlp.c_fc\nmatrices: [down]", "the module's, up"),
    ] {
        let error = matrices("ft-l", text).unwrap_err().to_string();
        assert!(error.contains(what), "{text}: {error}");
    }
}

#[test]
fn a_bound_may_be_a_text_or_switched_off() {
    let param = |name: &str| {
        let all = find("ft-l").unwrap().params().iter();
        all.copied().find(|param| param.name == name).unwrap()
    };
    let bound = |text: &str| {
        let values = yaml(&format!("layers: [1]\n{text}")).unwrap();
        let by = values.resolve(find("ft-l").unwrap(), &model()).unwrap();
        assert_eq!(by.number(param("lr")), 5e-4);
        by.number_if_given(param("norm_constraint"))
    };
    assert_eq!(bound("norm_constraint: 5e-4"), Some(5e-4));
    assert_eq!(bound("norm_constraint: '5e-4'"), Some(5e-4));
    assert_eq!(bound("norm_constraint: false"), None);
    assert_eq!(bound("norm_constraint:"), None);
    assert_eq!(bound(""), None);
    let wrong = yaml("layers: [1]\nnorm_constraint: 0").unwrap();
    assert!(wrong.resolve(find("ft-l").unwrap(), &model()).is_err());
}

#[test]
fn a_file_of_fine_tuning_says_which_objective_it_is_of() {
    let said = |method: &str, text: &str| {
        let values = yaml(&format!("layers: [1]\n{text}")).unwrap();
        values.contradictions(find(method).unwrap(), &model()).join("; ")
    };
    assert_eq!(said("ft-l", "alg_name: FT\nobjective_optimization: prompt_last"), "");
    assert_eq!(said("ft-m", "alg_name: FT\nobjective_optimization: target_new"), "");
    assert!(said("ft-m", "objective_optimization: prompt_last").contains("ft-m's is target_new"));
    assert!(said("rome", "alg_name: FT").contains("FT, and the edit is by rome"));
    // The module of such a file chooses the matrices, and is said as what chose them.
    let module = "transformer.h.{}.mlp.c_proj";
    let method = find("ft-m").unwrap();
    let mut values = yaml(&format!("layers: [1]\nrewrite_module_tmp: {module}")).unwrap();
    values.fill(method);
    let said = values.summary(method);
    assert!(said.contains(&format!("rewrite_module_tmp \"{module}\" (")), "{said}");
}

#[test]
fn a_file_wins_over_a_preset_and_set_over_both() {
    let folder = tempfile::tempdir().unwrap();
    let (file, mut model) = (folder.path().join("h.yaml"), model());
    std::fs::write(&file, "v_lr: 0.25\n").unwrap();
    model.arch = arch("gpt2", 48, 1600, 50257); // sizes alone; nothing is run
    let mut values = HparamSet::choose(Some(&file), &R_ROME, &model).unwrap();
    values.put("kl_factor", 1.into(), "--set");
    let (all, from) = (values.to_json(), values.sources());
    assert_eq!((&all["v_lr"], &all["kl_factor"]), (&0.25.into(), &1.into()));
    assert_eq!(all["layers"], serde_json::json!([17]));
    assert_eq!(from["v_lr"], file.display().to_string());
    assert_eq!((&from["kl_factor"], &from["layers"]), (&"--set".into(), &"preset gpt2-xl".into()));
    let said = values.summary(&ROME);
    assert!(said.contains("kl_factor 1 (--set)") && said.contains("(preset gpt2-xl)"), "{said}");
    let named = HparamSet::choose(Some(Path::new("gpt-j-6b")), &ROME, &model).unwrap();
    assert_eq!(named.to_json()["layers"], serde_json::json!([5]));
    let error = HparamSet::choose(Some(Path::new("gpt-5")), &ROME, &model).unwrap_err();
    assert!(error.to_string().contains("neither a file nor a preset"), "{error}");
    assert!(error.to_string().contains("gpt2-xl"), "{error}");
}

/// Where a norm stands behind the MLP, what the stream lacks cannot be asked of W.
#[test]
fn windows_are_refused_where_a_norm_is_behind_the_mlp() {
    let model = Golden::open("olmo2").model(Precision::F32);
    let resolve = |name: &str, layers: Value| {
        let method = find(name).unwrap();
        let text = r#"{"mom2_update_weight": 100, "v_num_grad_steps": 2, "v_lr": 0.5,
            "v_weight_decay": 0.5, "clamp_norm_factor": 1, "kl_factor": 0.1,
            "fact_token": "subject_last", "nll_loss_factor": 1, "nullspace_threshold": 0.02,
            "L2": 1, "mom2_adjustment": true}"#;
        let mut values = HparamSet::parse(Path::new("case"), text.as_bytes()).unwrap();
        values.put("layers", layers, "a test");
        values.fill(method);
        values.resolve(method, &model).map(drop).map_err(|e| e.to_string())
    };
    for (name, layers) in [
        ("memit", json!([1])),
        ("memit", json!([0, 1])),
        ("pmet", json!([1])),
        ("alphaedit", json!([1])),
        ("emmet", json!([0, 1])),
    ] {
        let error = resolve(name, layers).unwrap_err();
        assert!(error.contains(name) && error.contains("olmo2"), "{error}");
        assert!(error.contains("r-rome"), "{error}");
    }
    for name in ["rome", "r-rome", "emmet"] {
        resolve(name, json!([1])).unwrap();
    }
}

/// Values of all layers of a window are searched at once: none of them is left out.
#[test]
fn a_window_of_values_has_no_gap() {
    for name in ["olmo2", "llama-tied"] {
        let model = Golden::open(name).model(Precision::F32);
        let method = find("emmet").unwrap();
        let resolve = |layers: Value, spread: &str| {
            let text = r#"{"mom2_update_weight": 100, "v_num_grad_steps": 2, "v_lr": 0.5,
                "v_weight_decay": 0.5, "clamp_norm_factor": 1, "kl_factor": 0.1}"#;
            let mut values = HparamSet::parse(Path::new("case"), text.as_bytes()).unwrap();
            values.put("layers", layers, "a test");
            values.put("spread", json!(spread), "a test");
            values.fill(method);
            values.resolve(method, &model).map_err(|e| e.to_string())
        };
        let error = resolve(json!([0, 2]), "values").unwrap_err();
        assert!(error.contains("between 0 and 2"), "{error}");
        let by = resolve(json!([0, 1]), "values").unwrap();
        let push = method.search(&by, &model.arch).unwrap().push;
        assert_eq!((push.site, push.above), (Site { layer: 0, at: At::VALUE }, 1));
        assert!(resolve(json!([0, 1]), "halves").is_err());
    }
}

/// Parameters named as the public code's files name them say the same as layers and matrices, or
/// are refused with what would.
#[test]
fn parameters_of_public_files_are_held_against_the_matrices() {
    let paths = |of: &str| {
        let all = ["c_fc", "c_proj"].map(|m| format!("transformer.h.{of}.mlp.{m}.weight"));
        format!("layers: [1, 2]\nrank: 4\ninner_params: {}\n", json!(all))
    };
    let resolve = |text: &str| {
        let (mut set, mend) = (yaml(text)?, find("mend").unwrap());
        set.fill(mend);
        set.resolve(mend, &model())
    };
    resolve(&paths("1").replace("[1, 2]", "[1]")).unwrap();
    resolve("layers: [1, 2]\ninner_params: []\n").unwrap();
    let error = resolve(&paths("2")).unwrap_err();
    assert_eq!(error.field(), Some("inner_params"));
    let shown = format!("{error:?}");
    assert!(shown.contains("[2]") && shown.contains("down"), "{shown}");
    assert_eq!(resolve(&paths("9")).unwrap_err().field(), Some("inner_params"));
}
