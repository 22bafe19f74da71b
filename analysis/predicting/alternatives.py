"""What another choice would take: the last token's logits, fla's kernels, no second cache, 16 bits, no vision tower."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vram_ledger.analysis.derivation.derived_files import MODEL_CLASSES
from vram_ledger.analysis.ground.cards import sizes_text
from vram_ledger.analysis.predicting.prediction import FITS, Prediction
from vram_ledger.harness.records import Configuration


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One choice that can be made otherwise. option: as make takes it; fields: of the configuration, as it would be.

    told: also of what fits, or on no card.
    """

    option: str
    words: str
    fields: dict[str, Any]
    told: bool


def choices(configuration: Configuration) -> Iterator[Choice]:
    """Those of a configuration that take more than another would, the one that usually weighs most first."""
    if configuration.logits != "last":
        words = "the last token's logits alone, all that generating needs"
        yield Choice(option="LOGITS=last", words=words, fields={"logits": "last"}, told=True)
    if configuration.kernels == "torch":
        words = "the kernels of flash-linear-attention instead of transformers' reference"
        yield Choice(option="KERNELS=fla", words=words, fields={"kernels": "fla"}, told=True)
    if configuration.cache == "second":
        words = "the other generation's cache let go of before"
        yield Choice(option="CACHE=dynamic", words=words, fields={"cache": "dynamic"}, told=True)
    if configuration.dtype == "float32":
        yield Choice(option="DTYPE=bfloat16", words="in 16 bits", fields={"dtype": "bfloat16"}, told=True)
    if configuration.model_class == MODEL_CLASSES["default"]:
        fields = {"model_class": MODEL_CLASSES["text"]}
        yield Choice(option="VARIANT=text", words="without the vision tower", fields=fields, told=False)


def alternative_text(option: str, words: str, found: Prediction, other: Prediction) -> str:
    """One line: what the other one takes, how much less it asks for at its peak, and whether it fits."""
    less = found.requested_bytes - other.requested_bytes
    verdict = "" if other.verdict is None else ": it fits" if other.verdict == FITS else f": {other.verdict}"
    kind = f" ({other.basis}: requested bytes)" if other.reserved_bytes is None else ""
    return (
        f"{option}, {words}: {sizes_text(other.least_bytes, other.most_bytes)}, "
        f"{sizes_text(abs(less))} {'less' if less >= 0 else 'more'} at the peak{kind}{verdict}."
    )
