"""What an edit did, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Fact:
    """What an edit did to one fact.

    Probabilities are of the whole target after the bare prompt, Π_i p(y_i | prompt, y_1 … y_{i−1}),
    in the model as it is written: all facts in it, its matrices rounded to the stored type.
    """

    #: The request's own, else its number from 0.
    id: str
    #: With ``{}`` where the subject goes.
    prompt: str
    subject: str
    target_new: str
    #: Whether greedy decoding of the edited model says the target.
    succeeded: bool
    #: P of the target in the unedited model.
    p_before: float
    #: P of the target in the edited model.
    p_after: float
    #: p of the target's least likely token in the edited model.
    p_min_token: float
    #: Why it was not taken, and what to try.
    failed: str | None
    #: Steps of its value search, or epochs of its training.
    steps: int
    #: The loss at the last of them.
    loss: float | None
    #: All that the report says of it: a line of ``PATCH.report.jsonl``.
    report: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> Fact:
        """Of a line of the report."""
        before, after = line["p_target"]
        return cls(
            id=line["id"],
            prompt=line["prompt"],
            subject=line["subject"],
            target_new=line["target_new"],
            succeeded=line["taken"],
            p_before=before,
            p_after=after,
            p_min_token=line["p_min_token"],
            failed=line["failed"],
            steps=line["steps"],
            loss=line["loss"],
            report=line,
        )


@dataclass(frozen=True)
class Change:
    """What an edit did to one matrix W (out, in). Norms are Frobenius'."""

    #: As ``layers.5.down``.
    matrix: str
    layer: int
    #: The tensor's name in the checkpoint.
    tensor: str
    #: Rank of Δ; None where it is dense.
    rank: int | None
    #: ‖Δ‖.
    norm: float
    #: ‖W‖ before it.
    weight: float
    #: What was added to the diagonal of C, where that was singular.
    ridge: float | None
    #: The layer misses at most 1/(1 + s) of what it is to give of a value; None where unknown.
    s: float | None


@dataclass(frozen=True)
class Rounded:
    """What was done to the weights of one tensor, once they were rounded to the stored type."""

    tensor: str
    #: ‖W‖ as it was at first.
    weight: float
    #: ‖ΣΔ‖, everything added to it.
    change: float
    #: The share of that which rounding lost, ‖W + ΣΔ − stored‖ / ‖ΣΔ‖.
    lost: float


class Tensor(NamedTuple):
    """A tensor as a checkpoint holds it."""

    #: Its name in the checkpoint.
    name: str
    #: ``F32``, ``F16`` or ``BF16``.
    dtype: str
    #: Its sizes, in the checkpoint's orientation.
    shape: Sequence[int]
    #: Its elements, row-major and little-endian.
    data: bytearray


@dataclass(frozen=True)
class LogEntry:
    """A change that was applied in place."""

    #: Counts from 1.
    number: int
    #: When, in UTC.
    time: datetime
    method: str
    #: How many it changes.
    facts: int
    tensors: list[str]

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> LogEntry:
        """Of the engine's."""
        time = datetime.fromtimestamp(entry["time"], timezone.utc)
        return cls(**{**entry, "time": time})


@dataclass(frozen=True)
class Undone:
    """What was undone."""

    #: Newest first.
    changes: list[LogEntry]
    #: Whether a change that was cut off was found and rolled back first.
    rolled_back: bool
