"""GGUF files as checkpoints: header, tensors, config and tokenizer; one table for each architecture."""
