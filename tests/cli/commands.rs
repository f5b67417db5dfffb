//! Sessions: arguments in, text and exit code out.

use std::fs;
use std::path::Path;

use incise::base::units::percent;
use incise::stats::Moment;
use incise::store::Patch;
use safetensors::SafeTensors;
use serde_json::Value;

use crate::support::session::{Session, done, fails, incise, json, strs, text};

#[test]
fn a_fact_goes_in_and_comes_out_again() {
    for name in ["gpt2", "llama-tied"] {
        let s = Session::new(name);
        s.stats();
        let edit = s.edit(&["--json"]);
        let report = json(&strs(&edit));
        let p = &report["facts"][0]["p_target"];
        assert!(p[1].as_f64() > p[0].as_f64(), "{report}");

        let (model, patch, copy) = (s.at("model"), s.at("patch.safetensors"), s.at("copy"));
        let original = s.weights("model");
        done(&["apply", &model, &patch, "-o", &copy]);
        assert_eq!(s.weights("model"), original, "the original stays");
        done(&["apply", &model, &patch, "--in-place"]);
        assert_ne!(s.weights("model"), original);
        assert_eq!(s.weights("model"), s.weights("copy"), "both ways write the same bytes");
        let log = json(&["log", &model, "--json"]);
        assert_eq!(log.as_array().unwrap().len(), 1);
        let [change, weight] = ["change", "weight"].map(|norm| log[0][norm].as_f64().unwrap());
        assert!(change > 0.0 && weight > 0.0, "{log}");
        assert_eq!(json(&["log", &copy, "--json"]).as_array().unwrap().len(), 0);
        let figure = format!("‖ΣΔ‖/‖W₀‖ {}", percent(change / weight));
        for (folder, before) in [(&model, false), (&copy, true)] {
            let shown = done(&["log", folder]);
            let line = shown.lines().find(|line| line.ends_with(&figure)).expect(&shown);
            assert_eq!(line.starts_with("before  1 fact by "), before, "{shown}");
        }
        assert_eq!(json(&["inspect", &model, "--json"])["edits"], 1);
        let again = fails(1, &["apply", &model, &patch, "--in-place"]);
        assert!(again.contains("incise: "), "a patch of other tensors is refused: {again}");
        done(&["undo", &model]);
        assert_eq!(s.weights("model"), original, "every byte is back");
        assert!(fails(1, &["undo", &model]).contains("no change is applied"));
    }
}

#[test]
fn the_same_command_makes_the_same_patch() {
    let s = Session::new("gpt2");
    s.stats();
    // Contexts drawn from the model, too, depend on the seed alone.
    let mut args = s.edit(&["--seed", "5"]);
    let at = args.iter().position(|a| a == "--contexts").unwrap();
    args.drain(at..at + 2);
    let patch = || {
        done(&strs(&args));
        fs::read(s.at("patch.safetensors")).unwrap()
    };
    let first = patch();
    assert_eq!(patch(), first);
    args.extend(["--threads".into(), "1".into()]);
    done(&strs(&args));
    assert_eq!(fs::read(s.at("patch.safetensors")).unwrap(), first);
}

#[test]
fn an_edited_checkpoint_keeps_the_statistics_of_its_base() {
    let s = Session::new("gpt2");
    s.stats();
    let edit = s.edit(&[]);
    done(&strs(&edit));
    done(&["apply", &s.at("model"), &s.at("patch.safetensors"), "--in-place"]);
    done(&strs(&edit));
    done(&["apply", &s.at("model"), &s.at("patch.safetensors"), "--in-place"]);
    assert_eq!(json(&["log", &s.at("model"), "--json"]).as_array().unwrap().len(), 2);
    done(&["undo", &s.at("model"), "--to", "0"]);
    assert_eq!(s.weights("model"), Session::new("gpt2").weights("model"));
}

#[test]
fn logits_hold_a_tensor_a_line() {
    let s = Session::new("llama-tied");
    fs::write(s.at("prompts.txt"), "Big Ben\r\n\nThe sea is\n").unwrap();
    let (model, prompts, out) = (s.at("model"), s.at("prompts.txt"), s.at("logits"));
    done(&["logits", &model, "--prompts", &prompts, "-o", &out]);
    let bytes = fs::read(out).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tokenizer = incise::text::Tokenizer::open(s.at("model")).unwrap();
    assert_eq!(file.len(), 3);
    for (i, line) in ["Big Ben", "", "The sea is"].iter().enumerate() {
        let tokens = tokenizer.encode(line).unwrap().len();
        let shape = file.tensor(&i.to_string()).unwrap().shape().to_vec();
        assert_eq!(shape[0], tokens, "line {i}");
    }
}

#[test]
fn sampling_depends_on_the_seed_and_greedy_does_not() {
    let s = Session::new("gpt2");
    let say = |more: &[&str]| {
        let model = s.at("model");
        let mut args = vec!["generate", &model, "--prompt", "The sea", "--max-tokens", "12"];
        args.extend(more);
        done(&args)
    };
    assert_eq!(say(&[]), say(&["--seed", "9"]));
    let warm = ["--temperature", "1", "--seed"];
    assert_eq!(say(&[&warm[..], &["1"]].concat()), say(&[&warm[..], &["1"]].concat()));
    assert_ne!(say(&[&warm[..], &["1"]].concat()), say(&[&warm[..], &["2"]].concat()));
    assert!(say(&[]).starts_with("The sea"));
}

#[test]
fn a_setting_that_would_be_dropped_is_refused() {
    let s = Session::new("gpt2");
    let model = s.at("model");
    let ask = ["generate", &model, "--prompt", "The sea", "--max-tokens", "3"];
    for cut in [["--top-k", "3"], ["--top-p", "0.5"]] {
        let error = fails(1, &[&ask[..], &cut].concat());
        assert!(error.contains(cut[0]) && error.contains("--temperature"), "{error}");
        done(&[&ask[..], &cut, &["--temperature", "1"]].concat());
    }
    done(&[&ask[..], &["--top-k", "0", "--top-p", "1"]].concat());
    assert!(done(&["methods", "AlphaEdit"]).starts_with("alphaedit"));
    let unformed = fails(2, &["apply", &model, "p"]);
    assert!(unformed.contains("--output") && unformed.contains("--in-place"), "{unformed}");
    fails(2, &["apply", &model, "p", "-o", "d", "--in-place"]);
    for alone in [["--system", "Be brief."], ["--template-var", "enable_thinking=false"]] {
        fails(2, &[&ask[..], &alone].concat());
    }
    s.stats();
    let out = incise(&strs(&s.edit(&["--set", "mom2_adjustment=false"])));
    assert!(text(&out.stderr).contains("the statistics are not read"), "{}", text(&out.stderr));
}

#[test]
fn statistics_say_where_they_stopped() {
    let s = Session::new("gpt2");
    let (model, corpus, long) = (s.at("model"), s.at("corpus.txt"), s.at("long.txt"));
    let collect = |corpus: &str, to: &str, more: &[&str]| {
        let to = s.at(to);
        let args = ["stats", &model, "--layers", "0", "--corpus", corpus, "-o", &to];
        let out = incise(&[&args[..], more].concat());
        assert!(out.status.success(), "{}", text(&out.stderr));
        text(&out.stderr).contains("stopped at ")
    };
    let text = fs::read_to_string(&corpus).unwrap();
    fs::write(&long, text.repeat(20)).unwrap();
    fs::write(&corpus, &text[..40]).unwrap();
    assert!(collect(&long, "a", &[]), "ten tokens a neuron, and there were more");
    assert!(!collect(&corpus, "b", &[]), "the text ended before");
    assert!(!collect(&long, "c", &["--max-tokens", "100"]), "as it was asked");
    let out = s.at("c");
    let less = ["stats", &model, "--layers", "0", "--corpus", &long, "-o", &out];
    let error = fails(1, &[&less[..], &["--max-tokens", "99"]].concat());
    assert!(error.contains("is 100 in the file") && error.contains("would be 99"), "{error}");
}

#[test]
fn wrong_usage_exits_with_2_and_failures_with_1() {
    let s = Session::new("gpt2");
    let model = s.at("model");
    fails(2, &[]);
    fails(2, &["edit", &model]);
    fails(2, &["apply", &model, "p"]);
    fails(2, &["inspect", &model, "--threads", "0"]);
    fails(2, &["edit", &model, "r", "--method", "r-rome", "--prompt", "{}", "-o", "p"]);
    fails(2, &["stats", &model, "--layers", "x", "--corpus", "c", "-o", "d"]);
    assert!(done(&["--help"]).contains("demo"));
    let error = fails(1, &["inspect", &s.at("nowhere")]);
    assert!(error.contains("nowhere"), "{error}");
    let error = fails(1, &["generate", &model, "--prompt", "a", "--device", "cuda:99"]);
    assert!(error.contains("cuda:99") && error.contains("--device cpu"), "{error}");
    let error = fails(1, &["generate", &model, "--prompt", "a", "--device", "tpu"]);
    assert!(error.contains("tpu"), "{error}");
    let (c, d) = (s.at("corpus.txt"), s.at("d"));
    let error = fails(1, &["stats", &model, "--layers", "7", "--corpus", &c, "-o", &d]);
    assert!(error.contains("no layer 7"), "{error}");
}

#[test]
fn what_an_edit_lacks_is_named() {
    let s = Session::new("gpt2");
    s.stats();
    let failing = |more: &[&str]| fails(1, &strs(&s.edit(more)));
    fs::write(
        s.at("requests.jsonl"),
        "{\"prompt\": \"no place\", \"subject\": \"x\", \"target_new\": \"y\"}",
    )
    .unwrap();
    let error = failing(&[]);
    assert!(error.contains("requests.jsonl") && error.contains("prompt"), "{error}");
    fs::write(
        s.at("requests.jsonl"),
        "{\"prompt\": \"{} is in\", \"subject\": \"Big Ben\", \"target_new\": \"Paris\"}",
    )
    .unwrap();
    for (set, named) in [
        ("layers=[99]", "layers"),
        ("v_lr=-1", "v_lr"),
        ("fact_token=first", "fact_token"),
        ("mom2_adjustment=7", "mom2_adjustment"),
        ("clamp_norm_factor=0", "clamp_norm_factor"),
        ("v_loss_layer=0", "v_loss_layer"),
    ] {
        let error = failing(&["--set", set]);
        assert!(error.contains(named) && error.contains("--set"), "{set}: {error}");
    }
    fs::write(s.at("hparams.json"), "{}").unwrap();
    assert!(failing(&[]).contains("layers"));
    fs::remove_dir_all(s.at("stats")).unwrap();
    let all = r#"{"layers": [1], "v_num_grad_steps": 2, "v_lr": 0.5, "v_weight_decay": 0.5,
        "clamp_norm_factor": 4, "kl_factor": 0.0625, "mom2_adjustment": true}"#;
    fs::write(s.at("hparams.json"), all).unwrap();
    let error = failing(&[]);
    assert!(error.contains("is no folder") && error.contains("incise stats"), "{error}");
    fs::create_dir(s.at("stats")).unwrap();
    let error = failing(&[]);
    assert!(error.contains("layer-1.safetensors") && error.contains("incise stats"), "{error}");
}

#[test]
fn nothing_is_written_over_what_is_read() {
    let s = Session::new("gpt2");
    s.stats();
    let before = s.weights("model");
    let over = "over what the command reads";
    for (file, words) in [
        ("model/model.safetensors", over),
        ("model/new", over),
        ("stats/layer-1.safetensors", over),
        ("requests.jsonl", over),
    ] {
        let mut args = s.edit(&[]);
        let at = args.iter().position(|a| a == "-o").unwrap();
        args[at + 1] = s.at(file);
        let error = fails(1, &strs(&args));
        assert!(error.contains(words), "{file}: {error}");
    }
    let (model, requests) = (s.at("model"), s.at("requests.jsonl"));
    let error = fails(1, &["logits", &model, "--prompts", &requests, "-o", &requests]);
    assert!(error.contains("over what the command reads"), "{error}");
    assert_eq!(s.weights("model"), before);
}

#[test]
fn what_stands_at_the_output_and_is_no_older_one_stays() {
    let s = Session::new("gpt2");
    s.stats();
    let (model, corpus, patch) = (s.at("model"), s.at("corpus.txt"), s.at("patch.safetensors"));
    fs::write(&patch, "notes").unwrap();
    assert!(fails(1, &strs(&s.edit(&[]))).contains("stands there already and is no patch"));
    fs::remove_file(&patch).unwrap();
    done(&strs(&s.edit(&[])));
    done(&strs(&s.edit(&[])));
    let to = s.at("logits");
    let logits = |out: &str| ["logits", &model, "--prompts", &corpus, "-o", out].map(String::from);
    let error = fails(1, &strs(&logits(&patch)));
    assert!(error.contains("stands there already and is no file of logits"), "{error}");
    done(&strs(&logits(&to)));
    done(&strs(&logits(&to)));
}

#[test]
fn a_value_that_a_given_file_lacks_is_told_with_its_name() {
    let s = Session::new("gpt2");
    fs::create_dir(s.at("stats")).unwrap();
    fs::write(s.at("hparams.json"), "{\"layers\": [1]}").unwrap();
    let error = fails(1, &strs(&s.edit(&[])));
    assert!(error.contains("hparams.json: v_num_grad_steps: is given nowhere"), "{error}");
}

#[test]
fn a_place_that_cannot_be_written_is_refused_before_the_work() {
    let s = Session::new("gpt2");
    fs::create_dir(s.at("stats")).unwrap(); // with nothing in it: the place comes first
    let mut args = s.edit(&[]);
    let at = args.iter().position(|a| a == "-o").unwrap();
    args[at + 1] = s.at("nowhere/patch");
    assert!(fails(1, &strs(&args)).contains("nowhere"));
}

#[test]
fn an_edit_that_did_not_take_is_said() {
    let s = Session::new("gpt2");
    s.stats();
    let out = incise(&strs(&s.edit(&["--set", "clamp_norm_factor=1e-9"])));
    assert!(out.status.success());
    assert!(text(&out.stderr).contains("the edited model says"), "{}", text(&out.stderr));
    assert!(
        fails(1, &strs(&s.edit(&["--set", "v_num_grad_steps=0"]))).contains("v_num_grad_steps")
    );
}

#[test]
fn a_patch_that_changes_nothing_is_said() {
    let s = Session::new("gpt2");
    s.stats();
    let one = ["--set", "mom2_update_weight=20", "--set", "v_num_grad_steps=1"];
    let mut args = s.edit(&one);
    let at = args.iter().position(|a| a == "--method").unwrap();
    args[at + 1] = "memit".into();
    let said = |args: &[&str]| {
        let out = incise(args);
        assert!(out.status.success(), "{}", text(&out.stderr));
        text(&out.stderr).to_owned()
    };
    let edit = said(&strs(&args));
    assert!(edit.contains("the patch changes nothing"), "{edit}");
    let apply = said(&["apply", &s.at("model"), &s.at("patch.safetensors"), "-o", &s.at("copy")]);
    assert!(apply.contains("nothing changed"), "{apply}");
    assert_eq!(s.weights("copy"), s.weights("model"));
    args.extend(["--set", "v_num_grad_steps=8"].map(String::from));
    assert!(!said(&strs(&args)).contains("changes nothing"));
}

#[test]
fn a_configuration_of_another_model_is_refused() {
    for (name, field, value) in [
        ("gpt2", "n_layer", "1"),
        ("llama-tied", "num_hidden_layers", "1"),
        ("gpt2", "n_layer", "99"),
        ("gpt2", "n_embd", "32"),
        ("gpt2", "layer_norm_epsilon", "-1"),
        ("gpt2", "activation_function", "\"mish\""),
        ("gpt2", "model_type", "\"mamba\""),
    ] {
        let s = Session::new(name);
        let path = s.at("model/config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config[field] = serde_json::from_str(value).unwrap();
        fs::write(&path, config.to_string()).unwrap();
        let error = fails(1, &["inspect", &s.at("model")]);
        assert!(error.starts_with("incise: ") && error.contains("model"), "{field}: {error}");
    }
}

#[test]
fn weights_that_are_not_numbers_are_said() {
    let s = Session::new("gpt2");
    let path = s.at("model/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[8 + header..end].as_chunks_mut::<4>().0.fill(f32::NAN.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let error = fails(1, &["generate", &s.at("model"), "--prompt", "The sea"]);
    assert!(error.contains("NaN"), "{error}");
    let (model, corpus, out) = (s.at("model"), s.at("corpus.txt"), s.at("stats"));
    let error = fails(1, &["stats", &model, "--layers", "0", "--corpus", &corpus, "-o", &out]);
    assert!(error.contains("layer 0") && error.contains("NaN"), "{error}");
    assert!(!Path::new(&s.at("stats/layer-0.safetensors")).exists());
}

#[test]
fn one_fact_can_be_said_on_the_command_line() {
    let s = Session::new("gpt2");
    s.stats();
    let mut args = s.edit(&["--subject", "Big Ben", "--prompt", "{} is in", "--to", "Paris"]);
    args.remove(2);
    args.extend(["--set", "v_lr=0.25"].map(String::from));
    let told = done(&strs(&args));
    assert!(told.contains("Big Ben is in → Paris"), "{told}");
    assert!(told.contains("v_lr 0.25 (--set)"), "{told}");
    let patch = Patch::read(Path::new(&s.at("patch.safetensors"))).unwrap();
    let from = &patch.metadata.notes["hyperparameters_from"];
    assert_eq!(from["v_lr"], "--set");
    assert_eq!(from["layers"], s.at("hparams.json"));
}

#[test]
fn the_demo_changes_its_mind_and_back() {
    let told = json(&["demo", "--json"]);
    let facts = told["facts"].as_array().unwrap();
    assert!(facts.len() >= 3);
    for fact in facts {
        let new = fact["target_new"].as_str().unwrap().trim();
        let prompt = &fact["answers"][0];
        assert_eq!(prompt["kind"], "prompt");
        assert!(!prompt["before"].as_str().unwrap().starts_with(new), "{fact}");
        assert!(prompt["after"].as_str().unwrap().starts_with(new), "{fact}");
    }
    let last = &facts[facts.len() - 1]["answers"][0];
    assert_eq!(told["undo"]["before"], last["after"]);
    assert_eq!(told["undo"]["after"], last["before"]);
}

#[test]
fn statistics_are_imported_and_merged_beside_those_that_are_collected() {
    let s = Session::new("gpt2");
    let npz = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/npz/layer-1.npz");
    let (model, npz, out) = (s.at("model"), npz.display().to_string(), s.at("stats"));
    done(&["stats", "import", &model, &npz, "--layer", "1", "-o", &out]);
    done(&strs(&s.edit(&[])));
    let error = fails(1, &["stats", "import", &model, &npz, "--layer", "3", "-o", &out]);
    assert!(error.contains("no layer 3") && error.contains("0 to 2"), "{error}");
    fails(2, &["stats", "import", &model, &npz, "-o", &out]);
    fails(2, &["stats"]);
    fails(2, &["stats", &model, "--layers", "0"]);

    let corpus = s.at("corpus.txt");
    let text = fs::read_to_string(&corpus).unwrap();
    let (first, second) = text.split_at(text.find("Line 90").unwrap());
    let collect = |text: &str, to: &str| {
        fs::write(&corpus, text).unwrap();
        done(&["stats", &model, "--layers", "1", "--corpus", &corpus, "-o", &s.at(to)]);
    };
    collect(first, "a");
    collect(second, "b");
    let (a, b, ab) = (s.at("a"), s.at("b"), s.at("ab"));
    let told = json(&["stats", "merge", &a, &b, "-o", &ab, "--json"]);
    let tokens = |dir: &str| {
        let name = Moment::open(Path::new(&s.at(dir)), 1).unwrap();
        (name.tokens, name.origin.model)
    };
    assert_eq!(tokens("ab"), (tokens("a").0 + tokens("b").0, tokens("a").1));
    assert_eq!(told["layers"][0]["tokens"], tokens("ab").0);
    let error = fails(1, &["stats", "merge", &a, &ab, "-o", &s.at("c")]);
    assert!(error.contains("would count twice"), "{error}");
    let error = fails(1, &["stats", "import", &model, &npz, "--layer", "1", "-o", &a]);
    assert!(error.contains("layer-1.safetensors: corpus: is "), "{error}");
    let again = ["stats", &model, "--layers", "1", "--corpus", &corpus, "-o", &out];
    assert!(fails(1, &again).contains("layer-1.safetensors: corpus: is "));
    fs::copy(Moment::path(Path::new(&out), 1), Moment::path(Path::new(&a), 0)).unwrap();
    let error = fails(1, &["stats", "merge", &a, &b, "-o", &s.at("none")]);
    assert!(error.contains("layer-0") && !Path::new(&s.at("none")).exists(), "{error}");
    fs::remove_file(Moment::path(Path::new(&a), 0)).unwrap();
    let error = fails(1, &["stats", "merge", &a, &out, "-o", &s.at("c")]);
    assert!(error.contains("of imported statistics (0) it is not known"), "{error}");
    let error = fails(1, &["stats", "merge", &a, &b, "-o", &out]);
    assert!(error.contains("layer-1.safetensors: corpus: is "), "{error}");
    let error = fails(1, &["stats", "merge", &a, &b, "-o", &a]);
    assert!(error.contains("over what the command reads"), "{error}");
    fails(2, &["stats", "merge", "-o", &ab]);
}

#[test]
fn chats_are_for_talk_and_for_edits() {
    let s = Session::new("gpt2");
    s.stats();
    let model = s.at("model");
    let ask = ["generate", &model, "--prompt", "The sea", "--max-tokens", "3", "--chat"];
    let error = fails(1, &ask);
    assert!(error.contains("tokenizer_config.json: chat_template: is missing"), "{error}");
    let template = "{% for m in messages %}\nAsked: {{ m['content'] }}{% endfor %}\n\nSaid: ";
    fs::write(s.at("model/chat_template.jinja"), template).unwrap();
    let told = json(&[&ask[..], &["--json"]].concat());
    assert_eq!(told["chat"], "Asked: The sea\nSaid: ");
    let tokenizer = incise::text::Tokenizer::open(&model).unwrap();
    let ids = tokenizer.encode_bare("Asked: The sea\nSaid: ").unwrap().ids;
    assert_eq!(told["prompt_tokens"], serde_json::json!(ids));
    assert!(!done(&ask).contains("The sea"), "the answer alone");

    let report = json(&strs(&s.edit(&["--chat", "--json"])));
    let p = &report["facts"][0]["p_target"];
    assert!(p[1].as_f64() > p[0].as_f64(), "{report}");
    let patch = Patch::read(Path::new(&s.at("patch.safetensors"))).unwrap();
    let chat = &patch.metadata.notes["chat"];
    assert_eq!((&chat["head"], &chat["tail"]), (&"Asked: ".into(), &"\nSaid: ".into()));
    assert_eq!(chat["template"].as_str().unwrap().len(), 32);
    assert!(chat["system"].is_null() && chat["variables"] == serde_json::json!({}), "{chat}");

    let template = "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}<think>\n\
        </think>{% endif %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>\
        {% if quick %}<think>\n</think>{% endif %}{% if enable_thinking is false %}<think>\n\
        </think>{% endif %}{% endif %}";
    fs::write(s.at("model/chat_template.jinja"), template).unwrap();
    let warned = |more: &[&str]| {
        let out = incise(&strs(&s.edit(&[&["--chat"], more].concat())));
        assert!(out.status.success(), "{}", text(&out.stderr));
        text(&out.stderr).to_owned()
    };
    let late = warned(&[]);
    assert!(late.contains("answers do not begin where"), "{late}");
    assert!(late.contains("--template-var enable_thinking=false"), "{late}");
    let more = ["--template-var", "enable_thinking=False", "--system", "Be brief."];
    assert!(!warned(&more).contains("answers do not begin"));
    let patch = Patch::read(Path::new(&s.at("patch.safetensors"))).unwrap();
    let chat = &patch.metadata.notes["chat"];
    assert_eq!(chat["head"], "<system>Be brief.<user>");
    assert_eq!(chat["tail"], "<assistant><think>\n</think>");
    assert_eq!(
        (&chat["system"], &chat["variables"]["enable_thinking"]),
        (&"Be brief.".into(), &false.into())
    );
    let told = json(&[&ask[..], &["--json"], &more].concat());
    assert_eq!(told["chat"], "<system>Be brief.<user>The sea<assistant><think>\n</think>");
    let error = fails(1, &[&ask[..], &["--template-var", "enable_thnking=false"]].concat());
    assert!(error.contains("reads no variable `enable_thnking`"), "{error}");
    let error = fails(1, &[&ask[..], &["--template-var", "quick"]].concat());
    assert!(error.contains("no `=`"), "{error}");
    fs::write(s.at("model/chat_template.jinja"), "{{ messages[0].content }}\n{% if %}").unwrap();
    let error = fails(1, &strs(&s.edit(&["--chat"])));
    assert!(error.contains("chat_template.jinja: line 2: syntax error"), "{error}");
}
