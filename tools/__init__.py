"""Scripts that check, study and write pages; they are run as `python -m tools.NAME`."""
