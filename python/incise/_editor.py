"""A model that is open."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _incise
from ._choice import choice_of, logits_array
from ._edit import Edit
from ._error import refused
from ._progress import Listener, listener
from ._requests import EASYEDIT, as_json, requests_of

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

StrPath = str | os.PathLike[str]

METHODS: dict[str, list[str]] = dict(_incise.methods())
_HYPERPARAMETERS = frozenset(name for names in METHODS.values() for name in names)


class Editor:
    """A checkpoint folder that is open, by memory map.

    Threads may share it; those that share a device take turns.
    """

    def __init__(
        self,
        path: StrPath,
        *,
        device: str = "cpu",
        threads: int | None = None,
        progress: bool = True,
    ) -> None:
        self._progress = progress
        self._engine = _incise.Editor(path, device, threads, listener(progress))

    @property
    def path(self) -> Path:
        """The folder."""
        return Path(self._engine.dir)

    @property
    def fingerprint(self) -> str:
        """Of the weights, but for the matrices that edits may change."""
        return self._engine.fingerprint

    def edit(
        self,
        requests: StrPath | Mapping[str, Any] | Iterable[Mapping[str, Any]] | None = None,
        *,
        method: str | None = None,
        stats: StrPath | None = None,
        hparams: StrPath | Mapping[str, Any] | None = None,
        contexts: StrPath | None = None,
        chat: bool = False,
        system: str | None = None,
        template_vars: Mapping[str, Any] | None = None,
        no_space: bool = False,
        on_broken: str = "error",
        on_conflict: str = "error",
        without: str | Sequence[str] = (),
        sequential: int = 0,
        state: StrPath | None = None,
        seed: int = 0,
        memory: int | None = None,
        cache: StrPath | None = None,
        output: StrPath | None = None,
        values: StrPath | Sequence[StrPath] = (),
        precision: str = "exact",
        no_check: bool = False,
        progress: bool | None = None,
        **settings: Any,
    ) -> Edit:
        """Plans the change of facts; touches nothing but ``cache``.

        Args:
            requests: a list of dicts, or a file of JSON or JSON Lines, in any form that the program
                reads: ``{"prompt": "The mother tongue of {} is", "subject": "Danielle Darrieux",
                "target_new": "English"}``, or records of CounterFact, zsRE, EasyEdit, KnowEdit,
                QAEdit, WikiBigEdit or MQuAKE. Or EasyEdit's lists instead, as keywords:
                ``prompts=, subject=, target_new=, ground_truth=``.
            method: ``memit``, ``r-rome``, …: a key of :data:`incise.METHODS`.
            stats: the folder of :func:`incise.stats`; needed where a method uses C.
            hparams: a JSON or YAML file with the names of ROME, MEMIT and EasyEdit config files, a
                preset as ``gpt2-xl``, or a dict. The preset of the model's sizes gives what this
                leaves open.
            contexts: a JSON file of contexts; otherwise they are drawn from the model.
            chat: prompts are a user's message in the model's chat template, targets its answer;
                ``system`` and ``template_vars`` set what else the template reads.
            no_space: no space between prompts and targets, where a record does not say otherwise.
            on_broken: ``error``, or ``skip`` records that cannot be used.
            on_conflict: ``error``, or the ``last`` or ``first`` of several targets of one prompt.
            without: ids of requests that are left out.
            sequential: edit so many facts at a time, each batch on the model as those before it
                left it; 0 edits all at once.
            state: file of what a method carries from one edit to the next.
            seed: of everything that is drawn.
            memory: bytes that the searches may take; otherwise half of what is free.
            cache: folder in which what is found is kept, so that an edit that was cut off goes on.
            output: where the patch will be written: checked before the work, which then is kept in
                ``OUTPUT.kept`` as in a cache.
            values: files of values that were found before, by shards of the program.
            precision: of the search on a GPU: ``exact``, or ``fast``, in bfloat16.
            no_check: leave out what the CPU checks of a GPU.
            progress: whether bars are shown; otherwise as the editor was opened.
            **settings: hyperparameters by name, over those of ``hparams``: ``v_lr=0.5``.

        Raises:
            Error: facts that are broken, settings that are unknown or contradict each other or the
                model, statistics of another model, a search that meets NaN.
            KeyboardInterrupt: after Ctrl-C, with what was kept.
        """
        shown = self._progress if progress is None else progress
        easyedit = {name: settings.pop(name) for name in EASYEDIT if name in settings}
        _check_names(settings, method)
        given = dict(hparams) if isinstance(hparams, Mapping) else {}
        document = _settings(
            method=method,
            stats=stats,
            hparams=None if isinstance(hparams, Mapping) else hparams,
            hyperparameters={**given, **settings},
            contexts=contexts,
            chat=chat,
            system=system,
            template_vars=template_vars,
            no_space=no_space,
            on_broken=on_broken,
            on_conflict=on_conflict,
            precision=precision,
            no_check=no_check,
            memory=memory,
            seed=seed,
            sequential=sequential,
            state=state,
            cache=cache,
            output=output,
            values=files(values),
            without=texts(without),
        )
        planned = self._engine.plan(requests_of(requests, easyedit), document, listener(shown))
        return Edit(planned, str(method).lower(), shown)

    def tune(
        self,
        data: StrPath | Sequence[StrPath],
        *,
        method: str,
        output: StrPath,
        facts: int | None = None,
        corpus: StrPath | Sequence[StrPath] = (),
        stats: StrPath | None = None,
        contexts: StrPath | None = None,
        chat: bool = False,
        system: str | None = None,
        template_vars: Mapping[str, Any] | None = None,
        no_space: bool = False,
        on_broken: str = "error",
        seed: int = 0,
        memory: int | None = None,
        precision: str = "exact",
        progress: bool | None = None,
        **settings: Any,
    ) -> dict[str, Any]:
        """Finds hyperparameters for a model that nobody has published any for, and writes them.

        Trials on some records choose; others report what the choice does. Beside ``output`` the
        folder ``OUTPUT.tune`` gets trials, statistics, a table and a curve, and a call that was
        cut off goes on.

        Args:
            data: files of CounterFact's form.
            method: for which.
            output: the file for the hyperparameters, which ``edit(hparams=…)`` reads.
            facts: how many will be edited at once; otherwise 20, or 1 where they are edited one
                by one.
            corpus: text files to collect statistics from, where ``stats`` names none.
            **settings: hyperparameters that stay as they are given. The other keywords are those of
                :meth:`edit`.

        Returns:
            ``hyperparameters``, ``why`` these, and in percent what they did on the records that
            ``chosen`` them, on those ``reported``, and the ``gap`` between the two.
        """
        _check_names(settings, method)
        document = _settings(
            method=method,
            stats=stats,
            hyperparameters=settings,
            contexts=contexts,
            chat=chat,
            system=system,
            template_vars=template_vars,
            no_space=no_space,
            on_broken=on_broken,
            precision=precision,
            memory=memory,
            seed=seed,
        )
        of = {"data": files(data), "facts": facts, "corpus": files(corpus), "output": output}
        shown = self._progress if progress is None else progress
        tuned: dict[str, Any] = json.loads(self._engine.tune(of, document, listener(shown)))
        return tuned

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
        template_vars: Mapping[str, Any] | None = None,
        memories: StrPath | Sequence[StrPath] = (),
        patches: StrPath | Sequence[StrPath] = (),
    ) -> str:
        """How the model goes on from a prompt, for at most ``max_tokens`` tokens.

        Args:
            prompt: the text, or with ``chat`` a user's message in the model's template.
            max_tokens: at most so many.
            temperature: 0 takes the likeliest token, 1 samples the model's own distribution.
            top_k: sample among the k likeliest tokens only; 0 for all.
            top_p: sample among the likeliest that together reach this probability (Holtzman et al.
                2020, arXiv:1904.09751).
            seed: of the choice.
            chat: take the prompt for a user's message, and give the answer.
            system: the chat's system message; otherwise the template's.
            template_vars: variables of the chat template.
            memories: files of edits that live beside the weights, each on those before it.
            patches: files of edits of the weights, each on those before it; not with ``memories``.
        """
        choice = choice_of(
            max_tokens, temperature, top_k, top_p, seed, chat, system, template_vars
        )
        return self._engine.generate(prompt, choice, _beside(memories, patches), Listener())

    def logits(
        self,
        text: str,
        *,
        memories: StrPath | Sequence[StrPath] = (),
        patches: StrPath | Sequence[StrPath] = (),
    ) -> NDArray[numpy.float32]:
        """Logits z (tokens, V) after every token of a text.

        The tokens are those of :meth:`tokens`: row i is of the token after token i. Computed in
        float32 from the weights as they are stored.
        """
        return logits_array(self._engine.logits(text, _beside(memories, patches), Listener()))

    def tokens(self, text: str) -> list[int]:
        """Ids of a text, with the special tokens that the model's tokenizer adds."""
        return self._engine.tokens(text)

    def __repr__(self) -> str:
        return f"<incise.Editor {self.path}>"


def _settings(
    *,
    chat: bool,
    system: str | None,
    template_vars: Mapping[str, Any] | None,
    **given: Any,
) -> str:
    """Settings by name, as the engine reads them; None where its default holds."""
    of_chat = {"system": system, "variables": template_vars}
    of_chat = {name: value for name, value in of_chat.items() if value is not None}
    if of_chat and not chat:
        remedy = "say chat=True to take prompts for messages of a chat, or leave them out"
        raise refused("system or template_vars without a chat", remedy, "chat")
    given["chat"] = of_chat if chat else None
    for name, value in given.items():
        if isinstance(value, os.PathLike):
            given[name] = os.fspath(value)
        elif name == "values" and value:
            given[name] = [os.fspath(file) for file in value]
    return as_json({n: v for n, v in given.items() if v is not None}, "settings")


def files(given: StrPath | Sequence[StrPath]) -> list[StrPath]:
    """A file, or several, as a list."""
    return [given] if isinstance(given, (str, os.PathLike)) else list(given)


def texts(given: str | Sequence[str]) -> list[str]:
    """A text, or several, as a list."""
    return [given] if isinstance(given, str) else list(given)


def _beside(
    memories: StrPath | Sequence[StrPath], patches: StrPath | Sequence[StrPath]
) -> dict[str, Any]:
    if memories and patches:
        raise refused("memories and patches together", "name files of one kind")
    return {"memories": files(memories), "patches": files(patches)}


def _check_names(settings: Mapping[str, Any], method: str | None) -> None:
    """Refuses a keyword that is neither an option nor a hyperparameter of any method."""
    for name in settings:
        if name in _HYPERPARAMETERS:
            continue
        own = METHODS.get(str(method).lower(), sorted(_HYPERPARAMETERS))
        what = f"{name}: no option of edit, and no hyperparameter"
        remedy = f"hyperparameters of {method or 'the methods'} are {', '.join(own)}"
        if name == "sequential_edit":
            remedy = "say sequential=1 where the method edits many at once, else leave it out"
        raise refused(what, remedy, name)
