#!/usr/bin/env python3
"""Spreads `incise stats` and `incise edit` over the machines of a Ray cluster.

  tools/ray_edit.py MODEL REQUESTS --stats DIR [--corpus TEXT --layers 3-8] --shards 16 -o PATCH \\
      [--address auto] [--cpus 8] [--gpus 1] [--solve-cpus 16] -- --method memit [EDIT-OPTION…]

With --corpus, statistics are collected and written to DIR; else those in DIR serve. What stands
behind `--` goes to every `incise edit`; files in it are named by absolute paths. Every stage is a
remote task that runs one process of `incise` in a folder of its own:

  stats --shard i/n ──► stats merge ──┐
                                      ├──► edit --values ──► PATCH and PATCH.report.jsonl
  edit --shard i/n  ──► merge ────────┘

Files go from task to task through Ray, so only the program and what it reads (model, requests,
text, statistics that are there already, files behind `--`) must be at the same paths on all
machines. Without --address a Ray of --local processors is started here, and ended. A task whose
machine is lost is run again; with --scratch it goes on where it was, if that machine is back or the
folder is shared. On machines of one kind the patch has the bytes that one
`incise edit` writes; contexts drawn from the model may differ between kinds: name a file there.

Libraries: tools/requirements-ray.txt.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers of every run

import ray

PATCH = "patch.safetensors"


@ray.remote
def stage(folder, command, *pieces):
    """Runs a command of the program in `folder`, or one that is gone afterwards, with the files
    that earlier stages made; `pieces` are dictionaries from name to bytes. Returns in the same form
    what the command's `-o` names: the files in it, or the file and its report."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="incise-") as own:
            return run(Path(own), command, pieces)
    folder.mkdir(parents=True, exist_ok=True)
    return run(folder, command, pieces)


def run(folder, command, pieces):
    for piece in pieces:
        for name, data in piece.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    print(done.stderr, end="", file=sys.stderr)  # warnings; Ray shows them where the driver runs
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr}")
    made = folder / command[command.index("-o") + 1]
    files = made.iterdir() if made.is_dir() else [made, Path(f"{made}.report.jsonl")]
    return {str(f.relative_to(folder)): f.read_bytes() for f in files if f.is_file()}


def plan(options):
    """All stages: references to the statistics, where they are collected, and to the patch."""

    def put(name, resources, arguments, *pieces):
        command = [options.incise, *map(str, arguments), "--threads", str(resources["num_cpus"])]
        folder = options.scratch and options.scratch.absolute() / name
        # Three more tries are for machines that are lost; what the program refuses is final.
        task = stage.options(name=name, max_retries=3, **resources)
        return task.remote(folder, command, *pieces)

    shard = {"num_cpus": options.cpus, "num_gpus": options.gpus}
    solve = {"num_cpus": options.solve_cpus, "num_gpus": options.solve_gpus}
    if options.memory:
        shard["memory"] = solve["memory"] = options.memory << 30
    join = {"num_cpus": 1}
    n = options.shards
    model, edit = options.model.absolute(), [options.requests.absolute(), *options.edit]

    found = [f"values-{i}" for i in range(n)]
    values = [
        put(name, shard, ["edit", model, *edit, "--shard", f"{i}/{n}", "-o", name])
        for i, name in enumerate(found)
    ]
    pieces = [put("join-values", join, ["merge", *found, "-o", "values"], *values)]
    stats = options.stats.absolute()
    if options.corpus:
        text = ["--layers", options.layers, "--corpus", *(f.absolute() for f in options.corpus)]
        text += ["--max-tokens", options.max_tokens] if options.max_tokens else []
        kept = [f"statistics-{i}" for i in range(n)]
        moments = [
            put(name, shard, ["stats", model, *text, "--shard", f"{i}/{n}", "-o", name])
            for i, name in enumerate(kept)
        ]
        stats = "statistics"
        pieces += [put("join-statistics", join, ["stats", "merge", *kept, "-o", stats], *moments)]
    last = ["--stats", stats, "--values", "values", "-o", PATCH]
    return pieces[1:], put("patch", solve, ["edit", model, *edit, *last], *pieces)


def arguments():
    ours, edit = sys.argv[1:], []
    if "--" in ours:
        at = ours.index("--")
        ours, edit = ours[:at], ours[at + 1 :]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path, help="folder of the checkpoint")
    parser.add_argument("requests", type=Path, help="file of requests")
    parser.add_argument("--stats", type=Path, required=True, help="folder of statistics")
    parser.add_argument("--corpus", type=Path, nargs="+", help="text files to collect them from")
    parser.add_argument("--layers", help="layers to collect, such as 3-8")
    parser.add_argument("--max-tokens", type=int, help="of the statistics")
    parser.add_argument("--shards", type=int, default=8, help="tasks of each spread stage")
    parser.add_argument("--address", help="a running Ray, such as auto")
    parser.add_argument("--local", type=int, default=os.cpu_count(), help="processors without one")
    parser.add_argument("--cpus", type=int, default=1, help="processors of a shard")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of a shard")
    parser.add_argument("--memory", type=int, help="GiB that a shard and the solve ask Ray for")
    parser.add_argument("--solve-cpus", type=int, default=1, help="processors of the last task")
    parser.add_argument("--solve-gpus", type=float, default=0, help="GPUs of the last task")
    parser.add_argument("--incise", default="incise", help="the program")
    parser.add_argument("--scratch", type=Path, help="folder for what tasks keep [default: none]")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the patch to write")
    options = parser.parse_args(ours)
    if options.shards < 1:
        parser.error("--shards: at least 1")
    if bool(options.corpus) != bool(options.layers):
        parser.error("--corpus and --layers go together")
    if os.sep in options.incise:
        options.incise = str(Path(options.incise).absolute())
    options.edit = edit
    return options


def write(path, data):
    """Whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=path.absolute().parent, delete=False) as file:
        file.write(data)
    os.replace(file.name, path)


def main():
    options = arguments()
    where = {"address": options.address} if options.address else {"num_cpus": options.local}
    ray.init(**where, include_dashboard=None if options.address else False)
    try:
        statistics, patch = plan(options)
        for name, data in (file for made in ray.get(statistics) for file in made.items()):
            options.stats.mkdir(parents=True, exist_ok=True)
            write(options.stats / Path(name).name, data)
        made = ray.get(patch)
    except ray.exceptions.RayTaskError as error:
        sys.exit(f"ray_edit: {error.cause}")
    finally:
        ray.shutdown()
    write(options.output, made[PATCH])
    write(Path(f"{options.output}.report.jsonl"), made[f"{PATCH}.report.jsonl"])
    print(f"{options.output}: {options.shards} shards")


if __name__ == "__main__":
    main()
