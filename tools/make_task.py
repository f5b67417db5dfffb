#!/usr/bin/env python3
"""Makes the file that `incise eval --task` reads from a published data set.

  tools/make_task.py hellaswag|piqa|arc_easy|arc_challenge|boolq|mmlu ROWS.jsonl
                     [--shots DEV.jsonl] [--limit N] -o TASK.jsonl

ROWS are the data set's rows as JSON, one a line, as `datasets.Dataset.to_json` writes them; piqa's
labels may be in a file beside it, as published (`--labels`). Prompts are those of the tasks of the
same names in lm-evaluation-harness 0.4.13, without its few-shot examples but for mmlu, whose first
five rows of the subject in --shots stand before each question.
"""

import argparse
import hashlib
import json
import re
import sys
from pathlib import Path


def hellaswag(row):
    def clean(text):
        text = text.strip().replace(" [title]", ". ")
        text = re.sub(r"\[.*?\]", "", text)
        return text.replace("  ", " ")

    context = row["ctx_a"] + " " + row["ctx_b"].capitalize()
    context = clean(row["activity_label"] + ": " + context)
    return {
        "context": context,
        "choices": [clean(ending) for ending in row["endings"]],
        "gold": int(row["label"]),
    }


def piqa(row):
    context = f"Question: {row['goal']}\nAnswer:"
    return {"context": context, "choices": [row["sol1"], row["sol2"]], "gold": int(row["label"])}


def arc(row):
    choices = row["choices"]
    return {
        "context": f"Question: {row['question']}\nAnswer:",
        "choices": choices["text"],
        "gold": choices["label"].index(row["answerKey"]),
    }


def boolq(row):
    answer = row["answer"] if "answer" in row else row["label"]
    question = row["question"].rstrip("?")
    context = f"{row['passage']}\nQuestion: {question}?\nAnswer:"
    return {"context": context, "choices": ["no", "yes"], "gold": int(answer)}


def mmlu_question(row):
    lines = [row["question"].strip()]
    lines += [f"{letter}. {choice}" for letter, choice in zip("ABCD", row["choices"])]
    return "\n".join(lines + ["Answer:"])


def mmlu(row, shots):
    subject = row.get("subject", "")
    own = [shot for shot in shots if shot.get("subject", "") == subject][:5]
    title = subject.replace("_", " ")
    head = f"The following are multiple choice questions (with answers) about {title}.\n\n"
    shown = [f"{mmlu_question(shot)} {'ABCD'[shot['answer']]}\n\n" for shot in own]
    return {
        "context": head + "".join(shown) + mmlu_question(row),
        "choices": list("ABCD"),
        "gold": int(row["answer"]),
    }


TASKS = {
    "hellaswag": hellaswag,
    "piqa": piqa,
    "arc_easy": arc,
    "arc_challenge": arc,
    "boolq": boolq,
    "mmlu": mmlu,
}


def rows(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def main():
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("rows")
    parser.add_argument("--shots", help="rows that mmlu's examples are taken from")
    parser.add_argument("--labels", help="piqa's labels, one a line")
    parser.add_argument("--limit", type=int)
    parser.add_argument("-o", "--output", required=True)
    args = parser.parse_args()
    published = rows(args.rows)
    if args.labels:
        with open(args.labels, encoding="utf-8") as file:
            for row, label in zip(published, file, strict=True):
                row["label"] = int(label)
    shots = rows(args.shots) if args.shots else []
    lines = []
    for number, row in enumerate(published[: args.limit], 1):
        make = TASKS[args.task]
        try:
            asked = make(row, shots) if make is mmlu else make(row)
        except (KeyError, ValueError, TypeError, IndexError) as e:
            sys.exit(f"{args.rows}: row {number}: is no row of {args.task}, or has no label: {e!r}")
        doc = json.dumps(row, indent=2, ensure_ascii=False)
        record = {"task": args.task, "doc": row} | asked
        if args.task != "hellaswag":  # whose documents the harness changes before it hashes
            record["doc_hash"] = hashlib.sha256(doc.encode()).hexdigest()
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    if not lines:
        sys.exit(f"{args.rows}: holds no row")
    if Path(args.output).resolve() == Path(args.rows).resolve():
        sys.exit(f"{args.output}: would be written over the rows; name another file")
    Path(args.output).write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
