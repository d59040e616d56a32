"""Parses policy names: timm's strings and the published tables.

rand-m9-mstd0.5-inc1        RandAugment as in timm (DeiT and its followers)
original, originalr, v0, v0r (with -mstd0.5)   AutoAugment as in timm
3a                          the three operations of DeiT III
imagenet, cifar10, svhn     AutoAugment as in torchvision
trivial                     TrivialAugment, wide
torchvision-n2-m9-bins31    RandAugment as in torchvision
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

from vit_jax_tricks.augment import levels, policies
from vit_jax_tricks.augment.policy import Policy, Step
from vit_jax_tricks.errors import UserError, nearest


TABLES = {
    "original": (policies.IMAGENET, {"Posterize": "PosterizeOriginal"}),
    "originalr": (policies.IMAGENET, {"Posterize": "PosterizeIncreasing"}),
    "v0": (policies.V0, {}),
    "v0r": (policies.V0, {"Posterize": "PosterizeIncreasing"}),
    "3a": (policies.THREE_AUGMENT, {}),
}
TORCHVISION_TABLES = {
    "imagenet": policies.IMAGENET,
    "cifar10": policies.CIFAR10,
    "svhn": policies.SVHN,
}
CHOICES: dict[str, Sequence[str] | Mapping[str, float]] = {
    "3a": policies.RAND_3A,
    "3aw": policies.RAND_WEIGHTED_3A,
    "weights": policies.RAND_WEIGHTED,
}
NAMES = ("rand", "augmix", "trivial", "torchvision", *TABLES, *TORCHVISION_TABLES)


@dataclasses.dataclass(frozen=True)
class AugMix:
    """timm's AugMix: `width` chains of `depth` operations (None: 1 to 3, at random)."""

    policy: Policy
    width: int
    depth: int | None
    alpha: float


def _table(text: str, rename: Mapping[str, str]) -> tuple[tuple[Step, ...], ...]:
    def step(text: str) -> Step:
        name, prob, level = text.split()
        number = 0.0 if level == "-" else float(level)
        return Step(rename.get(name, name), float(prob), number)

    lines = text.strip().splitlines()
    return tuple(tuple(map(step, line.split("|"))) for line in lines)


def _single(names: Sequence[str], prob: float, level: float):
    return tuple((Step(name, prob, level),) for name in names)


def _options(text: str, allowed: Mapping[str, type]) -> tuple[str, dict[str, float]]:
    """Splits `rand-m9-mstd0.5` into its first word and {"m": 9, "mstd": 0.5}."""
    first, *sections = text.split("-")
    given: dict[str, float] = {}
    for section in sections:
        match = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?)", section)
        key = match[1] if match else section.rstrip("0123456789.")
        expected = ", ".join(f"{k}NUMBER" for k in allowed)
        where = f'augmentation policy "{text}": "{section}"'
        if key not in allowed:
            raise UserError(f"{where} is unknown; expected sections of {expected}.")
        if match is None or not _fits(match[2], allowed[key]):
            kind = "a whole number" if allowed[key] is int else "a number"
            raise UserError(f"{where} needs {kind}, such as {key}1.")
        if key in given:
            raise UserError(f"{where} is given twice.")
        given[key] = float(match[2])
    return first, given


def _fits(text: str, kind: type) -> bool:
    return kind is float or "." not in text


def _at_least_one(text: str, **values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise UserError(
                f'augmentation policy "{text}": {name}{value} must be at least 1.'
            )


def _rand(text: str) -> Policy:
    kept, chosen = [], []
    for section in text.split("-"):
        (chosen if section.startswith("t") else kept).append(section)
    number = {"m": float, "n": int, "p": float, "mstd": float, "mmax": float}
    _, given = _options("-".join(kept), number | {"inc": int})
    rounds, prob = int(given.get("n", 2)), given.get("p", 0.5)
    if prob > 1:
        raise UserError(f'augmentation policy "{text}": p{prob:g} is a probability.')
    names = policies.RAND_INCREASING if given.get("inc") else policies.RAND
    if chosen:
        name = chosen[0].removeprefix("t")
        if name not in CHOICES or len(chosen) > 1:
            hint = nearest(name, CHOICES)
            raise UserError(
                f'augmentation policy "{text}": there is no set of operations '
                f'"{name}".{hint}'
            )
        names = CHOICES[name]
    weights = tuple(map(float, names.values())) if isinstance(names, Mapping) else None
    _at_least_one(text, n=rounds)
    if weights and rounds > len(weights):
        raise UserError(
            f'augmentation policy "{text}": n{rounds} is more than the '
            f"{len(weights)} operations that it draws from; give n{len(weights)}."
        )
    std = given.get("mstd", 0.0)
    return Policy(
        family=levels.timm(),
        rows=_single(tuple(names), prob, given.get("m", 10.0)),
        rounds=rounds,
        weights=weights,
        std=math.inf if std > 100 else std,
        highest=given.get("mmax", 10.0) or 10.0,
    )


def _torchvision_rand(text: str) -> Policy:
    _, given = _options(text, {"n": int, "m": int, "bins": int})
    rounds, level = int(given.get("n", 2)), given.get("m", 9.0)
    bins = int(given.get("bins", 31))
    _at_least_one(text, n=rounds)
    if level >= bins:
        raise UserError(
            f'augmentation policy "{text}": level m{level:g} is outside 0..{bins - 1}.'
        )
    family = levels.torchvision(bins=bins)
    names = [name for name in family if name != "Invert"]
    rows = _single(names, 1.0, level)
    return Policy(family=family, rows=rows, rounds=rounds, highest=bins - 1.0)


def trivial(bins: int = 31) -> Policy:
    """TrivialAugment (wide): one operation, at one of `bins` levels.

    Source: Müller & Hutter, 2021, arXiv:2103.10158, as implemented in torchvision.
    """
    family = levels.torchvision(
        bins=bins,
        shear=0.99,
        pixels=32.0,
        degrees=135.0,
        enhance=0.99,
        bits=(8, 2),
    )
    names = [name for name in family if name != "Invert"]
    rows = _single(names, 1.0, 0.0)
    return Policy(family=family, rows=rows, highest=bins - 1.0, bins=bins)


def parse_aug_mix(text: str) -> AugMix:
    """Parses timm's `augmix-m3-w3-d2-a1-mstd0.5`; without d, depth is 1 to 3 at random.

    Raises: UserError for anything else.
    """
    allowed = {"m": float, "w": int, "d": int, "a": float, "mstd": float}
    name, given = _options(text, allowed)
    if name != "augmix":
        raise UserError(f'augmentation policy "{text}": expected augmix-m3-w3.')
    width, depth = int(given.get("w", 3)), given.get("d")
    _at_least_one(text, w=width, d=1 if depth is None else int(depth))
    alpha, std = given.get("a", 1.0), given.get("mstd", math.inf)
    if alpha <= 0:
        raise UserError(f'augmentation policy "{text}": a{alpha:g} must be positive.')
    policy = Policy(
        family=levels.timm(translate_share=0.3),
        rows=_single(policies.AUG_MIX, 1.0, given.get("m", 3.0)),
        rounds=3 if depth is None else int(depth),
        std=std,
    )
    return AugMix(policy, width, None if depth is None else int(depth), alpha)


def parse_policy(text: str) -> Policy:
    """Parses any policy except AugMix; see the module docstring for the forms.

    Raises: UserError for anything else; the message suggests a known policy.
    """
    first = text.split("-")[0]
    if first == "rand":
        return _rand(text)
    if first == "torchvision":
        return _torchvision_rand(text)
    if first in TABLES:
        name, given = _options(text, {"mstd": float})
        table, rename = TABLES[name]
        std = given.get("mstd", 0.0)
        return Policy(family=levels.timm(), rows=_table(table, rename), std=std)
    if text == "trivial":
        return trivial()
    if text in TORCHVISION_TABLES:
        rows = _table(TORCHVISION_TABLES[text], {})
        return Policy(family=levels.torchvision(bins=10), rows=rows, highest=9.0)
    raise UserError(f'augmentation policy "{text}" is unknown.{nearest(text, NAMES)}')
