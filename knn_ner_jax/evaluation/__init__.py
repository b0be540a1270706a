"""Evaluation wing: choosing settings on dev, scoring, reporting."""
