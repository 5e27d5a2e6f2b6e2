"""What the pages for newcomers from other systems say is so: tests, snippets, code and claims."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from pydantic import BaseModel, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from torch import nn
from transformers import CONFIG_MAPPING

from kdpipe import cli, job, losses, predict, train, write_student
from kdpipe.activations import Activations
from kdpipe.job import Job
from kdpipe.objectives.base import Pairing, Seen
from kdpipe.parts import EMBEDDING
from kdpipe.pipeline import Pipeline
from kdpipe.project import Project
from kdpipe.sources.row import Row
from tests.pieces import make_cache, make_corpus, new_project, sentences
from tests.test_docs import ALL
from tests.tiny import tiny_teacher_folder

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "coming-from.md"
PAGES = [TABLE, *sorted((ROOT / "docs" / "coming-from").glob("*.md"))]
SPAN = re.compile(r"`([^`\n]+)`")
NAMED_TEST = re.compile(r"(tests/\w+\.py)::(\w+)")
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
KEYS = re.compile(r"[a-z_0-9]+:( |$)|\{")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def spans(page: Path) -> list[str]:
    """All code spans outside of blocks."""
    return SPAN.findall(FENCED.sub("", page.read_text("utf-8")))


# the table


class Line(NamedTuple):
    """A row of the table of features, with what stands in the lines below it."""

    feature: str
    answer: str
    how: str


def features() -> list[Line]:
    found: list[Line] = []
    for line in TABLE.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) != 3 or cells[0] in {"Feature", "---"}:
            continue
        if cells[0]:
            found.append(Line(*cells))
        else:
            found[-1] = found[-1]._replace(how=f"{found[-1].how} {cells[2]}")
    return found


def test_every_feature_is_proved_or_is_not_there_yet() -> None:
    lines = features()
    assert len(lines) == 71
    assert len({line.feature for line in lines}) == len(lines)
    for line in lines:
        assert line.answer in {"yes", "not yet"}, line.feature
        if line.answer == "yes":
            assert NAMED_TEST.search(line.how), line.feature
            assert "not yet" not in line.how, line.feature
        else:
            assert "none of the five has it" in line.how.lower(), line.feature


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_named_test_is_there(page: Path) -> None:
    for path, name in NAMED_TEST.findall(page.read_text("utf-8")):
        assert (ROOT / path).is_file(), path
        tree = ast.parse((ROOT / path).read_text("utf-8"))
        there = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in there, f"{path} has no {name}"


# snippets


def accepts(model: type[BaseModel], value: Any) -> bool:
    try:
        model.model_validate(value)
    except ValidationError:
        return False
    return True


def fits(key: str, value: Any) -> bool:
    """Whether any section of a pipeline file has this key and takes this value."""
    models: list[type[BaseModel]] = [Pipeline, *(section.model for section in ALL)]
    for model in models:
        field = model.model_fields.get(key)
        if field is not None:
            adapter: TypeAdapter[Any] = TypeAdapter(field.rebuild_annotation())
            try:
                adapter.validate_python(value)
            except ValidationError:
                continue
            return True
    return False


def is_valid(text: str) -> bool:
    """A mapping with a kind is one of its union; of any other, each key is one of some section."""
    found = YAML(typ="safe", pure=True).load(text)
    if not isinstance(found, dict):
        return False
    if "kind" in found:
        return any(accepts(section.model, found) for section in ALL)
    return all(fits(key, value) for key, value in found.items())


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_snippet_is_valid(page: Path) -> None:
    checked = 0
    for text in spans(page):
        if KEYS.match(text):
            try:
                assert is_valid(text), f"{name_of(page)}: {text}"
            except YAMLError as error:
                pytest.fail(f"{name_of(page)}: {text}: {error}")
            checked += 1
    assert checked > 5


def test_what_is_no_snippet_is_found() -> None:
    assert is_valid("{kind: logits, loss: ce, temperature: 8.0}")
    assert is_valid("train: {learning_rate: 1e-4, max_grad_norm: 0}")
    assert is_valid("weight: [[0.0, 1.0], [1.0, 0.0]]")
    assert not is_valid("{kind: logits, loss: cosine}")
    assert not is_valid("{kind: logit}")
    assert not is_valid("train: {learnin_rate: 1e-4}")
    assert not is_valid("temperatur: 8.0")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_and_function_is_there(page: Path) -> None:
    stages = cli.stages()
    for text in spans(page):
        words = text.split()
        if words[0] == "kdpipe" and len(words) > 1:
            assert words[1] in stages, text
        if text.startswith("losses."):
            place: Any = losses
            for name in text.partition("(")[0].split(".")[1:]:
                assert hasattr(place, name), text
                place = getattr(place, name)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages_are_short_and_plain(page: Path) -> None:
    text = page.read_text("utf-8")
    assert text.isascii()
    assert len(text.splitlines()) <= 400


# claims that have no other test


SETTINGS = {"max_steps": 3, "tokens_per_batch": 256, "bf16": False}


def prepared(root: Path, student: dict[str, Any], **sections: Any) -> tuple[Project, Job]:
    """A tiny project with all caches made, and the job of its student."""
    spec = {"caches": ["said"], "train": SETTINGS} | student
    place = new_project(root, sentences(60), students={"s": spec}, **sections)
    corpus = make_corpus(place)
    for name in place.pipeline.caches:
        make_cache(place, corpus, name)
    return place, job.prepare(place, "s", *place.inputs("s"), "cpu")


LAYERS = {"kind": "teacher_layers", "layers": [1, 4]}
SHAPE = {
    "kind": "shape",
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "embedding_size": 8,
}
BOTTLENECK = {"intra_bottleneck_size": 8, "true_hidden_size": 8}


@pytest.mark.parametrize(
    "model",
    [
        SHAPE | {"model_type": "albert", "num_hidden_groups": 1},
        SHAPE | {"model_type": "mobilebert"} | BOTTLENECK,
    ],
    ids=lambda model: model["model_type"],
)
def test_students_of_the_keras_repository_train(project: Path, model: dict[str, Any]) -> None:
    objectives = [{"kind": "hidden", "layers": "uniform", "share_projection": True}]
    _, work = prepared(
        project,
        {"model": model, "objectives": objectives},
        caches={"said": every_layer("tiny")},
    )
    first, *_, last = train.fit(work.run)
    assert (first.number, last.number) == (1, 3)
    assert work.run.student.dims.layers == 3
    assert work.run.student.model.config.model_type == model["model_type"]


def every_layer(teacher: str) -> dict[str, Any]:
    targets = [{"kind": "embedding"}, {"kind": "hidden", "layers": [0, 1, 2, 3, 4]}]
    return {"corpus": "text", "teacher": teacher, "dtype": "fp32", "targets": targets}


def test_features_of_two_teachers_are_learned_each_from_its_own_cache(project: Path) -> None:
    tiny_teacher_folder(project / "other", layers=3, width=16, seed=7)
    hidden = [
        {"kind": "hidden", "layers": {1: 2, 2: 4}, "cache": "said"},
        {"kind": "hidden", "layers": {2: 3}, "cache": "more", "weight": 0.5},
        {"kind": "embedding", "cache": "said"},
    ]
    targets = [{"kind": "hidden", "layers": [3]}]
    more = {"corpus": "text", "teacher": "other", "dtype": "fp32", "targets": targets}
    _, work = prepared(
        project,
        {"caches": ["said", "more"], "model": LAYERS, "objectives": hidden},
        teachers={"other": {"model": "other"}},
        caches={"said": every_layer("tiny"), "more": more},
    )
    widths = {name: tuple(one.weight.shape) for name, one in linear_maps(work.run.terms)}
    assert widths == {"0-hidden.1": (32, 32), "0-hidden.2": (32, 32), "1-hidden.2": (16, 32)}
    *_, last = train.fit(work.run)
    assert last.loss == pytest.approx(
        last.losses["0-hidden"] + 0.5 * last.losses["1-hidden"] + last.losses["2-embedding"]
    )


def linear_maps(terms: nn.Module) -> list[tuple[str, nn.Linear]]:
    found = terms.named_modules()
    return [(name.partition(".")[2], one) for name, one in found if isinstance(one, nn.Linear)]


def test_student_and_projections_are_clipped_together(project: Path) -> None:
    settings = SETTINGS | {"max_steps": 1, "warmup_steps": 0.0, "max_grad_norm": 0.01}
    objectives = [{"kind": "hidden", "layers": {1: 2}}]
    _, work = prepared(project, {"model": LAYERS, "objectives": objectives, "train": settings})
    (step,) = train.fit(work.run)
    assert step.grad_norm > 0.01
    of_terms = {id(parameter) for parameter in work.run.terms.parameters()}
    means = {id(p): state["exp_avg"] for p, state in work.run.optimizer.state.items()}
    assert of_terms <= means.keys()
    # After one step the mean is (1 - adam_beta1) times the gradient.
    norm = torch.stack([mean.norm() for mean in means.values()]).norm()
    assert float(norm) == pytest.approx(0.1 * 0.01, rel=1e-4)


def test_weights_of_schedules_are_the_weights_themselves(project: Path) -> None:
    """Where TextBrewer's schedules replace a weight by one between 1 and 0."""
    weight = [[0.0, 5.0], [1.0, 0.0]]
    objectives = [{"kind": "embedding", "loss": "cosine", "weight": weight}]
    _, work = prepared(project, {"model": LAYERS, "objectives": objectives})
    seen = [step.loss / step.losses["0-embedding"] for step in train.fit(work.run)]
    assert seen == pytest.approx([5.0, 2.5, 0.0])


# the code on the pages


def run_code(page: str, number: int, names: dict[str, Any]) -> dict[str, Any]:
    """A block of Python on a page, run as it stands there."""
    text = (ROOT / "docs" / "coming-from" / page).read_text("utf-8")
    code = compile(PYTHON_BLOCK.findall(text)[number], page, "exec")
    # Annotations of models are looked up where the module's names are.
    names |= {"__name__": "page"}
    exec(code, names)
    return names


def test_a_list_of_texts_becomes_a_student(project: Path) -> None:
    tiny_teacher_folder(project / "teacher", layers=2, width=16)
    names = {"texts": [*sentences(40), "Two\nlines."], "teacher": "teacher"}
    made = run_code("langformers.md", 0, names)["pipeline"]
    assert Pipeline.model_validate(made).students["mimic"].train.num_train_epochs == 10
    subject = predict.open_subject(project / "artifacts/students/mimic", "cpu")
    assert subject.encoder.model.config.model_type == "roberta"
    assert predict.embeddings(subject, [Row("The cat sleeps.")]).shape == (1, 16)


def test_the_objective_of_the_page_trains(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, _ = prepared(project, {"model": LAYERS, "objectives": [{"kind": "embedding"}]})
    dumped = place.pipeline.model_dump(mode="json", exclude_unset=True)
    dumped["students"]["small"] = dumped["students"].pop("s")
    with (project / "pipeline.yaml").open("w") as file:
        YAML(typ="safe", pure=True).dump(dumped, file)
    names = run_code("textbrewer.md", 0, {})
    work = names["work"]
    assert [term.name for term in work.run.terms.terms] == ["0-huber", "1-embedding"]
    assert "huber" in capsys.readouterr().out
    assert '"delta": 0.5' in (project / "artifacts/students/small-huber/kdpipe.json").read_text()
    subject = predict.open_subject(project / "artifacts/students/small-huber", "cpu")
    assert predict.embeddings(subject, [Row("The cat sleeps.")]).shape == (1, 32)
    said = [Activations(torch.ones(3).long(), {EMBEDDING: torch.randn(3, 4)}) for _ in range(2)]
    dims = work.run.student.dims
    found = names["Huber"](delta=0.5).compute(Seen(*said), Pairing(dims, dims), nn.ModuleDict())
    wanted = nn.functional.huber_loss(said[0][EMBEDDING], said[1][EMBEDDING], delta=0.5)
    assert torch.equal(found, wanted)


def test_the_model_of_the_page_trains(project: Path) -> None:
    try:
        names = run_code("textbrewer.md", 1, {})
        assert CONFIG_MAPPING["bag-of-words"] is names["BagConfig"]
        model = {"kind": "shape", "model_type": "bag-of-words", "hidden_size": 24}
        objectives = [{"kind": "embedding"}, {"kind": "hidden", "layers": {1: 2}}]
        place, work = prepared(project, {"model": model, "objectives": objectives})
        before = work.run.student.model.words.weight.clone()
        assert job.carry_out(work, project / "runs") is None
        assert not torch.equal(before, work.run.student.model.words.weight)
        write_student.write_student(place, "s", work, {})
        subject = predict.open_subject(place.student_folder("s"), "cpu")
        assert predict.embeddings(subject, [Row("The cat sleeps.")]).shape == (1, 32)
    finally:
        CONFIG_MAPPING._extra_content.pop("bag-of-words", None)
