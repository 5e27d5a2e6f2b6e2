"""What is installed is what is written: entry points, packages, pins, version, wheel."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import kdpipe

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
STAGES = PROJECT["project"]["entry-points"]["kdpipe.stages"]
AGAIN = "run `pip install -e .` again"


def pins() -> dict[str, str]:
    """The lines of constraints.txt by normalised name."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return {normal(line): line for line in lines if not line.startswith("#")}


def normal(requirement: str) -> str:
    """`ruamel.yaml>=0.18` -> `ruamel-yaml`."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement, maxsplit=1)[0]).lower()


def dependencies() -> set[str]:
    """Names of all that pyproject.toml asks for, extras included."""
    project = PROJECT["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    return {normal(line) for lines in lists for line in lines} - {"kdpipe"}


def tracked_texts() -> dict[str, str]:
    """The tracked text files of a git checkout by name."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("needs git to know which files are tracked")
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    found = {}
    for name in filter(None, names.split("\0")):
        data = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b"\0"
        if b"\0" not in data:
            found[name] = data.decode("utf-8")
    return found


def test_each_stage_file_has_one_entry_point_and_its_function() -> None:
    places = [value.split(":") for value in STAGES.values()]
    files = [path for path in (ROOT / "stages").glob("*.py") if path.stem != "__init__"]
    assert sorted(module for module, _ in places) == sorted(
        f"kdpipe.stages.{f.stem}" for f in files
    )
    for module, function in places:
        source = (ROOT / "stages" / f"{module.rpartition('.')[2]}.py").read_text("utf-8")
        names = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
        assert function in names, f"{module} has no function {function}"


def test_installed_entry_points_are_those_of_pyproject() -> None:
    installed = {
        entry.name: entry.value
        for entry in metadata.entry_points(group="kdpipe.stages")
        if entry.dist is not None and entry.dist.name == "kdpipe"
    }
    assert installed == STAGES, AGAIN


def test_packages_are_the_folders_on_disk() -> None:
    folders = {path.parent for path in (ROOT / "kdpipe").rglob("__init__.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(names | {"kdpipe.stages"})


def test_version_is_said_once_in_effect() -> None:
    assert kdpipe.__version__ == PROJECT["project"]["version"]
    assert metadata.version("kdpipe") == PROJECT["project"]["version"], AGAIN


def test_constraints_are_exact_and_cover_all_dependencies() -> None:
    exact = re.compile(r'[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*(; sys_platform == "linux")?')
    assert [line for line in pins().values() if not exact.fullmatch(line)] == []
    assert dependencies() - pins().keys() == set()


def test_constraints_hold_no_build_of_one_machine() -> None:
    foreign = [name for name in pins() if re.match(r"nvidia|cuda|triton|kdpipe|pip$", name)]
    assert foreign == []
    assert pins()["torch"].endswith('; sys_platform == "linux"')


@pytest.mark.parametrize(
    "pattern",
    [r"(?<![\w.])/(work|root|farm|opt)/", r"\b(pypi|npmjs|pythonhosted|debian)\.org\b"],
    ids=["machine path", "package index"],
)
def test_tracked_texts_name_no_machine_and_no_index(pattern: str) -> None:
    found = [
        f"{name}:{number}: {line.strip()}"
        for name, text in tracked_texts().items()
        for number, line in enumerate(text.splitlines(), start=1)
        if re.search(pattern, line)
    ]
    assert not found, "\n".join(found)


def test_wheel_holds_the_packages_and_no_top_level_stages(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("kdpipe", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    code = "from setuptools import build_meta; build_meta.build_wheel('.')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.partition("/")[0].endswith("-info")}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "kdpipe").rglob("*.py")}
    stages = {f"kdpipe/stages/{path.name}" for path in (ROOT / "stages").glob("*.py")}
    assert held == sources | stages | {"kdpipe/py.typed"}


def test_the_committed_dvc_yaml_is_what_repro_writes_for_the_demo(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from kdpipe import dvc
    from kdpipe.pipeline import load_pipeline

    monkeypatch.chdir(ROOT)
    demo = Path("pipelines/demo.yaml")
    assert (ROOT / "dvc.yaml").read_text("utf-8") == dvc.dvc_yaml(load_pipeline(demo), demo, Path())
