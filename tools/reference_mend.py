"""MEND in plain PyTorch: the networks as modules, their gradients by autograd, the framework's Adam
and clipping.

For each sample of a batch, with W the matrices that are edited, m a matrix and its place among those
of its shape:

  x, d       what W reads at each token of prompt and target, and the gradient of -1/T sum_t
             log p(y_t | prompt, y_<t) for what it gives; tokens where either is zero are left out
  mean, std  over all such tokens of this shape so far (Welford), this sample's included
  h          [(x - mean_x)/(std_x + 1e-7); (d - mean_d)/(std_d + 1e-7)]
  twice      h <- h + max(0, scale_m (U V h + bias) + shift_m)
  dW         rate_m sum_t d' x'T, with [x'; d'] = h
  loss       cedit -1/T sum_t log p(y_t | outer prompt, y_<t) + cloc mean_t KL(before | after) over all
             tokens of the locality text, at W + dW

and after each batch a clipped step of Adam on the mean of its losses. Then one edit is made with the
means and deviations as they are.

Tensors have the names of the public code's state dict. The output holds those at the start as
`start.NAME`, how far each that is trained moved as `moved.NAME`, means and sums at the end as
`end.NAME`, `losses` (samples, 3: edit, locality, total), `norms` of the batches' gradients, and dW
(out, in) of the last edit as `<layer>.<matrix>.change`.
"""

import torch
from golden import layers, load, mlp, precision
from reference_search import Text

METHODS = ("mend",)
BLOCKS, EPS = 2, 1e-7
MODULES = {
    "gate": ("gate_proj",),
    "up": ("up_proj", "c_fc"),
    "down": ("down_proj", "c_proj"),
}


class Edited:
    """An edited matrix: its module, and its name among the model's parameters."""

    def __init__(self, model, layer, name):
        block = mlp(layers(model)[layer])
        self.module = next(getattr(block, n) for n in MODULES[name] if hasattr(block, n))
        self.name, self.transposed = f"{layer}.{name}", hasattr(self.module, "nf")
        named = model.named_parameters()
        self.parameter = next(n for n, p in named if p is self.module.weight)
        out, inner = self.weight().shape
        self.shape = (inner, out)

    def weight(self):
        return self.module.weight.T if self.transposed else self.module.weight

    def stored(self, weight):
        return weight.T if self.transposed else weight


class Network:
    """The tensors of one shape, by the public code's names without their common beginning."""

    def __init__(self, shape, matrices, rank, draw, dtype):
        self.shape, self.matrices = shape, matrices
        width = sum(shape)
        rank, n = min(rank, width), len(matrices)
        self.trained, self.kept = {}, {"k": torch.zeros(1)}
        for letter, size in zip("uv", shape):
            for what in ("mean", "std", "s"):
                self.kept[f"{letter}_{what}"] = torch.zeros(size)
        for i in range(BLOCKS):
            tensors = {
                "u": 0.02 * draw(width, rank),
                "v": draw(rank, width),
                "bias": 0.1 * draw(width),
                "mode_shift.weight": 0.1 * draw(n, width),
                "mode_scale.weight": 1 + 0.1 * draw(n, width),
            }
            self.trained |= {f"mlp.layers.{i}.{name}": t for name, t in tensors.items()}
        self.kept = {name: t.to(dtype) for name, t in self.kept.items()}
        self.trained = {n: t.to(dtype).requires_grad_(True) for n, t in self.trained.items()}

    def named(self, tensors):
        return {f"mend.{self.shape}.{name}": t for name, t in tensors.items()}

    def learn(self, x, d):
        kept, seen = self.kept, self.kept["k"].item()
        for letter, rows in zip("uv", (x, d)):
            k, mean, squares = seen, kept[f"{letter}_mean"], kept[f"{letter}_s"]
            for row in rows:
                k += 1
                before = row - mean
                mean = mean + before / k
                squares = squares + before * (row - mean)
            kept[f"{letter}_mean"], kept[f"{letter}_s"] = mean, squares
            kept[f"{letter}_std"] = (squares / max(k - 1, 1)).sqrt()
        kept["k"] = torch.full_like(kept["k"], seen + len(x))

    def factors(self, x, d, m, learn, acts):
        whole = (x != 0).any(-1) & (d != 0).any(-1)
        acts["dropped"] = acts.get("dropped", 0) + (~whole).sum().item()
        x, d = x[whole], d[whole]
        if learn:
            self.learn(x, d)
        kept, t = self.kept, self.trained
        h = torch.cat(
            [(x - kept["u_mean"]) / (kept["u_std"] + EPS), (d - kept["v_mean"]) / (kept["v_std"] + EPS)],
            -1,
        )
        for i in range(BLOCKS):
            own = {n: t[f"mlp.layers.{i}.{n}"] for n in ("u", "v", "bias")}
            scale, shift = (t[f"mlp.layers.{i}.mode_{n}.weight"][m] for n in ("scale", "shift"))
            q = (h @ own["v"].T @ own["u"].T + own["bias"]) * scale + shift
            acts["clamped"] = acts.get("clamped", 0) + (q < 0).sum().item()
            h = h + q.clamp(min=0)
        return h[:, : self.shape[0]], h[:, self.shape[0] :]


class Editor:
    def __init__(self, model, hparams, seed, dtype):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float32)

        self.model, self.acts = model, {}
        model.requires_grad_(False)
        # Autograd needs a leaf below the first edited matrix.
        embedding = model.get_input_embeddings()
        embedding.register_forward_hook(lambda _, __, out: out.detach().requires_grad_(True))
        self.edited = [Edited(model, l, m) for l in hparams["layers"] for m in hparams["matrices"]]
        shapes = list(dict.fromkeys(e.shape for e in self.edited))
        of = {shape: [e for e in self.edited if e.shape == shape] for shape in shapes}
        self.networks = [Network(s, of[s], hparams["rank"], draw, dtype) for s in shapes]
        rates = torch.full((len(self.edited),), hparams["edit_lr"], dtype=torch.float32)
        self.rates = rates.to(dtype).requires_grad_(True)

    def trained(self):
        out = {"edit_lrs": self.rates}
        for network in self.networks:
            out |= network.named(network.trained)
        return out

    def kept(self):
        return {n: t for network in self.networks for n, t in network.named(network.kept).items()}

    def changes(self, prompt, target, learn):
        """dW (out, in) of each matrix, and x, d as constants."""
        seen, hooks = {}, []
        for edited in self.edited:

            def keep(module, inputs, output, name=edited.name):
                output.requires_grad_(True) if output.is_leaf else output.retain_grad()
                seen[name] = inputs[0].detach(), output

            hooks.append(edited.module.register_forward_hook(keep))
        loss = nll(self.model(torch.tensor([prompt + target[:-1]])).logits[0], target)
        loss.backward()
        for hook in hooks:
            hook.remove()
        out = []
        for rate, edited in zip(self.rates, self.edited):
            network = next(n for n in self.networks if edited in n.matrices)
            x, output = seen[edited.name]
            x, d = (t.reshape(-1, t.shape[-1]) for t in (x, output.grad))
            m = network.matrices.index(edited)
            x, d = network.factors(x, d, m, learn, self.acts)
            out.append(rate * torch.einsum("ti,to->oi", x, d))
        return out

    def logits(self, ids, changes):
        changed = {
            e.parameter: e.stored(e.weight() + change) for e, change in zip(self.edited, changes)
        }
        inputs = (torch.tensor([ids]),)
        return torch.func.functional_call(self.model, changed, inputs).logits[0]


def nll(logits, target):
    log_p = torch.log_softmax(logits[-len(target) :], -1)
    return -log_p[range(len(target)), target].mean()


def tokens(text, prompt, target):
    """A prompt's ids and a target's."""
    ids = text.tokenizer.encode(prompt).ids
    return ids, text.target(target)[0]


def jitter(tensors, seed):
    """Moves each number by its last digit, up, down or not: an f32 run that rounds otherwise."""
    generator = torch.Generator().manual_seed(seed)
    for t in tensors:
        way = torch.randint(-1, 2, t.shape, generator=generator)
        t.data.mul_(1 + way * torch.finfo(torch.float32).eps)


class Weighed:
    """Adam on the two losses of a sample, weighed."""

    def __init__(self, hparams, trained, dtype):
        self.weights = hparams["cedit"], hparams["cloc"]
        rates = [t for n, t in trained.items() if n == "edit_lrs"]
        others = [t for n, t in trained.items() if n != "edit_lrs"]
        groups = [dict(params=others, lr=hparams["lr"])]
        self.adam = torch.optim.Adam(groups + [dict(params=[t], lr=hparams["lr_lr"]) for t in rates])

    trained, kept, acts = {}, {}, {}

    def edit(self, logits, target):
        return nll(logits, target)

    def total(self, edit, kl):
        return self.weights[0] * edit + self.weights[1] * kl

    def step(self):
        self.adam.step()


def train(folder, case, dtype, rounds=0, made=Editor, aimed=Weighed):
    """Trains an editor, `made` of a model, for what is `aimed` at, and edits with it."""
    torch.set_default_dtype(dtype)
    model, text, hparams = load(folder, dtype), Text(folder), case["hparams"]
    editor = made(model, hparams, case["seed"], dtype)
    aim = aimed(hparams, editor.trained(), dtype)
    trained = editor.trained() | aim.trained
    if rounds:
        jitter(trained.values(), rounds)
    out = {f"start.{n}": t.detach().clone() for n, t in (trained | editor.kept() | aim.kept).items()}
    losses, norms, size = [], [], hparams["accumulate_bs"]
    with precision(dtype):
        for start in range(0, len(case["draws"]), size):
            for t in trained.values():
                t.grad = None
            now = case["draws"][start : start + size]
            for record, outer, locality in now:
                request = case["requests"][record]
                target = request["target_new"]
                prompt, y = tokens(text, request["prompt"].replace("{}", request["subject"]), target)
                changes = editor.changes(prompt, y, True)
                prompt, y = tokens(text, request["paraphrases"][outer], target)
                edit = aim.edit(editor.logits(prompt + y[:-1], changes), y)
                stays = request["neighbourhood"][locality]
                ids, end = tokens(text, stays["prompt"], stays["target"])
                before = torch.log_softmax(model(torch.tensor([ids + end])).logits[0], -1).detach()
                after = torch.log_softmax(editor.logits(ids + end, changes), -1)
                kl = (before.exp() * (before - after)).sum(-1).mean()
                total = aim.total(edit, kl)
                (total / len(now)).backward()
                losses.append([edit.item(), kl.item(), total.item()])
            norm = torch.nn.utils.clip_grad_norm_(list(trained.values()), hparams["grad_clip"])
            norms.append(norm.item())
            if norm > hparams["grad_clip"]:
                editor.acts["clip"] = editor.acts.get("clip", 0) + 1
            aim.step()
        request = case["requests"][0]
        prompt = request["prompt"].replace("{}", request["subject"])
        changes = editor.changes(*tokens(text, prompt, request["target_new"]), False)
    torch.set_default_dtype(torch.float32)
    for name, t in trained.items():
        out[f"moved.{name}"] = t.detach() - out[f"start.{name}"]
    kept = editor.kept() | aim.kept
    out |= {f"end.{n}": t.detach().clone() for n, t in kept.items()}
    for edited, change in zip(editor.edited, changes):
        out[f"{edited.name}.change"] = change.detach().contiguous()
    out["losses"] = torch.tensor(losses, dtype=torch.float64)
    out["norms"] = torch.tensor(norms, dtype=torch.float64)
    print(f"  {dtype}: loss {losses[0][2]:.4f} -> {losses[-1][2]:.4f}, KL {losses[-1][1]:.1e},")
    print(f"  norms {[f'{n:.2f}' for n in norms]}, {editor.acts | aim.acts}")
    return out, editor.acts | aim.acts


RUNS = 4


def missed(exact, runs):
    """How far f32 runs are from the f64 run, at worst: a tensor's move, a mean or sum, a matrix'
    change, a loss and a norm."""

    def worst(begins, ends=""):
        names = [n for n in exact if n.startswith(begins) and n.endswith(ends)]
        off = [(r[n].double() - exact[n]).norm() / exact[n].norm() for n in names for r in runs]
        return max((x.item() for x in off), default=0.0)

    made = dict(f32_moved=worst("moved."), f32_end=worst("end."), f32_change=worst("", ".change"))
    # A loss is off by what ln p is.
    off = [(r["losses"] - exact["losses"]).abs() / exact["losses"].clamp(min=1) for r in runs]
    made["f32_losses"] = max(x.max().item() for x in off)
    off = [((r["norms"] - exact["norms"]) / exact["norms"]).abs().max().item() for r in runs]
    made["f32_norms"] = max(off)
    print(f"  f32 against f64: {made}")
    return made


def record(folder, case):
    """The f64 run, and how far f32 runs are from it: one as it is, and others that begin a digit
    away, for what one run rounds is luck. All branches acted."""
    exact, acts = train(folder, case, torch.float64)
    runs = [train(folder, case, torch.float32, i)[0] for i in range(RUNS)]
    for act in ("dropped", "clamped", "clip"):
        if not acts.get(act):
            raise ValueError(f"{case['name']}: nothing {act}")

    out = {n: t.float() if n.startswith("start.") else t for n, t in exact.items()}
    return out, missed(exact, runs) | dict(acts=acts)
