"""How a text goes on, and what comes of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from ._error import refused
from ._requests import as_json

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray


def choice_of(
    max_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    chat: bool,
    system: str | None,
    template_vars: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """As the engine takes it."""
    return {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
        "chat": as_json(chat_of(chat, system, template_vars), "chat"),
    }


def chat_of(
    chat: bool, system: str | None, template_vars: Mapping[str, Any] | None
) -> bool | dict[str, Any]:
    """A chat as the engine takes it: whether there is one, or what its template reads."""
    given = {"system": system, "variables": template_vars}
    given = {name: value for name, value in given.items() if value is not None}
    if given and chat is not True:
        remedy = "say chat=True to take prompts for messages of a chat, or leave them out"
        raise refused("system or template_vars without a chat", remedy, "chat")
    return given or chat


_Told = TypeVar("_Told")


def told(call: Callable[[], _Told], of: Mapping[str, Any]) -> _Told:
    """What a call of the engine says; a value of a wrong type in ``of`` is an error that names it."""
    try:
        return call()
    except (TypeError, OverflowError, ValueError) as error:
        named = re.search(r"field \w+\.(\w+)", str(error))
        if named is None or named[1] not in of:
            raise
        name, cause = named[1], error.__cause__
        what = f"{name}={of[name]!r}: {cause}" if cause else f"{name}={of[name]!r}"
        raise refused(what, "give it a value of the type that its help says", name) from None


def logits_array(logits: tuple[list[int], int, bytearray]) -> NDArray[numpy.float32]:
    """(tokens, V), without a copy."""
    import numpy

    tokens, vocabulary, data = logits
    return numpy.frombuffer(data, dtype="<f4").reshape(len(tokens), vocabulary)
