"""Oracle: what was written comes back equal; every problem of a file is named at once."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from counterview.config import dump_yaml, field_help, load_config, out_of_range, to_dict
from counterview.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    rate: float = field(default=1e-3, metadata={"help": "learning rate"})
    steps: int = 10

    def __post_init__(self):
        if self.rate <= 0:
            raise ConfigError("rate must be positive", found=self.rate)


@dataclass(frozen=True)
class Outer:
    name: str
    kind: Literal["a", "b"] = "a"
    size: tuple[int, int] = (4, 5)
    layers: list[int] = field(default_factory=list)
    extra: dict[str, float] = field(default_factory=dict)
    limit: int | None = None
    on: bool = False
    inner: Inner = field(default_factory=Inner)


def test_round_trip(tmp_path: Path):
    config = Outer("x", "b", (1, 2), [3], {"w": 0.5}, 7, True, Inner(2e-5, 3))
    path = tmp_path / "c.yaml"
    path.write_text(dump_yaml(config))
    assert load_config(Outer, path) == config
    assert load_config(Outer, to_dict(config)) == config
    assert field_help(Outer)["inner.rate"] == "learning rate"


def test_overrides_and_yaml_1_1_numbers():
    config = load_config(Outer, {"name": "x"}, ["inner.rate=1e-5", "size=[7, 8]", "limit=null", "on=true"])
    assert config == Outer("x", size=(7, 8), on=True, inner=Inner(1e-5))


def test_all_problems_at_once_with_the_nearest_name():
    bad = {"nam": "x", "kind": "c", "size": [1], "on": 1, "inner": {"steps": True, "rat": 1}}
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, bad)
    text = str(caught.value)
    for part in (
        "7 problems",
        "'nam' (did you mean 'name'?)",
        "kind is 'c'",
        "size is [1], expected 2 values",
        "on is 1, expected true or false",
        "inner.steps is True, expected an integer",
        "'inner.rat' (did you mean 'rate'?)",
        "name is missing",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: [", "not YAML"),
        ("- 1", "not a configuration"),
        ("name: 1", "expected text"),
        ("name: x\ninner: {rate: -1}", "rate must be positive"),
        ("name: !!python/object:os.system x", "not YAML"),
    ],
)
def test_broken_files(tmp_path: Path, text, part):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=part) as caught:
        load_config(Outer, path)
    assert str(path) in str(caught.value)


def test_missing_file_and_bad_override(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such file"):
        load_config(Outer, tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="key=value"):
        load_config(Outer, {"name": "x"}, ["inner"])
    with pytest.raises(ConfigError, match="not a group"):
        load_config(Outer, {"name": "x"}, ["name.first=1"])


def test_numbers_out_of_range_are_named_with_their_bounds():
    @dataclass(frozen=True)
    class Some:
        a: float = 0.0
        b: float = 1.0
        c: float = float("nan")
        d: float | None = None

    assert out_of_range(Some(), "a", "b", "d", at_least=0, at_most=1) == []
    assert out_of_range(Some(), "a", "b", "c", "d", above=0, below=1) == [
        "a is 0.0, expected above 0 and below 1",
        "b is 1.0, expected above 0 and below 1",
        "c is nan, expected above 0 and below 1",
    ]
    assert out_of_range(Some(b=2), "b", at_least=3) == ["b is 2, expected 3 or more"]
    assert out_of_range(Some(b=2), "b", at_most=1) == ["b is 2, expected up to 1"]
