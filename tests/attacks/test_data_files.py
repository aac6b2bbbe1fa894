"""Hostile recipes, arrays, JSON files and data sets: what is said of each kind, and that one does not end a run."""

import io
import json
import os
import struct
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
from PIL import Image

from counterview.cli.main import main
from counterview.config import load_config, read_yaml
from counterview.data.open import open_dataset
from counterview.errors import (
    AnnotationError,
    CheckpointError,
    ConfigError,
    CounterviewError,
    InputError,
    ProposalError,
)
from counterview.evaluation.oracle import ProposalFiles
from counterview.media import files
from counterview.media.files import read_json, write_json
from counterview.media.jsonstream import index_object, iter_object, read_span
from counterview.nn.weights import read_released
from counterview.proposals import load_proposer
from counterview.training.recipe import TrainingConfig, load_recipe
from tests.attacks import mutations
from tests.omama.tiny_takes import write_takes

SIZE = (24, 32)
IMAGE = np.zeros((*SIZE, 3), np.uint8)

# ---------------------------------------------------------------------------------------------------------- YAML

TEXTS = {
    "long integer": ("training: {epochs: " + "9" * 5000 + "}", "an integer is too long"),
    "long hexadecimal integer": ("training: {epochs: 0x" + "f" * 5000 + "}", "an integer is too long"),
    "long integer as a key": ("? 0x" + "f" * 5000 + "\n: 1\nmethod: omama", "an integer is too long"),
    "long integer as a method": ("method: 0b1" + "0" * 50_000, "an integer is too long"),
    "integer as a method": ("method: 12", "method is 12"),
    "long sexagesimal": ("training: {epochs: " + "59:" * 2000 + "59}", "an integer is too long"),
    "long sexagesimal fraction": ("method: omama\ntraining: {lr: " + "59:" * 2000 + "59.5}", "is not YAML|lr is inf"),
    "bool": ("training: {resume: !!bool maybe}", "is not YAML; found KeyError"),
    "float": ("training: {lr: !!float many}", "is not YAML"),
    "timestamp": ("training: {lr: !!timestamp soon}", "is not YAML"),
    "date": ("training: {lr: 2001-13-45}", "is not YAML"),
    "binary": ("training: {lr: !!binary 'é'}", "is not YAML"),
    "python": ("training: !!python/object/apply:os.system [ls]", "is not YAML"),
    "itself": ("training: &a [*a]", "contains itself"),
    "unknown alias": ("training: *a", "is not YAML"),
    "deep": ("[" * 20_000, "is not YAML"),
    "control character": ("a: \x01", "is not YAML"),
    "two documents": ("a: 1\n---\nb: 2", "is not YAML"),
    "list": ("- 1\n- 2", "is not a configuration"),
    "keys of any type": ("? 1.5\n: 1\n? null\n: 2\n? 2001-01-01\n: 3\nmethod: omama", "unknown key"),
    "many unknown keys": ("method: omama\n" + "".join(f"key{i}: 1\n" for i in range(3000)), "and .* more"),
}


def test_numbers_that_no_float_holds():
    for value in (10**400, "1e9999x", 65535**900):
        with pytest.raises(ConfigError, match=r"lr is .*, expected a number") as caught:
            load_config(TrainingConfig, {"lr": value})
        assert len(str(caught.value)) < 300


def bomb(levels: int, form: str) -> str:
    return f"a0: &a0 {form.format('x')}\n" + "".join(
        f"a{i}: &a{i} {form.format(', '.join([f'*a{i - 1}'] * 9))}\n" for i in range(1, levels)
    )


@pytest.mark.parametrize("name", TEXTS)
def test_any_text_as_a_recipe_is_one_line(name, tmp_path):
    text, words = TEXTS[name]
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        load_recipe(path)
    line = str(caught.value)
    assert line.startswith(str(path))
    assert "\n" not in line
    assert len(line) < 4100


@pytest.mark.parametrize("levels", [5, 25, 200])
@pytest.mark.parametrize("place", ["training: {{epochs: *a{0}}}", "? x\n: *a{0}", "method: *a{0}"])
def test_aliases_that_multiply_are_counted_first(tmp_path, levels, place):
    path = tmp_path / "r.yaml"
    path.write_text(bomb(levels, "[{}]") + place.format(levels - 1))
    tracemalloc.start()
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(str(caught.value)) < 4100
    assert peak < 60e6
    assert levels < 20 or "too many values" in str(caught.value)


def test_merged_mappings_that_multiply_are_counted_too(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 9))
    )
    with pytest.raises(ConfigError, match="too many values"):
        read_yaml(path)


def test_aliases_that_share_a_value_are_read(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("base: &b {x: 1, y: [1, 2]}\nother: {<<: *b, z: 3}\nlist: [*b, *b]\n")
    assert read_yaml(path) == {
        "base": {"x": 1, "y": [1, 2]}, "other": {"x": 1, "y": [1, 2], "z": 3}, "list": [{"x": 1, "y": [1, 2]}] * 2,
    }  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="there are no named pipes of this kind")
def test_large_files_pipes_and_overrides(tmp_path):
    (tmp_path / "large.yaml").write_text("# " + "x" * 300_000)
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff\xfe")
    for name, words in (
        ("large", "is too large"),
        ("pipe", "a named pipe"),
        ("latin", "UTF-8"),
        ("none", "no such file"),
    ):
        with pytest.raises(ConfigError, match=f"{name}.yaml: .*{words}"):
            load_recipe(tmp_path / f"{name}.yaml")
    for text in ("lr=!!bool maybe", "lr=&a [*a]", "lr=" + "9" * 5000, "seed=0x" + "f" * 4000):
        with pytest.raises(ConfigError) as caught:
            load_config(TrainingConfig, {}, [text])
        assert len(str(caught.value)) < 400


# ---------------------------------------------------------------------------------------------------------- arrays


def archive(data: bytes, name: str = "arr_0.npy", packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", packing) as file:
        file.writestr(name, data)
    return out.getvalue()


def array(value: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, value)
    return out.getvalue()


def header(text: str, values: bytes = b"", version: bytes = b"\1\0") -> bytes:
    body = text.encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H" if version == b"\1\0" else "<I", len(body)) + body + values


def field(data: bytes, signature: bytes, offset: int, value: int) -> bytes:
    out = bytearray(data)
    struct.pack_into("<H", out, out.index(signature) + offset, value)
    return bytes(out)


GOOD = archive(array(np.ones((1, *SIZE), bool)))
ARCHIVES = {
    "encrypted": field(GOOD, b"PK\1\2", 8, 1),
    "version": field(GOOD, b"PK\1\2", 6, 127),
    "packing": field(GOOD, b"PK\1\2", 10, 97),
    "lzma": archive(array(np.ones((1, *SIZE), bool)), packing=zipfile.ZIP_LZMA),
    "undecodable name": field(GOOD, b"PK\1\2", 8, 0x800).replace(b"arr_0.npy", b"\xff\xfe_0.npy"),
    "deflate": GOOD[:60] + b"\xff" * 20 + GOOD[80:],
    "float shape": archive(
        header(f"{{'descr': '|b1', 'fortran_order': False, 'shape': (1.0, {SIZE[0]}.0, {SIZE[1]}.0)}}")
    ),
    "true shape": archive(header(f"{{'descr': '|b1', 'fortran_order': False, 'shape': (True, {SIZE[0]}, {SIZE[1]})}}")),
    "text shape": archive(header("{'descr': '|b1', 'fortran_order': False, 'shape': '12'}")),
    "code": archive(header("{'descr': __import__('os'), 'fortran_order': False, 'shape': (1,)}")),
    "token": archive(header("{'descr': (((")),
    "unknown dtype": archive(header("{'descr': 'q9z', 'fortran_order': False, 'shape': (1, 24, 32)}")),
    "third version": archive(header("{'descr': '|b1', 'fortran_order': False, 'shape': (1, 24, 32)}", version=b"\3\0")),
    "two gigabytes of header": archive(b"\x93NUMPY\2\0\xff\xff\xff\x7f" + b" " * 30_000_000),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_made_elsewhere_are_one_line(name, tmp_path, capfd):
    (tmp_path / "0_masks.npz").write_bytes(ARCHIVES[name])
    (tmp_path / "t" / "c").mkdir(parents=True)
    (tmp_path / "t" / "c" / "0_masks.npz").write_bytes(ARCHIVES[name])
    tracemalloc.start()
    for read in (
        lambda: load_proposer(f"folder:{tmp_path}")(IMAGE, "0"),
        lambda: ProposalFiles(tmp_path).get("t", "c", 0),
    ):
        with pytest.raises(ProposalError) as caught:
            read()
        assert "0_masks.npz" in str(caught.value)
        assert "\n" not in str(caught.value)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 70e6
    assert capfd.readouterr().err == ""


def test_archives_of_many_members_and_of_many_masks(tmp_path):
    (tmp_path / "t" / "c").mkdir(parents=True)
    many = bytearray(GOOD)
    struct.pack_into("<I", many, many.rindex(b"PK\5\6") + 12, 2**30)
    (tmp_path / "t" / "c" / "0_masks.npz").write_bytes(many)
    with pytest.raises(ProposalError, match="too many members"):
        ProposalFiles(tmp_path).get("t", "c", 0)
    text = "{'descr': '|b1', 'fortran_order': False, 'shape': (2000000000, 1, 1)}"
    (tmp_path / "t" / "c" / "0_masks.npz").write_bytes(archive(header(text)))
    with pytest.raises(ProposalError, match="is too large; found 2000000000 masks"):
        ProposalFiles(tmp_path).get("t", "c", 0)


@pytest.mark.parametrize("case", range(60))
def test_boxes_with_any_header_are_read_or_refused(case, tmp_path):
    import random

    (tmp_path / "0_masks.npz").write_bytes(GOOD)
    data = mutations.npy_header(array(np.array([[1.0, 2.0, 3.0, 4.0]])), random.Random(case))
    (tmp_path / "0_boxes.npy").write_bytes(data)
    try:
        found = load_proposer(f"folder:{tmp_path}")(IMAGE, "0")
    except ProposalError as error:
        line = str(error)
        found = None
    assert found is not None or "0_boxes.npy" in line
    assert found is None or found.boxes_xywh.shape == (1, 4)


def test_polygons_that_would_fill_the_memory_are_refused(tmp_path):
    far = [0, 0, SIZE[1], SIZE[0]] * 200_000
    (tmp_path / "a.json").write_text(json.dumps([{"segmentation": [far]}]))
    with pytest.raises(ProposalError, match="polygons are too long"):
        load_proposer(f"folder:{tmp_path}")(IMAGE, "a")
    (tmp_path / "b.json").write_text(f'[{{"segmentation": [[1, 2, 9, 4, {10**400}, 9]]}}]')
    with pytest.raises(ProposalError, match=r"b\.json: annotation 0: the segmentation cannot be read"):
        load_proposer(f"folder:{tmp_path}")(IMAGE, "b")


# ---------------------------------------------------------------------------------------------------------- JSON


def test_json_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_JSON_MEMORY", 1 << 22)
    path = tmp_path / "a.json"
    path.write_text("[" + "[]," * 200_000 + "[]]")
    with pytest.raises(InputError, match=r"a\.json: its values would take too much memory; found 200002 lists"):
        read_json(path)
    path.write_text('{"annotations": {"t": [' + "[]," * 200_000 + "[]]}}")
    with pytest.raises(AnnotationError, match="too much memory"):
        dict(iter_object(path, error=AnnotationError))
    path.write_text(json.dumps(["x" * 70_000] * 3))
    assert len(read_json(path)) == 3
    with pytest.raises(InputError, match=r"is too large; found .* bytes; expected at most 10"):
        read_json(path, max_bytes=10)


def test_a_take_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("counterview.media.jsonstream.MAX_VALUE_BYTES", 1 << 20)
    path = tmp_path / "a.json"
    path.write_text('{"annotations": {"t": "' + "x" * (4 << 20) + '"}}')
    with pytest.raises(InputError, match="value that is too large"):
        index_object(path)
    path.write_text('{"annotations": {"t": [' + "1," * (2 << 20) + "1]}}")
    spans = index_object(path)
    with pytest.raises(InputError, match="'t' is too large"):
        read_span(path, spans["t"], "t")


@pytest.mark.skipif(os.name == "nt", reason="there are no named pipes of this kind")
def test_pipes_and_long_integers_as_json(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "long.json").write_text("[" + "9" * 5000 + "]")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    for path in (tmp_path / "pipe.json", "/dev/zero"):
        with pytest.raises(InputError, match="not a regular file"):
            read_json(path)
        with pytest.raises(InputError, match="not a regular file"):
            index_object(path)
    for name in ("long", "deep"):
        with pytest.raises(InputError, match=f"{name}.json: is not JSON"):
            read_json(tmp_path / f"{name}.json")


# ---------------------------------------------------------------------------------------------------------- runs


@pytest.fixture
def takes(tmp_path):
    return write_takes(tmp_path / "data", frames=2, splits={"test": 3})


def predict(data, out, *more):
    arguments = ["predict", "knn", str(data), "--split", "test", "--out", str(out), "--proposals", "graph", *more]
    return main(arguments)


def test_one_damaged_image_costs_its_own_predictions_only(takes, tmp_path, capsys):
    for camera, damage in (("cam01", b"Exif\0\0MM\0*\xff\xff\xff\xff"), ("aria01", None)):
        path = takes / "take0" / camera / ("0.jpg" if damage else "30.jpg")
        data = path.read_bytes()
        if damage:
            path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(damage) + 2) + damage + data[2:])
        else:
            path.write_bytes(data[: len(data) // 2])
    assert predict(takes, tmp_path / "p.json") == 0
    out, err = capsys.readouterr()
    assert "3 takes" in out
    assert "the image of aria01 is not available" in err
    assert "the image of cam01 is not available" not in err, "damaged EXIF leaves the image"


def test_damaged_takes_are_left_out_and_the_others_predicted(takes, tmp_path, capsys, monkeypatch):
    (takes / "take0" / "annotation.json").write_text('{"masks": [1, 2')
    broken = json.loads((takes / "take1" / "annotation.json").read_text())
    broken["masks"] = {"cup": {"cam01": {"0": {"size": [2, 2], "counts": "4"}}}}
    (takes / "take1" / "annotation.json").write_text(json.dumps(broken))
    assert predict(takes, tmp_path / "p.json") == 1
    err = capsys.readouterr().err
    assert "left out: take take0" in err
    result = json.loads((tmp_path / "p.json").read_text())
    assert "take2" in result["ego-exo"]["results"]
    assert "take0" not in result["ego-exo"]["results"]


def test_a_fault_while_a_take_is_opened_is_that_takes(takes, monkeypatch):
    from counterview.data.formats import prepared

    monkeypatch.setattr(prepared.PreparedTake, "__init__", lambda *_, **__: (_ for _ in ()).throw(IndexError("no")))
    dataset = open_dataset(takes, "test")
    with pytest.raises(AnnotationError, match="take 'take0' cannot be read; found IndexError no"):
        dataset.take("take0")


def test_unfinished_runs_that_were_damaged_are_made_again(takes, tmp_path):
    from counterview.inference import dataset as module
    from counterview.inference.take_parts import read_part

    part = tmp_path / "a.jsonl"
    good = {"frame": 0, "predictions": [["ego2exo", "cup", "a", "b", {"pred_mask": {}}]]}
    for bad in (
        b'{"frame": 30}',
        b"[" * 5000,
        b'{"frame": 1, "predictions": [[1, 2]]}',
        b'{"frame": "x"}',
        b"\xff\xfe",
        b"null",
    ):
        part.write_bytes(json.dumps(good).encode() + b"\n" + bad + b"\n")
        assert read_part(part)[0] == {0: good["predictions"]}
    (tmp_path / "p.json.parts").mkdir()
    for text in (b"\xff\xfe", b"[" * 5000):
        (tmp_path / "p.json.parts" / "run.json").write_bytes(text)
        with pytest.raises(InputError, match="unfinished run"):
            module._open_parts(tmp_path / "p.json.parts", {"format": 1}, overwrite=False)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names of files are Unicode there")
def test_names_that_are_not_unicode(tmp_path):
    image = np.full((60, 80, 3), 120, np.uint8)
    image[10:30, 10:30] = (200, 30, 30)
    image[35:55, 45:70] = (30, 30, 200)
    folder = os.fsencode(tmp_path)
    for name, content in ((b"i\xff.png", image), (b"m\xfe.png", (image[..., 0] == 200).astype(np.uint8) * 255)):
        out = io.BytesIO()
        Image.fromarray(content).save(out, "PNG")
        with open(os.path.join(folder, name), "wb") as handle:  # noqa: PTH118, PTH123
            handle.write(out.getvalue())
    picture, mask = (os.path.join(folder, name) for name in (b"i\xff.png", b"m\xfe.png"))  # noqa: PTH118
    command: list[str | bytes] = [
        sys.executable,
        "-m",
        "counterview.cli.main",
        "match",
        picture,
        picture,
        "--mask",
        mask,
    ]
    command += ["--model", "knn", "--out", os.path.join(folder, b"o\xfd")]  # noqa: PTH118
    done = subprocess.run(
        command, capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    )
    assert done.returncode == 0, done.stderr
    assert b"m\\udcfe: visible" in done.stdout
    with open(os.path.join(folder, b"o\xfd", b"match.json"), "rb") as handle:  # noqa: PTH118, PTH123
        result = json.loads(handle.read())
    assert os.fsencode(result["query"]["path"]) == picture
    missing = os.path.join(folder, b"\xff\xff.png")  # noqa: PTH118
    done = subprocess.run([*command[:4], missing, picture, "--mask", mask], capture_output=True, check=False)
    assert done.returncode == 2
    assert b"\\udcff\\udcff.png: no such file" in done.stderr
    write_json(tmp_path / "a.json", {"name": "\udcff", "plain": "é"})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"name": "\udcff", "plain": "é"}


# ---------------------------------------------------------------------------------------------------------- torch


def legacy(*operations: bytes) -> bytes:
    """A file as torch before 1.6 wrote it, whose content is made by pickle operations."""
    import pickle

    magic, version, system = 0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}
    head = b"".join(pickle.dumps(v, protocol=2) for v in (magic, version, system))
    return head + b"\x80\x02" + b"".join(operations) + b"." + pickle.dumps([], protocol=2)


def tuples(levels: int) -> bytes:
    """A dictionary whose key is a tuple of tuples of tuples …: its hash takes 2 ** levels steps."""
    nested = b"".join(b"q" + bytes([i % 250]) + b"h" + bytes([i % 250]) + b"\x86" for i in range(levels))
    return b"})" + nested + b"K\x01s"


TORCH = {
    "empty stack": legacy(b"}u"),
    "missing value": legacy(b"}X\x01\0\0\0as"),
    "memory": legacy(b"c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R"),
    "tensor by size": legacy(b"ctorch\nFloatTensor\nJ\xff\xff\xff\x7f\x85R"),
    "hash": legacy(tuples(80)),
    "print": legacy(b"cbuiltins\nprint\nX\x02\0\0\0hi\x85R"),
    "empty": b"",
    "text": b"hello",
    "zip without content": archive(b"x", "a/other.txt", zipfile.ZIP_STORED),
    "compressed": archive(b"\x80\x02}.", "a/data.pkl"),
    "zip with junk": archive(b"\x80\x02\xff\xff", "a/data.pkl", zipfile.ZIP_STORED),
}


@pytest.mark.parametrize("name", TORCH)
def test_files_of_torch_that_are_no_state_dict(name, tmp_path, capfd):
    path = tmp_path / "weights.pt"
    path.write_bytes(TORCH[name])
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=r"weights\.pt: cannot be read as plain tensors") as caught:
        read_released(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6
    assert "weights_only" not in str(caught.value), "torch advises to switch its checks off"
    assert capfd.readouterr() == ("", "")


def test_state_dicts_of_torch_are_read_in_both_formats(tmp_path):
    import torch

    state = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).state_dict()
    half = {"h": torch.ones(2, dtype=torch.bfloat16), "p": torch.nn.Parameter(torch.ones(1))}
    for number, content in enumerate((state, half, {"model": state, "epoch": 3, "size": torch.Size([1]), "lr": [0.1]})):
        for zipped in (True, False):
            path = tmp_path / f"{number}{zipped}.pt"
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
            found = read_released(path)
            expected = content.get("model", content)
            assert list(found) == list(expected)
            assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_every_error_of_this_file_is_the_inputs_fault():
    for cls in (ConfigError, ProposalError, InputError, AnnotationError, CheckpointError):
        assert issubclass(cls, CounterviewError)
        assert cls.exit_code == 2
