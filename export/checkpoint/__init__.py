"""Checkpoints as lazily read tensors: safetensors, torch archives, GGUF files and PEFT folders."""
