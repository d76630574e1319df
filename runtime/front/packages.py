"""Python packages that palmtop depends on, read from its own metadata, and the pip command that installs them.

The commands name those packages, never ``palmtop[EXTRA]``: a name that another project may own on a public index.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dependency:
    """One line of ``dependencies`` or of an extra in pyproject.toml.

    Attributes:
        name: of the package.
        versions: as pip takes them, such as ">=1.31,<2".
    """

    name: str
    versions: str

    @property
    def least(self) -> str:
        """Oldest version that is allowed; "" if any is."""
        return self._bound(">=") or self._bound("==")

    @property
    def below(self) -> str:
        """First version that is too new; "" if none is."""
        return self._bound("<")

    def _bound(self, sign: str) -> str:
        return next((part[len(sign) :] for part in self.versions.split(",") if re.match(rf"{sign}\d", part)), "")


def dependencies(extra: str = "") -> tuple[Dependency, ...]:
    """Packages that an extra asks for, those of the extras inside it included.

    Args:
        extra: its name; "" for what every installation needs.

    Returns:
        In the order of pyproject.toml; empty where palmtop runs without having been installed.
    """
    from importlib.metadata import PackageNotFoundError, requires

    try:
        lines = requires("palmtop") or []
    except PackageNotFoundError:
        return ()
    found: list[Dependency] = []
    for line in lines:
        what, _, marker = line.partition(";")
        wanted = re.search(r"""extra == ["']([\w-]+)["']""", marker)
        if (wanted[1] if wanted else "") != extra:
            continue
        name, extras, versions = re.fullmatch(r"([\w.-]+)(?:\[(.*)\])?\s*(.*)", what.strip()).groups()  # type: ignore[union-attr]
        if name == "palmtop":
            for inner in extras.split(","):
                found += dependencies(inner)
        else:
            found.append(Dependency(name, ",".join(sorted(versions.split(","), reverse=True))))
    return tuple(dict.fromkeys(found))


def install_command(extra: str = "", only: str = "") -> str:
    """Pip command that installs what an extra needs.

    Args:
        extra: as in ``dependencies``.
        only: one of its packages; "" for all.

    Returns:
        Such as "pip install 'llguidance>=1.9'".
    """
    wanted = [d for d in dependencies(extra) if only in ("", d.name)]
    quoted = " ".join(f"'{d.name}{d.versions}'" for d in wanted)
    return f"pip install {quoted}" if quoted else f"pip install '.[{extra}]' in a checkout of palmtop"
