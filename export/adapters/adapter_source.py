"""Sources of adapters for a bundle: a PEFT folder, quantised on reading, or a packed file, copied unchanged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from palmtop.errors import CheckpointError
from palmtop.export.bundle.external_data import ExternalData
from palmtop.export.checkpoint.config_section import ConfigSection, read_json_object
from palmtop.export.checkpoint.lora import Adapter, LoraPair, lacking_text, without_effect
from palmtop.export.checkpoint.peft_reader import FUSED_TARGETS, SPLIT_TARGETS, open_peft, read_adapter
from palmtop.export.graph.head_padding import Heads
from palmtop.quantize import Quantizer
from palmtop.quantize.parallel_rows import on_every_core

from .fused_projections import fused_pair, parts_of
from .graph import DecoderGraph, Delta
from .matrix import store

logger = logging.getLogger(__name__)
ORIGIN_FILE = "palmtop_adapter.json"  # file beside PEFT's, in folders that palmtop wrote


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Palmtop's record beside PEFT's config: base and origin of an adapter.

    Attributes:
        base_sha256: hash of the base it belongs to; None if not recorded.
        merged_from: adapters it was merged from; empty for a trained one.
    """

    base_sha256: str | None = None
    merged_from: Mapping[str, float]


def read_origin(path: Path) -> Origin:
    """Read the record of a PEFT folder; all fields are empty without one.

    Raises:
        CheckpointError: the file exists and has another format.
    """
    if not (path / ORIGIN_FILE).is_file():
        return Origin(merged_from={})
    keys = ConfigSection(read_json_object(path / ORIGIN_FILE), f"{path.name}/{ORIGIN_FILE}")
    merged = keys.optional("merged_from") or ConfigSection({}, keys.where)
    base = keys.data.get("base_sha256")
    if base is not None and not isinstance(base, str):
        raise CheckpointError(f"{keys.where}: base_sha256 is {base!r}, expected text")
    return Origin(base_sha256=base, merged_from={name: merged.number(name) for name in merged.data})


def read_peft(path: Path, name: str) -> Adapter:
    """Return the adapter of a PEFT folder with fused or separate projections; no tensor is read yet."""
    return read_adapter(open_peft(path), name, targets=FUSED_TARGETS + SPLIT_TARGETS)


def fitted_pairs(adapter: Adapter, graph: DecoderGraph, heads: Heads) -> dict[str, LoraPair]:
    """Return the adapter's deltas in the graph's layout, by linear.

    Raises:
        CheckpointError: a tensor does not fit the base, or belongs to a linear that the base does not have; names the
            tensor.
    """
    found, used, lacking = {}, set(), list[str]()
    for linear, (rows, _) in graph.linears.items():
        parts = parts_of(linear, rows, heads)
        pair = fused_pair(adapter, linear, parts)
        if adapter.pair(linear) is None:
            lacking += (adapter.lacking([linear]) if pair is None else []) or adapter.lacking(name for name, _ in parts)
        if pair is not None:
            used.update({linear, *(name for name, _ in parts)})
            found[linear] = heads.padded_pair(pair, linear)
            _check(found[linear], pair, graph.linears[linear])
    if lacking:
        logger.warning("palmtop: warning: %s", lacking_text(adapter.name, lacking))
    if foreign := [target for target in adapter.targets if target not in used]:
        pair = adapter.pair(foreign[0])
        assert pair is not None  # targets are those that have an adapter
        raise CheckpointError(
            f"tensor '{pair.a.name}' adapts a linear that this bundle has not; its linears are those of"
            f" {len({name.split('.')[1] for name in graph.linears})} layers: "
            + ", ".join(name.removeprefix("layers.0.") for name in graph.linears if name.startswith("layers.0."))
        )
    return found


def refuse_without_effect(pairs: Mapping[str, LoraPair], source: Path) -> None:
    """Refuse an adapter whose every ``b @ a`` is zero, and log a warning where some of them are.

    Raises:
        CheckpointError: all deltas are zero.
    """
    empty = without_effect(pairs)
    if not empty:
        return
    b = pairs[empty[0]].b.name
    if len(empty) == len(pairs):
        raise CheckpointError(
            f"{source}: adds nothing: lora_A or lora_B times alpha / r is zero in all {len(pairs)} linears, such as"
            f" '{b}', expected a trained adapter, saved with its weights gathered"
        )
    logger.warning(
        "palmtop: warning: %s: lora_A or lora_B is zero in %d of %d linears, such as '%s'; nothing is added there",
        source, len(empty), len(pairs), b,
    )  # fmt: skip


def _check(pair: LoraPair, given: LoraPair, shape: tuple[int, int]) -> None:
    rows, columns = shape
    if pair.a.shape[1] != columns:
        raise CheckpointError(f"tensor '{given.a.name}' is {list(given.a.shape)}, expected {columns} columns")
    if pair.b.shape[0] != rows:
        raise CheckpointError(f"tensor '{given.b.name}' is {list(given.b.shape)}, expected {rows} rows")


def quantise(
    pairs: Mapping[str, LoraPair],
    name: str,
    graph: DecoderGraph,
    sink: ExternalData,
    quantizer: Quantizer,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Delta]:
    """Store every pair with the precision of its linear, one after the other.

    Raises:
        CheckpointError: a value is not finite; names the tensor.
    """
    found = {}
    in_parallel = on_every_core(quantizer)
    for linear, pair in pairs.items():
        precision = graph.precision(linear, in_parallel)
        a = store(sink, f"{linear}.lora_A.{name}", pair.a, precision)
        b = store(sink, f"{linear}.lora_B.{name}", pair.b, precision)
        found[linear] = Delta(a, b)
        if progress is not None:
            progress(linear)
    return found
