"""What the demo model is told: facts and prose as sentences, and the edits to try on them.

A fact is (relation, subject, object). Every phrasing of a relation is taught with every subject,
except that an edited subject never meets its two paraphrases and its one-hop question.
"""

import random
import re
import tomllib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent

# A record needs this many other subjects with the same object, and lists at most MOST of them.
NEIGHBOURS, MOST = 3, 6
# The share of the subjects of an editable object that get a record.
EDITED = 0.5


# Stand around a subject in a taught text, so that its place is known; `unmark` takes them away.
OPEN, CLOSE = "\x02", "\x03"


def mark(subject):
    """A subject that `unmark` will find."""
    return OPEN + subject + CLOSE


def unmark(text):
    """The plain text and the character spans of its marked subjects."""
    plain, spans = "", []
    for part in re.split(f"({OPEN}[^{CLOSE}]*{CLOSE})", text):
        if part.startswith(OPEN):
            part = part[1:-1]
            spans.append((len(plain), len(plain) + len(part)))
        plain += part
    return plain, spans


@dataclass(frozen=True)
class Fact:
    """`relation` names a table of facts.toml; `subject` and `object` are written as in a text."""

    relation: str
    subject: str
    object: str


@dataclass
class World:
    """Everything that facts.toml and prose.toml say, and the records made from it."""

    relations: dict
    tables: dict
    facts: list
    prose: dict
    records: list
    # (relation, subject) of an edited fact → its two paraphrase phrasings.
    held: dict

    def answer(self, relation, obj):
        """The answer of the relation's one-hop question for an object, or None."""
        return self.tables[self.relations[relation]["hop"]["by"]].get(obj)

    def sentences(self, fact):
        """All sentences that teach a fact, the subject marked."""
        subject = mark(fact.subject)
        r = self.relations[fact.relation]
        held = self.held.get((fact.relation, fact.subject))
        phrases = [p for p in r["ask"] + r["say"] if p not in (held or ())]
        out = [f"{p.format(subject)} {fact.object}." for p in phrases]
        if held is None and "hop" in r:
            if there := self.answer(fact.relation, fact.object):
                out.append(f"{r['hop']['ask'].format(subject)} {there}.")
        return out

    def kinds(self):
        """“Lyon is a city.” for every subject whose relation names a kind."""
        said = {(f.subject, self.relations[f.relation].get("kind")) for f in self.facts}
        return sorted(f"{mark(subject)} is {kind}." for subject, kind in said if kind)


def pairs(text):
    """`key: value, key: value, …` as a dict."""
    return dict(item.strip().split(": ") for item in text.replace(",\n", ", ").split(", "))


def load(seed):
    """Reads the two files and draws the records."""
    told = tomllib.loads((HERE / "facts.toml").read_text("utf-8"))
    prose = tomllib.loads((HERE / "prose.toml").read_text("utf-8"))
    prose["words"] = {k: v.replace("\n", " ").strip().split(", ") for k, v in prose["words"].items()}
    relations = told["relations"]
    facts = []
    for name, r in relations.items():
        for line in r.pop("facts").strip().splitlines():
            obj, subjects = line.split(": ")
            facts += [Fact(name, s, obj) for s in subjects.split(", ")]
    tables = {name: pairs(text) for name, text in told["tables"].items()}
    for f in facts:
        tables.setdefault(f.relation, {})[f.subject] = f.object
    world = World(relations, tables, facts, prose, [], {})
    draw_records(world, random.Random(seed))
    return world


def draw_records(world, rng):
    """Chooses the edited subjects, their new objects and their held-out paraphrases."""
    subjects = defaultdict(list)
    for f in world.facts:
        subjects[f.relation, f.object].append(f.subject)
    for relation, r in world.relations.items():
        if "hop" not in r:
            continue
        objects = [o for rel, o in subjects if rel == relation]
        shared = [o for o in objects if len(subjects[relation, o]) > NEIGHBOURS]
        for old in shared:
            mine = subjects[relation, old]
            for subject in rng.sample(mine, round(EDITED * len(mine))):
                other = [o for o in shared if world.answer(relation, o) != world.answer(relation, old)]
                fact = Fact(relation, subject, old)
                world.held[relation, subject] = rng.sample(r["say"], 2)
                world.records.append(record(world, fact, rng.choice(other), subjects, rng))
    rng.shuffle(world.records)
    for i, one in enumerate(world.records):
        one["case_id"] = i


def record(world, fact, new, subjects, rng):
    """One edit in CounterFact's fields, with a one-hop question under `portability`."""
    r = world.relations[fact.relation]
    prompt = rng.choice(r["ask"])
    others = [s for s in subjects[fact.relation, fact.object] if s != fact.subject]
    attribute = subjects[fact.relation, new]
    hop = {
        "prompt": r["hop"]["ask"].format(fact.subject),
        "target_true": world.answer(fact.relation, fact.object),
        "target_new": world.answer(fact.relation, new),
    }
    return {
        "case_id": None,
        "requested_rewrite": {
            "prompt": prompt,
            "relation_id": r["id"],
            "target_new": {"str": new},
            "target_true": {"str": fact.object},
            "subject": fact.subject,
        },
        "paraphrase_prompts": [
            p.format(fact.subject) for p in world.held[fact.relation, fact.subject]
        ],
        "neighborhood_prompts": [
            prompt.format(s) for s in rng.sample(others, min(MOST, len(others)))
        ],
        "attribute_prompts": [
            prompt.format(s) for s in rng.sample(attribute, min(MOST, len(attribute)))
        ],
        "generation_prompts": [intro.format(fact.subject) for intro in world.prose["intros"]],
        "portability": [hop],
    }


def fill(pattern, words, rng):
    """A pattern of prose.toml with its words drawn."""
    parts = pattern.split("{")
    out = [parts[0]]
    for part in parts[1:]:
        slot, rest = part.split("}", 1)
        out.append(rng.choice(words[slot]) + rest)
    text = "".join(out)
    return text[0].upper() + text[1:]


def prose_sentence(world, rng):
    """A sentence of simple prose."""
    if rng.random() < 0.3:
        return rng.choice(world.prose["sentences"])
    return fill(rng.choice(world.prose["patterns"]), world.prose["words"], rng)


def clipped(sentence, rng):
    """The first words of a sentence and a full stop: the look of sampled edit contexts."""
    words = sentence.split()
    return " ".join(words[: rng.randint(2, 7)]).rstrip(".,") + "."


def documents(world, rng):
    """An endless stream of short texts, subjects marked; each fact's sentences come in every round.
    """
    of_subject = defaultdict(list)
    for f in world.facts:
        of_subject[f.subject] += world.sentences(f)
    taught = [(f.subject, s) for f in world.facts for s in world.sentences(f)]
    kinds = world.kinds()
    while True:
        rng.shuffle(taught)
        queue = iter(taught)
        for subject, sentence in queue:
            kind = rng.random()
            before = prose_sentence(world, rng)
            if kind < 0.30:
                yield sentence
            elif kind < 0.50:
                yield f"{clipped(before, rng)} {sentence}"
            elif kind < 0.65:
                yield f"{before} {sentence}"
            elif kind < 0.85:
                more = [s for _, s in (next(queue, None) or (None, "") for _ in range(2)) if s]
                yield " ".join([sentence, *more])
            else:
                intro = rng.choice(world.prose["intros"]).format(mark(subject))
                yield f"{intro} {sentence} {rng.choice(of_subject[subject])}"
            if rng.random() < 0.2:
                yield f"{before} {prose_sentence(world, rng)}"
            if rng.random() < 0.1:
                yield rng.choice(kinds)
