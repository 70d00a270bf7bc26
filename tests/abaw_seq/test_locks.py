"""Lock files: who else is writing, and file systems that cannot tell."""

import errno
import fcntl

import pytest

from abaw_seq.errors import UserError
from abaw_seq.locks import held_lock


def refusing(code):
    def flock(handle, operation):
        raise OSError(code, "the system's words")

    return flock


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EIO])
def test_without_locks_the_work_goes_on_and_one_line_says_so(tmp_path, monkeypatch, caplog, code):
    monkeypatch.setattr(fcntl, "flock", refusing(code))
    with held_lock(tmp_path / "new" / "lock", output=tmp_path / "feats.h5"):
        assert (tmp_path / "new" / "lock").exists()
    (line,) = caplog.messages
    assert "feats.h5: its file system knows no locks (the system's words)" in line
    assert not (tmp_path / "new" / "lock").exists()


@pytest.mark.parametrize("code", [errno.EWOULDBLOCK, errno.EACCES])
def test_a_lock_that_is_held_is_no_missing_lock(tmp_path, monkeypatch, code):
    monkeypatch.setattr(fcntl, "flock", refusing(code))
    with pytest.raises(UserError, match="feats.h5: another process is writing it; wait until it ends"):
        with held_lock(tmp_path / "lock", output=tmp_path / "feats.h5"):
            pass


def test_a_second_holder_learns_who_the_first_is(tmp_path):
    with held_lock(tmp_path / "lock", output=tmp_path / "out"):
        with pytest.raises(UserError, match="out: process [0-9]+ on .* is writing it"):
            with held_lock(tmp_path / "lock", output=tmp_path / "out"):
                pass
    with held_lock(tmp_path / "lock", output=tmp_path / "out"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_no_missing_lock(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "deeper", tmp_path / ("n" * 300)):
        with pytest.raises(UserError, match="choose another output"):
            with held_lock(folder / "lock", output=tmp_path / "out"):
                pass
