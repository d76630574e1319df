"""palmtop: mixture-of-LoRA multimodal language models on laptops and phones.

``palmtop.load(bundle)`` opens an exported bundle and returns a ``Session``. Importing this package loads
nothing heavy; onnxruntime and its friends are imported by the first call that needs them.
"""

from __future__ import annotations

__version__ = "0.1.0"
