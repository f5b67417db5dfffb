//! Chat templates: what transformers renders, recorded by `tools/chat.py`, and what fails.

use std::collections::BTreeMap;
use std::fs;

use incise::base::Result;
use incise::base::remedy::Setting;
use incise::edit::prompts::{FactToken, framed_rows};
use incise::text::{Chat, ChatSettings};
use serde::Deserialize;
use serde_json::{Value, json};

use super::toys;

#[derive(Deserialize)]
struct Golden {
    tokens: Value,
    templates: BTreeMap<String, String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    message: String,
    rendered: String,
    #[serde(default)]
    system: Option<String>,
    #[serde(default)]
    variables: BTreeMap<String, Value>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../golden/chat.json")).unwrap()
}

/// A chat from the files of a folder.
fn chat(files: &[(&str, &str)]) -> Result<Chat> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    Chat::open(folder.path())
}

fn error(files: &[(&str, &str)]) -> String {
    chat(files).err().expect("an error").to_string()
}

#[test]
fn chats_are_rendered_as_transformers_renders_them() {
    let golden = golden();
    for Case { name, message, rendered, system, variables } in &golden.cases {
        let template = &golden.templates[name];
        let config = golden.tokens.to_string();
        let own = [("chat_template.jinja", &template[..]), ("tokenizer_config.json", &config)];
        let mut inside = golden.tokens.clone();
        inside["chat_template"] = json!(template);
        let inside = inside.to_string();
        for files in [&own[..], &[("tokenizer_config.json", &inside)]] {
            let folder = tempfile::tempdir().unwrap();
            for (name, text) in files {
                fs::write(folder.path().join(name), text).unwrap();
            }
            let (system, variables) = (system.clone(), variables.clone());
            let settings = ChatSettings { system, variables };
            let chat = Chat::open_with(folder.path(), settings).unwrap();
            assert_eq!(&chat.render(message).unwrap(), rendered, "{name}");
        }
    }
    assert!(golden.cases.iter().filter(|case| !case.variables.is_empty()).count() >= 4);
    assert!(golden.cases.len() >= 26);
}

const NAMES: &str = "{{ bos_token }}{% for m in messages %}\n<{{ m.role }}>{{ m.content | trim }}\
    {% endfor %}\n{% if add_generation_prompt %}<assistant>{% endif %}";

#[test]
fn the_file_of_its_own_comes_first_and_of_several_the_default() {
    let config = json!({
        "bos_token": {"content": "<s>"}, "eos_token": null,
        "chat_template": [{"name": "tools", "template": "no"},
                          {"name": "default", "template": "{{ bos_token }}{{ eos_token }}list"}],
    })
    .to_string();
    let config = ("tokenizer_config.json", &config[..]);
    let shown = |files: &[_]| chat(files).unwrap().render("x").unwrap();
    assert_eq!(shown(&[config]), "<s>list");
    let own = ("chat_template.json", "{\"chat_template\": \"own\"}");
    assert_eq!(shown(&[own]), "own", "a processor's, where the tokenizer has none");
    assert_eq!(shown(&[config, own]), "<s>list");
    let old = ("processor_config.json", "{\"chat_template\": \"old\"}");
    assert_eq!(shown(&[old]), "old");
    assert_eq!(shown(&[old, own]), "old", "as a processor of transformers 5.23 takes it");
    assert_eq!(shown(&[("processor_config.json", "{}"), own]), "own");
    assert_eq!(shown(&[config, old]), "<s>list");
    let jinja = ("chat_template.jinja", "jinja");
    assert_eq!(shown(&[config, own, jinja]), "jinja");
    let tools = ("additional_chat_templates/tool_use.jinja", "tools");
    assert_eq!(shown(&[config, jinja, tools]), "jinja");
    let default = ("additional_chat_templates/default.jinja", "more");
    assert_eq!(shown(&[config, jinja, tools, default]), "more");
    let error = error(&[config, tools]);
    assert!(error.contains("additional_chat_templates: ") && error.contains("default"), "{error}");
    let twice = json!({"chat_template": [{"name": "default", "template": "first"},
                                         {"name": "default", "template": "last"}]});
    assert_eq!(shown(&[("tokenizer_config.json", &twice.to_string())]), "last");
}

#[test]
fn templates_that_fail_name_file_and_line() {
    let jinja = |text: &str| {
        let failed = chat(&[("chat_template.jinja", text)]).and_then(|c| c.render("x"));
        failed.unwrap_err().to_string()
    };
    for (text, line, what) in [
        ("a\n{% if %}", "line 2", "syntax error"),
        ("a\n\n{{ raise_exception('No system!') }}", "line 3", "No system!"),
        ("{% generation %}\n{{ nothing.at.all }}\n{% endgeneration %}", "line 2", "undefined"),
        ("\n{{ messages | nosuch }}", "line 2", "nosuch"),
        ("{{ strftime_now('%') }}", "line 1", ""),
        (
            "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
            "",
            "fuel",
        ),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "line 1", "recursion"),
    ] {
        let error = jinja(text);
        assert!(error.contains("chat_template.jinja: ") && error.contains(line), "{error}");
        assert!(error.contains(what) && error.contains("without it"), "{error}");
    }
    let config = |value: Value| {
        let text = json!({"chat_template": value}).to_string();
        let failed = chat(&[("tokenizer_config.json", &text)]).and_then(|c| c.render("x"));
        failed.unwrap_err().to_string()
    };
    assert!(config(json!("\n{{")).contains("tokenizer_config.json: chat_template, line 2"));
    assert!(config(Value::Null).contains("the model has no chat"));
    assert!(config(json!(7)).contains("neither a string nor a list"));
    assert!(config(json!([{"name": "default"}])).contains("no template named `default`"));
    assert!(error(&[]).contains("the model has no chat"));
    assert!(error(&[("tokenizer_config.json", "{\n!")]).contains("line 2"));
}

#[test]
fn a_template_can_ask_for_the_date() {
    let shown = chat(&[("chat_template.jinja", "{{ strftime_now('%Y/%m') }}")]).unwrap();
    let shown = shown.render("x").unwrap();
    assert!(shown.starts_with("20") && shown.len() == 7 && &shown[4..5] == "/", "{shown}");
}

#[test]
fn a_message_that_is_not_output_once_unchanged_has_no_frame() {
    let named = chat(&[("chat_template.jinja", NAMES)]).unwrap();
    let frame = named.frame(" a b ").unwrap();
    assert_eq!((&frame.head[..], &frame.tail[..]), ("<user>", "<assistant>"));
    for text in ["none", "{{ messages[0].content * 2 }}", "{{ messages[0].content | upper }}"] {
        let error = chat(&[("chat_template.jinja", text)]).unwrap().frame("a").unwrap_err();
        assert!(error.to_string().contains("exactly once and unchanged"), "{text}: {error}");
    }
}

#[test]
fn rows_in_a_chat_end_in_the_answer_and_have_one_beginning() {
    let config = ("tokenizer_config.json", "{\"bos_token\": \"<s>\"}");
    let named = chat(&[("chat_template.jinja", NAMES), config]).unwrap();
    let tok = toys::sentencepiece(&["▁New", "▁York", "Paris", "▁is"]);
    let frame = named.frame("Paris is").unwrap();
    let target = tok.encode_after(&frame.tail, "New York").unwrap();
    let contexts = ["{}", "The end. {}"];
    let asked = ("{} is ", "Paris", FactToken::SubjectLast);
    let rows = framed_rows(&tok, Some(&frame), &contexts, asked, target.clone()).unwrap();
    let bos = tok.bos[0];
    for (row, text) in rows.keys.iter().zip(["Paris is", "The end. Paris is"]) {
        assert_eq!(row.ids, tok.encode_bare(&named.render(text).unwrap()).unwrap().ids);
        assert_eq!(row.ids.iter().filter(|&&id| id == bos).count(), 1);
        assert!(tok.token_text(row.ids[row.lookup]).ends_with("Paris"));
    }
    let (_, said) = target.split_last().unwrap();
    for (row, key) in rows.rewriting.iter().zip(&rows.keys) {
        assert_eq!(row.ids, [&key.ids, said].concat());
        assert_eq!(row.lookup, key.lookup);
    }
    assert_eq!(rows.merged, 0);
    let answered = named.render("Paris is").unwrap() + "New York";
    assert_eq!([&rows.keys[0].ids[..], &target].concat(), tok.encode_bare(&answered).unwrap().ids);
}

/// What a template of this text shows, or why it shows nothing.
fn shown(text: &str) -> std::result::Result<String, String> {
    let made = chat(&[("chat_template.jinja", text)]).and_then(|c| c.render("x"));
    made.map_err(|e| e.to_string())
}

#[test]
fn templates_cost_no_more_than_they_may() {
    let long = format!("{{{{ 'a'{} }}}}", " ~ 'a'".repeat(40_000));
    let nested = |inside: &str| {
        format!(
            "{{% set ns = namespace(a=1) %}}{{% for i in range(90000) %}}{{% set ns.a = [ns.a] %}}\
             {{% endfor %}}{inside}"
        )
    };
    let own = "{% set ns = namespace() %}{% set ns.a = ns %}";
    for (text, what) in [
        ("{% for i in range(99999) %}{{ 'abcdefghijkl' }}{% endfor %}".to_owned(), "1048576 bytes"),
        ("{{ 'ab' * 1000000 }}".to_owned(), "1048576 bytes"),
        ("{% set x %}{{ 'ab' * 1000000 }}{% endset %}".to_owned(), "1048576 bytes"),
        ("{{ 'a' | indent(999999999, true) }}".to_owned(), "indent is wider"),
        ("{{ 'a' | indent(width=999999999, first=true) }}".to_owned(), "indent is wider"),
        ("{{ '%999999999d' | format(1) }}".to_owned(), "format is wider"),
        ("{{ '%-0999999999d' | format(1) }}".to_owned(), "format is wider"),
        ("{{ '%.999999999f' | format(1) }}".to_owned(), "format is wider"),
        ("{{ '%*d' | format(999999999, 1) }}".to_owned(), "format is wider"),
        ("{{ '{:>999999999}'.format(1) }}".to_owned(), "format is wider"),
        (format!("{own}{{{{ ns }}}}"), "nested over 128 deep"),
        (format!("{own}{{{{ [ns] | tojson }}}}"), "nested over 128 deep"),
        (nested("{{ ns.a }}"), "nested over 128 deep"),
        ("a".repeat((256 << 10) + 1), "more than 262144 bytes"),
    ] {
        let error = shown(&text).unwrap_err();
        assert!(error.contains(what), "{}: {error}", &text[..text.len().min(80)]);
    }
    // Deep in the parser's tree, and deep where values are dropped, and shown all the same.
    assert_eq!(shown(&long).unwrap(), "a".repeat(40_001));
    assert_eq!(shown(&nested("done")).unwrap(), "done");
    assert_eq!(shown("{{ '%5.1f %s' | format(2.25, 1024) }}").unwrap(), "  2.2 1024");
    assert_eq!(shown("{{ 'a\nb' | indent(2) }}").unwrap(), "a\n  b");
}

#[test]
fn json_is_written_as_python_writes_it() {
    for (options, want) in [
        ("", r#"{"b": [1, {}, []], "a": "é😀\"\n"}"#),
        ("sort_keys=true", r#"{"a": "é😀\"\n", "b": [1, {}, []]}"#),
        ("ensure_ascii=true", r#"{"b": [1, {}, []], "a": "\u00e9\ud83d\ude00\"\n"}"#),
        ("separators=(',', ':')", r#"{"b":[1,{},[]],"a":"é😀\"\n"}"#),
        ("indent=2", "{\n  \"b\": [\n    1,\n    {},\n    []\n  ],\n  \"a\": \"é😀\\\"\\n\"\n}"),
    ] {
        let text = "{{ {'b': [1, {}, []], 'a': 'é😀\"\\n'} | tojson(OPTIONS) }}";
        assert_eq!(shown(&text.replace("OPTIONS", options)).unwrap(), want, "{options}");
    }
    assert!(shown("{{ 1 | tojson(separators=(',',)) }}").unwrap_err().contains("separators"));
}

#[test]
fn texts_are_parted_as_python_parts_them() {
    for (text, want) in [
        ("{{ 'a=b=c'.partition('=') | join('|') }}", "a|=|b=c"),
        ("{{ 'abc'.partition('=') | join('|') }}", "abc||"),
        ("{% set head, _, tail = 'a: b'.partition(': ') %}{{ tail }}{{ head }}", "ba"),
    ] {
        assert_eq!(shown(text).unwrap(), want);
    }
    assert!(shown("{{ 'a'.partition('') }}").unwrap_err().contains("no separator"));
}

/// As transformers 5.23 gives them to a template: those of a class, of its configuration, and of a
/// file of their own, which comes before the configuration unless that lists tokens with ids.
#[test]
fn special_tokens_are_the_tokenizers() {
    let template = "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ image_token }}";
    let map = r#"{"bos_token": "<other>", "eos_token": {"content": "</s>"}}"#;
    let both = r#"{"bos_token": "<s>", "eos_token": null}"#;
    let listed = r#"{"bos_token": "<s>", "eos_token": null, "added_tokens_decoder": {}}"#;
    let image = r#"{"image_token": "<img>"}"#;
    for (model, config, map, want) in [
        ("gpt2", "{}", "{}", "<|endoftext|>|<|endoftext|>||"),
        ("llama", "{}", "{}", "|||"),
        ("qwen2", "{}", "{}", "|<|endoftext|>|<|endoftext|>|"),
        ("gpt_neox", "{}", "{}", "<|endoftext|>|<|endoftext|>|<|padding|>|"),
        ("gpt2", both, map, "<other>|</s>||"),
        ("llama", both, map, "<other>|</s>||"),
        ("gpt2", listed, map, "<s>|||"),
        ("llama", listed, map, "<s>|||"),
        ("llama", image, "{}", "|||<img>"),
    ] {
        let model = json!({"model_type": model}).to_string();
        let files = [
            ("config.json", &model[..]),
            ("tokenizer_config.json", config),
            ("special_tokens_map.json", map),
            ("chat_template.jinja", template),
        ];
        assert_eq!(chat(&files).unwrap().render("x").unwrap(), want, "{files:?}");
    }
}

/// A chat of one template with settings.
fn with(template: &str, system: Option<&str>, variables: Value) -> Result<Chat> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    let tokens = golden().tokens.to_string();
    fs::write(folder.path().join("tokenizer_config.json"), tokens).unwrap();
    let variables = serde_json::from_value(variables).unwrap();
    Chat::open_with(folder.path(), ChatSettings { system: system.map(str::to_owned), variables })
}

#[test]
fn settings_that_would_do_nothing_are_refused() {
    let golden = golden();
    let refused = |name: &str, system, variables, words: &str, option: &str| {
        let error = with(&golden.templates[name], system, variables).err().expect(words);
        assert!(error.to_string().contains(words), "{error}");
        let options = error.remedy().unwrap().settings;
        assert!(options.iter().any(|setting| setting.name == option), "{options:?}");
    };
    let wrong = json!({"enable_thnking": false});
    refused(
        "thinks",
        None,
        wrong,
        "no variable `enable_thnking`; it reads enable_thi",
        "template_var",
    );
    refused("markers", None, json!({"x": 1}), "no variable `x`; it reads none", "template_var");
    for name in ["messages", "add_generation_prompt", "eos_token", "raise_exception", "tools"] {
        refused("opens", None, json!({name: 1}), "is not for users to set", "template_var");
    }
    refused("opens", Some("Be brief."), json!({}), "does not output the system message", "system");
    // Words that the template says itself, and a system message that is said twice or changed.
    let users = "{% for m in messages if m.role == 'user' %}user: {{ m.content }}{% endfor %}";
    let twice = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}\
                 {{ messages[0].content }}";
    let upper = "{% for m in messages %}{{ m.content | upper }}{% endfor %}";
    for (template, system) in
        [(users, "user"), (users, ":"), (users, "\u{E000}"), (twice, "Be brief."), (upper, "Be.")]
    {
        let error = with(template, Some(system), json!({})).err().expect(template).to_string();
        assert!(error.contains("does not output the system message exactly once"), "{error}");
    }
    for blank in ["", " \n"] {
        let error = with(NAMES, Some(blank), json!({})).err().expect("blank");
        assert!(error.to_string().contains("a system message without text"), "{error}");
        assert_eq!(error.remedy().unwrap().settings[0].name, "system");
    }
    let kept = "{% for m in messages %}{{ m.role }}:{{ m.content }}|{% endfor %}";
    let spaced = with(kept, Some(" user "), json!({})).unwrap();
    assert_eq!(spaced.render("x").unwrap(), "system: user |user:x|");
    let strict = with(&golden.templates["brackets"], Some("Be brief."), json!({}));
    let error = strict.err().expect("a template that wants users first").to_string();
    assert!(error.contains("Roles must alternate!"), "{error}");
}

#[test]
fn an_answer_that_begins_later_is_told_with_what_helps() {
    let golden = golden();
    let late = |name: &str, variables: Value| {
        let chat = with(&golden.templates[name], None, variables).unwrap();
        let (why, remedy) = chat.late_answer()?;
        let setting = |s: Setting| format!("{}={}", s.name, s.value.unwrap_or_default());
        Some((why, remedy.settings.into_iter().map(setting).collect::<Vec<_>>().concat()))
    };
    let (why, helps) = late("thinks", json!({})).unwrap();
    assert!(why.contains(r#""<think>\n\n</think>" stands between"#), "{why}");
    assert_eq!(helps, "template_var=enable_thinking=false");
    assert!(late("thinks", json!({"enable_thinking": true})).is_some());
    assert_eq!(late("thinks", json!({"enable_thinking": false})), None);
    let (why, helps) = late("opens", json!({})).unwrap();
    assert!(why.contains(r#""<think>" stands between"#), "{why}");
    assert_eq!(helps, "chat=false");
    for name in ["headers", "default-system", "brackets", "markers", "names", "odds"] {
        assert_eq!(late(name, json!({})), None, "{name}");
    }
    // A variable that the template gives a default and so sets is read all the same.
    let set = "{% set think = think if think is defined else true %}{{ messages[0].content }}\
               {% if not think %}!{% endif %}";
    let chat = with(set, None, json!({"think": false})).unwrap();
    assert_eq!(chat.render("x").unwrap(), "x!");
    assert!(with(set, None, json!({"thin": false})).is_err());
    let set = "{% set thinking = thinking if thinking is defined else true %}\
               {% for m in messages %}{{ m.role }}:\
               {% if m.role == 'assistant' and thinking %}<think></think>{% endif %}\
               {{ m.content }};{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
    let (_, remedy) = with(set, None, json!({})).unwrap().late_answer().unwrap();
    assert_eq!(remedy.settings[0].value.as_deref(), Some("thinking=false"));
    // Without the opening of an answer the model has to write that itself.
    let bare = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
    assert!(with(bare, None, json!({})).unwrap().late_answer().is_some());
}
