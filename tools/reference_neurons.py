"""T-Patcher and CaliNET in plain PyTorch: extra neurons beside the last MLP, by autograd.

  neurons   up (n, D), gate (n, D) where the MLP has one, bias (n) where up has one (t-patcher
            alone), down (n, D): what the MLP gives += a sum_j act(up_j x + b_j) down_j, or with a
            gate act(gate_j x) (up_j x)
  t-patcher one fact: a neuron a token that is wrong under teacher forcing, the first five;
            loss + alc mean_top5 exp(-s_e) + mlc (mean_top1000 exp(s_m - s_e + 3)
            + mean_top1000 exp(s_m + 3)), s what the activation reads; the framework's Adam with
            decay, gradients clipped to norm 5; looks as the method's head says. a = amplify_con
  calinet   all facts: the mean over all target tokens, the framework's Adafactor, a = 1

Both begin with neurons drawn here, `init.<part>`. The output holds those, `wrong` (t-patcher),
`losses` before each step, and `end.<part>`.
"""

import numpy
import torch
from golden import layers, load, mlp, precision
from reference_mend import jitter
from reference_search import Text
from torch.nn.functional import linear
from transformers.optimization import Adafactor

METHODS = ("t-patcher", "calinet")
MARGIN, RUNS = 3.0, 8


def largest(values, most):
    return values.flatten().sort(descending=True).values[:most].mean()


class Neurons:
    def __init__(self, model, rounds):
        self.rounds = rounds  # which f32 run
        self.mlp = mlp(layers(model)[-1])
        self.gated = hasattr(self.mlp, "gate_proj")
        self.act = self.mlp.act_fn if self.gated else self.mlp.act
        self.biased = not self.gated and hasattr(self.mlp, "c_fc")
        self.parts, self.factor, self.seen = {}, 1.0, None

    def read(self, x):
        """What the activation reads, and what it gives."""
        up = linear(x, self.parts["up"])
        if self.gated:
            s = linear(x, self.parts["gate"])
            return s, self.act(s) * up
        s = up + self.parts["bias"] if "bias" in self.parts else up
        return s, self.act(s)

    def run(self, model, ids):
        def hook(_, inputs, output):
            self.seen = inputs[0][0].detach()
            if not self.parts:
                return output
            return output + self.factor * (self.read(inputs[0])[1] @ self.parts["down"])

        handle = self.mlp.register_forward_hook(hook)
        logits = model(torch.tensor([ids])).logits[0]
        handle.remove()
        return logits


def texts(text, case):
    for request in case["requests"]:
        prompt = text.row(request["prompt"], request["subject"]).ids
        y, _ = text.target(request["target_new"])
        yield prompt + y[:-1], y


def target_loss(model, neurons, rows):
    """Mean over all target tokens of all texts."""
    losses = []
    for ids, y in rows:
        logits = neurons.run(model, ids)[-len(y) :]
        losses.append(-torch.log_softmax(logits, -1)[range(len(y)), y])
    return torch.cat(losses).mean()


def patch(model, neurons, text, case, out):
    hparams = case["hparams"]
    (ids, y), *_ = rows = list(texts(text, case))
    with torch.no_grad():
        said = neurons.run(model, ids)[-len(y) :].argmax(-1).tolist()
        x = neurons.seen[-len(y) :]
        wrong = [t for t, (a, b) in enumerate(zip(said, y)) if a != b][:5]
        states = []
        for line in case["memory_text"]:
            neurons.run(model, text.tokenizer.encode(line).ids)
            states.append(neurons.seen)
        states = torch.cat(states)
    trained, held_out = states[0::2], states[1::2]
    keys = torch.stack([x[t] / x[t].dot(x[t]) for t in wrong])
    # Drawn by numpy, so that runs in both types begin at the same numbers.
    down = numpy.random.RandomState(1).randn(len(wrong), x.shape[1])
    parts = dict(up=keys.clone(), down=torch.tensor(down, dtype=x.dtype))
    if neurons.gated:
        parts["gate"] = keys.clone()
    if neurons.biased:
        parts["bias"] = torch.zeros(len(wrong), dtype=x.dtype)
    out["wrong"] = torch.tensor(wrong)
    begin(neurons, parts, out)
    neurons.factor = hparams["amplify_con"]
    lr, losses, acts = hparams["edit_lr"], [], []
    weights = list(neurons.parts.values())
    adam = torch.optim.Adam(weights, lr=lr, weight_decay=hparams["weight_decay"])
    lowest, not_lower, waits = float("inf"), 0, 0

    def own():
        return neurons.read(x)[0][wrong, range(len(wrong))]

    def in_memory(states, s_e):
        s = neurons.read(states)[0]
        acts.append("largest" if s.numel() > 1000 else "all")
        near = largest(torch.exp(s - s_e + MARGIN), 1000)
        return near + largest(torch.exp(s + MARGIN), 1000)

    for epoch in range(1, hparams["max_epochs"] + 1):
        loss = target_loss(model, neurons, rows)
        losses.append(loss.item())
        s_e = own()
        total = loss + hparams["alc"] * largest(torch.exp(-s_e), 5)
        total = total + hparams["mlc"] * in_memory(trained, s_e)
        adam.zero_grad()
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(weights, 5.0)
        acts.append("clip" if norm > 5 else "whole")
        adam.step()
        since = epoch - hparams["check_from"]
        if since < 0 or since % hparams["check_every"]:
            continue
        with torch.no_grad():
            now = in_memory(held_out, own()).item()
            right = neurons.run(model, ids)[-len(y) :].argmax(-1).tolist() == y
        lower = now < lowest
        lowest = min(now, lowest)
        not_lower, waits = (0, 0) if lower else (not_lower + 1, waits + 1)
        if not_lower >= hparams["early_patience"] and right:
            acts.append("end")
            break
        if waits > 1:
            lr, waits = lr / 2, 0
            acts.append("halved")
            for group in adam.param_groups:
                group["lr"] = lr
    return losses, acts


def begin(neurons, parts, out):
    out |= {f"init.{name}": value.clone().double() for name, value in parts.items()}
    if neurons.rounds:
        jitter(parts.values(), neurons.rounds)
    neurons.parts = {name: value.requires_grad_(True) for name, value in parts.items()}


def calibrate(model, neurons, text, case, out):
    hparams, draw = case["hparams"], numpy.random.RandomState(1)
    rows, n = list(texts(text, case)), hparams["neurons"]
    d = model.config.hidden_size

    def uniform(fan_in):
        drawn = (draw.rand(n, d) * 2 - 1) / fan_in**0.5
        return torch.tensor(drawn, dtype=torch.get_default_dtype())

    parts = dict(up=uniform(d), down=uniform(n))
    if neurons.gated:
        parts["gate"] = uniform(d)
    begin(neurons, parts, out)
    weights, losses = list(neurons.parts.values()), []
    optimiser = Adafactor(
        weights, lr=hparams["lr"], scale_parameter=False, relative_step=False, warmup_init=False
    )
    for _ in range(hparams["steps"]):
        loss = target_loss(model, neurons, rows)
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return losses, []


def edit(folder, case, dtype, rounds=0):
    torch.set_default_dtype(dtype)
    model, text, out = load(folder, dtype), Text(folder), {}
    neurons = Neurons(model, rounds)
    with precision(dtype):
        run = patch if case["method"] == "t-patcher" else calibrate
        losses, acts = run(model, neurons, text, case, out)
    torch.set_default_dtype(torch.float32)
    print(f"  {dtype}: losses {losses[0]:.3f} -> {losses[-1]:.3f} in {len(losses)}, {set(acts)}")
    out["losses"] = torch.tensor(losses, dtype=torch.float64)
    out |= {f"end.{n}": v.detach().double().contiguous() for n, v in neurons.parts.items()}
    return out, sorted(set(acts))


def record(folder, case):
    """The f64 run, and how far f32 runs are from it: one as it is, and others that begin a digit
    away, for what one run rounds is luck. What a case says has to act does in all of them."""
    exact, acts = edit(folder, case, torch.float64)
    runs = [edit(folder, case, torch.float32, i) for i in range(RUNS)]
    if any(own != acts for _, own in runs) or not set(case["acts"]) <= set(acts):
        raise ValueError(f"{case['name']}: {[own for _, own in runs]}, {acts}")
    runs = [run for run, _ in runs]
    if any(len(run["losses"]) != len(exact["losses"]) for run in runs):
        raise ValueError(f"{case['name']}: the runs end in different steps")

    def off(kind):
        names = [n for n in exact if n.startswith(kind)]
        return max(((r[n] - exact[n]).norm() / exact[n].norm()).item() for n in names for r in runs)

    print(f"  f32 against f64: losses {off('losses'):.1e}, neurons {off('end'):.1e}")
    return exact, dict(acts=acts, f32_loss=off("losses"), f32_neurons=off("end"))
