"""A stand-in for S3 on this machine, for tests that are skipped loudly where it is not installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty bucket; other processes reach it by the environment."""
    pytest.importorskip("s3fs", reason="the extra [s3] is not installed: object storage is NOT tested")
    server_module = pytest.importorskip("moto.server", reason="moto is not installed: object storage is NOT tested")
    import boto3
    import s3fs

    server = server_module.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    values = {
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    boto3.client("s3", endpoint_url=values["AWS_ENDPOINT_URL"]).create_bucket(Bucket="takes")
    yield "s3://takes"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()
