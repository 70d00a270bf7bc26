"""The structure of the packages, read from the sources: who may import whom, and who may write what."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("abaw_seq", "abaw_feats")
# A room may import from any room further right, never from one further left.
SEQ_ROOMS = ("entry", "cli", "experiments", "results", "learn", "models", "data", "ground")
FEATS_ROOMS = ("cli", "programs", "encoders")
# The ground floor, which both packages stand on: a level may import from lower levels alone.
GROUND = {
    "lazy": 0,
    "errors": 0, "tasks": 0, "signals": 0, "cpu": 0,
    "terminal": 1, "files": 1, "locks": 1, "config": 1, "metrics": 1,
    "run_folder": 2, "engine": 2,
}  # fmt: skip
IN_SEQ = {room: room for room in SEQ_ROOMS} | dict.fromkeys(GROUND, "ground") | {"__main__": "cli", "entry": "entry"}
IN_FEATS = {
    "cli": "cli", "__main__": "cli", "entry": "cli", "extract": "cli", "pretrain": "cli", "finetune": "cli",
    "extraction": "programs", "learning": "programs", "demo": "programs",
    "backbones": "encoders", "reading": "encoders", "vision_packages": "encoders",
}  # fmt: skip
FEATS_MAY_USE = ("abaw_seq.data", "abaw_seq.learn.losses", "abaw_seq.models.encoders", "abaw_seq.models.outputs")
FORBIDDEN_NAMES = {"utils", "misc", "common", "helpers", "base"}
MOST_LINES = 350
RUN_FOLDER_FILES = {
    "last.pt", "best.pt", "scores.json", "metrics.jsonl", "provenance.json", "predictions.h5",
    "postprocess.yaml", "config.yaml", "ensemble.yaml", "folds.yaml",
}  # fmt: skip

Graph = dict[str, set[str]]


def sources(root: Path) -> Iterator[tuple[str, Path]]:
    """(dotted name, path) of every module of both packages; a package's `__init__.py` has the package's name."""
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            yield ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"), path


def import_graph(root: Path) -> Graph:
    """{module: modules of the two packages that it imports}, wherever in the file the import stands.

    The packages themselves are left out as targets: all that modules take from there is the version.
    """
    modules = dict(sources(root))
    graph: Graph = {}
    for module, path in modules.items():
        graph[module] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path}: import by the full name, not relative to the package"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                while name not in modules and "." in name:
                    name = name.rpartition(".")[0]
                if name in modules and name not in PACKAGES:
                    graph[module].add(name)
        graph[module].discard(module)
    return graph


def room(module: str) -> str:
    """The first name below the package: a folder or a file; the package itself counts as `__main__`."""
    return (module.split(".") + ["__main__"])[1]


def wrong_imports(graph: Graph) -> list[str]:
    """Every import against the arrows, as a line."""
    return [f"{user} imports {used}" for user in graph for used in sorted(graph[user]) if not allowed(user, used)]


def allowed(user: str, used: str) -> bool:
    """Whether one module may import another."""
    package, other = user.split(".")[0], used.split(".")[0]
    here, there = room(user), room(used)
    if package == "abaw_seq":
        if other != package:
            return False
        if here in GROUND and there in GROUND and here != there:
            return GROUND[there] < GROUND[here]
        return SEQ_ROOMS.index(IN_SEQ[here]) <= SEQ_ROOMS.index(IN_SEQ[there])
    if other == "abaw_seq":
        return (
            there in GROUND
            or (here, there) == ("entry", "entry")
            or any(f"{used}.".startswith(f"{name}.") for name in FEATS_MAY_USE)
        )
    floor, floor_below = FEATS_ROOMS.index(IN_FEATS[here]), FEATS_ROOMS.index(IN_FEATS[there])
    if IN_FEATS[here] == "programs" == IN_FEATS[there]:
        return here == there
    return floor <= floor_below


def circle(graph: Graph) -> list[str]:
    """The modules along a circle of imports, if there is one."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def between_folders(graph: Graph) -> Graph:
    """The graph with every folder as one; files that lie directly in a package stand for themselves."""
    packages = {name.rpartition(".")[0] for name in graph}

    def folder(module: str) -> str:
        parent = module if module in packages else module.rpartition(".")[0]
        return module if parent in PACKAGES else parent

    joined: Graph = {}
    for module, used in graph.items():
        joined.setdefault(folder(module), set()).update(folder(name) for name in used)
    return {name: used - {name} for name, used in joined.items()}


def users_of(root: Path, function: str) -> set[str]:
    """The files that use a function such as `os.replace`."""
    module, name = function.split(".")
    users = set()
    for _, path in sources(root):
        for node in ast.walk(ast.parse(path.read_text())):
            called = isinstance(node, ast.Attribute) and ast.unparse(node) == function
            imported = isinstance(node, ast.ImportFrom) and node.module == module
            if called or (imported and name in {alias.name for alias in node.names}):
                users.add(path.relative_to(root).as_posix())
    return users


def names_of_run_files(root: Path) -> set[str]:
    """The files in which a text is the name of a file of run folders, or a path that ends with one."""
    return {
        path.relative_to(root).as_posix()
        for _, path in sources(root)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and str(node.value).rpartition("/")[2] in RUN_FOLDER_FILES
    }


@pytest.fixture(scope="module")
def graph() -> Graph:
    return import_graph(ROOT)


def test_every_file_has_a_room():
    for module, path in sources(ROOT):
        rooms = IN_SEQ if module.startswith("abaw_seq") else IN_FEATS
        assert room(module) in rooms, f"{path} is in no room that this test knows"


def test_imports_follow_the_arrows(graph):
    assert wrong_imports(graph) == []


def test_no_circle_between_files(graph):
    assert circle(graph) == []


def test_no_circle_between_folders(graph):
    assert circle(between_folders(graph)) == []


def test_names_and_lengths_of_files():
    for _, path in sources(ROOT):
        assert path.stem not in FORBIDDEN_NAMES, f"{path}: name it after what it holds"
        lines = len(path.read_text().splitlines())
        assert lines <= MOST_LINES, f"{path} has {lines} lines"


def test_whole_files_are_written_in_one_place():
    assert users_of(ROOT, "os.replace") | users_of(ROOT, "os.rename") == {"abaw_seq/files.py"}


def test_names_of_the_run_folder_are_spelled_in_one_place():
    assert names_of_run_files(ROOT) == {"abaw_seq/run_folder.py"}


def made_up(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("user", "text", "used"),
    [
        ("abaw_seq.data.a", "import abaw_feats.cli", "abaw_feats.cli"),
        ("abaw_seq.data.a", "def f():\n    from abaw_seq.learn.train import train", "abaw_seq.learn.train"),
        ("abaw_seq.results.a", "from abaw_seq.experiments import b as c", "abaw_seq.experiments.b"),
        ("abaw_seq.config", "from abaw_seq import run_folder", "abaw_seq.run_folder"),
        ("abaw_seq.files", "from abaw_seq.terminal import say", "abaw_seq.terminal"),
        ("abaw_seq.tasks", "import abaw_seq.data.a", "abaw_seq.data.a"),
        ("abaw_feats.learning.a", "import abaw_feats.extraction.b", "abaw_feats.extraction.b"),
        ("abaw_feats.reading.a", "if TYPE_CHECKING:\n    import abaw_feats.demo.b", "abaw_feats.demo.b"),
        ("abaw_feats.learning.a", "from abaw_seq.learn.train import train", "abaw_seq.learn.train"),
    ],
)
def test_an_import_against_the_arrows_is_noticed(user, text, used, tmp_path):
    files = {user.replace(".", "/") + ".py": text, used.replace(".", "/") + ".py": ""}
    assert wrong_imports(import_graph(made_up(tmp_path, files))) == [f"{user} imports {used}"]


def test_imports_along_the_arrows_are_allowed(tmp_path):
    files = {
        "abaw_seq/__init__.py": "",
        "abaw_seq/errors.py": "import abaw_seq",
        "abaw_seq/data/a.py": "import abaw_seq.errors",
        "abaw_seq/learn/losses.py": "from abaw_seq.data.a import x",
        "abaw_seq/cli.py": "import abaw_seq.learn.losses",
        "abaw_feats/backbones/b.py": "import abaw_feats.reading.c",
        "abaw_feats/reading/c.py": "import abaw_seq.errors",
        "abaw_feats/learning/d.py": "from abaw_seq.learn import losses\nimport abaw_feats.backbones.b, abaw_seq.data.a",
    }
    graph = import_graph(made_up(tmp_path, files))
    assert wrong_imports(graph) == [] and circle(graph) == [] and circle(between_folders(graph)) == []
    assert graph["abaw_feats.learning.d"] == {"abaw_seq.learn.losses", "abaw_feats.backbones.b", "abaw_seq.data.a"}


def test_circles_and_strays_are_noticed(tmp_path):
    files = {
        "abaw_seq/data/a.py": "def f():\n    import abaw_seq.data.b",
        "abaw_seq/data/b.py": "import abaw_seq.data.a",
        "abaw_feats/reading/a.py": "import abaw_feats.backbones.a",
        "abaw_feats/backbones/a.py": "",
        "abaw_feats/backbones/b.py": "import abaw_feats.reading.b",
        "abaw_feats/reading/b.py": "",
        "abaw_seq/data/c.py": "import os\nos.replace(a, b)",
        "abaw_seq/data/d.py": "from os import replace",
        "abaw_seq/data/e.py": "run / 'last.pt'",
        "abaw_seq/data/f.py": "f'{run}/scores.json'",
        "abaw_seq/data/g.py": "'It writes last.pt.'",
    }
    graph = import_graph(made_up(tmp_path, files))
    assert set(circle(graph)) == {"abaw_seq.data.a", "abaw_seq.data.b"}
    assert set(circle(between_folders(graph))) == {"abaw_feats.reading", "abaw_feats.backbones"}
    assert users_of(tmp_path, "os.replace") == {"abaw_seq/data/c.py", "abaw_seq/data/d.py"}
    assert names_of_run_files(tmp_path) == {"abaw_seq/data/e.py", "abaw_seq/data/f.py"}
