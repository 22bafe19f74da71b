"""Answers before anything is run: how many bytes, whether they fit, and where the number comes from."""
