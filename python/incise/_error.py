"""What goes wrong, and what helps, in Python's words."""

from __future__ import annotations

from collections.abc import Sequence

Setting = tuple[bool, str, str | None]


class Error(Exception):
    """What the engine refuses or cannot do.

    Attributes:
        code: the kind of failure, for programs. ``io``, ``input``, ``conflict``, ``locked``,
            ``refused``, ``numeric``, ``device``, ``device-memory`` and ``abort-build`` are the
            engine's; ``module`` is of a live model that an edit does not fit.
        file: the file it is about, or the name of an input that is no file.
        field: the field, tensor or line inside it.
        remedy: what to do about it, with the settings that help as keywords.
    """

    def __init__(
        self,
        message: str,
        code: str,
        file: str | None = None,
        field: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message, code, file, field, remedy)
        self.code = code
        self.file = file
        self.field = field
        self.remedy = remedy

    def __str__(self) -> str:
        return str(self.args[0])


class EngineWarning(UserWarning):
    """What a user should read: what happened, what it may mean, what to do."""


def refused(what: str, remedy: str, field: str | None = None) -> Error:
    """A call that cannot be met as it stands."""
    return Error(f"{what}; {remedy}", "refused", None, field, remedy)


def from_engine(
    line: str,
    code: str,
    file: str | None,
    field: str | None,
    remedy: str | None,
    settings: Sequence[Setting],
    operation: str | None,
) -> Error:
    """The engine's error; ``line`` is all of it, the remedy last."""
    words = keywords(settings, operation)
    return Error(line + words, code, file, field, remedy and remedy + words)


# Options that have another name here than in the engine.
_NAMES = {"statistics": "stats", "with": "memories", "template_var": "template_vars"}
# Commands of the program that are functions here.
_FUNCTIONS = {"log": "incise.log(…)", "stats": "incise.stats(…)"}
_WORDS = {"true": "True", "false": "False"}


def keywords(settings: Sequence[Setting], operation: str | None) -> str:
    """`` (v_lr=0.1 or device="cpu")``; nothing where a remedy is in its words alone."""
    said = [] if operation is None else [_FUNCTIONS.get(operation, f"`incise {operation}`")]
    said += [_keyword(*setting) for setting in settings]
    return f" ({' or '.join(said)})" if said else ""


def _keyword(hyperparameter: bool, name: str, value: str | None) -> str:
    if hyperparameter:
        return f"{name}={value or '…'}"
    name = _NAMES.get(name, name)
    if value is None:
        return f"{name}=…"
    if name == "template_vars":
        variable, _, value = value.partition("=")
        return f'{name}={{"{variable}": {_WORDS.get(value, value)}}}'
    if name == "shard":
        return f"{name}=({value.replace('/', ', ')})"
    return f"{name}={_WORDS.get(value) or (value if _is_number(value) else _quoted(value))}"


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
