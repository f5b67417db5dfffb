"""UltraEdit in plain PyTorch: micro-batches padded on the right, by autograd, the large system.

With W (out, in) some matrices of some layers; for each turn of n_edits facts:

  for each micro-batch of batch_size facts
    loss  the mean of -log p(y_t | prompt, y_<t) over all target tokens of the micro-batch, or
          their sum, by `loss`
    X, G  rows (b, in) of what W reads and (b, out) of dloss/d(what W gives), at the tokens that say
          the targets
    for each W: its shape's n, mu, S take in Y = [X; G], n' = n + b, d = mean(Y) - mu:
          mu += b d / n',  S += (b - 1) var(Y) + n b d^2 / n'      var unbiased; b var(Y) by `spread`
  sigma = sqrt(S / (n - 1 + eps)),  eps that of f32,  rows normalised (y - mu) / (sigma + eps)
  for each W, with all rows of the turn: v = -lr |x^|^2 g^,  W += ((XT X + I)^-1 XT V)T

The output holds `<layer>.<matrix>.change` (out, in), and `losses` (facts), each the mean over its
tokens, before its turn.

  reference_ultraedit.py FOLDER FACTS [N]    seconds of N facts, one after another as the public
                                             code takes them: micro-batches, every solve with the
                                             system of W's width; FACTS as incise edit reads them
"""

import json
import sys
import time
from pathlib import Path

import torch
from golden import load, precision
from reference_fine_tuning import Matrix, fact
from reference_search import Row, Text, batch

METHODS = ("ultraedit",)
EPS = torch.finfo(torch.float32).eps


class Normaliser:
    """n, mu and S of the rows of one shape."""

    def __init__(self, width, public):
        self.n, self.public = 0, public
        self.mu, self.S = torch.zeros(width), torch.zeros(width)

    def add(self, Y):
        b = len(Y)
        n = self.n + b
        d = Y.mean(0) - self.mu
        var = Y.var(0) if b > 1 else torch.zeros_like(d)
        self.mu = self.mu + b * d / n
        self.S = self.S + (b if self.public else b - 1) * var + self.n * b * d**2 / n
        self.n = n

    def __call__(self, Y):
        return (Y - self.mu) / ((self.S / (self.n - 1 + EPS)).sqrt() + EPS)


def watch(matrices, modules):
    """Hooks that keep what each matrix's module reads, and what it gives with its gradient."""
    seen = [{} for _ in matrices]

    def hook(own):
        def keep(_, inputs, out):
            out.retain_grad()
            own.update(x=inputs[0].detach(), y=out)

        return keep

    return seen, [m.register_forward_hook(hook(own)) for m, own in zip(modules, seen)]


def rows(seen, facts, padded):
    """X and G of one matrix at the tokens that say the targets. OPT's MLP has all tokens in one
    row."""
    x, g = (t.reshape(*padded.shape, -1) for t in (seen["x"], seen["y"].grad))
    at = [(i, t) for i, (_, wanted, _) in enumerate(facts) for t in wanted]
    i, t = torch.tensor(at).T
    return x[i, t], g[i, t]


def micro_batch(model, facts, total):
    """The loss of each fact, a mean over its tokens; leaves the gradients of the batch's loss."""
    inputs, _ = batch([Row(ids, 0) for ids, _, _ in facts])
    log_p = torch.log_softmax(model(**inputs).logits, -1)
    each = [-log_p[i, at, y] for i, (_, at, y) in enumerate(facts)]
    loss = torch.cat(each)
    (loss.sum() if total else loss.mean()).backward()
    return torch.stack([nll.detach().mean() for nll in each]), inputs["input_ids"]


def turn(model, matrices, modules, facts, hparams, normalisers):
    """The changes (out, in) of a turn, and the losses of its facts."""
    X, G, losses = [[] for _ in matrices], [[] for _ in matrices], []
    for start in range(0, len(facts), hparams["batch_size"]):
        now = facts[start : start + hparams["batch_size"]]
        seen, hooks = watch(matrices, modules)
        loss, padded = micro_batch(model, now, hparams.get("loss") == "sum")
        losses.append(loss)
        for hook in hooks:
            hook.remove()
        model.zero_grad()
        for m, own in enumerate(seen):
            x, g = rows(own, now, padded)
            X[m].append(x)
            G[m].append(g)
            shape = tuple(matrices[m].start.shape)
            public = hparams.get("spread") == "public"
            width = x.shape[1] + g.shape[1]
            normalisers.setdefault(shape, Normaliser(width, public)).add(torch.cat((x, g), 1))
    changes = []
    for m, matrix in enumerate(matrices):
        x, g = torch.cat(X[m]), torch.cat(G[m])
        hat = normalisers[tuple(matrix.start.shape)](torch.cat((x, g), 1))
        x_hat, g_hat = hat.split((x.shape[1], g.shape[1]), 1)
        v = -hparams["lr"] * (x_hat**2).sum(1, keepdim=True) * g_hat
        A = x.T @ x + torch.eye(x.shape[1])
        changes.append(torch.linalg.solve(A, x.T @ v).T)
    return changes, torch.cat(losses)


def module_of(model, matrix):
    return next(m for m in model.modules() if getattr(m, "weight", None) is matrix.weight)


def edit(model, matrices, facts, hparams):
    """Edits the model; the losses of all facts, each before its turn."""
    modules, normalisers, losses = [module_of(model, m) for m in matrices], {}, []
    for start in range(0, len(facts), hparams["n_edits"]):
        now = facts[start : start + hparams["n_edits"]]
        changes, loss = turn(model, matrices, modules, now, hparams, normalisers)
        losses.append(loss)
        with torch.no_grad():
            for matrix, change in zip(matrices, changes):
                matrix.leaf += change
                matrix.write(matrix.leaf.detach())
    return torch.cat(losses), normalisers


def run(folder, case, dtype):
    torch.set_default_dtype(dtype)
    model, text, hparams = load(folder, dtype), Text(folder), case["hparams"]
    facts = [fact(text, request, "ft-m", None) for request in case["requests"]]
    matrices = [Matrix(model, l, m) for l in hparams["layers"] for m in hparams["matrices"]]
    with precision(dtype):
        losses, normalisers = edit(model, matrices, facts, hparams)
    torch.set_default_dtype(torch.float32)
    turns = -(-len(facts) // hparams["n_edits"])
    print(f"  {dtype}: {turns} turns, {[n.n for n in normalisers.values()]} rows")
    out = {f"{m.name}.change": (m.leaf.detach() - m.start).contiguous() for m in matrices}
    return out | {"losses": losses.double()}, dict(turns=turns, shapes=len(normalisers))


def record(folder, case):
    """The f64 run, and how far the f32 run is from it."""
    (plain, _), (exact, acts) = (run(folder, case, d) for d in (torch.float32, torch.float64))
    changes = [name for name in exact if name.endswith("change")]
    size = {n: exact[n].norm() for n in changes}
    change = max(((plain[n].double() - exact[n]).norm() / size[n]).item() for n in changes)
    off = (plain["losses"] - exact["losses"]).abs() / exact["losses"].clamp(min=1)
    loss = off.max().item()
    moved = {n: f"{size[n].item():.2e}" for n in changes}
    print(f"  f32 against f64: change {change:.1e}, loss {loss:.1e}; |change| {moved}")
    out = {n: t.float() if n in changes else t for n, t in exact.items()}
    return out, dict(acts=acts, f32_change=change, f32_loss=loss)


def main():
    folder, file, n = Path(sys.argv[1]), Path(sys.argv[2]), int((sys.argv[3:] or ["1000"])[0])
    hparams = json.loads((sys.argv[4:] or ["{}"])[0])
    hparams = dict(layers=[0], matrices=["down"], lr=1e-6, n_edits=100, batch_size=10) | hparams
    torch.set_num_threads(1)
    model, text = load(folder, torch.float32), Text(folder)
    lines = file.read_text().splitlines()[:n]
    facts = [fact(text, json.loads(line), "ft-m", None) for line in lines]
    matrices = [Matrix(model, l, m) for l in hparams["layers"] for m in hparams["matrices"]]
    start = time.perf_counter()
    losses, _ = edit(model, matrices, facts, hparams)
    seconds = time.perf_counter() - start
    print(json.dumps({"facts": len(facts), "seconds": seconds, "loss": losses.mean().item()}))


if __name__ == "__main__":
    main()
