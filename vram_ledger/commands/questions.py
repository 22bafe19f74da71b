"""What predict and capacity are asked: a model, a card, and what of the run the user chose; and who answers it."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from vram_ledger.errors import InputError
from vram_ledger.harness.records import CacheKind, KernelPath, LogitsKept, Phase
from vram_ledger.home import GPUS, RUNS

if TYPE_CHECKING:
    from vram_ledger.analysis.allocation.settings import Rules
    from vram_ledger.analysis.predicting.advice import Predictors
    from vram_ledger.analysis.predicting.predictor import Predictor

SHORT = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32"}  # as people shorten them
MEANT = {"kernels": {"reference": "torch"}, "dtype": SHORT, "cache": {"no": "none"}}

KernelsOption = Annotated[str, typer.Option(help="fla, or torch: transformers' reference, taken silently without fla.")]
LogitsOption = Annotated[str, typer.Option(help="last, all, or loss: all of them and the prompt's loss in float32.")]
CacheOption = Annotated[
    str, typer.Option(help="dynamic, static, none, or second: beside that of another generation, still alive.")
]
DtypeOption = Annotated[str, typer.Option(help="bfloat16, float16 or float32; else as the config says.")]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The options that choose a predictor, as they were written; "" where one was not given."""

    model: str
    variant: str
    gpu: str
    memory: str
    free: str
    transformers: str
    allocator: str
    kernels: str = ""
    logits: str = ""
    cache: str = ""
    dtype: str = ""

    def chosen(self) -> dict[str, Any]:
        """The fields of the configuration that were chosen one by one; :class:`InputError` names what there is."""
        from vram_ledger.analysis.derivation.derived_files import WORDS
        from vram_ledger.harness import grid

        among = {"kernels": KernelPath, "logits": LogitsKept, "cache": CacheKind}
        known = {name: get_args(kind) for name, kind in among.items()} | {"dtype": grid.DTYPES}
        found = {}
        for name, values in known.items():
            given = getattr(self, name).strip().lower()
            value = MEANT.get(name, {}).get(given, given)
            if given and value not in values:
                raise InputError(f"{name} is {', '.join(values[:-1])} or {values[-1]}; got {getattr(self, name)!r}")
            if given:
                found[name] = value
        words = {word: WORDS[word] for word in self.variant.split("-") if word in WORDS}
        for word, fields in words.items():
            if other := next((name for name, value in fields.items() if found.get(name, value) != value), None):
                raise InputError(
                    f"VARIANT={self.variant} ({word}) and {other.upper()}={found[other]} contradict each other"
                )
        return found

    def predictors(self) -> "Predictors":
        """The predictor of it, by the chunk of its prefill."""
        from vram_ledger.analysis.allocation.settings import rules_given
        from vram_ledger.analysis.ground.cards import card_asked, read_amount
        from vram_ledger.analysis.predicting.configs import variant_with
        from vram_ledger.analysis.predicting.library import Library

        card = card_asked(self.gpu, GPUS, self.memory)
        outside = read_amount(self.free) if self.free else None
        library, chosen = Library.of(), self.chosen()
        given = rules_given(self.allocator)

        @functools.cache
        def predictor(chunk: int, rules: "Rules | None" = None, **other: Any) -> "Predictor":
            variant = variant_with(self.model, self.variant, **{**chosen, **other})
            return library.predictor(self.model, variant, card, outside, self.transformers, chunk, rules or given)

        return predictor


def derived_now(predictor: "Predictor", asked: "Sequence[tuple[Phase, int, int]]") -> bool:
    """Derives the programs that questions are in want of, where PyTorch's CUDA build is there; whether it made any."""
    missing = [(phase, *found) for phase, *shape in asked if (found := predictor.underived(phase, *shape)) is not None]
    if not missing:
        return False
    from vram_ledger.analysis.derivation.derived_files import derived_path, variant_of, write_derived
    from vram_ledger.analysis.derivation.replays import NotReplayed
    from vram_ledger.analysis.derivation.solved import NotDerived
    from vram_ledger.commands.derive import derived_of
    from vram_ledger.harness.emulation.wheel import NoEmulation, find_wheel

    try:
        find_wheel()
    except NoEmulation as error:
        typer.echo(f"note: no program of it is derived yet, and none can be here ({error})", err=True)
        return False
    made = False
    for phase, configuration, card in missing:
        what = f"{configuration.model} {variant_of(configuration)} {phase}"
        typer.echo(f"{what}: deriving its program on an emulated {card}, once: minutes (not with SYMBOLS=1)", err=True)
        try:
            derived = derived_of(predictor.config, configuration, phase, card)
        except (NotDerived, NotReplayed) as error:
            typer.echo(f"note: {what} can't be derived: {error}", err=True)
        else:
            write_derived(derived, derived_path(RUNS, derived))
            made = True
    return made
