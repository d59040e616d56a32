"""Whatever ends a run, and whenever: it is saved, in one line, and goes on alike."""

import contextlib
import io
import os
import signal

import kill_at
import kill_matrix
import pytest

from vit_jax_tricks import config, console
from vit_jax_tricks.main import main
from vit_jax_tricks.train import loop


pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def run(tmp_path):
    """Options and workdir of a run of kill_matrix.py, in this process."""
    kill_matrix.pictures(tmp_path / "data")
    options = kill_matrix.OPTIONS | {"data.name": f"folder:{tmp_path / 'data'}"}
    return {k: str(v) for k, v in options.items()}, tmp_path / "run"


def command(options: dict[str, str], workdir, out) -> tuple[int, str]:
    err, flags = io.StringIO(), [f"--config.{k}={v}" for k, v in options.items()]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([f"--workdir={workdir}", *flags])
    return status, err.getvalue()


def happen(patch: pytest.MonkeyPatch, event: str, moment: str, workdir) -> None:
    notes = workdir.with_name("notes")
    kill_at.Happening(event, moment, notes, workdir).install(patch.setattr)


def saved(workdir) -> int:
    return max(int(path.name) for path in (workdir / "checkpoints").iterdir())


@pytest.mark.usefixtures("sharing")
def test_an_unreadable_picture_in_mid_epoch(run, tmp_path):
    options, workdir = run
    with pytest.MonkeyPatch.context() as patch:
        happen(patch, "unreadable picture", "step", workdir)
        status, err = command(options, workdir, io.StringIO())
    assert status == 1
    assert err.startswith(f"error: {tmp_path}/data/train/")
    assert err.endswith(
        "Stopped and saved at step 6; the same command goes on from there.\n"
    )
    assert err.count("\n") == 1
    assert "Grain" not in err
    assert saved(workdir) == 6


@pytest.mark.usefixtures("sharing")
def test_a_closed_standard_output(run):
    options, workdir = run
    with pytest.MonkeyPatch.context() as patch:
        happen(patch, "closed stdout", "step", workdir)
        with open(os.devnull, "w") as out:
            status, err = command(options, workdir, out)
    assert status == 1
    assert err.startswith("error: standard output was closed before the end")
    assert err.count("\n") == 1
    assert saved(workdir) == 10  # the next step that says something
    with contextlib.redirect_stdout(io.StringIO()) as another:
        console.say("heard")
    assert another.getvalue() == "heard\n"


@pytest.mark.usefixtures("sharing")
def test_an_exception_into_the_function(run):
    """As from a notebook or a debugger: no signal, no handler."""
    options, workdir = run

    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(kill_at.EVENTS, "interrupt", interrupt)
        happen(patch, "interrupt", "step", workdir)
        loaded = config.load("configs/digits.py", list(options.items()))
        with pytest.raises(KeyboardInterrupt) as caught:
            loop.run(loaded, workdir)
    assert "Stopped and saved at step 6" in caught.value.__notes__[0]
    assert saved(workdir) == 6
    assert not (workdir / ".lock").exists()


@pytest.mark.usefixtures("sharing")
def test_a_second_start_is_refused_and_a_signal_lets_go(run):
    options, workdir = run
    second = []

    def start_again(_):
        second.append(command(options, workdir, io.StringIO()))
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(kill_at.EVENTS, "second start", start_again)
        happen(patch, "second start", "step", workdir)
        assert command(options, workdir, io.StringIO()) == (143, "")
    [(status, err)] = second
    assert status == 1
    assert f"in use by process {os.getpid()} on" in err
    assert err.count("\n") == 1
    assert saved(workdir) == 7
    assert not (workdir / ".lock").exists()


# The rest of the table is the benchmark's.
CELLS = (
    ("SIGKILL", "save"),
    ("SIGHUP", "step"),
    ("Ctrl-C", "evaluation"),
    ("Ctrl-C twice", "save"),
    ("SIGTERM in a stalled read", "step"),
    ("unreadable picture", "step"),
    ("killed worker", "step"),
    ("closed stdout", "report"),
    ("full disk", "step"),
    ("full disk", "evaluation"),
)


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    return kill_matrix.Matrix(tmp_path_factory.mktemp("matrix"))


@pytest.mark.slow
@pytest.mark.parametrize(("event", "moment"), CELLS)
def test_it_goes_on_alike(event, moment, matrix):
    cell = matrix.cell(event, moment)
    assert cell.wrong == ()
    if event == "SIGTERM in a stalled read":
        assert cell.seconds < 5  # a busy machine's 3
