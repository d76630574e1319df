"""A GGUF file quantised by llama.cpp with its defaults: SOURCE TARGET KIND THREADS."""

from __future__ import annotations

import sys

import llama_cpp as c


def main() -> None:
    """Quantise."""
    source, target, kind, threads = sys.argv[1:]
    parameters = c.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread = getattr(c, f"LLAMA_FTYPE_MOSTLY_{kind}"), int(threads)
    if c.llama_model_quantize(source.encode(), target.encode(), parameters):
        raise SystemExit(f"llama.cpp cannot quantise {source}")


main()
