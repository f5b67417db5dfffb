"""ROME and R-ROME in plain PyTorch: the program's independent reference.

  python tools/reference.py MODEL --requests R.json --contexts C.json --stats S --hparams H.json \\
      --method rome|r-rome [--dtype f32|f64] -o OUT.safetensors
  python tools/reference.py --cases tests/golden/reference/cases.json [--shared DIR]
  python tools/reference.py --random-gpt2-small

Serial and unhurried, as the methods were published: the whole model runs in every step of the
search, its rows padded to one batch. With W (D, F) the down projection of a layer, C = E[k kT]
(F, F), keys and outputs read at the subject's last token:

  t0      = output of the MLP for the bare prompt             v* = t0 + delta, delta from the search
  k0, kS  = key of the bare prompt, mean key over all contexts
  u       = C^-1 kS / |C^-1 kS|
  ROME      dW = (v* - t0) uT / <k0, u>
  R-ROME    dW = (v* - mS) uT / <kS, u>,    mS the mean output over all contexts

Requests are planned one after another, each on the model as edited so far. The output holds, for
request i: `<i>.left` (D) and `<i>.right` (F) with dW = left rightT, `<i>.k_star` (kS), `<i>.k0`,
`<i>.v_star`, `<i>.t0`, `<i>.delta`, and for each step `<i>.loss` and its parts `<i>.nll`, `<i>.kl`,
`<i>.wd`.

--cases runs every case of the file in f64, writes the outputs beside it and, in their metadata, how
far the same run in f32 is from them. --random-gpt2-small times one search of 20 steps.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).parent))
from golden import by_row, down, layers, load, precision, value, versions  # noqa: E402

TYPES = {"f32": torch.float32, "f64": torch.float64}
KL_PROMPT = "{} is a"
ENOUGH = 0.05  # a search stops below this loss


# ---------------------------------------------------------------------------- text


@dataclass
class Row:
    """A tokenised text, and where in it the subject's last token is."""

    ids: list
    lookup: int


class Text:
    """The tokenizer of a model folder."""

    def __init__(self, folder):
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()

    def row(self, template, subject, tail=""):
        """The template filled and followed by `tail`, tokenised as one string. The subject's last
        token is the last one that shares a character with it."""
        before, after = template.split("{}")
        start, end = len(before), len(before) + len(subject)
        encoded = self.tokenizer.encode(before + subject + after + tail)
        inside = [i for i, (a, b) in enumerate(encoded.offsets) if a < end and b > start]
        return Row(encoded.ids, inside[-1])

    def target(self, text):
        """Ids of a target, and the text of all but the last, which training rows end in."""
        text = text if text.startswith(" ") else " " + text
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        tail = self.tokenizer.decode(ids[:-1], skip_special_tokens=False)
        # SentencePiece decoders drop a text's first space, but here it is in the middle of one.
        if len(ids) > 1 and not tail.startswith(" "):
            tail = " " + tail
        return ids, tail


# ---------------------------------------------------------------------------- the model's runs


def batch(rows):
    """Rows padded on the right to one length, their mask, and their lookup tokens."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [0] * (longest - len(row.ids)) for row in rows])
    mask = torch.tensor([[1] * len(row.ids) + [0] * (longest - len(row.ids)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}, torch.tensor([row.lookup for row in rows])


@torch.no_grad()
def keys_and_outputs(model, layer, rows):
    """Input of the layer's down projection (rows, F) and output of its MLP (rows, D), each at the
    row's lookup token."""
    seen = {}
    block = layers(model)[layer]
    hooks = [
        down(block).register_forward_hook(lambda _, inputs, out: seen.update(key=inputs[0])),
        value(block).register_forward_hook(lambda _, inputs, out: seen.update(output=out)),
    ]
    inputs, lookup = batch(rows)
    model(**inputs)
    for hook in hooks:
        hook.remove()
    ids, at = inputs["input_ids"], (torch.arange(len(rows)), lookup)
    return by_row(seen["key"], ids)[at], by_row(seen["output"], ids)[at]


def search(model, rewriting, kl_row, y, hparams, stop=ENOUGH):
    """The vector delta (D) that, added to the MLP's output at every row's lookup token, makes the
    rewriting rows end in the target y; the t0 it is added to; the losses of every step."""
    rows = [*rewriting, kl_row]
    inputs, lookup = batch(rows)
    at = torch.arange(len(rows)), lookup
    ends = torch.tensor([len(row.ids) for row in rewriting])
    y = torch.tensor(y)
    # Token i predicts label i: the last T tokens of a rewriting row predict y_1 … y_T.
    read = (ends - len(y))[:, None] + torch.arange(len(y))
    dtype = next(model.parameters()).dtype
    delta = torch.zeros(model.config.hidden_size, dtype=dtype, requires_grad=True)
    t0 = []

    def push(module, _, output):
        pushed = by_row(output, inputs["input_ids"]).clone()
        if not t0:
            t0.append(pushed[0, lookup[0]].detach().clone())
        pushed[at] = pushed[at] + delta
        return pushed.view(output.shape)

    hook = value(layers(model)[hparams["layers"][0]]).register_forward_hook(push)
    adam = torch.optim.Adam([delta], lr=hparams["v_lr"])
    trace, log_p_init, clamped = [], None, 0
    for step in range(hparams["v_num_grad_steps"]):
        adam.zero_grad()
        log_p = torch.log_softmax(model(**inputs).logits, -1)
        of_target = log_p[torch.arange(len(rewriting))[:, None], read, y]
        at_kl = log_p[-1, kl_row.lookup]
        if log_p_init is None:
            log_p_init = at_kl.detach().clone()
        nll = -of_target.mean(1).mean()
        kl = hparams["kl_factor"] * (at_kl.exp() * (at_kl - log_p_init)).sum()
        wd = hparams["v_weight_decay"] * delta.norm() / t0[0].norm() ** 2
        loss = nll + kl + wd
        trace.append([part.item() for part in (loss, nll, kl, wd)])
        if loss < stop or step + 1 == hparams["v_num_grad_steps"]:
            break
        loss.backward()
        adam.step()
        longest = hparams["clamp_norm_factor"] * t0[0].norm()
        if delta.norm() > longest:
            clamped += 1
            with torch.no_grad():
                delta *= longest / delta.norm()
    hook.remove()
    return delta.detach(), t0[0], torch.tensor(trace, dtype=torch.float64), clamped


# ---------------------------------------------------------------------------- the methods


def second_moment(path, layer):
    """C (F, F) in f64, from a folder of layer-<l>.safetensors or a file with a tensor per layer."""
    if path.is_dir():
        return load_file(path / f"layer-{layer}.safetensors")["second_moment"].double()
    return load_file(path)[str(layer)].double()


def plan(model, text, request, contexts, C, method, hparams):
    """The change for one request, and all that led to it."""
    subject, layer = request["subject"], hparams["layers"][0]
    templates = [context.replace("{}", request["prompt"]) for context in contexts]
    y, tail = text.target(request["target_new"])
    rewriting = [text.row(template, subject, tail) for template in templates]
    for row in rewriting:
        if len(y) > 1 and row.ids[1 - len(y) :] != y[:-1]:
            print(f"{subject}: the target's tokens merge with what precedes them", file=sys.stderr)

    start = time.perf_counter()
    kl_row = text.row(KL_PROMPT, subject)
    delta, t0, trace, clamped = search(model, rewriting, kl_row, y, hparams)
    seconds = time.perf_counter() - start

    keys, outputs = keys_and_outputs(model, layer, [text.row(t, subject) for t in templates])
    k0, k_star, v_star = keys[0], keys.mean(0), t0 + delta
    u = torch.linalg.solve(C, k_star.double()) if hparams["mom2_adjustment"] else k_star.double()
    u = (u / u.norm()).to(k0.dtype)
    if method == "rome":
        left = (v_star - outputs[0]) / k0.dot(u)
    else:
        left = (v_star - outputs.mean(0)) / k_star.dot(u)
    found = dict(left=left, right=u, k_star=k_star, k0=k0, v_star=v_star, t0=t0, delta=delta)
    found |= dict(zip(("loss", "nll", "kl", "wd"), trace.T.contiguous()))
    print(
        f"{request['subject']} -> {request['target_new']}: {len(y)} tokens, {len(trace)} steps, "
        f"{clamped} clamped, loss {trace[0, 0]:.3f} -> {trace[-1, 0]:.4f}, search {seconds:.2f} s"
    )
    return found


def add(model, layer, left, right):
    """W += left rightT, in whichever orientation the framework stores W."""
    module = down(layers(model)[layer])
    stored_in_out = isinstance(module, transformers.pytorch_utils.Conv1D)
    change = torch.outer(right, left) if stored_in_out else torch.outer(left, right)
    module.weight.data += change.to(module.weight.dtype)


def edit(folder, requests, contexts, stats, method, hparams, dtype):
    """All requests, one after another; tensors named `<i>.<name>`."""
    torch.set_default_dtype(dtype)
    flat = [context for group in contexts for context in group]
    model, text, out = load(folder, dtype), Text(folder), {}
    layer = hparams["layers"][0]
    C = second_moment(stats, layer)
    with precision(dtype):
        for i, request in enumerate(requests):
            found = plan(model, text, request, flat, C, method, hparams)
            add(model, layer, found["left"], found["right"])
            out |= {f"{i}.{name}": value.contiguous() for name, value in found.items()}
    torch.set_default_dtype(torch.float32)
    return out


# ---------------------------------------------------------------------------- recorded cases


def difference(ours, exact):
    """Largest relative differences of dW (Frobenius) and of a step's loss; NaN when the number of
    steps differs."""
    change, loss, runs = 0.0, 0.0, (ours, exact)
    for i in range(sum(name.endswith(".left") for name in exact)):
        a, b = (torch.outer(run[f"{i}.left"].double(), run[f"{i}.right"].double()) for run in runs)
        change = max(change, ((a - b).norm() / b.norm()).item())
        a, b = ours[f"{i}.loss"], exact[f"{i}.loss"]
        loss = max(loss, ((a - b) / b).abs().max().item()) if len(a) == len(b) else float("nan")
    return change, loss


def run_cases(file, shared):
    """Each case of the file; one whose shared model is absent is named and left out."""
    golden = file.parent.parent
    for case in json.loads(file.read_text()):
        folder = (shared / "data" if case["shared"] else golden) / case["model"]
        if not folder.exists():
            print(f"{case['name']}: skipped, no {folder}")
            continue
        print(f"{case['name']}:")
        stats, method, hparams = folder / case["stats"], case["method"], case["hparams"]
        runs = {
            name: edit(folder, case["requests"], case["contexts"], stats, method, hparams, dtype)
            for name, dtype in TYPES.items()
        }
        change, loss = difference(runs["f32"], runs["f64"])
        print(f"  f32 against f64: change {change:.1e}, loss {loss:.1e}")
        made = dict(method=method, hparams=hparams, dtype="f64", f32_change=change, f32_loss=loss)
        save(runs["f64"], file.parent / f"{case['name']}.safetensors", made)


def save(tensors, path, made):
    """Writes the tensors, with how they were made as JSON in the metadata `made`: one entry, since
    the format's library writes several in any order."""
    made = json.dumps(made | {"versions": versions()}, sort_keys=True)
    save_file(tensors, path, metadata={"made": made})


def time_search(threads):
    """Seconds of one search on random weights of GPT-2 small's shape: five contexts add 11 tokens
    each, the KL row, a target of one token, layer 8, 20 steps without early stop."""
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval().requires_grad_(False)

    def draw(n):
        return torch.randint(model.config.vocab_size, (n,)).tolist()

    prompt = draw(8)
    rewriting = [Row(prompt, 4)] + [Row(draw(11) + prompt, 15) for _ in range(5)]
    hparams = dict(layers=[8], v_lr=0.5, v_num_grad_steps=20, v_weight_decay=0.5)
    hparams |= dict(clamp_norm_factor=3, kl_factor=0.0625)
    kl_row = Row(prompt[1:5] + draw(2), 3)
    search(model, rewriting, kl_row, [7], hparams | {"v_num_grad_steps": 2})  # warm up
    for _ in range(3):
        start = time.perf_counter()
        trace = search(model, rewriting, kl_row, [7], hparams, stop=-1.0)[2]
        seconds = time.perf_counter() - start
        print(f"{len(trace)} steps, {threads} threads: {seconds:.2f} s, loss {trace[-1, 0]:.3f}")


# ---------------------------------------------------------------------------- the command line


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", nargs="?", type=Path, help="checkpoint folder")
    parser.add_argument("--requests", type=Path, help="array of prompt, subject, target_new")
    parser.add_argument("--contexts", type=Path, help="groups of contexts")
    parser.add_argument("--stats", type=Path, help="second moments: a folder or a file")
    parser.add_argument("--hparams", type=Path)
    parser.add_argument("--method", choices=("rome", "r-rome"))
    parser.add_argument("--dtype", choices=TYPES, default="f32")
    parser.add_argument("-o", "--out", type=Path)
    parser.add_argument("--cases", type=Path, help="record these cases instead")
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--random-gpt2-small", action="store_true", help="time a search instead")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    if options.random_gpt2_small:
        return time_search(options.threads)
    if options.cases:
        return run_cases(options.cases, options.shared)
    needed = ("model", "requests", "contexts", "stats", "hparams", "method", "out")
    if missing := [name for name in needed if getattr(options, name) is None]:
        parser.error(f"missing: {', '.join(missing)}")
    files = (options.requests, options.contexts, options.hparams)
    requests, contexts, hparams = (json.loads(file.read_text()) for file in files)
    dtype, method = TYPES[options.dtype], options.method
    out = edit(options.model, requests, contexts, options.stats, method, hparams, dtype)
    save(out, options.out, dict(method=method, dtype=options.dtype, hparams=hparams))


if __name__ == "__main__":
    main()
