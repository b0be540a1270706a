"""Ablation wing: many runs from one file, what they say and how surely."""
