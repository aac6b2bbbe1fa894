import threading

import pytest

from counterview.errors import InputError, PathError
from counterview.media.files import atomic_write, check_name, read_json, safe_join, sha256_file, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "sub" / "a.txt"
    with atomic_write(path, "w") as handle:
        handle.write("old\n")
    with pytest.raises(RuntimeError), atomic_write(path) as handle:
        handle.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old\n"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_readers_never_see_half_a_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"0" * 100_000)
    seen, stop = set(), threading.Event()

    def read():
        while not stop.is_set():
            data = path.read_bytes()
            seen.add((len(data), len(set(data))))

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(40):
        with atomic_write(path) as handle:
            handle.write(bytes([i]) * 50_000)
            handle.write(bytes([i]) * 50_000)
    stop.set()
    reader.join()
    assert seen == {(100_000, 1)}


def test_json_round_trip_and_errors(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"ä": [1, 2.5]})
    assert read_json(path) == {"ä": [1, 2.5]}
    with pytest.raises(ValueError):
        write_json(path, float("nan"))
    assert read_json(path) == {"ä": [1, 2.5]}
    path.write_text("{")
    for bad in (path, tmp_path / "none.json", tmp_path):
        with pytest.raises(InputError) as caught:
            read_json(bad)
        assert str(bad) in str(caught.value)
    path.write_text("[" * 100_000)
    with pytest.raises(InputError):
        read_json(path)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", "c:", "a\0b", "a\nb", "nul", "COM1.txt", "a.", "x" * 300, "\ud800"]
)
def test_names_that_are_not_file_names(name):
    with pytest.raises(PathError):
        check_name(name)


def test_safe_join_stays_inside(tmp_path):
    assert safe_join(tmp_path, "take", "cam01/0.jpg") == tmp_path / "take" / "cam01" / "0.jpg"
    assert check_name("stainless bowl_0") == "stainless bowl_0"
    for part in ("../x", "/etc/passwd", "a/../../x", "C:\\x", "a//b"):
        with pytest.raises(PathError):
            safe_join(tmp_path, part)
    outside = tmp_path / "outside"
    inside = tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    with pytest.raises(PathError):
        safe_join(inside, "link", "x")


def test_safe_join_follows_links_only_where_asked(tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "link").symlink_to(tmp_path)
    path = safe_join(tmp_path / "inside", "link", "x", follow_links=True)
    assert path == tmp_path / "inside" / "link" / "x"
    for part in ("../x", "/etc/passwd", "a/../../x", "C:\\x", "a//b"):
        with pytest.raises(PathError):
            safe_join(tmp_path, part, follow_links=True)


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
