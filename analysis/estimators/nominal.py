"""What a model card says at a glance, which several calculators start from: parameters in billions, layers."""

import re

from vram_ledger.analysis.estimating.breakdown import Request
from vram_ledger.analysis.formula.shapes import Shapes, text_parameters


def nominal_parameters(request: Request) -> int:
    """The billions in the model's name ("qwen3.5-27b": 27e9); its text parameters where the name has none."""
    found = re.search(r"(?:^|-)(\d+(?:\.\d+)?)b(?:-|$)", request.model)
    return round(float(found[1]) * 1e9) if found else text_parameters(request.shapes)


def every_layer_kv_bytes(shapes: Shapes, element_bytes: int = 2) -> int:
    """Bytes of one token's keys and values if every layer had a cache, the linear ones too."""
    return 2 * (shapes.n_full + shapes.n_linear) * shapes.kv_heads * shapes.head_dim * element_bytes
