"""The measurement that VRAM numbers get checked against: ``harness`` makes it, ``analysis`` compares with it.

In a checkout both stand beside this folder and are linked into it; installed, they are inside it.
"""
