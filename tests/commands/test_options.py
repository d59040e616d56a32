"""Options: what is typed, what the fields of a dataclass get, and what is refused."""

import dataclasses
import importlib
import subprocess
import sys
import typing
from collections.abc import Mapping
from pathlib import Path

import pytest

from vit_jax_tricks import evaluate, prune, runs
from vit_jax_tricks.commands import command_line, groups, options
from vit_jax_tricks.compress.pruning import scoring
from vit_jax_tricks.data import decode
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.runs import evaluation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """A group of its own."""

    model: groups.Model = options.group(groups.Model)
    teacher: groups.Model = options.group(groups.Model, "teacher", root="workdir")
    count: int = options.whole("how many", 5, least=2)
    share: float = options.share("how much, in 100 %", 0.5)
    how: str = options.choice("which way", ("left", "right"), "left")
    maps: Path | None = options.path(
        "maps", "DIR", flag="from", brings=("its own labels", ("teacher*", "count"))
    )
    fine: int | None = options.whole("finer", None, needs="much", shown=9)
    much: bool = options.switch("much of it")
    keys: tuple = options.section("set one", "config")
    files: tuple[str, ...] = options.words("FILE")


def parse(*argv):
    return command_line.parse(Options, argv)


def test_defaults():
    assert parse() == Options()


@pytest.mark.parametrize("equals", [True, False])
def test_everything_typed(equals, tmp_path, monkeypatch):
    """--flag=VALUE and --flag VALUE, with words anywhere."""
    monkeypatch.chdir(tmp_path)
    pairs = {
        "--count": "7",
        "--share": "1",
        "--how": "right",
        "--weights": "w.npz",
        "--model": "vit",
        "--model.img_size": "(16, 24)",
        "--model.name": "a b",
        "--ema": "false",
        "--teacher": "runs/x",
        "--teacher.ema": "true",
        "--teacher.model.depth": "-2",
        "--config.a.b": "",
    }
    argv = ["--much", "one.png"]
    for flag, text in pairs.items():
        argv += [f"{flag}={text}"] if equals else [flag, text]
    found = parse(*argv, "-two=2.png", "--config.a.b=3", "--config.c=x=y", "--count=8")
    assert found == Options(
        model=groups.Model(
            name="vit",
            weights=f"{tmp_path}/w.npz",
            fields={"img_size": (16, 24), "name": "a b"},
            ema=False,
        ),
        teacher=groups.Model(
            workdir=tmp_path / "runs/x", ema=True, fields={"depth": -2}
        ),
        count=8,
        share=1.0,
        how="right",
        much=True,
        keys=(("a.b", ""), ("a.b", "3"), ("c", "x=y")),
        files=("one.png", "-two=2.png"),
    )
    assert isinstance(found.model.fields, Mapping)


MISTAKES = {
    "--count=1": "--count=1: expected a whole number, at least 2.",
    "--count=²": "--count=²: expected a whole number",
    "--count=-1": "--count=-1: expected a whole number",
    "--count": "--count needs a value: --count=...",
    "--count=": "--count needs a value: --count=...",
    "--count --much": "--count needs a value",
    "--share=0": "--share=0: expected a share above 0, at most 1, such as 0.6.",
    "--share=nan": "--share=nan: expected a share",
    "--share=60%": "--share=60%: expected a share",
    "--share=1.01": "--share=1.01: expected a share",
    "--how=rigth": '--how=rigth: unknown. Did you mean "right"?',
    "--ema=yes": "--ema=yes: unknown. Valid: false, true.",
    "--much=yes": "--much takes no value; type --much alone.",
    "--fine=3": "--fine is for --much; add it or leave both out.",
    "--cuont=3": '--cuont: unknown argument. Did you mean "--count"?',
    "--co=3": "--co: unknown argument.",
    "--modle.img_size=3": 'Did you mean "--model.img_size"?',
    "--zzzz=3": "Expected: --workdir=..., --model=..., --weights=..., --num_classes=",
    "--config.x": "--config.x needs a value: --config.x=...",
    "--config.x --much": "--config.x needs a value",
    "--workdir=x --weights=y": "--workdir has its own model and weights; leave --wei",
    "--teacher=x --teacher.model=y": "--teacher has its own model and weights; leave "
    "--teacher.model out.",
    "--from=x --teacher.model.depth=2": "leave --teacher.model.depth out.",
    "--from=x --count=9": "--from has its own labels; leave --count out.",
    "--from=gs://x": "--from=gs://x: remote paths are neither read nor written",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes(line):
    with pytest.raises(UserError) as caught:
        parse(*line.split())
    assert MISTAKES[line] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_word_may_not_be():
    @dataclasses.dataclass(frozen=True)
    class Wordless:
        """Options."""

        json: bool = options.switch("JSON")

    for word, part in {
        "x": "x: unknown argument. Expected: --json (see --help).",
        "-json": '-json: unknown argument. Did you mean "--json"?',
        "-j": "-j: unknown argument.",
        "--jsn a=b": '--jsn a: unknown argument. Did you mean "--json"?',
    }.items():
        with pytest.raises(UserError) as caught:
            command_line.parse(Wordless, [word])
        assert part in str(caught.value)


def test_usage():
    text = command_line.usage(Options, "Does it.\n\nExample:\n  it --count=3\n")
    assert text.startswith("Does it.\n\nExample:\n  it --count=3\n\nThe model:\n")
    assert max(map(len, text.splitlines())) <= 88
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "A group of its own:" in lines
    assert "--count=N how many (default: 5)" in lines
    assert "--share=SHARE how much, in 100 % (default: 0.5)" in lines
    assert "--how=left|right which way (default: left)" in lines
    assert "--fine=N finer (default: 9)" in lines
    assert "--much much of it" in lines
    assert any(line.startswith("--teacher=DIR ") for line in lines)
    assert any(line.startswith("--teacher.model.KEY=VALUE") for line in lines)


ROOM = "vit_jax_tricks"
BODIES = [
    *((door, "Options", "run") for door in ("main", "evaluate", "predict", "relabel")),
    *((door, "Options", "run") for door in ("quantize", "prune", "export.__main__")),
    *(("inspect.__main__", kind, kind.lower()) for kind in ("Models", "Augment")),
]


@pytest.mark.parametrize(("door", "kind", "body"), BODIES)
def test_a_body_takes_the_options_of_its_door(door, kind, body):
    """The names and types of all fields; `prune` hands some on to the library."""
    name = door.partition(".")[0].replace("main", "train")
    run = getattr(importlib.import_module(f"{ROOM}.commands.{name}"), body)
    options = getattr(importlib.import_module(f"{ROOM}.{door}"), kind)
    taken, given = typing.get_type_hints(run), typing.get_type_hints(options)
    for other in ("return", "stop"):
        taken.pop(other, None)
    if name == "prune":
        del taken["options"]
        library = typing.get_type_hints(runs.prune)
        taken |= {key: library[key] for key in given.keys() - taken.keys()}
    assert taken == given
    assert run.__kwdefaults__ is None


def test_choices_are_those_of_the_library():
    assert prune.CRITERIA == scoring.CRITERIA
    assert groups.RESIZES == decode.RESIZES
    splits = next(o for o in options.declared(evaluate.Options) if o.flag == "split")
    assert splits.option.metavar.split("|") == [*evaluation.SPLITS]


DOORS = ("main", "evaluate", "predict", "relabel", "quantize", "prune", "export")
DOORS += ("inspect", "inspect models", "inspect augment")


def test_help_imports_nothing_heavy():
    code = (
        "import runpy, sys\n"
        "for line in sys.argv[1:]:\n"
        "    name, *sys.argv[1:] = [*line.split(), '--help']\n"
        "    try:\n"
        "        runpy.run_module(f'vit_jax_tricks.{name}', run_name='__main__')\n"
        "    except SystemExit as end:\n"
        "        assert not end.code, line\n"
        "heavy = {'jax', 'numpy', 'flax', 'ml_collections', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    line = [sys.executable, "-W", "ignore", "-c", code, *DOORS]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("show this text") == len(DOORS)
