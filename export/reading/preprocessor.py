"""Settings of image and sound preprocessing from a checkpoint's files.

Older checkpoints have one flat ``preprocessor_config.json``; transformers 5 writes the parts into
``processor_config.json``. Where both have a setting, the values must agree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from palmtop.errors import CheckpointError
from palmtop.export.checkpoint.config_section import ConfigSection
from palmtop.export.checkpoint.folder import Checkpoint

from .settings import HARMLESS, brief

FLAT, PARTED = "preprocessor_config.json", "processor_config.json"
PARTS = ("image_processor", "audio_processor", "feature_extractor")
# Keys that change no pixel and no sample: names of classes, layouts of arrays, padding between items of a batch.
QUIET = re.compile(
    r".*_type|processor_class|padding.*|return_.*|data_format|input_data_format|default_to_square|device|do_pad|pad_size"
    r"|disable_grouping|do_resize|resample|crop_size|do_center_crop|num_additional_image_tokens|max_length|truncation"
    r"|(?:image|audio)_token|image_seq_length|fake_image_token_around"
)


def read_preprocessor(checkpoint: Checkpoint) -> ConfigSection:
    """Return all settings as one flat object.

    Raises:
        CheckpointError: neither file has settings, or the two contradict each other.
    """
    found: dict[str, Any] = {}
    where: dict[str, str] = {}
    files = [name for name in (FLAT, PARTED) if checkpoint.text(name) is not None]
    for name in files:
        keys = ConfigSection(checkpoint.json(name), name)
        parts = [("", keys)] if name == FLAT else []
        parts += [(f"{part}.", section) for part in PARTS if (section := keys.optional(part)) is not None]
        for prefix, part in parts:
            for key, value in part.data.items():
                if value is None or key in PARTS:
                    continue
                if found.setdefault(key, value) != value and not QUIET.fullmatch(key):
                    raise CheckpointError(
                        f"{name}: {prefix}{key} is {brief(value)}, {where[key]} says {brief(found[key])}"
                    )
                where.setdefault(key, name)
    if not found:
        raise CheckpointError(f"{checkpoint.path}: '{FLAT}' is missing, and '{PARTED}' has no settings of its parts")
    return ConfigSection(found, " and ".join(dict.fromkeys(where.values())))


def check_preprocessor(pre: ConfigSection, built: Mapping[str, object]) -> None:
    """Refuse a setting that differs from the runtime's.

    Raises:
        CheckpointError: a key has another value.
    """
    for key, value in built.items():
        stated = pre.raw(key)
        if stated is not None and stated != value:
            raise CheckpointError(f"{pre.where}: {key} is {brief(stated)}, config.json says {value!r}")


def unread_settings(pre: ConfigSection) -> list[str]:
    """Return keys that were not looked up and are not known to be without effect, for a warning."""
    return [key for _, key in pre.not_looked_up() if not QUIET.fullmatch(key) and not HARMLESS.fullmatch(key)]
