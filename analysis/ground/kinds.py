"""What kind of number a results file has: measured on a card, emulated, or replayed; never one for the other.

Measured: a card. Emulated: the real PyTorch with its allocator and dispatcher on a pretended card, whose kernels do
nothing; requested, allocated and reserved bytes are counted as on a card, those of the process and the device have a
context in them that somebody typed in. Replayed: tensors without memory, of which only the requested bytes are known.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from vram_ledger.harness.records import DeviceKind, Environment

Word = Literal["measured", "emulated", "replayed", "counted on a CPU"]
WORDS: tuple[Word, ...] = get_args(Word)  # the most that is known first
TYPED_IN = "context typed in"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How to speak of a results file.

    banner: what must stand on all that is made of it; "" of a card. note: what the kind can't know, in a sentence, ""
    of a card. role: of the banner, a colour and a CSS class of the report. option: of ``make measure``, which names
    the card. typed_in: the counters that have invented bytes in them.
    """

    word: Word
    banner: str
    note: str
    role: str
    option: str
    typed_in: tuple[str, ...] = ()

    @property
    def suffix(self) -> str:
        """What stands behind a name where there is no room for a banner; "" of a card."""
        return f" ({self.word})" if self.banner else ""

    def counter(self, quantity: str) -> str:
        """A counter's name, and that it is not all counted, where it is not."""
        return f"{quantity}, {TYPED_IN}" if quantity in self.typed_in else quantity


MEASURED = Kind(word="measured", banner="", note="", role="measured", option="GPU")
EMULATED = Kind(
    word="emulated",
    banner="EMULATED CARD — no kernels, not measured",
    note=(
        "An emulated card is the real PyTorch, its allocator and its dispatcher, on a card that is only pretended: "
        "kernels do nothing. Requested, allocated and reserved bytes are counted as on a card; those of the process "
        "and the device have a context in them that was typed in."
    ),
    role="emulated",
    option="EMULATE",
    typed_in=("process", "device"),
)
REPLAYED = Kind(
    word="replayed",
    banner="FAKE DEVICE — replayed, not measured",
    note=(
        "A replay runs the real program without a card and counts every allocation that it asks for. It has no "
        "rounding, no fragmentation and no CUDA context: what a card takes on top of it, only a card can tell."
    ),
    role="fake",
    option="FAKE",
)
ON_A_CPU = Kind(
    word="counted on a CPU",
    banner="CPU — real tensors, no card",
    note="On a CPU the tensors are real and the card is not: only requested bytes are counted.",
    role="fake",
    option="GPU",
)
KINDS: dict[DeviceKind, Kind] = {"cuda": MEASURED, "emulated": EMULATED, "fake": REPLAYED, "cpu": ON_A_CPU}


def kind_of(environment: Environment) -> Kind:
    """The kind of everything that was counted in an environment."""
    return KINDS[environment.device]


def kinds_of(environments: Iterable[Environment]) -> tuple[Kind, ...]:
    """The kinds of several environments, each once, those of which most is known first."""
    found = {kind_of(environment).word: kind_of(environment) for environment in environments}
    return tuple(found[word] for word in WORDS if word in found)


PREDICTED = "PREDICTED FROM REPLAYS — no card was measured"


def predicted_banner(words: Iterable[Word]) -> str:
    """What must stand on a prediction that was made from numbers of these kinds."""
    found = set(words)
    if found <= {REPLAYED.word}:
        return PREDICTED
    known = ", ".join(word for word in WORDS if word in found)
    return f"PREDICTED — {known}" + ("" if MEASURED.word in found else ", not measured")
