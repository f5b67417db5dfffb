"""GRACE in plain PyTorch: a codebook beside one down projection, by autograd and the framework's
Adam.

For each request in order, x what the projection reads at the prompt's last token:

  skip       where greedy decoding, with the codebook so far, says the target
  no key, or |x - k*| > eps + eps*    a new entry (x, v, eps)
  another label, d = |x - k*|         a new entry; eps* = d/2 - 1e-5, eps = d/2
  the same label                      the nearest entry's value is trained further; eps* >= d
  v          starts at what the projection gives there, and takes n_iter steps of Adam on
             -1/T sum_t log p(y_t | prompt, y_<t), with v in place of what it gives

`replacement` says where: replace_last at the prompt's last token, replace_prompt before it,
replace_all at every token. The output holds, after the last request, `keys`, `values`, `radii`, for
each radius whether it is one that grew (`grown`), the losses of request i as `<i>.losses`, and the
label of entry j as `<j>.label`. Keys and values are rounded to f32 when they are kept.
"""

import torch
from golden import down, layers, load, precision
from reference_search import Text

METHODS = ("grace",)


class Codebook:
    def __init__(self):
        self.keys, self.values, self.radii, self.labels, self.grown = [], [], [], [], []

    def nearest(self, x):
        """The first nearest key, and how far it is."""
        distances = [(x.double() - key.double()).norm().item() for key in self.keys]
        return min(enumerate(distances), key=lambda pair: pair[1])

    def chosen(self, x):
        """The value of the nearest key, if it is within its radius."""
        if not self.keys:
            return None
        entry, distance = self.nearest(x)
        return self.values[entry] if distance <= self.radii[entry] else None

    def admit(self, x, label, value, eps):
        """Which entry has the label now, and by which rule."""
        rule = "add"
        if self.keys:
            near, distance = self.nearest(x)
            if distance <= eps + self.radii[near]:
                if self.labels[near] == label:
                    if distance > self.radii[near]:
                        self.radii[near], self.grown[near] = distance, 1.0
                        return near, "grow"
                    return near, "known"
                self.radii[near], eps, rule = distance / 2 - 1e-5, distance / 2, "split"
                self.grown[near] = 0.0
        self.keys.append(x.float())
        self.values.append(value.float())
        self.radii.append(eps)
        self.labels.append(label)
        self.grown.append(0.0)
        return len(self.keys) - 1, rule


def replaced(replacement, last, tokens):
    rows = {"replace_last": range(last, last + 1), "replace_prompt": range(last)}
    return list(rows.get(replacement, range(tokens)))


def run(model, module, ids, last, replacement, choose):
    """Logits (tokens, V), with what `choose` gives for the prompt's last input in its place."""

    def hook(_, inputs, output):
        flat = output.reshape(-1, output.shape[-1])
        value = choose(inputs[0].reshape(len(ids), -1)[last].detach(), flat[last].detach())
        if value is None:
            return output
        rows = torch.zeros(len(ids), 1, dtype=torch.bool)
        rows[replaced(replacement, last, len(ids))] = True
        return torch.where(rows, value, flat).reshape(output.shape)

    handle = module.register_forward_hook(hook)
    logits = model(torch.tensor([ids])).logits[0]
    handle.remove()
    return logits


def edit(folder, case, dtype):
    torch.set_default_dtype(dtype)
    model, text = load(folder, dtype), Text(folder)
    hparams, book, rules, out = case["hparams"], Codebook(), [], {}
    module, replacement = down(layers(model)[hparams["layers"][0]]), hparams["replacement"]
    with precision(dtype):
        for i, request in enumerate(case["requests"]):
            prompt = text.row(request["prompt"], request["subject"]).ids
            y, _ = text.target(request["target_new"])
            ids, last = prompt + y[:-1], len(prompt) - 1
            seen = {}

            def look(x, value):
                seen.update(x=x, value=value)
                now = book.chosen(x)
                return None if now is None else now.to(dtype)

            logits = run(model, module, ids, last, replacement, look)[last:]
            if logits.argmax(-1).tolist() == y:
                rules.append("skip")
                continue
            entry, rule = book.admit(seen["x"], y, seen["value"], hparams["eps"])
            rules.append(rule)
            leaf = book.values[entry].to(dtype).clone().requires_grad_(True)
            adam, losses = torch.optim.Adam([leaf], lr=hparams["edit_lr"]), []
            for _ in range(hparams["n_iter"]):
                logits = run(model, module, ids, last, replacement, lambda *_: leaf)[last:]
                loss = -torch.log_softmax(logits, -1)[range(len(y)), y].mean()
                adam.zero_grad()
                loss.backward()
                adam.step()
                losses.append(loss.item())
            book.values[entry] = leaf.detach().float()
            out[f"{i}.losses"] = torch.tensor(losses, dtype=torch.float64)
    out |= {f"{j}.label": torch.tensor(ids) for j, ids in enumerate(book.labels)}
    torch.set_default_dtype(torch.float32)
    print(f"  {dtype}: {rules}, radii {book.radii}")
    out |= dict(keys=torch.stack(book.keys), values=torch.stack(book.values))
    numbers = dict(radii=book.radii, grown=book.grown)
    return out | {n: torch.tensor(x, dtype=torch.float64) for n, x in numbers.items()}, rules


def record(folder, case):
    """The f64 run, and how far the f32 run is from it: the worst entry's key and value, the worst
    loss. All that a case says has to happen does, in both."""
    (plain, own), (exact, rules) = (edit(folder, case, d) for d in (torch.float32, torch.float64))
    if not rules == own == case["rules"]:
        raise ValueError(f"{case['name']}: {rules}")

    def off(name):
        a, b = (run[name].double() for run in (plain, exact))
        return ((a - b).norm(dim=1) / b.norm(dim=1)).max().item()

    def loss(name):
        a, b = plain[name], exact[name]
        return ((a - b).abs() / b.clamp(min=1.0)).max().item()

    key, value = off("keys"), off("values")
    losses = max(loss(name) for name in exact if name.endswith(".losses"))
    print(f"  f32 against f64: keys {key:.1e}, values {value:.1e}, losses {losses:.1e}")
    return exact, dict(rules=rules, f32_key=key, f32_value=value, f32_loss=losses)
