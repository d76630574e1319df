"""Checkpoints in one GGUF file: read as a checkpoint folder is, so that nothing behind here knows the difference.

``place`` says where a tensor lies and what its bytes mean (they are read as those of any checkpoint), ``phi3`` says
the architecture's config and names in transformers' words, ``tokenizer`` makes tokenizer.json of the metadata, and
``checkpoint`` puts them together. The package ``gguf`` (llama.cpp's own) parses the file and knows its quantised types.
"""
