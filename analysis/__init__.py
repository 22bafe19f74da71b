"""Compares bytes: what a device measured, what the model's shapes predict, and what was stored before.

Imports only ``records``, ``lines`` and ``events`` of the harness, and never torch or transformers.
"""
