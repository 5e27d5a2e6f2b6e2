from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdpipe import modules
from kdpipe.errors import ArtifactError
from kdpipe.modules import HeadSpec, encoder_identity, head_of, modules_of, own_limit
from tests.tiny import tiny_teacher_folder


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def listed(folder: Path, *kinds: str, old: bool = True) -> Path:
    """A modules.json with these kinds, each in a folder of its own but the first."""
    path = "sentence_transformers.models" if old else "sentence_transformers.base.modules.anything"
    places = ["" if not index else f"{index}_{kind}" for index, kind in enumerate(kinds)]
    found = [
        {"idx": index, "name": str(index), "path": place, "type": f"{path}.{kind}"}
        for index, (place, kind) in enumerate(zip(places, kinds, strict=True))
    ]
    write(folder / "modules.json", found)
    return folder


def pooled(folder: Path, **config: Any) -> HeadSpec:
    write(listed(folder, "Transformer", "Pooling") / "1_Pooling" / "config.json", config)
    return head_of(folder)


@pytest.mark.parametrize(
    ("flag", "name"),
    [
        ("pooling_mode_cls_token", "cls"),
        ("pooling_mode_max_tokens", "max"),
        ("pooling_mode_mean_tokens", "mean"),
        ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len"),
        ("pooling_mode_weightedmean_tokens", "weightedmean"),
        ("pooling_mode_lasttoken", "lasttoken"),
    ],
)
def test_each_flag_is_a_pooling(tmp_path: Path, flag: str, name: str) -> None:
    flags = dict.fromkeys(modules.FLAGS.values(), False) | {flag: True}
    assert pooled(tmp_path, **flags) == HeadSpec((name,))


def test_several_flags_are_joined_in_the_order_of_sentence_transformers(tmp_path: Path) -> None:
    head = pooled(
        tmp_path,
        pooling_mode_lasttoken=True,
        pooling_mode_mean_tokens=True,
        pooling_mode_cls_token=True,
        include_prompt=False,
    )
    assert head == HeadSpec(("cls", "mean", "lasttoken"), include_prompt=False)


@pytest.mark.parametrize(
    ("mode", "names"),
    [
        ("max", ("max",)),
        ("mean_sqrt_len_tokens", ("mean_sqrt_len",)),
        (["mean", "cls"], ("mean", "cls")),
    ],
)
def test_the_newer_form_names_its_poolings(
    tmp_path: Path, mode: object, names: tuple[str, ...]
) -> None:
    assert pooled(tmp_path, pooling_mode=mode).pooling == names


@pytest.mark.parametrize(
    ("config", "what"),
    [({"pooling_mode": ["mean", "middle"]}, "middle"), ({"include_prompt": True}, "none")],
)
def test_an_unknown_pooling_is_refused(tmp_path: Path, config: dict[str, Any], what: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        pooled(tmp_path, **config)
    assert str(caught.value) == (
        f"{tmp_path / '1_Pooling'}: pooling {what}: allowed: cls, max, mean, mean_sqrt_len,"
        " weightedmean, lasttoken"
    )


@pytest.mark.parametrize("old", [True, False])
def test_modules_are_found_in_both_forms(tmp_path: Path, old: bool) -> None:
    kinds = ("Transformer", "Pooling", "Dense", "Dense", "Normalize")
    found = modules_of(listed(tmp_path, *kinds, old=old))
    assert found == [
        (tmp_path, "Transformer"),
        (tmp_path / "1_Pooling", "Pooling"),
        (tmp_path / "2_Dense", "Dense"),
        (tmp_path / "3_Dense", "Dense"),
        (tmp_path / "4_Normalize", "Normalize"),
    ]


def test_the_whole_head(tmp_path: Path) -> None:
    listed(tmp_path, "Transformer", "Pooling", "Dense", "Dense", "Normalize")
    write(tmp_path / "1_Pooling" / "config.json", {"pooling_mode_max_tokens": True})
    dense = (tmp_path / "2_Dense", tmp_path / "3_Dense")
    assert head_of(tmp_path) == HeadSpec(("max",), normalize=True, dense=dense)
    asked = head_of(tmp_path, pooling="cls", normalize=False)
    assert asked == HeadSpec(("cls",), normalize=False, dense=dense)


def test_a_plain_model_is_pooled_by_the_mean(tmp_path: Path) -> None:
    assert modules_of(tmp_path) == []
    assert head_of(tmp_path) == HeadSpec(("mean",), include_prompt=True, normalize=False)
    assert modules.transformer_folder(tmp_path) == tmp_path


@pytest.mark.parametrize(
    "kinds",
    [
        ("Transformer", "Pooling", "Normalize", "Dense"),
        ("Transformer", "Dense", "Pooling"),
        ("Pooling", "Transformer"),
    ],
)
def test_modules_in_another_order_are_refused(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    with pytest.raises(ArtifactError) as caught:
        modules_of(listed(tmp_path, *kinds))
    assert str(caught.value) == (
        f"{tmp_path / 'modules.json'}: modules run in the order {', '.join(kinds)}:"
        " only the order Transformer, Pooling, Dense, Normalize is known"
    )


def test_an_unknown_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as caught:
        modules_of(listed(tmp_path, "Transformer", "Poolings"))
    assert str(caught.value) == (
        f"{tmp_path / 'modules.json'}: module 'Poolings' is not known: did you mean 'Pooling'?"
        " allowed: Transformer, Pooling, Dense, Normalize"
    )


@pytest.mark.parametrize("place", ["../1_Pooling", "/1_Pooling", "a/b"])
def test_a_module_that_lies_elsewhere_is_refused(tmp_path: Path, place: str) -> None:
    kind = "sentence_transformers.models.Pooling"
    write(tmp_path / "modules.json", [{"path": place, "type": kind}])
    with pytest.raises(ArtifactError) as caught:
        modules_of(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'modules.json'}: path {place!r} is not a folder beside it"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [("{", "is not valid JSON"), ('{"a": 1}', "is not a list of modules")],
)
def test_a_damaged_list_of_modules_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "modules.json"
    path.write_text(text)
    with pytest.raises(ArtifactError) as caught:
        modules_of(tmp_path)
    assert str(caught.value) == f"{path} {reason}"


@pytest.mark.parametrize(
    ("config", "prompt"),
    [
        (
            {"prompts": {"query": "q: ", "document": "d: "}, "default_prompt_name": "document"},
            "d: ",
        ),
        ({"prompts": {"q": "ask: "}, "default_prompt_name": None}, ""),
        ({"prompts": {}, "default_prompt_name": "q"}, ""),
        ({}, ""),
    ],
)
def test_the_default_prompt(tmp_path: Path, config: dict[str, Any], prompt: str) -> None:
    write(tmp_path / "config_sentence_transformers.json", config)
    assert modules.default_prompt(tmp_path) == prompt


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512, "pad_token_id": 0}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "mpnet", "max_position_embeddings": 514}, 512),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 66, "pad_token_id": 0}, 65),
        ({"model_type": "distilbert"}, 512),
    ],
)
def test_positions_and_the_own_limit(tmp_path: Path, config: dict[str, Any], limit: int) -> None:
    write(tmp_path / "config.json", config)
    assert modules.position_limit(tmp_path) == own_limit(tmp_path) == limit
    write(tmp_path / "sentence_bert_config.json", {"max_seq_length": limit - 1})
    assert own_limit(tmp_path) == limit - 1
    write(tmp_path / "sentence_bert_config.json", {"max_seq_length": limit + 1})
    assert own_limit(tmp_path) == limit
    write(tmp_path / "sentence_bert_config.json", {"max_seq_length": None})
    assert own_limit(tmp_path) == limit
    for stated, found in ((limit - 2, limit - 2), (int(1e30), limit), (None, limit)):
        write(tmp_path / "tokenizer_config.json", {"model_max_length": stated})
        assert own_limit(tmp_path) == found
    write(tmp_path / "sentence_bert_config.json", {"max_seq_length": limit - 1})
    write(tmp_path / "tokenizer_config.json", {"model_max_length": limit - 2})
    assert own_limit(tmp_path) == limit - 1


def test_the_limit_of_a_transformer_in_a_folder_of_its_own(tmp_path: Path) -> None:
    inner = tmp_path / "0_Transformer"
    write(
        tmp_path / "modules.json",
        [{"path": inner.name, "type": "sentence_transformers.models.Transformer"}],
    )
    write(inner / "config.json", {"model_type": "bert", "max_position_embeddings": 64})
    write(inner / "sentence_bert_config.json", {"max_seq_length": 48})
    assert modules.transformer_folder(tmp_path) == inner
    assert (modules.position_limit(tmp_path), own_limit(tmp_path)) == (64, 48)


def test_the_identity_covers_what_is_said_and_nothing_else(tmp_path: Path) -> None:
    folder = tiny_teacher_folder(tmp_path / "a")
    copy = tiny_teacher_folder(tmp_path / "b")
    identity = encoder_identity(folder, head_of(folder))
    config = json.loads((copy / "config.json").read_text())
    write(copy / "config.json", config | {"_name_or_path": "elsewhere", "dtype": "float16"})
    assert encoder_identity(copy, head_of(copy)) == identity
    others = [
        encoder_identity(copy, head_of(copy, pooling="cls")),
        encoder_identity(copy, head_of(copy, normalize=False)),
    ]
    write(copy / "config.json", config | {"layer_norm_eps": 1e-5})
    others.append(encoder_identity(copy, head_of(copy)))
    write(copy / "config.json", config)
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "model.safetensors").write_bytes(data)
    others.append(encoder_identity(copy, head_of(copy)))
    assert len({identity, *others}) == 5
