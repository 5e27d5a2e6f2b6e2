"""The model card: what a student is, how good it is, how to use it, how it was made, on one page.

The text follows from the facts alone, and the code in it gives the student's own vectors: it pools,
maps and normalises as the student's head does.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from kdpipe import io
from kdpipe.config import Frozen
from kdpipe.hub import read_json
from kdpipe.modules import head_of
from kdpipe.nets.crf import FILE as CRF_FILE
from kdpipe.parts import HeadKind, Problem
from kdpipe.progress import counted

NAME = "README.md"
_TAGS = ("knowledge-distillation", "kdpipe")
_PIPELINES: dict[HeadKind | None, tuple[str, tuple[str, ...]]] = {
    None: (
        "sentence-similarity",
        ("sentence-transformers", "sentence-similarity", "feature-extraction", *_TAGS),
    ),
    "sequence": ("text-classification", ("text-classification", *_TAGS)),
    "token": ("token-classification", ("token-classification", *_TAGS)),
    "span": ("question-answering", ("question-answering", *_TAGS)),
    "mlm": ("fill-mask", ("fill-mask", *_TAGS)),
}
"""Head -> what transformers calls its use, and tags."""
_GIVEN = "a model whose answers were given in files"
_SPELT = {"kdpipe-cnn-lstm", "kdpipe-id-cnn"}
"""Small nets that read characters or shapes of words."""
_SHOWN = 5
"""Classes that are named."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_LICENSE = re.compile(r"^license:[ \t]*['\"]?([A-Za-z0-9.+-]+)['\"]?[ \t]*$", re.MULTILINE)
_POOLED = {
    "mean": "(states * mask).sum(1) / mask.sum(1)",
    "mean_sqrt_len": "(states * mask).sum(1) / mask.sum(1).sqrt()",
    "max": "states.masked_fill(mask == 0, -torch.inf).amax(1)",
    "weightedmean": "(states * mask * places).sum(1) / (mask * places).sum(1)",
    "lasttoken": "states[torch.arange(len(states)), lengths - 1]",
}
_ACTIVATED = {
    "Identity": "{}",
    "Tanh": "torch.tanh({})",
    "ReLU": "torch.relu({})",
    "GELU": "torch.nn.functional.gelu({})",
}


class CardFacts(Frozen):
    """What the card says."""

    name: str
    teacher: str | None
    """Its hub id, or the name of its folder; None for a model that learned from labels alone."""
    base_model: str | None
    """Hub id of the teacher; None for a local one."""
    license: str | None
    """Of the teacher; None where it states none."""
    kdpipe: str
    """Version that made the student."""
    layers: int
    parameters: int
    embedding: int
    """Numbers in a vector."""
    max_seq_length: int
    """In tokens, special tokens included."""
    prompt: str
    pooling: tuple[str, ...]
    include_prompt: bool
    normalize: bool
    dense: tuple[tuple[str, str], ...]
    """Folder and activation of each dense module."""
    rows: int
    held_out: int
    tokens: int
    start: str
    """What the student was before training, in words."""
    objectives: tuple[str, ...]
    """What it had to match, in words."""
    trained_with: tuple[str, ...] = ()
    """Other students that have the same transformer."""
    steps: int
    kept_step: int
    """After which the weights are those in the folder."""
    measured: dict[str, float]
    """On held-out rows during training."""
    head: HeadKind | None = None
    """What its logits are about; None for a model that gives embeddings."""
    problem: Problem | None = None
    """What its logits mean."""
    classes: tuple[str, ...] = ()
    crf: bool = False
    """Whether tags are those of the best sequence for a row."""
    model_type: str = ""
    """What transformers calls the family, or kdpipe, of whose own it is a small net."""
    table: str
    """What `evaluate` measured, as Markdown; empty before that."""


def write_card(folder: Path, story: dict[str, Any], table: str) -> None:
    """Write the card of a student whose other files lie in `folder`.

    Args:
        folder: Of the student; its head is read from there.
        story: What made it: the content of `kdpipe.json`.
        table: What was measured, as Markdown; empty before that.
    """
    io.write_file(folder / NAME, model_card(facts_of(folder, story, table)).encode("utf-8"))


def facts_of(folder: Path, story: dict[str, Any], table: str) -> CardFacts:
    """The facts in the files of a student and in what made it."""
    head, student = head_of(folder), story["student"]
    teacher, body = story["teacher"] or {}, story.get("body") or {"students": []}
    model = str(teacher.get("model", ""))
    on_hub = _HUB_ID.fullmatch(model) is not None and not Path(model).is_dir()
    keeps_best = student["train"]["load_best_model_at_end"]
    activations = [read_json(path / "config.json")["activation_function"] for path in head.dense]
    return CardFacts(
        name=student["name"],
        teacher=(model if on_hub else Path(model).name) or (_GIVEN if student["caches"] else None),
        base_model=model if on_hub else None,
        license=teacher.get("license"),
        kdpipe=story["kdpipe"],
        pooling=head.pooling,
        include_prompt=head.include_prompt,
        normalize=head.normalize,
        dense=tuple(
            (path.name, str(activation).rpartition(".")[2])
            for path, activation in zip(head.dense, activations, strict=True)
        ),
        start=_words(student["model"]),
        objectives=tuple(_words(objective) for objective in student["objectives"]),
        trained_with=tuple(one for one in body["students"] if one != student["name"]),
        crf=(folder / CRF_FILE).is_file(),
        model_type=str(read_json(folder / "config.json").get("model_type", "")),
        table=table,
        **{
            key: story["shape"][key]
            for key in ("layers", "parameters", "embedding", "head", "problem", "classes")
        },
        **{key: story["training"][key] for key in ("steps", "measured")},
        kept_step=(keeps_best and story["training"]["best_step"]) or story["training"]["steps"],
        **{
            key: story["corpus"][key]
            for key in ("rows", "held_out", "tokens", "max_seq_length", "prompt")
        },
    )


def license_of(folder: Path) -> str | None:
    """The licence in the front matter of a model's own card; None where there is none."""
    path = folder / NAME
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="replace") as file:
        matter = re.match(r"---\r?\n(.*?)\n---", file.read(1 << 16), re.DOTALL)
    found = _LICENSE.search(matter[1]) if matter else None
    return found[1].lower() if found else None


def model_card(facts: CardFacts) -> str:
    """The whole page, front matter included."""
    parts = [_front(facts), f"# {facts.name}", _what(facts), "## Measured", _measured(facts)]
    parts += ["## Use", _use(facts), "## How it was made", _making(facts)]
    return "\n\n".join(parts) + "\n"


def _front(facts: CardFacts) -> str:
    library = "sentence-transformers" if facts.head is None else "transformers"
    lines = [f"library_name: {library}", f"pipeline_tag: {_PIPELINES[facts.head][0]}"]
    lines += [f"license: {facts.license}"] if facts.license else []
    lines += [f"base_model: {facts.base_model}"] if facts.base_model else []
    return "\n".join(
        ["---", *lines, "tags:", *(f"- {tag}" for tag in _PIPELINES[facts.head][1]), "---"]
    )


def _what(facts: CardFacts) -> str:
    layers = counted(facts.layers, "layer")
    if facts.head is not None:
        about = {
            "sequence": f"each text ({_some(facts.classes)})",
            "token": f"each word of a text ({_some(facts.classes)})",
            "span": "where in a text the answer to a question begins and ends",
            "mlm": "each masked token of a text",
        }[facts.head]
        source = (
            "from labels" if facts.teacher is None else f"from {facts.teacher}, by distillation"
        )
        return (
            f"A text encoder with {layers}, {facts.parameters:,} parameters and a head that says"
            f" something about {about}, for texts of up to {facts.max_seq_length} tokens. It"
            f" learned this {source}, with kdpipe {facts.kdpipe}."
        )
    return (
        f"A text encoder with {layers} and {facts.parameters:,} parameters: it turns a text of up"
        f" to {facts.max_seq_length} tokens into {counted(facts.embedding, 'number')}, so that"
        " texts of like meaning get vectors with a high cosine. It learned this from"
        f" {facts.teacher}, by knowledge distillation with kdpipe {facts.kdpipe}."
    )


def _measured(facts: CardFacts) -> str:
    if facts.table:
        return facts.table.strip()
    if not facts.measured:
        return "Nothing yet."
    found = ", ".join(f"{name} {value:.4g}" for name, value in facts.measured.items())
    return f"On held-out texts during training: {found}."


def _some(classes: tuple[str, ...]) -> str:
    shown = ", ".join(classes[:_SHOWN])
    return f"{shown}, ... {len(classes)} classes" if len(classes) > _SHOWN else shown


def _use(facts: CardFacts) -> str:
    if facts.model_type in _SPELT:
        return _command(facts)
    if facts.head is not None:
        prompt = f"\n\nPut {facts.prompt!r} before every text." if facts.prompt else ""
        code = _answering(facts) if facts.head == "span" else _labelling(facts)
        return f"{_python(facts, code)}{prompt}{_rows_of_tags(facts)}"
    prompt = f"\n\nIt puts {facts.prompt!r} before every text." if facts.prompt else ""
    code = f"""from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/{facts.name}")
vectors = model.encode(["The cat sleeps.", "A cat is asleep."])
print(model.similarity(vectors, vectors))"""
    return f"""With sentence-transformers:

{_python(facts, code)}{prompt}

With transformers alone:

{_python(facts, _plain(facts))}"""


def _rows_of_tags(facts: CardFacts) -> str:
    if not facts.crf:
        return ""
    command = f"`kdpipe predict path/to/{facts.name} my.txt tags.jsonl`"
    return (
        "\n\nThat takes the likeliest tag of each word. With `pip install kdpipe`,"
        f" {command} gives the best sequence of tags for a row, by the scores in `{CRF_FILE}`."
    )


def _command(facts: CardFacts) -> str:
    """How to use a model that reads more of a word than its id."""
    output = "vectors.npy" if facts.head is None else "labels.jsonl"
    return f"""It reads words and how they are written, which no tokenizer of transformers tells it:

```
pip install kdpipe
kdpipe predict path/to/{facts.name} my.txt {output}
```"""


def _python(facts: CardFacts, code: str) -> str:
    """A block of Python; a small net of kdpipe's own has to be made known first."""
    known = facts.model_type.startswith("kdpipe-")
    lines = ["import kdpipe.nets.pretrained  # pip install kdpipe: the net is not of transformers"]
    return "\n".join(["```python", *(lines if known else []), code, "```"])


def _labelling(facts: CardFacts) -> str:
    """Python that gives labels, a number, or guesses of a masked token."""
    several = ", top_k=None" if facts.problem == "multi_label_classification" else ""
    text = '"The cat sleeps on the stove."'
    if facts.head == "mlm":
        text = 'f"The cat sleeps on the {model.tokenizer.mask_token}."'
    return f"""from transformers import pipeline

model = pipeline("{_PIPELINES[facts.head][0]}", model="path/to/{facts.name}")
print(model({text}{several}))"""


def _answering(facts: CardFacts) -> str:
    """Python that answers a question; transformers has no pipeline for it any more."""
    return f"""import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

folder = "path/to/{facts.name}"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForQuestionAnswering.from_pretrained(folder).eval()
question, text = "Where does the cat sleep?", "The cat sleeps on the stove."
batch = tokenizer(question, text, truncation="only_second", return_tensors="pt")
with torch.inference_mode():
    said = model(**batch)
first, last = said.start_logits.argmax(), said.end_logits.argmax()
print(tokenizer.decode(batch["input_ids"][0, first : last + 1]))"""


def _plain(facts: CardFacts) -> str:
    """Python that turns texts into vectors without sentence-transformers."""
    excluded = bool(facts.prompt) and not facts.include_prompt
    pooled = _POOLED | {"cls": "states[:, after]" if excluded else "states[:, 0]"}
    texts = "[prompt + text for text in texts]" if facts.prompt else "texts"
    lines = ["import torch"]
    lines += ["from safetensors.torch import load_file"] if facts.dense else []
    lines += [
        "from transformers import AutoModel, AutoTokenizer",
        "",
        f'folder = "path/to/{facts.name}"',
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        "model = AutoModel.from_pretrained(folder).eval()",
        'texts = ["The cat sleeps.", "A cat is asleep."]',
        *([f"prompt = {facts.prompt!r}"] if facts.prompt else []),
        f'batch = tokenizer({texts}, padding=True, truncation=True, return_tensors="pt")',
        "with torch.inference_mode():",
        "    states = model(**batch).last_hidden_state",
    ]
    masked = bool({*facts.pooling} - {"cls", "lasttoken"})
    if masked:
        lines += ['mask = batch["attention_mask"].unsqueeze(-1)']
    if "lasttoken" in facts.pooling:
        lines += ['lengths = batch["attention_mask"].sum(1)']
    if "weightedmean" in facts.pooling:
        lines += ["places = torch.arange(1, mask.shape[1] + 1).unsqueeze(-1)"]
    if excluded:
        lines += ['after = len(tokenizer(prompt)["input_ids"]) - 1']
        lines += ["mask[:, :after] = 0"] if masked else []
    return "\n".join(lines + _vectors(facts, pooled))


def _vectors(facts: CardFacts, pooled: dict[str, str]) -> list[str]:
    chosen = [pooled[name] for name in facts.pooling]
    if len(chosen) == 1:
        lines = [f"vectors = {chosen[0]}"]
    else:
        lines = [f"parts = [{chosen[0]}]", *(f"parts += [{part}]" for part in chosen[1:])]
        lines += ["vectors = torch.cat(parts, dim=-1)"]
    for place, activation in facts.dense:
        lines += [f'dense = load_file(f"{{folder}}/{place}/model.safetensors")']
        lines += ['weight, bias = dense["linear.weight"], dense.get("linear.bias")']
        mapped = "torch.nn.functional.linear(vectors, weight, bias)"
        lines += [f"vectors = {_ACTIVATED[activation].format(mapped)}"]
    lines += ["vectors = torch.nn.functional.normalize(vectors, dim=-1)"] if facts.normalize else []
    return lines


def _making(facts: CardFacts) -> str:
    tokens, steps = counted(facts.tokens, "token"), counted(facts.steps, "step")
    lines = [
        *([f"- Teacher: {facts.teacher}"] if facts.teacher else []),
        f"- Texts: {facts.rows:,} with {tokens}; {facts.held_out:,} were held out",
        f"- Start: {facts.start}",
        *(f"- Objective: {objective}" for objective in facts.objectives),
        *(f"- Same transformer, trained in turn: {name}" for name in facts.trained_with),
        f"- Training: {steps}, the weights are those after step {facts.kept_step:,}",
        "- All settings and digests: `kdpipe.json`",
    ]
    return "\n".join(lines)


def _words(section: dict[str, Any]) -> str:
    """A section of the pipeline file in one line: its kind, then every key that says something."""
    rest = [
        f"{key} {_value(value)}"
        for key, value in section.items()
        if key != "kind" and value not in (None, {}, [])
    ]
    return f"{section['kind']} ({', '.join(rest)})" if rest else str(section["kind"])


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_value(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
