"""What any module gives for a token, taken by its name, and modules that give no such thing."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from kdpipe import job, train
from kdpipe.activations import Tokens
from kdpipe.encoder import Encoder, observe
from kdpipe.errors import UsageError
from kdpipe.parts import Part
from kdpipe.project import open_project
from tests.ends import Capture, command, fails
from tests.reader import read_manifest
from tests.small import TOKEN, write
from tests.test_taps import encoder, tokens
from tests.tiny import tiny_encoder
from tests.vectors import FILE, HEAD, SHAPE, TRAIN, begun

NAMES = {
    "bert": ("embeddings", "encoder.layer.1.intermediate", "encoder.layer.2.attention"),
    "distilbert": ("transformer.layer.1.ffn.lin1", "transformer.layer.2"),
    "modernbert": ("layers.1.mlp.Wi", "layers.2.attn", "final_norm"),
    "mpnet": ("encoder.layer.1.intermediate", "encoder"),
}
WIDE = "encoder.layer.1.intermediate"


def part(name: str) -> Part:
    return Part("module", module=name)


def by_hand(one: Encoder, name: str, rows: Tokens) -> torch.Tensor:
    """The first thing that the module gives, taken by a hook of torch."""
    found: list[Any] = []
    module = one.base.get_submodule(name)
    handle = module.register_forward_hook(lambda module, inputs, output: found.append(output))
    with torch.no_grad():
        one.base(input_ids=rows.padded(0), attention_mask=rows.mask().long())
    handle.remove()
    (output,) = found
    states: torch.Tensor = output if isinstance(output, torch.Tensor) else output[0]
    return states[rows.mask()]


@pytest.mark.parametrize("family", NAMES)
def test_modules_give_what_they_give(family: str) -> None:
    one, rows = encoder(family), tokens(5, 9, 2)
    said = observe(one, rows, frozenset(map(part, NAMES[family])), "fp32")
    for name in NAMES[family]:
        wanted = by_hand(one, name, rows)
        assert wanted.shape == (16, one.module_width(name))
        torch.testing.assert_close(said[part(name)], wanted, rtol=0, atol=1e-6)


def test_what_is_taken_is_not_changed_in_place_afterwards() -> None:
    rows = tokens(5, 9, 2)
    wanted = observe(encoder("bert"), rows, frozenset({part(WIDE)}), "fp32")[part(WIDE)]
    one = encoder("bert")
    one.module_width(WIDE)
    one.base.get_submodule(WIDE).register_forward_hook(lambda m, i, o: o.add_(1.0))
    found = observe(one, rows, frozenset({part(WIDE)}), "fp32")[part(WIDE)]
    assert torch.equal(found, wanted)


def test_passes_in_several_threads_do_not_mix() -> None:
    one, rows = encoder("bert"), [tokens(n, n + 1) for n in range(1, 20)]
    needs = frozenset(map(part, NAMES["bert"]))
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda row: observe(one, row, needs, "fp32"), rows))
    for row, said in zip(rows, together, strict=True):
        alone = observe(one, row, needs, "fp32")
        for wanted in needs:
            torch.testing.assert_close(alone[wanted], said[wanted], rtol=0, atol=1e-5)


def test_a_width_is_found_without_a_trace() -> None:
    one = tiny_encoder().train()
    one.model.embeddings.eval()
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    assert one.dims.width(part(WIDE)) == 64
    assert torch.equal(torch.rand(1), wanted)
    assert one.training
    assert not one.model.embeddings.training
    assert one.model.encoder.training
    assert all(parameter.grad is None for parameter in one.parameters())


def test_gradients_reach_the_module_and_those_below() -> None:
    one = encoder("bert")
    one(tokens(4, 3), frozenset({part(WIDE)}))[part(WIDE)].sum().backward()
    grads = [
        one.base.get_parameter(f"encoder.layer.{n}.intermediate.dense.weight").grad
        for n in range(3)
    ]
    assert [grad is not None and bool(grad.abs().sum()) for grad in grads] == [True, True, False]


REMEDY = "name one that is called once and gives a vector for each token, or use hidden states"


@pytest.mark.parametrize(
    ("family", "name", "wanted"),
    [
        (
            "bert",
            "encoder.layers.1.intermediate",
            "there is no module 'encoder.layers.1.intermediate' in a 'bert' model: did you mean"
            " 'encoder.layer.1.intermediate' or",
        ),
        ("bert", "xyz", "there is no module 'xyz' in a 'bert' model: names are those of its"),
        (
            "bert",
            "pooler",
            f"module pooler gives the shape [2, 24] for 2 rows of 3 tokens: {REMEDY}",
        ),
        (
            "bert",
            "embeddings.position_embeddings",
            "module embeddings.position_embeddings gives the shape [1, 3, 24] for 2 rows of 3 tok",
        ),
        ("bert", "encoder.layer", f"module encoder.layer takes no part in a pass: {REMEDY}"),
        (
            "albert",
            "encoder.albert_layer_groups.0.albert_layers.0.ffn",
            "module encoder.albert_layer_groups.0.albert_layers.0.ffn is called several times in a"
            f" pass: {REMEDY}",
        ),
    ],
)
def test_a_module_that_cannot_be_matched(family: str, name: str, wanted: str) -> None:
    one = encoder(family)
    with pytest.raises(UsageError) as error:
        one.module_width(name)
    assert str(error.value).startswith(wanted)
    with pytest.raises(UsageError) as error:
        observe(one, tokens(4, 2), frozenset({part(name)}), "fp32")
    assert str(error.value)[:30] == wanted[:30]
    assert observe(one, tokens(4), frozenset({Part("hidden", 1)}), "fp32")


# from the command line


STUDENTS = """\
teachers:
  tiny: {{model: teacher}}
caches:
  mine: {{corpus: text, teacher: tiny, dtype: fp32, targets: [{targets}]}}
students:
  small: {{caches: [mine], model: {shape}, objectives: [{objectives}], train: {train}}}
"""
TARGET = "{kind: modules, names: [encoder.layer.1.intermediate, embeddings]}"
OBJECTIVE = "{kind: modules, names: {encoder.layer.0.output: encoder.layer.1.intermediate}}"


def of_modules(targets: str = TARGET, objectives: str = OBJECTIVE) -> None:
    rest = STUDENTS.format(targets=targets, objectives=objectives, shape=SHAPE, train=TRAIN)
    FILE.write_text(HEAD + rest)


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    disable_progress_bar()
    return begun(project, monkeypatch)


def test_a_student_of_modules_is_trained_by_a_cache(here: Path, capsys: Capture) -> None:
    of_modules()
    command(["tokenize", str(FILE)])
    facts = open_project(FILE).corpus("text").facts
    capsys.readouterr()
    command(["cache-teacher", "--dry-run", str(FILE)])
    out = capsys.readouterr().out
    widths = {"module.encoder.layer.1.intermediate.fp16": 64, "module.embeddings.fp16": 32}
    for name, width in widths.items():
        (line,) = (line for line in out.splitlines() if name in line)
        cells = [cell.strip() for cell in line.split("│")[1:-1]]
        # With the digest of each row and how many vectors it has.
        size = 2 * width * facts.tokens + 20 * facts.rows
        assert cells[4:6] == [f"{size / facts.tokens:,.0f}", f"{size:,}"]
    for stage in ("cache-teacher", "train"):
        command([stage, str(FILE)])
    manifest, _ = read_manifest(here / "artifacts/caches/mine")
    assert manifest["facts"]["widths"] == widths
    assert manifest["facts"]["questions"] == [
        {"part": "module", "layer": None, "storage": "fp16", "module": name}
        for name in ("embeddings", "encoder.layer.1.intermediate")
    ]
    assert manifest["files"][1]["name"].startswith("module.encoder.layer.1.intermediate.fp16-")
    maps = load_file("artifacts/students/small/projections.safetensors")
    assert maps["0-modules.encoder-layer-0-output.weight"].shape == (64, 32)
    # Another module is another shard, and those that are there stay.
    of_modules(TARGET.replace("[", "[encoder.layer.0.output, "))
    capsys.readouterr()
    command(["cache-teacher", "--dry-run", str(FILE)])
    lines = capsys.readouterr().out.splitlines()
    assert sum("all found" in line for line in lines) == 2


def test_what_cannot_be_matched_is_told_before_the_first_step(here: Path, capsys: Capture) -> None:
    of_modules(TARGET.replace("embeddings", "pooler"))
    command(["tokenize", str(FILE)])
    capsys.readouterr()
    assert fails(capsys, ["cache-teacher", str(FILE)], 2) == (
        f"module pooler gives the shape [2, 32] for 2 rows of 3 tokens: {REMEDY}"
    )
    of_modules()
    command(["cache-teacher", str(FILE)])
    for objective, code, wanted in (
        (
            OBJECTIVE.replace("layer.1.inter", "layer.0.inter"),
            3,
            "artifacts/caches/mine lacks module encoder.layer.0.intermediate: add it to a target of"
            " kind: modules and run 'kdpipe cache-teacher'",
        ),
        (
            OBJECTIVE.replace("layer.0.output", "layer.7.output"),
            2,
            "there is no module 'encoder.layer.7.output' in a 'bert' model: did you mean",
        ),
        (
            OBJECTIVE.replace("}}", "}, projection: none}"),
            2,
            "projection 'none' needs equal widths, the student has 32 and the teacher 64: use",
        ),
        (
            "{kind: modules, names: {a b: c}}",
            2,
            "p.yaml:12: students.small.objectives.0.names.a b: String should match pattern",
        ),
    ):
        of_modules(objectives=objective)
        capsys.readouterr()
        assert fails(capsys, ["train", str(FILE)], code).startswith(wanted)


@pytest.mark.slow
# torch looks at every tensor where a compiled pass is cut, as it is at a tap.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_a_compiled_student_gives_them_too(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Traced as usual, but run by torch: the compiler takes minutes.
    compiled_by = functools.partialmethod(nn.Module.compile, backend="eager")
    monkeypatch.setattr(PreTrainedModel, "compile", compiled_by)
    monkeypatch.setattr(torch._dynamo.config, "skip_nnmodule_hook_guards", True)
    shape = SHAPE.replace("layers: 1", "layers: 2")
    objective = OBJECTIVE.replace("layer.0.output", "layer.1.intermediate")
    found = []
    for compiled in ("false", "true"):
        of_modules(objectives=objective)
        text = FILE.read_text().replace(SHAPE, shape)
        FILE.write_text(text.replace("max_steps: 4", f"max_steps: 2, torch_compile: {compiled}"))
        if not found:
            command(["tokenize", str(FILE)])
            command(["cache-teacher", str(FILE)])
        project = open_project(FILE)
        work = job.prepare(project, "small", *project.inputs("small"), "cpu")
        found.append([step.loss for step in train.fit(work.run)])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_modules_of_a_net_of_words(project: Path) -> None:
    model = {"kind": "cnn_lstm", "word_width": 8, "hidden_size": 6}
    place = write(project, {"s": {**TOKEN, "corpus": "tags-by-words", "model": model}})
    command(["tokenize", "p.yaml", "tags-by-words"])
    student, _ = job.untrained(place, "s", place.corpus("tags-by-words"))
    names = [name for name, _ in student.base.named_modules()]
    assert student.module_width(next(name for name in names if name.endswith("words"))) == 8
