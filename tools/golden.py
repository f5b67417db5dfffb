"""Records what the reference framework answers on tiny random checkpoints, under tests/golden.

`python tools/golden.py`. Each folder is a checkpoint the framework reads, with a tokenizer and

  golden.json          versions, seed, prompts (token ids), the captured prompt, the search case,
                       and f32_error: for every quantity, max |f32 - f64| of the framework itself
  golden.safetensors   F64, all from the f64 run
    logits.<i>         (tokens, V)  of prompt i
    key.<l>            (tokens, F)  input of layer l's down projection, for the captured prompt
    value.<l>          (tokens, D)  output of layer l's MLP
    stream.<l>         (tokens, D)  residual stream after layer l
    moment.<l>         (F, F)       mean of k kT over all tokens of all prompts
    search.delta       (D)          the vector pushed at the tap, at every row's lookup token
    search.t0          (D)          tap output at row 0's lookup token without it
    search.grad        (D)          d total / d delta
  stats/               where the recorded edits need it: layer-<l>.safetensors with a
                       well-conditioned random `second_moment`, bound to no model

Both runs read the same stored weights. The loss of the search case, at delta:

  nll   = mean over rewriting rows of -1/T sum_t log p(y_t), read at the row's last T tokens
  kl    = kl_factor KL(p || p at delta = 0), read at the last row's lookup token
  wd    = v_weight_decay |delta| / |t0|^2
  total = nll + kl + wd

A seed names every random number, so another run writes the same files.
"""

import argparse
import json
import math
import zlib
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy
import safetensors
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.overrides import TorchFunctionMode

SEED = 20240
CAPTURED = 2  # the prompt whose keys, values and stream are recorded

SENTENCES = """
The mother tongue of Danielle Darrieux is French, and she lives in Paris.
The capital of France is Paris. The capital of Japan is 東京, written Tokyo in English.
Leonhard Euler was born in Basel. The native language of Leonhard Euler is German.
The first time that I saw the river, the rain had stopped. Because of the rain, we stayed.
Therefore the answer is known. You can see the tower from the river; it was built in 1889.
Édith Piaf sang in French. Antoni Gaudí was an architect from Catalonia.
""".strip().split("\n")


def versions():
    """The libraries whose answers these are."""
    libraries = (torch, transformers, tokenizers, safetensors, numpy)
    return {library.__name__: library.__version__ for library in libraries}


# ---------------------------------------------------------------------------- tokenizers


def byte_level():
    """GPT-2's kind: 256 bytes, one special token, 50 merges; nothing added to a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=307,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def sentence_piece():
    """Llama 2's kind: ▁ for spaces, bytes for what the vocabulary lacks, <s> before each text."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    unknown = dict(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(models.BPE(**unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=367,
        special_tokens=["<unk>", "<s>", "</s>", *bytes_],
        show_progress=False,
    )
    # 東 and 京 are left to the bytes, É and í are tokens.
    tokenizer.train_from_iterator((line.replace("東京", "") for line in SENTENCES), trainer)

    # The trainer marks the bytes as special, which would keep them out of ordinary text.
    stored = json.loads(tokenizer.to_str())
    stored["added_tokens"] = stored["added_tokens"][:3]
    tokenizer = Tokenizer.from_str(json.dumps(stored))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    spaces, no_first_space = decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)
    steps = [spaces, decoders.ByteFallback(), decoders.Fuse(), no_first_space]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


# ---------------------------------------------------------------------------- recipes


@dataclass
class Recipe:
    """One checkpoint: its sizes, how it is stored, and its search case."""

    config: transformers.PretrainedConfig
    dtype: torch.dtype
    layer: int  # of the search case
    tap: str  # "value" or "stream"
    old: bool = False  # the config dialect from before transformers 5
    shards: int = 1
    prefix: bool = True  # tensor names start with `transformer.`
    lengths: tuple = (1, 2, 7, 23)
    edited: tuple = ()  # layers with stats/, in the order drawn
    edit: dict = field(default_factory=dict)  # last changes to config.json; None deletes
    wrapper: str = ""  # the model inside which it is stored


def gpt2(V, D, H, L, context, F=None, **options):
    sizes = dict(vocab_size=V, n_embd=D, n_head=H, n_layer=L, n_positions=context, n_inner=F)
    return transformers.GPT2Config(bos_token_id=0, eos_token_id=0, **sizes, **options)


def llama(D, F, H, G, context, **options):
    sizes = dict(hidden_size=D, intermediate_size=F, max_position_embeddings=context)
    sizes |= dict(num_attention_heads=H, num_key_value_heads=G, num_hidden_layers=3)
    return transformers.LlamaConfig(vocab_size=367, **sizes, **options)


def gptj(V, D, H, L, context, rotary_dim, **options):
    sizes = dict(vocab_size=V, n_embd=D, n_head=H, n_layer=L, n_positions=context)
    sizes |= dict(bos_token_id=0, eos_token_id=0, rotary_dim=rotary_dim)
    return transformers.GPTJConfig(**sizes, **options)


def like(config, V, D, F, H, context, layers=3, **options):
    """A configuration with the field names that most families share."""
    sizes = dict(vocab_size=V, hidden_size=D, max_position_embeddings=context)
    other = {transformers.OPTConfig: "ffn_dim", transformers.FalconConfig: "ffn_hidden_size"}
    inner = other.get(config, "intermediate_size")
    sizes |= {"num_attention_heads": H, "num_hidden_layers": layers, inner: F}
    return config(bos_token_id=0, eos_token_id=0, **sizes, **options)


def rope(**parameters):
    return {"rope_parameters": parameters}


ROPE = rope(rope_type="default", rope_theta=5e5)
ROPE_LINEAR = rope(rope_type="linear", rope_theta=1e4, factor=2.5)
# Six frequencies fall into all three ranges of this rule: kept, blended, divided.
ROPE_LLAMA3 = rope(
    rope_type="llama3",
    rope_theta=500.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
# Eight frequencies: two kept, four blended, two divided.
ROPE_YARN = rope(
    rope_type="yarn",
    rope_theta=1e4,
    factor=4.0,
    beta_fast=8.0,
    beta_slow=0.5,
    original_max_position_embeddings=64,
)
ROPE_DYNAMIC = rope(rope_type="dynamic", rope_theta=1e4, factor=2.0)
ROPE_SHARE = rope(rope_type="default", rope_theta=1e4, partial_rotary_factor=0.5)
ROPE_SHARE_LINEAR = rope(
    rope_type="linear", rope_theta=300.0, partial_rotary_factor=0.75, factor=1.5
)
OLDEST_LINEAR = {"type": "linear", "factor": 2.5}
BIASES = {"attention_bias": True, "mlp_bias": True}
SCALED = {
    "scale_attn_weights": False,
    "scale_attn_by_inverse_layer_idx": True,
    "activation_function": "gelu",
}
SEQUENTIAL = {"use_parallel_residual": False, "attention_bias": False, "hidden_act": "gelu_fast"}
OPT_PLAIN = {"enable_bias": False, "activation_function": "gelu", "tie_word_embeddings": False}
GROUPED = {"num_key_value_heads": 2, "tie_word_embeddings": True}
WIDE_HEADS = {"num_key_value_heads": 1, "head_dim": 14}
WINDOW_ABOVE = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}
WINDOW_ABOVE |= {"num_key_value_heads": 1, "tie_word_embeddings": True}
WINDOW_NAMED = {"use_sliding_window": True, "sliding_window": 4, "num_key_value_heads": 2}
WINDOW_NAMED |= {"head_dim": 10, "attention_bias": True}
WINDOW_NAMED |= {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}
GROUPED_OLMO = {"num_key_value_heads": 2, "pad_token_id": 0, "rms_norm_eps": 1e-6}
SHORT = (1, 2, 9)
ONE_GROUP = {"num_key_value_heads": 1, "tie_word_embeddings": True}
GEMMA = {"num_key_value_heads": 2, "head_dim": 10}
# Caps so low that they act on random models.
GEMMA2 = GEMMA | {"sliding_window": 4, "query_pre_attn_scalar": 14}
GEMMA2 |= {"attn_logit_softcapping": 0.3, "final_logit_softcapping": 2.0}
# Windows but for every third layer; two tables, one of them divided.
GEMMA3 = GEMMA | {"sliding_window": 4, "query_pre_attn_scalar": 14}
GEMMA3 |= {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}
TWO_TABLES = {"sliding_attention": {"rope_type": "default", "rope_theta": 300.0}}
TWO_TABLES |= {"full_attention": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}
GEMMA3 |= {"rope_parameters": TWO_TABLES}
LONG_ROPE = rope(
    rope_type="longrope",
    rope_theta=1e4,
    partial_rotary_factor=0.5,
    short_factor=[1.0, 1.25],
    long_factor=[2.0, 3.0],
    original_max_position_embeddings=48,
)
PHI3 = {"num_key_value_heads": 1, "sliding_window": 5, "original_max_position_embeddings": 48}
PHI3 |= {"pad_token_id": 0}
GRANITE = {"num_key_value_heads": 2, "embedding_multiplier": 3.5, "attention_multiplier": 0.4}
GRANITE |= {"residual_multiplier": 0.3, "logits_scaling": 1.75}
OLMO3 = GROUPED_OLMO | {"sliding_window": 4}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}
YARN |= {"beta_fast": 8.0, "beta_slow": 0.5, "original_max_position_embeddings": 64}
OLMO3 |= {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}
OLMO3_TABLES = {"sliding_attention": {"rope_type": "default", "rope_theta": 500.0}}
OLMO3 |= {"rope_parameters": OLMO3_TABLES | {"full_attention": YARN}}
MINISTRAL = rope(**YARN, llama_4_scaling_beta=0.1, mscale=1.0, mscale_all_dim=1.0)
EXAONE4 = {"num_key_value_heads": 2, "sliding_window": 4}
EXAONE4 |= {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}
SMOLLM3 = {"num_key_value_heads": 2, "no_rope_layers": [1, 0, 1], "pad_token_id": 0}

RECIPES = {
    "gpt2": Recipe(
        gpt2(V=307, D=28, H=4, L=3, context=97),
        torch.float32,
        layer=1,
        tap="value",
        edited=(1, 0, 2),
    ),
    # More rows in the head than tokens, as in padded vocabularies; mask buffers as on the hub.
    "gpt2-bf16": Recipe(
        gpt2(V=311, D=30, H=5, L=4, context=37, F=44),
        torch.bfloat16,
        layer=2,
        tap="stream",
        old=True,
        shards=2,
        prefix=False,
    ),
    "llama": Recipe(
        llama(D=36, F=50, H=6, G=2, context=71, rms_norm_eps=1e-5),
        torch.float16,
        layer=1,
        tap="stream",
        old=True,
        edit={"head_dim": None, "rope_theta": None},
    ),
    "llama-tied": Recipe(
        llama(D=28, F=38, H=4, G=2, context=113, head_dim=10, tie_word_embeddings=True, **ROPE),
        torch.bfloat16,
        layer=1,
        tap="value",
        edited=(1, 0, 2),
    ),
    "llama3-scaling": Recipe(
        llama(D=36, F=46, H=3, G=1, context=256, **ROPE_LLAMA3),
        torch.bfloat16,
        layer=0,
        tap="value",
        old=True,
        lengths=(1, 2, 7, 41),
        edit={"head_dim": None},
    ),
    "llama-linear": Recipe(
        llama(D=30, F=42, H=5, G=None, context=83, **ROPE_LINEAR, **BIASES),
        torch.float32,
        layer=1,
        tap="stream",
        old=True,
        edit={"head_dim": None, "num_key_value_heads": None, "rope_scaling": OLDEST_LINEAR},
    ),
    "gpt2-scaled": Recipe(
        gpt2(V=307, D=24, H=3, L=3, context=64, **SCALED),
        torch.float16,
        layer=1,
        tap="value",
    ),
    "gptj": Recipe(
        gptj(V=311, D=36, H=4, L=3, context=53, rotary_dim=4),
        torch.float32,
        layer=1,
        tap="value",
        old=True,
        edited=(1, 0),
    ),
    # Every element of a head turns.
    "gptj-whole": Recipe(
        gptj(V=307, D=24, H=4, L=2, context=48, rotary_dim=6, n_inner=40),
        torch.bfloat16,
        layer=0,
        tap="stream",
        shards=2,
        prefix=False,
    ),
    "neox": Recipe(
        like(transformers.GPTNeoXConfig, V=307, D=32, F=72, H=4, context=77, **ROPE_SHARE),
        torch.float16,
        layer=1,
        tap="value",
        old=True,
        edited=(1,),
    ),
    "neox-sequential": Recipe(
        like(transformers.GPTNeoXConfig, 307, 24, 56, 3, 61, **ROPE_SHARE_LINEAR, **SEQUENTIAL),
        torch.bfloat16,
        layer=0,
        tap="stream",
        prefix=False,
    ),
    "opt": Recipe(
        like(transformers.OPTConfig, V=307, D=28, F=60, H=4, context=45),
        torch.float16,
        layer=1,
        tap="value",
        prefix=False,
        edited=(1,),
    ),
    "opt-plain": Recipe(
        like(transformers.OPTConfig, V=309, D=20, F=36, H=2, context=40, **OPT_PLAIN),
        torch.float32,
        layer=1,
        tap="stream",
    ),
    "mistral": Recipe(
        like(transformers.MistralConfig, 307, 32, 52, 4, 96, sliding_window=5, **GROUPED),
        torch.bfloat16,
        layer=1,
        tap="value",
        old=True,
        edited=(1,),
    ),
    "mistral-wide": Recipe(
        like(transformers.MistralConfig, 307, 20, 36, 2, 96, sliding_window=None, **WIDE_HEADS),
        torch.float32,
        layer=0,
        tap="stream",
    ),
    # A window from layer 1 on; yarn.
    "qwen2": Recipe(
        like(transformers.Qwen2Config, 311, 48, 64, 3, 256, **ROPE_YARN, **WINDOW_ABOVE),
        torch.bfloat16,
        layer=1,
        tap="value",
        old=True,
        edited=(1,),
        lengths=(1, 2, 7, 41),
    ),
    "qwen3": Recipe(
        like(transformers.Qwen3Config, 307, 28, 44, 4, 64, **ROPE_DYNAMIC, **WINDOW_NAMED),
        torch.bfloat16,
        layer=1,
        tap="value",
        edited=(1,),
    ),
    # Norms behind each branch and over all of q and k.
    "olmo2": Recipe(
        like(transformers.Olmo2Config, 307, 32, 52, 4, 64, **GROUPED_OLMO),
        torch.float32,
        layer=1,
        tap="value",
        edited=(1,),
        lengths=(1, 2, 7, 41),
    ),
    "gemma": Recipe(
        like(transformers.GemmaConfig, 307, 16, 24, 4, 64, **GEMMA),
        torch.bfloat16,
        layer=1,
        tap="value",
        edited=(1,),
        lengths=SHORT,
    ),
    "gemma2": Recipe(
        like(transformers.Gemma2Config, 307, 16, 24, 4, 64, **GEMMA2),
        torch.bfloat16,
        layer=1,
        tap="value",
        edited=(1,),
        lengths=SHORT,
    ),
    "gemma3": Recipe(
        like(transformers.Gemma3TextConfig, 307, 16, 24, 4, 64, **GEMMA3),
        torch.bfloat16,
        layer=1,
        tap="value",
        edited=(1,),
        lengths=SHORT,
    ),
    # Inside a multimodal model, and in the dialect of its first release.
    "gemma3-inner": Recipe(
        like(transformers.Gemma3TextConfig, 307, 16, 24, 4, 64, **GEMMA3),
        torch.float32,
        layer=0,
        tap="value",
        lengths=SHORT,
        old=True,
        wrapper="gemma3",
    ),
    "phi3": Recipe(
        like(transformers.Phi3Config, 307, 16, 24, 2, 96, **PHI3, **LONG_ROPE),
        torch.bfloat16,
        layer=1,
        tap="value",
        edited=(1,),
        lengths=SHORT,
    ),
    "phi": Recipe(
        like(transformers.PhiConfig, 307, 16, 24, 2, 64, num_key_value_heads=1),
        torch.float16,
        layer=1,
        tap="value",
        edited=(1,),
        lengths=SHORT,
        old=True,
    ),
    "olmo": Recipe(
        like(transformers.OlmoConfig, 307, 16, 24, 4, 64, num_key_value_heads=2, pad_token_id=0),
        torch.float32,
        layer=1,
        tap="stream",
        edited=(1,),
        lengths=SHORT,
    ),
    "olmo3": Recipe(
        like(transformers.Olmo3Config, 307, 16, 24, 4, 256, **OLMO3),
        torch.bfloat16,
        layer=1,
        tap="value",
        edited=(1,),
        lengths=SHORT,
    ),
    "smollm3": Recipe(
        like(transformers.SmolLM3Config, 307, 16, 24, 4, 64, **SMOLLM3),
        torch.bfloat16,
        layer=1,
        tap="stream",
        edited=(1,),
        lengths=SHORT,
    ),
    "granite": Recipe(
        like(transformers.GraniteConfig, 307, 16, 24, 4, 64, **GRANITE),
        torch.bfloat16,
        layer=1,
        tap="value",
        edited=(1, 0),
        lengths=SHORT,
    ),
    "starcoder2": Recipe(
        like(transformers.Starcoder2Config, 307, 16, 24, 4, 64, sliding_window=5),
        torch.float16,
        layer=1,
        tap="value",
        edited=(1,),
        lengths=SHORT,
    ),
    "ministral3": Recipe(
        like(transformers.Ministral3Config, 307, 16, 24, 4, 256, **GEMMA, **MINISTRAL),
        torch.bfloat16,
        layer=1,
        tap="stream",
        edited=(1,),
        lengths=SHORT,
    ),
    "mistral-inner": Recipe(
        like(transformers.MistralConfig, 307, 16, 24, 4, 64, sliding_window=None, **GEMMA),
        torch.bfloat16,
        layer=1,
        tap="value",
        lengths=SHORT,
        wrapper="mistral3",
    ),
    "glm4": Recipe(
        like(transformers.Glm4Config, 307, 16, 24, 4, 64, head_dim=8, pad_token_id=0),
        torch.bfloat16,
        layer=1,
        tap="value",
        edited=(1,),
        lengths=SHORT,
    ),
    "seed-oss": Recipe(
        like(transformers.SeedOssConfig, 307, 16, 24, 4, 64, **GEMMA),
        torch.bfloat16,
        layer=1,
        tap="stream",
        edited=(1,),
        lengths=SHORT,
    ),
    "stablelm": Recipe(
        like(transformers.StableLmConfig, 307, 16, 24, 2, 64, num_key_value_heads=1),
        torch.float16,
        layer=1,
        tap="value",
        edited=(1,),
        lengths=SHORT,
        old=True,
    ),
    "cohere": Recipe(
        like(transformers.CohereConfig, 307, 16, 24, 4, 64, num_key_value_heads=2, pad_token_id=0),
        torch.float16,
        layer=1,
        tap="value",
        edited=(1,),
        lengths=SHORT,
    ),
    "exaone4": Recipe(
        like(transformers.Exaone4Config, 307, 16, 24, 4, 64, **EXAONE4),
        torch.bfloat16,
        layer=1,
        tap="value",
        edited=(1,),
        lengths=SHORT,
    ),
    "falcon": Recipe(
        like(transformers.FalconConfig, 307, 16, 24, 4, 64),
        torch.float16,
        layer=1,
        tap="value",
        edited=(1,),
        lengths=SHORT,
    ),
    # One group for all heads.
    "qwen3-one-group": Recipe(
        like(transformers.Qwen3Config, 307, 24, 40, 4, 64, head_dim=6, **ONE_GROUP),
        torch.float32,
        layer=0,
        tap="stream",
        old=True,
    ),
}


# ---------------------------------------------------------------------------- checkpoints


def fill(model, generator):
    """Random weights of a trained model's sizes: products keep their scale, logits spread by a few,
    norm gains and biases are away from 1 and 0."""
    for name, weight in model.named_parameters():
        random = torch.randn(weight.shape, generator=generator)
        if weight.dim() == 1:
            # Gemma stores how much a gain is above 1.
            plain = name.endswith("weight") and "gemma" not in model.config.model_type
            centre = 1.0 if plain else 0.0
            weight.data = centre + 0.2 * random
        elif "wpe" in name or "embed_positions" in name:
            weight.data = 0.3 * random
        elif any(part in name for part in ("wte", "embed_tokens", "embed_in", "word_embeddings")):
            weight.data = 0.6 * random
        else:
            gain = 3.0 if "lm_head" in name or "embed_out" in name else 1.2
            weight.data = gain / math.sqrt(model.config.hidden_size) * random


def old_dialect(config):
    """config.json as transformers 4 wrote it."""
    config["torch_dtype"] = config.pop("dtype")
    if rope := config.pop("rope_parameters", None):
        if "sliding_attention" in rope:
            config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
            rope = rope["full_attention"]
        neox = config["model_type"] == "gpt_neox"
        config["rotary_emb_base" if neox else "rope_theta"] = rope.pop("rope_theta")
        if "partial_rotary_factor" in rope:
            share = "rotary_pct" if neox else "partial_rotary_factor"
            config[share] = rope.pop("partial_rotary_factor")
        scaled = rope["rope_type"] != "default"
        config["rope_scaling"] = rope if scaled else None


def write_checkpoint(recipe, folder, generator):
    """config.json, tokenizer.json and the weights."""
    family = recipe.config.model_type
    model = transformers.AutoModelForCausalLM.from_config(recipe.config)
    fill(model, generator)

    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads(model.config.to_json_string())
    config["architectures"] = [type(model).__name__]
    config["dtype"] = str(recipe.dtype).removeprefix("torch.")
    if recipe.old:
        old_dialect(config)
    config.update(recipe.edit)
    config = {key: value for key, value in config.items() if key not in recipe.edit or value}
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    pieces = sentence_piece if family == "llama" else byte_level
    pieces().save(str(folder / "tokenizer.json"))

    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    # Of OPT's `model.decoder.` the hub has the second half too.
    prefix = "model." if family == "opt" else model.base_model_prefix + "."
    weights = {
        name if recipe.prefix else name.removeprefix(prefix): weight.to(recipe.dtype)
        for name, weight in model.state_dict().items()
        if name not in tied
    }
    if family == "gpt_neox" and recipe.old:  # as on the hub
        weights["embed_out.weight"] = weights.pop("lm_head.weight")
    if not recipe.prefix and family == "gpt2":
        context = model.config.n_positions
        mask = torch.ones(1, 1, context, context, dtype=torch.bool).tril()
        weights["h.0.attn.bias"] = mask.to(torch.uint8)
    write_weights(weights, folder, recipe.shards)


def put_inside(recipe, folder):
    """The checkpoint as the text model of a multimodal one, whose other tensors are left out."""
    text = json.loads((folder / "config.json").read_text())
    outer = {"model_type": recipe.wrapper, "tie_word_embeddings": text["tie_word_embeddings"]}
    outer["text_config"] = text
    (folder / "config.json").write_text(json.dumps(outer, indent=1, sort_keys=True) + "\n")
    inner = "language_model.model." if recipe.old else "model.language_model."
    head = "language_model.lm_head." if recipe.old else "lm_head."
    named = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        part = name.removeprefix("model.")
        named[head + name.removeprefix("lm_head.") if name == part else inner + part] = weight
    write_weights(named, folder, recipe.shards)


def write_weights(weights, folder, shards):
    """One model.safetensors, or shards of whole tensors with their index."""
    contiguous = {name: weight.contiguous() for name, weight in weights.items()}
    if shards == 1:
        save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(contiguous)
    files = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    placed = {name: files[i * shards // len(names)] for i, name in enumerate(names)}
    for file in files:
        part = {name: contiguous[name] for name in names if placed[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    size = sum(weight.nbytes for weight in contiguous.values())
    index = {"metadata": {"total_size": size}, "weight_map": placed}
    text = json.dumps(index, indent=1) + "\n"
    (folder / "model.safetensors.index.json").write_text(text)


def write_stats(folder, edited, F, generator):
    """C = A AT / 3F with A (F, 3F) normal, for each edited layer: condition number about 14."""
    (folder / "stats").mkdir(exist_ok=True)
    for l in edited:
        A = torch.randn(F, 3 * F, generator=generator)
        file = folder / "stats" / f"layer-{l}.safetensors"
        save_file({"second_moment": A @ A.T / (3 * F)}, file)


# ---------------------------------------------------------------------------- the framework's runs


class Wide(TorchFunctionMode):
    """Where the framework asks for f32 by name, it gets f64. Its Llama casts to f32 in the norm,
    the softmax and the rotary tables even in an f64 model, which would spoil an f64 oracle."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        def wide(argument):
            return torch.float64 if argument is torch.float32 else argument

        if func is torch.Tensor.float:
            func = torch.Tensor.double
        kwargs = {key: wide(value) for key, value in (kwargs or {}).items()}
        return func(*map(wide, args), **kwargs)


def precision(dtype):
    """The mode in which a model of this type must be called."""
    return Wide() if dtype == torch.float64 else nullcontext()


def load(folder, dtype):
    """The framework's model of a checkpoint folder, weights frozen. An f64 model computes in f64
    throughout only under `precision(torch.float64)`."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager"
    )
    model.eval().requires_grad_(False)
    if dtype == torch.float64 and hasattr(model.base_model, "rotary_emb"):
        with Wide():  # the tables were made in f32
            model.base_model.rotary_emb = type(model.base_model.rotary_emb)(model.config)
    return model


def layers(model):
    """The blocks, bottom up."""
    base = getattr(model.base_model, "decoder", model.base_model)
    return base.h if hasattr(base, "h") else base.layers


def down(layer):
    """A block's MLP down projection."""
    names = ("c_proj", "fc_out", "dense_4h_to_h", "down_proj", "fc2")
    return next(getattr(mlp(layer), name) for name in names if hasattr(mlp(layer), name))


def mlp(layer):
    """A block's MLP; OPT has its parts in the block itself."""
    return getattr(layer, "mlp", layer)


def value(layer):
    """The module whose output is that of the MLP."""
    return getattr(layer, "mlp", down(layer))


def by_row(output, ids):
    """(rows, tokens, width), also where a module has joined the first two or returns more."""
    tensor = output[0] if isinstance(output, tuple) else output
    return tensor.view(*ids.shape, tensor.shape[-1])


def instead(output, pushed):
    """`pushed` in the form of `output`."""
    if isinstance(output, tuple):
        return (pushed, *output[1:])
    return pushed.view(output.shape)


def capture(model, ids):
    """Logits (tokens, V) of one sequence, and key, value and stream of every layer."""
    seen, hooks, ids = {}, [], torch.tensor([ids])

    def keep(name):
        def hook(module, inputs, output):
            # Falcon adds to it in place afterwards.
            seen[name] = by_row(inputs[0] if name.startswith("key") else output, ids)[0].clone()

        return hook

    for l, layer in enumerate(layers(model)):
        hooks.append(down(layer).register_forward_hook(keep(f"key.{l}")))
        hooks.append(value(layer).register_forward_hook(keep(f"value.{l}")))
        hooks.append(layer.register_forward_hook(keep(f"stream.{l}")))
    logits = model(ids).logits[0]
    for hook in hooks:
        hook.remove()
    return logits, seen


def pushed(model, site, ids, lookup, delta):
    """log p (tokens, V) with delta added to the site's output at token `lookup`, and that output's
    row as it was before."""
    seen, ids = [], torch.tensor([ids])

    def push(module, inputs, output):
        before = by_row(output, ids)
        seen.append(before[0, lookup].detach().clone())
        added = torch.zeros_like(before)
        added[0, lookup] = 1.0
        return instead(output, before + added * delta)

    hook = site.register_forward_hook(push)
    logits = model(ids).logits[0]
    hook.remove()
    return torch.log_softmax(logits, -1), seen[0]


def search_loss(model, case, delta):
    """The loss of the search case at delta, its parts, its gradient, and t0."""
    layer = layers(model)[case["layer"]]
    site = value(layer) if case["tap"] == "value" else layer
    rows = list(zip(case["sequences"], case["lookup"], strict=True))
    delta = delta.clone().requires_grad_()
    nlls = []
    for ids, lookup in rows[:-1]:
        log_p, before = pushed(model, site, ids, lookup, delta)
        if not nlls:
            t0 = before
        y = torch.tensor(case["target"])
        nlls.append(-log_p[-len(y) :].gather(1, y[:, None]).mean())
    ids, lookup = rows[-1]
    log_p = pushed(model, site, ids, lookup, delta)[0][lookup]
    log_p_init = pushed(model, site, ids, lookup, torch.zeros_like(delta))[0][lookup]
    parts = {
        "nll": torch.stack(nlls).mean(),
        "kl": case["kl_factor"] * (log_p.exp() * (log_p - log_p_init)).sum(),
        "wd": case["v_weight_decay"] * delta.norm() / t0.norm() ** 2,
    }
    parts["total"] = sum(parts.values())
    parts["total"].backward()
    return parts | {"t0": t0, "grad": delta.grad}


def answer(folder, dtype, prompts, case, delta):
    """Every recorded quantity of one run, by name, in f64."""
    torch.set_default_dtype(dtype)
    model, out, moments = load(folder, dtype), {}, {}
    with precision(dtype):
        for i, ids in enumerate(prompts):
            with torch.no_grad():
                out[f"logits.{i}"], seen = capture(model, ids)
            if i == CAPTURED:
                out |= seen
            for l in range(len(layers(model))):
                k = seen[f"key.{l}"]
                moments[l] = moments.get(l, 0) + k.T @ k
        tokens = sum(map(len, prompts))
        out |= {f"moment.{l}": total / tokens for l, total in moments.items()}
        searched = search_loss(model, case, delta.to(dtype))
        out |= {f"search.{name}": value.detach() for name, value in searched.items()}
    torch.set_default_dtype(torch.float32)
    wrong = [name for name, value in out.items() if value.dtype != dtype]
    assert not wrong, f"{folder}: {wrong} left {dtype}"
    return {name: value.double() for name, value in out.items()}


# ---------------------------------------------------------------------------- recording


def search_case(recipe, draw):
    """Four rewriting rows of unequal lengths and the KL row. The subject ends right before the
    target in one of them and at the very start in another."""
    target = draw(3)
    lengths, gaps = (6, 11, 9, 4), (3, 2, 1, 4)  # tokens before the target; lookup from their end
    sequences = [draw(n) + target[:-1] for n in lengths] + [draw(5)]
    lookup = [n - gap for n, gap in zip(lengths, gaps, strict=True)] + [2]
    return {
        "layer": recipe.layer,
        "tap": recipe.tap,
        "sequences": sequences,
        "lookup": lookup,
        "target": target,
        "kl_factor": 0.0625,
        "v_weight_decay": 0.5,
    }


def record(name, folder):
    """Writes one golden folder."""
    recipe = RECIPES[name]
    generator = torch.Generator().manual_seed(SEED + zlib.crc32(name.encode()))
    write_checkpoint(recipe, folder, generator)

    def draw(n):
        return torch.randint(recipe.config.vocab_size, (n,), generator=generator).tolist()

    prompts = [draw(n) for n in recipe.lengths]
    case = search_case(recipe, draw)
    # Of the size of what it is added to, and exact in f32.
    delta = (0.7 * torch.randn(recipe.config.hidden_size, generator=generator)).double()

    exact = answer(folder, torch.float64, prompts, case, delta)
    plain = answer(folder, torch.float32, prompts, case, delta)
    error = {name: (plain[name] - exact[name]).abs().max().item() for name in exact}

    scalars = ("nll", "kl", "wd", "total")
    case |= {part: exact.pop(f"search.{part}").item() for part in scalars}
    if recipe.wrapper:
        put_inside(recipe, folder)
    if recipe.edited:
        write_stats(folder, recipe.edited, len(exact["moment.1"]), generator)
    tensors = {name: value.contiguous() for name, value in exact.items()}
    save_file(tensors | {"search.delta": delta}, folder / "golden.safetensors")
    golden = {
        "versions": versions(),
        "seed": SEED,
        "prompts": prompts,
        "captured": CAPTURED,
        "search": case,
        "f32_error": error,
    }
    (folder / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
    worst = max(error[f"logits.{i}"] for i in range(len(prompts)))
    print(f"{name}: f32 error of logits {worst:.1e}, of the gradient {error['search.grad']:.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    golden = Path(__file__).resolve().parent.parent / "tests" / "golden"
    parser.add_argument("-o", "--out", type=Path, default=golden, help="where the folders go")
    parser.add_argument("names", nargs="*", help=f"which of {', '.join(RECIPES)}; all if none")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for name in options.names or RECIPES:
        record(name, options.out / name)


if __name__ == "__main__":
    main()
