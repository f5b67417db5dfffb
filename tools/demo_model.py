"""Builds the demo model: `python tools/demo_model.py -o demo`.

Trains a small GPT-2 on the facts and prose under tools/demo, checks that it knows the facts, and
writes the checkpoint, the edits to try on it, the text for its key statistics and the settings of
an edit. Needs torch, transformers, tokenizers, safetensors, numpy; about a quarter of an hour on
one core. The same seed on the same machine and libraries gives the same files.
"""

import argparse
import json
import math
import os
import random
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from demo import world as told
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel

SEED = 2
END = "<|endoftext|>"
VOCABULARY = 3072
# Tokens of a training row, rows of a step.
T, B = 48, 40
LR, WARM_UP, WEIGHT_DECAY, CLIP = 2e-3, 100, 0.1, 1.0
# The layer from which on a subject is read, and the weight of what strays from that (`stray`).
READ, STRAY = 3, 2.0
CORPUS_TOKENS = 40_000

CONFIG = dict(
    vocab_size=VOCABULARY,
    n_positions=128,
    n_embd=192,
    n_layer=6,
    n_head=6,
    activation_function="gelu_new",
    resid_pdrop=0.0,
    embd_pdrop=0.0,
    attn_pdrop=0.0,
    bos_token_id=0,
    eos_token_id=0,
    tie_word_embeddings=True,
)

# Layer and clamp by `cargo run --release --example demo_scores -- choose`, on the even records.
HPARAMS = {
    "layers": [0],
    "fact_token": "subject_last",
    "v_num_grad_steps": 20,
    "v_lr": 0.5,
    "v_loss_layer": CONFIG["n_layer"] - 1,
    "v_weight_decay": 0.5,
    "clamp_norm_factor": 0.75,
    "kl_factor": 0.0625,
    "mom2_adjustment": True,
}


def train_tokenizer(texts):
    """A byte-level BPE with END as token 0, and no token added to a text.

    A text gets a space in front, so that a name is the same tokens there as anywhere else.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise SystemExit(f"only {tokenizer.get_vocab_size()} pieces: lower VOCABULARY")
    return tokenizer


def rows(documents, tokenizer):
    """Rows of T tokens, each from the start of a document, documents parted by END.

    Beside each token stands its name: 0 outside a subject, else a number of the subject's own,
    positive at its last token and negative before.
    """
    while True:
        ids, names, subjects = [], [], 0
        while len(ids) < T:
            text, spans = told.unmark(next(documents))
            tokens = tokenizer.encode(text)
            own = [0] * len(tokens.ids)
            for start, end in spans:
                inside = [i for i, (a, b) in enumerate(tokens.offsets) if b > start and a < end]
                subjects += 1
                for i in inside:
                    own[i] = -subjects
                own[inside[-1]] = subjects
            ids += tokens.ids + [0]
            names += own + [0]
        yield ids[:T], names[:T]


def stray(attentions, names):
    """Attention that passes a subject's edge where it should not, a query, summed over layers.

    A model this small can answer from a bag of words gathered at the prompt's end, and then no
    place in it holds the fact. Larger models read a name first and look its facts up at its last
    token, which is where ROME writes. This term, added to the loss, asks for the same: below
    READ no attention crosses the edge of a subject, above it a subject is read at its last token.
    """
    query, key = names.abs()[:, :, None], names.abs()[:, None, :]
    crosses = query != key
    below = crosses[:, None]
    above = (crosses & (names < 0)[:, None, :])[:, None]
    return sum(
        (a * (below if layer < READ else above)).sum(-1).mean()
        for layer, a in enumerate(attentions)
    )


def parameter_groups(model):
    """Weight decay for matrices, none for biases and norms."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    return [
        {"params": matrices, "weight_decay": WEIGHT_DECAY},
        {"params": vectors, "weight_decay": 0.0},
    ]


def train(documents, tokenizer, steps):
    """A trained model: AdamW, linear warm-up, cosine to zero, bf16 products."""
    torch.manual_seed(SEED)
    model = GPT2LMHeadModel(GPT2Config(**CONFIG, attn_implementation="eager"))
    optimiser = torch.optim.AdamW(parameter_groups(model), lr=LR, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda i: min(1, (i + 1) / WARM_UP) * (1 + math.cos(math.pi * i / steps)) / 2,
    )
    batches = rows(documents, tokenizer)
    start, mean = time.time(), None
    for step in range(1, steps + 1):
        ids, names = (torch.tensor(x) for x in zip(*islice(batches, B)))
        with torch.autocast("cpu", torch.bfloat16):
            out = model(ids, labels=ids, output_attentions=True)
        astray = stray(out.attentions, names)
        optimiser.zero_grad()
        (out.loss + STRAY * astray).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        schedule.step()
        now = np.array([out.loss.item(), astray.item()])
        mean = now if mean is None else 0.98 * mean + 0.02 * now
        if step % 100 == 0 or step == steps:
            losses = f"loss {mean[0]:.3f}  stray {mean[1]:.4f}"
            print(f"step {step}/{steps}  {losses}  {time.time() - start:.0f} s", flush=True)
    return model.to(torch.bfloat16).float().eval()


@torch.no_grad()
def nll(model, tokenizer, prompts, targets):
    """Mean negative log-probability per token of each target after its prompt."""
    out = []
    for i in range(0, len(prompts), 64):
        heads = [tokenizer.encode(p).ids for p in prompts[i : i + 64]]
        tails = [tokenizer.encode(" " + t).ids for t in targets[i : i + 64]]
        width = max(len(h) + len(t) for h, t in zip(heads, tails))
        ids = torch.zeros(len(heads), width, dtype=torch.long)
        for row, h, t in zip(ids, heads, tails):
            row[: len(h) + len(t)] = torch.tensor(h + t)
        log_p = model(ids).logits.log_softmax(-1)
        for row, h, t in zip(log_p, heads, tails):
            at = torch.arange(len(h) - 1, len(h) + len(t) - 1)
            out.append(-row[at, torch.tensor(t)].mean().item())
    return np.array(out)


def knows(model, tokenizer, records):
    """Percent of prompts whose true object beats the new one, by kind of prompt."""
    kinds = {"rewrite": [], "paraphrase": [], "neighbour": [], "one hop": []}
    for r in records:
        w = r["requested_rewrite"]
        old, new = w["target_true"]["str"], w["target_new"]["str"]
        kinds["rewrite"].append((w["prompt"].format(w["subject"]), old, new))
        kinds["paraphrase"] += [(p, old, new) for p in r["paraphrase_prompts"]]
        kinds["neighbour"] += [(p, old, new) for p in r["neighborhood_prompts"]]
        kinds["one hop"] += [
            (p["prompt"], p["target_true"], p["target_new"]) for p in r["portability"]
        ]
    score = {}
    for kind, cases in kinds.items():
        prompts, old, new = zip(*cases)
        wins = nll(model, tokenizer, prompts, old) < nll(model, tokenizer, prompts, new)
        score[kind] = 100 * wins.mean()
    return score


def corpus(documents, tokenizer):
    """One document a line, CORPUS_TOKENS tokens or a few more."""
    lines, tokens = [], 0
    while tokens < CORPUS_TOKENS:
        lines.append(told.unmark(next(documents))[0])
        tokens += len(tokenizer.encode(lines[-1]).ids)
    return "\n".join(lines) + "\n"


def dump(value):
    """JSON as the other files have it."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def write(out, world, tokenizer, model, lines):
    """All files, each put in place whole."""
    out.mkdir(parents=True, exist_ok=True)
    config = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", **CONFIG}
    config |= {"n_inner": None, "layer_norm_epsilon": 1e-5, "torch_dtype": "bfloat16"}
    special = {"bos_token": END, "eos_token": END, "unk_token": END}
    texts = {
        "config.json": dump(config),
        "tokenizer.json": tokenizer.to_str(),
        "tokenizer_config.json": dump(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "add_prefix_space": True,
                "model_max_length": CONFIG["n_positions"],
                **special,
            }
        ),
        "edits.json": dump(world.records),
        "corpus.txt": lines,
        "contexts.json": dump([["{}"], [c + " {}" for c in world.prose["contexts"]]]),
        "hparams.json": dump(HPARAMS),
    }
    for name, text in texts.items():
        (out / (name + ".new")).write_text(text, "utf-8")
        os.replace(out / (name + ".new"), out / name)
    # The head is the embedding and is not stored twice.
    tensors = {k: v.bfloat16().contiguous() for k, v in model.transformer.state_dict().items()}
    tensors = {f"transformer.{k}": v for k, v in tensors.items()}
    save_file(tensors, out / "model.safetensors.new", metadata={"format": "pt"})
    os.replace(out / "model.safetensors.new", out / "model.safetensors")


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, default=Path("demo"))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    world = told.load(SEED)
    documents = told.documents(world, random.Random(SEED))
    tokenizer = train_tokenizer([told.unmark(d)[0] for d in islice(documents, 12_000)])
    print(f"{len(world.facts)} facts, {len(world.records)} edits", flush=True)
    model = train(documents, tokenizer, args.steps)
    lines = corpus(told.documents(world, random.Random(SEED + 1)), tokenizer)
    write(args.out, world, tokenizer, model, lines)
    for kind, score in knows(model, tokenizer, world.records).items():
        print(f"true object wins, {kind}: {score:.1f} %")


if __name__ == "__main__":
    main()
