//! Which class of the reference framework reads a folder's tokenizer, and the rules that byte-level
//! classes have for a vocabulary and merges: how text is normalised and parted before it is merged.
//!
//! A `tokenizer.json` holds its own rules; `vocab.json` and `merges.txt` are read by those of the
//! class alone. The class is `tokenizer_class` of `tokenizer_config.json`, else of `config.json`,
//! else the one registered for `model_type`; which of two that differ is taken follows the
//! framework's `AutoTokenizer` (transformers 5.23). `tools/layouts.py` records what it says.

use serde_json::{Value, json};

use super::sources::{DECODER, RESAVE, Sources, TOKENIZER_CONFIG};
use crate::base::{Error, Result};

/// The rules of a class.
pub(super) struct Rules {
    /// Its name, without `Fast`.
    pub class: &'static str,
    /// Whether characters are composed (NFC).
    nfc: bool,
    split: Split,
    /// Its special tokens where no file names them.
    pub special: &'static [(&'static str, &'static str)],
    /// Whether it adds its special tokens once more, without the flags that files give them.
    pub plain_special: bool,
}

/// How a text is parted before it is merged.
enum Split {
    /// By GPT-2's pattern, into the letters of its bytes.
    Bytes,
    /// By a pattern, into the letters of its bytes.
    Pattern(&'static str),
    /// Not at all; spaces become `▁`. Its merges are in no file of their own.
    Metaspace,
}

const END: &str = "<|endoftext|>";

const GPT2: Rules = Rules {
    class: "GPT2Tokenizer",
    nfc: false,
    split: Split::Bytes,
    special: &[("bos_token", END), ("eos_token", END), ("unk_token", END)],
    plain_special: false,
};

static RULES: [Rules; 4] = [
    GPT2,
    Rules {
        class: "GPTNeoXTokenizer",
        nfc: true,
        special: &[
            ("bos_token", END),
            ("eos_token", END),
            ("unk_token", END),
            ("pad_token", "<|padding|>"),
        ],
        ..GPT2
    },
    Rules {
        class: "Qwen2Tokenizer",
        nfc: true,
        split: Split::Pattern(concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        )),
        special: &[("eos_token", END), ("unk_token", END), ("pad_token", END)],
        plain_special: true,
    },
    Rules {
        class: "LlamaTokenizer",
        split: Split::Metaspace,
        special: &[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")],
        ..GPT2
    },
];

/// The class that reads `tokenizer.json` as it is.
const WHOLE: &str = "TokenizersBackend";

/// What the framework registers for a `model_type`, and whether a folder's own word counts.
const MODELS: [(&str, &str, bool); 7] = [
    ("gpt2", "GPT2Tokenizer", true),
    ("gptj", "GPT2Tokenizer", true),
    ("opt", "GPT2Tokenizer", true),
    ("gpt_neox", "GPTNeoXTokenizer", true),
    ("qwen2", "Qwen2Tokenizer", false),
    ("qwen3", "Qwen2Tokenizer", true),
    ("mistral", WHOLE, false),
];

/// The name of the class of a folder; none where nothing says one.
fn named(sources: &Sources) -> Option<&str> {
    let said = sources.config["tokenizer_class"].as_str();
    let said = said.or_else(|| sources.model["tokenizer_class"].as_str());
    let model = sources.model["model_type"].as_str();
    let registered = MODELS.iter().find(|(name, ..)| Some(*name) == model);
    match (said, registered) {
        (None, None) => None,
        (None, Some(&(_, class, _))) | (Some(_), Some(&(_, class, false))) => Some(class),
        (Some(said), _) => Some(said.strip_suffix("Fast").unwrap_or(said)),
    }
}

/// The rules of the folder's class, if it is one of the table's. Where they are not those of its
/// `tokenizer.json` (null where there is none), the framework's ids differ from that file's.
pub(super) fn rules(sources: &Sources, description: &Value) -> Option<&'static Rules> {
    let name = named(sources)?;
    let rules = RULES.iter().find(|rules| rules.class == name)?;
    // The framework takes a byte-level tokenizer of this class for what it is.
    let bytes = ["pre_tokenizer", "decoder"].map(|field| &description[field]);
    let bytes = bytes.into_iter().flat_map(steps).any(|step| step["type"] == "ByteLevel");
    (!matches!(rules.split, Split::Metaspace) || !bytes).then_some(rules)
}

/// The steps of a pre-tokenizer or a decoder, in a sequence or alone.
pub(super) fn steps(whole: &Value) -> impl Iterator<Item = &Value> {
    let inner = ["pretokenizers", "decoders"].into_iter().filter_map(|name| whole[name].as_array());
    inner.flatten().chain([whole])
}

/// The rules by which the folder's vocabulary and merges are read: GPT-2's where no file names a
/// model or a class, for then they are the tokenizer alone, as GPT-2's was published.
///
/// # Errors
/// A class without rules here, by name; one whose code is in the folder.
pub(super) fn rules_of_two_files(sources: &Sources) -> Result<&'static Rules> {
    let refused = |file: &str, field: &str, what: String| {
        Err(Error::input(sources.dir.join(file), field, what, RESAVE))
    };
    if !sources.config["auto_map"].is_null() {
        let what = "the tokenizer is code of its own, which is not run".to_owned();
        return refused(TOKENIZER_CONFIG, "auto_map", what);
    }
    if let Some(rules) = rules(sources, &Value::Null)
        && !matches!(rules.split, Split::Metaspace)
    {
        return Ok(rules);
    }
    let said = |file: &Value, field| file[field].as_str().map(str::to_owned);
    let (config, model) = (&sources.config, &sources.model);
    let unknown = |name: String| {
        format!(
            "what `{name}` makes of vocab.json and merges.txt in this folder is not implemented"
        )
    };
    if let Some(name) = said(config, "tokenizer_class") {
        return refused(TOKENIZER_CONFIG, "tokenizer_class", unknown(name));
    }
    for field in ["tokenizer_class", "model_type"] {
        if let Some(name) = said(model, field) {
            return refused("config.json", field, unknown(name));
        }
    }
    Ok(&RULES[0])
}

impl Rules {
    /// Its normaliser and its pre-tokenizer, as `tokenizer.json` writes them.
    ///
    /// # Errors
    /// A flag of `tokenizer_config.json` that is none.
    pub fn pipeline(&self, sources: &Sources) -> Result<(Value, Value)> {
        let prefix = sources.flag("add_prefix_space")?;
        let bytes = |pattern: bool| {
            json!({"type": "ByteLevel", "add_prefix_space": prefix == Some(true),
                   "trim_offsets": false, "use_regex": pattern})
        };
        let pre_tokenizer = match self.split {
            Split::Bytes => bytes(true),
            Split::Pattern(pattern) => {
                let split = json!({"type": "Split", "pattern": {"Regex": pattern},
                                   "behavior": "Isolated", "invert": false});
                json!({"type": "Sequence", "pretokenizers": [split, bytes(false)]})
            }
            Split::Metaspace => {
                let scheme = match (prefix, sources.flag("legacy")?) {
                    (Some(false), _) => "never",
                    (_, Some(true)) => "always",
                    _ => "first",
                };
                json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme,
                       "split": false})
            }
        };
        Ok((if self.nfc { json!({"type": "NFC"}) } else { Value::Null }, pre_tokenizer))
    }

    /// Why the framework gives some texts other ids than this `tokenizer.json` does, if it does: it
    /// takes vocabulary and merges from there, and all else from the class.
    ///
    /// # Errors
    /// As [`pipeline`](Rules::pipeline).
    pub fn difference(&self, description: &Value, sources: &Sources) -> Result<Option<String>> {
        let (normalizer, pre_tokenizer) = self.pipeline(sources)?;
        let same = |field: &str, ours: &Value| plain(&description[field]) == plain(ours);
        let how = if !same("normalizer", &normalizer) || !same("pre_tokenizer", &pre_tokenizer) {
            "parts texts in another way than".to_owned()
        } else if let Some(token) = unlisted(description, sources) {
            format!("adds {token:?}, which added_tokens_decoder does not list, unlike")
        } else {
            return Ok(None);
        };
        Ok(Some(format!(
            "tokenizer.json {how} {}, by whose rules transformers 5 reads this folder; tokens here \
             are those of tokenizer.json; to have them there too, load the tokenizer by \
             PreTrainedTokenizerFast.from_pretrained",
            self.class
        )))
    }
}

/// An added token of a `tokenizer.json` that the list of the configuration, if there is one, lacks.
fn unlisted<'a>(description: &'a Value, sources: &Sources) -> Option<&'a str> {
    let listed = sources.config[DECODER].as_object()?;
    let own = description["added_tokens"].as_array()?.iter();
    let mut own = own.filter_map(|token| token["content"].as_str());
    own.find(|content| listed.values().all(|token| token["content"] != *content))
}

/// A step without what says nothing about ids, and with what is so unless it is said.
fn plain(step: &Value) -> Value {
    let Value::Object(fields) = step else {
        let each = step.as_array().map(|steps| steps.iter().map(plain).collect());
        return each.map_or_else(|| step.clone(), Value::Array);
    };
    let mut fields: serde_json::Map<_, _> =
        fields.iter().map(|(name, value)| (name.clone(), plain(value))).collect();
    fields.remove("trim_offsets");
    if step["type"] == "ByteLevel" {
        fields.entry("use_regex").or_insert(Value::Bool(true));
    }
    if step["type"] == "Metaspace" && fields.contains_key("prepend_scheme") {
        fields.remove("add_prefix_space"); // older files say it in both ways
        fields.remove("str_rep");
    }
    Value::Object(fields)
}
