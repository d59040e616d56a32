"""What a person sees."""

import os
import subprocess
import sys

import PIL.Image
import pytest

from vit_jax_tricks import console
from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.train import hardware, report
from vit_jax_tricks.train.metrics import MetricsWriter, read


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (512, "512 B"), (1_234_567, "1.23 MB"), (2.5e9, "2.50 GB")],
)
def test_si(value, text):
    assert console.si(value, "B") == text


def test_duration():
    assert console.duration(65) == "1:05"
    assert console.duration(3725) == "1:02:05"


def test_a_bar_without_a_terminal_is_lines(capsys, monkeypatch):
    """One after some seconds, and one at the end; the first unit is not timed."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.Bar("batch", images=10) as bar:
        for total in (4, 3):
            for done in range(total + 1):
                bar(done, total)
                now[0] += 3
    assert capsys.readouterr().out.splitlines() == [
        "batch 2/4  3 img/s  ETA 0:06",
        "batch 4/4  3 img/s  ETA 0:00",
        "batch 2/3  3 img/s  ETA 0:03",
        "batch 3/3  3 img/s  ETA 0:00",
    ]


def test_a_bar_on_a_terminal(capsys, monkeypatch):
    """Names that are not UTF-8 are escaped; passing work leaves nothing behind."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(console, "console", console._Console(markup=False))
    with console.Bar() as bar:
        bar(1, 2, "loss \udc80")
        bar(2, 2, "loss 0.5")
    out, err = capsys.readouterr()
    assert "2/2" in out
    assert "loss 0.5" in out
    assert err == ""


def test_a_bar_may_stop_the_work_and_may_be_silent(capsys):
    def check():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), console.Bar(check=check) as bar:
        bar(0, 1)
    bar = console.Bar(lines=False)
    for done in range(3):
        bar(done, 2, "decoding")
    assert capsys.readouterr() == ("", "")


def test_errors_are_one_line(capsys):
    console.fail("first\n  second")
    assert capsys.readouterr().err == "error: first second\n"
    assert console.explain(UserError("so")) == "so"
    assert "No space" in str(console.explain(OSError(28, "No space left", "x")))
    assert console.explain(ZeroDivisionError("a bug")) is None


def test_nearest():
    assert nearest("adamv", ["adamw", "lion"]) == ' Did you mean "adamw"?'
    assert nearest("zzz", ["adamw", "lion"]) == " Valid: adamw, lion."


def test_mfu_only_where_the_peak_is_known():
    class Device:
        device_kind = "NVIDIA H100 80GB HBM3"

    class Unknown:
        device_kind = "cpu"

    assert hardware.mfu(989e12, [Device(), Device()]) == pytest.approx(0.5)
    assert hardware.mfu(1e12, [Unknown()]) is None


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path):
    writer = MetricsWriter(tmp_path, tensorboard=True, offset=0, step=0)
    writer.write(1, {"train/loss": 2.0})
    offset = writer.offset
    writer.write(2, {"train/loss": float("nan")})
    writer.close()
    assert [m["train/loss"] for m in read(tmp_path)] == [2.0, None]
    writer = MetricsWriter(tmp_path, tensorboard=False, offset=offset, step=1)
    writer.write(2, {"train/loss": 1.0})
    writer.close()
    assert [m["train/loss"] for m in read(tmp_path)] == [2.0, 1.0]
    assert list(tmp_path.glob("events*"))


def test_report_has_curves_and_a_summary(tmp_path):
    writer = MetricsWriter(tmp_path, tensorboard=False, offset=0, step=0)
    for step in (1, 2, 3):
        writer.write(step, {"train/loss": 1 / step, "test/accuracy": step / 4})
    writer.close()
    path = report.write(tmp_path, {"model": "a_vit", "data": "folder:a|b\nc"})
    text = path.read_text()
    assert "| model | a_vit |" in text
    assert "| data | folder:a\\|b c |" in text
    assert "| test/accuracy, best | 0.7500 at step 3 |" in text
    pictures = sorted(p.name for p in path.parent.glob("*.png"))
    assert pictures == ["accuracy.png", "loss.png"]
    assert all((path.parent / p).stat().st_size > 5_000 for p in pictures)


def process(*args, **options):
    """A command in a shell that ends its line with what redirects it."""
    text = f"{sys.executable} -m vit_jax_tricks.{' '.join(args)}"
    return subprocess.run(
        ["bash", "-c", text], text=True, timeout=120, check=False, **options
    )


@pytest.mark.parametrize("command", ["main --help", "predict --help"])
def test_a_standard_output_that_takes_nothing(command):
    """One line and a status that is not 0; Python adds nothing at its end."""
    done = process(f"{command} >/dev/full", stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == "error: the system refused: No space left on device.\n"
    reader, writer = os.pipe()
    os.close(reader)
    done = process(command, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert done.returncode == 1
    assert done.stderr.startswith("error: standard output was closed")
    assert done.stderr.count("\n") == 1


def test_letters_that_standard_output_lacks(tmp_path):
    """Escaped, in narrow encodings and where a name is no text at all."""
    folder = os.fsencode(tmp_path / "ü") + b"\xff"
    os.mkdir(folder)
    PIL.Image.new("L", (8, 8)).save(tmp_path / "x.png")
    os.rename(tmp_path / "x.png", folder + b"/x.png")
    for encoding in ("ascii", "utf-8"):
        environment = os.environ | {"PYTHONIOENCODING": encoding}
        line = [sys.executable, "-c", NARROW, folder + b"/x.png"]
        done = subprocess.run(line, env=environment, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"\\udcff/x.png" in done.stdout


NARROW = """
import dataclasses, sys
from vit_jax_tricks import console
from vit_jax_tricks.commands import command, options
@dataclasses.dataclass(frozen=True)
class Options:
    names: tuple[str, ...] = options.words("NAME")
def show(options, stop):
    console.banner(options.names[0], {"×": options.names[0]})
sys.exit(command.run(Options, show, None, ""))
"""


def test_names_are_no_markup(capsys):
    for text in ("[red]one", "a[/b]", "runs/x[/]", ":cat:", "[2024] \\[x]"):
        console.banner(text, {text: text})
        console.say(text)
        assert capsys.readouterr().out.count(text) == 4


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (BrokenPipeError(32, "Broken pipe"), "standard output was closed"),
        (UnicodeEncodeError("ascii", "ü", 0, 1, "not there"), "a text cannot be"),
        (MemoryError(), "the memory is full"),
        (RecursionError("... while decoding a JSON array"), "is damaged"),
        (IsADirectoryError(21, "Is a directory", "a/b"), "Is a directory (a/b)"),
    ],
)
def test_what_the_system_refuses_is_one_line(error, part):
    line = console.explain(error)
    assert line is not None
    assert part in line
    assert "\n" not in line
