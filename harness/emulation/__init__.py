"""The emulated card: the stock CUDA build of PyTorch on a machine without a GPU.

Six vendor libraries are replaced by stubs, preloaded into a process of its own. PyTorch's dispatcher, its caching
allocator and its out-of-memory path are the real ones and run as on a card; memory is counted, kernels do nothing.
What it gives is *emulated*: no card has measured it, and values that kernels would have computed are not there.
"""
