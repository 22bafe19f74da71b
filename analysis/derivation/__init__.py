"""The peak formula, derived from the program: replays, regimes, exact forms, pieces, ledgers."""
