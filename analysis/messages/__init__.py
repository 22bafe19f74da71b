"""Out-of-memory messages: what they say, and which tensors of a model they are about."""
