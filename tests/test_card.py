from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from kdpipe.activations import Tokens
from kdpipe.card import CardFacts, facts_of, license_of, model_card, write_card
from kdpipe.encoder import Dense, Encoder, ask, embed
from kdpipe.folder import write_model
from kdpipe.load import load_encoder
from kdpipe.modules import POOLINGS, HeadSpec
from kdpipe.parts import TOKEN_LOGITS
from kdpipe.tokenizer import Text
from tests.masked import masked_folder
from tests.tiny import tiny_encoder, tiny_headed_folder, tiny_tokenizer

USED = ["The cat sleeps.", "A cat is asleep."]
PAGE = """\
---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
license: apache-2.0
base_model: some-owner/big-teacher
tags:
- sentence-transformers
- sentence-similarity
- feature-extraction
- knowledge-distillation
- kdpipe
---

# small

A text encoder with 3 layers and 17,369,472 parameters: it turns a text of up to 128 tokens into \
384 numbers, so that texts of like meaning get vectors with a high cosine. It learned this from \
some-owner/big-teacher, by knowledge distillation with kdpipe 0.1.0.

## Measured

On held-out texts during training: eval_loss 0.01235, eval_cosine 0.9877.

## Use

With sentence-transformers:

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/small")
vectors = model.encode(["The cat sleeps.", "A cat is asleep."])
print(model.similarity(vectors, vectors))
```

With transformers alone:

```python
import torch
from transformers import AutoModel, AutoTokenizer

folder = "path/to/small"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModel.from_pretrained(folder).eval()
texts = ["The cat sleeps.", "A cat is asleep."]
batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
with torch.inference_mode():
    states = model(**batch).last_hidden_state
mask = batch["attention_mask"].unsqueeze(-1)
vectors = (states * mask).sum(1) / mask.sum(1)
vectors = torch.nn.functional.normalize(vectors, dim=-1)
```

## How it was made

- Teacher: some-owner/big-teacher
- Texts: 18,000 with 432,100 tokens; 360 were held out
- Start: teacher_layers (layers [1, 3, 6])
- Objective: embedding (weight 1, loss cosine)
- Objective: hidden (weight [[0, 1], [0.5, 0]], layers 1: 2, 3: 6, loss mse)
- Training: 1,200 steps, the weights are those after step 1,100
- All settings and digests: `kdpipe.json`
"""


def story(model: str = "some-owner/big-teacher", **training: Any) -> dict[str, Any]:
    """What kdpipe.json says of a student."""
    return {
        "kdpipe": "0.1.0",
        "student": {
            "name": "small",
            "model": {"kind": "teacher_layers", "layers": [1, 3, 6], "config": {}},
            "objectives": [
                {"kind": "embedding", "weight": 1.0, "cache": None, "loss": "cosine"},
                {
                    "kind": "hidden",
                    "weight": [[0.0, 1.0], [0.5, 0.0]],
                    "layers": {"1": 2, "3": 6},
                    "loss": "mse",
                },
            ],
            "train": {"load_best_model_at_end": True},
        },
        "teacher": {"model": model, "identity": "0" * 64, "license": "apache-2.0"},
        "corpus": {
            "rows": 18_000,
            "held_out": 360,
            "tokens": 432_100,
            "max_seq_length": 128,
            "prompt": "",
        },
        "training": {
            "steps": 1200,
            "best_step": 1100,
            "measured": {"eval_loss": 0.012345, "eval_cosine": 0.98765},
        }
        | training,
        "shape": {"layers": 3, "hidden": 384, "embedding": 384, "parameters": 17_369_472}
        | {"head": None, "problem": None, "classes": []},
    }


def student(folder: Path, head: HeadSpec, prompt: str = "", dense: tuple[str, ...] = ()) -> Encoder:
    """A tiny student with this head, written into `folder`."""
    layers, width = [], 32 * len(head.pooling)
    torch.manual_seed(5)
    for index, activation in enumerate(dense):
        layers.append(Dense(width, 12, bias=index == 0, activation=activation))
        width = 12
    encoder = Encoder(tiny_encoder().model, head, layers).eval()
    write_model(folder, encoder, tiny_tokenizer(), max_seq_length=32, prompt=prompt)
    return encoder


def test_the_whole_page(tmp_path: Path) -> None:
    student(tmp_path, HeadSpec(normalize=True))
    facts = facts_of(tmp_path, story(), "")
    assert model_card(facts) == PAGE
    write_card(tmp_path, story(), table="")
    assert (tmp_path / "README.md").read_text() == PAGE
    write_card(tmp_path, story(), table="| who | cosine |\n|---|---|\n| student | 0.9 |\n\n")
    page = (tmp_path / "README.md").read_text()
    table = "| who | cosine |\n|---|---|\n| student | 0.9 |"
    held_out = "On held-out texts during training: eval_loss 0.01235, eval_cosine 0.9877."
    assert page == PAGE.replace(held_out, table)


def test_the_front_matter_is_yaml(tmp_path: Path) -> None:
    student(tmp_path, HeadSpec())
    matter = model_card(facts_of(tmp_path, story(), "")).split("---\n")[1]
    assert YAML(typ="safe").load(matter) == {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "license": "apache-2.0",
        "base_model": "some-owner/big-teacher",
        "tags": [
            "sentence-transformers",
            "sentence-similarity",
            "feature-extraction",
            "knowledge-distillation",
            "kdpipe",
        ],
    }


@pytest.mark.parametrize("model", ["/home/somebody/secret/teacher", "../secret/teacher", "teacher"])
def test_a_local_teacher_is_called_by_the_name_of_its_folder(tmp_path: Path, model: str) -> None:
    student(tmp_path, HeadSpec())
    facts = facts_of(tmp_path, story(model), "")
    assert (facts.teacher, facts.base_model) == ("teacher", None)
    page = model_card(facts)
    assert "secret" not in page
    assert "base_model" not in page
    assert "It learned this from teacher, by" in page


def test_a_folder_that_looks_like_a_hub_id_is_local(project: Path) -> None:
    student(project / "models" / "small", HeadSpec())
    (project / "some-owner" / "big-teacher").mkdir(parents=True)
    facts = facts_of(project / "models" / "small", story(), "")
    assert (facts.teacher, facts.base_model) == ("big-teacher", None)


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    student(tmp_path, HeadSpec())
    told = story(measured={}, best_step=0)
    del told["teacher"]["license"]
    page = model_card(facts_of(tmp_path, told, ""))
    assert "license" not in page
    assert "## Measured\n\nNothing yet.\n\n## Use" in page
    assert "1,200 steps, the weights are those after step 1,200" in page


def test_the_last_weights_are_said_to_be_the_last(tmp_path: Path) -> None:
    student(tmp_path, HeadSpec())
    told = story()
    told["student"]["train"]["load_best_model_at_end"] = False
    assert facts_of(tmp_path, told, "").kept_step == 1200
    assert facts_of(tmp_path, story(), "").kept_step == 1100


HEADS = [
    *((HeadSpec((name,), include_prompt=True), "", ()) for name in POOLINGS),
    *((HeadSpec((name,), include_prompt=False), "the cat: ", ()) for name in POOLINGS),
    (HeadSpec(POOLINGS, include_prompt=False, normalize=True), 'it\'s "so": ', ()),
    (HeadSpec(("cls", "mean"), include_prompt=True, normalize=True), "the cat: ", ("Tanh",)),
    (HeadSpec(("max",)), "", ("GELU", "Identity")),
    (HeadSpec(("mean",), normalize=True), "", ("ReLU",)),
]


@pytest.mark.parametrize(("head", "prompt", "dense"), HEADS, ids=str)
def test_the_code_on_the_page_gives_the_vectors_of_the_student(
    tmp_path: Path, head: HeadSpec, prompt: str, dense: tuple[str, ...]
) -> None:
    encoder, tokenizer = student(tmp_path, head, prompt, dense), tiny_tokenizer()
    told = story()
    told["corpus"]["prompt"] = prompt
    write_card(tmp_path, told, table="")
    page = (tmp_path / "README.md").read_text()
    codes = re.findall(r"```python\n(.*?)\n```", page, re.DOTALL)
    assert len(codes) == 2
    assert (f"It puts {prompt!r} before every text." in page) is bool(prompt)
    scope: dict[str, Any] = {}
    exec(codes[1].replace("path/to/small", str(tmp_path)), scope)
    texts: list[Text] = [prompt + text for text in USED]
    found = tokenizer.encode(texts, 32)
    wanted = embed(encoder, Tokens.of(found, tokenizer.count(prompt)), "fp32")
    np.testing.assert_allclose(scope["vectors"].numpy(), wanted.numpy(), rtol=0, atol=1e-5)


def test_the_first_code_on_the_page_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student(tmp_path, HeadSpec(normalize=True))
    code = re.findall(r"```python\n(.*?)\n```", PAGE, re.DOTALL)[0]
    exec(code.replace("path/to/small", str(tmp_path)), {})
    assert capsys.readouterr().out.startswith("tensor([[")


def headed(folder: Path, kind: str, problem: str | None, prompt: str = "") -> tuple[Encoder, str]:
    """A tiny student with a head in `folder`, and its page."""
    tiny_headed_folder(folder, kind, ("no", "yes")[: 1 if problem == "regression" else 2], problem)
    encoder = load_encoder(folder, HeadSpec())
    write_model(folder, encoder, tiny_tokenizer(), max_seq_length=32, prompt=prompt)
    told, dims = story(), encoder.dims
    told["corpus"]["prompt"] = prompt
    told["shape"] |= {"head": kind, "problem": dims.problem, "classes": [*dims.classes]}
    write_card(folder, told, table="")
    return encoder, (folder / "README.md").read_text()


def run(page: str, folder: Path) -> dict[str, Any]:
    """What the only code on a page leaves behind."""
    (code,) = re.findall(r"```python\n(.*?)\n```", page, re.DOTALL)
    scope: dict[str, Any] = {}
    exec(code.replace("path/to/small", str(folder)), scope)
    return scope


@pytest.mark.parametrize(
    ("kind", "problem", "about", "tag"),
    [
        ("sequence", None, "each text (no, yes)", "text-classification"),
        ("token", None, "each word of a text (no, yes)", "token-classification"),
        (
            "span",
            None,
            "where in a text the answer to a question begins and ends",
            "question-answering",
        ),
    ],
)
def test_the_page_of_a_student_with_a_head(tmp_path, kind, problem, about, tag) -> None:
    _, page = headed(tmp_path, kind, problem)
    assert (
        "A text encoder with 3 layers, 17,369,472 parameters and a head that says something about"
        f" {about}, for texts of up to 128 tokens. It learned this from some-owner/big-teacher, by"
        " distillation, with kdpipe 0.1.0.\n"
    ) in page
    matter = YAML(typ="safe").load(page.split("---\n")[1])
    assert (matter["library_name"], matter["pipeline_tag"]) == ("transformers", tag)
    assert matter["tags"] == [tag, "knowledge-distillation", "kdpipe"]
    assert "sentence" not in page


def test_a_student_of_labels_alone_has_no_teacher_on_its_page(tmp_path: Path) -> None:
    headed(tmp_path, "sequence", None)
    told = story() | {"teacher": None}
    told["student"] |= {"caches": []}
    told["shape"] |= {"head": "sequence", "problem": None, "classes": list("abcdefg")}
    page = model_card(facts_of(tmp_path, told, ""))
    assert "about each text (a, b, c, d, e, ... 7 classes), for texts" in page
    assert "It learned this from labels, with kdpipe 0.1.0." in page
    assert "Teacher" not in page
    assert "base_model" not in page


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("sequence", "single_label_classification"),
        ("sequence", "multi_label_classification"),
        ("sequence", "regression"),
        ("token", None),
    ],
)
def test_the_code_on_the_page_gives_the_labels_of_the_student(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, problem: str | None
) -> None:
    encoder, page = headed(tmp_path, kind, problem)
    run(page, tmp_path)
    shown = capsys.readouterr().out
    found = ast.literal_eval(re.sub(r"np\.float32\((.+?)\)", r"\1", shown))
    encoded = tiny_tokenizer().encode(["The cat sleeps on the stove."], 32)
    logits = ask(encoder, Tokens.of(encoded, 0), encoder.voice, "fp32")
    if problem == "multi_label_classification":
        wanted = sorted(logits[0].sigmoid().tolist(), reverse=True)
    elif problem == "regression":
        wanted = logits[0].tolist()
    else:
        wanted = logits.softmax(-1).amax(-1).tolist()
        wanted = wanted[1:-1] if kind == "token" else wanted
    assert [one["score"] for one in found] == pytest.approx(wanted, abs=1e-4)


def test_the_code_on_the_page_finds_an_answer(tmp_path, capsys) -> None:
    encoder, page = headed(tmp_path, "span", None, prompt="so: ")
    assert page.count("Put 'so: ' before every text.") == 1
    scope = run(page, tmp_path)
    encoded = tiny_tokenizer().encode([(scope["question"], scope["text"])], 32)
    ends = ask(encoder, Tokens.of(encoded, 0), encoder.voice, "fp32").argmax(0)
    assert [int(scope["first"]), int(scope["last"])] == ends.tolist()
    said = encoded.ids[int(ends[0]) : int(ends[1]) + 1].tolist()
    assert capsys.readouterr().out == scope["tokenizer"].decode(said) + "\n"


def test_the_code_on_the_page_guesses_a_masked_token(tmp_path, capsys) -> None:
    encoder = load_encoder(masked_folder(tmp_path), HeadSpec(), mlm=True)
    write_model(tmp_path, encoder, tiny_tokenizer(), max_seq_length=32, prompt="")
    told = story()
    told["shape"] |= {"head": "mlm", "problem": "mlm", "classes": []}
    write_card(tmp_path, told, table="")
    page = (tmp_path / "README.md").read_text()
    assert "a head that says something about each masked token of a text, for texts" in page
    run(page, tmp_path)
    found = ast.literal_eval(capsys.readouterr().out)
    encoded = tiny_tokenizer().encode(["The cat sleeps on the [MASK]."], 32)
    place = encoded.ids.tolist().index(tiny_tokenizer().backend.token_to_id("[MASK]"))
    said = ask(encoder, Tokens.of(encoded, 0), TOKEN_LOGITS, "fp32")[place].softmax(-1)
    assert [one["token"] for one in found] == said.topk(5).indices.tolist()
    assert [one["score"] for one in found] == pytest.approx(said.topk(5).values.tolist(), abs=1e-4)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("---\nlanguage: en\nlicense: apache-2.0\ntags:\n- a\n---\n# Page\n", "apache-2.0"),
        ("---\r\nlicense: 'MIT'\r\n---\r\n", "mit"),
        ("---\nlanguage: en\n---\nlicense: mit\n", None),
        ("# Page\nlicense: mit\n", None),
        ("---\nlicense: mit\n", None),
        ("---\nlicense: mit\ttext: injected\n---\n", None),
        ("", None),
    ],
)
def test_the_licence_of_a_teacher(tmp_path: Path, text: str, found: str | None) -> None:
    (tmp_path / "README.md").write_bytes(text.encode())
    assert license_of(tmp_path) == found


def test_a_teacher_without_card_has_no_licence(tmp_path: Path) -> None:
    assert license_of(tmp_path) is None


def test_facts_are_frozen() -> None:
    with pytest.raises(ValueError, match="unknown key 'author'"):
        CardFacts.model_validate({"author": "me"})
