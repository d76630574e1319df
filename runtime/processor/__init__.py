"""Processor of a bundle: from raw text, images and sounds to token ids and arrays.

Importing this package loads neither OpenCV nor a tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palmtop.errors import BundleError, InputError
from palmtop.runtime.bundle.processor_config import AudioSpec, ImageSpec, ProcessorSpec, TextSpec

from .cancellation_points import Between, go_on

if TYPE_CHECKING:
    from palmtop.runtime.processor.images import PreparedImage
    from palmtop.runtime.processor.sounds import PreparedSound

    from .content import MediaItem
    from .text import Prompt, TextProcessor

__all__ = ["AudioSpec", "ImageSpec", "Processor", "ProcessorSpec", "TextSpec"]


class Processor:
    """Text, image and sound processing of one bundle.

    Files are opened at first use.

    Args:
        spec: processor settings of the bundle's manifest.
        bundle: folder with tokenizer.json and chat_template.jinja.
    """

    def __init__(self, spec: ProcessorSpec, bundle: Path) -> None:
        self.spec = spec
        self.bundle = Path(bundle)

    @cached_property
    def text(self) -> TextProcessor:
        """Tokenizer and chat template of the bundle.

        Raises:
            BundleError: one of the files is missing or cannot be read.
        """
        from .text import TextProcessor

        path = self.bundle / "chat_template.jinja"
        try:
            template = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(f"{path}: cannot be read ({error}), expected the model's chat template") from error
        return TextProcessor(
            self.bundle / "tokenizer.json",
            template,
            self.spec.text,
            image_token_id=self.spec.image.token_id if self.spec.image else None,
            audio_token_id=self.spec.audio.token_id if self.spec.audio else None,
            separator=self.spec.image.separator if self.spec.image else "",
        )

    def prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> Prompt:
        """Return the token ids of a conversation, and its media; see ``TextProcessor.prompt``."""
        return self.text.prompt(messages, tools=tools, add_generation_prompt=add_generation_prompt)

    def tiles(self, item: MediaItem, between: Between = go_on) -> PreparedImage:
        """Return the encoder input of an image; its ``segments`` replace its placeholder in the prompt.

        Args:
            item: the image to read.
            between: called between two steps of the work; may raise to stop it.

        Raises:
            InputError: the image cannot be read or used.
        """
        from palmtop.runtime.processor.images import prepare_image

        if self.spec.image is None or item.kind != "image":
            raise InputError(f"{item.kind} {item.number}: expected an image and a model that takes images")
        return prepare_image(item.source, self.spec.image, between)

    def sound(self, item: MediaItem, between: Between = go_on) -> PreparedSound:
        """Return the encoder input of a sound; its ``segments`` replace its placeholder in the prompt.

        Args:
            item: the sound to read.
            between: called between two steps of the work; may raise to stop it.

        Raises:
            InputError: the sound cannot be read or used.
        """
        from palmtop.runtime.processor.sounds import prepare_sound

        if self.spec.audio is None or item.kind != "audio":
            raise InputError(f"{item.kind} {item.number}: expected a sound and a model that takes sounds")
        return prepare_sound(item.source, self.spec.audio, between)
