"""A text encoder: a transformer, and the head that turns its tokens into one vector.

Teacher, baseline and student are all of this type, so what is said live and what is kept in a
cache come out of the same forward pass. Legend: B rows, N real tokens, T longest row, D width.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from kdpipe import heads
from kdpipe.activations import Activations, Dims, Tokens, pad
from kdpipe.batches import by_length
from kdpipe.device import TORCH, Dtype, autocast, pass_overhead
from kdpipe.int8 import round_linear
from kdpipe.masked_logits import head_at, largest
from kdpipe.module_taps import modules_tapped
from kdpipe.modules import HeadSpec
from kdpipe.nets.crf import CRF
from kdpipe.nets.features import spelling_array
from kdpipe.parts import EMBEDDING, MASKED_LOGITS, TOKEN_LOGITS, HeadKind, Needs, Part
from kdpipe.taps import RELATIVE, tapped

_HALF = {torch.float16, torch.bfloat16}
ACTIVATIONS = {"Identity": nn.Identity, "Tanh": nn.Tanh, "ReLU": nn.ReLU, "GELU": nn.GELU}


class Dense(nn.Module):
    """A linear layer with an activation, as sentence-transformers keeps it."""

    def __init__(
        self, width: int, out: int, *, bias: bool = True, activation: str = "Tanh"
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out, bias=bias)
        self.activation = activation
        self._function = ACTIVATIONS[activation]()

    def forward(self, vectors: Tensor) -> Tensor:
        """[B, D] to [B, E]."""
        result: Tensor = self._function(self.linear(vectors))
        return result


class Encoder(nn.Module):
    """A transformer with its heads: one that makes a vector of a row, and maybe one with logits."""

    def __init__(
        self,
        model: PreTrainedModel,
        head: HeadSpec,
        dense: list[Dense],
        answers: HeadKind | None = None,
        crf: CRF | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.head = head
        self.dense = nn.ModuleList(dense)
        self.answers = answers
        """What the logits are about; None: `model` has no head of this kind."""
        self.crf = crf
        """Of a tagger: scores of labels next to each other, beside its logits."""
        reads = inspect.signature(model.forward).parameters
        self.spelt = "characters" in reads
        self.typed = "token_type_ids" in reads
        self.typed &= getattr(model.config, "type_vocab_size", 1) > 1
        self._pad_id = model.config.pad_token_id or 0

    @property
    def base(self) -> PreTrainedModel:
        """The transformer without a head that gives logits."""
        base = self.model.base_model
        assert isinstance(base, PreTrainedModel)
        return base

    @property
    def dims(self) -> Dims:
        """Widths, depth and classes."""
        config = self.model.config
        width = int(config.hidden_size)
        last = width * len(self.head.pooling)
        for dense in self.dense:
            assert isinstance(dense, Dense)
            last = dense.linear.out_features
        return Dims(
            embedding=last,
            hidden=width,
            layers=int(config.num_hidden_layers),
            heads=int(config.num_attention_heads),
            classes=heads.classes_of(config, self.answers),
            problem=None if self.answers is None else heads.problem_of(config, self.answers),
            relative=config.model_type in RELATIVE,
            words=getattr(config, "input_width", None),
            vocabulary=int(config.vocab_size) if self.answers == "mlm" else 0,
            module_width=self.module_width,
        )

    def module_width(self, name: str) -> int:
        """How many numbers a module of the transformer gives for a token, found by asking it.

        Raises:
            UsageError: as `modules_tapped`.
        """
        # Two rows, since what a module gives for one might be meant for all.
        ids, spelling = torch.ones(6, dtype=torch.long), spelling_array(["a"] * 6)
        rows = Tokens(ids, torch.tensor([3, 3]), spelling=torch.from_numpy(spelling))
        part = Part("module", module=name)
        # Some may be kept in few bits already.
        kept = next((p.dtype for p in self.model.parameters() if p.dtype in _HALF), None)
        casts = torch.autocast(self.device.type, kept, enabled=kept is not None)
        with torch.inference_mode(), _undropped(self), casts:
            return int(self(rows.to(self.device), frozenset({part}))[part].shape[1])

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    @property
    def voice(self) -> Part:
        """What it is for: its logits, or its embedding where it has no head."""
        if self.answers == "mlm":
            # All logits of many tokens would not fit into memory.
            return MASKED_LOGITS._replace(top_k=1)
        return EMBEDDING if self.answers is None else heads.PARTS[self.answers]

    @property
    def gives(self) -> Needs:
        """The kinds of logits that it can be asked for, all or some of the largest of them."""
        if self.answers is None:
            return frozenset()
        every = frozenset({heads.PARTS[self.answers]})
        return every | {TOKEN_LOGITS} if self.answers == "mlm" else every

    def forward(self, tokens: Tokens, needs: Needs) -> Activations:
        """What the model says about rows that lie on its device; values are fp32."""
        steady = frozenset(part for part in needs if part.steady)
        if steady:
            with _undropped(self.model):
                calm = self.forward(tokens, frozenset(p._replace(steady=False) for p in steady))
            said = self.forward(tokens, needs - steady)
            again = {part._replace(steady=True): value for part, value in calm.values.items()}
            return Activations(said.lengths, said.values | again, said.crf)
        mask = tokens.mask()
        inputs = {"input_ids": tokens.padded(self._pad_id), "attention_mask": mask.long()}
        if self.typed:
            inputs["token_type_ids"] = tokens.types()
        if self.spelt and tokens.spelling is not None:
            spelling = pad(tokens.spelling, mask).long()
            inputs |= {"shapes": spelling[..., 0], "characters": spelling[..., 1:]}
        wants_states = any(part.name == "hidden" for part in needs)
        # A head hides the last states of the transformer below it.
        wants_states |= self.answers is not None and EMBEDDING in needs
        asked = {part for part in needs if part._replace(top_k=None) in self.gives}
        wanted = self._wanted(tokens, mask, asked)
        model = self.model if asked else self.base
        family = self.model.config.model_type
        with (
            tapped(self.base, family, needs) as taken,
            modules_tapped(self.base, needs, mask) as given,
            head_at(self.base, wanted),
        ):
            said = model(**inputs, output_hidden_states=wants_states, return_dict=True)
        values = {part: value[mask].float() for part, value in taken.items()}
        values |= {Part("module", module=name): value.float() for name, value in given.items()}
        for part in needs:
            if part.name == "hidden":
                assert part.layer is not None
                values[part] = said.hidden_states[part.layer][mask].float()
            elif part == EMBEDDING:
                last = getattr(said, "last_hidden_state", None)
                last = said.hidden_states[-1] if last is None else last
                values[part] = self._embed(last.float(), mask, tokens)
            elif wanted is not None and part in asked:
                logits = heads.logits_of(said).squeeze(0).float()
                every = wanted[mask]  # a part about masked tokens alone, or all tokens with them
                logits = logits[tokens.masked[every]] if part.only_masked else logits
                values[part] = logits if part.top_k is None else largest(logits, part.top_k)
            elif part in asked:
                logits = heads.logits_of(said).float()
                values[part] = logits[mask] if part.per_token else logits
        return Activations(tokens.lengths, values, self.crf)

    def _wanted(self, tokens: Tokens, mask: Tensor, asked: set[Part]) -> Tensor | None:
        """[B, T] bool: where a masked language model has to say something; None of other heads."""
        if self.answers != "mlm" or not asked:
            return None
        if any(not part.only_masked for part in asked):
            return mask
        return torch.zeros_like(mask).masked_scatter_(mask, tokens.masked)

    def _embed(self, states: Tensor, mask: Tensor, tokens: Tokens) -> Tensor:
        """[B, T, D] to [B, E]."""
        pooled = mask.clone()
        if not self.head.include_prompt:
            pooled[:, : tokens.prompt_tokens] = False
        with torch.autocast(states.device.type, enabled=False):
            parts = [pool(states, pooled, tokens.lengths, name) for name in self.head.pooling]
            vectors = torch.cat(parts, dim=-1)
            for dense in self.dense:
                vectors = dense(vectors)
            return functional.normalize(vectors, dim=-1) if self.head.normalize else vectors


@contextmanager
def _undropped(model: nn.Module) -> Iterator[None]:
    """While it lasts no dropout acts.

    Recurrent layers stay as they are: ours have no dropout of their own, and on CUDA there is no
    gradient of them outside of training.
    """
    trained = [m for m in model.modules() if m.training and not isinstance(m, nn.RNNBase)]
    try:
        for module in trained:
            module.training = False
        yield
    finally:
        for module in trained:
            module.training = True


def pool(states: Tensor, mask: Tensor, lengths: Tensor, name: str) -> Tensor:
    """[B, T, D], the places that count [B, T] and the lengths [B] to one vector a row, [B, D]."""
    rows = torch.arange(len(states), device=states.device)
    if name == "cls":
        return states[rows, mask.long().argmax(1)]
    if name == "lasttoken":
        return states[rows, lengths - 1]
    if name == "max":
        found = states.masked_fill(~mask[..., None], -torch.inf).amax(1)
        return found.masked_fill(~mask.any(1, keepdim=True), 0.0)
    weights = mask.to(states.dtype)
    if name == "weightedmean":
        weights = weights * torch.arange(1, states.shape[1] + 1, device=states.device)
    total = (weights[:, None] @ states).squeeze(1)
    count = weights.sum(1, keepdim=True).clamp(min=1e-9)
    return total / (count.sqrt() if name == "mean_sqrt_len" else count)


def observe(encoder: Encoder, tokens: Tokens, needs: Needs, dtype: Dtype) -> Activations:
    """One forward pass that only looks: eval mode, no gradient, on the encoder's device.

    What it gives are ordinary detached tensors, which a loss may save for its backward pass.
    """
    encoder.eval()
    with torch.inference_mode(), autocast(encoder.device, dtype):
        said = encoder(tokens.to(encoder.device), needs)
    return Activations(said.lengths, {part: value.clone() for part, value in said.values.items()})


def keep_in(encoder: Encoder, dtype: Dtype) -> None:
    """Let linear layers compute in `dtype` for good, as `observe` is told each time.

    Weights are kept as autocast casts them in every pass: the same numbers. Those of int8 are
    rounded, and not what they were.
    """
    if dtype == "fp32":
        return
    # A layer may share its weights with the embeddings, which autocast does not cast.
    shared = {id(p) for m in encoder.modules() if isinstance(m, nn.Embedding) for p in [m.weight]}
    if dtype == "int8":
        round_linear(encoder.model, shared)
        return
    for module in encoder.model.modules():
        if isinstance(module, nn.Linear) and id(module.weight) not in shared:
            module.to(TORCH[dtype])


def embed(encoder: Encoder, tokens: Tokens, dtype: Dtype) -> Tensor:
    """[B, D] fp32 on the CPU: embeddings of any number of rows, in their order."""
    return ask(encoder, tokens, EMBEDDING, dtype)


def ask(
    encoder: Encoder, tokens: Tokens, part: Part, dtype: Dtype, tokens_per_batch: int = 4096
) -> Tensor:
    """One part of what a model says about any number of rows, in their order; fp32, on the CPU.

    [B, D] for a part about rows, [N, D] for one about tokens, [M, D] about masked ones.
    """
    plan = by_length(tokens.lengths.numpy(), tokens_per_batch, pass_overhead(encoder.device))
    result = torch.empty(0)
    for batch in map(torch.from_numpy, plan):
        said = observe(encoder, tokens.take(batch), frozenset({part}), dtype)[part].cpu()
        if not len(result):
            result = torch.empty(tokens.vectors(part), said.shape[1])
        result[tokens.vectors_of(batch, part)] = said
    return result
