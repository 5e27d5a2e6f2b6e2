from __future__ import annotations
from pathlib import Path
import pytest, torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from kdpipe import job, train, write_student
from tests.pieces import make_cache, make_corpus, new_project, sentences

def prepared(project, spec, **sections):
    place = new_project(project, sentences(60), students={"s": spec}, **sections)
    made = make_corpus(place)
    for name in place.pipeline.caches:
        make_cache(place, made, name)
    corpus, caches = place.inputs("s")
    return place, job.prepare(place, "s", corpus, caches, "cpu")

TRAIN = {"max_steps": 3, "tokens_per_batch": 256, "bf16": False}

class BagConfig(PreTrainedConfig):
    model_type = "bag"
    def __init__(self, vocab_size=100, hidden_size=16, **keys):
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.num_hidden_layers, self.num_attention_heads = 1, 1
        self.max_position_embeddings = 512
        super().__init__(**keys)

class Bag(PreTrainedModel):
    config_class = BagConfig
    def __init__(self, config):
        super().__init__(config)
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.up = nn.Linear(config.hidden_size, config.hidden_size)
        self.post_init()
    def forward(self, input_ids, attention_mask=None, output_hidden_states=False, return_dict=True):
        first = self.words(input_ids)
        last = self.up(first)
        return BaseModelOutput(last_hidden_state=last, hidden_states=(first, last))

@pytest.mark.parametrize("model", [
  {"kind": "shape", "model_type": "albert", "embedding_size": 8, "hidden_size": 16, "num_hidden_layers": 3, "num_hidden_groups": 1, "num_attention_heads": 2, "intermediate_size": 16},
  {"kind": "shape", "model_type": "mobilebert", "embedding_size": 8, "hidden_size": 16, "num_hidden_layers": 3, "intra_bottleneck_size": 8, "true_hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16},
  {"kind": "shape", "model_type": "bag"},
])
def test_s(project, model):
    if model["model_type"] == "bag":
        AutoConfig.register("bag", BagConfig); AutoModel.register(BagConfig, Bag)
    place, work = prepared(project, {"caches": ["said"], "model": model, "objectives": [{"kind": "embedding", "loss": "mse"}, {"kind": "hidden", "layers": {0: 0, 1: 2}}], "train": TRAIN})
    assert job.carry_out(work, project / "runs") is None
    write_student.write_student(place, "s", work, {})
    print(sorted(p.name for p in (project/"artifacts/students/s").iterdir()))
    from kdpipe import predict
    from kdpipe.sources.row import Row
    print(predict.embeddings(predict.open_subject(project/"artifacts/students/s", "cpu"), [Row("a cat")]).shape)
