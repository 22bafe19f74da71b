"""Which implementation each stage of a model takes in an environment, and why: asked of that environment's Python.

Rules of transformers for Qwen3.5, read off ``models/qwen3_5/modeling_qwen3_5.py`` of 5.2.0 to 5.24.0 and of the version
that is installed. Up to 5.14 a package counts where it is installed and torch sees a card
(``utils/import_utils.py``, ``is_flash_linear_attention_available``, fla from 0.2.2 on), and the gated norm is fla's,
too. From 5.15 on it counts where its import succeeds, whatever the card (``integrations/hub_kernels.py``,
``use_kernel_func_from_hub_with_fallback``), and the norm is transformers' own. In either, what can't be had is replaced
by the torch reference.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vram_ledger.harness.attention import PREFERRED_CUDNN, kernel_of
from vram_ledger.harness.interpreter import told_by

SCRIPT = Path(__file__).parent / "runtimes" / "installed.py"
LEAST_FLA = (0, 2, 2)
ATTENTION = {
    "flash": "flash (PyTorch)",
    "cudnn": "cuDNN",
    "efficient": "memory-efficient (PyTorch)",
    "math": "math: no fused kernel",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """An environment, as its own Python tells. refused: by package, why it can't be imported; "" where it can.

    by_import, by_card, fused_norm: which rules the transformers there has. torch: what it says, ``None`` if not there.
    """

    python: str
    executable: str
    versions: dict[str, str | None]
    torch: dict[str, Any] | None
    by_import: bool
    by_card: bool
    fused_norm: bool
    refused: dict[str, str]
    switches: dict[str, str]

    @property
    def card(self) -> tuple[int, int] | None:
        """The compute capability of the card that torch sees."""
        found = (self.torch or {}).get("capability")
        return None if found is None else (found[0], found[1])

    @property
    def nothing_runs(self) -> str:
        """Why no model of the family runs there; "" if one does."""
        if self.torch is None:
            return "torch is not installed"
        if "broken" in self.torch:
            return f"torch can't be imported: {self.torch['broken']}"
        transformers = self.versions["transformers"]
        if transformers is None:
            return "transformers is not installed"
        return "" if self.by_import or self.by_card else f"transformers {transformers} has no Qwen3.5"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage: what a prefill and a decode step take, and why. fallen: that it is the silent fall-back."""

    name: str
    prefill: str
    decode: str
    why: str
    fallen: bool = False


def ask(interpreter: str = "") -> Installed:
    """The environment of an interpreter, by default of this one; see :func:`told_by` where that is none."""
    program = SCRIPT.read_text(encoding="utf-8")
    return Installed(**told_by(interpreter or sys.executable, program, preload=True))


def stages_of(there: Installed, capability: tuple[int, int] | None, dtype: str, head_dim: int) -> tuple[Stage, ...]:
    """The stages of a model there, on a card of that capability; ``None``: on none.

    The model is loaded as its config says: ``use_kernels=True`` would fetch others from the Hub.
    """
    return (
        _delta_rule(there, capability),
        _convolution(there, capability),
        _attention(there, capability, dtype, head_dim),
        _norm(there, capability),
    )


def _delta_rule(there: Installed, capability: tuple[int, int] | None) -> Stage:
    name, missing = "delta rule", _not_taken(there, "fla", capability)
    if missing:
        return Stage(
            name=name, prefill="torch reference, chunks", decode="torch reference, steps", why=missing, fallen=True
        )
    fla = there.versions["flash-linear-attention"] or "without a version"
    why = f"flash-linear-attention {fla} can be imported"
    if capability is None:
        why += "; there is no card, which its kernels need: on the CPU they fail, transformers does not fall back"
    return Stage(name=name, prefill="fla, chunked", decode="fla, fused recurrent", why=why)


def _convolution(there: Installed, capability: tuple[int, int] | None) -> Stage:
    missing = _not_taken(there, "causal_conv1d", capability)
    if missing:
        return Stage(name="convolution", prefill="torch conv1d", decode="torch conv1d", why=missing, fallen=True)
    why = f"causal-conv1d {there.versions['causal-conv1d'] or 'without a version'} can be imported"
    return Stage(name="convolution", prefill="causal_conv1d_fn", decode="causal_conv1d_update", why=why)


def _attention(there: Installed, capability: tuple[int, int] | None, dtype: str, head_dim: int) -> Stage:
    if capability is None:
        return Stage(name="attention", prefill="the CPU's", decode="the CPU's", why="no card")
    cudnn, why_cudnn = _cudnn(there, capability)
    many = 1024  # the choice is that of any number but one
    prefill = kernel_of(capability, dtype, head_dim, many, many, False, cudnn)
    decode = kernel_of(capability, dtype, head_dim, 1, many, False, cudnn)
    major, minor = capability
    why = f"PyTorch chooses, by capability {major}.{minor}, {dtype}, heads of {head_dim}{why_cudnn}"
    fallen = "math" in (prefill, decode)
    return Stage(name="attention", prefill=ATTENTION[prefill], decode=ATTENTION[decode], why=why, fallen=fallen)


def _cudnn(there: Installed, capability: tuple[int, int]) -> tuple[bool, str]:
    """Whether cuDNN's attention is preferred, and why not, where a card of that capability would have it."""
    if capability != (9, 0) and capability[0] != 10:
        return True, ""
    if there.switches.get("TORCH_CUDNN_SDPA_DEPRIORITIZED") == "1":
        return False, "; TORCH_CUDNN_SDPA_DEPRIORITIZED=1 puts cuDNN last"
    number = (there.torch or {}).get("cudnn")
    if number is not None:
        old = number < PREFERRED_CUDNN
        return not old, f"; cuDNN {number} is {'not ' if old else ''}above 9.15.0, from where on it comes first"
    torch = there.versions["torch"] or "0"
    old = numbers_of(torch) < (2, 11)
    return not old, f"; torch {torch} brings a cuDNN that is {'not ' if old else ''}put first"


def _norm(there: Installed, capability: tuple[int, int] | None) -> Stage:
    if not there.fused_norm:
        why = f"transformers {there.versions['transformers']} has no other, whatever is installed"
        return Stage(name="gated norm", prefill="torch", decode="torch", why=why)
    missing = _not_taken(there, "fla", capability)
    kind = "torch" if missing else "fla, FusedRMSNormGated"
    why = missing or "as the delta rule"
    return Stage(name="gated norm", prefill=kind, decode=kind, why=why, fallen=bool(missing))


def _not_taken(there: Installed, package: str, capability: tuple[int, int] | None) -> str:
    """Why transformers does not take a package's kernels; "" if it does."""
    distribution = {"fla": "flash-linear-attention"}.get(package, "causal-conv1d")
    if why := there.refused[package]:
        return f"{distribution}: {why}"
    if there.by_import:
        return ""
    version = there.versions[distribution]
    if package == "fla" and version is not None and numbers_of(version) < LEAST_FLA:
        return f"{distribution} {version} is older than 0.2.2"
    cuda = (there.torch or {}).get("cuda") or (there.torch or {}).get("hip")
    if not cuda:
        return f"torch {there.versions['torch']} is built without CUDA"
    return "" if capability is not None else "torch sees no card"


def numbers_of(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with: (2, 14, 1) of "2.14.1+cu130"."""
    found = []
    for part in version.partition("+")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        found.append(int(digits))
    return tuple(found)
