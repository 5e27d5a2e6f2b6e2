"""Small things to test with: a tokenizer, encoders of six families, teachers' folders, sentences.

All are made in memory from nothing, the same on every machine, in a fraction of a second.
"""

from __future__ import annotations

import json
import re
import string
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as Backend
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedTokenizerFast,
)

from kdpipe.encoder import Encoder
from kdpipe.modules import HeadSpec
from kdpipe.tokenizer import Tokenizer

SENTENCES = [
    "The cat sleeps on the warm stove.",
    "A cat is asleep on the stove.",
    "The dog waits at the green door.",
    "A dog is waiting by the door.",
    "Rain falls on the old roof.",
    "It rains on the roof of the house.",
    "The train to the coast is late.",
    "Our train was late again.",
    "She reads a long book about ships.",
    "He wrote a short book about trees.",
    "Two children play in the snow.",
    "The children built a house of snow.",
    "Fresh bread smells good in the morning.",
    "He bakes bread every morning.",
    "The river is wide near the mill.",
    "A wide river runs past the mill.",
    "They sing an old song together.",
    "An old song is sung in the hall.",
    "The moon is bright tonight.",
    "Tonight a bright moon is up.",
    "My bicycle has a flat tire.",
    "The tire of the bicycle is flat.",
    "Apples fall from the tree.",
    "The tree is full of red apples.",
    "The teacher explains the sum twice.",
    "A student asks the teacher a question.",
    "The answer to the question is short.",
    "Nobody knows the answer.",
    "The ship left the harbour at noon.",
    "At noon a ship came into the harbour.",
    "The soup is too hot to eat.",
    "Wait until the soup is cold.",
    "A bird sings in the garden.",
    "The garden is full of birds.",
    "The clock in the hall has stopped.",
    "Somebody has stopped the clock.",
    "She paints the door green.",
    "The green paint is still wet.",
    "A fox runs over the field.",
    "The field lies under deep snow.",
    "His letter came two days late.",
    "She answers every letter.",
    "The lamp on the table is broken.",
    "Put the broken lamp in the box.",
    "The box is too heavy for one man.",
    "One man can carry the table.",
    "The mill grinds the corn slowly.",
    "Slowly the snow turns to rain.",
    "The road to the village is narrow.",
    "A narrow road runs through the wood.",
    "In the village everybody sleeps.",
    "The wood is dark and quiet.",
    "A quiet child looks at the stars.",
    "The stars are far away.",
    "Far away a bell is ringing.",
    "The bell rings three times a day.",
    "Three boats lie on the beach.",
    "On the beach the children find a shell.",
    "The shell is white and very small.",
    "Very small things can matter.",
]
"""60 sentences in pairs that have something in common; none equals another."""

_SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
_SPECIAL["mask_token"] = "[MASK]"
_POSITIONS = 64


def tiny_tokenizer() -> Tokenizer:
    """WordPiece in lower case: the words of SENTENCES are tokens, all else is spelt in letters."""
    words = sorted({word for text in SENTENCES for word in re.findall("[a-z]+", text.lower())})
    letters = string.ascii_lowercase + string.digits
    pieces = [*_SPECIAL.values(), *letters, *(f"##{letter}" for letter in letters), *".,;:!?'-()"]
    tokens = [*pieces, *(word for word in words if word not in pieces)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Backend(WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = BertNormalizer(lowercase=True)
    backend.pre_tokenizer = BertPreTokenizer()
    backend.decoder = WordPieceDecoder()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    backend.add_special_tokens([*_SPECIAL.values()])
    return Tokenizer(backend, dict(_SPECIAL), ("input_ids", "token_type_ids", "attention_mask"))


def tiny_encoder(layers: int = 2, width: int = 32, family: str = "bert", seed: int = 0) -> Encoder:
    """A random encoder that reads `tiny_tokenizer`, with mean pooling and normalisation.

    Families: bert, roberta, distilbert, electra, mobilebert, mpnet, modernbert. ELECTRA's
    embeddings and the parts of MobileBERT's layers are narrower than what layers give. Dropout is
    on in training mode.
    """
    config = AutoConfig.for_model(family, **_config(layers, width, family))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModel.from_config(config, attn_implementation="eager", dtype=torch.float32)
    return Encoder(model, HeadSpec(normalize=True), []).eval()


def tiny_teacher_folder(
    path: Path, layers: int = 2, width: int = 32, family: str = "bert", seed: int = 0
) -> Path:
    """`tiny_encoder` and `tiny_tokenizer` as a sentence-transformers folder; returns `path`.

    Its tokenizer.json truncates and pads by itself, and its limit is 32 of its 64 positions.
    """
    encoder = tiny_encoder(layers, width, family, seed)
    encoder.model.save_pretrained(path)
    _save_tokenizer(path, family)
    kinds = ("Transformer", "Pooling", "Normalize")
    places = ("", "1_Pooling", "2_Normalize")
    modules = [
        {
            "idx": index,
            "name": str(index),
            "path": place,
            "type": f"sentence_transformers.models.{kind}",
        }
        for index, (kind, place) in enumerate(zip(kinds, places, strict=True))
    ]
    pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
    pooling |= {"pooling_mode_cls_token": False, "pooling_mode_max_tokens": False}
    (path / "2_Normalize").mkdir(parents=True)
    _write(path / "modules.json", modules)
    _write(path / "1_Pooling" / "config.json", pooling)
    _write(path / "sentence_bert_config.json", {"max_seq_length": 32, "do_lower_case": False})
    _write(path / "config_sentence_transformers.json", {"prompts": {}, "default_prompt_name": None})
    return path


def tiny_headed_folder(
    path: Path,
    kind: str = "sequence",
    classes: tuple[str, ...] = ("no", "yes"),
    problem_type: str | None = None,
    family: str = "bert",
    layers: int = 2,
    width: int = 32,
    seed: int = 0,
) -> Path:
    """A random model with a head of transformers and `tiny_tokenizer`; returns `path`.

    Kinds: sequence, token, span; a span head has no classes of its own.
    """
    keys: dict[str, Any] = {}
    if kind != "span":
        keys = {"id2label": dict(enumerate(classes)), "problem_type": problem_type}
        keys["label2id"] = {name: number for number, name in enumerate(classes)}
    config = AutoConfig.for_model(family, **_config(layers, width, family), **keys)
    made: Any = {
        "sequence": AutoModelForSequenceClassification,
        "token": AutoModelForTokenClassification,
        "span": AutoModelForQuestionAnswering,
    }[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = made.from_config(config, attn_implementation="eager", dtype=torch.float32)
    model.save_pretrained(path)
    _save_tokenizer(path, family)
    return path


def _save_tokenizer(path: Path, family: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.backend.enable_truncation(16)
    tokenizer.backend.enable_padding(length=16)
    typed = family in {"bert", "electra"}
    names = [name for name in tokenizer.input_names if typed or "type" not in name]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend, model_max_length=32, model_input_names=names, **_SPECIAL
    )
    fast.save_pretrained(path)


def _config(layers: int, width: int, family: str) -> dict[str, Any]:
    shared: dict[str, Any] = {"vocab_size": tiny_tokenizer().vocabulary, "pad_token_id": 0}
    shared |= {"max_position_embeddings": _POSITIONS, "initializer_range": 0.2}
    if family == "distilbert":
        return shared | {"n_layers": layers, "dim": width, "n_heads": 4, "hidden_dim": 2 * width}
    shared |= {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": 4}
    shared |= {"intermediate_size": 2 * width}
    if family == "modernbert":
        special = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
        return shared | special | {"local_attention": 16, "global_attn_every_n_layers": 2}
    if family == "roberta":
        return shared | {"type_vocab_size": 1}
    if family == "electra":
        return shared | {"embedding_size": width // 2}
    if family == "mobilebert":
        narrow = ("embedding_size", "intra_bottleneck_size", "true_hidden_size")
        return shared | dict.fromkeys(narrow, width // 2)
    return shared


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
