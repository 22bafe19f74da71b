"""The calibration record, and what is published of it."""
