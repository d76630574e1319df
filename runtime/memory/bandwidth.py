"""Speed at which this machine reads memory, and the bytes that a decode step reads: the limit of decoding.

A token alone multiplies each weight once, so no step is faster than reading the weights and the KV cache.
"""

from __future__ import annotations

from collections.abc import Collection
from threading import Thread
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from palmtop.runtime.bundle.manifest import Manifest

from .plan import kv_bytes_per_token

STREAM_BYTES = 128 << 20  # of each thread: more than a share of any cache but the largest servers'
READS = 5
LINEARS, TABLE_AND_HEAD = "decoder linears", "embedding and head"  # parts of the manifest


def read_bandwidth(threads: int) -> float:
    """Return the bytes per second at which threads read memory together, each its own: the best of five reads."""
    streams = [np.ones(STREAM_BYTES // 8, np.int64) for _ in range(threads)]
    best = 0.0
    for _ in range(READS):
        readers = [Thread(target=_read, args=(stream,)) for stream in streams]
        started = perf_counter()
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        best = max(best, threads * STREAM_BYTES / (perf_counter() - started))
    return best


def _read(stream: NDArray[np.int64]) -> None:
    np.bitwise_or.reduce(stream)  # releases the GIL, and is faster than memory


def decode_bytes(manifest: Manifest, tokens: int, adapters: Collection[str] = ()) -> int:
    """Return the bytes that one decode step reads: weights, and the KV cache of the tokens before it.

    Of an embedding table apart from the LM head a step reads one row, so only one matrix of that size counts.

    Args:
        manifest: manifest of the bundle.
        tokens: tokens in the KV cache.
        adapters: names of the active adapters.
    """
    matrices = [part for part in manifest.parts if part.name == TABLE_AND_HEAD]
    one = manifest.decoder.vocab_size * manifest.decoder.hidden_size
    share = one / max(one, sum(part.parameters for part in matrices))
    names = {LINEARS, *(f"adapter {name}" for name in adapters)}
    linears = sum(part.size_bytes for part in manifest.parts if part.name in names)
    return linears + round(share * sum(part.size_bytes for part in matrices)) + tokens * kv_bytes_per_token(manifest)
