"""Compares bytes: what a device measured, what the model's shapes predict, and what was stored before.

Imports only ``harness.records`` and ``harness.events`` of the harness, and never torch or transformers.
"""
