"""Run a bundle: open it, turn messages into token ids and features, generate."""
