"""How long work shows that it advances: tqdm's bars, Python's warnings and log."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ._error import EngineWarning, Setting, keywords

_LOG = logging.getLogger("incise")
_PACKAGE = str(Path(__file__).parent) + os.sep


class Listener:
    """Hears of the work; shows no bar. What was decided goes to the log ``incise``."""

    def at(self, stage: str, done: int, total: int, detail: str, /) -> None:
        """``done`` of ``total`` units of a stage are finished."""

    def remark(self, sentence: str, /) -> None:
        """What was decided before the work begins."""
        _LOG.info("%s", sentence)

    def warn(self, sentence: str, settings: Sequence[Setting], operation: str | None, /) -> None:
        """A sentence that the user should read."""
        words = sentence + keywords(settings, operation)
        warnings.warn(words, EngineWarning, stacklevel=_outside())

    def close(self) -> None:
        """The work ended."""


class Bars(Listener):
    """The same with a bar of tqdm's a stage, which erases itself."""

    def __init__(self, tqdm: Any) -> None:
        self._tqdm = tqdm
        self._bar: Any = None
        self._stage = ""

    def at(self, stage: str, done: int, total: int, detail: str, /) -> None:
        if self._bar is None or stage != self._stage:
            self.close()
            self._bar, self._stage = self._tqdm(total=total, desc=stage, leave=False), stage
        self._bar.total = total
        self._bar.set_postfix_str(detail, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = None


def listener(progress: bool) -> Listener:
    """With bars where they are wanted and tqdm is there."""
    if not progress:
        return Listener()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a notebook without widgets gets bars of text
            return Bars(import_module("tqdm.auto").tqdm)
    except ImportError:
        return Listener()


def _outside() -> int:
    """How far up the stack the caller of this package is, as ``warnings.warn`` counts."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    return level
