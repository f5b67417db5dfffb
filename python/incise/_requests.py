"""Facts to change, in whichever form they are given: the engine reads them as JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ._error import Error, refused

# What EasyEdit's editor.edit takes a list of, and the field of a record that the engine reads.
_FIELDS = {
    "prompts": "prompt",
    "subject": "subject",
    "target_new": "target_new",
    "ground_truth": "ground_truth",
    "rephrase_prompts": "rephrase_prompt",
}
# What it takes too, and what editing does not read: they measure an edit, or serve other methods.
_UNREAD = (
    "target_neg",
    "locality_inputs",
    "portability_inputs",
    "loc_prompts",
    "keep_original_weight",
    "verbose",
    "summary_metrics",
    "test_generation",
)
EASYEDIT = (*_FIELDS, *_UNREAD)


def as_json(value: object, what: str) -> str:
    """A value as JSON; numbers of NumPy and PyTorch count as numbers."""

    def plain(given: Any) -> Any:
        if isinstance(given, Mapping):
            return dict(given)
        if hasattr(given, "tolist"):
            return given.tolist()
        if isinstance(given, (range, set, tuple)):
            return list(given)
        raise TypeError(f"{type(given).__name__} is no JSON")

    try:
        text = json.dumps(value, default=plain)
    except (TypeError, ValueError) as error:
        remedy = "give texts, numbers, booleans, None, and lists and dicts of them"
        raise Error(f"{what}: {error}; {remedy}", "input", what, None, remedy) from error
    if "NaN" in text or "Infinity" in text:
        _check_finite(json.loads(text), what, ())
    return text


def _check_finite(value: object, what: str, at: tuple[str, ...]) -> None:
    """Refuses a number that JSON does not have, by the names that lead to it."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_finite(inner, what, (*at, name))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            _check_finite(inner, what, (*at, str(i)))
    elif isinstance(value, float) and not math.isfinite(value):
        remedy = "give a number that is finite"
        told = f"{what}: {'.'.join(at)} is {value}; {remedy}"
        raise Error(told, "input", what, at[-1] if at else None, remedy)


def requests_of(requests: object, easyedit: Mapping[str, Any]) -> dict[str, Any]:
    """What the engine plans: a file by its path, or a JSON text."""
    if easyedit:
        if requests is not None:
            what = f"requests, and {', '.join(easyedit)} beside them"
            raise refused(what, "give one of the two")
        return {"text": as_json(_easyedit(easyedit), "requests")}
    if isinstance(requests, (str, os.PathLike)):
        return {"file": requests}
    if isinstance(requests, Mapping):
        requests = [requests]
    if not isinstance(requests, Iterable):
        remedy = "give a file, a list of dicts, or prompts=, subject= and target_new="
        raise refused(f"requests: {type(requests).__name__}", remedy, "requests")
    return {"text": as_json(list(requests), "requests")}


def _easyedit(lists: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Records of EasyEdit's lists; what is a text stands for a list of one."""
    for needed in ("prompts", "target_new"):
        if lists.get(needed) is None:
            raise refused(f"no {needed}", f"give {needed}= as long as the others", needed)
    columns = {name: _column(name, lists[name]) for name in _FIELDS if lists.get(name) is not None}
    count = len(columns["prompts"])
    for name, column in columns.items():
        if len(column) != count:
            what = f"{name} has {len(column)} entries for {count} prompts"
            raise refused(what, "give one a prompt", name)
    return [
        {_FIELDS[name]: column[i] for name, column in columns.items()} for i in range(count)
    ]


def _column(name: str, given: Any) -> Sequence[Any]:
    if isinstance(given, str):
        return [given]
    if isinstance(given, Sequence):
        return given
    raise refused(f"{name}: {type(given).__name__}", "give a list of texts", name)
