"""abaw_seq stands alone: no vision package, and quick answers on the command line."""

import subprocess
import sys
import time

BLOCKED_IMPORT = """
import importlib, pkgutil, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("timm", "torchvision", "abaw_feats", "simplejpeg", "av"):
            raise ImportError(f"blocked: {name}")

sys.meta_path.insert(0, Blocked())
import abaw_seq
names = [m.name for m in pkgutil.walk_packages(abaw_seq.__path__, "abaw_seq.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def test_every_module_imports_with_the_vision_packages_blocked():
    done = subprocess.run([sys.executable, "-c", BLOCKED_IMPORT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


def test_help_does_not_import_torch():
    code = (
        "import sys\n"
        "from abaw_seq.cli import main\n"
        "try:\n    main(['train', '--help'])\n"
        "except SystemExit:\n    pass\n"
        "print('torch' in sys.modules, 'h5py' in sys.modules, file=sys.stderr)"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.split() == ["False", "False"]
    assert "--resume" in done.stdout
    assert time.monotonic() - started < 5


SILENT = """
import sys, pathlib, torch
from abaw_seq.config import load
from abaw_seq.data.corpus import load_corpus
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.learn.train import train
settings = ["epochs=2", "patience=1", "nearest_label=3", "model.encoder.kind=none"]
feats, run = map(pathlib.Path, sys.argv[1:])
train(load(TrainConfig, None, settings), load_corpus([feats]), run, device=torch.device("cpu"))
"""


def test_the_library_prints_nothing_by_itself(toy_feats, tmp_path):
    command = [sys.executable, "-c", SILENT, toy_feats, tmp_path / "run"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == done.stderr == ""
    assert (tmp_path / "run" / "scores.json").is_file()
