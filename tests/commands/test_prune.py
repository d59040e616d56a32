"""The command `prune`: a smaller workdir that every other command takes."""

import json
import shlex

import numpy as np
import PIL.Image
import pytest
import runs

from vit_jax_tricks import config, evaluate, load_pretrained, predict, prune
from vit_jax_tricks.main import main as train
from vit_jax_tricks.runs import model_spec
from vit_jax_tricks.runs.finetune_config import finetune_config


pytestmark = pytest.mark.usefixtures("home")
FEW = ("--images=64", "--batch_size=32", "--min_hidden=8")


@pytest.fixture(scope="module")
def run(home, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "run"
    runs.train("--config.model.num_heads=4", workdir=workdir)
    return workdir


@pytest.fixture(scope="module")
def pruned(run):
    """Pruned with the defaults, into the default folder."""
    assert prune.main([f"--workdir={run}", *FEW]) == 0
    return run.with_name("run_pruned")


def test_what_it_leaves(pruned):
    spec = model_spec.read(pruned)
    model = spec.create()
    assert model.num_heads == 4
    assert 1 <= model.block_heads[0] <= 4
    assert model.block_hidden[0] % 8 == 0
    assert model.block_heads != (4,) or model.block_hidden != (64,)
    assert not model.scan
    variables, report = load_pretrained(model, pruned, verbose=False)
    kernel = variables["params"]["blocks_0"]["attn"]["proj"]["kernel"]
    assert kernel.shape == (model.block_heads[0], 4, 16)
    assert report.reset == report.unused == report.resized == ()
    text = (pruned / "report" / "pruning.md").read_text()
    assert "| block | heads | hidden | MMACs | parameters |" in text
    assert "| blocks_0 |" in text
    picture = PIL.Image.open(pruned / "report" / "pruning.png")
    assert np.asarray(picture).std() > 10


def test_every_command_takes_it(pruned, run, capsys, tmp_path):
    status, out, err = runs.call(capsys, evaluate.main, f"--workdir={pruned}", "--json")
    assert status == 0, err
    assert json.loads(out)["count"] == 359
    PIL.Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    status, out, err = runs.call(
        capsys, predict.main, f"--workdir={pruned}", tmp_path / "a.png"
    )
    assert (status, err) == (0, "")


@pytest.mark.slow
def test_it_can_be_trained_on(pruned, run, capsys, tmp_path):
    """finetune.py starts from the pruned weights; the folder itself is no run."""
    spec = f"--config={pruned / 'finetune.py'}:epochs=0.05"
    workdir = tmp_path / "on"
    args = ("--config.schedule.warmup_epochs=0", "--config.log.tensorboard=False")
    status, out, err = runs.call(capsys, train, spec, f"--workdir={workdir}", *args)
    assert (status, err) == (0, "")
    assert f"{pruned}, step 0:" in out
    tuned = model_spec.read(workdir).create()
    assert tuned == model_spec.read(pruned).create()
    written = json.loads((workdir / "config.json").read_text())
    before = json.loads((pruned / "config.json").read_text())
    same = ("augment", "batch_size", "data", "ema", "mesh", "optimizer", "seed")
    assert {k: written[k] for k in same} == {k: before[k] for k in same}
    assert written["teacher"]["sources"] == [str(run)]
    weights = {name: term["weight"] for name, term in written["loss"].items()}
    assert weights == {"classification": 0.5, "distillation": 0.5}
    assert written["schedule"]["lr"] == pytest.approx(0.3 * before["schedule"]["lr"])
    status, _, err = runs.call(capsys, train, spec, f"--workdir={pruned}", *args)
    assert status == 1
    assert "holds another run" in err


def test_the_weights_are_those_of_the_run(run, tmp_path, capsys):
    """With everything kept the numbers are the run's own."""
    out = tmp_path / "same"
    args = (f"--workdir={run}", f"--out={out}", "--flops=1", *FEW)
    assert runs.call(capsys, prune.main, *args)[0] == 0
    results = []
    for workdir in (run, out):
        _, text, _ = runs.call(capsys, evaluate.main, f"--workdir={workdir}", "--json")
        found = json.loads(text)
        results.append((found.get("accuracy_ema", found["accuracy"]), found["count"]))
    assert results[0] == results[1]


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["taylor", "output_norm", "mean_attention"])
def test_other_criteria(run, tmp_path, capsys, criterion):
    args = (f"--workdir={run}", f"--out={tmp_path / 'out'}", *FEW)
    status, _, err = runs.call(capsys, prune.main, *args, f"--criterion={criterion}")
    assert (status, err) == (0, "")


@pytest.mark.slow
def test_a_narrower_residual_stream(run, tmp_path, capsys):
    out = tmp_path / "out"
    args = (f"--workdir={run}", f"--out={out}", *FEW, "--width=0.5", "--flops=0.9")
    status, _, err = runs.call(capsys, prune.main, *args)
    assert (status, err) == (0, "")
    model = model_spec.read(out).create()
    assert (model.embed_dim, model.num_heads, model.head_dim) == (8, 4, 4)
    status, _, err = runs.call(capsys, evaluate.main, f"--workdir={out}")
    assert (status, err) == (0, "")
    assert config.load(str(out / "finetune.py")).model.head_dim == 4


@pytest.mark.slow
def test_other_weights(run, tmp_path, capsys):
    """--model and --weights: any file, on data that --data names."""
    from vit_jax_tricks import export_weights

    spec = model_spec.read(run)
    variables, _ = load_pretrained(spec.create(), run, verbose=False)
    file = tmp_path / "weights.safetensors"
    export_weights(variables, spec.name, file)
    keys = ("embed_dim", "depth", "num_heads", "patch_size", "global_pool", "img_size")
    fields = [f"--model.{key}={spec.fields[key]}" for key in keys]
    args = [f"--model={spec.name}", f"--weights={file}", *fields, *FEW]
    args += ["--model.in_chans=1", "--data=digits", "--heads", "--flops=0.97"]
    status, _, err = runs.call(capsys, prune.main, *args)
    assert (status, "--out=DIR" in err) == (1, True)
    out = tmp_path / "out"
    status, _, err = runs.call(capsys, prune.main, *args, f"--out={out}")
    assert err == ""
    assert status == 0
    assert model_spec.read(out).create().block_hidden is None
    assert config.load(str(out / "finetune.py")).model.name == spec.name
    status, _, err = runs.call(capsys, evaluate.main, f"--workdir={out}")
    assert (status, err) == (0, "")


BAD = {
    "share": (["--flops=60%"], "--flops=60%: expected a share above 0"),
    "over one": (["--flops=2"], "--flops=2: expected a share above 0, at most 1"),
    "width": (["--width=none"], "--width=none: expected a share"),
    "criterion": (["--criterion=taylr"], 'Did you mean "taylor"'),
    "units": (["--criterion=entropy", "--normalize=none"], "in different units"),
    "out of reach": (["--flops=0.1"], "the budget is out of reach"),
    "count": (["--images=0"], "--images=0: expected a whole number"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_one_line(run, tmp_path, capsys, case):
    args, message = BAD[case]
    out = tmp_path / "out"
    every = (f"--workdir={run}", f"--out={out}", *FEW, *args)
    status, _, err = runs.call(capsys, prune.main, *every)
    assert (status, err.count("\n")) == (1, 1)
    assert message in err
    assert not out.exists()


def test_a_folder_that_holds_something_stays(run, tmp_path, capsys):
    before = runs.snapshot(run)
    args = (f"--workdir={run}", f"--out={run}")
    status, _, err = runs.call(capsys, prune.main, *args)
    assert status == 1
    assert "holds something already" in err
    assert runs.snapshot(run) == before


def test_the_config_says_what_differs():
    """Values as the run had them; terms that the run had not are taken out."""
    defaults = config.defaults()
    before = json.loads(json.dumps(defaults)) | {"name": "mine", "steps": 7}
    before["model"] = {"name": "deit_tiny_patch16_224", "block_heads": (1, 2)}
    before["augment"] |= {"crop_scale": [0.5, 1.0]}
    before["loss"] = {"token_labels": {"weight": 2.0, "name": "softmax"}}
    before["ema"] |= {"decay": 0.9}
    text = finetune_config(
        before,
        defaults,
        "runs/mine_pruned",
        epochs=20.0,
        share=0.6,
        teacher="runs/mine",
    )
    scope: dict = {}
    exec(compile(text, "finetune.py", "exec"), scope)
    made = scope["get_config"]("distil=0").to_dict()
    assert made["augment"]["crop_scale"] == (0.5, 1.0)
    assert made["loss"] == before["loss"]
    assert made["ema"] == before["ema"]
    assert made["model"] == before["model"]
    assert (made["name"], made["epochs"], made["steps"]) == (
        "mine_finetuned",
        6.0,
        None,
    )
    assert made["init"] == "runs/mine_pruned"
    assert made["schedule"]["lr"] == pytest.approx(3e-4)
    assert made["data"] == defaults["data"]
    distilled = scope["get_config"]("lr=0.5").to_dict()
    assert distilled["teacher"]["sources"] == ("runs/mine",)
    assert distilled["loss"] == before["loss"] | {
        "distillation": {"name": "soft", "weight": 0.5}
    }
    assert distilled["schedule"]["lr"] == 0.5


@pytest.mark.parametrize("out", ["/a b/c", "/x\\x[1]", '/q"""q', "/it's", "/$HOME"])
def test_the_command_in_its_docstring_can_be_typed(out):
    """A backslash or quotes in the path once made a file that Python cannot read."""
    defaults = json.loads(json.dumps(config.defaults()))
    before = defaults | {"name": "mine", "model": {"name": "vit"}}
    text = finetune_config(before, defaults, out, epochs=9.0, share=0.6)
    scope: dict = {}
    exec(compile(text, "finetune.py", "exec"), scope)
    assert scope["get_config"]().init == out
    (line,) = [x for x in scope["__doc__"].splitlines() if x.startswith("Command: ")]
    *_, given, workdir = shlex.split(line)
    assert (given, workdir) == (
        f"--config={out}/finetune.py",
        f"--workdir={out}/finetune",
    )
