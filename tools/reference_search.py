"""What the references share: texts as tokens, keys and outputs, and the search for the vector that
makes a model say a target. Serial and unhurried: the whole model runs in every step, its rows
padded to one batch. `search_many` is the same with the rows of several facts in it.

The loss of a search that adds a vector delta to the output of each of its sites (s), at every row's
lookup token:

  nll   = nll_factor * mean over rewriting rows of -1/T sum_t log p(y_t), at the row's last T tokens
  kl    = kl_factor KL(p || p at delta = 0), read at the KL row's lookup token
  wd    = v_weight_decay * sum_s |delta_s| / |t0_s|^2, t0 the site's output for the bare prompt
  loss  = nll + kl + wd
"""

import sys
from dataclasses import dataclass

import torch
import transformers
from golden import by_row, down, instead, layers, value
from safetensors.torch import load_file
from tokenizers import Tokenizer

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


def batch(rows, device="cpu"):
    """Rows padded on the right to one length, their mask, and their lookup tokens."""
    longest = max(len(row.ids) for row in rows)
    ids = [row.ids + [0] * (longest - len(row.ids)) for row in rows]
    mask = [[1] * len(row.ids) + [0] * (longest - len(row.ids)) for row in rows]
    lookup = [row.lookup for row in rows]
    ids, mask, lookup = (torch.tensor(x, device=device) for x in (ids, mask, lookup))
    return {"input_ids": ids, "attention_mask": mask}, lookup


@torch.no_grad()
def keys_and_outputs(model, layer, rows):
    """Input of the layer's down projection (rows, F) and output of its MLP (rows, D), each at the
    row's lookup token."""
    seen = {}
    block = layers(model)[layer]
    batched, lookup = batch(rows)
    ids, at = batched["input_ids"], (torch.arange(len(rows)), lookup)

    def keep(name, tensor):  # indexing copies: Falcon adds to its MLP's output in place
        seen[name] = by_row(tensor, ids)[at]

    hooks = [
        down(block).register_forward_hook(lambda _, inputs, out: keep("key", inputs[0])),
        value(block).register_forward_hook(lambda _, inputs, out: keep("output", out)),
    ]
    model(**batched)
    for hook in hooks:
        hook.remove()
    return seen["key"], seen["output"]


def training(text, templates, request):
    """Rewriting rows, which end in all but the last target token, the KL row, and the target."""
    subject = request["subject"]
    y, tail = text.target(request["target_new"])
    rewriting = [text.row(template, subject, tail) for template in templates]
    for row in rewriting:
        if len(y) > 1 and row.ids[1 - len(y) :] != y[:-1]:
            print(f"{subject}: the target's tokens merge with what precedes them", file=sys.stderr)
    return rewriting, text.row(KL_PROMPT, subject), y


def logits(model, inputs, loss_layer, read=None):
    """Logits of all tokens: the model's, or where `loss_layer` is given those of the final norm and
    the head put on the output of that layer, there also of the tokens `read` (rows, places)
    alone."""
    if loss_layer is None:
        return model(**inputs).logits
    seen, base = {}, getattr(model.base_model, "decoder", model.base_model)
    keep = layers(model)[loss_layer].register_forward_hook(lambda _, i, out: seen.update(out=out))
    base(**inputs)
    keep.remove()
    names = ("ln_f", "final_layer_norm", "final_layernorm", "norm")
    norm = next(getattr(base, name) for name in names if hasattr(base, name))
    stream = by_row(seen["out"], inputs["input_ids"])
    z = model.get_output_embeddings()(norm(stream if read is None else stream[read]))
    # Granite divides, Cohere multiplies.
    return z / getattr(model.config, "logits_scaling", 1) * getattr(model.config, "logit_scale", 1)


@dataclass
class Found:
    """What a search found: a vector for each site and the site's output it is added to, both (D);
    loss, nll, kl and wd of every step (steps, 4), as weighted in the loss; how often a vector was
    clamped; why the search ended, "steps", "loss" or "arg-max"; and at how many steps the target
    was the arg-max."""

    deltas: list
    t0: list
    trace: torch.Tensor
    clamped: int
    end: str
    known: int


def push(sites, deltas, ids, lookup):
    """Adds to each site's output at the rows' lookup tokens its delta, from now on. The hooks that
    do, and a list that holds the outputs in row 0 as they are in the first run."""
    at, t0 = (torch.arange(len(lookup), device=ids.device), lookup), [None] * len(sites)

    def pusher(site):
        def hook(module, _, output):
            pushed = by_row(output, ids).clone()
            if t0[site] is None:
                t0[site] = pushed[0, lookup[0]].detach().clone()
            pushed[at] = pushed[at] + deltas[site]
            return instead(output, pushed)

        return hook

    return [site.register_forward_hook(pusher(i)) for i, site in enumerate(sites)], t0


def search(model, sites, rows, hparams, loss_layer=None, stop=ENOUGH):
    """The vectors that, added to the outputs of the modules `sites` at every row's lookup token,
    make the rewriting rows end in the target; `rows` is what `training` gives.

    Where the hyperparameters have `nll_loss_factor`, it is nll_factor; a step at which every target
    token is the arg-max in every rewriting row ends the search when kl <= 0.01, and otherwise makes
    nll_factor a tenth of it for the next step. Where they have `early_stop`, so many such steps end
    it."""
    rewriting, kl_row, y = rows
    dtype, D = next(model.parameters()).dtype, model.config.hidden_size
    place = {"device": model.device}
    inputs, lookup = batch([*rewriting, kl_row], **place)
    ends = torch.tensor([len(row.ids) for row in rewriting], **place)
    y = torch.tensor(y, **place)
    # Token i predicts label i: the last T tokens of a rewriting row predict y_1 … y_T.
    row, label = (torch.arange(n, **place) for n in (len(rewriting), len(y)))
    read = row[:, None], (ends - len(y))[:, None] + label
    deltas = [torch.zeros(D, dtype=dtype, requires_grad=True, **place) for _ in sites]
    hooks, t0 = push(sites, deltas, inputs["input_ids"], lookup)
    adam = torch.optim.Adam(deltas, lr=hparams["v_lr"])
    lowers, enough = "nll_loss_factor" in hparams, hparams.get("early_stop", 0)
    nll_factor = whole = hparams.get("nll_loss_factor", 1.0)
    trace, log_p_init, clamped, known = [], None, 0, 0
    for step in range(hparams["v_num_grad_steps"]):
        adam.zero_grad()
        log_p = torch.log_softmax(logits(model, inputs, loss_layer), -1)
        at_kl = log_p[-1, kl_row.lookup]
        if log_p_init is None:
            log_p_init = at_kl.detach().clone()
        nll = nll_factor * -log_p[*read, y].mean(1).mean()
        kl = hparams["kl_factor"] * (at_kl.exp() * (at_kl - log_p_init)).sum()
        decay = hparams["v_weight_decay"]
        wd = sum(decay * delta.norm() / t.norm() ** 2 for delta, t in zip(deltas, t0))
        loss = nll + kl + wd
        trace.append([part.item() for part in (loss, nll, kl, wd)])
        all_known = (lowers or enough > 0) and (log_p[read].argmax(-1) == y).all().item()
        known += all_known
        at_argmax = known == enough > 0 or (lowers and all_known and kl <= 0.01)
        end = "loss" if loss < stop else "arg-max" if at_argmax else "steps"
        if end != "steps" or step + 1 == hparams["v_num_grad_steps"]:
            break
        nll_factor = 0.1 * whole if lowers and all_known else whole
        loss.backward()
        adam.step()
        for delta, t in zip(deltas, t0):
            longest = hparams["clamp_norm_factor"] * t.norm()
            if delta.norm() > longest:
                clamped += 1
                with torch.no_grad():
                    delta *= longest / delta.norm()
    for hook in hooks:
        hook.remove()
    trace = torch.tensor(trace, dtype=torch.float64)
    return Found([delta.detach() for delta in deltas], t0, trace, clamped, end, known)


def search_many(model, site, facts, hparams, loss_layer):
    """What `search` finds at one site for each of some facts, which have equally many rewriting
    rows: the vectors (facts, D) and the loss of every step (steps, facts). No early stop and no
    `nll_loss_factor`.

    The facts' rows are one batch and their losses are added up; since Adam takes every number by
    itself, each fact gets what it would alone. Nothing below the site needs a gradient, so autograd
    keeps nothing there; the head is put on those tokens only whose logits are read, and no step
    waits for a number of the device."""
    rows = [row for rewriting, kl_row, _ in facts for row in (*rewriting, kl_row)]
    many = len(rows) // len(facts)  # rows of a fact, the last its KL row
    place = {"device": model.device}
    inputs, lookup = batch(rows, **place)
    inputs["use_cache"] = False
    ids, at = inputs["input_ids"], (torch.arange(len(rows), **place), lookup)
    # What predicts a target's token: its row, its place, the token, its fact, and how many the fact
    # has.
    targets = [
        (f * many + i, len(row.ids) - len(y) + t, token, f, len(rewriting) * len(y))
        for f, (rewriting, _, y) in enumerate(facts)
        for i, row in enumerate(rewriting)
        for t, token in enumerate(y)
    ]
    row, token, y, fact, parts = (torch.tensor(x, **place) for x in zip(*targets))
    kl_rows = slice(many - 1, None, many)
    read = torch.cat([row, at[0][kl_rows]]), torch.cat([token, lookup[kl_rows]])
    delta = torch.zeros(
        len(facts), model.config.hidden_size, dtype=model.dtype, requires_grad=True, **place
    )
    t0, log_p_init, losses = None, None, []

    def hook(module, _, output):
        nonlocal t0
        pushed = by_row(output, ids).clone()
        if t0 is None:
            t0 = pushed[at][::many].detach().clone()
        pushed[at] = pushed[at] + delta.repeat_interleave(many, 0)
        return instead(output, pushed)

    hook = site.register_forward_hook(hook)
    adam = torch.optim.Adam([delta], lr=hparams["v_lr"])
    for step in range(hparams["v_num_grad_steps"]):
        adam.zero_grad()
        log_p = torch.log_softmax(logits(model, inputs, loss_layer, read), -1)
        at_target, at_kl = log_p[: len(y)].gather(1, y[:, None])[:, 0], log_p[len(y) :]
        if log_p_init is None:
            log_p_init = at_kl.detach().clone()
        nll = torch.zeros_like(delta[:, 0]).index_add(0, fact, -at_target / parts)
        kl = hparams["kl_factor"] * (at_kl.exp() * (at_kl - log_p_init)).sum(-1)
        wd = hparams["v_weight_decay"] * delta.norm(dim=-1) / t0.norm(dim=-1) ** 2
        loss = nll + kl + wd
        losses.append(loss.detach())
        if step + 1 == hparams["v_num_grad_steps"]:
            break
        loss.sum().backward()
        adam.step()
        with torch.no_grad():
            norm, longest = delta.norm(dim=-1), hparams["clamp_norm_factor"] * t0.norm(dim=-1)
            delta *= torch.where(norm > longest, longest / norm, 1)[:, None]
    hook.remove()
    return delta.detach(), torch.stack(losses)


# ---------------------------------------------------------------------------- weights


def second_moment(path, layer):
    """C (F, F) in f64, from a folder of layer-<l>.safetensors or a file with a tensor per layer."""
    if path.is_dir():
        return load_file(path / f"layer-{layer}.safetensors")["second_moment"].double()
    return load_file(path)[str(layer)].double()


def add(model, layer, change):
    """W += change (D, F), in whichever orientation the framework stores W."""
    module = down(layers(model)[layer])
    stored_in_out = isinstance(module, transformers.pytorch_utils.Conv1D)
    module.weight.data += (change.T if stored_in_out else change).to(module.weight.dtype)
