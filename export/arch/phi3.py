"""Phi-3, Phi-3.5-mini, Phi-4-mini and Phi-4-mini-reasoning: the text backbone, as in ``Phi3ForCausalLM``.

One decoder without adapters and media. Code shared with Phi-4-multimodal, which is this backbone with two towers, is in
``reading``.
"""

from __future__ import annotations

from palmtop.export.checkpoint.config_section import ConfigSection
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.checkpoint.lazy_tensor import StateDict
from palmtop.export.reading.decoder import read_decoder
from palmtop.export.reading.rope import RopeRules
from palmtop.export.reading.settings import refuse_unread
from palmtop.export.reading.tensors import TABLE, decoder_names, read_head, refuse_other_tensors
from palmtop.export.reading.text import THINKING, chat_template, text_spec
from palmtop.runtime.bundle.manifest import Route
from palmtop.runtime.bundle.processor_config import ProcessorSpec

from . import Model

# Values that transformers' Phi3Config implies, where others of the family differ.
DEFAULTS = {"tie_word_embeddings": False, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5}
# Phi3Config reads the older spellings "su" and "yarn" as LongRoPE, and has no other scaling.
ROPE = RopeRules(
    kinds={"longrope": "longrope", "su": "longrope", "yarn": "longrope", "default": "default"}, original_context=4096
)


def read_model(checkpoint: Checkpoint) -> Model:
    """Interpret a checkpoint of ``Phi3ForCausalLM``."""
    config = ConfigSection({**DEFAULTS, **checkpoint.config}, "config.json")
    head = read_head(checkpoint, f"model.{TABLE}", is_tied=config.flag("tie_word_embeddings", default=False))
    decoder = read_decoder(config, ROPE, is_tied=head.is_tied)
    text = text_spec(checkpoint, config, thinking=THINKING)
    refuse_unread(config)
    read = {f"model.{name}" for name in decoder_names(decoder.num_layers) - {TABLE}} | head.names
    refuse_other_tensors(checkpoint, read, f"a phi3 model of {decoder.num_layers} layers")
    return Model(
        architecture="phi3",
        graphs={"decoder": decoder},
        weights=StateDict(lambda name: checkpoint.weight(head.place(name, f"model.{name}"))),
        adapters=(),
        processor=ProcessorSpec(text=text, image=None, audio=None),
        routes={"text": Route(adapters={}, audio_projector="speech")},
        chat_template=chat_template(checkpoint),
        notes=head.notes,
    )
