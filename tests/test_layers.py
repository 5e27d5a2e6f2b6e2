"""Who may import whom, and who may touch the disk: read from the source, module by module."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From bottom to top: a module imports from the layers below its own. A folder counts as one module.
LAYERS = """
    __init__ errors progress
    config forecast freed_memory io long_pairs mapped nets options pages parts records schedule
    stop supervised
    artifact dvc_left hub processes tables versions
    device tokenizer_file
    tokenizer
    masking
    activations anatomy batches losses masked_logits metrics parameters report
    objectives plots seen sources targets
    blocks gather int8 modules storage store tensor_files windows
    corpus known_tokenizers
    augment heads module_taps read_rows row_kinds spans taps token_vectors
    cache card encoder gold vector_files
    folder join load streams tasks
    loader
    shares students train_spec
    bodies
    pipeline speed
    corpus_rows questions
    dvc evaluate fill_blocks importing known_rows passes student terms word_tokenizer
    optimizer project run teacher write_corpus
    dry_run import_targets made_from measured sample store_keeping
    validate
    train
    checkpoint idle multitask rehearsal snapshots
    job
    planning predict subjects write_student
    contents file_pages
    inspection verify
    cli
    __main__
""".strip().splitlines()
HEIGHT = {name: height for height, line in enumerate(LAYERS) for name in line.split()}
# Upward, but in annotations only.
TYPES_ONLY = {("bodies", "pipeline"), ("report", "speed")}

# What `kdpipe --help` and the decoding of a pipeline file may not wait for.
HEAVY = {"datasets", "matplotlib", "scipy", "sentence_transformers", "torch"}
HEAVY |= {"tokenizers", "transformers"}
LIGHT = {"__init__", "bodies", "cli", "config", "dvc", "errors", "objectives", "parts", "pipeline"}
LIGHT |= {"progress"}
LIGHT |= {"sources", "students", "targets", "tasks", "train_spec"}
# What finds that everything is up to date may not wait for them either.
LIGHT |= {"artifact", "importing", "known_tokenizers", "made_from", "project", "word_tokenizer"}
LIGHT |= {"measured", "report"}
LIGHT |= {"fill_blocks", "write_corpus"}

PICKLES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
SHUTIL_READS = {"shutil.disk_usage", "shutil.get_terminal_size", "shutil.which"}
PATH_WRITES = {"hardlink_to", "mkdir", "rename", "rmdir", "symlink_to", "touch", "unlink"}
PATH_WRITES |= {"write_bytes", "write_text"}
OS_WRITES = {"link", "makedirs", "mkdir", "open", "remove", "removedirs", "rename", "renames"}
OS_WRITES |= {"replace", "rmdir", "symlink", "truncate", "unlink"}
OTHER_WRITES = {"numpy.save", "numpy.savez", "safetensors.numpy.save_file", "torch.load"}
OTHER_WRITES |= {"safetensors.torch.save_file", "safetensors.torch.save_model", "torch.save"}
WRITE_MODE = re.compile(r"(?=.*[wax+])[rwaxbt+]+")

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("kdpipe", "stages")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
LIBRARY = {module: path for module, path in MODULES.items() if path.is_relative_to(ROOT / "kdpipe")}
STAGES = {module: path for module, path in MODULES.items() if module not in LIBRARY}

When = Literal["load", "call", "types"]


class Import(NamedTuple):
    """One imported module, and when that happens."""

    module: str
    line: int
    when: When


def imports(source: str) -> list[Import]:
    """All imports of a module: as it loads, as a function is called, or for annotations only."""
    return [
        Import(module, node.lineno, when)
        for node, when in _import_nodes(ast.parse(source), "load")
        for module in _modules(node)
    ]


def _import_nodes(tree: ast.AST, when: When) -> Iterator[tuple[ast.Import | ast.ImportFrom, When]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, when
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _import_nodes(node, "call" if when == "load" else when)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _import_nodes(ast.Module(node.body, []), "types")
            yield from _import_nodes(ast.Module(node.orelse, []), when)
        else:
            yield from _import_nodes(node, when)


def _modules(node: ast.Import | ast.ImportFrom) -> set[str]:
    if isinstance(node, ast.Import):
        return {name.name for name in node.names}
    base = "." * node.level + (node.module or "")
    names = {f"{base}.{name.name}" for name in node.names}
    return {name if name in MODULES else base for name in names}


def top(module: str) -> str:
    """`kdpipe.tasks.fidelity` -> `tasks`; the package itself is `__init__`."""
    return [*module.split("."), "__init__"][1]


def upward(module: str, source: str, when: When) -> list[str]:
    """What is wrong with the imports of a module of the library, a line each."""
    found = []
    for one in imports(source):
        if one.when != when or not re.match(r"kdpipe\b|stages\b|\.", one.module):
            continue
        mine, theirs = top(module), top(one.module)
        pair = f"{module}:{one.line} imports {one.module}"
        if re.match(r"(kdpipe\.)?stages\b", one.module):
            found.append(f"{pair}: stages are found by entry point, the library imports none")
        elif one.module.startswith("."):
            found.append(f"{pair}: write the whole name")
        elif mine == theirs:
            if one.module == f"kdpipe.{mine}" and module != one.module:
                found.append(f"{pair}, the package that it is part of")
        elif theirs not in HEIGHT or mine not in HEIGHT:
            found.append(f"{pair}: not both are in LAYERS")
        elif HEIGHT[theirs] < HEIGHT[mine] or (when == "types" and (mine, theirs) in TYPES_ONLY):
            continue
        else:
            heights = f"of layer {HEIGHT[theirs]}, and is in layer {HEIGHT[mine]} itself"
            found.append(f"{pair}, {heights}")
    return found


def disk(source: str) -> list[str]:
    """The calls that change the disk or unpickle, as `line: call`."""
    tree = ast.parse(source)
    alias: dict[str, str] = {}  # the name in this file: the whole name
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                start = name.name.partition(".")[0]
                alias[name.asname or start] = name.name if name.asname else start
        elif isinstance(node, ast.ImportFrom):
            alias |= {
                (name.asname or name.name): f"{node.module}.{name.name}" for name in node.names
            }
        if isinstance(node, ast.Import | ast.ImportFrom):
            starts = {module.partition(".")[0] for module in _modules(node)}
            found += [f"{node.lineno}: import {start}" for start in starts & PICKLES]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return found + [
        f"{call.lineno}: {ast.unparse(call.func)}" for call in calls if _changes_disk(call, alias)
    ]


def _changes_disk(call: ast.Call, alias: dict[str, str]) -> bool:
    first, _, rest = ast.unparse(call.func).partition(".")
    name = ".".join(filter(None, (alias.get(first, first), rest)))
    last = name.rpartition(".")[2]
    if first in alias:
        if name.startswith("shutil."):
            return name not in SHUTIL_READS
        if name in OTHER_WRITES or name in {f"os.{word}" for word in OS_WRITES}:
            return True
    if last == "open":
        place = 1 if name == "open" or first in alias else 0  # a path has no name to give
        mode = [*call.args[place : place + 1], *(w.value for w in call.keywords if w.arg == "mode")]
        said = [word.value for word in mode if isinstance(word, ast.Constant)]
        return any(isinstance(word, str) and WRITE_MODE.fullmatch(word) for word in said)
    if last == "replace":  # of a str it has two arguments, of a dataclass or a date keywords
        return len(call.args) == 1 and not call.keywords
    return isinstance(call.func, ast.Attribute) and last in PATH_WRITES


def test_every_module_has_a_layer() -> None:
    listed = " ".join(LAYERS).split()
    there = {top(module) for module in LIBRARY}
    assert len(listed) == len(set(listed))
    assert there - set(listed) == set(), "add these to LAYERS in tests/test_layers.py"
    assert set(listed) - there == set(), "these are gone: take them out of LAYERS"


@pytest.mark.parametrize("when", ["load", "call", "types"])
def test_imports_go_downward(when: When) -> None:
    found = [
        line
        for module, path in LIBRARY.items()
        for line in upward(module, path.read_text("utf-8"), when)
    ]
    assert not found, "\n".join(["see LAYERS in tests/test_layers.py", *found])


def test_no_stage_imports_a_stage() -> None:
    found = [
        f"{module}:{one.line} imports {one.module}"
        for module, path in STAGES.items()
        for one in imports(path.read_text("utf-8"))
        if re.match(r"(kdpipe\.)?stages\b|\.", one.module)
    ]
    assert not found, "\n".join(found)


def test_light_modules_load_without_heavy_libraries() -> None:
    roots = [module for module in MODULES if module in STAGES or top(module) in LIGHT]
    chains = {module: module for module in roots}
    waiting, found = list(roots), []
    while waiting:
        module = waiting.pop()
        for one in imports(MODULES[module].read_text("utf-8")):
            if one.when == "load" and one.module.split(".")[0] in HEAVY:
                found.append(f"{chains[module]} -> {one.module}")
            if one.when == "load" and one.module in MODULES and one.module not in chains:
                chains[one.module] = f"{chains[module]} -> {one.module}"
                waiting.append(one.module)
    assert not found, "\n".join(["import these inside the function that needs them:", *found])


def test_only_io_changes_the_disk() -> None:
    found = [
        f"{module}:{line}"
        for module, path in MODULES.items()
        if module != "kdpipe.io"
        for line in disk(path.read_text("utf-8"))
    ]
    assert not found, "\n".join(["durable changes go through kdpipe/io.py:", *found])


def test_imports_are_told_apart() -> None:
    source = """
from __future__ import annotations
import os.path
from typing import TYPE_CHECKING
from kdpipe import io
class Class:
    from kdpipe.config import Frozen
if TYPE_CHECKING:
    from kdpipe.cli import main
else:
    import kdpipe.errors
try:
    import torch
finally:
    def late():
        from kdpipe import cache
"""
    assert imports(source) == [
        ("__future__", 2, "load"),
        ("os.path", 3, "load"),
        ("typing", 4, "load"),
        ("kdpipe.io", 5, "load"),
        ("kdpipe.config", 7, "load"),
        ("kdpipe.cli", 9, "types"),
        ("kdpipe.errors", 11, "load"),
        ("torch", 13, "load"),
        ("kdpipe.cache", 16, "call"),
    ]


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        ("kdpipe.io", "import kdpipe.cli", f"of layer {HEIGHT['cli']}, and is in layer 1 itself"),
        ("kdpipe.io", "from kdpipe.config import Frozen", "of layer 1, and is in layer 1 itself"),
        ("kdpipe.cli", "from kdpipe.stages import train", "the library imports none"),
        ("kdpipe.cli", "import stages.train_student", "the library imports none"),
        ("kdpipe.cli", "from . import io", "write the whole name"),
        ("kdpipe.cli", "import kdpipe.newcomer", "not both are in LAYERS"),
        ("kdpipe.tasks.fidelity", "from kdpipe.tasks import Task", "that it is part of"),
    ],
)
def test_an_upward_import_is_found(module: str, source: str, message: str) -> None:
    assert [line.endswith(message) for line in upward(module, source, "load")] == [True]
    assert upward(module, source, "call") == []
    late = f"def late():\n    {source}"
    assert [line.endswith(message) for line in upward(module, late, "call")] == [True]


def test_a_downward_import_is_no_mistake() -> None:
    source = "import torch\nfrom kdpipe import __version__, io\nfrom kdpipe.tasks.subject import x"
    assert upward("kdpipe.tasks.fidelity", source, "load") == []


@pytest.mark.parametrize(
    "line",
    [
        "open('x', 'w')",
        "open('x', mode='ab')",
        "path.open('xb')",
        "path.open(mode='r+')",
        "import gzip; gzip.open('x', 'wt')",
        "import os; os.replace('a', 'b')",
        "import os as o; o.remove('a')",
        "from os import rename; rename('a', 'b')",
        "import shutil; shutil.rmtree('a')",
        "from shutil import copy as c; c('a', 'b')",
        "path.write_text('a')",
        "path.parent.mkdir(parents=True)",
        "path.replace(other)",
        "from safetensors.torch import save_file; save_file({}, 'a')",
        "import torch; torch.save({}, 'a')",
        "import torch; torch.load('a', weights_only=True)",
        "import numpy as np; np.save('a', [])",
        "import pickle",
        "from joblib import dump",
    ],
)
def test_a_change_of_the_disk_is_found(line: str) -> None:
    assert len(disk(line)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "open('x')",
        "open('x', 'rb')",
        "path.open('rb')",
        "import os; os.path.join('a', 'b')",
        "import shutil; shutil.disk_usage('a')",
        "'a'.replace('a', 'b')",
        "moment.replace(year=1)",
        "from safetensors.torch import load_file; load_file('a')",
        "from dataclasses import replace; replace(x, a=1)",
    ],
)
def test_reading_is_no_change_of_the_disk(line: str) -> None:
    assert disk(line) == []
