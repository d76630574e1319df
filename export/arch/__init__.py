"""Architectures: ``arch/<model_type>.py`` is found by its file name; adding one changes no other file.

A file offers ``read_model(checkpoint) -> Model`` and facts ``ABOUT``, and may list other model_types in ``ALIASES``,
and in ``OTHERS`` those that sound alike but are other models, with the difference.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from palmtop.errors import CheckpointError, UnsupportedModelError
from palmtop.export.checkpoint.config_section import ConfigSection, nearest
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.checkpoint.lazy_tensor import StateDict
from palmtop.export.checkpoint.lora import Adapter
from palmtop.export.graph.building.source import EncoderSource, GraphSource
from palmtop.export.graph.decoder import Decoder
from palmtop.export.reading.settings import refuse_unread
from palmtop.export.reading.tensors import PARTS, TABLE, Head, parts_of, refuse_other_tensors, stacked_weights
from palmtop.export.reading.text import THINKING, chat_template, text_spec
from palmtop.export.recipe import Recipe
from palmtop.runtime.bundle.manifest import Route
from palmtop.runtime.bundle.processor_config import ProcessorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Model of a checkpoint in palmtop's names, independent of the source's spelling.

    Attributes:
        architecture: name of the architecture file.
        graphs: sources of its graphs by name: "decoder", then "vision" and "audio" if it has these encoders.
        weights: tensors by canonical name: ``embed_tokens.weight``, ``layers.N...``, ``norm.weight``,
            ``lm_head.weight``; the encoders' tensors below ``embed_tokens_extend.`` with transformers' names, or with
            the checkpoint's own names.
        adapters: adapters in the order of their gates.
        processor: settings of preprocessing.
        routes: adapters of each mode of input.
        chat_template: jinja source.
        missing_adapters: adapters that the checkpoint should have but lacks; it needs ``--adapters none``.
        notes: sentences for the user about how the checkpoint was read.
    """

    architecture: str
    graphs: Mapping[str, GraphSource]
    weights: StateDict
    adapters: tuple[Adapter, ...]
    processor: ProcessorSpec
    routes: dict[str, Route]
    chat_template: str
    missing_adapters: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def decoder(self) -> Decoder:
        """The decoder graph, which every model has."""
        return cast(Decoder, self.graphs["decoder"])

    def tokens(self, recipe: Recipe) -> int:
        """Return the longest sequence of a bundle of this recipe."""
        context = recipe.with_context(self.decoder.max_tokens).context
        assert context is not None  # a default context is chosen now
        return context

    @property
    def encoders(self) -> dict[str, EncoderSource]:
        """Graphs other than the decoder, by name."""
        return {name: cast(EncoderSource, graph) for name, graph in self.graphs.items() if name != "decoder"}


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """Facts about an architecture file, for ``palmtop export --list``.

    Attributes:
        models: models that have this form.
        sources: files of weights that are read.
        tested: weights that tests use.
        refused: what is refused, and why.
    """

    models: str
    sources: str = "transformers folder"
    tested: str = "random weights"
    refused: tuple[str, ...] = ()


class Architecture(Protocol):
    """Interface of an architecture file."""

    def read_model(self, checkpoint: Checkpoint) -> Model:
        """Interpret a checkpoint; reads no tensor yet.

        Args:
            checkpoint: an open checkpoint.

        Raises:
            CheckpointError: a key or tensor is missing or contradicts another.
        """
        ...


def text_model(
    architecture: str,
    checkpoint: Checkpoint,
    config: ConfigSection,
    decoder: Decoder,
    head: Head,
    *,
    parts: Mapping[str, Sequence[str]] = PARTS,
) -> Model:
    """Return a model that is one dense decoder, and refuse what the decoder does not read.

    Args:
        architecture: name of the architecture file.
        checkpoint: an open checkpoint.
        config: its config, with every key looked up that the decoder depends on.
        decoder: the decoder.
        head: embedding and head.
        parts: linears of the decoder that the checkpoint has under other names, and the names of those that are
            stacked for each.

    Raises:
        CheckpointError: a key or tensor is missing, or would not be read.
    """
    text = text_spec(checkpoint, config, thinking=THINKING)
    refuse_unread(config)
    inner = {head.place(part, f"model.{part}") for name in decoder.tensors - {TABLE} for part in parts_of(name, parts)}
    refuse_other_tensors(checkpoint, inner | head.names, f"a {architecture} model of {decoder.num_layers} layers")
    return Model(
        architecture=architecture,
        graphs={"decoder": decoder},
        weights=stacked_weights(checkpoint, head, parts),
        adapters=(),
        processor=ProcessorSpec(text=text, image=None, audio=None),
        routes={"text": Route(adapters={}, audio_projector="speech")},
        chat_template=chat_template(checkpoint),
        notes=head.notes,
    )


def find(model_type: str) -> Architecture:
    """Return the architecture file of a model_type.

    Raises:
        UnsupportedModelError: there is none; the message lists the existing ones.
    """
    name = re.sub(r"[-.]", "_", model_type)
    if re.fullmatch(r"\w+", name) and importlib.util.find_spec(f"{__name__}.{name}") is not None:
        return cast(Architecture, importlib.import_module(f"{__name__}.{name}"))
    for known in names():
        module = importlib.import_module(f"{__name__}.{known}")
        if model_type in aliases(known):
            return cast(Architecture, module)
        if model_type in getattr(module, "OTHERS", {}):
            raise UnsupportedModelError(
                f"config.json: model_type is '{model_type}', which is no '{known}' ({module.OTHERS[model_type]}) and "
                f"is not supported; expected one of {', '.join(names())}"
            )
    expected = f"expected one of {', '.join(names())}{nearest(name, names())}"
    raise UnsupportedModelError(f"model_type is '{model_type:.60}', {expected}")


def read_model(checkpoint: Checkpoint, recipe: Recipe) -> Model:
    """Interpret a checkpoint by the architecture file of its model_type; reads no tensor yet.

    Raises:
        UnsupportedModelError: there is no such file.
        CheckpointError: a key or tensor is missing, contradicts another, or would not be read, or the model's context
            is shorter than the recipe's.
    """
    model = find(_model_type(checkpoint.config)).read_model(checkpoint)
    limit = model.decoder.max_tokens
    if model.tokens(recipe) > limit:
        raise CheckpointError(
            f"config.json: {model.decoder.limit} is {limit}, expected at least {model.tokens(recipe)}, the context of"
            " the bundle"
        )
    return model


def about(name: str) -> About:
    """Return the facts about an architecture file."""
    found = importlib.import_module(f"{__name__}.{name}").ABOUT
    assert isinstance(found, About)
    return found


def aliases(name: str) -> tuple[str, ...]:
    """Return the other values of model_type that an architecture file reads."""
    return tuple(getattr(importlib.import_module(f"{__name__}.{name}"), "ALIASES", ()))


def _model_type(config: Mapping[str, Any]) -> str:
    """Model type of a config; old files of remote code name only the class, such as MiniCPMForCausalLM."""
    stated, classes = config.get("model_type"), config.get("architectures")
    if stated is None and isinstance(classes, list) and classes:
        return str(classes[0]).removesuffix("ForCausalLM").lower()
    return str(stated)


def names() -> list[str]:
    """Return the names of all architecture files."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__))
