"""What runs the model. One module a runtime, each with the functions of ``harness.runtimes.transformers``."""
