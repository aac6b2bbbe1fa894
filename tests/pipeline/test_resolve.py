"""A folder's own word decides which method it is."""

import pytest

from counterview.errors import CheckpointError, ConfigError, InputError
from counterview.media.files import write_json
from counterview.pipeline.predict import FramePredictor
from counterview.pipeline.resolve import load_take_predictor, method_of


def test_the_method_of_a_folder(tmp_path):
    write_json(tmp_path / "a" / "config.json", {"method": "omama"})
    write_json(tmp_path / "b" / "config.json", {"format": "counterview-lmeec", "version": 1})
    write_json(tmp_path / "c" / "config.json", {"model_type": "bert"})
    assert method_of(tmp_path / "a") == "omama"
    assert method_of(tmp_path / "b") == "lmeec"
    with pytest.raises(CheckpointError, match="no checkpoint of a method"):
        method_of(tmp_path / "c")
    with pytest.raises(InputError, match="no such file"):
        method_of(tmp_path)


def test_names_and_options_that_do_not_fit(tmp_path):
    assert isinstance(load_take_predictor("knn"), FramePredictor)
    with pytest.raises(ConfigError, match="no model"):
        load_take_predictor("kn")
    write_json(tmp_path / "config.json", {"format": "counterview-lmeec", "version": 1})
    with pytest.raises(ConfigError, match="takes no --features"):
        load_take_predictor(tmp_path, features="classical")
