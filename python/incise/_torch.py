"""An edit in the parameters of a live PyTorch module.

A tensor of the checkpoint is found in the module by its name, behind one prefix for all that are
changed. It goes in as the bytes that ``Edit.apply`` writes, in the checkpoint's orientation, which
is that of the module: (out, in), or (in, out) where the model has Conv1D layers, as GPT-2 does.

A module in a wider type than the checkpoint's gets the same numbers, widened, which is exact: what
loading the edited checkpoint in that type gives. In a narrower type, or float16 for bfloat16 and
the reverse, they would be rounded again, and the module is refused.

All is checked before anything is changed, and what was written is taken back if the rest fails.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ._error import Error
from ._facts import Tensor

if TYPE_CHECKING:
    from torch import nn

_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Types of modules that hold every number of a checkpoint's type.
_WIDER = {
    torch.float32: (torch.float32, torch.float64),
    torch.float16: (torch.float16, torch.float32, torch.float64),
    torch.bfloat16: (torch.bfloat16, torch.float32, torch.float64),
}
# What wrappers put into the names of parameters.
_WRAPPERS = ("_orig_mod", "base_layer", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")


@dataclass(frozen=True)
class Kept:
    """What was in a module before an edit went in."""

    #: As the checkpoint holds them.
    before: Sequence[Tensor]
    #: Of each tensor with the edit.
    digests: Sequence[bytes]


@dataclass(frozen=True)
class _Place:
    """Where a tensor of the checkpoint is in a module."""

    tensor: Tensor
    parameter: torch.Tensor

    def with_bytes(self, tensor: Tensor) -> torch.Tensor:
        """Those bytes as the parameter holds them."""
        stored = torch.frombuffer(tensor.data, dtype=_TYPES[tensor.dtype])
        return stored.reshape(tuple(tensor.shape)).to(self.parameter.dtype)

    def digest(self) -> bytes | None:
        """Of what the parameter holds, in the checkpoint's type; None where that cannot hold it."""
        now = self.parameter.detach().cpu().contiguous()
        stored = now.to(_TYPES[self.tensor.dtype])
        exact = now.dtype == stored.dtype or _bits_equal(stored.to(now.dtype), now)
        return _digest(stored.view(torch.uint8).numpy()) if exact else None


def into(
    module: nn.Module,
    before: Sequence[Tensor],
    after: Callable[[], Sequence[Tensor]],
    known: Sequence[bytes] | None,
) -> Kept:
    """Puts ``after`` into a module that holds ``before``, or has the edit already.

    ``after`` is asked for once the module is known to take it; ``known`` are its digests, where it
    was asked for earlier.
    """
    places = _places(module, before)
    now = [place.digest() for place in places]
    if known is not None and now == known:
        return Kept(before, known)
    was = [_digest(tensor.data) for tensor in before]
    remedy = "take out what was put in before, and plan all facts as one edit; or load the module "
    remedy += "anew from the checkpoint as it is"
    _refuse_others(places, now, was, remedy)
    tensors = after()
    _write((place, place.with_bytes(tensor)) for place, tensor in zip(places, tensors))
    return Kept(before, [_digest(tensor.data) for tensor in tensors])


def kept_of(before: Sequence[Tensor], after: Sequence[Tensor]) -> Kept:
    """Of a module into which somebody else put an edit."""
    return Kept(before, [_digest(tensor.data) for tensor in after])


def out_of(module: nn.Module, kept: Kept) -> None:
    """Puts back what was in a module before."""
    places = _places(module, kept.before)
    now = [place.digest() for place in places]
    if now == [_digest(tensor.data) for tensor in kept.before]:
        raise _error("parameters", "the edit is not in the module", "put it in first")
    _refuse_others(places, now, kept.digests, "take out first what was put in after the edit")
    _write((place, place.with_bytes(place.tensor)) for place in places)


def _refuse_others(
    places: Iterable[_Place],
    now: Iterable[bytes | None],
    expected: Iterable[bytes],
    remedy: str,
) -> None:
    """Refuses a module in which a tensor is another than expected."""
    for place, digest, wanted in zip(places, now, expected):
        if digest != wanted:
            name = place.tensor.name
            what = f"{name}: the module holds something else, so something else changed it"
            raise _error(name, what, remedy)


def _write(new: Iterable[tuple[_Place, torch.Tensor]]) -> None:
    """All of it or nothing."""
    done: list[tuple[torch.Tensor, torch.Tensor]] = []
    try:
        for place, value in new:
            done.append((place.parameter, place.parameter.detach().clone()))
            _put(place.parameter, value)
    except BaseException:
        for parameter, value in done:
            _put(parameter, value)
        raise


def _put(parameter: torch.Tensor, value: torch.Tensor) -> None:
    with torch.inference_mode(parameter.is_inference()), torch.no_grad():
        parameter.copy_(value)


def _places(module: nn.Module, tensors: Sequence[Tensor]) -> list[_Place]:
    """Where each tensor is; every one fits."""
    parameters: dict[str, list[torch.Tensor]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        parts = [part for part in name.split(".") if part not in _WRAPPERS]
        parameters.setdefault(".".join(parts), []).append(parameter)
    rename = _renaming(parameters, [tensor.name for tensor in tensors])
    places = []
    taken: dict[tuple[torch.device, int], Tensor] = {}
    for tensor in tensors:
        found = parameters[rename(tensor.name)]
        if len(found) > 1:
            remedy = "name the part of it that is the model"
            raise _error(tensor.name, f"{tensor.name}: is in the module {len(found)} times", remedy)
        _check(tensor, found[0])
        other = taken.setdefault((found[0].device, found[0].data_ptr()), tensor)
        if other is not tensor:
            what = f"{tensor.name}: the module ties it to {other.name}, and the checkpoint does not"
            raise _error(tensor.name, what, "load the module without tying these weights")
        places.append(_Place(tensor, found[0]))
    return places


def _renaming(parameters: Iterable[str], names: Sequence[str]) -> Callable[[str], str]:
    """What makes the module's name of each of the checkpoint's: one prefix more, or one less."""
    parameters = list(parameters)
    common: set[tuple[str, str]] | None = None
    for name in names:
        more = {("", p.removesuffix(name)) for p in parameters if ("." + p).endswith("." + name)}
        less = {(name.removesuffix(p), "") for p in parameters if name.endswith("." + p)}
        if not more | less:
            remedy = "give the model that the checkpoint is of, or a module around it"
            raise _error(name, f"{name}: the module has no such parameter", remedy)
        common = more | less if common is None else common & (more | less)
    if common is not None and ("", "") in common:
        common = {("", "")}
    if common is None or len(common) != 1:
        shown = ", ".join(sorted(repr(new or old) for old, new in common or ()))
        what = f"{names[0]}: parameters of such names are behind "
        what += f"several prefixes, {shown}" if shown else "no prefix that all of them have"
        raise _error(names[0], what, "name the part of the module that is the model")
    [(less_of, more_of)] = common
    return lambda name: more_of + name.removeprefix(less_of)


def _check(tensor: Tensor, parameter: torch.Tensor) -> None:
    """Refuses a parameter that cannot hold a tensor exactly."""
    name, dtype = tensor.name, _TYPES[tensor.dtype]
    if type(parameter) not in (torch.nn.Parameter, torch.Tensor):
        what = f"{name}: is a {type(parameter).__name__} in the module, quantised or shared out"
        raise _error(name, what, "load the module with its weights as they are stored")
    if parameter.is_meta:
        remedy = "load the module whole, on devices that it fits on"
        raise _error(name, f"{name}: is not in memory", remedy)
    if tuple(parameter.shape) != tuple(tensor.shape):
        sizes = f"{tuple(parameter.shape)} in the module, {tuple(tensor.shape)} in the checkpoint"
        raise _error(name, f"{name}: {sizes}", "give the model that the checkpoint is of")
    if parameter.dtype not in _WIDER[dtype]:
        what = f"{name}: is {parameter.dtype} in the module, {dtype} in the checkpoint: it would be"
        remedy = 'load the module with dtype="auto", or in a type that holds the checkpoint\'s'
        raise _error(name, f"{what} rounded once more than apply rounds", remedy)


def _bits_equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors of one type have the same bytes: 0 is not −0, and NaN is NaN."""
    return torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def _digest(data: Any) -> bytes:
    return hashlib.blake2b(data, digest_size=32).digest()


def _error(field: str, what: str, remedy: str) -> Error:
    return Error(f"{what}; {remedy}", "module", "module", field, remedy)
