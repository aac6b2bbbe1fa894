"""Files in object storage; the oracle is what boto3 sees in a stand-in for S3."""

import os
import pickle
from pathlib import Path

import pytest

from counterview.errors import InputError, OutputError, PathError
from counterview.media.storage import ObjectFolder, is_url, split_url
from tests.object_storage import bucket  # noqa: F401  # a fixture


def test_files_go_there_and_come_back(bucket, tmp_path):  # noqa: F811
    import boto3

    folder = ObjectFolder(f"{bucket}/a/")
    assert folder.files() == {}
    assert folder.names() == []
    (tmp_path / "x").write_bytes(b"0123456789")
    folder.store(tmp_path / "x", "deep/x.bin")
    folder.store(tmp_path / "x", "y")
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    assert client.get_object(Bucket="takes", Key="a/deep/x.bin")["Body"].read() == b"0123456789"
    assert [o["Key"] for o in client.list_objects_v2(Bucket="takes", Prefix="a/")["Contents"]] == [
        "a/deep/x.bin",
        "a/y",
    ]
    other = pickle.loads(pickle.dumps(folder))
    assert {name: size for name, (size, _) in other.files().items()} == {"deep/x.bin": 10, "y": 10}
    assert other.names() == ["deep", "y"]
    assert list(other.files("deep")) == ["deep/x.bin"]
    assert other.read("y") == b"0123456789"
    assert other.read("y", 2, 5) == b"234"
    assert (other.has("y"), other.has("z"), other.has("deep")) == (True, False, False)
    other.fetch_all(["deep/x.bin"], tmp_path / "back")
    assert (tmp_path / "back" / "deep" / "x.bin").read_bytes() == b"0123456789"
    assert (tmp_path / "back" / "deep" / "x.bin").stat().st_mtime == other.files()["deep/x.bin"][1]
    assert [p.name for p in (tmp_path / "back" / "deep").iterdir()] == ["x.bin"]
    other.remove(["y", "nothing"])
    assert list(other.files()) == ["deep/x.bin"]
    with pytest.raises(InputError, match=r"s3://takes/a/z: cannot be read.*credentials"):
        folder.read("z")
    with pytest.raises(InputError, match="cannot be read"):
        folder.fetch("z", tmp_path / "z")
    assert not list(tmp_path.glob(".z*"))
    with pytest.raises(OutputError, match="cannot be stored"):
        ObjectFolder("s3://no-such-bucket/a").store(tmp_path / "x", "x")


def test_names_stay_inside(tmp_path):
    pytest.importorskip("fsspec", reason="the extra [s3] is not installed: object storage is NOT tested")
    folder = ObjectFolder(f"file://{tmp_path}/store")
    for name in ("../x", "/x", "a/../../x", ""):
        with pytest.raises(InputError, match="cannot be used"):
            folder.read(name)
    (tmp_path / "x").write_text("new")
    folder.store(tmp_path / "x", "a/x")
    assert [p.name for p in (tmp_path / "store" / "a").iterdir()] == ["x"]
    with pytest.raises((PathError, InputError)):
        folder.fetch_all(["a/../../../x"], tmp_path / "back")


def test_addresses():
    assert is_url("s3://bucket/x")
    assert not is_url("s3:/bucket/x")
    assert not is_url(Path("data"))
    assert not is_url(None)
    for text in ("data", "nowhere://x"):
        with pytest.raises(InputError):
            ObjectFolder(text)
    for text in ("s3://bucket", "s3://bucket/"):
        with pytest.raises(InputError, match="address of a file"):
            split_url(text)
