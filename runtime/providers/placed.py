"""Sessions of a bundle's target on its provider: files, compatibility with this machine, nodes that fell back.

A compiled graph belongs to one SoC and one compiler version. Its source, the quantised graph, is kept beside it in the
bundle, so that a device with another version can compile it again on request.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
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
"""Name of the version that a compiled graph depends on."""


@dataclass(slots=True)
class PlacedBundle:
    """Parts of a bundle that run on a provider with graphs compiled ahead.

    Attributes:
        bundle: the opened bundle.
        provider: name of the provider.
        parts: parts that run there: "vision", "audio", "decoder"; parts that the model lacks are skipped.
        fallback: whether operators may run on the CPU.
        recompile: whether graphs are compiled from their sources on this machine, even if compiled ones exist.
        threads: number of onnxruntime's threads.
        fell_back: nodes that run on the CPU, by file; filled as graphs are opened.
        compiled_here: files whose source was compiled instead of loading the shipped graph.
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
        """Refuse an impossible combination of bundle, provider and machine before anything is loaded.

        Raises:
            RuntimeMissingError: the provider is not installed.
            InputError: the bundle has no graphs for it, or none for a part.
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
        """Return encoders on the provider; other kinds of media go to ``rest``."""
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
        """Return the decoder's graphs on the provider; None where the decoder runs elsewhere."""
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
        """Open a session for one graph of a target and record the nodes that fell back."""
        source = source_of(target, path.name)
        # The emulator cannot load contexts that share weights (QAIRT 2.51 crashes): the source runs instead.
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
        """Return the provider's target: the one for this SoC, otherwise the first.

        Raises:
            InputError: the bundle has no target for the provider.
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
    """Return the name of the quantised graph that a compiled one was made from; ``file`` if nothing is compiled."""
    return file if target.soc is None else file.replace(f"{target.provider}-{target.soc}_", f"{target.provider}_", 1)


def sources_sha256(bundle: Bundle, target: TargetSpec) -> str:
    """Return one hash over the sources of a target, from the manifest's hashes of their files."""
    return hash_of_files({name: spec.sha256 for name, spec in bundle.manifest.files.items()}, target)


def hash_of_files(hashes: Mapping[str, str], target: TargetSpec) -> str:
    """Return one hash over the sources of a target, from hashes by file."""
    whole = hashlib.sha256()
    for name in sorted({source_of(target, file) for file in target.files}):
        whole.update(f"{name} {hashes.get(name, '')}\n".encode())
    return whole.hexdigest()


def node_counts(bundle: Bundle, provider: str) -> Iterator[Any]:
    """Open each graph that a provider runs and yield its nodes: (file, provider to operators).

    Raises:
        InputError: the bundle has no graphs for the provider.
        RuntimeMissingError: the provider is not installed.
        BundleError: a graph cannot be loaded.
    """
    manifest = bundle.manifest
    if provider == OPENVINO:  # OpenVINO runs the bundle's own encoders
        find_devices(provider)
        for encoder in (manifest.vision, manifest.audio):
            if encoder is not None:
                yield encoder.file, placement(open_graph(provider, bundle.file(encoder.file), fallback=True))
        if manifest.target(provider) is None:
            return
    placed = PlacedBundle(bundle, provider, (), fallback=True)
    placed.check()
    target = placed.target()
    for file in dict.fromkeys(target.files):
        if target.decoder is not None and file == target.decoder.embedding:
            continue
        yield file, placement(placed.open(target, bundle.file(source_of(target, file))))


def _has(target: TargetSpec, part: str) -> bool:
    return target.decoder is not None if part == "decoder" else part in target.encoders


def _decoder_files(target: TargetSpec) -> set[str]:
    decoder = target.decoder
    return set() if decoder is None else {f for route in decoder.routes for f in (route.prefill, route.decode)}


def _steps(name: str, bundle: Bundle) -> int:
    """Encoder steps of an audio graph by its name: "audio" is the graph of a whole window."""
    _, dot, steps = name.partition(".")
    if dot and steps.isdecimal():
        return int(steps)
    spec = bundle.manifest.processor.audio
    if dot or spec is None:
        raise BundleError(f"bundle.json: targets: encoders has '{name}', expected audio or audio.STEPS")
    return spec.window_steps
