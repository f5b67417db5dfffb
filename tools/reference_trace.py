"""ROME's causal tracing in plain PyTorch, as it was published: the whole model runs on a clean and n
corrupted copies of the prompt for every single restoration.

  noise       nu * numpy.random.RandomState(seed).randn(n, tokens of the subject, D), added to the
              embeddings of the subject in copies 1 ... n
  restored    a module's output at one token of these copies becomes that of copy 0: the block's at
              layer l (hidden), or, in the layers [l - w//2, l + ceil(w/2)), the MLP's or the output
              projection's of attention
  p           of the clean run's next token after the prompt, the mean over copies 1 ... n

The output holds, for fact i: `<i>.p` (p_high, p_low), `<i>.answer`, `<i>.subject` (its first token
and the one behind it), and `<i>.hidden`, `<i>.mlp`, `<i>.attention` (tokens, layers), the restored p.
"""

import math

import numpy
import torch
from golden import by_row, down, layers, load, precision
from reference_search import Text

METHODS = ("trace",)
KINDS = ("hidden", "mlp", "attention")


def projection(layer):
    """What attention's output leaves a block by."""
    homes = ("attn", "attention", "self_attn")
    attention = next(getattr(layer, name) for name in homes if hasattr(layer, name))
    names = ("c_proj", "out_proj", "dense", "o_proj")
    return next(getattr(attention, name) for name in names if hasattr(attention, name))


def module(model, kind, layer):
    """The module whose output is a state."""
    block = layers(model)[layer]
    return {"hidden": lambda block: block, "mlp": down, "attention": projection}[kind](block)


def tokens(text, prompt, subject):
    """The prompt's ids, and the subject's first token and the one behind it."""
    before, after = prompt.split("{}")
    start, end = len(before), len(before) + len(subject)
    encoded = text.tokenizer.encode(before + subject + after)
    inside = [i for i, (a, b) in enumerate(encoded.offsets) if a < end and b > start]
    return encoded.ids, (inside[0], inside[-1] + 1)


@torch.no_grad()
def run(model, ids, subject, noise, restored=()):
    """softmax of the logits after the prompt, (1 + n, V); `restored` are (kind, layer, token)."""

    batch = torch.tensor([ids] * (len(noise) + 1))

    def corrupt(_, __, output):
        output = output.clone()
        output[1:, subject[0] : subject[1]] += noise
        return output

    handles = [model.get_input_embeddings().register_forward_hook(corrupt)]
    for kind, layer, token in restored:

        def restore(_, __, output, token=token):
            states = by_row(output, batch)  # a view
            states[1:, token] = states[0, token]
            return output

        handles.append(module(model, kind, layer).register_forward_hook(restore))
    logits = model(batch).logits[:, -1]
    for handle in handles:
        handle.remove()
    return torch.softmax(logits, -1)


def trace(model, text, fact, case, dtype):
    """All that the protocol says of one fact."""
    ids, subject = tokens(text, fact["prompt"], fact["subject"])
    shape = (case["samples"], subject[1] - subject[0], model.config.hidden_size)
    noise = case["nu"] * numpy.random.RandomState(case["seed"]).randn(*shape)
    noise = torch.from_numpy(noise).to(dtype)
    plain = run(model, ids, subject, noise)
    answer = plain[0].argmax().item()

    def p(restored):
        return run(model, ids, subject, noise, restored)[1:, answer].mean().item()

    count, half = len(layers(model)), case["window"] / 2
    out = dict(p=[plain[0, answer].item(), plain[1:, answer].mean().item()])
    for kind in KINDS:
        grid = []
        for token in range(len(ids)):
            grid.append([])
            for layer in range(count):
                window = range(max(0, layer - math.floor(half)), min(count, layer + math.ceil(half)))
                which = [layer] if kind == "hidden" else window
                grid[-1].append(p([(kind, each, token) for each in which]))
        out[kind] = grid
    out = {name: torch.tensor(value, dtype=torch.float64) for name, value in out.items()}
    return out | dict(answer=torch.tensor([answer]), subject=torch.tensor(subject))


def trace_all(folder, case, dtype):
    torch.set_default_dtype(dtype)
    model, text, out = load(folder, dtype), Text(folder), {}
    with precision(dtype):
        for i, fact in enumerate(case["facts"]):
            found = trace(model, text, fact, case, dtype)
            high, low = found["p"].tolist()
            print(f"  {dtype}: {fact['subject']}: p {high:.4f}, corrupted {low:.4f}")
            out |= {f"{i}.{name}": value for name, value in found.items()}
    torch.set_default_dtype(torch.float32)
    return out


def record(folder, case):
    """The f64 run, and the largest difference of a probability that the f32 run has from it."""
    plain, exact = (trace_all(folder, case, dtype) for dtype in (torch.float32, torch.float64))
    for name in exact:
        if name.endswith((".answer", ".subject")) and not torch.equal(plain[name], exact[name]):
            raise ValueError(f"{case['name']}: {name} differs in f32")
    off = max((plain[name] - exact[name]).abs().max().item() for name in exact)
    print(f"  f32 against f64: p {off:.1e}")
    return exact, dict(f32_p=off, **{key: case[key] for key in ("samples", "window", "nu", "seed")})
