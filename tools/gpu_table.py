"""What was measured on a card beside what is aimed at.

  python3 tools/gpu_table.py RESULTS.json      as tools/gpu_check writes it, which prints this too

A line a measure: its number, the aim, and whether it is met; "not measured" where the results lack
a row that it needs, as those of the host do.
"""

import json
import re
import sys
from pathlib import Path
from statistics import median

BENCH = "^kernels/bench$"  # the run of `incise bench` with all libraries that are there
ALONE = "^kernels/.* alone$"  # the same by our kernels alone
SEARCHES = "^(kernels/bench$|facts/)"  # runs that search values without anything else between


class Results:
    """The rows of all runs, each with what it did a second."""

    def __init__(self, results):
        self.rows = []
        for stage, runs in results["stages"].items():
            for run in runs:
                for row in run.get("numbers", {}).get("rows", []):
                    row = {key: value for key, value in row.items() if value is not None}
                    row |= {"run": f"{stage}/{run['name']}", "rate": row["work"] / row["seconds"]}
                    self.rows.append(row)

    def __call__(self, part, what, run=""):
        """The rows of a part whose "name; shape" begins like `what`, of the runs called so."""
        rows = [
            row
            for row in self.rows
            if row["part"] == part
            and re.match(what, f"{row['name']}; {row['shape']}")
            and re.search(run, row["run"])
        ]
        if not rows:
            raise LookupError(what)
        return rows


def of_limit(rows):
    """The part of its limit that the slowest reaches."""
    return min(row["rate"] / row["limit"] for row in rows)


def seconds(rows):
    return min(row["seconds"] for row in rows)


def rate(rows):
    return median(row["rate"] for row in rows)


def least(rows):
    """Seconds for one of what is worked on, at best."""
    return min(1 / row["rate"] for row in rows)


def each(rows):
    """Seconds for one of what is worked on, in the middle of several runs."""
    return 1 / rate(rows)


def beside_flash(r, names, theirs):
    """How many times faster than PyTorch ours are together, on the shape where least."""
    times = []
    for row in r("torch", f"{theirs}; "):
        ours = [r("ops", f"{name}; {re.escape(row['shape'])}$", BENCH) for name in names]
        times.append(row["seconds"] / sum(found[0]["seconds"] for found in ours))
    return min(times)


def own_products(r):
    """Our product's rate beside the library's, on the shape where it is least."""
    return min(
        row["rate"] / rate(r("ops", f"product with BF16; {re.escape(row['shape'])}$", BENCH))
        for row in r("ops", "product with BF16, own; 8192 ×", BENCH)
    )


def part_of_step(r):
    """Attention's part of a step of the fast search: its kernels' time a token, forward and back,
    beside all that a token takes in a layer above the edited one."""
    row = max(r("stages", FAST, BENCH), key=lambda row: row["work"])
    tokens, steps = map(int, re.search(r"× (\d+) suffix tokens, (\d+) steps", row["shape"]).groups())
    layers = 28 - 1 - int(re.search(r"layer (\d+)", row["name"])[1])
    names = ["attention, bf16", "attention, backward, bf16"]
    short = [r("ops", rf"{name}; (\d+) × 4 of", BENCH)[0] for name in names]
    of = [4 * int(row["shape"].split()[0]) for row in short]
    attention = sum(row["seconds"] / n for row, n in zip(short, of))
    return attention * layers / (1 / row["rate"] / steps / tokens)


def off(rows):
    """How far what was held is from what was counted, at worst."""
    held = [row["held"] for row in rows if "held" in row]
    if not held:
        raise LookupError("held")
    return max(abs(taken / counted - 1) for counted, taken in held)


# The measure, where its number is, and the aim, if there is one.
FAST, EXACT = "value search, fast, layer 8;", "value search, layer 8;"
MOMENT, CHOLESKY = "second moment, bf16", r"(factor and solve|cholesky); 16384\b"
MEASURES = [
    (
        "bf16 element-wise and norm kernels, of the rate of a copy",
        lambda r: of_limit(r("ops", "(.*norm|rounding|gelu|rotary).*, bf16;", BENCH)),
        "≥ 0.85",
    ),
    (
        "low-rank update, r 8, of the rate of a copy",
        lambda r: of_limit(r("solves", "low-rank update, r 8;", BENCH)),
        "≥ 0.85",
    ),
    (
        "low-rank update in f64, r 64, of the rate of f32 products",
        lambda r: rate(r("solves", "low-rank update, r 64;", BENCH))
        / rate(r("limits", "product with F32", BENCH)),
        "≥ 0.60",
    ),
    (
        "attention, ≤ 512 tokens, bf16: times PyTorch's flash",
        lambda r: beside_flash(r, ["attention, bf16"], "attention, bf16"),
        "≥ 1",
    ),
    (
        "attention forward + backward, bf16: times PyTorch's flash",
        lambda r: beside_flash(
            r,
            ["attention, bf16", "attention, backward, bf16"],
            r"attention, forward \+ backward, bf16",
        ),
        "≥ 1",
    ),
    ("attention's part of a step of the search, fast", part_of_step, "≤ 0.05"),
    (
        "second moment, bf16, F 16,384: times a full product",
        lambda r: rate(r("ops", MOMENT, BENCH)) / rate(r("torch", "second moment, full; .*16384")),
        "≥ 1.5",
    ),
    (
        "second moment by our kernels alone: times a full product",
        lambda r: rate(r("ops", MOMENT, ALONE)) / rate(r("torch", "second moment, full; .*16384")),
        "≥ 1.0",
    ),
    ("our products beside cuBLASLt's, bf16, 8,192 rows", own_products, "≥ 0.45"),
    (
        "prefill of 64 × 128, bf16, of a limit of 117 ms",
        lambda r: 0.117 / seconds(r("stages", "prefill of 64 × 128, fast", BENCH)),
        "≥ 0.70",
    ),
    (
        "prefill of 64 × 128, bf16: times PyTorch",
        lambda r: rate(r("stages", "prefill of 64 × 128, fast", BENCH))
        / rate(r("torch", "prefill of 64 × 128")),
        None,
    ),
    (
        "value search, fast, s a fact",
        lambda r: least(r("stages", FAST, SEARCHES)),
        "≤ 0.025",
    ),
    (
        "value search, exact, s a fact",
        lambda r: least(r("stages", EXACT, SEARCHES)),
        "≤ 0.05",
    ),
    (
        "value search, fast, by our kernels alone, s a fact",
        lambda r: least(r("stages", FAST, ALONE)),
        "≤ 0.055",
    ),
    (
        "value search, exact: times serial PyTorch in f32",
        lambda r: each(r("torch", "value search, serial, f32; gpt-j-6b"))
        / each(r("stages", EXACT, "^torch/ours")),
        "≥ 40",
    ),
    (
        "value search, fast: times serial PyTorch in bf16",
        lambda r: each(r("torch", "value search, serial, bf16; gpt-j-6b"))
        / each(r("stages", FAST, "^torch/ours")),
        "≥ 40",
    ),
    (
        "value search, exact: times batched PyTorch in f32",
        lambda r: each(r("torch", "value search, .* at a time, f32; gpt-j-6b"))
        / each(r("stages", EXACT, "^torch/ours")),
        None,
    ),
    (
        "value search, fast: times batched PyTorch in bf16",
        lambda r: each(r("torch", "value search, .* at a time, bf16; gpt-j-6b"))
        / each(r("stages", FAST, "^torch/ours")),
        None,
    ),
    (
        "value search, fast: s a fact of 1,000 over that of 200",
        lambda r: each(r("stages", f"{FAST} 1000 ×", "^facts/"))
        / each(r("stages", f"{FAST} 200 ×", "^facts/")),
        None,
    ),
    (
        "10,000 facts with statistics, s, as 1,000 took, tenfold",
        lambda r: 10 * seconds(r("edit", "edit of 1000 facts", "^facts/")),
        "≤ 350",
    ),
    (
        "a layer's system of 10,240 facts, s",
        lambda r: seconds(r("solves", "system of 10240 facts; 16384", BENCH)),
        None,
    ),
    (
        "f64 Cholesky, F 16,384, s",
        lambda r: seconds(r("solves", CHOLESKY, BENCH)),
        "≤ 0.1",
    ),
    (
        "f64 Cholesky: times PyTorch",
        lambda r: rate(r("solves", CHOLESKY, BENCH)) / rate(r("torch", CHOLESKY)),
        None,
    ),
    (
        "memory of a search beside what --dry-run counts, off by",
        lambda r: off(r("stages", "value search", BENCH)),
        "≤ 0.10",
    ),
]


def table(results):
    """The lines."""
    results = Results(results)
    for measure, find, aim in MEASURES:
        try:
            number = find(results)
        except LookupError:
            number = None
        if number is None:
            verdict = "not measured"
        elif aim is None:
            verdict = ""
        else:
            bound = float(aim[1:])
            met = number <= bound if aim[0] == "≤" else number >= bound
            verdict = "met" if met else "not met"
        number = "–" if number is None else f"{number:.3g}"
        yield f"{measure:<58} {number:>8}  {aim or '–':<8} {verdict}".rstrip()


if __name__ == "__main__":
    try:
        lines = list(table(json.loads(Path(sys.argv[1]).read_text())))
    except (IndexError, OSError, ValueError, KeyError, TypeError) as why:
        sys.exit(f"{why}: name the results that tools/gpu_check wrote\n\n{__doc__}")
    print("\n".join(lines))
