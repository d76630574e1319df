"""Token ids to token ids: KV cache, sampling, guided decoding, prompt lookup."""
