"""What this machine and its software are, told without importing torch."""

import importlib.metadata
import os
from typing import Any

import pynvml

from vram_ledger.harness.emulation.wheel import NoEmulation, installed_torch


def card_there() -> bool:
    """Whether the driver shows a card that this process may use."""
    return bool(first_card())


def first_card() -> dict[str, Any]:
    """UUID and driver of the first card, as NVML tells them; empty if there is no card to be used.

    Which of several cards torch takes first, NVML does not say: then both are left out.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return {}
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver, no card
        return {}
    try:
        count = pynvml.nvmlDeviceGetCount()
        if count != 1:
            return {"gpus": count} if count else {}
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        return {
            "gpu_uuid": pynvml.nvmlDeviceGetUUID(handle).removeprefix("GPU-"),
            "driver": pynvml.nvmlSystemGetDriverVersion(),
        }
    finally:
        pynvml.nvmlShutdown()


def software_installed() -> dict[str, str | None]:
    """The versions that a worker would tell, as long as everything that is installed can be imported."""
    try:
        torch = installed_torch().version
    except NoEmulation:
        torch = None
    return {"torch": torch} | {
        field: _version(name)
        for field, name in (
            ("transformers", "transformers"),
            ("triton", "triton"),
            ("fla", "flash-linear-attention"),
            ("causal_conv1d", "causal-conv1d"),
        )
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def allocator_settings() -> str:
    """The variables that steer what PyTorch allocates beside what a program asks for.

    As "NAME=value" joined by spaces; empty if none is set.
    """
    names = (
        "PYTORCH_ALLOC_CONF",
        "PYTORCH_CUDA_ALLOC_CONF",
        "PYTORCH_NO_CUDA_MEMORY_CACHING",
        "CUBLAS_WORKSPACE_CONFIG",
        "CUBLASLT_WORKSPACE_SIZE",
        "TORCH_CUDNN_SDPA_DEPRIORITIZED",
    )
    return " ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ)
