"""Records which ids transformers gives texts in folders of every layout: tests/golden/layouts.json.

`python tools/layouts.py`. A case is the files of a folder; `ids` is what AutoTokenizer says of each text, or null
where it refuses the folder. `refused` are words of our own refusal, where we give none. Where two files contradict
each other the framework drops one of them without a word, and releases differ in which: we refuse. The tokenizer is a
toy whose merges cross what pre-tokenizers part: digits, line breaks, contractions, what normalisers compose.
"""

import json
import os
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "critical"

import tokenizers
import transformers
from transformers import AutoTokenizer

ROOT = Path(__file__).parent.parent
WORDS = ["2023", "\n\n", "\r\n", "  \n", " the", "'ll", "'LL", "é", "e\u0301", "   ", "日本", "....", "a!!", "x\t", "\nb", "ab"]
END = "<|endoftext|>"
TEXTS = [
    "",
    "In 2023, 10 of the",
    "a\n\nb\r\n\r\nc  \n d\tx\ty",
    "caf\u00e9 cafe\u0301 \u212b",
    "日本語 and 🙂👍🏽",
    f"one{END} two {END}",
    " lead  and   more   ",
    "We'll SAY WE'LL a!!....",
    "x<x>y <x> z <X>",
    "<think>ab</think> <|im_start|>user\n<img>",
    "<s>ab</s> <pad>",
]


def byte_letters():
    """GPT-2's letters: one for every byte."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in keep]
    return {b: chr(b) for b in keep} | {b: chr(256 + i) for i, b in enumerate(rest)}


def vocabulary():
    letters = byte_letters()
    vocab = {letters[b]: i for i, b in enumerate(sorted(letters, key=lambda b: letters[b]))}
    vocab[END] = len(vocab)
    vocab["<s>"] = len(vocab)
    merges = []
    for word in WORDS:
        left = ""
        for b in word.encode():
            if left and left + letters[b] not in vocab:
                vocab[left + letters[b]] = len(vocab)
                merges.append([left, letters[b]])
            left += letters[b]
    vocab["\u2581"] = len(vocab)  # SentencePiece's space, and two of them
    vocab["\u2581\u2581"] = len(vocab)
    return vocab, [*merges, ["\u2581", "\u2581"]]


VOCAB, MERGES = vocabulary()
SIZE = len(VOCAB)
TWO = {"vocab.json": "(vocab)", "merges.txt": "(merges)"}


def added(content, id=None, special=True, **flags):
    token = {"content": content, "single_word": False, "lstrip": False, "rstrip": False}
    token |= {"normalized": not special, "special": special} | flags
    return token if id is None else {"id": id} | token


def whole(*tokens, normalizer=None, pre=None, post=None):
    """A tokenizer.json; the test fills in the vocabulary."""
    prefix = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [added(END, VOCAB[END]), *tokens],
        "normalizer": normalizer, "pre_tokenizer": pre or prefix, "post_processor": post, "decoder": prefix,
        "model": {"type": "BPE", "vocab": "(vocab)", "merges": "(merges)"},
    }


def bos(token):
    first, text = {"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    of = {token: {"id": token, "ids": [VOCAB[token]], "tokens": [token]}}
    return {"type": "TemplateProcessing", "single": [first, text], "pair": [first, text], "special_tokens": of}


DIGITS = {"type": "Sequence", "pretokenizers": [
    {"type": "Digits", "individual_digits": True},
    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
]}
CASES = []


def case(name, model_type, files, refused=None, own=None):
    """`own`: our ids are not the framework's, and why."""
    if model_type:
        files = {"config.json": {"model_type": model_type}} | files
    CASES.append({"name": name, "files": files, "refused": refused, "own": own})


def config(**fields):
    return {"tokenizer_config.json": fields}


def marked(content, **flags):
    return {"__type": "AddedToken", **added(content, **flags)}


# Two files: whose rules?
for kind in ["gpt2", "gptj", "opt", "gpt_neox", "qwen2", "qwen3"]:
    case(f"two files, {kind}", kind, TWO)
for kind in ["llama", "mistral"]:
    case(f"two files, {kind}", kind, TWO, ["config.json: model_type", kind, "save_pretrained"])
for kind, name in [("qwen3", "GPT2Tokenizer"), ("gpt2", "Qwen2TokenizerFast"), ("llama", "Qwen2Tokenizer"),
                   ("llama", "GPT2TokenizerFast"), ("gpt2", "GPTNeoXTokenizerFast"), ("qwen2", "GPT2Tokenizer")]:
    case(f"two files, {kind} with {name}", kind, TWO | config(tokenizer_class=name))
for kind, name in [("gpt2", "PreTrainedTokenizerFast"), ("gpt2", "NoSuchTokenizer"), ("gpt2", "RobertaTokenizer"),
                   ("mistral", "GPT2Tokenizer"), ("llama", "LlamaTokenizer"), ("gpt2", "WhisperTokenizer"),
                   ("gpt2", "CodeGenTokenizer")]:
    case(f"two files, {kind} with {name}", kind, TWO | config(tokenizer_class=name), [name, "save_pretrained"])
case("two files, the class in config.json", None,
     TWO | {"config.json": {"model_type": "llama", "tokenizer_class": "Qwen2Tokenizer"}})
case("two files, code of their own", "gpt2", TWO | config(auto_map={"AutoTokenizer": ["a.B", None]}),
     ["tokenizer_config.json: auto_map"])
# Two files: flags.
case("two files, a beginning", "opt", TWO | config(
    tokenizer_class="GPT2Tokenizer", add_bos_token=True, bos_token=marked("<s>", special=False, normalized=True),
    eos_token=marked("<s>", special=False, normalized=True)))
case("two files, a beginning that is new", "gpt2", TWO | config(add_bos_token=True, bos_token="<x>"))
case("two files, a beginning and no token", "qwen2", TWO | config(add_bos_token=True, bos_token=None))
case("two files, a beginning and an end", "gpt2", TWO | config(add_bos_token=True, add_eos_token=True, eos_token="<s>"))
for kind in ["gpt2", "qwen2"]:
    case(f"two files, a prefix, {kind}", kind, TWO | config(add_prefix_space=True))
case("two files, special tokens are split", "gpt2", TWO | config(split_special_tokens=True))
case("two files, nulls", "gpt2", TWO | config(
    tokenizer_class=None, bos_token=None, eos_token=None, unk_token=None, pad_token=None, add_bos_token=None,
    additional_special_tokens=None, extra_special_tokens=None))
case("two files, an empty configuration", "qwen2", TWO | config())
case("two files, a name of the model's own", "gpt2", TWO | config(
    image_token="<img>", b_token="<x>", extra_special_tokens={"z": "<pad>", "a": "<think>"}))
# Two files: added tokens.
ADDED = {str(SIZE): added("<x>"), str(SIZE + 1): added("<think>", special=False)}
case("two files, a decoder of added tokens", "qwen2", TWO | config(
    added_tokens_decoder={str(VOCAB[END]): added(END)} | ADDED, additional_special_tokens=["<x>"],
    eos_token="<x>", pad_token=END))
case("two files, a decoder in another order", "qwen2", TWO | config(added_tokens_decoder=dict(reversed(ADDED.items()))))
case("two files, added tokens of their own file", "gpt2", TWO | {"added_tokens.json": {"<think>": SIZE, "<x>": SIZE + 1}})
case("two files, all of the old files", "gpt2", TWO | {
    "added_tokens.json": {"<x>": SIZE + 1, "<think>": SIZE},
    "special_tokens_map.json": {"bos_token": "<s>", "pad_token": marked("<pad>", lstrip=True),
                                "additional_special_tokens": ["<x>", "<img>"]}}
     | config(bos_token="<x>"))
case("two files, a map beside a decoder is not read", "qwen2", TWO | config(added_tokens_decoder=ADDED)
     | {"special_tokens_map.json": {"additional_special_tokens": ["<img>"]}, "added_tokens.json": {"<pad>": SIZE + 2}})
# tokenizer.json: the tokens that it lacks.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = {"normalizer": {"type": "NFC"}, "pre": {"type": "Sequence", "pretokenizers": [
    {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False},
    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
]}}
PIPELINES = {"gpt2": {}, "llama": {"pre": DIGITS}, "qwen2": QWEN}
LACKING = {
    "added_tokens.json": {"added_tokens.json": {"<x>": SIZE, "<think>": SIZE + 1}},
    "added_tokens_decoder": config(added_tokens_decoder={str(VOCAB[END]): added(END)} | ADDED),
    "special_tokens_map.json": {"special_tokens_map.json": {
        "pad_token": added("<x>", lstrip=True), "additional_special_tokens": ["<img>", "<|im_start|>"]}},
    "additional_special_tokens": config(additional_special_tokens=["<|im_start|>", marked("<x>", lstrip=True)]),
    "extra_special_tokens": config(extra_special_tokens=["<img>", "<x>"]),
    "extra_special_tokens by name": config(extra_special_tokens={"image_token": "<img>", "b": "<x>"}),
    "a token of its own name": config(image_token="<img>", pad_token="<x>"),
    "an empty object before a list": config(extra_special_tokens={})
    | {"special_tokens_map.json": {"additional_special_tokens": ["<img>", "<x>"]}},
    "both lists": config(extra_special_tokens=["<img>"], additional_special_tokens=["<x>"]),
    "a token of the vocabulary": config(bos_token="<s>", additional_special_tokens=["ab"]),
    "nothing": config(),
}
for kind, pipeline in PIPELINES.items():
    for name, files in LACKING.items():
        case(f"{kind} lacks {name}", kind, {"tokenizer.json": whole(**pipeline)} | files)
    case(f"{kind} with its own token said again", kind,
         {"tokenizer.json": whole(added("<x>", SIZE, lstrip=True), **pipeline)}
         | config(added_tokens_decoder={str(VOCAB[END]): added(END), str(SIZE): added("<x>", special=False)}))
# tokenizer.json: flags.
for kind, pipeline in PIPELINES.items():
    start = whole(**pipeline, post=bos("<s>"))
    case(f"{kind} begins as tokenizer.json says", kind, {"tokenizer.json": start}
         | config(add_bos_token=False, bos_token="<s>"))
    case(f"{kind} does not begin as its configuration says", kind, {"tokenizer.json": whole(**pipeline)}
         | config(add_bos_token=True, bos_token="<s>"))
    case(f"{kind} splits special tokens", kind, {"tokenizer.json": whole(**pipeline)}
         | config(split_special_tokens=True))
    case(f"{kind} puts a space first, by its configuration alone", kind, {"tokenizer.json": whole(**pipeline)}
         | config(add_prefix_space=True), ["tokenizer_config.json: add_prefix_space"])
case("tokenizer.json by another name", "gpt2", {"tokenizer.json": whole(), "tokenizer.4.0.0.json": whole()}
     | config(fast_tokenizer_files=["tokenizer.4.0.0.json", "tokenizer.json"]),
     ["tokenizer_config.json: fast_tokenizer_files", "tokenizer.4.0.0.json"])
case("tokenizer.json before two files", "qwen2", {"tokenizer.json": whole(**QWEN), "vocab.json": {"a": 0}, "merges.txt": ""})
case("tokenizer.json of an unknown class", "gpt2", {"tokenizer.json": whole(pre=DIGITS)} | config(tokenizer_class="Nope"))
case("tokenizer.json of a class without rules", "gpt2",
     {"tokenizer.json": whole(pre=DIGITS)} | config(tokenizer_class="PreTrainedTokenizerFast"))
# Ids that are said twice, and differ.
HERE = ["has the id", "<x>"]
case("an id beyond the end", "gpt2", TWO | {"added_tokens.json": {"<x>": 999}}, ["added_tokens.json: <x>", *HERE])
case("an id that another token has", "qwen2", TWO | config(added_tokens_decoder={"5": added("<x>")}),
     ["tokenizer_config.json: added_tokens_decoder", *HERE])
case("a token twice", "qwen2", TWO | config(added_tokens_decoder={str(SIZE): added("<x>"), str(SIZE + 1): added("<x>")}),
     ["tokenizer_config.json: added_tokens_decoder", *HERE])
case("two files that count differently", "llama", {"tokenizer.json": whole(added("<img>", SIZE), added("<x>", SIZE + 1))}
     | {"added_tokens.json": {"<x>": SIZE}}, ["added_tokens.json: <x>", *HERE])
case("an id beyond the end in tokenizer.json", "llama", {"tokenizer.json": whole(added("<x>", 999))},
     ["tokenizer.json: added_tokens", *HERE])
# The framework's classes split as their names say, whatever tokenizer.json says. We take tokenizer.json, and warn.
WARNED = "tokenizer.json is the tokenizer, whatever the class"
case("SmolLM2's kind", "llama", {"tokenizer.json": whole(pre=DIGITS)} | config(tokenizer_class="GPT2Tokenizer"), own=WARNED)
case("another splitting than Qwen2's", "qwen2", {"tokenizer.json": whole()}, own=WARNED)
# Of the tokens that tokenizer.json adds they take those that their configuration lists, where it lists any.
for kind, pipeline in [("gpt2", {}), ("qwen2", QWEN)]:
    case(f"{kind} lists not all of its tokens", kind, {"tokenizer.json": whole(added("<x>", SIZE), **pipeline)}
         | config(added_tokens_decoder={str(VOCAB[END]): added(END)}), own=WARNED)


# Llama's kind: no pattern, and a space before the text, where it begins or after every added token too.
SPACES = {"type": "BPE", "vocab": "(vocab)", "merges": "(merges)", "fuse_unk": True, "byte_fallback": True}


def spaces(normalizer=None, pre=None):
    return {"tokenizer.json": whole(added("<s>", VOCAB["<s>"]))
            | {"normalizer": normalizer, "pre_tokenizer": pre, "decoder": None, "model": SPACES}}


def metaspace(scheme, **more):
    return spaces(pre={"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": False} | more)


PREPEND = spaces({"type": "Sequence", "normalizers": [
    {"type": "Prepend", "prepend": "\u2581"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]})
LLAMA = {"tokenizer_class": "LlamaTokenizerFast", "bos_token": "<s>", "eos_token": "<s>", "unk_token": "<s>"}
for kind in ["llama", "mistral"]:
    case(f"{kind}, a space where the text begins", kind,
         metaspace("first", add_prefix_space=True) | config(**LLAMA, legacy=False))
    case(f"{kind}, no space before the text", kind,
         metaspace("never") | config(**LLAMA, add_prefix_space=False))
    case(f"{kind}, a space without a class", kind, PREPEND)
    own = WARNED if kind == "llama" else None
    case(f"{kind}, a space by a normaliser", kind, PREPEND | config(**LLAMA), own=own)
    case(f"{kind}, a space after every token", kind, metaspace("always") | config(**LLAMA), own=own)
case("a space after every token, and the old behaviour", "llama",
     metaspace("always") | config(**LLAMA, legacy=True))


def content(files, name):
    value = files[name]
    if value == "(merges)":
        return "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in MERGES)
    if value == "(vocab)":
        return json.dumps(VOCAB)
    if isinstance(value, str):
        return value
    text = json.dumps(value)
    return text.replace('"(vocab)"', json.dumps(VOCAB)).replace('"(merges)"', json.dumps(MERGES))


def write(folder, files):
    """The files of a case."""
    for name in files:
        (Path(folder) / name).write_text(content(files, name))


def reference(files):
    """The framework's ids of each text, or None where it refuses the folder."""
    with tempfile.TemporaryDirectory() as folder:
        write(folder, files)
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
            ids = [tokenizer(text)["input_ids"] for text in TEXTS]
        except Exception:
            return None
        return ids if any(ids) else None  # LlamaTokenizer, of files that are not its own, knows no text


if __name__ == "__main__":
    versions = {m.__name__: m.__version__ for m in (transformers, tokenizers)}
    # As texts: the order of keys decides ids.
    text = lambda value: value if isinstance(value, str) else json.dumps(value)
    cases = [one | {"files": {name: text(value) for name, value in one["files"].items()},
                    "ids": reference(one["files"])} for one in CASES]
    golden = {"versions": versions, "vocab": VOCAB, "merges": MERGES, "texts": TEXTS}
    head = json.dumps(golden, ensure_ascii=False)[:-1]
    rows = ",\n".join(json.dumps(one, ensure_ascii=False) for one in cases)
    path = ROOT / "tests/golden/layouts.json"
    path.write_text(f'{head}, "cases": [\n{rows}\n]}}\n')
    for one in cases:
        if one["ids"] is None and not one["refused"]:
            print("refused by the framework alone:", one["name"])
