"""Knowledge neurons in plain PyTorch: whole prompts, one at a time, by autograd.

For each request in order, a^l what layer l's MLP holds at the token that predicts y (`site`: key,
what the down projection reads, or before_activation, what c_fc or gate_proj gives):

  attr    a^l * 1/steps sum_alpha dp(y)/da^l at alpha a^l, alpha in linspace(0, 1, steps); mean over
          the old answer's tokens y, each after those before it (`along`: answer, or own, what the
          model says by itself)
  coarse  attr > adaptive_threshold * max attr, over all layers; with `refine` those in more than p
          of the prompt and its paraphrases
  change  columns w_i -= lambda_old sum E[said], w_i += lambda_new sum E[target]; both lambdas 2 for
          a target of one token, else 1

The output holds `<i>.<j>.attr` (layers, F) of request i's prompt j, `<i>.neurons` (n, 2) as layer
and column, and after the last request `<l>.change` (D, F).
"""

import torch
from golden import down, layers, load, mlp, precision
from reference_search import Text

METHODS = ("kn",)


def held(model, site, layer):
    """The module that holds a layer's activations, and whether as its input."""
    if site == "key":
        return down(layers(model)[layer]), True
    names = ("c_fc", "fc_in", "gate_proj")
    own = mlp(layers(model)[layer])
    return next(getattr(own, name) for name in names if hasattr(own, name)), False


def run(model, ids, hook):
    """Logits at the last token; `hook` is a module, whether its input is meant, and what becomes of
    the activation at the last token."""
    module, is_input, become = hook

    def changed(x):
        x = x.reshape(len(ids), -1)
        last = become(x[-1])
        return torch.cat([x[:-1], last[None]])

    if is_input:
        handle = module.register_forward_pre_hook(
            lambda _, inputs: (changed(inputs[0]).reshape(inputs[0].shape),)
        )
    else:
        handle = module.register_forward_hook(
            lambda _, __, output: changed(output).reshape(output.shape)
        )
    logits = model(torch.tensor([ids])).logits[0, -1]
    handle.remove()
    return logits


def says(model, ids, n):
    out = []
    with torch.no_grad():
        for _ in range(n):
            out.append(model(torch.tensor([ids + out])).logits[0, -1].argmax().item())
    return out


def attribute(model, prompt, answer, hparams):
    """attr (layers, F)."""
    own = says(model, prompt, len(answer) - 1) if hparams["along"] == "own" else answer[:-1]
    rows = []
    for layer in range(len(layers(model))):
        module, is_input = held(model, hparams["site"], layer)
        total = 0
        for t, y in enumerate(answer):
            ids, seen = prompt + own[:t], []
            run(model, ids, (module, is_input, lambda a: seen.append(a.detach().clone()) or a))
            gradients = 0
            for alpha in torch.linspace(0, 1, hparams["steps"]):
                leaf = (alpha * seen[0]).requires_grad_(True)
                logits = run(model, ids, (module, is_input, lambda _: leaf))
                torch.softmax(logits, -1)[y].backward()
                gradients = gradients + leaf.grad
            total = total + seen[0] * gradients / hparams["steps"]
        rows.append(total / len(answer))
    return torch.stack(rows)


def edit(folder, case, dtype):
    torch.set_default_dtype(dtype)
    model, text, hparams = load(folder, dtype), Text(folder), case["hparams"]
    out, margin = {}, float("inf")
    embed = model.get_input_embeddings().weight.detach().clone()
    columns = [down(layer).weight for layer in layers(model)]
    turned = [type(down(layer)).__name__ == "Conv1D" for layer in layers(model)]
    before = [w.detach().clone() for w in columns]
    with precision(dtype):
        for i, request in enumerate(case["requests"]):
            prompt = text.row(request["prompt"], request["subject"]).ids
            old, _ = text.target(request["target_true"])
            target, _ = text.target(request["target_new"])
            prompts = [prompt]
            if hparams["refine"]:
                encode = text.tokenizer.encode
                prompts += [encode(p).ids for p in request["paraphrases"]]
            found = []
            for j, ids in enumerate(prompts):
                attr = attribute(model, ids, old, hparams)
                share = attr / attr.max()
                margin = min(margin, (share - hparams["adaptive_threshold"]).abs().min().item())
                found.append(share > hparams["adaptive_threshold"])
                out[f"{i}.{j}.attr"] = attr
            often = torch.stack(found).double().sum(0)
            needed = hparams["p"] * len(found) if hparams["refine"] else 0
            neurons = (often > needed).nonzero()
            said = says(model, prompt, len(target))
            usual = 2.0 if len(target) == 1 else 1.0
            step = hparams.get("lambda_new", usual) * embed[target].sum(0)
            step = step - hparams.get("lambda_old", usual) * embed[said].sum(0)
            with torch.no_grad():
                for layer, column in neurons.tolist():
                    w = columns[layer]
                    (w[column] if turned[layer] else w[:, column]).add_(step)
            out[f"{i}.neurons"] = neurons.contiguous()
            print(f"  {dtype} {i}: {len(neurons)} neurons of {[f.sum().item() for f in found]}")
    torch.set_default_dtype(torch.float32)
    for layer, (now, was) in enumerate(zip(columns, before)):
        change = (now - was).detach()
        out[f"{layer}.change"] = (change.T if turned[layer] else change).contiguous()
    return out, margin


def record(folder, case):
    """The f64 run, and how far the f32 run is from it; both find the same neurons."""
    (plain, _), (exact, margin) = (edit(folder, case, d) for d in (torch.float32, torch.float64))

    def off(kind):
        worst = 0.0
        for name in (n for n in exact if n.endswith(kind)):
            a, b = plain[name].double(), exact[name]
            worst = max(worst, ((a - b).norm() / b.norm()).item() if b.norm() > 0 else 0.0)
        return worst

    for name in (n for n in exact if n.endswith("neurons")):
        if not torch.equal(plain[name], exact[name]) or len(exact[name]) == 0:
            raise ValueError(f"{case['name']}: {name} are others, or none")
    attr, change = off("attr"), off("change")
    print(f"  f32 against f64: attr {attr:.1e}, change {change:.1e}; margin {margin:.1e}")
    keep = {n: t for n, t in exact.items() if not n.endswith("change")}
    keep |= {n: t.float() for n, t in exact.items() if n.endswith("change")}
    return keep, dict(f32_attr=attr, f32_change=change, margin=margin)
