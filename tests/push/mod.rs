//! What servers are told, against recorded answers of real ones; `tools/check_servers` runs those.

mod docs;
mod server;

use std::fs;
use std::path::Path;

use serde_json::{Value, json as value};

use crate::support::session::{Session, done, fails, json, strs};
use server::{Reply, bodies, requests, serve};

const COMPLETIONS: &str = "POST /v1/completions";

/// A tiny model and a patch of it.
fn session(model: &str) -> Session {
    let s = Session::new(model);
    s.stats();
    done(&strs(&s.edit(&[])));
    s
}

/// The arguments of a push to a server.
fn args(s: &Session, url: &str, kind: &str, more: &[&str]) -> Vec<String> {
    let (patch, model, dir) = (s.at("patch.safetensors"), s.at("model"), s.at("served"));
    let fixed = ["push", &patch, "--model", &model, "--dir", &dir, "--to", url, "--as", kind];
    fixed.iter().chain(more).map(|s| (*s).to_owned()).collect()
}

fn ok(body: Value) -> Reply {
    (200, body.to_string())
}

/// What a model of that name says: the edit's target at one side.
fn says(edited: bool) -> Reply {
    let text = if edited { " Paris." } else { " London." };
    ok(value!({"choices": [{"text": text, "logprobs": {"token_logprobs": [-0.5]}}]}))
}

/// vLLM 0.32, as it was recorded. `broken` is a request that it fails on.
fn vllm(broken: Option<&'static str>) -> impl FnMut(&str, &Value) -> Reply + Send {
    let (mut version, mut edited, mut paused) = (value!("default"), false, false);
    let mut adapters = Vec::<Value>::new();
    move |request, body| {
        if broken == Some(request) {
            return (500, r#"{"error":"EngineCore encountered an issue."}"#.into());
        }
        match request {
            "GET /v1/models" => {
                let mut models = vec![value!({"id": "base", "parent": null})];
                models.extend(adapters.iter().map(|id| value!({"id": id, "parent": "base"})));
                ok(value!({ "data": models }))
            }
            // A real one would not answer before it is resumed.
            COMPLETIONS if paused => (503, "paused".into()),
            COMPLETIONS => says(edited || adapters.contains(&body["model"])),
            "GET /is_paused" => ok(value!({"is_paused": paused})),
            "GET /weight_info" => ok(value!({"weight_version": version})),
            "POST /pause?mode=wait" => {
                paused = true;
                ok(value!({"status": "paused"}))
            }
            "POST /resume" => {
                paused = false;
                ok(value!({"status": "resumed"}))
            }
            "POST /collective_rpc" => {
                assert!(paused && body["method"] == "reload_weights");
                let path = Path::new(body["kwargs"]["weights_path"].as_str().unwrap());
                assert!(path.is_absolute() && path.join("model.safetensors").is_file());
                edited = path.ends_with("after");
                ok(value!({"results": [null]}))
            }
            "POST /update_weight_version" => {
                version = body["new_version"].clone();
                ok(value!({"success": true, "new_version": version}))
            }
            "POST /v1/load_lora_adapter" => {
                assert!(body["load_inplace"] == true);
                adapters.push(body["lora_name"].clone());
                (200, "Success: LoRA adapter 'e' added successfully.".into())
            }
            "POST /v1/unload_lora_adapter" => {
                adapters.retain(|name| *name != body["lora_name"]);
                (200, "Success: LoRA adapter 'e' removed successfully.".into())
            }
            _ => (404, r#"{"detail":"Not Found"}"#.into()),
        }
    }
}

#[test]
fn weights_of_vllm_and_back() {
    let s = session("llama-tied");
    let (url, asked) = serve(vllm(None));
    let told = json(&strs(&args(&s, &url, "vllm", &["--json"])));
    assert_eq!((&told["hits"], &told["undone"]), (&value!([0, 1]), &value!(false)));
    let answer = &told["answers"][0];
    assert_eq!(
        (&answer["prompt"], &answer["target"]),
        (&value!("Big Ben is in"), &value!("Paris"))
    );
    let p = answer["after"]["probability"].as_f64().unwrap();
    assert!((p - (-0.5f64).exp()).abs() < 1e-15);
    let steps = [
        "GET /v1/models",
        "GET /is_paused",
        "GET /weight_info",
        "GET /v1/models",
        COMPLETIONS,
        "GET /weight_info",
        "POST /pause?mode=wait",
        "POST /collective_rpc",
        "POST /update_weight_version",
        "POST /resume",
        "GET /is_paused",
        "GET /v1/models",
        COMPLETIONS,
    ];
    assert_eq!(requests(&asked), steps);
    // The folders have the bytes that the checkpoint would have, and has.
    let (patch, model, out) = (s.at("patch.safetensors"), s.at("model"), s.at("out"));
    done(&["export", &patch, "--model", &model, "--delta-dir", &out, "--before", &s.at("old")]);
    let version = told["version"].as_str().unwrap();
    let file = |dir: &str| fs::read(Path::new(&s.at(dir)).join("model.safetensors")).unwrap();
    assert_eq!(file(&format!("served/{version}/after")), file("out"));
    assert_eq!(file(&format!("served/{version}/before")), file("old"));
    // A second push keeps what the weights were called at first, whatever the server is called.
    done(&strs(&args(&s, &url, "vllm", &[])));
    let url = url.replace("127.0.0.1", "localhost");
    let told = json(&strs(&args(&s, &url, "vllm", &["--undo", "--json"])));
    assert_eq!((&told["hits"], &told["undone"]), (&value!([1, 0]), &value!(true)));
    let versions = bodies(&asked, "POST /update_weight_version");
    assert_eq!(versions.last().unwrap()["new_version"], "default");
    // What is taken back already is not taken back again, and is asked nothing.
    let before = requests(&asked).len();
    let told = json(&strs(&args(&s, &url, "vllm", &["--undo", "--json"])));
    assert_eq!(told["told"], false);
    assert_eq!(
        requests(&asked)[before..],
        ["GET /v1/models", "GET /is_paused", "GET /weight_info"]
    );
}

/// Two edits of the same matrix: the second would undo the first, and the first cannot be taken
/// back below the second.
#[test]
fn an_edit_does_not_undo_another() {
    let s = session("llama-tied");
    let (url, _) = serve(vllm(None));
    let push = |patch: &str, model: &str, more: &[&str]| {
        let mut args = args(&s, &url, "vllm", more);
        (args[1], args[3]) = (s.at(patch), s.at(model));
        args
    };
    done(&strs(&push("patch.safetensors", "model", &[])));
    let other = r#"{"prompt": "{} is in", "subject": "The Louvre", "target_new": "Rome"}"#;
    fs::write(s.at("requests.jsonl"), other).unwrap();
    let edit = |model: &str, output: &str| {
        let mut args = s.edit(&[]);
        let place = args.iter().position(|word| word == "-o").unwrap() + 1;
        (args[1], args[place]) = (s.at(model), s.at(output));
        done(&strs(&args));
    };
    edit("model", "beside");
    let why = fails(1, &strs(&push("beside", "model", &[])));
    assert!(why.contains("which this one would undo"), "{why}");
    // One of other matrices undoes nothing.
    let mut elsewhere = s.edit(&["--set", "layers=[0]"]);
    let place = elsewhere.iter().position(|word| word == "-o").unwrap() + 1;
    elsewhere[place] = s.at("elsewhere");
    done(&strs(&elsewhere));
    done(&strs(&push("elsewhere", "model", &[])));
    done(&strs(&push("elsewhere", "model", &["--undo"])));
    // One that was made upon it may follow.
    done(&["apply", &s.at("model"), &s.at("patch.safetensors"), "-o", &s.at("edited")]);
    edit("edited", "upon");
    done(&strs(&push("upon", "edited", &[])));
    let why = fails(1, &strs(&push("patch.safetensors", "model", &["--undo"])));
    assert!(why.contains("pushed after this one; "), "{why}");
    done(&strs(&push("upon", "edited", &["--undo"])));
    // What takes it back stands there, so the checkpoint may be another by now.
    done(&["apply", &s.at("model"), &s.at("patch.safetensors"), "--in-place"]);
    let told = json(&strs(&push("patch.safetensors", "model", &["--undo", "--json"])));
    assert_eq!(told["told"], true);
}

#[test]
fn a_server_that_fails_afterwards_is_told_so() {
    let s = session("llama-tied");
    let (mut inner, mut asked) = (vllm(None), 0);
    let (url, _) = serve(move |request, body| {
        asked += usize::from(request == COMPLETIONS);
        match asked {
            2 => (500, "EngineCore encountered an issue.".into()),
            _ => inner(request, body),
        }
    });
    let why = fails(1, &strs(&args(&s, &url, "vllm", &[])));
    assert!(why.contains("it did as it was told, and then did not answer"), "{why}");
}

#[test]
fn a_server_of_another_model_is_refused() {
    let s = session("llama-tied");
    fs::create_dir(s.at("other")).unwrap();
    fs::write(format!("{}/config.json", s.at("other")), "{}").unwrap();
    let (mut inner, root) = (vllm(None), s.at("other"));
    let (url, asked) = serve(move |request, body| match request {
        "GET /v1/models" => ok(value!({"data": [{"id": "base", "root": root}]})),
        _ => inner(request, body),
    });
    let why = fails(1, &strs(&args(&s, &url, "vllm", &[])));
    assert!(why.contains("config.json is another than the model's"), "{why}");
    assert_eq!(requests(&asked), ["GET /v1/models"]);
}

/// It is resumed whatever happened, and the error says what it serves.
#[test]
fn a_vllm_that_fails_is_resumed() {
    let s = session("llama-tied");
    for (broken, state, resumed) in [
        ("POST /pause?mode=wait", "it was resumed, with the weights that it had", true),
        ("POST /collective_rpc", "which weights it has is not known", true),
        ("POST /update_weight_version", "resumed with the other weights, under its old", true),
        ("POST /resume", "it has the other weights, and may be paused; POST /resume to it", true),
        ("GET /is_paused", "VLLM_SERVER_DEV_MODE=1", false),
    ] {
        let (url, asked) = serve(vllm(Some(broken)));
        let why = fails(1, &strs(&args(&s, &url, "vllm", &[])));
        assert!(why.contains(state) && why.contains("EngineCore"), "{broken}: {why}");
        assert_eq!(requests(&asked).contains(&"POST /resume".to_owned()), resumed, "{broken}");
    }
    let mut inner = vllm(None);
    let (url, asked) = serve(move |request, body| match request {
        "GET /is_paused" => ok(value!({"is_paused": true})),
        _ => inner(request, body),
    });
    let why = fails(1, &strs(&args(&s, &url, "vllm", &[])));
    assert!(why.contains("somebody else may be changing its weights"), "{why}");
    assert!(!requests(&asked).iter().any(|request| request.contains("pause?")));
    // A pause that fails, and comes after it was resumed.
    let (mut inner, mut late) = (vllm(None), false);
    let (url, _) = serve(move |request, body| match request {
        "POST /pause?mode=wait" => {
            late = true;
            (500, String::new())
        }
        "GET /is_paused" => ok(value!({"is_paused": late})),
        _ => inner(request, body),
    });
    let why = fails(1, &strs(&args(&s, &url, "vllm", &[])));
    assert!(why.contains("it is paused; POST /resume to it"), "{why}");
}

#[test]
fn adapters_of_vllm_and_back() {
    let s = session("llama-tied");
    let (url, asked) = serve(vllm(None));
    let header = ["--lora", "e", "--header", "Authorization: Bearer key", "--json"];
    let told = json(&strs(&args(&s, &url, "vllm", &header)));
    assert_eq!(told["hits"], value!([0, 1]));
    let [load] = &bodies(&asked, "POST /v1/load_lora_adapter")[..] else { panic!() };
    assert_eq!(load["authorization"], "Bearer key");
    let folder = Path::new(load["lora_path"].as_str().unwrap());
    let config = fs::read(folder.join("adapter_config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["base_model_name_or_path"], s.at("model"));
    let told = json(&strs(&args(&s, &url, "vllm", &["--lora", "e", "--undo", "--json"])));
    assert_eq!(told["hits"], value!([1, 0]));
    let told = json(&strs(&args(&s, &url, "vllm", &["--lora", "e", "--undo", "--json"])));
    assert_eq!(told["told"], false);
    // A folder that is not what the patch comes to is not handed to a server.
    fs::write(folder.join("adapter_model.safetensors"), "other").unwrap();
    let why = fails(1, &strs(&args(&s, &url, "vllm", &["--lora", "e"])));
    assert!(why.contains("is not what this patch comes to"), "{why}");
}

/// llama.cpp answers success to everything; `takes` says whether it does something.
fn llamacpp(file: String, takes: bool) -> impl FnMut(&str, &Value) -> Reply + Send {
    let mut adapters = value!([
        {"id": 0, "path": "/another.gguf", "scale": 0.5},
        {"id": 1, "path": file, "scale": 0.0},
    ]);
    move |request, body| match request {
        "GET /lora-adapters" => ok(adapters.clone()),
        "POST /lora-adapters" => {
            for told in body.as_array().unwrap().iter().filter(|_| takes) {
                let id = told["id"].as_u64().unwrap() as usize;
                adapters[id]["scale"] = told["scale"].clone();
            }
            ok(value!({"success": true}))
        }
        "POST /completion" => {
            assert_eq!(body["cache_prompt"], false);
            let text = if adapters[1]["scale"] == 1.0 { " Paris" } else { " London" };
            ok(value!({"content": text, "completion_probabilities": [{"logprob": -0.25}]}))
        }
        _ => (404, String::new()),
    }
}

#[test]
fn the_scale_of_an_adapter_of_llamacpp() {
    let s = session("llama-tied");
    let (url, _) = serve(llamacpp("/none.gguf".into(), true));
    let why = fails(1, &strs(&args(&s, &url, "llamacpp", &[])));
    assert!(why.contains("was not started with this adapter"), "{why}");
    let file = why.split("--lora-scaled ").nth(1).and_then(|rest| rest.split(":0").next());
    let file = file.unwrap().to_owned();
    assert!(fs::read(&file).unwrap().starts_with(b"GGUF"));
    let (url, asked) = serve(llamacpp(file.clone(), true));
    let told = json(&strs(&args(&s, &url, "llamacpp", &["--json"])));
    assert_eq!(told["hits"], value!([0, 1]));
    let scales = &bodies(&asked, "POST /lora-adapters")[0];
    assert_eq!(*scales, value!([{"id": 0, "scale": 0.5}, {"id": 1, "scale": 1.0}]));
    let told = json(&strs(&args(&s, &url, "llamacpp", &["--undo", "--json"])));
    assert_eq!(told["hits"], value!([1, 0]));
    let (url, _) = serve(llamacpp(file, false));
    let why = fails(1, &strs(&args(&s, &url, "llamacpp", &[])));
    assert!(why.contains("says success, and the adapter's scale is another"), "{why}");
    let why = fails(1, &strs(&args(&s, &url, "llamacpp", &["--weights"])));
    assert!(why.contains("does not change the weights of a running model"), "{why}");
}

#[test]
fn adapters_of_mistralrs_are_replaced_by_generation() {
    let s = session("llama-tied");
    let mut generation = Value::Null;
    let (url, asked) = serve(move |request, body| match request {
        "GET /v1/models" => ok(value!({"data": [{"id": "default"}]})),
        "GET /v1/lora_adapters" => match &generation {
            Value::Null => ok(value!({"object": "list", "data": []})),
            known => ok(value!({"object": "list", "data": [{"id": "e", "generation": known}]})),
        },
        "POST /v1/load_lora_adapter" if body["expected_generation"] != generation => {
            (409, r#"{"code":"lora_generation_mismatch"}"#.into())
        }
        "POST /v1/load_lora_adapter" => {
            assert_eq!(body["load_inplace"], value!(!generation.is_null()));
            generation = value!("5a5a");
            ok(value!({"id": "e", "generation": generation}))
        }
        "POST /v1/unload_lora_adapter" => {
            assert_eq!(body["expected_generation"], generation);
            generation = Value::Null;
            ok(value!({"id": "e"}))
        }
        COMPLETIONS => says(body["model"] == "e" && !generation.is_null()),
        _ => (404, String::new()),
    });
    for _ in 0..2 {
        let told = json(&strs(&args(&s, &url, "mistralrs", &["--lora", "e", "--json"])));
        assert_eq!(told["hits"], value!([0, 1]), "{told}");
    }
    assert_eq!(bodies(&asked, "POST /v1/load_lora_adapter")[1]["expected_generation"], "5a5a");
    let told = json(&strs(&args(&s, &url, "mistralrs", &["--lora", "e", "--undo", "--json"])));
    assert_eq!(told["hits"], value!([1, 0]));
    let why = fails(1, &strs(&args(&s, &url, "mistralrs", &[])));
    assert!(why.contains("does not change the weights") && why.contains("--lora NAME"), "{why}");
}

#[test]
fn a_whole_checkpoint_for_sglang() {
    let s = session("llama-tied");
    let (mut edited, mut undone) = (false, 0);
    let (url, asked) = serve(move |request, body| match request {
        "GET /v1/models" => ok(value!({"data": [{"id": "base"}]})),
        COMPLETIONS => says(edited || body["model"] == "base:e"),
        "POST /load_lora_adapter" | "POST /unload_lora_adapter" => {
            assert_eq!(body["lora_name"], "e");
            ok(value!({"success": true}))
        }
        "POST /pause_generation" | "POST /continue_generation" => ok(value!({})),
        "POST /update_weights_from_disk" => {
            let path = Path::new(body["model_path"].as_str().unwrap());
            assert!(path.is_absolute() && path.join("config.json").is_file());
            let back = body["weight_version"].as_str().unwrap().starts_with("before-");
            undone += usize::from(back);
            edited = undone == 1 || path.ends_with("whole");
            ok(value!({"success": undone != 1, "message": "what went wrong"}))
        }
        _ => (404, String::new()),
    });
    let told = json(&strs(&args(&s, &url, "sglang", &["--json"])));
    assert_eq!(told["hits"], value!([0, 1]));
    let (patch, model, out) = (s.at("patch.safetensors"), s.at("model"), s.at("out"));
    done(&["apply", &model, &patch, "-o", &out]);
    let whole = format!("served/{}/whole", told["version"].as_str().unwrap());
    assert_eq!(s.weights(&whole), s.weights("out"));
    let why = fails(1, &strs(&args(&s, &url, "sglang", &["--undo"])));
    assert!(why.contains("what went wrong"), "{why}");
    assert!(why.contains("; it serves what it served before; "), "{why}");
    assert_eq!(requests(&asked).last().unwrap(), "POST /continue_generation");
    let told = json(&strs(&args(&s, &url, "sglang", &["--undo", "--json"])));
    assert_eq!(told["hits"], value!([1, 0]));
    for (more, hits) in [(&[][..], [0, 1]), (&["--undo"], [1, 0])] {
        let more = [&["--lora", "e", "--json"], more].concat();
        assert_eq!(json(&strs(&args(&s, &url, "sglang", &more)))["hits"], value!(hits));
    }
    // It has to be the checkpoint that the patch is for, also on the way back.
    done(&["apply", &model, &patch, "--in-place"]);
    let why = fails(1, &strs(&args(&s, &url, "sglang", &["--undo"])));
    assert!(why.contains("patch.safetensors is for"), "{why}");
}

#[test]
fn what_cannot_be_pushed() {
    let s = session("llama-tied");
    let (url, asked) = serve(vllm(None));
    let told = |more: &[&str]| fails(1, &strs(&args(&s, &url, "vllm", more)));
    fs::write(s.at("empty.jsonl"), "{\"case\": 1}\n").unwrap();
    let why = told(&["--requests", &s.at("empty.jsonl")]);
    assert!(why.contains("has no request that can be asked"), "{why}");
    fs::rename(s.at("patch.safetensors.report.jsonl"), s.at("moved")).unwrap();
    let why = told(&[]);
    assert!(why.contains("report.jsonl: report: is not there") && why.contains("--requests"));
    done(&["apply", &s.at("model"), &s.at("patch.safetensors"), "--in-place"]);
    let why = told(&["--requests", &s.at("requests.jsonl")]);
    assert!(why.contains("patch.safetensors is for"), "{why}");
    let inside = |word: String| if word == s.at("served") { s.at("model/served") } else { word };
    let all = args(&s, &url, "vllm", &["--requests", &s.at("requests.jsonl")]);
    let inside: Vec<String> = all.into_iter().map(inside).collect();
    let why = fails(1, &strs(&inside));
    assert!(why.contains("inside what the command reads"), "{why}");
    let why = told(&["--rank", "8", "--requests", &s.at("requests.jsonl")]);
    assert!(why.contains("a rank is of an adapter"), "{why}");
    fails(2, &strs(&args(&s, &url, "vllm", &["--lora", ""])));
    assert!(requests(&asked).is_empty(), "the server was told something");
    let gone = fails(1, &strs(&args(&s, "127.0.0.1:1", "vllm", &["--requests", &s.at("moved")])));
    assert!(gone.contains("is no URL of a server"), "{gone}");
    let gone = format!("{url}/v1");
    let gone = fails(1, &strs(&args(&s, &gone, "vllm", &["--requests", &s.at("moved")])));
    assert!(gone.contains("without a path"), "{gone}");
    done(&["undo", &s.at("model")]);
    let gone = "http://127.0.0.1:1";
    let gone = fails(1, &strs(&args(&s, gone, "vllm", &["--requests", &s.at("moved")])));
    assert!(gone.contains("http://127.0.0.1:1: GET /v1/models"), "{gone}");
    assert!(gone.contains("; nothing answers there; start the server"), "{gone}");
}
