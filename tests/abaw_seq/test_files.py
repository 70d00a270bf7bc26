"""Whatever is written appears whole, in place of what was there, or not at all."""

import os

import h5py
import pytest
import torch

from abaw_seq import files
from abaw_seq.errors import UserError


def everything_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


WRITERS = {
    "text": lambda path: files.write_text(path, "new\n"),
    "bytes": lambda path: files.write_bytes(path, b"new\n"),
    "lines": lambda path: files.write_lines(path, ["new"]),
    "json": lambda path: files.write_json(path, {"new": 1}),
    "tensors": lambda path: files.save_tensors(path, {"new": torch.ones(2)}),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_appears_with_its_folder_is_replaced_and_leaves_nothing_beside_it(kind, tmp_path):
    path = tmp_path / "a" / "b" / "file"
    WRITERS[kind](path)
    path.write_text("old")
    WRITERS[kind](path)
    assert path.read_bytes() != b"old" and everything_below(tmp_path) == ["a", "a/b", "a/b/file"]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_that_cannot_be_finished_leaves_the_old_one(kind, tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")

    def disk_is_full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_is_full)
    with pytest.raises(OSError, match="No space left"):
        WRITERS[kind](path)
    assert path.read_text() == "old" and everything_below(tmp_path) == ["file"]


def test_hdf5_files_and_folders_appear_only_when_their_block_ends_well(tmp_path):
    with files.whole_hdf5(tmp_path / "x.h5") as file:
        file["a"] = 1
        assert not (tmp_path / "x.h5").exists()
    with h5py.File(tmp_path / "x.h5") as file:
        assert file["a"][()] == 1

    for content in ("one", "two"):
        with files.whole_folder(tmp_path / "set") as folder:
            (folder / content).touch()
    assert everything_below(tmp_path) == ["set", "set/two", "x.h5"]
    for context, place in ((files.whole_hdf5, "x.h5"), (files.whole_folder, "set")):
        with pytest.raises(KeyboardInterrupt), context(tmp_path / place):
            raise KeyboardInterrupt
    assert everything_below(tmp_path) == ["set", "set/two", "x.h5"]


def test_leftovers_of_killed_processes_are_those_of_this_name(tmp_path):
    for name in (".a.h5.17.tmp", ".b.h5.17.tmp", "a.h5"):
        (tmp_path / name).touch()
    (tmp_path / ".a.h5.18.tmp").mkdir()
    files.remove_leftovers(tmp_path / "a.h5")
    assert everything_below(tmp_path) == [".b.h5.17.tmp", "a.h5"]


def test_tensors_come_back_as_data_alone(tmp_path):
    files.save_tensors(tmp_path / "x.pt", {"model": {"w": torch.arange(3)}, "epoch": 2})
    assert files.load_tensors(tmp_path / "x.pt")["epoch"] == 2
    with pytest.raises(UserError, match="none.pt: no such checkpoint"):
        files.load_tensors(tmp_path / "none.pt")
    torch.save(UserError("code"), tmp_path / "object.pt")
    with pytest.raises(UserError, match="object.pt: not a readable checkpoint"):
        files.load_tensors(tmp_path / "object.pt")
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(UserError, match="list.pt: not a checkpoint"):
        files.load_tensors(tmp_path / "list.pt")


def test_places_that_cannot_be_written_are_named_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a folder; name a file"):
        files.check_output(tmp_path)
    with pytest.raises(UserError, match="out.h5: its folder .*file is a file"):
        files.check_output(tmp_path / "file" / "out.h5")
    with pytest.raises(UserError, match="file: .*file is a file"):
        files.make_folder(tmp_path / "file")
    files.check_output(tmp_path / "not" / "there" / "out.h5")
    assert everything_below(tmp_path) == ["file"]
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="is not writable"):
        files.check_output(tmp_path / "out.h5")
