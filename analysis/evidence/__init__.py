"""From lines of a results file to fits, and to the verdict on each."""
