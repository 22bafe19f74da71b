"""Makes measurements: grids in, one JSON line a workload out."""
