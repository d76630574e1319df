"""Selection of the writer for the graphs of an export's ``--target``."""

from __future__ import annotations

from collections.abc import Callable

from palmtop.export.bundle.bundle_writer import TargetGraphs
from palmtop.export.recipe import Recipe


def target_graphs(recipe: Recipe, report: Callable[[str], None] | None = None) -> TargetGraphs | None:
    """Return the writer of a recipe's target; None without a target.

    Args:
        recipe: recipe of the export.
        report: called with steps that take long.

    Raises:
        RuntimeMissingError: the target's compiler is not installed; raised before hours of other work.
    """
    if recipe.target == "qnn":
        from palmtop.export.providers.qnn.compile import require_compiler
        from palmtop.export.providers.qnn.target import QnnGraphs

        require_compiler()
        return QnnGraphs(recipe, report)
    if recipe.target == "openvino":
        from .openvino import OpenVinoGraphs

        return OpenVinoGraphs(recipe)
    return None
