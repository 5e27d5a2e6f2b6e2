"""The table of parameters by module, as a function and as a command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import nn

from kdpipe.cli import main
from kdpipe.parameters import Row, as_table, parameter_table
from tests.tiny import tiny_encoder, tiny_teacher_folder


class Tied(nn.Module):
    """A table of 10 x 4 that is read and written, and a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 4)
        self.body = nn.Sequential(nn.Linear(4, 5), nn.Dropout(), nn.Linear(5, 4, bias=False))
        self.said = nn.Linear(4, 10)
        self.said.weight = self.words.weight
        self.scale = nn.Parameter(self.said.bias.new_zeros(5))
        self.body[0].weight.requires_grad_(False)


def test_shared_weights_count_once_and_parts_add_up() -> None:
    assert parameter_table(Tied()) == [
        Row("", 100, 1.0, 80),
        Row("words", 40, 0.4, 40),
        Row("body", 45, 0.45, 25),
        Row("body.0", 25, 0.25, 5),
        Row("body.2", 20, 0.2, 20),
        Row("said", 10, 0.1, 10),
    ]


def test_depth_is_the_number_of_names() -> None:
    assert [row.name for row in parameter_table(Tied(), depth=0)] == [""]
    assert [row.name for row in parameter_table(Tied(), depth=1)] == ["", "words", "body", "said"]
    assert parameter_table(Tied(), depth=9) == parameter_table(Tied(), depth=2)


def test_a_model_without_parameters_is_one_row() -> None:
    assert parameter_table(nn.ReLU()) == [Row("", 0, 0.0, 0)]


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_rows_agree_with_the_modules_of_a_transformer(family: str) -> None:
    model = tiny_encoder(family=family).model
    modules = dict(model.named_modules())
    rows = parameter_table(model, depth=4)
    assert len(rows) > 10
    for row in rows:
        count = sum(parameter.numel() for parameter in modules[row.name].parameters())
        assert (row.parameters, row.trainable) == (count, count)
        assert row.share == count / rows[0].parameters


def test_rows_of_a_table_are_indented() -> None:
    names = [*as_table(parameter_table(Tied())).columns[0].cells]
    assert names == ["all", "  words", "  body", "    0", "    2", "  said"]


def shown(text: str) -> list[list[str]]:
    """The words of each line below the rule."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    return lines[2:]


def test_the_command_shows_a_folder(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_teacher_folder(project / "teacher")
    assert main(["parameters", "teacher"]) == 0
    lines = shown(capsys.readouterr().out)
    # 258 words, 64 positions, 2 types, each of 32; gains and biases.
    embeddings = (258 + 64 + 2) * 32 + 64
    layer = 4 * (32 * 32 + 32) + 2 * 32 * 64 + 64 + 32 + 4 * 32
    total = embeddings + 2 * layer + 32 * 32 + 32
    share = f"{100 * embeddings / total:.1f}"
    assert lines[0] == ["all", f"{total:,}", "100.0", "%", f"{total:,}"]
    assert lines[1] == ["embeddings", f"{embeddings:,}", share, "%", f"{embeddings:,}"]
    assert [line[0] for line in lines] == [
        *("all", "embeddings", "word_embeddings", "position_embeddings", "token_type_embeddings"),
        *("LayerNorm", "encoder", "layer", "pooler", "dense"),
    ]
    assert main(["parameters", "teacher", "--depth", "1"]) == 0
    lines = shown(capsys.readouterr().out)
    assert [line[0] for line in lines] == ["all", "embeddings", "encoder", "pooler"]


def test_dense_modules_are_counted_too(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_teacher_folder(project / "teacher")
    modules = json.loads((folder / "modules.json").read_text("utf-8"))
    dense = modules[1] | {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    (folder / "modules.json").write_text(json.dumps([*modules[:2], dense]), "utf-8")
    (folder / "2_Dense").mkdir()
    config = {"in_features": 32, "out_features": 8, "activation_function": "torch.nn.Tanh"}
    (folder / "2_Dense" / "config.json").write_text(json.dumps(config), "utf-8")
    linear = nn.Linear(32, 8).state_dict()
    weights = {f"linear.{name}": value for name, value in linear.items()}
    save_file(weights, folder / "2_Dense" / "model.safetensors")
    assert main(["parameters", "teacher", "--depth", "1"]) == 0
    lines = shown(capsys.readouterr().out)
    assert [line[0] for line in lines] == ["all", "model", "dense"]
    assert lines[2][1] == "264"


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["nowhere"], 3, "nowhere is not on this disk and the hub cannot be reached: "),
        (["empty"], 3, "empty has no config.json: it is not a Hugging Face model folder"),
        (["empty", "--depth", "-1"], 2, "Invalid value for '--depth': "),
    ],
)
def test_mistakes_are_one_line(
    project: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, line: str
) -> None:
    (project / "empty").mkdir()
    assert main(["parameters", *words]) == code
    said = capsys.readouterr().err
    assert said.startswith(f"kdpipe: error: {line}")
    assert said.count("\n") == 1
