"""Students narrower than their teacher: what of its weights they begin with."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModel, PreTrainedModel

from kdpipe.activations import Tokens
from kdpipe.encoder import Encoder
from kdpipe.errors import UsageError
from kdpipe.modules import HeadSpec
from kdpipe.parts import EMBEDDING, Part
from kdpipe.pipeline import StudentSpec
from kdpipe.student import build_student
from kdpipe.students import FromTeacher
from kdpipe.students.narrow import Sizes, keep_dimensions, project_embeddings, sizes_of
from tests.tiny import SENTENCES, tiny_encoder, tiny_tokenizer

TINY = ("bert", "roberta", "distilbert", "mpnet", "modernbert")
ALL = (*TINY, "camembert", "electra", "xlm-roberta")
QKV = r"\.(query|key|value|[qkv]_lin|attn\.[qkv]|Wqkv)\."
JOINED = r"\.(attention\.output\.dense|out_lin|attn\.o|attn\.Wo)\."
UNITS = r"\.(intermediate\.dense|lin1|Wi)\."
SUMMED = r"\d\.(output\.dense|ffn\.lin2|mlp\.Wo)\."


def teacher_of(family: str, layers: int = 2, seed: int = 0) -> Encoder:
    """4 heads of 8 numbers, 64 units; gains and biases that differ, as training makes them."""
    encoder = tiny_encoder(layers, 32, family, seed)
    if family == "electra":
        encoder = electra(embeddings=32)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 5)
        for parameter in encoder.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return encoder


def electra(embeddings: int) -> Encoder:
    config = copy.deepcopy(tiny_encoder(2, 32, "electra").base.config)
    config.embedding_size = embeddings
    return Encoder(AutoModel.from_config(config), HeadSpec(normalize=True), []).eval()


def build(teacher: Encoder, seed: int = 0, **keys: object) -> PreTrainedModel:
    model = FromTeacher.model_validate({"kind": "teacher_layers", "layers": [1, 2], **keys})
    torch.manual_seed(seed)
    return model.build(teacher, tiny_tokenizer())


def last_states(model: PreTrainedModel) -> Tensor:
    encoder = Encoder(model, HeadSpec(), []).eval()
    part = Part("hidden", encoder.dims.layers)
    with torch.no_grad():
        said = encoder(Tokens.of(tiny_tokenizer().encode(SENTENCES[:8], 32), 0), frozenset({part}))
    states: Tensor = said[part]
    return states


@pytest.mark.parametrize("family", ALL)
def test_the_teachers_own_widths_keep_every_weight_as_it_is(family: str) -> None:
    teacher = teacher_of(family)
    config, weights = teacher.base.config, teacher.base.state_dict()
    same = build(teacher, hidden_size=32, intermediate_size=64, narrow="svd").state_dict()
    for kept in (keep_dimensions(config, weights, sizes_of(config)), same):
        assert kept.keys() == weights.keys()
        assert all(torch.equal(kept[name], weights[name]) for name in weights)


class Padded:
    """A model of 24 dimensions, 3 heads, 40 units, and the same one among zeros: 32, 4, 64."""

    dims = torch.tensor([*range(3), *range(5, 17), *range(20, 29)])
    factor = (24 / 32) ** 0.5  # zeros lower what a normalisation divides by

    def __init__(self, family: str) -> None:
        self.large = tiny_encoder(2, 32, family).model
        config = copy.deepcopy(self.large.config)
        config.hidden_size, config.num_attention_heads = 24, 3
        setattr(config, "hidden_dim" if family == "distilbert" else "intermediate_size", 40)
        torch.manual_seed(3)
        self.small = AutoModel.from_config(config, attn_implementation="eager")
        # One table of biases has a column for each head of all layers of MPNet.
        second = [0, 2, 3] if family == "mpnet" else [0, 1, 3]
        self.heads = [torch.tensor([0, 2, 3]), torch.tensor(second)]
        self.units = [torch.randperm(64)[:40].sort().values for _ in range(2)]
        with torch.no_grad():
            for name, parameter in self.small.named_parameters():
                self._even_out(name, parameter)
        small, large = self.small.state_dict(), self.large.state_dict()
        self.large.load_state_dict({n: self._among_zeros(n, small[n], large[n]) for n in large})

    def _even_out(self, name: str, parameter: Tensor) -> None:
        """Gains are equal, and what is written to the hidden states has mean 0, as zeros have."""
        if parameter.ndim == 1 and name.endswith("weight"):
            parameter.fill_(1.3)
        elif name.endswith("_embeddings.weight"):
            parameter.sub_(parameter.mean(1, keepdim=True))
        elif re.search(f"norm|{JOINED}|{SUMMED}", name, re.IGNORECASE):
            if parameter.ndim == 1:
                parameter.normal_(std=0.2)
            parameter.sub_(parameter.mean(0, keepdim=True))

    def _among_zeros(self, name: str, small: Tensor, large: Tensor) -> Tensor:
        found = re.search(r"\.(\d)\.", name)
        heads, units = (x[int(found[1]) if found else 0] for x in (self.heads, self.units))
        spread = torch.cat([torch.arange(8) + 8 * head for head in heads])
        rows, columns = self.dims, self.dims
        if re.search(QKV, name):
            rows = torch.cat([spread + start for start in range(0, len(large), 32)])
        elif re.search(JOINED, name):
            columns = spread
        elif re.search(UNITS, name):
            rows = torch.cat([units + start for start in range(0, len(large), 64)])
        elif re.search(SUMMED, name):
            columns = units
        elif "_embeddings" in name or "attention_bias" in name:
            rows = torch.arange(len(large))
            columns = heads if "attention_bias" in name else self.dims
        result = torch.zeros_like(large)
        if small.ndim == 2:
            result[rows[:, None], columns] = small
        else:
            result[rows] = small * (self.factor if name.endswith("weight") else 1.0)
        return result


@pytest.mark.parametrize("family", TINY)
def test_dropping_what_is_zero_everywhere_changes_nothing(family: str) -> None:
    padded = Padded(family)
    wide, narrow = last_states(padded.large), last_states(padded.small)
    torch.testing.assert_close(wide[:, padded.dims], narrow, atol=2e-4, rtol=1e-3)
    assert narrow.std() > 0.3
    kept = keep_dimensions(padded.large.config, padded.large.state_dict(), Sizes(24, 3, 40))
    small = padded.small.state_dict()
    assert kept.keys() == small.keys()
    for name, tensor in kept.items():
        gain = tensor.ndim == 1 and name.endswith("weight")
        assert torch.equal(tensor, small[name] * (padded.factor if gain else 1.0)), name


def test_dimensions_heads_and_units_are_the_largest() -> None:
    teacher = teacher_of("bert", layers=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in teacher.base.named_parameters():
            if re.search(f"{UNITS}|{JOINED}", name) and parameter.ndim == 2:
                parameter.mul_(torch.rand(len(parameter), 1, generator=generator).square() * 3)
            elif re.search(SUMMED, name) and parameter.ndim == 2:
                parameter.mul_(torch.rand(parameter.shape[1], generator=generator).square() * 3)
    weights = {k: v.double().numpy() for k, v in teacher.base.state_dict().items()}
    through = np.zeros(32)
    for name, value in weights.items():
        if "LayerNorm" in name and ".layer.1." not in name:
            through += value**2
    dims = sorted(np.argsort(-through)[:16])
    student = build(teacher, layers=[3, 1], hidden_size=16, intermediate_size=20).state_dict()
    words = weights["embeddings.word_embeddings.weight"][:, dims]
    assert np.array_equal(student["embeddings.word_embeddings.weight"].numpy(), words)
    for mine, theirs in enumerate((2, 0)):
        layer = {
            name.removeprefix(f"encoder.layer.{theirs}.").removesuffix(".weight"): value
            for name, value in weights.items()
            if name.startswith(f"encoder.layer.{theirs}.") and name.endswith("weight")
        }
        read = [layer[f"attention.self.{name}"] for name in ("query", "key", "value")]
        joined = layer["attention.output.dense"]
        norms = [
            sum(np.linalg.norm(part[8 * head : 8 * head + 8]) ** 2 for part in (*read, joined.T))
            for head in range(4)
        ]
        heads = sorted(np.argsort(norms)[-2:])
        rows = [number for head in heads for number in range(8 * head, 8 * head + 8)]
        before, after = layer["intermediate.dense"], layer["output.dense"]
        product = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=0)
        units = sorted(np.argsort(-product)[:20])
        for name, expected in {
            "attention.self.query": read[0][np.ix_(rows, dims)],
            "attention.output.dense": joined[np.ix_(dims, rows)],
            "intermediate.dense": before[np.ix_(units, dims)],
            "output.dense": after[np.ix_(dims, units)],
        }.items():
            found = student[f"encoder.layer.{mine}.{name}.weight"].numpy()
            assert np.array_equal(found, expected), name


def test_embeddings_by_svd_are_the_best_of_their_width() -> None:
    teacher = teacher_of("bert")
    weights = teacher.base.state_dict()
    kept = project_embeddings(teacher.base.config, weights, Sizes(16, 2, 64))
    words = weights["embeddings.word_embeddings.weight"].double().numpy()
    gain = weights["embeddings.LayerNorm.weight"].double().numpy()
    centred = words - words.mean(1, keepdims=True)
    left, values, right = np.linalg.svd(centred * gain, full_matrices=False)
    best = (left[:, :16] * values[:16]) @ right[:16]
    found = kept["embeddings.word_embeddings.weight"].double().numpy()
    right *= np.where(right.sum(1, keepdims=True) < 0, -1, 1)
    np.testing.assert_allclose(found, centred * gain @ right[:16].T, atol=1e-5)
    np.testing.assert_allclose(found @ found.T, best @ best.T, atol=1e-5)
    types = weights["embeddings.token_type_embeddings.weight"].double().numpy()
    types = (types - types.mean(1, keepdims=True)) * gain @ right[:16].T
    mine = kept["embeddings.token_type_embeddings.weight"].double().numpy()
    np.testing.assert_allclose(mine, types, atol=1e-5)
    # Normalised vectors have a mean square of 1 before the gain: all of a centred word's D.
    ratio = (best**2).sum() / 16 / ((centred**2).sum() / 32)
    expected = torch.full((16,), ratio**0.5)
    torch.testing.assert_close(kept["embeddings.LayerNorm.weight"], expected)
    assert kept.keys() == {name for name in weights if name.startswith("embeddings.")}


def test_layers_of_a_student_by_svd_are_fresh() -> None:
    teacher = teacher_of("bert")
    keys = {"hidden_size": 16, "intermediate_size": 24, "narrow": "svd"}
    first, again, other = (build(teacher, seed, **keys).state_dict() for seed in (1, 1, 2))
    for name in first:
        assert torch.equal(first[name], again[name])
        fresh = name.endswith("weight") and "LayerNorm" not in name and "embeddings" not in name
        assert torch.equal(first[name], other[name]) != fresh, name


@pytest.mark.parametrize("how", ["dimensions", "svd"])
@pytest.mark.parametrize("family", ALL)
def test_every_family_runs_and_learns(family: str, how: str) -> None:
    spec = StudentSpec.model_validate(
        {
            "caches": ["said"],
            "model": {
                "kind": "teacher_layers",
                "layers": [1],
                "hidden_size": 16,
                "intermediate_size": 24,
                "narrow": how,
            },
            "objectives": [{"kind": "embedding"}],
        }
    )
    student = build_student(spec, teacher_of(family), tiny_tokenizer(), ())
    assert (student.dims.hidden, student.dims.heads, student.dims.layers) == (16, 2, 1)
    assert student.dims.embedding == 32
    tokens = Tokens.of(tiny_tokenizer().encode(SENTENCES[:8], 32), 0)
    vectors = student.train()(tokens, frozenset({EMBEDDING}))[EMBEDDING]
    (vectors @ torch.randn(32)).sum().backward()
    assert torch.isfinite(vectors).all()
    silent = [n for n, p in student.named_parameters() if p.requires_grad and p.grad is None]
    assert silent == []


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"hidden_size": 20},
            "hidden_size 20 is no whole number of the teacher's heads of 8 numbers each: use 16 or"
            " 24",
        ),
        (
            {"hidden_size": 4},
            "hidden_size 4 is no whole number of the teacher's heads of 8 numbers each: use 8",
        ),
        (
            {"num_attention_heads": 3},
            "with 3 of the teacher's heads, of 8 numbers each, hidden_size is 24, not 32: change"
            " hidden_size or num_attention_heads",
        ),
        (
            {"hidden_size": 15, "num_attention_heads": 2, "narrow": "svd"},
            "the student's shape cannot be built: The hidden size (15) is not a multiple of the"
            " number of attention heads (2)",
        ),
        ({"hidden_size": 40}, "hidden_size 40 is more than the teacher's 32: use kind: shape"),
        (
            {"num_attention_heads": 8},
            "num_attention_heads 8 is more than the teacher's 4: use kind: shape",
        ),
        (
            {"intermediate_size": 65},
            "intermediate_size 65 is more than the teacher's 64: use kind: shape",
        ),
        (
            {"config": {"hidden_size": 16}},
            "config {'hidden_size': 16}: embeddings.LayerNorm.bias would have the shape [16], the"
            " teacher's is [32]: only hidden_size, num_attention_heads and intermediate_size can be"
            " changed, beside 'config'",
        ),
    ],
)
def test_widths_that_cannot_be_had_are_one_line(keys: dict, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        build(teacher_of("bert"), **keys)
    assert str(caught.value) == message


def test_heads_of_fresh_layers_may_have_another_width() -> None:
    student = build(teacher_of("bert"), hidden_size=18, num_attention_heads=3, narrow="svd")
    assert (student.config.hidden_size, student.config.num_attention_heads) == (18, 3)
    assert torch.isfinite(last_states(student)).all()


def test_teachers_that_cannot_be_made_narrower_are_refused() -> None:
    with pytest.raises(UsageError) as caught:
        build(tiny_encoder(2, 32, "deberta-v2"), hidden_size=16)
    assert str(caught.value) == (
        "a 'deberta-v2' teacher cannot be made narrower, only bert, camembert, distilbert, electra,"
        " modernbert, mpnet, roberta, xlm-roberta can: use kind: shape"
    )
    with pytest.raises(UsageError) as caught:
        build(electra(embeddings=128), hidden_size=16)
    assert str(caught.value) == (
        "a teacher with embeddings of 128 and states of 32 numbers cannot be made narrower: use"
        " kind: shape"
    )
