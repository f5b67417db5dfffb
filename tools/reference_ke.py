"""KE in plain PyTorch, in the form of MEND's repository (`efk`): the framework's LSTM, and the rest by
autograd.

For each sample, with W (out, in) the matrices that are edited and g the gradient for each of -1/T
sum_t log p(y_t | prompt, y_<t), a constant:

  text       what the model says now, as many tokens as the target has; a separator; the target; a
             separator; the prompt. A separator is a vector of its own
  c          tanh(linear([h forwards; h backwards])), the last states of an LSTM each way
  q_a, r_a, q_b, r_b, s    of W: weight-normed linear, tanh, weight-normed linear of c
  dW         sigmoid(s) (softmax(r_a) q_aT * g + softmax(r_b) q_bT)
  loss       as reference_mend.py, at W + dW; and after each batch a clipped step of Adam

With `kl_bound` what is trained for is De Cao's: the smoothed loss of the outer target (eps spread over
the other V - 1 tokens) + multiplier (KL - margin); the framework's centred RMSprop, whose rates go
up for some steps and then down to 0 at the last; the multiplier goes up the loss and is never
below 0.

The output holds what reference_mend.py's does, without means.
"""

import torch
from reference_mend import RUNS, Edited, Weighed, missed, nll, train

METHODS = ("ke",)


class Editor:
    def __init__(self, model, hparams, seed, dtype):
        generator = torch.Generator().manual_seed(seed)
        embed = model.get_input_embeddings().weight.detach().float()
        hidden, width = hparams["hidden_dim"], embed.shape[1]

        def draw(*shape):
            scale = 0.5 / shape[-1] ** 0.5
            return scale * torch.randn(*shape, generator=generator, dtype=torch.float32)

        self.model, self.acts = model, {}
        self.edited = [Edited(model, l, m) for l in hparams["layers"] for m in hparams["matrices"]]
        tensors = {"condition.embedding.weight": embed.clone(), "condition.separators": draw(2, width)}
        for way in ("", "_reverse"):
            for name, size in ("ih", width), ("hh", hidden):
                tensors[f"condition.lstm.weight_{name}_l0{way}"] = draw(4 * hidden, size)
                tensors[f"condition.lstm.bias_{name}_l0{way}"] = draw(4 * hidden)
        tensors["condition.linear.weight"] = draw(hparams["condition_dim"], 2 * hidden)
        tensors["condition.linear.bias"] = draw(hparams["condition_dim"])
        for edited in self.edited:
            layer, matrix = edited.name.split(".")
            sizes = hparams["condition_dim"], hidden, 2 * sum(edited.shape) + 1
            for k in (0, 1):
                name = f"layers.{layer}.{matrix}.{2 * k}"
                tensors[f"{name}.weight_v"] = draw(sizes[k + 1], sizes[k])
                tensors[f"{name}.weight_g"] = 2 * draw(sizes[k + 1], 1).abs() + 0.5
                tensors[f"{name}.bias"] = draw(sizes[k + 1])
        self.tensors = {n: t.to(dtype).requires_grad_(True) for n, t in tensors.items()}
        self.lstm = torch.nn.LSTM(width, hidden, batch_first=True, bidirectional=True, dtype=dtype)

    def trained(self):
        return self.tensors

    def kept(self):
        return {}

    def said(self, prompt, n):
        ids = list(prompt)
        with torch.no_grad():
            for _ in range(n):
                ids.append(self.model(torch.tensor([ids])).logits[0, -1].argmax().item())
        return ids[len(prompt) :]

    def condition(self, prompt, target):
        t = self.tensors
        embed, between = t["condition.embedding.weight"], t["condition.separators"]
        said = self.said(prompt, len(target))
        x = torch.cat([embed[said], between[:1], embed[target], between[1:], embed[prompt]])
        own = {n.split("lstm.")[1]: v for n, v in t.items() if "lstm." in n}
        _, (ends, _) = torch.func.functional_call(self.lstm, own, (x[None],))
        ends = ends.reshape(-1)
        return torch.tanh(t["condition.linear.weight"] @ ends + t["condition.linear.bias"])

    def normed(self, name, x):
        g, v, b = (self.tensors[f"{name}.{n}"] for n in ("weight_g", "weight_v", "bias"))
        return (g * v / v.norm(dim=1, keepdim=True)) @ x + b

    def changes(self, prompt, target, _):
        leaves = [e.weight().detach().clone().requires_grad_(True) for e in self.edited]
        loss = nll(self.with_weights(prompt + target[:-1], leaves), target)
        gradients = torch.autograd.grad(loss, leaves)
        c, out = self.condition(prompt, target), []
        for edited, g in zip(self.edited, gradients):
            name = "layers." + edited.name
            said = self.normed(f"{name}.2", torch.tanh(self.normed(f"{name}.0", c)))
            inner, rows = edited.shape
            qa, ra, qb, rb, s = said.split([inner, rows, inner, rows, 1])
            a, b = (torch.outer(r.softmax(0), q) for r, q in ((ra, qa), (rb, qb)))
            out.append(torch.sigmoid(s) * (a * g + b))
        return out

    def with_weights(self, ids, weights):
        changed = {e.parameter: e.stored(w) for e, w in zip(self.edited, weights)}
        return torch.func.functional_call(self.model, changed, (torch.tensor([ids]),)).logits[0]

    def logits(self, ids, changes):
        return self.with_weights(ids, [e.weight() + c for e, c in zip(self.edited, changes)])


class Bound:
    """De Cao's aim."""

    def __init__(self, hparams, trained, dtype):
        self.eps = hparams["eps"]
        self.multiplier = torch.ones(1, dtype=dtype, requires_grad=True)
        self.multiplier.register_hook(lambda gradient: -gradient)
        self.margin = torch.tensor([hparams["margin_kl_max"]], dtype=dtype)
        self.trained, self.kept = {"multiplier": self.multiplier}, {"margin": self.margin}
        groups = [
            dict(params=list(trained.values()), lr=hparams["lr"]),
            dict(params=[self.multiplier], lr=hparams["lr_alpha"]),
        ]
        up, steps = hparams["warmup_updates"], hparams["max_iters"] // hparams["accumulate_bs"]
        self.optimiser = torch.optim.RMSprop(groups, centered=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda n: n / up if n < up else (steps - n) / (steps - up)
        )
        self.acts = {"floored": 0}

    def edit(self, logits, target):
        log_p = torch.log_softmax(logits[-len(target) :], -1)
        others = self.eps / (log_p.shape[-1] - 1)
        own = log_p[range(len(target)), target]
        smooth = (1 - self.eps - others) * own + others * log_p.sum(-1)
        return -smooth.mean()

    def total(self, edit, kl):
        return (edit + self.multiplier * (kl - self.margin)).squeeze()

    def step(self):
        self.optimiser.step()
        self.schedule.step()
        with torch.no_grad():
            self.acts["floored"] += int(self.multiplier.item() < 0)
            self.multiplier.clamp_(min=0)


def record(folder, case):
    """The f64 run, and how far f32 runs are from it, as in reference_mend.py."""
    aim = Bound if case["hparams"].get("kl_bound") else Weighed
    exact, acts = train(folder, case, torch.float64, made=Editor, aimed=aim)
    runs = [train(folder, case, torch.float32, i, Editor, aim)[0] for i in range(RUNS)]
    floors = case["name"].startswith("llama") and aim is Bound
    if not 0 < acts.get("clip", 0) < len(exact["norms"]) or floors != (acts.get("floored", 0) > 0):
        raise ValueError(f"{case['name']}: {acts}")

    out = {n: t.float() if n.startswith("start.") else t for n, t in exact.items()}
    return out, missed(exact, runs) | dict(acts=acts)
