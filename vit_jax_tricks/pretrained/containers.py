"""Finds the weights inside the containers that training programs wrap around them.

A file may hold plain weights and moving averages of them. Averages are recognised by
words in a container's name (`model_ema`, `ema`, `averaged_model`, `params_ema`, `swa`,
...), by names inside one state dict (`ema_model.norm.weight`), by torch's `n_averaged`,
and as the `teacher` beside a `student`.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from vit_jax_tricks.errors import UserError


PLAIN = (
    *("state_dict", "model", "model_state_dict", "model_state", "module", "params"),
    *("net", "network", "net_state_dict", "weights", "student", "online_model"),
)
WORDS = {"ema", "swa", "avg", "average", "averaged", "averages", "averaging"}
WORDS |= {"polyak", "shadow", "modelema", "emamodel", "netema", "emanet"}
# Containers of tensors that are not a model's weights.
OTHERS = re.compile(
    r".*(optim|sched|scaler|amp|args|config|cfg|hyper|rng|random|callback|loops|loss"
    r"|criterion|metric|sampler|history|meta).*"
)
# Counters that averaging programs store beside the weights.
COUNTERS = {
    *("n_averaged", "num_updates", "updates", "decay", "initted", "step", "steps"),
    *("_step", "num_averaged"),
}
DEEPEST = 6


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Tensors by name, whether they are averages, and notes for the user."""

    tensors: Mapping[str, Any]
    averaged: bool
    notes: tuple[str, ...]


def choose(
    path: Any, loaded: Any, ema: bool | None, is_tensor: Callable[[Any], bool]
) -> Chosen:
    """Chooses a file's state dict: the averages (True), the plain one, or any (None).

    Raises:
      UserError: no tensors by name, several state dicts with unknown names, or no
        weights of the requested kind.
    """
    if not isinstance(loaded, Mapping):
        raise UserError(
            f"{path} holds a {type(loaded).__name__}, not tensors by name; save a "
            "state dict and give that."
        )
    search = _Search(path, ema, is_tensor)
    tensors, averaged = search.inside(loaded, "", False, DEEPEST)
    if ema and not averaged:
        raise UserError(
            f"ema=True: {path} holds no averaged weights by name"
            f"{_listed(search.passed)}; leave ema out to load it."
        )
    if ema is False and averaged:
        raise UserError(
            f"ema=False: {path} holds averaged weights alone; leave ema out to load it."
        )
    if not tensors:
        raise UserError(
            f"{path} holds no arrays by name{_listed(search.passed)}; save a state "
            "dict and give that."
        )
    notes = search.notes
    if search.passed:
        notes = [*notes, f"the file also holds {', '.join(search.passed)}: not read"]
    return Chosen(tensors, averaged, tuple(notes))


class _Search:
    """One walk from the file's outermost container to the weights."""

    def __init__(self, path: Any, ema: bool | None, is_tensor: Callable[[Any], bool]):
        self._path, self._ema, self._is_tensor = path, ema, is_tensor
        self.notes: list[str] = []
        self.passed: list[str] = []

    def inside(
        self, level: Mapping[Any, Any], name: str, averaged: bool, depth: int
    ) -> tuple[dict[str, Any], bool]:
        """The tensors below a container, and whether they are averages."""
        states = {
            str(key): value
            for key, value in level.items()
            if not OTHERS.fullmatch(str(key).lower())
            and self._holds(value, depth - 1, set())
        }
        averages = [] if averaged else [key for key in states if _averaged(key, states)]
        plain = [key for key in PLAIN if key in states and key not in averages]
        unknown = [key for key in states if key not in (*averages, *plain)]
        direct = {str(k): v for k, v in level.items() if self._is_tensor(v)}
        weights = [k for k in direct if not OTHERS.fullmatch(k) and k not in COUNTERS]
        if not averaged:
            self._pass([k for k, v in level.items() if self._is_nameless(k, v)], name)
            self._pass(self._of_callbacks(level), name)
        if averages and self._ema is not False:
            taken = averages[0]
        elif plain:
            taken = plain[0]
        elif weights or not states:
            self._pass(states, name)
            return self._flat(direct, name, averaged)
        elif not unknown:
            taken = averages[0]  # rejected in `choose`, with the reason
        elif len(unknown) == 1:
            taken = unknown[0]
            self.notes.append(f'the weights are those below "{name}{taken}"')
        else:
            raise UserError(
                f"{self._path} holds several state dicts ({', '.join(unknown[:5])}); "
                "save the one to load and give that."
            )
        others = [key for key in states if key != taken]
        if taken in averages and others:
            self._note_averages(f"{name}{taken}")
        expected = (*averages[:1], *plain[:1])
        self._pass([key for key in others if key not in expected], name)
        deeper = averaged or taken in averages
        return self.inside(states[taken], f"{name}{taken}.", deeper, depth - 1)

    def _flat(
        self, tensors: dict[str, Any], name: str, averaged: bool
    ) -> tuple[dict[str, Any], bool]:
        """Tensors of one container, whose names may mark some as averages."""
        bare = {key: key.removeprefix("module.") for key in tensors}
        averaged |= "n_averaged" in bare.values()
        kept = {k: v for k, v in tensors.items() if bare[k] not in COUNTERS}
        if averaged:
            return kept, True
        prefixes = dict.fromkeys(key.partition(".")[0] for key in kept if "." in key)
        marked = [p for p in prefixes if _averaged(p, prefixes)]
        rest = {k: v for k, v in kept.items() if k.partition(".")[0] not in marked}
        marked = [p for p in marked if 2 * len(_below(kept, p)) >= len(rest)]
        if not marked:
            return kept, False
        if self._ema is False and rest:
            online = next((p for p in PLAIN if len(_below(rest, p)) == len(rest)), "")
            return (_below(rest, online) if online else rest), False
        if rest:
            self._note_averages(f"{name}{marked[0]}")
        self._pass(marked[1:], name)
        return self._flat(_below(kept, marked[0]), name, True)

    def _holds(self, value: Any, depth: int, seen: set[int]) -> bool:
        """Whether a container holds named tensors at some depth."""
        if not isinstance(value, Mapping) or depth < 1 or id(value) in seen:
            return False
        seen.add(id(value))
        return any(
            isinstance(key, str)
            and (self._is_tensor(inner) or self._holds(inner, depth - 1, seen))
            for key, inner in value.items()
        )

    def _is_nameless(self, key: Any, value: Any) -> bool:
        """Whether an entry holds averages in a list, as `torch_ema` does."""
        lists = [value, *value.values()] if isinstance(value, Mapping) else [value]
        return _averaged(str(key), ()) and any(
            self._is_tensor(inner)
            for entries in lists
            if isinstance(entries, list | tuple)
            for inner in entries
        )

    def _of_callbacks(self, level: Mapping[Any, Any]) -> list[str]:
        """Keys under which a trainer's callbacks store averaged weights."""
        places = [
            (f"{key}.{callback}.{inner}", value)
            for key, callbacks in level.items()
            if "callback" in str(key).lower() and isinstance(callbacks, Mapping)
            for callback, kept in callbacks.items()
            if isinstance(kept, Mapping)
            for inner, value in kept.items()
        ]
        return [
            place
            for place, value in places
            if _averaged(place, ()) and self._holds(value, DEEPEST, set())
        ]

    def _note_averages(self, place: str) -> None:
        if self._ema is None:
            self.notes.append(
                f'the averaged weights below "{place}" were taken; ema=False takes the '
                "plain ones"
            )

    def _pass(self, names: Iterable[Any], place: str) -> None:
        self.passed += [f'"{place}{name}"' for name in names]


def _averaged(name: str, beside: Any) -> bool:
    """Whether a name denotes averages, given the names beside it."""
    split = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    words = re.split(r"[^a-z]+", split)
    return bool(WORDS & set(words)) or (name == "teacher" and "student" in beside)


def _below(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    start = f"{prefix}."
    return {k[len(start) :]: v for k, v in tensors.items() if k.startswith(start)}


def _listed(names: list[str]) -> str:
    return f" (it holds {', '.join(names)})" if names else ""
