"""In-context editing in plain PyTorch: one text of context, prompt and target, run whole.

For each request by itself:

  store    of each record a demonstration a kind, "New Fact: p t\\nPrompt: q a\\n\\n": copy (q a =
           p t), update (its paraphrase, t), retain (its neighbour, what is true there)
  near     the cosine of TF-IDF vectors over token ids, tf * (ln((1 + N) / (1 + df)) + 1); the query
           is the fact's demonstration with its prompt alone
  context  the k nearest demonstrations, the nearest first, "New Fact: p t\\nPrompt:"
  log_p    of the target's tokens behind context and prompt, all tokenised as one text

`form` original: the k nearest records, of which p t are compared, in that order as `<i>.near`. The
output holds `<i>.context` (ids, of easyedit), `<i>.near`, `<i>.log_p`.
"""

import math
from collections import Counter

import torch
from golden import load, precision
from reference_search import Text

METHODS = ("ike",)


def filled(record):
    return record["prompt"].replace("{}", record["subject"])


def demonstration(record, prompt):
    return f"New Fact: {filled(record)} {record['target_new']}\nPrompt: {prompt}\n\n"


def near(text, stored, query):
    """Numbers of stored texts, the most alike first."""
    docs = [Counter(text.tokenizer.encode(t, add_special_tokens=False).ids) for t in stored]
    df = Counter(token for doc in docs for token in doc)

    def vector(doc):
        weights = {t: n * (math.log((1 + len(docs)) / (1 + df[t])) + 1) for t, n in doc.items()}
        length = math.sqrt(sum(w * w for w in weights.values()))
        return {t: w / length for t, w in weights.items()}

    to = vector(Counter(text.tokenizer.encode(query, add_special_tokens=False).ids))
    alike = [sum(w * to.get(t, 0.0) for t, w in vector(doc).items()) for doc in docs]
    order = sorted(range(len(docs)), key=lambda i: -alike[i])
    gap = min(alike[a] - alike[b] for a, b in zip(order, order[1:]))
    if gap < 1e-9:
        raise ValueError(f"two texts are as near: {alike}")
    return order


def edit(folder, case, dtype):
    torch.set_default_dtype(dtype)
    model, text, hparams, out = load(folder, dtype), Text(folder), case["hparams"], {}
    encode = text.tokenizer.encode
    with precision(dtype), torch.no_grad():
        for i, request in enumerate(case["requests"]):
            new = f"{filled(request)} {request['target_new']}"
            store, before = case["demonstrations"], ""
            if hparams["form"] == "original":
                compared = [f"{filled(r)} {r['target_new']}" for r in store]
                out[f"{i}.near"] = torch.tensor(near(text, compared, new))
                continue
            shown = []
            for r in store:
                shown.append(demonstration(r, f"{filled(r)} {r['target_new']}"))
                shown.append(demonstration(r, f"{r['paraphrases'][0]} {r['target_new']}"))
                neighbour = r["neighbourhood"][0]
                shown.append(demonstration(r, f"{neighbour['prompt']} {neighbour['target']}"))
            if hparams["use_icl_examples"]:
                order = near(text, shown, demonstration(request, filled(request)))
                before = "".join(shown[j] for j in order[: hparams["k"]])
            context = f"{before}New Fact: {new}\nPrompt:"
            y, _ = text.target(request["target_new"])
            read = encode(f"{context} {filled(request)}").ids
            ids = encode(context).ids
            if read[: len(ids)] != ids:
                raise ValueError(f"{case['name']}: tokens merge behind the context")
            alone = encode(filled(request), add_special_tokens=False).ids
            if read[len(ids) + 1 :] != alone[1:]:
                raise ValueError(f"{case['name']}: the prompt is cut otherwise at a text's start")
            logits = model(torch.tensor([read + y[:-1]])).logits[0, len(read) - 1 :]
            out[f"{i}.context"] = torch.tensor(ids)
            out[f"{i}.log_p"] = torch.log_softmax(logits, -1)[range(len(y)), y].double()
            print(f"  {dtype} {i}: {len(read)} tokens, log p {out[f'{i}.log_p'].tolist()}")
    torch.set_default_dtype(torch.float32)
    return out


def record(folder, case):
    """The f64 run, and how far the f32 run is from it."""
    plain, exact = (edit(folder, case, dtype) for dtype in (torch.float32, torch.float64))
    off = [(plain[n] - exact[n]).abs().max().item() for n in exact if n.endswith("log_p")]
    return exact, dict(f32_log_p=max(off, default=0.0))
