"""Each registered trick has a config key, a card, and a row in `test_every_trick.py`.

What is registered is read from the registries, what a card covers from its paragraph
"Config key", and what a row switches on from the config that it loads.
"""

import contextlib
import dataclasses
import functools
import inspect
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from test_every_trick import TRICKS, split

from vit_jax_tricks import config, objectives, prune
from vit_jax_tricks.augment import erase, mix_draw, parse, settings
from vit_jax_tricks.compress.pruning import groups, scoring
from vit_jax_tricks.compress.quant import grids, spec
from vit_jax_tricks.models import registry
from vit_jax_tricks.models.vit import VisionTransformer
from vit_jax_tricks.objectives.classification import LOSSES
from vit_jax_tricks.optim import optimizer, schedule
from vit_jax_tricks.runs import quant_config


CARDS = {path.stem: path.read_text() for path in Path("docs/tricks").glob("*.md")}
DEFAULTS = config.defaults()
ROWS = {"no flags, as in test_train.py": (), **TRICKS}
SECTIONS = ("ema", "optimizer", "quant", "schedule", "teacher")  # every key is a trick
ALONE = ("accumulate", "data.repeats")  # keys of other sections
RAND = frozenset({"rand", "torchvision"})  # RandAugment with levels of two libraries
REGULARISER = re.compile(r"\w*(drop|_rate|init_values|mix_token)|drop_\w+")


class Trick(NamedTuple):
    """A key of the config, or a flag of `prune`, and a name that it takes.

    Without a name it is on if it differs from its default. A row with one of the
    `peers`, which are data of the same code, switches on all of them. Only its `cards`
    count, if it names some.
    """

    key: str
    name: str | None = None
    peers: frozenset[str] = frozenset()
    cards: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.key if self.name is None else f"{self.key}={self.name}"


def registered() -> list[Trick]:
    """The tricks of all registries."""
    return list(dict.fromkeys((*_losses(), *_augment(), *_models(), *_others())))


def _losses() -> Iterator[Trick]:
    for term, entry in objectives.TERMS.items():
        options = inspect.signature(entry.make).parameters
        keys = [term, *(f"{term}.{option}" for option in options if option != "name")]
        yield from (Trick(f"loss.{key}", cards=entry.cards) for key in keys)
    for name in LOSSES:
        yield Trick("loss.classification.name", name)


def _augment() -> Iterator[Trick]:
    for field in dataclasses.fields(settings.Settings):
        yield Trick(f"augment.{field.name}")
    choices = {
        "crop": settings.CROPS,
        "erasing_mode": erase.MODES,
        "mix_mode": mix_draw.MODES,
    }
    for key, names in choices.items():
        yield from (Trick(f"augment.{key}", n) for n in names if n != "none")
    tables = frozenset(parse.TABLES) | frozenset(parse.TORCHVISION_TABLES)
    for name in parse.NAMES:
        peers = next((same for same in (tables, RAND) if name in same), frozenset())
        yield Trick("augment.auto_augment", name, peers)


def _models() -> Iterator[Trick]:
    for family in {registry.lookup(n).family for n in registry.list_models()}:
        fields = [field.name for field in dataclasses.fields(family)]
        yield from (Trick(f"model.{f}") for f in fields if REGULARISER.fullmatch(f))
    yield from (Trick(f"model.{field}") for field in groups.KINDS.values())


def _others() -> Iterator[Trick]:
    for section in SECTIONS:
        yield from (Trick(f"{section}.{key}") for key in DEFAULTS[section])
    yield from map(Trick, ALONE)
    yield from (Trick("optimizer.name", name) for name in optimizer.OPTIMIZERS)
    yield from (Trick("schedule.name", name) for name in schedule._NAMES)
    for field in dataclasses.fields(spec.Spec):
        yield Trick(f"quant.rules.{field.name}")
    yield from (Trick("quant.rules.observer", name) for name in spec.OBSERVERS)
    yield from (Trick("quant.rules.grid", name) for name in grids.FLOAT8)
    yield from (Trick("--criterion", name) for name in scoring.CRITERIA)


def missing(
    tricks: list[Trick], cards: Mapping[str, str], rows: Mapping[str, Any]
) -> list[str]:
    """What each trick lacks."""
    loaded = list(map(load, rows.values()))
    out = []
    for trick in tricks:
        if not has_key(trick):
            out.append(f"{trick}: no such key; add it to configs/common.py")
        texts = [text for name, text in cards.items() if name in (trick.cards or cards)]
        if not any(covers(text, trick) for text in texts):
            out.append(f"{trick}: no card in docs/tricks names it under Config key")
        if not trick.key.startswith("--") and not any(
            switches_on(row, trick) for row in loaded
        ):
            out.append(f"{trick}: no row of tests/test_every_trick.py switches it on")
    return out


@functools.cache
def load(flags: tuple[str, ...]) -> dict[str, Any]:
    """The config of a row."""
    return config.load(*split(flags)).to_dict()


@functools.cache
def usage() -> str:
    """What `prune --help` prints."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        assert prune.main(["--help"]) == 0
    return text.getvalue()


def has_key(trick: Trick) -> bool:
    """Whether the key is one of configs/common.py, a model's field or a flag.

    A term of the loss other than the first takes the arguments of its function, a
    quantisation rule the fields of a Spec.
    """
    section, _, key = trick.key.rpartition(".")
    if trick.key.startswith("--"):
        return trick.key in usage()
    if section in ("model", "quant.rules"):
        return True
    if section.startswith("loss") and not trick.key.startswith("loss.classification"):
        return True
    here = DEFAULTS
    for part in section.split(".") if section else ():
        here = here[part]
    return key in here


class Card(NamedTuple):
    """What a card marks as code: anywhere, and in its paragraph "Config key".

    `full` are the keys that it writes in full, `alone` all single words.
    """

    everywhere: str
    given: str
    full: frozenset[str]
    alone: frozenset[str]


@functools.cache
def read(text: str) -> Card:
    """The code that a card marks, one piece a line."""
    found = re.search(
        r"^\*\*Config key\.\*\*.*?(?=^\*\*)", text, re.DOTALL | re.MULTILINE
    )
    given = "\n".join(re.findall(r"`+([^`]+)`", found[0])) if found else ""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    full = {key.rstrip(".") for key in re.findall(r"config\.([\w.]+)", given)}
    alone = re.findall(r"(?<![\w.])[a-z]\w*", given)
    everywhere = "\n".join(re.findall(r"`([^`]+)`", prose))
    return Card(everywhere, given, frozenset(full), frozenset(alone))


def covers(text: str, trick: Trick) -> bool:
    """Whether a card names the key in its paragraph, and the name anywhere.

    A key is written in full or, beside a key of the same section, alone.
    """
    card = read(text)
    if trick.name is not None:
        name = rf"(?<!\w){re.escape(trick.name)}(?!\w)"
        if not re.search(name, card.everywhere):
            return False
    if trick.key.startswith("--"):
        return f"{trick.key}=" in card.given
    section, _, key = trick.key.rpartition(".")
    sections = card.full | {name.rpartition(".")[0] for name in card.full}
    return trick.key in card.full or (section in sections and key in card.alone)


def switches_on(row: dict[str, Any], trick: Trick) -> bool:
    """Whether a run with this config uses the trick."""
    section, _, key = trick.key.rpartition(".")
    if section == "quant.rules":
        rules = quant_config.rules_of(row["quant"]) or ()
        found = [getattr(one, key) for _, one in rules if one is not None]
        usual = getattr(spec.Spec(), key)
    elif section == "model":
        found, usual = [_field(row["model"], key)], None
        if found in ([0], [False]):
            return False
    elif section.startswith("loss") or section == "":
        found, usual = _of_loss(row, trick.key)
    else:
        found, usual = [row[section].get(key)], DEFAULTS[section].get(key)
    if trick.name is None:
        return any(value != usual for value in found)
    names = {trick.name} | trick.peers
    return any(str(value).split("-")[0] in names for value in found)


def _field(model: Mapping[str, Any], key: str) -> Any:
    """The field of a row's model; timm's `use_x` is the same trick as `x`."""
    entry = registry.lookup(model["name"])
    fields = {f.name: f.default for f in dataclasses.fields(entry.family)}
    plain = key.removeprefix("use_")
    if plain not in fields and f"use_{plain}" not in fields:
        return None
    plain = plain if plain in fields else f"use_{plain}"
    value = {**fields, **entry.defaults, **model}[plain]
    return None if isinstance(value, str) and value == fields[plain] else value


def _of_loss(row: dict[str, Any], key: str) -> tuple[list[Any], Any]:
    """The value of a key of the loss or of the whole config, and its default."""
    if not key.startswith("loss."):
        return [row[key]], DEFAULTS[key]
    _, term, *option = key.split(".")
    section = row["loss"].get(term, {"weight": 0})
    weight = section.get("weight", 1.0)
    if not option or not weight:
        return [bool(weight)], False
    made = objectives.TERMS[term].make
    usual = inspect.signature(made).parameters[option[0]].default
    return [section.get(option[0], usual)], usual


def test_every_trick_has_a_key_a_card_and_a_row():
    assert missing(registered(), CARDS, ROWS) == []


class More(VisionTransformer):
    """A family with one more regulariser."""

    head_drop_rate: float = 0.0


FAKES = {
    "loss.hinge": (objectives.TERMS, "hinge", objectives.TERMS["keep_ratio"]),
    "loss.classification.name=hinge": (LOSSES, "hinge", None),
    "optimizer.name=adagrad": (optimizer.OPTIMIZERS, "adagrad", None),
    "quant.rules.grid=float8_new": (grids.FLOAT8, "float8_new", None),
    "model.head_drop_rate": (
        registry._ENTRIES,
        "more",
        dataclasses.replace(registry.lookup("deit_tiny_patch16_224"), family=More),
    ),
}


@pytest.mark.parametrize("name", FAKES)
def test_a_new_entry_is_named(name, monkeypatch):
    monkeypatch.setitem(*FAKES[name])
    found = missing(registered(), CARDS, ROWS)
    assert f"{name}: no card in docs/tricks names it under Config key" in found
    assert f"{name}: no row of tests/test_every_trick.py switches it on" in found


def test_a_new_stage_and_criterion_are_named(monkeypatch):
    fields = [(f.name, f.type) for f in dataclasses.fields(settings.Settings)]
    more = dataclasses.make_dataclass("Settings", [*fields, ("grain", float)])
    monkeypatch.setattr(settings, "Settings", more)
    monkeypatch.setattr(scoring, "CRITERIA", (*scoring.CRITERIA, "chance"))
    assert missing(registered(), CARDS, ROWS) == [
        "augment.grain: no such key; add it to configs/common.py",
        "augment.grain: no card in docs/tricks names it under Config key",
        "augment.grain: no row of tests/test_every_trick.py switches it on",
        "--criterion=chance: no card in docs/tricks names it under Config key",
    ]


def test_a_card_or_a_row_that_is_gone_is_missed():
    fewer = {name: text for name, text in CARDS.items() if name != "random_erasing"}
    lost = missing(registered(), fewer, ROWS)
    assert "augment.erasing: no card in docs/tricks names it under Config key" in lost
    fewer = {name: flags for name, flags in ROWS.items() if name != "sigmoid"}
    lost = missing(registered(), CARDS, fewer)
    name = "loss.classification.name=sigmoid"
    assert f"{name}: no row of tests/test_every_trick.py switches it on" in lost
