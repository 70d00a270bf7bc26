"""Whatever is written appears whole, in place of what was there, or not at all."""

import os
import subprocess
import sys
from pathlib import Path

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


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np, torch
from abaw_seq import files

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a file that may not grow any more: as on a full disk
numbers = np.random.default_rng(0).normal(size=40_000)

def hdf5(path):
    with files.whole_hdf5(path) as file:
        for k in range(20):
            file.create_dataset(f"deep/{k}/x", data=numbers[:2000], chunks=(100,))

def folder(path):
    with files.whole_folder(path) as place:
        (place / "some").write_bytes(bytes(300_000))

kinds = {
    "hdf5": hdf5,
    "tensors": lambda path: files.save_tensors(path, {"weights": torch.from_numpy(numbers)}),
    "text": lambda path: files.write_text(path, "x" * 300_000),
    "lines": lambda path: files.write_lines(path, ("y" * 99 for _ in range(3000))),
    "folder": folder,
    "room": lambda path: files.reserve(path, 300_000),
}
for limit in map(int, sys.argv[1:]):
    for name, write in kinds.items():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            write(Path(name))
        except files.DiskFull as error:
            print(f"{error.filename}: {error.strerror}")
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


def test_a_full_disk_is_told_in_one_line_and_leaves_everything_as_it_was(tmp_path):
    kinds = ["hdf5", "tensors", "text", "lines", "folder", "room"]
    for name in kinds:
        (tmp_path / name).mkdir() if name == "folder" else (tmp_path / name).write_text("old")
    (tmp_path / "folder" / "old").write_text("old")
    limits = ["0", "1", "90", "2000", "8192", "100000", "250000"]
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *limits], capture_output=True, text=True, cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == "", done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == kinds * len(limits)
    assert all("File too large, it needs " in line and "are free; make room" in line for line in lines)
    assert all("needs 300 kB" in line for line in lines if line.startswith(("text", "room")))
    assert sorted(os.listdir(tmp_path)) == sorted(kinds)
    assert all((tmp_path / name).read_text() == "old" for name in kinds if name != "folder")
    assert os.listdir(tmp_path / "folder") == ["old"]


@pytest.mark.parametrize("variant", ["FALSE", ""])
def test_private_files_are_written_and_read_without_locks(tmp_path, variant):
    code = (
        "import fcntl\n"
        "from pathlib import Path\n"
        "from abaw_seq.files import whole_hdf5\n"
        "from abaw_seq.data.checked_file import CheckedFile\n"
        "with whole_hdf5('x.h5') as file:\n    file['a'] = [1, 2]\n"
        "held = open('x.h5', 'r+b')\n"
        "fcntl.flock(held, fcntl.LOCK_EX)\n"
        "with CheckedFile(Path('x.h5'), 'file') as file:\n    print(file.dataset('a')[:].tolist())\n"
    )
    env = {"PYTHONPATH": str(Path(__file__).parents[2]), "HDF5_USE_FILE_LOCKING": variant}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.stdout == "[1, 2]\n", done.stderr
