"""Turn a checkpoint into a bundle: ``export_model(checkpoint, out, recipe)``."""
