"""Records of the field's forms as what they are measured by, for reference_eval.py.

docs/data.md of the program says which fields of a form are what, and how kinds are spelt; this
follows it. A record becomes

  id, form
  facts    [{prompt, subject, target, true, relation}], the prompt with its subject filled in
  probes   [{role, kind, prompt, answers, fact}], answers [[spelling, …], …], the first the target
  hops     [{question, relation, answers}], MQuAKE's chain after the edit, answers [spelling, …]
"""

import json
import re

SPELT = {  # what files call a kind, where results call it something else
    ("paraphrase", "generate_prompt"): "machine_written",
    ("portability", "mhop"): "multi_hop",
    ("locality", "distracting"): "distracting_neighbour",
    ("locality", "distracting_neighbor"): "distracting_neighbour",
    ("locality", "neighborhood"): "neighbourhood",
    ("locality", "loc"): "unrelated",
}


class Broken(Exception):
    """A record that is not used."""


def kind_name(role, spelling):
    plain = "_".join(word for word in re.split("[ _-]", spelling) if word).lower()
    return SPELT.get((role, plain), plain)


# ---------------------------------------------------------------------------- values of fields


def texts(value):
    """A list of texts, or one, without blank ones."""
    values = value if isinstance(value, list) else [value]
    return [v for v in values if isinstance(v, str) and v.strip()]


def text(value):
    """A text that is not blank, or None."""
    return value if isinstance(value, str) and value.strip() else None


def trimmed(value):
    """A target without white space after it, or None."""
    return value.rstrip() if text(value) else None


def spellings(value):
    if isinstance(value, list):
        return [spelling for inner in value for spelling in spellings(inner)]
    return [value.rstrip()] if text(value) else []


def answers(value):
    """Right answers, each with its spellings: a text; a list of spellings; a list of such lists."""
    nested = isinstance(value, list) and any(isinstance(inner, list) for inner in value)
    found = [spellings(inner) for inner in value] if nested else [spellings(value)]
    return [answer for answer in found if answer]


def joins(character):
    """Whether it makes one word with its neighbour, in scripts with spaces between words."""
    accent = "\u0300" <= character <= "\u036f"
    spaced = character < "\u0590" or "\u1e00" <= character <= "\u1fff"
    return accent or character.isalnum() and spaced


def has_word(prompt, subject):
    for found in re.finditer(re.escape(subject), prompt):
        before, after = prompt[: found.start()][-1:], prompt[found.end() :][:1]
        left = before and joins(before) and joins(subject[0])
        right = after and joins(after) and joins(subject[-1])
        if not left and not right:
            return True
    return False


def filled(record, field):
    """The prompt with its subject filled in, and the subject."""
    prompt, subject = text(record.get(field)), record.get("subject")
    if prompt is None:
        raise Broken(f"no {field}")
    if subject is None:
        return prompt, prompt.strip()
    subject = subject.strip()
    if prompt.count("{}") > 1 or not subject:
        raise Broken("subject")
    if "{}" not in prompt and not has_word(prompt, subject):
        raise Broken("the subject is not in the prompt")
    return prompt.replace("{}", subject), subject


def fact(record, field, target, true=None, relation=None):
    prompt, subject = filled(record, field)
    target = trimmed(target)
    if target is None:
        raise Broken("no target")
    return dict(prompt=prompt, subject=subject, target=target, true=true, relation=relation)


def probe(role, kind, prompt, right, fact=0):
    return dict(role=role, kind=kind, prompt=prompt, answers=right, fact=fact)


def several(role, kind, prompts, target):
    right = answers(target)
    return [probe(role, kind, prompt, right) for prompt in texts(prompts)]


# ---------------------------------------------------------------------------- forms


def rewrite(request):
    """An edit as CounterFact and MQuAKE write it."""
    true = trimmed((request.get("target_true") or {}).get("str"))
    new = request["target_new"]["str"]
    return fact(request, "prompt", new, true, request.get("relation_id"))


def one_hop(record):
    hop = record.get("portability")
    return several("portability", "one_hop", hop["New Question"], hop["New Answer"]) if hop else []


def counterfact(record):
    of = rewrite(record["requested_rewrite"])
    new, true = of["target"], of["true"]
    probes = several("paraphrase", "", record.get("paraphrase_prompts"), new)
    probes += several("neighbourhood", "", record.get("neighborhood_prompts"), true)
    distracting = record.get("distracting_neighborhood_prompts")
    probes += several("locality", "distracting_neighbour", distracting, true)
    if other := record.get("unrelated_relation"):
        probes += several("locality", "other_attribution", other["question"], other["object"])
    probes += one_hop(record)
    if other := text(record.get("alternative_subject")):
        prompt = record["requested_rewrite"]["prompt"].replace("{}", other.strip())
        probes += several("portability", "subject_replace", prompt, new)
    return dict(facts=[of], probes=probes)


def zsre(record):
    true = (spellings(record.get("answers")) or [None])[0]
    of = fact(record, "src", record["alt"], true)
    probes = several("paraphrase", "", record.get("rephrase"), of["target"])
    if question := text(record.get("loc")):
        question += "" if question.endswith("?") else "?"
        probes += several("locality", "unrelated", question, record.get("loc_ans"))
    probes += one_hop(record)
    for field, kind, right in (
        ("inverse question", "inverse_relation", of["subject"]),
        ("alter_subject_question", "subject_replace", of["target"]),
    ):
        probes += several("portability", kind, record.get(field), right)
    return dict(facts=[of], probes=probes)


def asked(role, kind, value):
    """EasyEdit's questions: an object, a list of such, or one whose fields are lists."""
    if isinstance(value, list):
        return [one for inner in value for one in asked(role, kind, inner)]
    if not value:
        return []
    if "loc" in value:
        return [probe(role, kind or "unrelated", value["loc"], answers(value.get("loc_ans")))]
    prompt, right = value["prompt"], value.get("ground_truth")
    if isinstance(prompt, list):
        if len(prompt) != len(right):
            raise Broken("answers and prompts")
        return [probe(role, kind, p, answers(r)) for p, r in zip(prompt, right)]
    return [probe(role, kind, prompt, answers(right))]


def easyedit(record):
    target = record.get("target_new", record.get("target"))
    true = (spellings(record.get("ground_truth")) or [None])[0]
    of = fact(record, "prompt", target, true)
    rephrased = texts(record.get("rephrase_prompt")) + texts(record.get("rephrase"))
    probes = several("paraphrase", "", rephrased, of["target"])
    written = record.get("generate_prompt")
    probes += several("paraphrase", "machine_written", written, of["target"])
    for role in ("portability", "locality"):
        groups = record.get(role) or {}
        if isinstance(groups, list):
            groups = {"": groups}
        for name, value in groups.items():
            if value is not None:
                probes += asked(role, kind_name(role, name), value)
    for prompt, right, kind in (
        ("locality_prompt", "locality_ground_truth", "neighbourhood"),
        ("loc", "loc_ans", "unrelated"),
    ):
        if question := text(record.get(prompt)):
            probes.append(probe("locality", kind, question, answers(record.get(right))))
    return dict(facts=[of], probes=probes)


def wikibigedit(record):
    of = fact(record, "update", record["ans"])
    probes = several("paraphrase", "", record.get("rephrase"), of["target"])
    probes += several("paraphrase", "persona", record.get("personas"), of["target"])
    probes += several("portability", "multi_hop", record.get("mhop"), record.get("mhop_ans"))
    probes += several("locality", "unrelated", record.get("loc"), record.get("loc_ans"))
    return dict(facts=[of], probes=probes)


def qna(record):
    of = fact(record, "question", record["answer"])
    return dict(
        facts=[of],
        probes=several("paraphrase", "question", record.get("qna_question"), of["target"]),
    )


def mquake(record):
    facts, probes = [], []
    for i, request in enumerate(record["requested_rewrite"]):
        facts.append(rewrite(request))
        questions = several("paraphrase", "question", request.get("question"), facts[i]["target"])
        probes += [question | {"fact": i} for question in questions]
    right = [spellings([record.get("new_answer"), record.get("new_answer_alias")])]
    last = len(facts) - 1
    probes += [
        probe("portability", "multi_hop", question, right, last)
        for question in texts(record.get("questions"))
    ]
    triples = record.get("orig", {}).get("new_triples", [])
    hops = [
        dict(
            question=hop["question"],
            relation=triples[i][1] if i < len(triples) else None,
            answers=spellings([hop["answer"], hop.get("answer_alias")]),
        )
        for i, hop in enumerate(record.get("new_single_hops", []))
    ]
    return dict(facts=facts, probes=probes, hops=hops)


def form_of(record):
    request, has = record.get("requested_rewrite"), lambda field: record.get(field) is not None
    if request is not None:
        return "mquake" if isinstance(request, list) else "counterfact"
    if has("src"):
        return "zsre"
    if has("update") and has("ans"):
        return "wikibigedit"
    if has("prompt"):
        return "easyedit" if has("target_new") else "qaedit"
    return "qna"


FORMS = dict(counterfact=counterfact, zsre=zsre, easyedit=easyedit, qaedit=easyedit)
FORMS |= dict(wikibigedit=wikibigedit, qna=qna, mquake=mquake)


def own_id(record, index, form):
    found = (record[field] for field in ("id", "case_id", "case_index") if field in record)
    name = str(next(found, index))
    return f"{record['source']}-{name}" if form == "qaedit" and "source" in record else name


def read(file, count, form=None):
    """The first `count` records that can be used, and the ids of those before the last that
    cannot."""
    content = file.read_text()
    if content.lstrip().startswith("["):
        records = json.loads(content)
    else:
        records = [json.loads(line) for line in content.splitlines() if line.strip()]
    cases, broken, seen = [], [], set()
    for index, record in enumerate(records):
        if len(cases) == count:
            break
        found = form_of(record)
        if form and found != form:
            raise ValueError(f"record {index} is {found}, not {form}")
        name = own_id(record, index, found)
        try:
            case = dict(id=name, form=found, hops=[]) | FORMS[found](record)
            if name in seen:
                raise Broken("id")
        except Broken:
            broken.append(name)
            continue
        seen.add(name)
        cases.append(case)
    return cases, broken
