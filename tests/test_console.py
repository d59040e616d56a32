"""What a person sees."""

import pytest

from vit_jax_tricks import console, report
from vit_jax_tricks.errors import UserError, nearest
from vit_jax_tricks.inspect import hardware
from vit_jax_tricks.metrics import MetricsWriter, read


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (512, "512 B"), (1_234_567, "1.23 MB"), (2.5e9, "2.50 GB")],
)
def test_si(value, text):
    assert console.si(value, "B") == text


def test_duration():
    assert console.duration(65) == "1:05"
    assert console.duration(3725) == "1:02:05"


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
    path = report.write(tmp_path, {"model": "a_vit"})
    text = path.read_text()
    assert "| model | a_vit |" in text
    assert "| test/accuracy, best | 0.7500 at step 3 |" in text
    pictures = sorted(p.name for p in path.parent.glob("*.png"))
    assert pictures == ["accuracy.png", "loss.png"]
    assert all((path.parent / p).stat().st_size > 5_000 for p in pictures)
