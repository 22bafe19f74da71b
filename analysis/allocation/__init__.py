"""PyTorch's caching allocator: its rules, an event log under them, and recordings held against them."""
