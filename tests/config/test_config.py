"""Configs: overrides, argument strings, and keys that nobody reads."""

import pytest

from vit_jax_tricks import config
from vit_jax_tricks.errors import UserError


def load(*overrides, spec="configs/digits.py"):
    return config.load(spec, [tuple(o.split("=", 1)) for o in overrides])


def test_overrides_are_typed():
    c = load("batch_size=64", "schedule.lr=1", "augment.scale=(0.5, 1.5)", "name=7")
    assert c.batch_size == 64
    assert c.schedule.lr == 1.0
    assert isinstance(c.schedule.lr, float)
    assert c.augment.scale == (0.5, 1.5)
    assert c.name == "7"


def test_placeholders_take_their_type_and_none():
    assert load("optimizer.b1=0.8").optimizer.b1 == 0.8
    assert load("optimizer.b1=none").optimizer.b1 is None


def test_model_takes_any_key():
    assert load("model.depth=6", "model.qk_norm=true").model.qk_norm is True


def test_arguments_of_a_config():
    c = config.load("configs/deit_s.py:recipe=source,data=digit_scenes,epochs=5")
    assert (c.epochs, c.data.name) == (5, "digit_scenes/224")
    assert c.schedule.name == "cosine_prefix"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["bach_size=3"], 'Did you mean "batch_size"?'),
        (["optimizer.wight_decay=3"], 'Did you mean "weight_decay"?'),
        (["optimiser.lr=3"], 'Did you mean "optimizer"?'),
        (["optimizer=adamw"], "is a section"),
        (["batch_size=12.5"], "expected int"),
        (["batch_size=many"], "expected int"),
        (["batch_size=true"], "expected int"),
        (["schedule.lr=fast"], "expected float"),
        (["augment.flip=1"], "expected bool"),
        (["augment.scale=3"], "expected tuple"),
        (["optimizer.b1=big"], "expected float"),
    ],
)
def test_wrong_overrides(overrides, message):
    with pytest.raises(UserError, match="config") as caught:
        load(*overrides)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("configs/digit.py", 'Did you mean "configs/digits.py"?'),
        ("configs/deit_s.py:epoch=3", 'Did you mean "epochs"?'),
        ("configs/deit_s.py:epochs=x", "expected float"),
        ("configs/deit_s.py:recipe=mine", "official"),
    ],
)
def test_wrong_files_and_arguments(spec, message):
    with pytest.raises(UserError) as caught:
        config.load(spec)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def get_config(arg=''):\n  return (", "line 2"),
        ("x = 1", "defines no get_config"),
        (
            "from configs import common\ndef get_config(arg=''):\n"
            "    c = common.get_config()\n    c.epohcs = 3\n    return c",
            "epochs",
        ),
        (
            "from configs import common\ndef get_config(arg=''):\n"
            "    c = common.get_config()\n    c.epochs = 'ten'\n    return c",
            "epochs",
        ),
    ],
)
def test_broken_config_files_are_one_line(tmp_path, source, message):
    path = tmp_path / "mine.py"
    path.write_text(source)
    with pytest.raises(UserError) as caught:
        config.load(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(path))


@pytest.mark.parametrize(
    ("arg", "name"),
    [
        ('data="folder:/my, own",epochs=5', "folder:/my, own"),
        ("data='folder:/a,epochs=3',epochs=5", "folder:/a,epochs=3"),
        ("data=folder:/a=b:c,epochs=5", "folder:/a=b:c"),
        ("epochs=5,data=folder:/it's [here]", "folder:/it's [here]"),
        (f"epochs=5,{config.argument('data', 'folder:/a, b')}", "folder:/a, b"),
        ("epochs=5," + config.argument("data", 'folder:/"'), 'folder:/"'),
    ],
)
def test_arguments_with_odd_letters(arg, name):
    c = config.load(f"configs/deit_s.py:{arg}")
    assert (c.epochs, c.data.name) == (5.0, name)


def test_a_comma_without_quotes_says_so():
    with pytest.raises(UserError, match="must be in quotes"):
        config.load("configs/deit_s.py:data=folder:/my, own")


MINE = "from configs import digits\ndef get_config(arg=''):\n    {}"


@pytest.mark.parametrize("name", ["a:b.py", "a.py:b/c.py", "ü [x]/=,.py", "digits.py"])
def test_files_of_one_s_own(name, tmp_path, monkeypatch):
    """Their names may hold what separates arguments."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(MINE.format("c = digits.get_config(arg); c.name = 'x'; return c"))
    for spec in (name, str(file), f"./{name}"):
        assert config.load(spec).name == "x"
    assert config.load(f"{name}:epochs=3").epochs == 3


@pytest.mark.parametrize("name", ["configs/digits.py", "./configs/digits.py"])
def test_our_files_from_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config.load(f"{name}:epochs=3").epochs == 3


@pytest.mark.parametrize(
    "name",
    [
        "mien/digits.py",
        "digits.py",
        "mine/configs/digits.py",
        "/no/configs/digits.py",
        "../configs/digits.py",
        "configs/mine/digits.py",
        "Configs/digits.py",
    ],
)
def test_no_other_folder_stands_for_ours(name, tmp_path, monkeypatch):
    """A folder that is misspelt never runs our file of the same name."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="there is no file") as caught:
        config.load(f"{name}:epochs=3")
    assert 'Did you mean "configs/digits.py"?' in str(caught.value)


def test_unread_keys_stop_the_run():
    section = config.Section({"a": 1, "b": {"c": 2, "d": 3}})
    assert section.a == 1
    assert dict(section.b) == {"c": 2, "d": 3}
    section.assert_all_read()
    section = config.Section({"a": 1, "b": {"c": 2, "d": 3}})
    assert section.b.c == 2
    assert section.to_dict()["a"] == 1  # not a read
    with pytest.raises(UserError, match=r"reads config\.a, config\.b\.d;"):
        section.assert_all_read()
    with pytest.raises(UserError, match='Did you mean "d"'):
        _ = section.b.dd
