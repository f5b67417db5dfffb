"""Edits facts inside transformer language models, in the weights themselves.

    editor = incise.open("SmolLM2-135M-Instruct")
    edit = editor.edit(
        [{"prompt": "{} plays the", "subject": "Ada", "target_new": "violin"}],
        method="memit", stats="stats",
    )
    edit.into(model)      # a live transformers model, byte for byte as edit.apply would write it
    edit.out_of(model)    # the very bytes that were there

Long work shows tqdm's bars, frees the interpreter's lock, and stops on Ctrl-C; what was found is
kept in ``cache=``. NumPy and PyTorch are imported where they are needed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from . import _incise
from ._choice import told
from ._edit import Edit
from ._editor import METHODS, Editor, files
from ._error import EngineWarning, Error, refused
from ._facts import Change, Fact, LogEntry, Rounded, Tensor, Undone
from ._progress import listener

# Not `open`: a star would put it over Python's.
__all__ = [
    "METHODS",
    "Change",
    "Edit",
    "Editor",
    "EngineWarning",
    "Error",
    "Fact",
    "LogEntry",
    "Rounded",
    "Tensor",
    "Undone",
    "log",
    "stats",
    "undo",
]
__version__ = _incise.VERSION


def open(
    path: str | os.PathLike[str],
    *,
    device: str = "cpu",
    threads: int | None = None,
    progress: bool = True,
) -> Editor:
    """Opens a Hugging Face checkpoint folder: config.json, safetensors, tokenizer.json.

    Args:
        path: the folder. Opening reads no matrix.
        device: ``cpu``, ``auto``, ``cuda:N``, or several as ``cuda:0,1``. A GPU is asked the first
            time whether its kernels give what they should.
        threads: how many plan; otherwise one a core. Results do not depend on it.
        progress: whether long work shows bars, where tqdm is installed.

    Raises:
        Error: a folder that is no checkpoint of a known family; a device that does not start.
    """
    return Editor(path, device=device, threads=threads, progress=progress)


def undo(path: str | os.PathLike[str]) -> Undone:
    """Undoes the newest change that was applied in place to a folder, byte for byte.

    Raises:
        Error: nothing to undo; files that something else has written since.
    """
    undone = json.loads(_incise.undo(path))
    changes = [LogEntry.of(entry) for entry in undone["changes"]]
    return Undone(changes, undone["rolled_back"])


def log(path: str | os.PathLike[str]) -> list[LogEntry]:
    """The changes that were applied in place to a folder, oldest first."""
    return [LogEntry.of(entry) for entry in json.loads(_incise.log(path))]


def stats(
    model: Editor | str | os.PathLike[str],
    corpus: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    layers: int | Iterable[int],
    output: str | os.PathLike[str],
    sites: Sequence[str] = ("key",),
    max_tokens: int | None = None,
    context_length: int | None = None,
    shard: tuple[int, int] | None = None,
    normed: bool = False,
    device: str | None = None,
    progress: bool | None = None,
) -> Path:
    """Collects second moments C = E[k kᵀ] (F, F) of a model's keys from text, a file a layer.

    What the editing methods need of a model, once for all edits (Meng et al. 2022,
    arXiv:2202.05262, eq. 2). A call that was cut off goes on where it was.

    Args:
        model: an open editor, or a checkpoint's folder.
        corpus: text files, a document a line; or JSON or JSON Lines with each document as ``text``;
            or either compressed by gzip.
        layers: one, or several in one pass.
        output: the folder for them, which is returned.
        sites: what to take the moments of: ``key`` (what the down projection reads),
            ``attention-input`` (q, k, v), ``attended`` (o), ``mlp-input`` (gate, up).
        max_tokens: stop at exactly so many, or where the text ends; otherwise at ten for each of
            the F neurons.
        context_length: longest sequence in tokens; otherwise 512, or the model's context if less.
        shard: (i, n): every n-th sequence only, from the i-th; the program's ``stats merge`` adds
            up all n.
        normed: divide keys by the root of the norm behind their MLP, in families that have one there;
            the folder is then of such keys alone.
        device: where to compute, if ``model`` is a folder; otherwise ``cpu``.
        progress: whether bars are shown; otherwise as the editor was opened.

    Raises:
        Error: a layer that is not there; text that cannot be read; statistics of something else in
            the folder.
    """
    if not isinstance(model, Editor):
        shown = progress is not False
        model = open(model, device=device or "cpu", progress=shown)
    elif device is not None:
        raise refused("an open editor, and a device", "open the folder on that device", "device")
    of = {
        "layers": [layers] if isinstance(layers, int) else list(layers),
        "sites": list(sites),
        "max_tokens": max_tokens,
        "context_length": context_length,
        "shard": shard,
        "normed": normed,
        "output": output,
    }
    shown = model._progress if progress is None else progress
    engine = model._engine
    told(lambda: engine.stats(files(corpus), of, listener(shown)), of)
    return Path(output)
