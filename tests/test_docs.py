"""What the documentation says is so: every key, every example, every link."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from ruamel.yaml import YAML

from kdpipe import errors
from kdpipe.pipeline import CacheSpec, Pipeline, load_pipeline

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NARROW = [page for page in PAGES if page.name == "README.md" or page.parent != ROOT]
KEYS = (ROOT / "docs" / "pipeline-file.md").read_text("utf-8")
LINK = re.compile(r"\]\(([^)\s]+)\)")
YAML_BLOCK = re.compile(r"^```ya?ml\n(.*?)^```", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


class Section(NamedTuple):
    """A model, and the heading under which its keys stand."""

    heading: str
    model: type[BaseModel]


def sections(model: type[BaseModel], place: str = "") -> Iterator[Section]:
    """A model and all that its fields can hold: `students.NAME.model`, `kind: shape`."""
    kind = model.model_fields.get("kind")
    tags = typing.get_args(kind.annotation) if kind else ("",)
    # One word tells models of a union apart; several are a choice like any other.
    tag = tags[0] if len(tags) == 1 else ""
    yield Section(f"`{place}`, `kind: {tag}`" if tag else f"`{place}`", model)
    for name, field in model.model_fields.items():
        inner = f"{place}.{name}" if place else name
        for found, in_mapping in inside(field.annotation):
            yield from sections(found, f"{inner}.NAME" if in_mapping else inner)


def inside(annotation: Any, in_mapping: bool = False) -> Iterator[tuple[type[BaseModel], bool]]:
    """The models in an annotation, and whether each stands in a mapping by name."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, in_mapping
    mapping = in_mapping or typing.get_origin(annotation) is dict
    for part in typing.get_args(annotation):
        yield from inside(part, mapping)


def words(annotation: Any) -> Iterator[str]:
    """What a key may be, where it is one of some words."""
    if typing.get_origin(annotation) is Literal:
        yield from typing.get_args(annotation)
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for part in typing.get_args(annotation):
            yield from words(part)


def rows(heading: str) -> dict[str, list[str]]:
    """The table under a heading: key -> its cells."""
    _, found, text = KEYS.partition(f"# {heading}\n")
    assert found, f"no heading {heading}"
    lines = text.partition("\n#")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {line[0].strip("`"): line for line in cells if len(line) == 4 and line[0][0] == "`"}


# The sources of augmentations are those of corpora, and stand in the page once.
ALL = [*{section.model: section for section in [*sections(Pipeline)][:0:-1]}.values()][::-1]


def test_all_models_of_a_pipeline_are_found() -> None:
    found = {section.model.__name__ for section in ALL}
    assert {"CorpusSpec", "Files", "HubDataset", "Hidden", "FromShape", "TrainSpec"} < found
    assert {"MatchHidden", "MatchEmbedding", "Similarity", "Fidelity", "FromTeacher"} < found
    headings = [section.heading for section in ALL]
    assert "`students.NAME.objectives`, `kind: hidden`" in headings
    assert len(headings) == len({*headings})


@pytest.mark.parametrize("section", ALL, ids=lambda section: section.heading.replace("`", ""))
def test_every_key_stands_in_the_page_as_it_is(section: Section) -> None:
    fields = dict(section.model.model_fields)
    if "`kind: " in section.heading:
        del fields["kind"]
    table = rows(section.heading)
    assert {*table} == {*fields}
    for name, field in fields.items():
        line = " | ".join(table[name])
        assert default_of(table[name][2], field) == field.default, f"{name}: {line}"
        missing = [word for word in words(field.annotation) if f"`{word}`" not in line]
        assert not missing, f"{name}: {line}"
        speed_only = "speed only" in docstring(section.model, name)
        assert ("Speed only" in line) == speed_only, f"{name}: {line}"
        assert field.default is not None or "`null`:" in table[name][3] or "As for" in line, line


def docstring(model: type[BaseModel], name: str) -> str:
    """What stands in the source under a field."""
    for owner in model.__mro__:
        if name not in vars(owner).get("__annotations__", {}):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(tree, ast.ClassDef)
        for field, below in itertools.pairwise(tree.body):
            if isinstance(field, ast.AnnAssign) and ast.unparse(field.target) == name:
                said = below.value if isinstance(below, ast.Expr) else None
                return str(said.value) if isinstance(said, ast.Constant) else ""
    return ""


def test_docstrings_of_fields_are_found() -> None:
    assert docstring(CacheSpec, "tokens_per_batch").startswith("Padded tokens in one forward pass")
    assert docstring(CacheSpec, "corpus") == ""


def default_of(cell: str, field: FieldInfo) -> Any:
    """The default that a cell names, as the model would have it."""
    if cell == "required":
        return PydanticUndefined
    match = re.fullmatch("`(.+)`", cell)
    assert match, cell
    adapter: TypeAdapter[Any] = TypeAdapter(field.rebuild_annotation())
    return adapter.validate_python(YAML(typ="safe", pure=True).load(match[1]))


def test_every_exit_code_stands_in_the_page() -> None:
    kinds = errors.KdpipeError.__subclasses__()
    assert len(kinds) >= 6
    text = KEYS.partition("## Exit codes\n")[2]
    for code in (0, 1, *(kind.exit_code for kind in kinds), 130, 143):
        assert re.search(rf"^\|[ \d,]*\b{code}\b[ \d,]*\|", text, re.MULTILINE), code


def pipelines_in_pages() -> list[Any]:
    """Blocks of YAML that are whole pipeline files, by page and line."""
    found = []
    for page in PAGES:
        text = page.read_text("utf-8")
        for block in YAML_BLOCK.finditer(text):
            if re.search(r"^corpora:", block[1], re.MULTILINE):
                line = text.count("\n", 0, block.start()) + 1
                found.append(pytest.param(block[1], id=f"{name_of(page)}:{line}"))
    return found


@pytest.mark.parametrize("text", pipelines_in_pages())
def test_every_pipeline_in_a_page_is_one(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(text, "utf-8")
    assert load_pipeline(path).corpora


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").rglob("*.yaml")), ids=name_of)
def test_every_recipe_is_a_pipeline(path: Path) -> None:
    assert load_pipeline(path).corpora


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file(page: Path) -> None:
    for link in LINK.findall(page.read_text("utf-8")):
        place = link.partition("#")[0]
        if place and not re.match(r"[a-z]+:", place):
            assert (page.parent / place).exists(), f"{name_of(page)}: {link}"


@pytest.mark.parametrize("page", NARROW, ids=name_of)
def test_no_line_is_too_wide(page: Path) -> None:
    lines = page.read_text("utf-8").splitlines()
    # A row of a table cannot be broken.
    told = [line for line in lines if not line.startswith("| ")]
    wide = [line for line in told if len(line) > 120]
    assert not wide, f"{name_of(page)}: {wide}"


def test_reliability_names_a_test_for_every_fault() -> None:
    page = (ROOT / "docs/reliability.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d*) \| (.*) \| (.*) \| (.*) \| (.*) \|$", page, re.MULTILINE)
    assert [int(row[0]) for row in rows if row[0]] == [*range(1, 23)]
    for row in rows:
        assert all(row[1:]), row
        files = re.findall(r"`(test_\w+\.py)`", row[3])
        assert files, row
    for file in re.findall(r"`(test_\w+\.py)", page):
        assert (ROOT / "tests" / file).is_file(), file
