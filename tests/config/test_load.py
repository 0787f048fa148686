"""The configuration is refused with messages that a user can act on, and survives a round trip."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.config import Config, load_config
from pipeline.config.data import DATA_KINDS, FactoryData, FolderData
from pipeline.config.load import dump_config, find_config
from pipeline.config.mitigate import PClarcMethod
from pipeline.errors import ConfigError

MINIMAL = {"name": "trial", "data": {"kind": "digits"}}
CONFIGS = Path(__file__).parents[2] / "configs"


def write(folder: Path, values: dict | str) -> Path:
    file = folder / "trial.yaml"
    file.write_text(values if isinstance(values, str) else yaml.safe_dump(values, sort_keys=False))
    return file


def refusal(folder: Path, values: dict | str, overrides: tuple[str, ...] = ()) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(write(folder, values), overrides)
    return str(caught.value)


def test_defaults_survive_dump_and_load(tmp_path):
    config = load_config(write(tmp_path, MINIMAL))
    assert load_config(write(tmp_path, dump_config(config))) == config


@pytest.mark.parametrize(
    "data",
    [
        {"kind": "mnist5k", "attack": {"kind": "text", "classes": ["3", 5], "corner": "top_left"}},
        {"kind": "table", "root": "x", "artifacts": {"ruler": {"column": "ruler"}}, "group_columns": ["site"]},
        {"kind": "folder", "root": "x", "split": {"val": 0.2}},
        {"kind": "isic", "root": "x", "attack": {"kind": "patch", "classes": [0], "color": [0.1, 0.2, 0.3]}},
        {"kind": "my.module:factory", "params": {"rate": 0.001, "on": True, "names": ["a", "b"]}},
    ],
    ids=lambda data: data["kind"],
)
def test_every_kind_of_data_survives_dump_and_load(tmp_path, data):
    config = load_config(write(tmp_path, {"name": "trial", "data": data}))
    again = load_config(write(tmp_path, dump_config(config)))
    assert again == config
    assert type(again.data) is DATA_KINDS.get(data["kind"], type(config.data))


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_configurations_are_valid_and_survive_dump_and_load(tmp_path, file):
    config = load_config(file)
    assert load_config(write(tmp_path, dump_config(config))) == config


@pytest.mark.parametrize(
    ("change", "key", "nearest"),
    [
        ({"modle": {}}, "modle", "model"),
        ({"model": {"train": {"epoch": 3}}}, "model.train.epoch", "epochs"),
        (
            {"mitigate": {"methods": [{"kind": "p_clarc"}, {"kind": "rrr", "wieght": 3}]}},
            "mitigate.methods.1.wieght",
            "weight",
        ),
        ({"data": {"kind": "table", "root": "x", "table": "a.csv", "tabel": 1}}, "data.tabel", "table"),
        (
            {"data": {"kind": "table", "root": "x", "artifacts": {"ruler": {"colum": "a", "column": "a"}}}},
            "data.artifacts.ruler.colum",
            "column",
        ),
        (
            {"data": {"kind": "digits", "attack": {"kind": "glyph", "classes": [1], "sise": 5}}},
            "data.attack.sise",
            "size",
        ),
        ({"data": {"kind": "my.module:factory", "parms": {}}}, "data.parms", "params"),
        ({"reveal": {"detectors": [{"kind": "spray", "neighbours": 3}]}}, "reveal.detectors.0.neighbours", "neighbors"),
    ],
)
def test_unknown_key_names_file_path_and_nearest_key(tmp_path, change, key, nearest):
    message = refusal(tmp_path, MINIMAL | change)
    assert str(tmp_path / "trial.yaml") in message
    assert f"  {key}: unknown key '{key.rpartition('.')[2]}'. Did you mean '{nearest}'?" in message


@pytest.mark.parametrize(
    ("change", "section"),
    [
        ({"data": {"kind": "my.module:factory", "unknown": "x"}}, FactoryData),
        ({"data": {"kind": "folder", "root": "x", "unknown": "x"}}, FolderData),
        ({"mitigate": {"methods": [{"kind": "p_clarc", "unknown": 0.1}]}}, PClarcMethod),
    ],
)
def test_allowed_keys_are_those_of_the_given_kind(tmp_path, change, section):
    assert f"Allowed here: {', '.join(sorted(section.model_fields))}." in refusal(tmp_path, MINIMAL | change)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"data": {"kind": "digitz"}}, "data: unknown kind 'digitz'. Did you mean 'digits'?"),
        ({"data": {"root": "x"}}, "data: `kind:` is missing."),
        ({"data": "digits"}, "data: expected a section with `kind:` (got 'digits')."),
        ({"data": {"kind": "table", "table": "a.csv"}}, "data.root: this key is required."),
        ({"mitigate": {"methods": [{"kind": "rr"}]}}, "mitigate.methods.0: unknown kind 'rr'. Did you mean 'rrr'?"),
        (
            {"mitigate": {"methods": [{"kind": "rrr", "weight": -3}]}},
            "mitigate.methods.0.weight: Input should be greater",
        ),
        ({"mitigate": {"methods": [{"kind": "rrr"}, {"kind": "rrr"}]}}, "mitigate: two methods share the id 'rrr'"),
        ({"mitigate": {"methods": [{"kind": "rrr", "id": "original"}]}}, "mitigate: 'original' is reserved"),
        ({"mitigate": None}, "mitigate: expected a section (got None); leave the key out to have the defaults."),
        ({"report": {"gate": [{"metric": "accuracy"}]}}, "report.gate.0: give exactly one of at_least, "),
        (
            {"precompute": {"composite": "epsilon_plus_falt"}},
            "precompute.composite: 'epsilon_plus_falt' is not allowed. Did you mean 'epsilon_plus_flat'?",
        ),
        ({"name": "../up"}, "name: "),
    ],
)
def test_wrong_value_names_the_place_and_what_is_allowed(tmp_path, change, expected):
    assert f"  {expected}" in refusal(tmp_path, MINIMAL | change)


def test_every_problem_is_listed_at_once(tmp_path):
    message = refusal(tmp_path, {"data": {"kind": "digits", "limit": 0}, "sede": 1})
    assert "name: this key is required" in message
    assert "data.limit: " in message
    assert "sede: unknown key 'sede'. Did you mean 'seed'?" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [\n", "line 2, column 1: not valid YAML"),
        ("- a\n", "expected a mapping with the keys name,"),
        ("", "expected a mapping with the keys name,"),
        ("name: a\nseed: 1\nname: b\n", "line 3, column 1: not valid YAML: the key 'name' stands twice"),
    ],
)
def test_unreadable_file_names_the_line(tmp_path, text, expected):
    message = refusal(tmp_path, text)
    assert message.startswith(str(tmp_path / "trial.yaml"))
    assert expected in message


def test_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "trial.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not a UTF-8 text file"):
        load_config(tmp_path / "trial.yaml")


def test_overrides_of_every_shape(tmp_path):
    methods = [{"kind": "rrr"}, {"kind": "p_clarc"}]
    file = write(tmp_path, MINIMAL | {"mitigate": {"methods": methods}})
    config = load_config(
        file,
        [
            "name=other",
            "seed=7",
            "model.train.epochs=3",  # in a section that the file does not have
            "model.train.lr=1e-4",
            "model.params={width: 8, rate: 1e-2, deep: true}",
            "mitigate.methods.0.weight=2.5",  # in an item of a list
            "mitigate.methods.1={kind: isnet, id: net}",  # a whole item
            "data.attack={kind: glyph, classes: ['3', 4]}",
            "precompute.layers=[features.0, 'features.3*']",
            "model.checkpoint=a=b.pt",  # only the first = divides
            "report.auditor=null",
            "report.title=on",
        ],
    )
    assert (config.name, config.seed) == ("other", 7)
    assert (config.model.train.epochs, config.model.train.lr) == (3, 1e-4)
    assert config.model.params == {"width": 8, "rate": 0.01, "deep": True}
    assert [(method.kind, method.method_id) for method in config.mitigate.methods] == [("rrr", "rrr"), ("isnet", "net")]
    assert config.mitigate.methods[0].weight == 2.5
    assert config.data.attack.classes == ["3", 4]
    assert config.precompute.layers == ["features.0", "features.3*"]
    assert config.model.checkpoint == "a=b.pt"
    assert config.report.auditor is None
    assert config.report.title == "on"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.train.epochs", "expected key.sub=value"),
        ("=3", "expected key.sub=value"),
        ("model..arch=3", "expected key.sub=value"),
        ("seed=[1", "the value is not valid YAML"),
        ("name.sub=1", "'name' is a single value, not a section"),
        ("name.sub.deep=1", "'sub' lies below a single value"),
        ("report.gate.2.min_n=5", "there is no item '2'; the items are 0 to 0"),
        ("report.gate.first.min_n=5", "there is no item 'first'"),
        ("mitigate.methods.0.weight=5", "the file has no list 'methods'"),
        ("model.train.epcohs=2", "model.train.epcohs: unknown key 'epcohs'. Did you mean 'epochs'?"),
    ],
)
def test_wrong_override_is_named(tmp_path, override, expected):
    gate = [{"metric": "accuracy", "at_least": 0.9}]
    message = refusal(tmp_path, MINIMAL | {"report": {"gate": gate}}, (override,))
    assert expected in message
    if "unknown key" not in expected:
        assert message.startswith(f"--set {override}: ")


def test_config_is_found_below_configs_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    write(tmp_path / "configs", MINIMAL)
    assert find_config("trial.yaml") == Path("configs/trial.yaml")
    write(tmp_path, MINIMAL)
    assert find_config("trial.yaml") == Path("trial.yaml")


def test_missing_config_names_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    write(tmp_path / "configs", MINIMAL)
    with pytest.raises(ConfigError, match=r"--config trail.yaml: no such file.* Did you mean 'trial.yaml'\?"):
        load_config("trail.yaml")


def test_sections_are_immutable(tmp_path):
    config = load_config(write(tmp_path, MINIMAL))
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3
    assert isinstance(config, Config)


def test_earlier_runs_are_a_list_of_directories(tmp_path):
    assert load_config(write(tmp_path, MINIMAL)).reveal.earlier == []
    named = write(tmp_path, MINIMAL | {"reveal": {"earlier": ["artifacts/before"]}})
    assert load_config(named).reveal.earlier == ["artifacts/before"]
    assert "reveal.earlier" in refusal(tmp_path, MINIMAL | {"reveal": {"earlier": "artifacts/before"}})
    assert "reveal.earlier.0" in refusal(tmp_path, MINIMAL | {"reveal": {"earlier": [""]}})


def test_a_wrong_key_of_a_grid_is_named_once_for_each_method_that_it_stands_for(tmp_path):
    file = tmp_path / "trial.yaml"
    text = "name: trial\ndata: {kind: digits}\nmitigate: {methods: [{kind: rrr, grid: {wieght: [1, 2]}}]}\n"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(file)
    lines = str(error.value).splitlines()[1:]
    assert [line.split(":")[0].strip() for line in lines] == ["mitigate.methods.0.wieght", "mitigate.methods.1.wieght"]
    assert all("Did you mean 'weight'?" in line for line in lines)
