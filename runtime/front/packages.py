"""Python packages that palmtop depends on, read from its metadata, and the pip commands that install them.

The commands name those packages, never ``palmtop[EXTRA]``, because another project may own that name on a public index.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dependency:
    """A required package and its versions, from one line of pyproject.toml.

    Attributes:
        name: name of the package.
        versions: version specifiers for pip, such as ">=1.31,<2".
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
    """Return the packages that an extra requires, including those of extras inside it.

    Args:
        extra: name of the extra; "" for what every installation needs.

    Returns:
        The packages in the order of pyproject.toml; empty where palmtop runs without having been installed.
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
    """Return the pip command that installs the packages of an extra.

    Args:
        extra: name of the extra, as in ``dependencies``.
        only: one of its packages; "" for all.

    Returns:
        The command, such as "pip install 'llguidance>=1.9'".
    """
    wanted = [d for d in dependencies(extra) if only in ("", d.name)]
    quoted = " ".join(f"'{d.name}{d.versions}'" for d in wanted)
    return f"pip install {quoted}" if quoted else f"pip install '.[{extra}]' in a checkout of palmtop"
