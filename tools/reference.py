"""The published methods in plain PyTorch: the program's independent reference.

  python tools/reference.py MODEL --requests R.json --contexts C.json --stats S --hparams H.json \\
      --method rome|r-rome|memit|emmet|pmet|alphaedit [--sequential S] [--anchor I …] \\
      [--dtype f32|f64] -o OUT.safetensors
  python tools/reference.py --cases tests/golden/reference/cases.json [--shared DIR]
  python tools/reference.py --cases tests/golden/batch/cases.json
  python tools/reference.py --cases tests/golden/fine_tuning/cases.json
  python tools/reference.py --cases tests/golden/grace/cases.json
  python tools/reference.py --cases tests/golden/kn/cases.json
  python tools/reference.py --cases tests/golden/ike/cases.json
  python tools/reference.py --cases tests/golden/neurons/cases.json
  python tools/reference.py --cases tests/golden/mend/cases.json
  python tools/reference.py --cases tests/golden/ke/cases.json
  python tools/reference.py --cases tests/golden/serac/cases.json
  python tools/reference.py --cases tests/golden/trace/cases.json [--shared DIR]
  python tools/reference.py --random-gpt2-small | --memit-serial N
  python tools/reference.py --memit-batched N [--facts-a-batch B]
  python tools/reference.py eval …, which is reference_eval.py

Serial and unhurried, as the methods were published: the whole model runs in every step of the
search, its rows padded to one batch. reference_search.py has the search, reference_batch.py MEMIT
and its family, reference_fine_tuning.py FT-L, FT-M and LocFT-BF, reference_ultraedit.py UltraEdit,
reference_grace.py GRACE, reference_kn.py knowledge neurons, reference_ike.py in-context editing,
reference_neurons.py T-Patcher and CaliNET, reference_mend.py, reference_ke.py and reference_serac.py
trained editors, reference_trace.py causal tracing; here are ROME and R-ROME. With W (D, F) the down projection of a
layer, C = E[k kT] (F, F), keys and outputs read at the subject's last token:

  t0      = output of the MLP for the bare prompt             v* = t0 + delta, delta from the search
  k0, kS  = key of the bare prompt, mean key over all contexts: all weigh the same, or with
            key_average "grouped" their groups, and the contexts of a group
  u       = C^-1 kS / |C^-1 kS|
  ROME      dW = (v* - t0) uT / <k0, u>
  R-ROME    dW = (v* - mS) uT / <kS, u>,    mS the mean output over all contexts

Requests are planned one after another, each on the model as edited so far. The output holds, for
request i: `<i>.left` (D) and `<i>.right` (F) with dW = left rightT, `<i>.k_star` (kS), `<i>.k0`,
`<i>.v_star`, `<i>.t0`, `<i>.delta`, and for each step `<i>.loss` and its parts `<i>.nll`, `<i>.kl`,
`<i>.wd`.

--cases runs every case of the file in f64, writes the outputs beside it and, in their metadata, how
far the same run in f32 is from them. --random-gpt2-small times one search of 20 steps,
--memit-serial the searches of N facts one after another, --memit-batched B facts at a time, once it
has shown that this finds the same vectors. The last line of the latter two is JSON, in the form of
`incise bench`: seconds for the `work` of N facts.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import reference_batch
import reference_fine_tuning
import reference_grace
import reference_ike
import reference_kn
import reference_neurons
import reference_ke
import reference_mend
import reference_serac
import reference_trace
import reference_ultraedit
import torch
import transformers
from golden import layers, load, precision, value, versions
from reference_search import (
    Row,
    Text,
    add,
    keys_and_outputs,
    search,
    search_many,
    second_moment,
    training,
)
from safetensors.torch import save_file

TYPES = {"f32": torch.float32, "f64": torch.float64}


# ---------------------------------------------------------------------------- ROME and R-ROME


def plan(model, text, request, groups, C, method, hparams):
    """The change for one request, and all that led to it."""
    subject, layer = request["subject"], hparams["layers"][0]
    contexts = [context for group in groups for context in group]
    weights = [1 / len(contexts) for _ in contexts]
    if hparams.get("key_average") == "grouped":
        weights = [1 / len(groups) / len(group) for group in groups for _ in group]
    templates = [context.replace("{}", request["prompt"]) for context in contexts]
    rows = training(text, templates, request)

    start = time.perf_counter()
    search_ = search(model, [value(layers(model)[layer])], rows, hparams)
    seconds = time.perf_counter() - start

    (delta,), (t0,), trace = search_.deltas, search_.t0, search_.trace
    keys, outputs = keys_and_outputs(model, layer, [text.row(t, subject) for t in templates])
    weights = torch.tensor(weights)
    k0, k_star, v_star = keys[0], weights @ keys, t0 + delta
    behind = ("post_feedforward_layernorm", "post_mlp_layernorm")
    if any(hasattr(layers(model)[layer], norm) for norm in behind):
        # The norm reads the value's direction alone: it stays as long as it was.
        v_star = v_star * (t0.norm() / v_star.norm())
        delta = v_star - t0
    u = torch.linalg.solve(C, k_star.double()) if hparams["mom2_adjustment"] else k_star.double()
    u = (u / u.norm()).to(k0.dtype)
    if method == "rome":
        left = (v_star - outputs[0]) / k0.dot(u)
    else:
        left = (v_star - weights @ outputs) / k_star.dot(u)
    found = dict(left=left, right=u, k_star=k_star, k0=k0, v_star=v_star, t0=t0, delta=delta)
    found |= dict(zip(("loss", "nll", "kl", "wd"), trace.T.contiguous()))
    print(
        f"{subject} -> {request['target_new']}: {len(rows[2])} tokens, {len(trace)} steps, "
        f"{search_.clamped} clamped, loss {trace[0, 0]:.3f} -> {trace[-1, 0]:.4f}, "
        f"search {seconds:.2f} s"
    )
    return found


def edit(folder, requests, contexts, stats, method, hparams, dtype):
    """All requests, one after another; tensors named `<i>.<name>`."""
    torch.set_default_dtype(dtype)
    model, text, out = load(folder, dtype), Text(folder), {}
    layer = hparams["layers"][0]
    C = second_moment(stats, layer)
    with precision(dtype):
        for i, request in enumerate(requests):
            found = plan(model, text, request, contexts, C, method, hparams)
            add(model, layer, torch.outer(found["left"], found["right"]))
            out |= {f"{i}.{name}": value.contiguous() for name, value in found.items()}
    torch.set_default_dtype(torch.float32)
    return out


# ---------------------------------------------------------------------------- recorded cases


def difference(ours, exact):
    """Largest relative differences of dW (Frobenius) and of a step's loss; NaN when the number of
    steps differs."""
    change, loss, runs = 0.0, 0.0, (ours, exact)
    for i in range(sum(name.endswith(".left") for name in exact)):
        a, b = (torch.outer(run[f"{i}.left"].double(), run[f"{i}.right"].double()) for run in runs)
        change = max(change, ((a - b).norm() / b.norm()).item())
        a, b = ours[f"{i}.loss"], exact[f"{i}.loss"]
        loss = max(loss, ((a - b) / b).abs().max().item()) if len(a) == len(b) else float("nan")
    return change, loss


def run_cases(file, shared):
    """Each case of the file; one whose shared model is absent is named and left out."""
    golden = file.parent.parent
    for case in json.loads(file.read_text()):
        folder = (shared / "data" if case.get("shared") else golden) / case["model"]
        if not folder.exists():
            print(f"{case['name']}: skipped, no {folder}")
            continue
        print(f"{case['name']}:")
        if case["method"] in reference_fine_tuning.METHODS:
            tensors, made = reference_fine_tuning.record(folder, case)
        elif case["method"] in reference_grace.METHODS:
            tensors, made = reference_grace.record(folder, case)
        elif case["method"] in reference_ultraedit.METHODS:
            tensors, made = reference_ultraedit.record(folder, case)
        elif case["method"] in reference_ike.METHODS:
            tensors, made = reference_ike.record(folder, case)
        elif case["method"] in reference_neurons.METHODS:
            tensors, made = reference_neurons.record(folder, case)
        elif case["method"] in reference_kn.METHODS:
            tensors, made = reference_kn.record(folder, case)
        elif case["method"] in reference_ke.METHODS:
            tensors, made = reference_ke.record(folder, case)
        elif case["method"] in reference_serac.METHODS:
            tensors, made = reference_serac.record(folder, case)
        elif case["method"] in reference_mend.METHODS:
            tensors, made = reference_mend.record(folder, case)
        elif case["method"] in reference_trace.METHODS:
            tensors, made = reference_trace.record(folder, case)
        else:
            record = record_batch if case["method"] in reference_batch.METHODS else record_rome
            tensors, made = record(folder, case, folder / case["stats"])
        made |= dict(method=case["method"], hparams=case.get("hparams"), dtype="f64")
        save(tensors, file.parent / f"{case['name']}.safetensors", made)


def record_rome(folder, case, stats):
    """The f64 run, and how far the f32 run is from it."""
    arguments = case["requests"], case["contexts"], stats, case["method"], case["hparams"]
    runs = {name: edit(folder, *arguments, dtype) for name, dtype in TYPES.items()}
    change, loss = difference(runs["f32"], runs["f64"])
    print(f"  f32 against f64: change {change:.1e}, loss {loss:.1e}")
    return runs["f64"], dict(f32_change=change, f32_loss=loss)


def record_batch(folder, case, stats):
    """As above; vectors and changes rounded to f32. What a case is named for must have acted."""
    (plain, _), (exact, acts) = (
        reference_batch.edit_all(folder, case, stats, dtype) for dtype in TYPES.values()
    )
    for act in ("clamp", "stop", "arg-max", "reset", "refresh"):
        if act in case["name"] and act not in acts:
            raise ValueError(f"{case['name']}: no {act}")
    off = reference_batch.distances(plain, exact)
    print(f"  acts: {acts}")
    print("  f32 against f64: " + ", ".join(f"{kind} {x:.1e}" for kind, x in off.items()))
    traces = reference_batch.PARTS
    out = {n: t if n.split(".")[1] in traces else t.float() for n, t in exact.items()}
    return out, dict(acts=acts, **{f"f32_{kind}": x for kind, x in off.items()})


def save(tensors, path, made):
    """Writes the tensors, with how they were made as JSON in the metadata `made`: one entry, since
    the format's library writes several in any order."""
    made = json.dumps(made | {"versions": versions()}, sort_keys=True)
    save_file(tensors, path, metadata={"made": made})


SHAPES = {
    "gpt2-small": lambda: transformers.GPT2Config(),
    "gpt-j-6b": lambda: transformers.GPTJConfig(),
    "tiny": lambda: transformers.GPT2Config(
        n_layer=10, n_embd=32, n_head=2, vocab_size=61, initializer_range=0.2
    ),
}


def random_model(shape, device="cpu"):
    """Random weights of a shape, the hyperparameters of a search of 20 steps, and a function that
    draws the rows of a fact.

    A fact has the lengths of `incise bench` and of benches/search.rs, so that all time the same
    work: a prompt of 8 tokens with the subject's last at place 4, bare and behind five contexts of
    11 tokens; the KL row; and a target, of two tokens in the one and of one in the other."""
    torch.manual_seed(0)
    with torch.device(device):  # weights of 6 B are drawn where they will be
        model = transformers.AutoModelForCausalLM.from_config(SHAPES[shape]())
        model = model.to(torch.get_default_dtype()).eval().requires_grad_(False)

    def draw(n):
        return torch.randint(model.config.vocab_size, (n,)).tolist()

    def fact(target, prompt=8):
        y, bare = draw(target), draw(prompt)
        before = [[], *(draw(11) for _ in range(5))]
        rewriting = [Row(context + bare + y[:-1], len(context) + 4) for context in before]
        return rewriting, Row(bare[2:5] + draw(2), 2), y

    hparams = dict(layers=[8], v_lr=0.5, v_num_grad_steps=20, v_weight_decay=0.5)
    hparams |= dict(clamp_norm_factor=3, kl_factor=0.0625)
    return model, hparams, fact


def time_search(shape, device, threads):
    """Seconds of one ROME search without early stop, three times."""
    model, hparams, fact = random_model(shape, device)
    rows, sites = fact(1), [value(layers(model)[8])]
    search(model, sites, rows, hparams | {"v_num_grad_steps": 2})  # warm up
    for _ in range(3):
        start = time.perf_counter()
        trace = search(model, sites, rows, hparams, stop=-1.0).trace
        seconds = time.perf_counter() - start
        print(f"{len(trace)} steps, {threads} threads: {seconds:.2f} s, loss {trace[-1, 0]:.3f}")


def show_same(device):
    """Facts searched together, here of unequal lengths and in f64, get the vectors that they get
    alone."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    model, hparams, fact = random_model("tiny", device)
    site, last = layers(model)[8], model.config.n_layer - 1
    hparams |= {"v_weight_decay": 0.01}  # so that the target is what moves the vectors
    facts = [fact(1), fact(2, 6), fact(3, 9)]
    alone = [search(model, [site], rows, hparams, last, stop=-1.0) for rows in facts]
    together, losses = search_many(model, site, facts, hparams, last)
    torch.set_default_dtype(default)
    for i, (one, delta) in enumerate(zip(alone, together)):
        off = ((delta - one.deltas[0]).norm() / one.deltas[0].norm()).item()
        off_loss = ((losses[:, i].cpu() - one.trace[:, 0]) / one.trace[:, 0]).abs().max().item()
        print(
            f"fact {i} together and alone, f64: vector {off:.1e}, loss {off_loss:.1e} apart, "
            f"clamped {one.clamped} times"
        )
        if not max(off, off_loss) < 1e-9:
            raise ValueError("facts searched together do not get what they get alone")


def time_memit(n, at_once, shape, steps, target, device, threads):
    """Seconds a fact of n MEMIT searches without early stop, `at_once` facts at a time or, where
    that is 0, by the serial search; and those of the processor, which a machine shared with others
    leaves nearly as they are."""
    model, hparams, fact = random_model(shape, device)
    hparams |= {"v_num_grad_steps": steps}
    site, last = layers(model)[8], model.config.n_layer - 1

    def run(facts, hparams):
        if at_once:
            return search_many(model, site, facts, hparams, last)
        return [search(model, [site], rows, hparams, last, stop=-1.0) for rows in facts]

    def clocks():
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    facts = [fact(target) for _ in range(n)]
    batches = [facts[i : i + (at_once or 1)] for i in range(0, n, at_once or 1)]
    run(batches[0], hparams | {"v_num_grad_steps": 2})  # warm up
    start = clocks()
    for batch in batches:
        run(batch, hparams)
    seconds, busy = (now - then for now, then in zip(clocks(), start))
    print(
        f"{n} facts, {steps} steps each, {threads} threads: {seconds / n:.2f} s a fact, "
        f"{busy / n:.2f} s of the processor"
    )
    how = f"{len(batches[0])} at a time" if at_once else "serial"
    kind = "bf16" if model.dtype == torch.bfloat16 else "f32"
    row = dict(part="torch", name=f"value search, {how}, {kind}", shape=shape, seconds=seconds)
    row |= dict(spread=0.0, work=n, unit="Facts", steps=steps)
    peak = None if device == "cpu" else torch.cuda.max_memory_allocated()
    print("JSON" + json.dumps({"torch": torch.__version__, "peak_bytes": peak, "rows": [row]}))


# ---------------------------------------------------------------------------- the command line


def main():
    if sys.argv[1:2] == ["eval"]:
        from reference_eval import main as evaluate  # has needs of its own

        return evaluate(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", nargs="?", type=Path, help="checkpoint folder")
    parser.add_argument("--requests", type=Path, help="array of prompt, subject, target_new")
    parser.add_argument("--contexts", type=Path, help="groups of contexts")
    parser.add_argument("--stats", type=Path, help="second moments: a folder or a file")
    parser.add_argument("--hparams", type=Path)
    parser.add_argument("--method", choices=("rome", "r-rome", *reference_batch.METHODS))
    parser.add_argument("--sequential", type=int, default=0, help="facts a batch; 0: all at once")
    parser.add_argument("--anchor", type=int, nargs="+", help="requests that set the norm anchor")
    parser.add_argument("--dtype", choices=TYPES, default="f32")
    parser.add_argument("-o", "--out", type=Path)
    parser.add_argument("--cases", type=Path, help="record these cases instead")
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--random-gpt2-small", action="store_true", help="time a search instead")
    parser.add_argument("--memit-serial", type=int, metavar="N", help="time MEMIT's for N facts")
    parser.add_argument("--memit-batched", type=int, metavar="N", help="the same, many at a time")
    parser.add_argument("--facts-a-batch", type=int, default=32, help="how many at a time")
    parser.add_argument("--shape", choices=SHAPES, default="gpt2-small", help="of what is timed")
    parser.add_argument("--steps", type=int, default=20, help="of MEMIT's search")
    parser.add_argument("--target", type=int, default=1, help="of MEMIT's facts, in tokens")
    parser.add_argument("--device", default="cpu", help="of what is timed: cpu or cuda")
    parser.add_argument("--bf16", action="store_true", help="of what is timed, instead of f32")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    torch.set_default_dtype(torch.bfloat16 if options.bf16 else torch.float32)
    if options.random_gpt2_small:
        return time_search(options.shape, options.device, options.threads)
    timed = (options.shape, options.steps, options.target, options.device, options.threads)
    if options.memit_serial:
        return time_memit(options.memit_serial, 0, *timed)
    if options.memit_batched:
        show_same(options.device)
        return time_memit(options.memit_batched, options.facts_a_batch, *timed)
    if options.cases:
        return run_cases(options.cases, options.shared)
    needed = ("model", "requests", "contexts", "stats", "hparams", "method", "out")
    if missing := [name for name in needed if getattr(options, name) is None]:
        parser.error(f"missing: {', '.join(missing)}")
    files = (options.requests, options.contexts, options.hparams)
    requests, contexts, hparams = (json.loads(file.read_text()) for file in files)
    dtype, method = TYPES[options.dtype], options.method
    if method in reference_batch.METHODS:
        case = dict(requests=requests, contexts=contexts, hparams=hparams, method=method)
        case |= dict(sequential=options.sequential, anchor=options.anchor)
        out = reference_batch.edit_all(options.model, case, options.stats, dtype)[0]
    else:
        out = edit(options.model, requests, contexts, options.stats, method, hparams, dtype)
    save(out, options.out, dict(method=method, dtype=options.dtype, hparams=hparams))


if __name__ == "__main__":
    main()
