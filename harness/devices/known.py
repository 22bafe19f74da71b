"""Integers and truth values that a device without values is asked for, followed on the host.

A prompt with images makes a program ask its card: how many patches, how large each image, do the tokens match. A real
card answers; tensors without memory can't, and a pretended card gives zeros. But all of it follows from what the
program itself copied there, so here every op on integers whose inputs are known is done once more on the host, and a
question is answered from there. The ops on the device stay as they are, and with them every allocation.
"""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

VALUELESS = ("fake", "emulated")  # kinds of device
MOST_ELEMENTS = 2**24  # sizes and places are small; masks of L by L are nobody's question
FACTORIES = {"aten::arange", "aten::zeros", "aten::ones", "aten::full", "aten::scalar_tensor"}
# Their kernels are compiled by NVRTC when first used (aten/src/ATen/native/cuda/ReduceSumProdKernel.cu), which no
# pretended card can do. The result is copied to the device instead, where it takes the same bytes.
COMPILED_AT_USE = {"aten::prod"}
_HOST_VALUE = "_value_on_the_host"


class UnknownValue(RuntimeError):
    """Something unknown was written over a known value, so what the device holds can't be told any more."""


class KnownValues(TorchDispatchMode):
    """Answers questions about a device's integers. Enter it around everything that makes or asks them.

    device_type: of the tensors without values, "meta" or "cuda". Where a value does not follow from what is known the
    question goes to the device as before.
    """

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self._device_type = device_type
        self._literal: Callable[..., torch.Tensor] = torch.tensor

    def __enter__(self) -> Self:
        self._literal = torch.tensor
        torch.tensor = self._literal_of_known
        return super().__enter__()

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)
        torch.tensor = self._literal

    def _literal_of_known(self, data: Any, *, device: Any = None, **kwargs: Any) -> torch.Tensor:
        """``torch.tensor``, which asks tensors in a list for their values, and copies, below the dispatcher."""
        if isinstance(data, list | tuple):
            data = tree_map(lambda leaf: leaf.item() if isinstance(leaf, torch.Tensor) else leaf, data)
        made = self._literal(data, **kwargs)
        return made if device is None else made.to(device)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func._schema.name
        if name in ("aten::_local_scalar_dense", "aten::_to_copy") and self._leaves_the_device(name, kwargs):
            value = self._known(args[0])
            return func(args[0] if value is None else value, **kwargs)
        if name == "aten::repeat_interleave" and kwargs.get("output_size") is None:
            value = self._known(args[0])
            if value is not None:
                kwargs["output_size"] = int(value.sum())  # else the op asks its device, out of our sight
        value = self._known(args[0]) if name in COMPILED_AT_USE else None
        out = func(*args, **kwargs) if value is None else func(value, *args[1:], **kwargs).to(args[0].device)
        self._follow(func, args, kwargs, out)
        return out

    def _leaves_the_device(self, name: str, kwargs: dict[str, Any]) -> bool:
        target = kwargs.get("device")
        return name == "aten::_local_scalar_dense" or (target is not None and torch.device(target).type == "cpu")

    def _known(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """The value on the host, ``None`` if it does not follow from anything known."""
        if tensor.device.type != self._device_type:
            return tensor
        value: torch.Tensor | None = getattr(tensor, _HOST_VALUE, None)
        return value

    def _follow(self, func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        name = func._schema.name
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        computed = any(t.device.type == self._device_type for t in inputs)
        if not any(self._followed(t, computed) for t in tree_leaves(out)) or "empty" in name:
            return
        if (not inputs and name not in FACTORIES) or torch.Tag.nondeterministic_seeded in func.tags:
            return
        if any(self._known(t) is None for t in inputs):
            if func._schema.is_mutable and self._known(args[0]) is not None:
                raise UnknownValue(f"{name} writes what is not known over a known value; this can't be replayed")
            return
        values = tree_leaves(func(*tree_map(self._on_host, args), **tree_map(self._on_host, kwargs)))
        for output, value in zip(tree_leaves(out), values, strict=True):
            if self._followed(output, computed):
                setattr(output, _HOST_VALUE, value)

    def _followed(self, leaf: Any, computed: bool) -> bool:
        """Whether an output is worth following: a fraction only between integers, never pixels or embeddings."""
        if not isinstance(leaf, torch.Tensor) or leaf.device.type != self._device_type:
            return False
        whole = not (leaf.dtype.is_floating_point or leaf.dtype.is_complex)
        return (whole or computed) and leaf.numel() <= MOST_ELEMENTS

    def _on_host(self, leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return self._known(leaf)
        return torch.device("cpu") if isinstance(leaf, torch.device) else leaf
