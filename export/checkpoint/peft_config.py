"""PEFT's adapter_config.json of a LoRA: rank, scale and targets by module; other kinds are refused.

Modules are matched by PEFT's rules and names (peft 0.21: ``get_pattern_key``, ``check_target_module_exists``).
Independent of tensors and graphs.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeVar

from palmtop.errors import CheckpointError

from .config_section import ConfigSection, read_json_object

CONFIG_FILE = "adapter_config.json"
PREFIX = "base_model.model."  # prefix of the model inside PEFT's wrapper
logger = logging.getLogger(__name__)
T = TypeVar("T", int, float)

# Name parts that torch puts around a module: compile, FSDP, activation checkpointing.
_WRAPPERS = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
# Other features of PEFT, with the reason why a low-rank branch beside a frozen linear cannot represent them.
_REFUSED = {
    "use_dora": "DoRA rescales each row by the norm of base plus delta, which a branch beside a quantised base has not",
    "use_qalora": "QA-LoRA pools its inputs",
    "alora_invocation_tokens": "an activated LoRA begins in the middle of a prompt",
    "modules_to_save": "whole layers would have to be replaced, and the base is shared",
    "trainable_token_indices": "rows of the shared embedding would have to be replaced",
    "target_parameters": "it adapts parameters that are not linear layers",
    "layer_replication": "the base would need more layers",
    "fan_in_fan_out": "its base keeps weights transposed",
    "lora_bias": "its B has a bias",
    "megatron_config": "its layers are split over processes",
    "use_bdlora": "its tensors are blocks of another product",
    "kasa_config": "its product has singular values between A and B",
    "monteclora_config": "its weights are drawn anew",
    "arrow_config": "it routes between adapters by token",
}
# Read here, or without effect on a saved adapter's results (training, bookkeeping, sub-settings of the above).
_READ = frozenset(
    (
        "peft_type",
        "r",
        "lora_alpha",
        "rank_pattern",
        "alpha_pattern",
        "use_rslora",
        "bias",
        "init_lora_weights",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
    )
)
_HARMLESS = frozenset(
    (
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "peft_version",
        "revision",
        "task_type",
        "lora_dropout",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
        "velora_config",
        "qalora_group_size",
        "megatron_core",
        "ensure_weight_tying",
        "runtime_config",
        "lora_dtype",  # this and the next two are ms-swift's, for training
        "lorap_lr_ratio",
        "lorap_emb_lr",
    )
)
_UNCHANGED_BASE = ("gaussian", "eva", "orthogonal", "mica")


def module_names(module: str) -> tuple[str, ...]:
    """Return the names that PEFT may use for a module, given its name in a tensor file; the saved one first.

    PEFT leaves out its own wrapper. torch's wrappers around single layers are added after PEFT has matched its
    patterns, those around the whole model before or after: the file does not tell.

    >>> module_names("base_model.model.model.layers.0._orig_mod.mlp.down_proj")
    ('model.layers.0.mlp.down_proj',)
    >>> module_names("base_model.model._orig_mod.layers.0.mlp.down_proj")
    ('_orig_mod.layers.0.mlp.down_proj', 'layers.0.mlp.down_proj')
    """
    head, inside, tail = module.partition(PREFIX)
    is_outermost = inside and all(part in _WRAPPERS or part == "module" for part in head.split(".") if part)
    saved = (tail if is_outermost else module).removeprefix("module.")
    plain = ".".join(part for part in saved.split(".") if part not in _WRAPPERS)
    plain, first = plain.removeprefix(PREFIX), saved.partition(".")[0]
    return (f"{first}.{plain}", plain) if first in _WRAPPERS else (plain,)


class PeftConfig:
    """Checked adapter_config.json of a LoRA.

    Raises:
        CheckpointError: not a LoRA, a kind that cannot be added to a linear, or a key of unknown effect; names the key.
    """

    def __init__(self, folder: Path) -> None:
        self._keys = ConfigSection(read_json_object(folder / CONFIG_FILE), f"{folder.name}/{CONFIG_FILE}")
        self.where = self._keys.where
        self._refuse_other_kinds()
        self.alpha = self._keys.number("lora_alpha")
        self._is_rank_stable = self._keys.flag("use_rslora", default=False)
        self._patterns = {key: self._compiled(key) for key in ("rank_pattern", "alpha_pattern")}
        self._unused = {(key, pattern) for key, patterns in self._patterns.items() for pattern in patterns}

    def rank(self, names: Sequence[str]) -> int:
        """Return the rank of a module: its own in rank_pattern, else r.

        Raises:
            CheckpointError: the rank is not a positive whole number, or differs between the module's names.
        """
        return self._own("rank_pattern", names, ConfigSection.size, self._keys.size("r"))

    def scale(self, names: Sequence[str]) -> float:
        """Return PEFT's factor of a module's ``b @ a``: alpha / r, or alpha / sqrt(r) with use_rslora.

        Raises:
            CheckpointError: alpha is not a number, or differs between the module's names.
        """
        rank = self.rank(names)
        alpha = self._own("alpha_pattern", names, ConfigSection.number, self.alpha)
        return alpha / (rank**0.5 if self._is_rank_stable else rank)

    def is_target(self, names: Collection[str]) -> bool:
        """Return whether PEFT adds this LoRA to a module with one of these names.

        Raises:
            CheckpointError: the keys for it have another format than PEFT's.
        """
        return any(not self._is_listed("exclude_modules", name) and self._is_chosen(name) for name in names)

    def names_target(self, names: Collection[str]) -> bool:
        """Return whether ``target_modules`` names the module: False if the choice is left to PEFT."""
        return self._keys.data.get("target_modules") is not None and self.is_target(names)

    def warn_of_unused_patterns(self) -> None:
        """Log the patterns that match no module of the adapter: they have no effect, also in PEFT."""
        for key in ("rank_pattern", "alpha_pattern"):
            unused = [pattern for pattern in self._patterns[key] if (key, pattern) in self._unused]
            if unused:
                default = "r" if key == "rank_pattern" else "lora_alpha"
                more = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
                logger.warning(
                    "palmtop: warning: %s: %s has '%s'%s, which matches no module of this adapter, in PEFT neither;"
                    " %s is used", self.where, key, unused[0], more, default,
                )  # fmt: skip

    def _refuse_other_kinds(self) -> None:
        keys, where = self._keys, self._keys.where
        kind = keys.text("peft_type", default="LORA")
        if kind != "LORA":
            raise CheckpointError(f"{where}: peft_type is '{kind}', expected 'LORA'")
        for key, reason in _REFUSED.items():
            if _is_set(keys.data.get(key)):
                raise CheckpointError(f"{where}: {key} is {keys.data[key]!r:.80}, expected a plain LoRA: {reason}")
        bias = keys.data.get("bias") or "none"
        if bias != "none":
            raise CheckpointError(f"{where}: bias is {bias!r:.80}, expected 'none': trained biases belong to the base")
        init = keys.data.get("init_lora_weights", True)
        if not isinstance(init, bool) and init is not None and str(init).lower() not in _UNCHANGED_BASE:
            raise CheckpointError(
                f"{where}: init_lora_weights is {init!r:.80}, expected a LoRA of the unchanged base: such a start moves"
                " a part of the base into the adapter; save it with PEFT's path_initial_model_for_weight_conversion"
            )
        known = _READ | _HARMLESS | _REFUSED.keys()
        for key in sorted(keys.data.keys() - known):
            if _is_set(keys.data[key]):
                raise CheckpointError(
                    f"{where}: {key} is {keys.data[key]!r:.80}, expected only keys that this palmtop reads: it could"
                    " change what the adapter computes"
                )

    def _compiled(self, key: str) -> dict[str, re.Pattern[str]]:
        patterns = self._keys.optional(key)
        return {pattern: self._regex(key, pattern) for pattern in (patterns.data if patterns is not None else ())}

    def _regex(self, key: str, pattern: str) -> re.Pattern[str]:
        try:
            return re.compile(rf"(.*\.)?({pattern})$")
        except re.error as error:
            raise CheckpointError(f"{self.where}: {key} has '{pattern}', not a pattern ({error})") from error

    def _own(self, key: str, names: Sequence[str], read: Callable[[ConfigSection, str], T], default: T) -> T:
        """The value of the first pattern that matches, as PEFT takes it."""
        keys = self._keys.optional(key)
        if keys is None:
            return default
        found: dict[str, T] = {}
        for name in names:
            matching = [pattern for pattern, regex in self._patterns[key].items() if regex.match(name)]
            self._unused -= {(key, pattern) for pattern in matching}
            found[name] = read(keys, matching[0]) if matching else default
        if len(set(found.values())) > 1:
            told = " and ".join(f"{value:g} for '{name}'" for name, value in found.items())
            raise CheckpointError(
                f"{self.where}: {key} gives {told}, expected the same whether the model was compiled before or after;"
                " save the adapter of the uncompiled model"
            )
        return found[names[0]]

    def _is_listed(self, key: str, name: str) -> bool:
        """Return whether a regular expression matches the whole name, or a list has the name or its last parts."""
        value = self._keys.data.get(key)
        if isinstance(value, str):
            try:
                return re.fullmatch(value, name) is not None
            except re.error as error:
                raise CheckpointError(f"{self.where}: {key} is '{value:.80}', not a pattern ({error})") from error
        if not isinstance(value, list | None) or not all(isinstance(entry, str) for entry in value or ()):
            raise CheckpointError(f"{self.where}: {key} is {value!r:.80}, expected a pattern or a list of names")
        return any(name == entry or name.endswith(f".{entry}") for entry in value or ())

    def _is_chosen(self, name: str) -> bool:
        targets = self._keys.data.get("target_modules")
        if targets is None or targets == "all-linear":  # PEFT has a list of modules for each architecture
            return True
        if not self._is_listed("target_modules", name):
            return False
        layers = self._keys.data.get("layers_to_transform")
        if isinstance(targets, str) or layers in (None, []) or name in targets:
            return True
        if isinstance(layers, int):
            layers = [layers]
        patterns = self._keys.data.get("layers_pattern") or [r"[^.]*"]
        patterns = [patterns] if isinstance(patterns, str) else patterns
        lists = ((layers, "layers_to_transform", int), (patterns, "layers_pattern", str))
        for value, key, kind in lists:
            if not isinstance(value, list) or not all(isinstance(entry, kind) for entry in value):
                raise CheckpointError(f"{self.where}: {key} is {self._keys.data[key]!r:.80}, expected a list")
        for pattern in patterns:
            match = re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", name)
            if match is not None:
                return int(match[match.lastindex or 1]) in layers
        return False


def _is_set(value: object) -> bool:
    """Return whether a config's value switches something on; PEFT writes null, false, 0 or nothing otherwise."""
    return value not in (None, False, 0, "", [], {})
