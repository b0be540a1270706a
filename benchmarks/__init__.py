"""Measurements of time and memory beside named peers. Results lie in benchmarks/results."""
