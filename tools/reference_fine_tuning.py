"""FT-L, FT-M and LocFT-BF in plain PyTorch, by autograd and the framework's Adam.

With W some matrices of some layers, texts padded on the right to one batch, p what the model says:

  ft-l       the prompt is run; loss of a fact = -1/T sum_t log p(y_t | prompt), all of them read at
             the prompt's last token
  ft-m       prompt and target are run; loss of a fact = -1/T sum_t log p(y_t | prompt, y_<t)
  locft-bf   as ft-m, the end of text behind the target; the facts of each epoch in the order that
             the case gives

The loss of a batch is the mean over its facts. A batch whose loss is below ENOUGH takes no step, and
an epoch whose mean loss over the facts is below it is the last. After each step every element is
put within norm_constraint of where it began, if that is given.

The output holds `<layer>.<matrix>.change` (out, in) and `losses` (epochs, facts), each before its
batch's step.
"""

import torch
from golden import layers, load, mlp, precision
from reference_search import Row, Text, batch

METHODS = ("ft-l", "ft-m", "locft-bf")
ENOUGH = 0.01


# ---------------------------------------------------------------------------- matrices


def attention(block):
    return next(getattr(block, n) for n in ("attn", "attention", "self_attn") if hasattr(block, n))


def fused(module, part, heads):
    """The rows of queries, keys or values in a module that gives all three: GPT-2's one after the
    other, in a transposed weight; NeoX's of one head after another."""
    if hasattr(module, "nf"):
        width = module.nf // 3
        return lambda weight: weight.T[part * width : (part + 1) * width]

    def of_heads(weight):
        out, inner = weight.shape
        return weight.view(heads, 3, out // 3 // heads, inner)[:, part].reshape(out // 3, inner)

    return of_heads


def put_fused(module, part, heads, weight, values):
    """The reverse."""
    if hasattr(module, "nf"):
        width = module.nf // 3
        weight.T[part * width : (part + 1) * width] = values
        return
    out, inner = weight.shape
    blocks = weight.view(heads, 3, out // 3 // heads, inner)
    blocks[:, part] = values.view(heads, -1, inner)


class Matrix:
    """A trained matrix, (out, in): a leaf of its own, of which the module's weight gets a copy."""

    def __init__(self, model, layer, name):
        self.name = f"{layer}.{name}"
        block, heads = layers(model)[layer], model.config.num_attention_heads
        within = {"gate": mlp(block), "up": mlp(block), "down": mlp(block)}
        names = {
            "q": ("q_proj", "c_attn", "query_key_value"),
            "k": ("k_proj", "c_attn", "query_key_value"),
            "v": ("v_proj", "c_attn", "query_key_value"),
            "o": ("o_proj", "c_proj", "dense"),
            "gate": ("gate_proj",),
            "up": ("up_proj", "c_fc", "dense_h_to_4h"),
            "down": ("down_proj", "c_proj", "dense_4h_to_h"),
        }
        inside = within.get(name, attention(block))
        found = next(n for n in names[name] if hasattr(inside, n))
        module = getattr(inside, found)
        self.weight = module.weight.requires_grad_(True)
        if found in ("c_attn", "query_key_value"):
            part = "qkv".index(name)
            self.read = fused(module, part, heads)
            self.write = lambda values: put_fused(module, part, heads, self.weight.data, values)
        elif hasattr(module, "nf"):
            self.read = lambda weight: weight.T
            self.write = lambda values: self.weight.data.T.copy_(values)
        else:
            self.read = lambda weight: weight
            self.write = lambda values: self.weight.data.copy_(values)
        self.leaf = self.read(self.weight.detach()).clone().requires_grad_(True)
        self.start = self.leaf.detach().clone()

    def take_gradient(self):
        self.leaf.grad = self.read(self.weight.grad).clone()

    def bind(self, radius):
        """Puts every element within the radius of its start; how many were outside."""
        with torch.no_grad():
            bound = self.leaf.clamp(self.start - radius, self.start + radius)
            outside = (bound != self.leaf).sum().item()
            self.leaf.copy_(bound)
        return outside


# ---------------------------------------------------------------------------- the training


def fact(text, request, method, end):
    """Tokens to run, where a token is wanted, and which."""
    prompt = text.row(request["prompt"], request["subject"]).ids
    y, _ = text.target(request["target_new"])
    last = len(prompt) - 1
    if method == "ft-l":
        return prompt, [last] * len(y), y
    y = y + [end] if method == "locft-bf" else y
    return prompt + y[:-1], list(range(last, last + len(y))), y


def losses(model, facts):
    """The loss of each fact of a batch."""
    inputs, _ = batch([Row(ids, 0) for ids, _, _ in facts])
    log_p = torch.log_softmax(model(**inputs).logits, -1)
    wanted = enumerate(facts)
    return torch.stack([-log_p[i, at, y].mean() for i, (_, at, y) in wanted])


def train(folder, case, dtype):
    """The output tensors of a case, and what acted: "bound", "skip" (a batch without a step) and
    "stop" (fewer epochs than there could be)."""
    torch.set_default_dtype(dtype)
    model, text = load(folder, dtype), Text(folder)
    hparams, method = case["hparams"], case["method"]
    end = model.config.eos_token_id
    facts = [fact(text, request, method, end) for request in case["requests"]]
    matrices = [Matrix(model, l, m) for l in hparams["layers"] for m in hparams["matrices"]]
    adam = torch.optim.Adam(
        [m.leaf for m in matrices], lr=hparams["lr"], weight_decay=hparams["weight_decay"]
    )
    size, acts, trace, nearest = hparams["batch_size"], {}, [], float("inf")
    with precision(dtype):
        for epoch in range(hparams["num_steps"]):
            seen = torch.full((len(facts),), float("nan"), dtype=torch.float64)
            order = case["orders"][epoch] if "orders" in case else list(range(len(facts)))
            for start in range(0, len(facts), size):
                now = order[start : start + size]
                model.zero_grad()
                loss = losses(model, [facts[i] for i in now])
                seen[now] = loss.detach().double()
                loss = loss.mean()
                nearest = min(nearest, abs(loss.item() - ENOUGH))
                if loss.item() < ENOUGH:
                    acts["skip"] = acts.get("skip", 0) + 1
                    continue
                loss.backward()
                for matrix in matrices:
                    matrix.take_gradient()
                adam.step()
                for matrix in matrices:
                    if hparams.get("norm_constraint"):
                        outside = matrix.bind(hparams["norm_constraint"])
                        acts["bound"] = acts.get("bound", 0) + outside
                    matrix.write(matrix.leaf.detach())
            trace.append(seen)
            nearest = min(nearest, abs(seen.mean().item() - ENOUGH))
            if seen.mean() < ENOUGH:
                acts["stop"] = epoch + 1
                break
    torch.set_default_dtype(torch.float32)
    out = {f"{m.name}.change": (m.leaf.detach() - m.start).contiguous() for m in matrices}
    print(f"  {dtype}: {len(trace)} epochs, loss {trace[0].mean():.3f} -> {trace[-1].mean():.4f}, ")
    print(f"  {acts}, {nearest:.1e} from the stop")
    return out | {"losses": torch.stack(trace)}, acts


def record(folder, case):
    """The f64 run, and how far the f32 run is from it. What a case is named for must have acted."""
    (plain, _), (exact, acts) = (train(folder, case, d) for d in (torch.float32, torch.float64))
    for act in ("bound", "skip", "stop"):
        if act in case["name"] and not acts.get(act):
            raise ValueError(f"{case['name']}: no {act}")
    changes = [name for name in exact if name.endswith("change")]
    change = max(
        ((plain[n].double() - exact[n]).norm() / exact[n].norm()).item() for n in changes
    )
    same = plain["losses"].shape == exact["losses"].shape
    loss = float("nan")
    if same:
        off = (plain["losses"] - exact["losses"]).abs()
        loss = (off / exact["losses"].clamp(min=1)).max().item()  # -ln p is off by what logits are
    print(f"  f32 against f64: change {change:.1e}, loss {loss:.1e}")
    out = {n: t.float() if n in changes else t for n, t in exact.items()}
    return out, dict(acts=acts, f32_change=change, f32_loss=loss)
