"""Every recipe runs from text to a measured student, with models and text of test size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from kdpipe import cli
from kdpipe.pipeline import load_pipeline
from tests.masked import masked_folder
from tests.tiny import SENTENCES, tiny_teacher_folder

PIPELINES = Path(__file__).resolve().parent.parent / "pipelines"
RECIPES = sorted(path.parent.name for path in PIPELINES.glob("*/pipeline.yaml"))
LAYERS = 6
SMALL: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 16}


def data(folder: Path) -> None:
    """Texts that every recipe finds what it reads in; every label is in both files."""
    folder.mkdir()
    (folder / "text.txt").write_text("\n".join(SENTENCES) + "\n")
    header = "text\tlabel\tpremise\thypothesis\n"
    for name, lines in (("train", SENTENCES[:50]), ("test", SENTENCES[40:])):
        rows = [
            f"{text}\t{'ab'[number % 2]}\t{text}\t{text[:9]}\n" for number, text in enumerate(lines)
        ]
        (folder / f"{name}.tsv").write_text(header + "".join(rows))
        sentences = []
        for text in lines:
            words = text.split()
            tags = ["B-X" if place == 1 else "O" for place in range(len(words))]
            sentences += ["".join(f"{w}\t{t}\n" for w, t in zip(words, tags, strict=True))]
        (folder / f"{name}.conll").write_text("\n".join(sentences))
        made = []
        for number, text in enumerate(lines):
            answer = text.split()[1]
            answers = [{"text": answer, "answer_start": text.index(answer)}]
            asked = {"id": str(number), "question": f"What {number}?", "answers": answers}
            made.append({"context": text, "qas": [asked]})
        (folder / f"{name}.json").write_text(json.dumps({"data": [{"paragraphs": made}]}))
    letters = "abcdefghijklmnopqrstuvwxyz"
    vectors = [f"{word} " + " ".join(["0.1"] * 100) for word in ("the", *letters)]
    (folder / "vectors.txt").write_text("\n".join(vectors) + "\n")


def smaller(found: Any) -> Any:
    """The same pipeline with a tiny model in place of the real one, and few steps."""
    if isinstance(found, list):
        return [smaller(item) for item in found]
    if not isinstance(found, dict):
        return found
    return _reduced({key: smaller(value) for key, value in found.items()})


def _reduced(made: dict[str, Any]) -> dict[str, Any]:
    """One section, whose inner ones are small already."""
    if str(made.get("model", "")).startswith("sentence-transformers/"):
        made = {key: made[key] for key in made if key not in {"package", "sha256"}}
        made["model"] = "tiny"
    if str(made.get("model", "")).startswith("google-bert/"):
        made["model"] = "masked"
    if made.get("kind") == "shape":
        made |= SMALL | {"num_hidden_layers": 3}
    if made.get("kind") == "relation" and made.get("heads"):
        made["heads"] = 4
    if "doc_stride" in made:
        made["doc_stride"] = 4
    if "max_seq_length" in made:
        made["max_seq_length"] = 32
    if "sources" in made and "tokenizer" in made:
        made["validation"] = 0.2
    if "model" in made and "train" in made:
        made["train"] = {**made["train"], "max_steps": 4, "warmup_steps": 0.0, "bf16": False}
    return made


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs(name: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data(project / "data")
    tiny_teacher_folder(project / "tiny", layers=LAYERS)
    masked_folder(project / "masked", layers=2 * LAYERS)
    yaml = YAML(typ="safe", pure=True)
    pipeline = smaller(yaml.load((PIPELINES / name / "pipeline.yaml").read_text("utf-8")))
    with (project / "pipeline.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(pipeline, file)

    def run(*words: str) -> None:
        assert cli.main([*words]) == 0, capsys.readouterr().err

    for text in pipeline.get("augmentations", {}):
        run("augment", "pipeline.yaml", text)
    for corpus in pipeline["corpora"]:
        run("tokenize", "pipeline.yaml", corpus)
    loaded, cached = load_pipeline(Path("pipeline.yaml")), set[str]()
    for whole in dict.fromkeys(map(loaded.trained_as, pipeline["students"])):
        students = [(student, loaded.students[student]) for student in loaded.trained_in(whole)]
        needed = dict.fromkeys(cache for _, spec in students for cache in spec.caches)
        for cache in needed:
            if cache not in cached:
                run("cache-teacher", "pipeline.yaml", cache)
            cached.add(cache)
        run("train", "pipeline.yaml", whole)
        for student, spec in students:
            if spec.evaluate != ():
                run("evaluate", "pipeline.yaml", student)
                measured = json.loads((project / "reports" / student / "metrics.json").read_text())
                assert measured["student"]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_what_it_is(name: str) -> None:
    page = (PIPELINES / name / "README.md").read_text("utf-8")
    assert page.startswith(f"# {name}\n")
    assert f"    kdpipe repro pipelines/{name}/pipeline.yaml\n" in page
