"""Every metric of an edit in plain PyTorch: the program's independent reference.

  python tools/reference_eval.py MODEL [--edited FOLDER] --data FILE [--form FORM] --records N \\
      [--compat memit|alphaedit] [--demonstrations DIR] [--dtype f32|f64] -o OUT.json
  python tools/reference_eval.py --cases tests/golden/eval/cases.json --edited FOLDER [--shared DIR]

One text at a time and unhurried. reference_metrics.py has the metrics, reference_records.py says
what a record is measured by, reference_fluency.py needs no model. OUT.json holds

  records   {id, metrics: {NAME: {"before": [a value a prompt, in the record's order], "after":
            …}}}, and as `texts`, under the same names, what was generated
  broken    ids of records that cannot be used; they do not count as one of the N
  closest   by metric, the least distance that decided anything: between the largest two logits, or
            between two nll
  f32       by metric, the largest difference of a value when the framework runs in f32, over the
            first records

A value is null where there is no answer to judge by, no demonstration, or no room: a text with its
target, or a prompt and all that may be generated, is longer than the model's context.

Form `text` is a text file. A record is a window of a line, cut as for statistics: `LINE:START`.
`text.perplexity` is nats of each token but the first, `drift.kl` KL(unedited || edited) and
`drift.argmax` whether the arg-max changed, before each of them; `summary` has exp(mean nats), the
means of the two, and the ratio of the perplexities.
"""

import argparse
import json
from pathlib import Path

import torch
import transformers
from golden import versions
from reference_fluency import fluency
from reference_metrics import (
    NoRoom,
    Scorer,
    accuracy,
    agreement,
    answered,
    correct,
    goes_on_alike,
    kl,
    likelier,
    magnitude,
    nothing,
    of_easyedit,
    ours,
    says_freely,
    strict,
    thought,
    zsre_tokens,
)
from reference_records import read
from safetensors.torch import load_file

TYPES = {"f32": torch.float32, "f64": torch.float64}
RECORDS_IN_F32 = 5


# ---------------------------------------------------------------------------- what a case is asked


def of_role(case, role):
    return [probe for probe in case["probes"] if probe["role"] == role]


def target(probe):
    return probe["answers"][0][0] if probe["answers"] else None


def counterfact_metrics(case):
    (fact,) = case["facts"]
    x, new, true = fact["prompt"], fact["target"], fact["true"]
    rephrased = [p["prompt"] for p in of_role(case, "paraphrase")]
    near = [p["prompt"] for p in of_role(case, "neighbourhood")]
    behind = [f"{x} {new.lstrip()}. {prompt}" for prompt in near]
    out = {}
    for letter, prompts, one, other in (
        ("e", [x], new, true),
        ("p", rephrased, new, true),
        ("n", near, true, new),
    ):
        name = f"counterfact.{letter}"
        out[f"{name}s"] = [likelier(prompt, one, other) for prompt in prompts]
        out[f"{name}m"] = [magnitude(prompt, one, other) for prompt in prompts]
        out[f"{name}s_argmax"] = [strict(prompt, one) for prompt in prompts]
    out["counterfact.nkl"] = [kl(prompt) for prompt in near]
    out["counterfact_plus.ns"] = [likelier(prompt, true, new) for prompt in behind]
    out["counterfact_plus.nkl"] = [kl(prompt) for prompt in behind]
    return out


def zsre_metrics(case):
    (fact,) = case["facts"]
    rephrased, unrelated = of_role(case, "paraphrase"), of_role(case, "locality")
    return {
        "zsre.efficacy": [zsre_tokens(fact["prompt"], fact["target"])],
        "zsre.paraphrase": [zsre_tokens(p["prompt"], fact["target"]) for p in rephrased],
        "zsre.specificity": [zsre_tokens(p["prompt"], target(p)) for p in unrelated],
    }


def wild_metrics(case):
    (fact,) = case["facts"]
    rephrased, unrelated = of_role(case, "paraphrase"), of_role(case, "locality")
    return {
        "wild.reliability": [says_freely(fact["prompt"], fact["target"])],
        "wild.generalisation": [says_freely(p["prompt"], fact["target"]) for p in rephrased],
        "wild.locality": [goes_on_alike(p["prompt"]) for p in unrelated],
    }


def mquake_metrics(case, shown):
    out = {"mquake.edit_wise": [correct(f["prompt"], [[f["target"]]]) for f in case["facts"]]}
    if relations := shown.get("rel-prompts.json"):
        relations = json.loads(relations)
        out["mquake.single_hop"] = [
            answered(relations.get(hop["relation"]), hop["question"], hop["answers"])
            for hop in case["hops"]
        ]
    whole = of_role(case, "portability")
    for name, file, ask in (
        ("mquake.multi_hop", "multihop-prompts.txt", answered),
        ("mquake.multi_hop_cot", "multihop-cot-prompts.txt", thought),
    ):
        if file in shown:
            out[name] = [ask(shown[file], p["prompt"], p["answers"][0]) for p in whole]
    return out


def add(out, role, probe, metric):
    out.setdefault(f"{role}.{probe['kind']}".rstrip("."), []).append(metric)


def any_form_metrics(case):
    """What is asked whatever the form, of the probes that there are."""
    facts, out = case["facts"], {}
    rewrite, rephrase = "easyedit.token_accuracy.rewrite", "easyedit.token_accuracy.rephrase"
    out[rewrite] = [accuracy(fact["prompt"], fact["target"]) for fact in facts]
    for p in of_role(case, "paraphrase"):
        out.setdefault(rephrase, []).append(accuracy(p["prompt"], facts[p["fact"]]["target"]))
    for p in of_role(case, "portability"):
        x, y = p["prompt"], target(p)
        add(out, "portability", p, correct(x, p["answers"]) if y else nothing)
        add(out, "easyedit.token_accuracy.portability", p, accuracy(x, y) if y else nothing)
    for p in of_role(case, "locality"):
        x, y = p["prompt"], target(p)
        agrees = agreement(x, y, ours) if y else nothing
        agrees_joint = agreement(x, y, of_easyedit) if y else nothing
        add(out, "locality.agreement", p, agrees)
        add(out, "locality.correct", p, correct(x, p["answers"]) if y else nothing)
        add(out, "easyedit.token_agreement.locality", p, agrees_joint)
    for p in of_role(case, "neighbourhood"):
        agrees = agreement(p["prompt"], target(p), of_easyedit) if target(p) else nothing
        near = p | {"kind": "neighbourhood"}
        add(out, "easyedit.token_agreement.locality", near, agrees)
    return out


def metrics_of(case, shown):
    forms = dict(counterfact=counterfact_metrics, zsre=zsre_metrics, qaedit=wild_metrics)
    forms["mquake"] = lambda case: mquake_metrics(case, shown)
    return forms.get(case["form"], lambda _: {})(case) | any_form_metrics(case)


# ---------------------------------------------------------------------------- a file


def evaluate(cases, unedited, edited, shown, only):
    """The records of the output, and the least distance that decided anything, by metric."""
    records, closest = [], {}
    runs = {"before": unedited} | ({"after": edited} if edited else {})
    for case in cases:
        values, generated = {}, {}
        for name, asked in metrics_of(case, shown).items():
            if only and not name.startswith(tuple(only)):
                continue
            values[name] = {when: [] for when in runs}
            for when, scorer in runs.items():
                for metric in asked:
                    try:
                        value, margin, text = metric(scorer, unedited)
                    except NoRoom:
                        value, margin, text = None, None, None
                    values[name][when].append(value)
                    if margin is not None:
                        closest[name] = min(closest.get(name, margin), margin)
                    if text is not None:
                        generated.setdefault(name, {}).setdefault(when, []).append(text)
        record = dict(id=case["id"], metrics=values)
        records.append(record | ({"texts": generated} if generated else {}))
        for scorer in runs.values():
            scorer.known.clear()
    return records, closest


def windows(unedited, file, lines):
    """The file's first lines that are not blank, each cut into windows of the model's context."""
    text = [line for line in file.read_text().split("\n") if line.strip()]
    for index, line in enumerate(text[:lines]):
        ids = unedited.ids(line)
        for start in range(0, len(ids), unedited.context):
            yield f"{index}:{start}", ids[start : start + unedited.context]


def evaluate_text(unedited, edited, file, lines):
    """The same for form `text`, and its summary."""
    runs = {"before": unedited} | ({"after": edited} if edited else {})
    records, sums, tokens, closest = [], {when: 0.0 for when in runs}, 0, {}
    divergence, changed, places = 0.0, 0, 0
    for name, ids in windows(unedited, file, lines):
        log_p = {when: scorer.rows(ids, 0)[1][:-1] for when, scorer in runs.items()}
        metrics = {"text.perplexity": {}}
        for when, p in log_p.items():
            told = -p.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
            metrics["text.perplexity"][when] = told.tolist()
            sums[when] += told.sum().item()
        tokens += len(ids) - 1
        if edited:
            p0, p = log_p["before"], log_p["after"]
            each = (p0.exp() * (p0 - p)).sum(-1)
            moved = (p0.argmax(-1) != p.argmax(-1)).int()
            two = [p.topk(2, -1).values for p in log_p.values()]
            margin = min((t[:, 0] - t[:, 1]).min().item() for t in two)
            closest["drift.argmax"] = min(closest.get("drift.argmax", margin), margin)
            zero = [0] * (len(ids) - 1)
            metrics["drift.kl"] = {"before": zero, "after": each.tolist()}
            metrics["drift.argmax"] = {"before": zero, "after": moved.tolist()}
            divergence += each.sum().item()
            changed, places = changed + moved.sum().item(), places + len(ids) - 1
        records.append(dict(id=name, metrics=metrics))
    mean = {when: torch.tensor(total / tokens).double() for when, total in sums.items()}
    summary = {"text.perplexity": {when: value.exp().item() for when, value in mean.items()}}
    if edited:
        ratio = (mean["after"] - mean["before"]).exp().item()
        summary["drift.perplexity_ratio"] = {"after": ratio}
        summary["drift.kl"] = {"after": divergence / places}
        summary["drift.argmax"] = {"after": changed / places}
    return records, closest, summary


def run(folder, edited, case, data, demonstrations):
    """The output of a case: in f64, and how far f32 is from it over its first records."""
    compat, count = case.get("compat"), case["records"]
    files = demonstrations.iterdir() if demonstrations else ()
    shown = {file.name: file.read_text().strip() for file in files}
    is_text = case["form"] == "text"
    cases, broken = ([], []) if is_text else read(data, count, case["form"])

    def both(dtype, some):
        torch.set_default_dtype(dtype)
        runs = [Scorer(f, dtype, compat) if f else None for f in (folder, edited)]
        if is_text:
            found = evaluate_text(*runs, data, some or count)
        else:
            found = evaluate(cases[:some], *runs, shown, case.get("only"))
        torch.set_default_dtype(torch.float32)
        return found

    records, closest, *summary = both(TYPES[case.get("dtype", "f64")], None)
    out = dict(form=case["form"], file=case["data"], compat=compat, broken=broken)
    out |= dict(closest=closest, versions=versions())
    if case.get("dtype", "f64") == "f64":
        out["f32"] = apart(both(torch.float32, RECORDS_IN_F32)[0], records)
    return out | ({"summary": summary[0]} if summary else {}) | dict(records=records)


def apart(some, records):
    """The largest difference of a metric's values, over the records that both have."""
    found = {}
    for a, b in zip(some, records):
        for name, runs in a["metrics"].items():
            for when, values in runs.items():
                pairs = zip(values, b["metrics"][name][when])
                off = max((abs(x - y) for x, y in pairs if x is not None), default=0)
                found[name] = max(found.get(name, 0), off)
    return found


def rounded(value):
    """Floats to 12 digits."""
    if isinstance(value, float):
        short = float(f"{value:.12g}")
        return int(short) if short in (0, 1) else short
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list) else value


def save(out, path):
    """A line a record, so that a change is seen where it is."""

    def text(value):
        return json.dumps(rounded(value), ensure_ascii=False, separators=(",", ":"))

    head = [f"{json.dumps(key)}:{text(value)}" for key, value in out.items() if key != "records"]
    lines = ",\n".join(text(record) for record in out["records"])
    path.write_text("{" + ",\n".join(head) + ',\n"records":[\n' + lines + "\n]}\n")


def is_patched(folder, edited, patch):
    """Whether the edited folder is the model with the patch, but for the rounding of a sum that
    lies between two numbers."""
    before, after = (load_file(f / "model.safetensors") for f in (folder, edited))
    changes = load_file(patch)
    for name, weight in before.items():
        new = after[name]
        if f"{name}.left" not in changes:
            if not torch.equal(weight, new):
                return False
            continue
        left, right = (changes[f"{name}.{side}"].double() for side in ("left", "right"))
        change = left @ right.T
        exact = weight.double() + (change if change.shape == weight.shape else change.T)
        best = exact.to(weight.dtype)
        if (best != new).sum() > 1e-4 * best.numel():
            return False
        if ((new.double() - exact).abs() > (best.double() - exact).abs() + 1e-6).any():
            return False
    return True


def run_cases(file, edited, shared, only):
    """Each case of the file; one whose shared files are absent is named and left out."""
    for case in json.loads(file.read_text())["cases"]:
        name = case["name"]
        if only and name not in only:
            continue
        if case["form"] == "fluency":
            save(fluency(case) | dict(versions=versions()), file.parent / f"{name}.json")
            continue
        folder = (shared / "data" if case.get("shared") else file.parent.parent) / case["model"]
        data = file.parent / case["data"]
        data = data if data.exists() else shared / "data" / case["data"]
        if not folder.exists() or not data.exists():
            print(f"{name}: skipped, no {folder} or no {data}")
            continue
        after = None
        if patch := case.get("patch"):
            after = edited
            if not is_patched(folder, edited, file.parent / patch):
                raise ValueError(f"{edited} is not {folder} with {patch}")
        shown = case.get("demonstrations")
        if shown:
            shown = next(f / shown for f in (shared / "data", file.parent) if (f / shown).exists())
        out = run(folder, after, case, data, shown)
        save(out, file.parent / f"{name}.json")
        apart = max(out["f32"].values())
        print(f"{name}: {len(out['records'])} records, f32 apart {apart:.1e}", flush=True)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", nargs="?", type=Path, help="checkpoint folder")
    parser.add_argument("--edited", type=Path, help="folder of the edited model")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--form", help="of the records; `text` for a text file")
    parser.add_argument("--records", type=int)
    parser.add_argument("--compat", choices=("memit", "alphaedit"))
    parser.add_argument("--demonstrations", type=Path, help="MQuAKE's prompts folder")
    parser.add_argument("--dtype", choices=TYPES, default="f64")
    parser.add_argument("-o", "--out", type=Path)
    parser.add_argument("--cases", type=Path, help="record these cases instead")
    parser.add_argument("--only", nargs="+", help="of the cases, those of these names")
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if options.cases:
        return run_cases(options.cases, options.edited, options.shared, options.only)
    needed = ("model", "data", "records", "out")
    if missing := [name for name in needed if getattr(options, name) is None]:
        parser.error(f"missing: {', '.join(missing)}")
    case = dict(form=options.form, data=options.data.name, records=options.records)
    case |= dict(compat=options.compat, dtype=options.dtype)
    out = run(options.model, options.edited, case, options.data, options.demonstrations)
    save(out, options.out)


if __name__ == "__main__":
    main()
