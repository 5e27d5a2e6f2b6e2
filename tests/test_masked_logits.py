"""Masked language models: their logits, in teachers, in students and in their folders.

Legend: M masked tokens, V tokens of the vocabulary, K kept of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM

from kdpipe.activations import Tokens
from kdpipe.encoder import Encoder, ask, keep_in, observe
from kdpipe.errors import ArtifactError
from kdpipe.folder import write_model
from kdpipe.load import load_encoder
from kdpipe.masked_logits import largest, unpacked
from kdpipe.modules import head_of
from kdpipe.parts import EMBEDDING, MASKED_LOGITS, TOKEN_LOGITS, Part
from kdpipe.pipeline import StudentSpec
from kdpipe.student import build_student
from tests.masked import masked_folder
from tests.mlm import (
    HEAD,
    TEXTS,
    TOKENIZER,
    V,
    by_transformers,
    loaded,
    tokens_of,
)
from tests.reader import read_safetensors
from tests.tiny import tiny_teacher_folder, tiny_tokenizer

FAMILIES = ["bert", "roberta", "distilbert", "electra", "modernbert", "mpnet", "albert"]
FAMILIES += ["deberta-v2", "mobilebert", "xlm-roberta", "camembert"]


def test_the_largest_logits_are_packed() -> None:
    torch.manual_seed(0)
    logits = 3.0 * torch.randn(6, V)
    log_p, tokens, normalizer = unpacked(largest(logits, 5))
    order = logits.argsort(dim=-1, descending=True)[:, :5]
    assert torch.equal(tokens, order)
    torch.testing.assert_close(log_p, logits.log_softmax(-1).gather(1, order))
    torch.testing.assert_close(normalizer, logits.exp().sum(-1).log())
    assert largest(logits, 10 * V).shape == (6, 2 * V + 1)
    # The largest vocabularies have some 250,000 tokens; fp32 holds their ids.
    assert unpacked(largest(torch.arange(300_000.0)[None], 2))[1].tolist() == [[299_999, 299_998]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Family -> a masked language model."""
    root = tmp_path_factory.mktemp("mlm")
    return {family: masked_folder(root / family, family) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers(folders, family: str) -> None:
    encoder, tokens = loaded(folders[family]), tokens_of()
    wanted = by_transformers(folders[family], tokens)
    assert (encoder.answers, encoder.dims.problem, encoder.dims.classes) == ("mlm", "mlm", ())
    assert encoder.dims.width(MASKED_LOGITS) == encoder.dims.vocabulary == wanted.shape[1]
    few, some = MASKED_LOGITS._replace(top_k=7), TOKEN_LOGITS._replace(top_k=9)
    each = {MASKED_LOGITS: wanted[tokens.masked], TOKEN_LOGITS: wanted}
    each |= {few: largest(wanted[tokens.masked], 7), some: largest(wanted, 9)}
    for part, expected in each.items():
        said = observe(encoder, tokens, frozenset({part}), "fp32")
        torch.testing.assert_close(said[part], expected, rtol=0, atol=2e-5)
        assert encoder.dims.width(part) == said[part].shape[1]
    together = observe(encoder, tokens, frozenset(each), "fp32")
    for part, expected in each.items():
        torch.testing.assert_close(together[part], expected, rtol=0, atol=2e-5)
    assert wanted.std() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_other_parts_are_the_same_beside_the_head(folders, family: str) -> None:
    encoder, tokens = loaded(folders[family]), tokens_of()
    parts = {EMBEDDING, *(Part("hidden", layer) for layer in (0, 1, 2))}
    plain = load_encoder(folders[family], head_of(folders[family]))
    assert (plain.answers, plain.gives) == (None, frozenset())
    wanted = observe(plain, tokens, frozenset(parts), "fp32")
    found = observe(encoder, tokens, frozenset(parts | {MASKED_LOGITS}), "fp32")
    for part in parts:
        torch.testing.assert_close(found[part], wanted[part], rtol=0, atol=1e-5)


def test_nothing_masked_gives_nothing(folders) -> None:
    encoder, tokens = loaded(folders["bert"]), Tokens.of(TOKENIZER.encode(TEXTS, 32), 0)
    said = observe(encoder, tokens, frozenset({MASKED_LOGITS, EMBEDDING}), "fp32")
    assert said[MASKED_LOGITS].shape == (0, V)
    assert said[EMBEDDING].shape == (len(TEXTS), 32)


def test_asked_in_batches_masked_tokens_keep_their_order(folders) -> None:
    encoder, tokens = loaded(folders["bert"]), tokens_of()
    assert encoder.voice == MASKED_LOGITS._replace(top_k=1)
    whole = observe(encoder, tokens, frozenset({MASKED_LOGITS}), "fp32")[MASKED_LOGITS]
    found = ask(encoder, tokens, MASKED_LOGITS, "fp32", tokens_per_batch=24)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-5)


def test_embeddings_that_are_shared_with_the_head_stay_in_fp32(folders) -> None:
    encoder = loaded(folders["bert"])
    keep_in(encoder, "bf16")
    assert encoder.model.get_input_embeddings().weight.dtype == torch.float32
    query = encoder.base.get_submodule("encoder.layer.0.attention.self.query")
    assert query.get_parameter("weight").dtype == torch.bfloat16


def test_a_model_without_the_head_is_refused(tmp_path: Path) -> None:
    tiny_teacher_folder(tmp_path)
    with pytest.raises(ArtifactError) as caught:
        loaded(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: its weights lack cls.predictions.bias, so it is no masked language model: use"
        " one that was saved with its head, such as a pretrained BERT"
    )


def student_of(teacher: Encoder | None, model: dict[str, Any], **keys: Any) -> Encoder:
    spec = {"caches": ["said"], "model": model, "head": HEAD, "objectives": [{"kind": "mlm"}]}
    made = StudentSpec.model_validate(spec | keys)
    return build_student(made, teacher, tiny_tokenizer(), ()).eval()


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "modernbert"])
def test_a_student_with_all_layers_says_what_its_teacher_says(folders, family: str) -> None:
    teacher, tokens = loaded(folders[family]), tokens_of()
    student = student_of(teacher, {"kind": "teacher_layers", "layers": [1, 2]})
    assert (student.answers, student.dims) == ("mlm", teacher.dims)
    mine, theirs = (
        observe(one, tokens, frozenset({MASKED_LOGITS}), "fp32")[MASKED_LOGITS]
        for one in (student, teacher)
    )
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
    embeddings = student.model.get_input_embeddings().weight
    assert student.model.get_output_embeddings().weight is embeddings


def test_a_fresh_student_keeps_embeddings_of_its_own(folders) -> None:
    teacher = loaded(folders["bert"])
    sizes = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 4}
    student = student_of(teacher, {"kind": "shape", **sizes, "intermediate_size": 64})
    mine, theirs = (one.model.state_dict() for one in (student, teacher))
    transform = "cls.predictions.transform.dense.weight"
    assert torch.equal(mine[transform], theirs[transform])
    words = "bert.embeddings.word_embeddings.weight"
    assert not torch.equal(mine[words], theirs[words])
    assert (
        student.model.get_output_embeddings().weight is student.base.get_input_embeddings().weight
    )


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "modernbert"])
def test_a_student_is_the_same_in_its_folder(folders, tmp_path: Path, family: str) -> None:
    student = student_of(loaded(folders[family]), {"kind": "teacher_layers", "layers": [1]})
    write_model(tmp_path, student, tiny_tokenizer(), max_seq_length=32, prompt="")
    model, loading = AutoModelForMaskedLM.from_pretrained(
        tmp_path, local_files_only=True, output_loading_info=True
    )
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert [type(model).__name__] == model.config.architectures
    tokens = tokens_of()
    wanted = observe(student, tokens, frozenset({TOKEN_LOGITS}), "fp32")[TOKEN_LOGITS]
    torch.testing.assert_close(by_transformers(tmp_path, tokens), wanted, rtol=0, atol=1e-5)
    again = observe(loaded(tmp_path), tokens, frozenset({TOKEN_LOGITS}), "fp32")[TOKEN_LOGITS]
    torch.testing.assert_close(again, wanted, rtol=0, atol=1e-6)
    # The head's copy of the embeddings is not written.
    tensors, _ = read_safetensors(tmp_path / "model.safetensors")
    weights = sum(p.numel() for p in student.parameters())
    assert sum(array.size for array in tensors.values()) < weights + V * 8


def test_another_student_begins_with_what_one_learned(folders, tmp_path: Path) -> None:
    first = student_of(loaded(folders["bert"]), {"kind": "teacher_layers", "layers": [2]})
    write_model(tmp_path, first, tiny_tokenizer(), max_seq_length=32, prompt="")
    second = student_of(
        None,
        {"kind": "checkpoint", "model": str(tmp_path)},
        caches=[],
        corpus="text",
        head={"kind": "sequence", "classes": ["a", "b"]},
        objectives=[{"kind": "labels"}],
    )
    mine, theirs = second.base.state_dict(), first.base.state_dict()
    assert theirs.keys() <= mine.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
