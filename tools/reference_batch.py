"""MEMIT and its family in plain PyTorch: many facts at once, spread over layers.

With W (D, F) the down projection of a layer, C = E[k kT] (F, F), the edited layers l_1 < … < l_n,
L = l_n, everything read at the subject's last token, templates without the target:

  t0      = what the search adds to, for the bare prompt: the residual stream after layer L, the
            logits read from the output of layer max(v_loss_layer, L)
  z       = t0 + delta, delta from the search
  K       = (F, N): input of the layer's down projection, mean inside each group of contexts, then
            mean over the groups; H (D, N): the stream after layer L, for the bare prompts
  R       = (Z - H) / (n - i), i = 0 … n - 1 the layers done before, K and H of the model so far

  MEMIT      A = mom2_update_weight C + Q + K KT                           dW = R (A^-1 K)T
  ENCORE     A + update_norm_lambda I in the place of A; the search ends at the early_stop-th step
             with every target token the arg-max
  EMMET      B = mom2_update_weight C + update_norm_lambda I
             D = KT B^-1 K + emmet_lambda I                                dW = R (B^-1 K D^-1)T
  AlphaEdit  P = U0 U0T, U0 the eigenvectors of C with eigenvalue < nullspace_threshold
             dWT = (P (K KT + Q) + L2 I)^-1 P K RT
  BetaEdit   dWT = (P (K KT + Q + l C) + L2 I)^-1 P K RT, l mom2_update_weight; whenever the facts
             so far, t, pass a multiple of refresh_every, P is that of (Q / t + l C) / (l + 1)
  PMET       two vectors, added to the MLP's output m0 and to the output of the attention's output
             projection a0 of layer L; z = m0 + delta_m;
             R = (Z - M) / sqrt(n - i), M the MLP's output for the bare prompts; dW as in MEMIT

`sequential` = S > 0 edits S facts at a time, each batch searched on the model as edited so far.
After a batch its keys are computed again with the final weights and Q += K KT; not of EMMET and
PMET here.

Norm anchor (arXiv 2602.02543), where there is a Q: v0 is the MLP's output of layer L for the bare
prompt, v* = v0 + delta, and c the mean |v*| over the requests named by `anchor`, searched on the
unedited model, the largest 5 % (rounded up) left out. Then v* becomes v0 where |v*| > 2c, else
c v*/|v*|, and z = (t0 - v0) + v*.

The solves are dense and in f64 whatever the model's type.

The output holds, for request i: `<i>.z`, `<i>.t0`, `<i>.delta` (D), of PMET also `<i>.delta_a`, and
`<i>.loss`, `<i>.nll`, `<i>.kl`, `<i>.wd` of every step; for layer l `<l>.change` (D, F), over all
batches.
"""

import math
from dataclasses import dataclass

import torch
from golden import by_row, layers, load, precision, value
from reference_search import (
    ENOUGH,
    Text,
    add,
    batch,
    keys_and_outputs,
    search,
    second_moment,
    training,
)

PARTS = ("loss", "nll", "kl", "wd")


# ---------------------------------------------------------------------------- the changes


def memit(hparams, C, Q, K, R):
    """dW (D, F)."""
    A = hparams["mom2_update_weight"] * C + Q + K @ K.T
    return R @ torch.linalg.solve(A, K).T


def encore(hparams, C, Q, K, R):
    """dW (D, F)."""
    A = hparams["mom2_update_weight"] * C + Q + K @ K.T
    return R @ torch.linalg.solve(A + hparams["update_norm_lambda"] * identity(len(A)), K).T


def emmet(hparams, C, Q, K, R):
    """dW (D, F); with emmet_lambda 0, dW K = R."""
    F, N = K.shape
    B = hparams["mom2_update_weight"] * C + hparams.get("update_norm_lambda", 0) * identity(F)
    BK = torch.linalg.solve(B, K)
    D = K.T @ BK + hparams["emmet_lambda"] * identity(N)
    return R @ torch.linalg.solve(D, BK.T)  # D is symmetric


def alphaedit(hparams, C, Q, K, R):
    """dW (D, F)."""
    P = null_space(C, hparams["nullspace_threshold"])
    A = P @ (K @ K.T + Q) + hparams["L2"] * identity(len(C))
    return torch.linalg.solve(A, P @ K @ R.T).T


def betaedit(hparams, C, Q, K, R, P):
    """dW (D, F)."""
    A = P @ (K @ K.T + Q + hparams["mom2_update_weight"] * C)
    return torch.linalg.solve(A + hparams["L2"] * identity(len(C)), P @ K @ R.T).T


def refreshed(hparams, C, Q, t):
    """BetaEdit's projector after t facts."""
    weight = hparams["mom2_update_weight"]
    return null_space((Q / t + weight * C) / (weight + 1), hparams["nullspace_threshold"])


def identity(n):
    return torch.eye(n, dtype=torch.float64)


def null_space(C, threshold):
    """The projector P (F, F) on what C hardly moves."""
    values, vectors = torch.linalg.eigh(C)
    kept, gap = values < threshold, (values - threshold).abs().min()
    print(f"  {kept.sum()} of {len(C)} directions, the next {gap:.1e} from the threshold")
    U0 = vectors[:, kept]
    return U0 @ U0.T


CHANGE = {
    "memit": memit,
    "encore": encore,
    "emmet": emmet,
    "pmet": memit,
    "alphaedit": alphaedit,
    "betaedit": betaedit,
}
METHODS = tuple(CHANGE)
REMEMBERS = ("memit", "encore", "alphaedit", "betaedit")  # know batches and the norm anchor


# ---------------------------------------------------------------------------- facts


@dataclass
class Fact:
    """A request as tokens."""

    name: str
    bare: object  # the prompt with its subject
    groups: list  # the same in each group of contexts
    rows: tuple  # of the search


def fact(text, request, contexts):
    subject = request["subject"]
    groups = [[c.replace("{}", request["prompt"]) for c in group] for group in contexts]
    rows = training(text, [template for group in groups for template in group], request)
    grouped = [[text.row(template, subject) for template in group] for group in groups]
    return Fact(f"{subject} -> {request['target_new']}", grouped[0][0], grouped, rows)


def attention_out(block):
    """The output projection of a block's attention."""
    names = ("attn", "attention", "self_attn")
    attention = next(getattr(block, name) for name in names if hasattr(block, name))
    names = ("c_proj", "out_proj", "dense", "o_proj")
    return next(getattr(attention, name) for name in names if hasattr(attention, name))


@torch.no_grad()
def at_subject(model, module, row):
    """Output (D) of the module at the row's lookup token."""
    seen = {}
    hook = module.register_forward_hook(lambda _, inputs, out: seen.update(out=out))
    inputs, lookup = batch([row])
    model(**inputs)
    hook.remove()
    return by_row(seen["out"], inputs["input_ids"])[0, lookup[0]]


def keys(model, layer, facts):
    """K (F, N) in f64."""

    def key(fact):
        groups = [keys_and_outputs(model, layer, group)[0].mean(0) for group in fact.groups]
        return torch.stack(groups).mean(0)

    return torch.stack([key(fact).double() for fact in facts], 1)


# ---------------------------------------------------------------------------- the edit


@dataclass
class Target:
    """What the search of a fact gave: z (D), v0 (D), and the search itself."""

    z: torch.Tensor
    v0: torch.Tensor
    found: object


def target(model, fact, method, hparams):
    """The search of one fact on the model as it is."""
    L = hparams["layers"][-1]
    block = layers(model)[L]
    sites = [block]
    if method == "pmet":
        sites = [value(block), attention_out(block)]
    found = search(model, sites, fact.rows, hparams, max(hparams["v_loss_layer"], L))
    v0 = at_subject(model, value(block), fact.bare)
    return Target(found.t0[0] + found.deltas[0], v0, found)


def anchor_norm(model, facts, method, hparams):
    """The mean norm of the anchor's v*, the largest 5 % left out."""
    found = [target(model, fact, method, hparams) for fact in facts]
    norms = sorted((t.v0 + t.found.deltas[0]).norm().item() for t in found)
    norms = norms[: len(norms) - math.ceil(0.05 * len(norms))]
    return sum(norms) / len(norms)


def anchored(target, c):
    """Brings the norm of v* to c, or v* to v0 where it is too long; sets z and says which."""
    v = target.v0 + target.found.deltas[0]
    far = v.norm() > 2 * c
    did = "reset" if far else "rescaled"
    print(f"    {did}: |v*| {v.norm():.3f}, c {c:.3f}")
    v = target.v0 if far else v * (c / v.norm())
    target.z = (target.found.t0[0] - target.v0) + v
    return did


def edit_all(folder, case, stats, dtype):
    """The output tensors of a case, and what acted on which of its facts: "clamp", "stop" (the loss
    got below ENOUGH), "arg-max" (nll_factor was lowered or the search ended by it), "reset" and
    "rescaled" (by the anchor)."""
    torch.set_default_dtype(dtype)
    model, text = load(folder, dtype), Text(folder)
    C = {l: second_moment(stats, l) for l in case["hparams"]["layers"]}
    with precision(dtype):
        out, acts = edit(model, text, C, case)
    torch.set_default_dtype(torch.float32)
    return {name: tensor.contiguous() for name, tensor in out.items()}, acts


def edit(model, text, C, case):
    """As `edit_all`, on a model that is then edited."""
    method, hparams, edited = case["method"], case["hparams"], case["hparams"]["layers"]
    facts = [fact(text, request, case["contexts"]) for request in case["requests"]]
    Q = {l: torch.zeros_like(C[l]) for l in edited}
    at_once, anchor = case.get("sequential", 0) or len(facts), case.get("anchor")
    if method not in REMEMBERS and (anchor is not None or case.get("sequential")):
        raise ValueError(f"{method} knows neither batches nor an anchor")
    out, acts, done = {f"{l}.change": 0 for l in edited}, {}, 0
    P = {}
    if method == "betaedit":
        P = {l: null_space(C[l], hparams["nullspace_threshold"]) for l in edited}
    if anchor is not None:
        c = anchor_norm(model, [facts[i] for i in anchor], method, hparams)
    for start in range(0, len(facts), at_once):
        now = facts[start : start + at_once]
        targets = [target(model, fact, method, hparams) for fact in now]
        for i, t in enumerate(targets, start):
            report(i, facts[i], t.found, acts)
            if anchor is not None:
                acts.setdefault(anchored(t, c), []).append(i)
            out |= {f"{i}.z": t.z, f"{i}.t0": t.found.t0[0], f"{i}.delta": t.found.deltas[0]}
            if method == "pmet":
                out[f"{i}.delta_a"] = t.found.deltas[1]
            out |= {f"{i}.{part}": row for part, row in zip(PARTS, t.found.trace.T)}
        for l, dW in spread(model, method, hparams, C, Q, P, now, targets):
            out[f"{l}.change"] = out[f"{l}.change"] + dW
        for l in edited:
            K = keys(model, l, now)
            Q[l] = Q[l] + K @ K.T
        before, done = done, done + len(now)
        every = hparams.get("refresh_every")
        if every and before // every < done // every:
            P = {l: refreshed(hparams, C[l], Q[l], done) for l in edited}
            acts.setdefault("refresh", []).append(done)
    return out, acts


def spread(model, method, hparams, C, Q, P, facts, targets):
    """Changes the edited layers bottom up, so that together they bring the targets about. The
    layers and their dW."""
    edited, done = hparams["layers"], []
    last = layers(model)[edited[-1]]
    site, share = (value(last), math.sqrt) if method == "pmet" else (last, float)
    # What the stream gets of what a down projection gives.
    rho = getattr(model.config, "residual_multiplier", 1.0) if site is last else 1.0
    Z = torch.stack([t.z for t in targets], 1)
    for i, l in enumerate(edited):
        K = keys(model, l, facts)
        H = torch.stack([at_subject(model, site, fact.bare) for fact in facts], 1)
        R = (Z - H).double() / share(len(edited) - i) / rho
        dW = CHANGE[method](hparams, C[l], Q[l], K, R, *([P[l]] if P else []))
        add(model, l, dW)
        done.append((l, dW))
    return done


def report(i, fact, found, acts):
    """Prints a fact's search and notes what acted in it."""
    for act, did in (
        ("clamp", found.clamped > 0),
        ("stop", found.end == "loss"),
        ("arg-max", found.known > 0),
    ):
        if did:
            acts.setdefault(act, []).append(i)
    trace = found.trace
    near = (trace[:, 0] - ENOUGH).abs().min()
    print(
        f"  {i} {fact.name}: {len(fact.rows[2])} tokens, {len(trace)} steps to {found.end}, "
        f"{found.clamped} clamped, {found.known} steps at the arg-max, "
        f"loss {trace[0, 0]:.3f} -> {trace[-1, 0]:.4f}, {near:.1e} from the stop"
    )


def distances(ours, exact):
    """How far one run is from the other, the worst of each kind of tensor: |a - b| / |b|; for the
    loss and its parts |a - b| / loss of the step, NaN when the numbers of steps differ."""
    worst = {}
    for name, b in exact.items():
        fact, kind = name.split(".")
        a, b = ours[name].double(), b.double()
        if kind in PARTS:
            steps = ours[f"{fact}.loss"], exact[f"{fact}.loss"]
            same = len(steps[0]) == len(steps[1])
            off = ((a - b) / steps[1]).abs().max().item() if same else float("nan")
        else:
            off = ((a - b).norm() / b.norm()).item() if b.norm() > 0 else (a - b).norm().item()
        worst[kind] = off if off != off else max(worst.get(kind, 0.0), off)
    return worst
