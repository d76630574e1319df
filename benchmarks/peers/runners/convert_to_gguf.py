"""A checkpoint as a GGUF file in bfloat16, by llama.cpp's own converter: SOURCE_OF_LLAMA_CPP_PYTHON CHECKPOINT FILE.

A tokenizer that the converter does not know is written as gpt-4o's: contenders are given ids, never text.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Convert."""
    source, checkpoint, file = sys.argv[1:]
    vendor = Path(source) / "vendor" / "llama.cpp"
    sys.path[:0] = [str(vendor), str(vendor / "gguf-py")]
    from conversion import base  # type: ignore[import-not-found]

    known = base.TextModel.get_vocab_base_pre

    def name_of(self: Any, tokenizer: Any) -> str:
        try:
            return str(known(self, tokenizer))
        except NotImplementedError:
            return "gpt-4o"

    base.TextModel.get_vocab_base_pre = name_of
    sys.argv = ["convert_hf_to_gguf.py", checkpoint, "--outfile", file, "--outtype", "bf16"]
    runpy.run_path(str(vendor / "convert_hf_to_gguf.py"), run_name="__main__")


main()
