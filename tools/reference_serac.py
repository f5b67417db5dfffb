"""SERAC with the model's own states in plain PyTorch: both models' losses by autograd, the framework's
Adam and clipping.

  x(text)    sqrt(width) h/|h|, h the mean over tokens of the stream behind layer L//2 of the base
  s(a, b)    exp(-|M x(a) - M x(b)|^2)
  e          the ids of a request's prompt and target; a text behind e loses the token that begins
             texts, and its first token becomes the one with a space before it, where that is one
  loss       cedit -1/T sum_t log p'(y_t | e outer, y_<t) + cloc (-log s(outer, e's prompt) -
             log max(1 - s(locality prompt, e's prompt), 1e-6)), p' of a copy of the base of which the
             linear matrices of `layers` (all where none are named) are trained

and after each batch a clipped step of Adam. An outer of -1 is the edit itself.

Then a memory of all requests, with M and the matrices rounded to f32: each prompt is answered by the
copy behind the request with the largest s, where that is above 1/2, and else by the base.

`start.scope.weight` is M at the start, `moved.NAME` how far each trained tensor moved, `losses`
(samples, 3: edit, scope, total), `norms`; `memory.NAME` the tensors of the memory; of each prompt that
is asked `log_s`, `fact` (-1 where the base answers), and `log_p` of its target's tokens.
"""

import torch
from golden import layers, load, precision
from reference_mend import RUNS, jitter, missed, nll, tokens
from reference_search import Text

METHODS = ("serac",)
WIDTH, LEAST = 64, 1e-6
ATTENTION = dict(q="q_proj", k="k_proj", v="v_proj", o="o_proj")
MLP = dict(gate="gate_proj", up="up_proj", down="down_proj")


def parts(model, layer):
    """Each linear matrix of a layer (out, in): name, parameter, transposed, columns of what is stored."""
    block = layers(model)[layer]
    if hasattr(block, "attn"):
        d = block.attn.c_attn.weight.shape[0]
        for i, name in enumerate("qkv"):
            yield name, block.attn.c_attn.weight, slice(i * d, i * d + d)
        yield "o", block.attn.c_proj.weight, slice(None)
        yield "up", block.mlp.c_fc.weight, slice(None)
        yield "down", block.mlp.c_proj.weight, slice(None)
        return
    for names, inside in ((ATTENTION, block.self_attn), (MLP, block.mlp)):
        for name, own in names.items():
            yield name, getattr(inside, own).weight, None


class Editor:
    def __init__(self, folder, dtype, case):
        hparams = case["hparams"]
        self.base, self.copy, self.text = load(folder, dtype), load(folder, dtype), Text(folder)
        self.begin = self.text.tokenizer.encode("").ids
        generator = torch.Generator().manual_seed(case["seed"])
        width = self.base.get_input_embeddings().weight.shape[1]
        m = case["scale"] * torch.randn(WIDTH, width, generator=generator, dtype=torch.float32)
        self.m = m.to(dtype).requires_grad_(True)
        self.where, self.named = {}, {}
        for l in hparams.get("layers", range(len(layers(self.base)))):
            for name, weight, columns in parts(self.copy, l):
                weight.requires_grad_(True)
                self.where[f"layers.{l}.{name}"] = weight, columns
                self.named[id(weight)] = weight

    def trained(self):
        return [self.m, *self.named.values()]

    def tensors(self):
        """By name, (out, in)."""
        out = {"scope.weight": self.m.detach().clone()}
        for name, (weight, columns) in self.where.items():
            w = weight.detach()
            out[name] = (w if columns is None else w[:, columns].T).contiguous().clone()
        return out

    def behind(self, fact, prompt):
        ids = list(prompt)
        if self.begin and ids[:1] == self.begin:
            ids = ids[1:]
        tokenizer = self.text.tokenizer
        word = tokenizer.decode([*fact, ids[0]])[len(tokenizer.decode(fact)) :]
        alone = tokenizer.encode(word, add_special_tokens=False).ids
        begins = len(self.text.target(" " + word)[0]) == 1 and not word.startswith(" ")
        if word and "\ufffd" not in word and alone == ids[:1] and begins:
            ids[0] = self.text.target(" " + word)[0][0]
        return list(fact) + ids

    def ids(self, prompt):
        return self.text.tokenizer.encode(prompt).ids

    def of(self, request):
        """A request's prompt and target."""
        prompt = request["prompt"].replace("{}", request["subject"])
        return tokens(self.text, prompt, request["target_new"])

    def x(self, ids):
        stream = []
        block = layers(self.base)[len(layers(self.base)) // 2]

        def keep(_, __, out):
            stream.append(out[0] if isinstance(out, tuple) else out)

        hook = block.register_forward_hook(keep)
        with torch.no_grad():
            self.base(torch.tensor([ids]))
        hook.remove()
        h = stream[0].reshape(len(ids), -1).mean(0)
        return h / h.norm() * len(h) ** 0.5

    def distance(self, a, b):
        return (self.m @ (self.x(a) - self.x(b))).square().sum()


def loss(editor, request, outer, locality, hparams):
    prompt, target = editor.of(request)
    asked = prompt if outer < 0 else editor.ids(request["paraphrases"][outer])
    text = editor.behind(prompt + target, asked) + target[:-1]
    edit = nll(editor.copy(torch.tensor([text])).logits[0], target)
    stays = editor.ids(request["neighbourhood"][locality]["prompt"])
    other = -torch.expm1(-editor.distance(stays, prompt))
    scope = editor.distance(asked, prompt) - other.clamp(min=LEAST).log()
    return edit, scope, hparams["cedit"] * edit + hparams["cloc"] * scope


def asked(requests):
    """Prompts and targets: each request's own, its paraphrases and its neighbours."""
    for request in requests:
        own = request["prompt"].replace("{}", request["subject"])
        for prompt in (own, *request["paraphrases"]):
            yield prompt, request["target_new"]
        for stays in request["neighbourhood"]:
            yield stays["prompt"], stays["target"]


def answers(editor, requests, rounded):
    """What the memory of all requests does, with M and the matrices as they are rounded."""
    with torch.no_grad():
        editor.m.copy_(rounded["scope.weight"])
        for name, (weight, columns) in editor.where.items():
            w = rounded[name]
            (weight if columns is None else weight[:, columns].T).copy_(w)
    facts = [editor.of(request) for request in requests]
    keys = [editor.m.detach() @ editor.x(prompt) for prompt, _ in facts]
    log_s, chosen, log_p = [], [], []
    for prompt, target in asked(requests):
        ids, y = tokens(editor.text, prompt, target)
        point = editor.m.detach() @ editor.x(ids)
        distances = torch.stack([(key - point).square().sum() for key in keys])
        fact = distances.argmin().item()
        log_s.append(-distances[fact].item())
        model, text = editor.base, ids
        if distances[fact] < torch.tensor(2.0).log():
            model, text = editor.copy, editor.behind(sum(facts[fact], []), ids)
        chosen.append(fact if model is editor.copy else -1)
        with torch.no_grad():
            z = model(torch.tensor([text + y[:-1]])).logits[0, -len(y) :]
        log_p += torch.log_softmax(z, -1)[range(len(y)), y].tolist()
    wide = dict(dtype=torch.float64)
    return dict(
        log_s=torch.tensor(log_s, **wide), fact=torch.tensor(chosen), log_p=torch.tensor(log_p, **wide)
    )


def train(folder, case, dtype, rounds=0, rounded=None):
    torch.set_default_dtype(dtype)
    editor, hparams, requests = Editor(folder, dtype, case), case["hparams"], case["requests"]
    if rounds:
        jitter(editor.trained(), rounds)
    start = editor.tensors()
    out = {"start.scope.weight": start["scope.weight"]}
    adam = torch.optim.Adam(editor.trained(), lr=hparams["lr"])
    losses, norms, size, clipped = [], [], hparams["accumulate_bs"], 0
    with precision(dtype):
        for first in range(0, len(case["draws"]), size):
            adam.zero_grad()
            now = case["draws"][first : first + size]
            for record, outer, locality in now:
                edit, scope, total = loss(editor, requests[record], outer, locality, hparams)
                (total / len(now)).backward()
                losses.append([edit.item(), scope.item(), total.item()])
            norm = torch.nn.utils.clip_grad_norm_(editor.trained(), hparams["grad_clip"])
            norms.append(norm.item())
            clipped += (norm > hparams["grad_clip"]).item()
            adam.step()
        end = editor.tensors()
    rounded = rounded or {n: t.float() for n, t in end.items()}  # `precision` would keep f64
    with precision(dtype):
        said = answers(editor, requests, rounded)
    torch.set_default_dtype(torch.float32)
    out |= {f"moved.{n}": end[n] - t for n, t in start.items()}
    out |= {f"memory.{n}": t for n, t in rounded.items()} | said
    out["losses"] = torch.tensor(losses, dtype=torch.float64)
    out["norms"] = torch.tensor(norms, dtype=torch.float64)
    print(f"  {dtype}: loss {losses[0][2]:.4f} -> {losses[-1][2]:.4f}")
    print(f"  norms {[f'{n:.3f}' for n in norms]}, {clipped} clipped")
    print(f"  log s {[f'{s:.3f}' for s in said['log_s'].tolist()]}, facts {said['fact'].tolist()}")
    return out, dict(clip=clipped), rounded


def record(folder, case):
    """The f64 run, and how far f32 runs are from it, as in reference_mend.py; all of them with one
    memory. Some prompts are about a fact, and some about none."""
    exact, acts, rounded = train(folder, case, torch.float64)
    runs = [train(folder, case, torch.float32, i, rounded)[0] for i in range(RUNS)]
    if not 0 < acts["clip"] < len(exact["norms"]):
        raise ValueError(f"{case['name']}: {acts}")
    about = exact["fact"] >= 0
    margin = (exact["log_s"] + torch.tensor(2.0).log()).abs().min().item()
    if about.all() or not about.any() or margin < 0.01:
        raise ValueError(f"{case['name']}: {exact['log_s']}")
    if any((run["fact"] != exact["fact"]).any() for run in runs):
        raise ValueError(f"{case['name']}: an f32 run chooses otherwise")
    made = missed(exact, runs)
    # Beside 1, for a prompt may be a fact's own.
    for name in ("log_s", "log_p"):
        off = [(r[name] - exact[name]).abs() / exact[name].abs().clamp(min=1) for r in runs]
        made[f"f32_{name}"] = max(x.max().item() for x in off)
    out = {n: t.float() if n.startswith("start.") else t for n, t in exact.items()}
    return out, made | dict(acts=acts)
