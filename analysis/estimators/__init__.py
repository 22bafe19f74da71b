"""Third-party formulas, one module each, re-implemented from how they are described in public."""
