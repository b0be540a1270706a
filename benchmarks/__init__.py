"""Measurements: speed against named peers, scores over seeds. Results lie in benchmarks/results."""
