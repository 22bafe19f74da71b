"""Programs: all that is asked of the allocator, derived from runs; regimes, exact forms, and the peaks they give."""
