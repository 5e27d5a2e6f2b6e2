"""A student of the shape that a config.json gives, and what such a file cannot do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

from kdpipe.cli import main
from kdpipe.dvc import stages
from kdpipe.errors import ArtifactError, KdpipeError, UsageError
from kdpipe.project import open_project
from kdpipe.students import FromShape
from tests.small import SEQUENCE, TRAIN, run, write
from tests.tiny import tiny_tokenizer

CONFIG = {
    "model_type": "roberta",
    "architectures": ["RobertaForSequenceClassification"],
    "auto_map": {"AutoModel": "modeling_evil.Evil"},
    "_attn_implementation": "someone/kernel",
    "dtype": "float16",
    "vocab_size": 9,
    "pad_token_id": 1,
    "num_hidden_layers": 2,
    "hidden_size": 24,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "hidden_dropout_prob": 0.25,
    "id2label": {"0": "x", "1": "y", "2": "z"},
    "output_hidden_states": True,
    "gradient_checkpointing": False,
}


def config(**changes: Any) -> None:
    Path("config.json").write_text(json.dumps(CONFIG | changes))


def built(**keys: Any) -> PreTrainedModel:
    student = FromShape.model_validate({"kind": "shape", "config_file": "config.json", **keys})
    return student.build(None, tiny_tokenizer())


def refused(kind: type[KdpipeError], **keys: Any) -> str:
    with pytest.raises(kind) as caught:
        built(**keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.usefixtures("project")
def test_a_file_gives_the_shape_and_the_corpus_the_rest() -> None:
    config()
    model, tokenizer = built(), tiny_tokenizer()
    made = model.config
    assert type(model).__name__ == "RobertaModel"
    sizes = (made.num_hidden_layers, made.hidden_size, made.intermediate_size)
    assert sizes == (2, 24, 16)
    assert (made.hidden_dropout_prob, made.num_attention_heads) == (0.25, 2)
    assert made.max_position_embeddings == 512
    assert (made.vocab_size, made.pad_token_id) == (tokenizer.vocabulary, tokenizer.pad_id)
    assert (made.num_labels, made.output_hidden_states) == (2, False)
    assert str(model.dtype) == "torch.float32"
    assert made._attn_implementation in {"eager", "sdpa"}
    assert not hasattr(made, "auto_map")


@pytest.mark.usefixtures("project")
def test_keys_of_the_section_are_stronger() -> None:
    config()
    made = built(num_hidden_layers=1, hidden_size=32).config
    assert (made.model_type, made.num_hidden_layers, made.hidden_size) == ("roberta", 1, 32)
    assert built(model_type="electra").config.model_type == "electra"
    config(model_type=None)
    assert built(model_type="bert").config.hidden_size == 24


@pytest.mark.usefixtures("project")
def test_what_a_file_cannot_say() -> None:
    config(model_type=None)
    assert refused(ArtifactError) == (
        "config.json names no model type: set model_type beside config_file"
    )
    config(model_type="evil-type")
    assert refused(UsageError).startswith("model_type 'evil-type' is not known to transformers;")
    config(hidden_size="wide")
    assert refused(UsageError) == (
        "config of the student: TypeError: Field 'hidden_size' expected int, got str (value:"
        " 'wide')"
    )
    config(num_attention_heads=5)
    assert refused(UsageError).startswith("the student's shape cannot be built: The hidden size")
    config(hidden_act="softest")
    assert refused(UsageError) == "the student's shape cannot be built: 'softest'"
    Path("config.json").write_text("[]")
    assert refused(ArtifactError).startswith("config.json is not a JSON object")
    assert refused(UsageError, config_file=None, hiden_size=4) == (
        "a 'bert' model has no config key 'hiden_size'; did you mean 'hidden_size'?"
    )


def test_another_file_makes_another_student(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = {"kind": "shape", "config_file": "config.json"}
    student = SEQUENCE | {"model": model, "train": TRAIN | {"max_steps": 2}}
    write(project, {"s": student})
    run("tokenize", "p.yaml", "reviews")
    assert main(["train", "p.yaml"]) == 3
    told = "config.json does not exist: check 'config_file' of the student's model"
    assert told in capsys.readouterr().err
    config()
    for told, changes in (("best at", {}), ("up to date", {}), ("best at", {"hidden_size": 16})):
        config(**changes)
        run("train", "p.yaml")
        assert told in capsys.readouterr().err
    folder = project / "artifacts/students/s"
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == 16
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["inputs"]["config"].startswith("sha256:")
    found = stages(open_project(Path("p.yaml")).pipeline, Path("p.yaml"), Path())
    assert "config.json" in found["train-s"]["deps"]
