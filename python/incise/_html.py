"""Edits as notebooks show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._facts import Change, Fact

# Rows that are shown; of more, how many there are.
_SHOWN = 20


def edit_html(title: str, facts: Sequence[Fact], changes: Sequence[Change]) -> str:
    """Facts with the probabilities of their targets before and after; matrices with norms."""
    rows = [
        (
            fact.prompt.replace("{}", fact.subject),
            fact.target_new.strip(),
            percent(fact.p_before),
            percent(fact.p_after),
            "taken" if fact.succeeded else f"not taken: {fact.failed}",
        )
        for fact in facts
    ]
    tables = _table(("prompt", "target", "P before", "P after", ""), rows)
    norms = [
        (
            change.matrix,
            change.tensor,
            f"{change.norm:.3g}",
            f"{change.weight:.3g}",
            percent(change.norm / change.weight),
            "dense" if change.rank is None else str(change.rank),
        )
        for change in changes
    ]
    if norms:
        tables += _table(("matrix", "tensor", "‖Δ‖", "‖W‖", "‖Δ‖/‖W‖", "rank"), norms)
    return f"<div><p>{escape(title)}</p>{tables}</div>"


def percent(share: float) -> str:
    """A share as people read it."""
    return f"{100 * share:.3g} %"


def _table(head: Iterable[str], rows: Sequence[Iterable[str]]) -> str:
    def line(cells: Iterable[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"

    body = "".join(line(row, "td") for row in rows[:_SHOWN])
    more = len(rows) - _SHOWN
    note = f"<p>… and {more} more</p>" if more > 0 else ""
    return f"<table><thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table>{note}"
