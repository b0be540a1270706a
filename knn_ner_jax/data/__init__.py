"""Data wing: files to static-shape batches. Knows nothing of models or neighbours."""
