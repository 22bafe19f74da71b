"""Verdicts on a results file: per term, against itself, against what was stored."""
