"""A bundle's target on its provider: which files are opened, whether they fit this machine, what fell back.

A compiled graph belongs to one SoC and one version of the compiler. Its source, the quantised graph, lies beside it in
the bundle, so that a device with another version can compile it again; whoever runs it asks for that.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from palmtop.errors import BundleError, InputError
from palmtop.runtime.bundle.opening import Bundle
from palmtop.runtime.bundle.targets import TargetSpec
from palmtop.runtime.media.conversation_media import FeatureSource

from .assignment import OPENVINO
from .plugins import compiler_versions, find_devices, is_emulated, open_graph, placement, tell_fallen_back, this_soc
from .static_encoders import StaticEncoders
from .static_sessions import StaticSessions

logger = logging.getLogger(__name__)

COMPILER = "qairt"
"""The version that a compiled graph belongs to."""


@dataclass(slots=True)
class PlacedBundle:
    """The parts of a bundle that run on a provider that compiles ahead.

    Attributes:
        bundle: as opened.
        provider: its name.
        parts: "vision", "audio", "decoder": those that run there; what the bundle's model lacks is passed over.
        fallback: operators may run on the CPU.
        recompile: graphs are compiled from their sources here, whatever was compiled before.
        threads: of onnxruntime.
        fell_back: by file, the nodes that run on the CPU; filled as graphs are opened.
        compiled_here: files whose source was compiled in place of what was shipped.
    """

    bundle: Bundle
    provider: str
    parts: tuple[str, ...]
    fallback: bool = False
    recompile: bool = False
    threads: int | None = None
    fell_back: dict[str, list[str]] = field(default_factory=dict)
    compiled_here: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Refuse what cannot work before anything is loaded.

        Raises:
            RuntimeMissingError: the provider is not there.
            InputError: the bundle has no graphs for it, or not for a part.
            BundleError: the graphs are for another SoC, or compiled by another version.
        """
        find_devices(self.provider)
        target, manifest = self.target(), self.bundle.manifest
        there = {"vision": manifest.vision, "audio": manifest.audio, "decoder": manifest.decoder}
        for part in self.parts:
            if there[part] is not None and not _has(target, part):
                raise InputError(
                    f"{self.bundle.path}: its graphs for provider '{self.provider}' have no {part}, expected one; "
                    f"pass --provider {part}=cpu"
                )
        self._check_fit(target)

    def encoders(self, rest: FeatureSource, *, keep: bool) -> FeatureSource:
        """Encoders on the provider; those that are not are ``rest``'s."""
        target = self.target()
        files = {
            name: self.bundle.file(file)
            for name, file in target.encoders.items()
            if name.partition(".")[0] in self.parts
        }
        if not files:
            return rest
        return StaticEncoders(
            files.get("vision"),
            {_steps(name, self.bundle): path for name, path in files.items() if name != "vision"},
            self.bundle.manifest.processor,
            lambda path: self.open(target, path),
            rest,
            keep=keep,
        )

    def static(self) -> StaticSessions | None:
        """The decoder on the provider, None where it runs elsewhere."""
        target = self.target()
        if "decoder" not in self.parts or target.decoder is None:
            return None
        return StaticSessions(
            self.bundle.path,
            target.decoder,
            lambda path: self.open(target, path),
            lambda path: open_graph("cpu", path, threads=self.threads),
        )

    def open(self, target: TargetSpec, path: Path) -> Any:
        """A session for one graph of a target, counted."""
        source = source_of(target, path.name)
        # The emulator cannot load contexts that share weights (QAIRT 2.51 ends in a fault): the source runs instead.
        from_source = self.recompile or (is_emulated(target.provider) and path.name in _decoder_files(target))
        file = self.bundle.file(source) if from_source and source != path.name else path
        if file != path:
            self.compiled_here.append(path.name)
            logger.info("%s: compiled here from %s", path.name, source)
        options = {} if target.soc is None or file == path else {"soc_model": target.soc.upper()}
        session = open_graph(target.provider, file, fallback=self.fallback, threads=self.threads, options=options)
        tell_fallen_back(session, path.name, self.fell_back)
        return session

    def target(self) -> TargetSpec:
        """The provider's graphs: for this SoC, or the first.

        Raises:
            InputError: there are none.
        """
        there = [t for t in self.bundle.manifest.targets if t.provider == self.provider]
        if not there:
            raise InputError(
                f"{self.bundle.path}: has no graphs for provider '{self.provider}', expected a target; "
                f"palmtop export CHECKPOINT -o BUNDLE --target {self.provider}"
            )
        soc = this_soc()
        return next((t for t in there if t.soc == soc), there[0])

    def _check_fit(self, target: TargetSpec) -> None:
        soc = this_soc()
        where = f"{self.bundle.path}: its graphs for provider '{target.provider}'"
        again = f"palmtop export CHECKPOINT -o BUNDLE --target {target.provider}"
        if target.soc is None:
            return
        if not is_emulated(target.provider) and soc is not None and soc != target.soc:
            raise BundleError(f"{where} were compiled for {target.soc}, this is {soc}; {again} --set soc={soc}")
        if self.recompile:
            return
        if target.versions.get("sources") != sources_sha256(self.bundle, target):
            raise BundleError(
                f"{where} were compiled from other sources than lie beside them; {again} --set soc={target.soc}"
            )
        found = compiler_versions(target.provider)
        if COMPILER in target.versions and found.get(COMPILER) != target.versions[COMPILER]:
            raise BundleError(
                f"{where} were compiled by {COMPILER} {target.versions[COMPILER]}, found {found.get(COMPILER)}; "
                f"pass --recompile (recompile=True) to compile them here, or {again} --set soc={target.soc}"
            )


def source_of(target: TargetSpec, file: str) -> str:
    """The quantised graph that a compiled one was made of; the file itself where nothing is compiled ahead."""
    return file if target.soc is None else file.replace(f"{target.provider}-{target.soc}_", f"{target.provider}_", 1)


def sources_sha256(bundle: Bundle, target: TargetSpec) -> str:
    """One hash over the sources of a target, from the manifest's hashes of their files."""
    return hash_of_files({name: spec.sha256 for name, spec in bundle.manifest.files.items()}, target)


def hash_of_files(hashes: Mapping[str, str], target: TargetSpec) -> str:
    """The same, from hashes by file."""
    whole = hashlib.sha256()
    for name in sorted({source_of(target, file) for file in target.files}):
        whole.update(f"{name} {hashes.get(name, '')}\n".encode())
    return whole.hexdigest()


def node_counts(bundle: Bundle, provider: str, progress: Callable[[str], None] | None = None) -> Iterator[Any]:
    """Open each graph that a provider runs and count nodes: (file, provider to operators).

    Raises:
        InputError: the bundle has no graphs for the provider.
        RuntimeMissingError: the provider is not there.
        BundleError: a graph cannot be loaded.
    """
    manifest = bundle.manifest
    if provider == OPENVINO:  # it runs the bundle's own encoders
        find_devices(provider)
        for encoder in (manifest.vision, manifest.audio):
            if encoder is not None:
                if progress is not None:
                    progress(encoder.file)
                yield encoder.file, placement(open_graph(provider, bundle.file(encoder.file), fallback=True))
        if manifest.target(provider) is None:
            return
    placed = PlacedBundle(bundle, provider, (), fallback=True)
    placed.check()
    target = placed.target()
    for file in dict.fromkeys(target.files):
        if target.decoder is not None and file == target.decoder.embedding:
            continue
        if progress is not None:
            progress(file)
        yield file, placement(placed.open(target, bundle.file(source_of(target, file))))


def _has(target: TargetSpec, part: str) -> bool:
    return target.decoder is not None if part == "decoder" else part in target.encoders


def _decoder_files(target: TargetSpec) -> set[str]:
    decoder = target.decoder
    return set() if decoder is None else {f for route in decoder.routes for f in (route.prefill, route.decode)}


def _steps(name: str, bundle: Bundle) -> int:
    """Steps of an audio graph by its name: "audio" is the whole window's."""
    _, dot, steps = name.partition(".")
    if dot and steps.isdecimal():
        return int(steps)
    spec = bundle.manifest.processor.audio
    if dot or spec is None:
        raise BundleError(f"bundle.json: targets: encoders has '{name}', expected audio or audio.STEPS")
    return spec.window_steps
