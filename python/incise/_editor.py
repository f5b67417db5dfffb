"""A model that is open."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _incise
from ._choice import chat_of, choice_of, logits_array, told
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
        editor: StrPath | None = None,
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
        rounds: int = 1,
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
            editor: the folder of ``incise train``; needed by methods that are trained before.
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
            rounds: plan facts that were not taken again, in up to so many rounds in all, while that
                helps.
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
        document = _settings(
            method=method,
            stats=stats,
            editor=editor,
            hparams=hparams,
            hyperparameters=settings,
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
            rounds=rounds,
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
        return _told(self._engine.tune, of, document, listener(shown))

    def evaluate(
        self,
        data: StrPath | Sequence[StrPath] = (),
        *,
        output: StrPath,
        method: str | None = None,
        mode: str = "single",
        records_at_once: int | str | None = None,
        checkpoints: int | Sequence[int] = (),
        metrics: str | Sequence[str] = (),
        compat: str | None = None,
        demonstrations: StrPath | None = None,
        snippets: StrPath | None = None,
        text: StrPath | Sequence[StrPath] = (),
        text_tokens: int | None = None,
        tasks: StrPath | Sequence[StrPath] = (),
        sample: int | None = None,
        limit: int | None = None,
        shuffle: bool = False,
        shard: tuple[int, int] | None = None,
        memories: StrPath | Sequence[StrPath] = (),
        patches: StrPath | Sequence[StrPath] = (),
        stats: StrPath | None = None,
        editor: StrPath | None = None,
        hparams: StrPath | Mapping[str, Any] | None = None,
        contexts: StrPath | None = None,
        chat: bool = False,
        system: str | None = None,
        template_vars: Mapping[str, Any] | None = None,
        no_space: bool = False,
        on_broken: str = "error",
        on_conflict: str = "error",
        seed: int = 0,
        memory: int | None = None,
        precision: str = "exact",
        no_check: bool = False,
        progress: bool | None = None,
        **settings: Any,
    ) -> dict[str, Any]:
        """Edits records, and measures whether the edits hold, spread and harm.

        Without ``method``, ``patches`` or ``memories`` the model is measured as it is. What is
        measured is the model that ``Edit.apply`` would write; no weight is touched. The folder
        gets a line a record, the summary and a page; a call that was cut off goes on there.

        Args:
            data: files of records in the forms that :meth:`edit` reads.
            output: the folder of the results.
            method: how to edit.
            mode: ``single``, each record alone; ``batch``; or ``sequential``, one upon the other.
            records_at_once: how many are edited together, or ``"all"``; otherwise all in batches,
                1 one upon the other.
            checkpoints: numbers of edited records at which all so far are measured; all is the
                last.
            metrics: first words of metrics' names, as ``counterfact``; otherwise the usual ones.
            compat: ``memit`` or ``alphaedit``: tokenise what CounterFact's metrics compare as that
                code does.
            demonstrations: folder of MQuAKE's published demonstrations.
            snippets: ROME's ``attribute_snippets.json``, which sampled text is compared with.
            text: text files on which perplexity and drift are measured once all is edited.
            text_tokens: tokens of them; otherwise 20,000.
            tasks: files of tasks of general ability, which are asked then.
            sample: so many records only, drawn with ``seed``.
            limit: the first so many of them only.
            shuffle: edit in an order drawn with ``seed``.
            shard: (i, n): every n-th record only, from the i-th; the program's ``merge`` joins
                all n.
            memories: files of edits beside the weights, to measure the model with.
            patches: files of edits of the weights, to measure the model with.
            **settings: hyperparameters by name, over those of ``hparams``. ``stats``,
                ``editor``, ``contexts``, ``chat`` and the keywords after them are those of
                :meth:`edit`.

        Raises:
            Error: files that cannot be read; what does not go together; a folder of another run;
                as :meth:`edit`.
            KeyboardInterrupt: after Ctrl-C; what was measured is in the folder.

        Returns:
            The summary: ``metrics`` by name, each with ``mean``, ``low`` and ``high`` (95 %),
            ``before``, ``change``, ``n`` and ``definition``, and what ``docs/evaluation.md`` lists.
        """
        document = _settings(
            method=method,
            stats=stats,
            editor=editor,
            hparams=hparams,
            hyperparameters=settings,
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
        )
        of = {
            "data": files(data),
            "patches": files(patches),
            "memories": files(memories),
            "mode": mode,
            "records_at_once": None if records_at_once is None else str(records_at_once),
            "checkpoints": [checkpoints] if isinstance(checkpoints, int) else list(checkpoints),
            "metrics": texts(metrics),
            "compat": compat,
            "demonstrations": demonstrations,
            "snippets": snippets,
            "text": files(text),
            "text_tokens": text_tokens,
            "tasks": files(tasks),
            "sample": sample,
            "limit": limit,
            "shuffle": shuffle,
            "shard": shard,
            "output": output,
        }
        shown = self._progress if progress is None else progress
        return _told(self._engine.evaluate, of, document, listener(shown))

    def trace(
        self,
        prompt: str | None = None,
        subject: str | None = None,
        *,
        known: StrPath | None = None,
        limit: int | None = None,
        samples: int = 10,
        window: int = 10,
        noise: str | float = "s3",
        seed: int = 0,
        output: StrPath | None = None,
        progress: bool | None = None,
    ) -> dict[str, Any]:
        """Causal tracing: which states of the model carry a fact.

        ROME's protocol (Meng et al. 2022, arXiv:2202.05262, section 2): the subject is corrupted
        by noise, single states are restored, and what comes back of the answer's probability is
        the state's effect.

        Args:
            prompt: the text to go on from; ``{}`` stands for its subject, or it contains it.
            subject: what the prompt is about.
            known: instead of both a file of facts: ROME's known facts, or requests with old
                targets. Those that the model does not say are skipped.
            limit: the first so many facts of the file only.
            samples: corrupted copies.
            window: layers in which outputs of MLPs, or of attention, are restored together.
            noise: on the subject's embeddings: ``s3`` is 3 times their standard deviation over the
                known subjects, a number the deviation itself.
            seed: added to that of the published noise.
            output: a folder for the numbers and heat maps.
            progress: whether bars are shown; otherwise as the editor was opened.

        Raises:
            Error: a prompt without its subject; a file without a fact that the model says; an
                output that would replace something else.
            KeyboardInterrupt: after Ctrl-C; nothing was written.

        Returns:
            ``p_high``, ``p_low``, the total effect ``te``, and of a prompt ``ie`` by kind of state,
            token and layer; of known facts averages ``aie`` with their standard errors, and
            ``edit_layers``, the layers they propose. ``docs/trace.md`` has all fields.
        """
        of = {
            "prompt": prompt,
            "subject": subject,
            "known": known,
            "limit": limit,
            "samples": samples,
            "window": window,
            "noise": str(noise),
            "output": output,
        }
        shown = self._progress if progress is None else progress
        document = as_json({"seed": seed}, "settings")
        return _told(self._engine.trace, of, document, listener(shown))

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
        beside = _beside(memories, patches)
        return told(lambda: self._engine.generate(prompt, choice, beside, Listener()), choice)

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
    method: str | None,
    hyperparameters: Mapping[str, Any],
    chat: bool,
    system: str | None,
    template_vars: Mapping[str, Any] | None,
    hparams: StrPath | Mapping[str, Any] | None = None,
    **given: Any,
) -> str:
    """Settings by name, as the engine reads them; None where its default holds."""
    _check_names(hyperparameters, method)
    if isinstance(hparams, Mapping):
        hyperparameters = {**hparams, **hyperparameters}
        hparams = None
    given |= {"method": method, "hparams": hparams, "hyperparameters": hyperparameters}
    given["chat"] = chat_of(chat, system, template_vars)
    for name, value in given.items():
        if isinstance(value, os.PathLike):
            given[name] = os.fspath(value)
        elif name == "values" and value:
            given[name] = [os.fspath(file) for file in value]
    return as_json({n: v for n, v in given.items() if v is not None}, "settings")


def _told(
    call: Callable[[Mapping[str, Any], str, Listener], str],
    of: Mapping[str, Any],
    document: str,
    shown: Listener,
) -> dict[str, Any]:
    """What a call of the engine says."""
    said: dict[str, Any] = json.loads(told(lambda: call(of, document, shown), of))
    return said


def files(given: StrPath | Sequence[StrPath] | None) -> list[StrPath]:
    """A file, or several, as a list."""
    if isinstance(given, Mapping):
        raise refused("a dict where files are asked for", "write it to a file, and name that")
    return [given] if isinstance(given, (str, os.PathLike)) else list(given or ())


def texts(given: str | Sequence[str] | None) -> list[str]:
    """A text, or several, as a list."""
    return [given] if isinstance(given, str) else list(given or ())


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
        what = f"{name}: no option of this call, and no hyperparameter"
        remedy = f"hyperparameters of {method or 'the methods'} are {', '.join(own)}"
        if name in ("sequential", "sequential_edit"):
            remedy = 'say sequential=1 to edit, or mode="sequential" to evaluate'
        raise refused(what, remedy, name)
