"""How a text goes on, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

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
        "chat": chat,
        "system": system,
        "template_vars": as_json(template_vars or {}, "template_vars"),
    }


def logits_array(logits: tuple[list[int], int, bytearray]) -> NDArray[numpy.float32]:
    """(tokens, V), without a copy."""
    import numpy

    tokens, vocabulary, data = logits
    return numpy.frombuffer(data, dtype="<f4").reshape(len(tokens), vocabulary)
