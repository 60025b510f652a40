import gzip
import hashlib
import json
from types import SimpleNamespace

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import source
from errors import PreparationError
from source import DataSet, open_source

ROWS = [{"problem": "1+1", "id": 1}, {"problem": "é\n2", "id": 2}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
DATA_SET = DataSet(
    "toy", "someone/toy", "train", ("problem", "id"), ("part_b/train*", "part_a/train*"), "mit", ("part_b", "part_a")
)


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(LINES.encode()))
    elif path.suffix == ".csv":
        path.write_text('problem,id\n1+1,1\n"é\n2",2\n', encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(ROWS), encoding="utf-8")
    else:
        path.write_text(LINES, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.json", "a.csv", "a.jsonl.gz"])
def test_every_format_gives_the_same_rows_and_its_sha256(tmp_path, name):
    path = write(tmp_path / name)
    opened = open_source(DATA_SET, [path], "main")
    assert list(opened.rows) == ROWS
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert opened.provenance == {
        "repository": "someone/toy",
        "revision": "local files",
        "files": [{"name": name, "sha256": sha256}],
    }


def test_of_a_directory_the_data_sets_files_are_read_in_the_hubs_order(tmp_path):
    for name in ("part_a/train-1.jsonl", "part_b/train-2.jsonl", "part_b/train-1.jsonl", "part_b/test-1.jsonl"):
        write(tmp_path / name)
    (tmp_path / "part_a" / "train.md").write_text("a card")
    opened = open_source(DATA_SET, [tmp_path], "main")
    names = [file["name"] for file in opened.provenance["files"]]
    assert names == ["part_b/train-1.jsonl", "part_b/train-2.jsonl", "part_a/train-1.jsonl"]
    assert len(list(opened.rows)) == 6


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jsonl", None, "missing.jsonl: no such file or directory"),
        ("a.txt", "x", "a.txt: unknown extension; allowed are .parquet, .jsonl, .json, .csv"),
        ("a.jsonl", '{"question": "1"}\n', "a.jsonl: no column problem, id; its columns are question"),
        ("a.jsonl", '{"problem": \n', "a.jsonl: cannot be read as json"),
        ("a.parquet", "x", "a.parquet: cannot be read as parquet"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(PreparationError, match=message):
        list(open_source(DATA_SET, [tmp_path / name], "main").rows)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "a.jsonl: has no rows"),
        ("a.json", b"", "a.json: has no rows"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0), "a.jsonl.gz: has no rows"),
        ("a.csv", b"", "a.csv: cannot be read as csv"),
        ("a.parquet", b"", "a.parquet: cannot be read as parquet"),
        ("a.jsonl.gz", b"none", "a.jsonl.gz: cannot be read as json"),
        ("a.jsonl.gz", gzip.compress(LINES.encode() * 99, mtime=0)[:40], "a.jsonl.gz: cannot be read as json"),
        ("a.jsonl", b'{"problem": "\xff"}', "a.jsonl: cannot be read as json"),
        ("a.jsonl", b"5", "a.jsonl: cannot be read as json"),
        ("a.jsonl", b"\0\0", "a.jsonl: cannot be read as json"),
    ],
)
def test_a_file_that_is_empty_or_broken_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PreparationError, match=message):
        list(open_source(DATA_SET, [tmp_path / name], "main").rows)


def test_an_empty_directory_says_which_files_were_expected(tmp_path):
    with pytest.raises(PreparationError, match=r"no file part_b/train\*\.\*, part_a/train\*\.\*"):
        open_source(DATA_SET, [tmp_path], "main")


class Hub:
    """Stands in for HfApi and load_dataset."""

    def __init__(self, monkeypatch, licence="mit", error=None):
        self.licence, self.error, self.loaded = licence, error, []
        monkeypatch.setattr(source, "HfApi", lambda: self)
        monkeypatch.setattr(source, "load_dataset", self.load_dataset)

    def dataset_info(self, repository, revision, timeout):
        assert (repository, revision) == ("someone/toy", "v1")
        return SimpleNamespace(sha="c0ffee", card_data=self.licence and SimpleNamespace(license=self.licence))

    def load_dataset(self, *args, **kwargs):
        self.loaded.append((*args, kwargs))
        yield ROWS[0]
        if self.error is not None:
            raise self.error


def test_the_hub_is_read_at_the_commit_that_the_metadata_names(monkeypatch):
    hub = Hub(monkeypatch)
    opened = open_source(DATA_SET, None, "v1")
    assert opened.provenance == {"repository": "someone/toy", "revision": "c0ffee", "licence_of_card": "mit"}
    assert list(opened.rows) == [ROWS[0]] * 2
    options = {"split": "train", "revision": "c0ffee", "streaming": True}
    assert hub.loaded == [("someone/toy", "part_b", options), ("someone/toy", "part_a", options)]


def test_repositories_with_a_script_are_read_file_by_file(monkeypatch):
    hub = Hub(monkeypatch, licence=None)
    data_set = DataSet("toy", "someone/toy", "test", ("problem",), ("test*",), "mit", hub_files="test*.jsonl")
    opened = open_source(data_set, None, "v1")
    assert opened.provenance["licence_of_card"] is None
    list(opened.rows)
    files = "hf://datasets/someone/toy@c0ffee/test*.jsonl"
    assert hub.loaded == [("json", {"data_files": files, "split": "train", "streaming": True})]


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (httpx.ReadTimeout(""), "ReadTimeout: "),
        (ConnectionError("Couldn't reach it\nat all"), "ConnectionError: Couldn't"),
    ],
)
def test_a_connection_that_breaks_later_is_reported_like_one_that_never_was(monkeypatch, error, cause):
    Hub(monkeypatch, error=error)
    with pytest.raises(PreparationError, match=f"cannot be read from the hub: {cause}") as raised:
        list(open_source(DATA_SET, None, "v1").rows)
    assert "hf download someone/toy --repo-type dataset --local-dir toy" in str(raised.value)
