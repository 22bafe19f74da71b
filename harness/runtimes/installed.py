"""What an environment has of the packages that decide a model's kernels: a script for any interpreter, alone.

It is run by :mod:`harness.installed` with the interpreter that is asked about, so it imports nothing of the project. It
imports torch, fla and causal_conv1d where they are there, as transformers does, and prints a line of JSON.
"""

import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

DISTRIBUTIONS = ("torch", "transformers", "flash-linear-attention", "causal-conv1d", "triton", "kernels", "flash-attn")
WANTED = {
    "fla": ("fla.ops.gated_delta_rule", ("chunk_gated_delta_rule", "fused_recurrent_gated_delta_rule")),
    "causal_conv1d": ("causal_conv1d", ("causal_conv1d_fn", "causal_conv1d_update")),
}
MODELING = "models/qwen3_5/modeling_qwen3_5.py"
SWITCHES = ("TORCH_CUDNN_SDPA_DEPRIORITIZED", "USE_HUB_KERNELS")


def versions() -> dict[str, str | None]:
    """The versions that are installed, without importing anything."""
    found: dict[str, str | None] = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def modeling() -> str | None:
    """The source of the family's model in the transformers that is installed; ``None`` if there is none."""
    spec = importlib.util.find_spec("transformers")
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    paths = [Path(place) / MODELING for place in places]
    return next((path.read_text(encoding="utf-8") for path in paths if path.is_file()), None)


def refused(package: str) -> str:
    """Why transformers can't import what it wants of a package; "" if it can."""
    module, names = WANTED[package]
    if importlib.util.find_spec(package) is None:
        return "not installed"
    try:
        imported = importlib.import_module(module)
    except (ImportError, AttributeError, RuntimeError, OSError, ValueError, TypeError, LookupError) as error:
        return f"its import fails: {type(error).__name__}: {error}".splitlines()[0]
    missing = [name for name in names if not hasattr(imported, name)]
    return f"it has no {' and no '.join(missing)}" if missing else ""


def torch_there() -> dict[str, Any] | None:
    """What torch says of itself and of the first card; ``None`` if it is not there."""
    if importlib.util.find_spec("torch") is None:
        return None
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError) as error:
        return {"broken": f"{type(error).__name__}: {error}".splitlines()[0]}
    there = bool(torch.cuda.is_available())
    return {
        "cuda": torch.version.cuda,
        "hip": getattr(torch.version, "hip", None),
        "available": there,
        "card": torch.cuda.get_device_name(0) if there else None,
        "capability": list(torch.cuda.get_device_capability(0)) if there else None,
        "cudnn": torch.backends.cudnn.version() if there else None,
    }


def main() -> None:
    """Prints what there is."""
    text = modeling()
    torch = torch_there()
    usable = torch is not None and "broken" not in torch
    found = {
        "python": platform.python_version(),
        "executable": sys.executable,
        "versions": versions(),
        "torch": torch,
        "by_import": text is not None and "use_kernel_func_from_hub_with_fallback(" in text,
        "by_card": text is not None and "is_flash_linear_attention_available()" in text,
        "fused_norm": text is not None and "FusedRMSNormGated(" in text,
        "refused": {name: refused(name) if usable else "there is no torch to import it with" for name in WANTED},
        "switches": {name: os.environ[name] for name in SWITCHES if name in os.environ},
    }
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
