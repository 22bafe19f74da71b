"""Which derived program a card runs: PyTorch picks the attention kernel by the card's compute capability."""

from vram_ledger.harness.records import Configuration, Phase

FLASH, CUDNN = "8.0", "9.0"  # capabilities on which programs are derived
CARDS = {FLASH: "a100-80gb", CUDNN: "h100"}  # and the emulated cards that have them


def derived_on(capability: str, phase: Phase, configuration: Configuration) -> str | None:
    """The capability of the card on which the program was derived that this one runs; ``None`` if none was.

    PyTorch 2.14.1, ``sdp_utils.cpp``, with cuDNN 9.24: cuDNN's attention on 9.0 and 10.x; flash attention, and the
    memory-efficient kernel under a mask, on other cards from 8.0 on, and on 10.x for a single query without a mask. A
    decode step with a static cache has one. In float32 it is the memory-efficient kernel on all of them.
    """
    major = int(capability.partition(".")[0] or 0)
    if configuration.dtype == "float32":
        return FLASH if major in (8, 9, 10, 12) else None
    masked = phase == "decode" and configuration.cache == "static"
    if capability == "9.0" or (major == 10 and (phase == "prefill" or masked)):
        return CUDNN
    return FLASH if major in (8, 10, 12) else None
