"""The installed build of PyTorch, looked at without importing it: where it is, and whether it can be emulated."""

import importlib.util
import platform
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path

CUDA_MAJOR = 13


class NoEmulation(RuntimeError):
    """No card can be emulated here; the message says what is missing, in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A CUDA build of PyTorch. site: the folder that torch, nvidia and triton lie in. torch, cuda: its versions."""

    site: Path
    torch: str
    cuda: str

    @property
    def cuda_include(self) -> Path:
        """The CUDA headers that the wheel brings."""
        return self.site / "nvidia" / f"cu{CUDA_MAJOR}" / "include"

    def library(self, name: str) -> Path:
        """A vendor's library by its file name, such as "libcudart.so.13"; :class:`NoEmulation` if it is not there."""
        for folder in (self.site / "nvidia" / f"cu{CUDA_MAJOR}" / "lib", self.site / "nvidia" / "cudnn" / "lib"):
            if (folder / name).exists():
                return folder / name
        raise NoEmulation(f"torch {self.torch} came without {name}; reinstall it with its nvidia-* packages")


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledTorch:
    """PyTorch as its package says: the package's folder, its version, and the CUDA it was built for, if any."""

    package: Path
    version: str
    cuda: str | None


def installed_torch() -> InstalledTorch:
    """The PyTorch that this interpreter imports; :class:`NoEmulation` if there is none."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise NoEmulation(f"an emulated card needs PyTorch, and {sys.executable} has none")
    package = Path(spec.origin).parent
    said = runpy.run_path(str(package / "version.py"))
    return InstalledTorch(package=package, version=str(said["__version__"]), cuda=said.get("cuda"))


def find_wheel() -> Wheel:
    """The build of PyTorch that this interpreter imports; :class:`NoEmulation` if it can't be emulated."""
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        raise NoEmulation(f"an emulated card needs Linux on x86-64, and this is {system} on {machine}")
    torch = installed_torch()
    if torch.cuda is None:
        raise NoEmulation(
            f"an emulated card needs a CUDA build of PyTorch, and torch {torch.version} is a CPU-only one"
        )
    if int(torch.cuda.partition(".")[0]) != CUDA_MAJOR:
        raise NoEmulation(
            f"an emulated card needs PyTorch for CUDA {CUDA_MAJOR}, and torch {torch.version} is for CUDA {torch.cuda}"
        )
    return Wheel(site=torch.package.parent, torch=torch.version, cuda=torch.cuda)
