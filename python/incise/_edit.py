"""A planned edit."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from . import _incise
from ._choice import choice_of, logits_array, told
from ._error import Error, refused
from ._facts import Change, Fact, Rounded, Tensor
from ._html import edit_html
from ._progress import Listener, listener

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray
    from torch import nn

    from ._torch import Kept


class Edit:
    """A planned edit, to look at, write, apply and put into live modules.

    No file was touched yet but those of ``cache``. Calls on one edit take turns.
    """

    def __init__(self, engine: _incise.Edit, method: str, progress: bool) -> None:
        self._engine, self._progress = engine, progress
        self._in_place = False
        #: The method's name.
        self.method = method
        lines = json.loads(engine.lines())
        #: What the edit did to each fact, in the order of the requests.
        self.facts = [Fact.of(line) for line in lines if "p_target" in line]
        #: Requests that others took the place of, as the report has them.
        self.superseded: list[dict[str, Any]] = [x for x in lines if "superseded_by" in x]
        #: Records that cannot be used and were skipped, as the report has them.
        self.skipped: list[dict[str, Any]] = [line for line in lines if "skipped" in line]
        #: What was done to each matrix, ascending; nothing where the edit lives beside the weights.
        self.changes = [Change(**change) for change in json.loads(engine.changes())]
        #: Hyperparameters by name, and where each is from.
        self.hyperparameters: dict[str, Any]
        self.hyperparameters_from: dict[str, str]
        self.hyperparameters, self.hyperparameters_from = json.loads(engine.hyperparameters())
        #: Groups of contexts, each with one ``{}``: given, or drawn with the seed.
        self.contexts: list[list[str]] = json.loads(engine.contexts())
        self._kept: WeakKeyDictionary[nn.Module, Kept] = WeakKeyDictionary()
        self._known: list[bytes] | None = None

    def save(self, file: str | os.PathLike[str]) -> Path:
        """Writes the patch, or the memory of grace, and ``FILE.report.jsonl`` beside it.

        The program's ``apply``, ``export`` and ``ask`` read it. A ``state`` is written too.

        Raises:
            Error: a file that cannot be written, or would replace what was read.
        """
        self._engine.save(file, self._listener())
        return Path(file)

    def apply(self, folder: str | os.PathLike[str]) -> list[Rounded]:
        """Writes the edited checkpoint into a new folder, which any framework loads.

        Raises:
            Error: a folder that is there already; a checkpoint that changed since it was opened;
                an edit that lives beside the weights.
        """
        return _rounded(self._engine.apply(folder, self._listener()))

    def apply_in_place(self) -> list[Rounded]:
        """Changes the checkpoint itself, through a journal; :func:`incise.undo` puts it back.

        The editor reads the weights where they lie, so open the folder again for more. So may a
        module that ``transformers`` loaded from the folder in its own type on the CPU: it shares
        pages with the files, and what is written here shows there. Load it in another type, or
        again. :meth:`into` and :meth:`out_of` come before this, while the files are as they were.

        Raises:
            Error: as :meth:`apply`; a checkpoint that another process uses.
        """
        rounded = _rounded(self._engine.apply_in_place(self._listener()))
        self._in_place = True
        return rounded

    def lora(self, folder: str | os.PathLike[str], rank: int | None = None) -> int:
        """Writes the edit as a LoRA adapter, as PEFT and servers read it, and returns its rank.

        With no rank, the smallest that holds the edit and that servers take. What a smaller one
        loses is warned of.

        Raises:
            Error: a rank that servers do not take; a folder that is there already.
        """
        return self._engine.lora(folder, rank, self._listener())

    def save_tensors(self, file: str | os.PathLike[str]) -> list[Rounded]:
        """Writes the changed tensors in full, as safetensors, as the checkpoint stores them."""
        return _rounded(self._engine.save_tensors(file, self._listener()))

    def tensors(self) -> list[Tensor]:
        """The tensors that the edit changes, with the bytes that :meth:`apply` writes."""
        return self._read(self._engine.tensors)

    def tensors_before(self) -> list[Tensor]:
        """The same tensors as the checkpoint holds them."""
        return self._read(self._engine.tensors_before)

    def into(self, module: nn.Module) -> None:
        """Puts the edit into the parameters of a live module, byte for byte as :meth:`apply` would.

        Only the changed tensors move. ``module`` is the model as ``transformers`` loads it from
        the checkpoint, or a module around it (PEFT's, a compiled one). Loaded in a wider type than
        the checkpoint's, it gets the same numbers, widened; in a narrower one it is refused, for
        they would be rounded once more. A module that holds other weights than the checkpoint in
        these tensors is refused too: what was put there would be lost.

        All of it or nothing: what is refused is refused before anything is changed.

        Raises:
            Error: with code ``module``, and the parameter as ``field``; an edit that lives beside
                the weights.
        """
        _check_module(module)
        from . import _torch

        kept = _torch.into(module, self.tensors_before(), self.tensors, self._known)
        self._known = list(kept.digests)
        self._kept[module] = kept

    def out_of(self, module: nn.Module) -> None:
        """Takes the edit out of a module: the very bytes that were there before.

        Those are kept where :meth:`into` put the edit in, and are the checkpoint's where the module
        was loaded with it, as from a folder that :meth:`apply` wrote.

        Raises:
            Error: with code ``module``, where something else changed the module since, or the edit
                is not in it.
        """
        _check_module(module)
        from . import _torch

        kept = self._kept.get(module)
        if kept is None:
            kept = _torch.kept_of(self.tensors_before(), self.tensors())
        _torch.out_of(module, kept)
        self._kept.pop(module, None)

    def generate(
        self,
        prompt: str,
        max_tokens: int = 64,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        chat: bool = False,
        system: str | None = None,
        template_vars: dict[str, Any] | None = None,
    ) -> str:
        """How the edited model goes on, in memory; as :meth:`Editor.generate`."""
        choice = choice_of(
            max_tokens, temperature, top_k, top_p, seed, chat, system, template_vars
        )
        return told(lambda: self._engine.generate(prompt, choice, Listener()), choice)

    def logits(self, text: str) -> NDArray[numpy.float32]:
        """Logits (tokens, V) of the edited model, in memory; as :meth:`Editor.logits`."""
        return logits_array(self._engine.logits(text, Listener()))

    def _read(self, call: Callable[[Listener], Sequence[Any]]) -> list[Tensor]:
        """Tensors by way of the files, which an edit in place made others, until it is undone."""
        try:
            return [Tensor(*tensor) for tensor in call(self._listener())]
        except Error:
            if not self._in_place:
                raise
            remedy = "undo it, or open the folder again and edit it as it is now"
            what = "the edit was applied in place: the files are other ones now"
            raise refused(what, remedy) from None

    def _listener(self) -> Listener:
        return listener(self._progress)

    def _title(self) -> str:
        taken = sum(fact.succeeded for fact in self.facts)
        matrices = "1 matrix" if len(self.changes) == 1 else f"{len(self.changes)} matrices"
        where = "beside the weights" if self._engine.is_memory else matrices
        return f"{self.method}: {taken} of {len(self.facts)} facts taken; {where}"

    def __repr__(self) -> str:
        return f"<incise.Edit {self._title()}>"

    def _repr_html_(self) -> str:
        return edit_html(self._title(), self.facts, self.changes)


def _check_module(module: object) -> None:
    if not hasattr(module, "named_parameters"):
        remedy = "give the model as transformers loads it"
        what = f"{type(module).__name__} is no module"
        raise Error(f"{what}; {remedy}", "module", None, None, remedy)


def _rounded(report: str) -> list[Rounded]:
    return [Rounded(**tensor) for tensor in json.loads(report)]
