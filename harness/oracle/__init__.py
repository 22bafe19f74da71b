"""What a server itself plans: the stock program started on an emulated card, and what it said, kept as it was.

The plan is the program's own. What no allocator gives out (the context's growth, loaded modules, what a driver takes
for CUDA graphs) is not emulated, so the pool that it plans is larger than on a card.
"""
