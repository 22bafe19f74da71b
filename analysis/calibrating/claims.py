"""The FitMyGPU page on Qwen 3.5 27B, claim by claim: what was measured, and whether the claim holds.

The claims are those of the page, in its own order; each is settled by points of
stored campaigns of one GPU label, named in the table. A table made without a card says so. What a card was too small
for, or was not measured, is named where a claim needs it; the other claims are settled all the same.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vram_ledger.analysis.calibrating.calibration import read_calibration
from vram_ledger.analysis.evidence.lines import measured
from vram_ledger.analysis.evidence.tables import banner_lines, environment_text
from vram_ledger.analysis.formula.terms import transient_bytes
from vram_ledger.analysis.ground.kinds import kind_of
from vram_ledger.errors import InputError
from vram_ledger.harness.lines import read
from vram_ledger.harness.records import Configuration, Environment, Measured, Phase, Workload

GB = 10**9
MODEL, ALL_FULL, DENSE = "qwen3.5-27b", "counterfactual-27b-all-full", "counterfactual-qwen2.5-32b-layout"
PAGE_WEIGHTS_BYTES = 2.06 * 27e9  # "27B resident parameters at 2.06 bytes each"
PAGE_STATE_BYTES = 48 * 827_392 * 4  # "48 layers × 827,392 elements × 4 B"
PAGE_OVERHEAD_SHARE, PAGE_LEAST_OVERHEAD_BYTES = 0.10, 1.5e9
LONG, SHORT, BATCH = 262_144, 4_096, 1
HOLDS, NOT, OPEN = "holds", "does not hold", "not settled"

Points = dict[Workload, Measured]


class NotThere(LookupError):
    """A campaign or a point that a claim needs and that is not stored; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaigns:
    """The campaigns that settle the claims. model: the page's own, which must be there.

    others: by grid and model, those that are stored: its axes, its prompts with images, and the two
    layouts that it is compared with.
    """

    environment: Environment
    model: Points
    others: dict[tuple[str, str], Points]

    def other(self, grid: str, model: str) -> Points:
        """Another campaign; :class:`NotThere` if it is not stored."""
        if (grid, model) not in self.others:
            raise NotThere(f"not measured here: {grid}/{model}.calibration.json is missing")
        return self.others[grid, model]

    @property
    def axes(self) -> Points:
        """The page's model along its other axes."""
        return self.other("axes", MODEL)

    @property
    def all_full(self) -> Points:
        """The same shape with full attention in every layer."""
        return self.other("default", ALL_FULL)

    @property
    def dense(self) -> Points:
        """A dense model of that size."""
        return self.other("default", DENSE)

    @property
    def media(self) -> Points:
        """The page's model with images in its prompts."""
        return self.other("media", MODEL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What was measured about a claim, and the verdict: "holds", "holds only if …", "does not hold", "not settled"."""

    found: str
    verdict: str


def labels_with(folder: Path) -> list[Path]:
    """The folder if it is of one label whose campaigns can settle claims, else those below it that are.

    :class:`InputError` names the file that is needed if there is none.
    """
    needed = Path("default") / f"{MODEL}.calibration.json"
    if (folder / needed).exists():
        return [folder]
    labels = [path for path in sorted(folder.glob("*")) if (path / needed).exists()]
    if not labels:
        raise InputError(
            f"{folder}: no {needed} there, nor in a folder of it; `make measure` and `make calibrate` make it. "
            "axes and media of the same card, and the two counterfactual models, settle the other claims"
        )
    return labels


def read_campaigns(folder: Path) -> Campaigns:
    """The calibrated campaigns below ``results/<gpu>``; ``OSError`` names the page's model's if it is missing."""

    def points(grid: str, model: str) -> tuple[Environment, Points]:
        calibration = read_calibration(folder / grid / f"{model}.calibration.json")
        results = read(folder / grid / calibration.results_file)
        return results.environment, measured(results.measurements)

    environment, model = points("default", MODEL)
    others = (("axes", MODEL), ("media", MODEL), ("default", ALL_FULL), ("default", DENSE))
    stored = [(g, m) for g, m in others if (folder / g / f"{m}.calibration.json").exists()]
    return Campaigns(
        environment=environment, model=model, others={(grid, name): points(grid, name)[1] for grid, name in stored}
    )


def at(points: Points, phase: Phase, batch: int, context: int) -> Measured:
    """The measurement of one shape; :class:`NotThere` if it did not run."""
    for w, m in points.items():
        if (w.phase, w.batch, w.context_tokens) == (phase, batch, context):
            return m
    raise NotThere(f"not measured here: a {phase} of {context:,} tokens at batch {batch} did not run")


def longest(phase: Phase, *campaigns: Points) -> int:
    """The longest context that ran at batch 1 in all campaigns; :class:`NotThere` if it is not beyond the short one."""
    ran = [{w.context_tokens for w in p if (w.phase, w.batch) == (phase, BATCH)} for p in campaigns]
    found = max(set.intersection(*ran), default=0)
    if found <= SHORT:
        raise NotThere(f"not measured here: no {phase} of more than {SHORT:,} tokens ran at batch {BATCH}")
    return found


def slopes(phase: Phase, reading: Callable[[Measured], int], *campaigns: Points) -> list[float]:
    """Bytes a token of a reading at batch 1, between the short context and the longest one of all campaigns."""
    last = longest(phase, *campaigns)
    ends = [[reading(at(points, phase, BATCH, context)) for context in (SHORT, last)] for points in campaigns]
    return [(high - low) / (last - SHORT) for low, high in ends]


def up_to(last: int) -> str:
    """How far a card's memory let a slope be taken, where it is not as far as the page goes."""
    return "" if last == LONG else f", up to {last:,} tokens"


def kv_layers(c: Campaigns) -> Settled:
    """1. Only 16 of 64 layers carry a KV cache."""
    ours, full = slopes("prefill", lambda m: m.held.kv_cache_bytes, c.model, c.all_full)
    reach = up_to(longest("prefill", c.model, c.all_full))
    found = f"KV cache {ours:,.0f} B a token; the same shape with all 64 layers full attention {full:,.0f}{reach}"
    return Settled(found=found, verdict=HOLDS if 4 * ours == full else NOT)


def state(m: Measured) -> int:
    """Bytes of the states that do not depend on the context."""
    return m.held.recurrent_state_bytes + m.held.conv_state_bytes


def flat_state(c: Campaigns) -> Settled:
    """2. The other 48 layers hold a state that is flat in the context."""
    per_sequence = {state(m) / w.batch for w, m in c.model.items()}
    found = f"{min(per_sequence):,.0f} B a sequence; {len(per_sequence)} distinct value over {len(c.model)} points"
    return Settled(found=found, verdict=HOLDS if len(per_sequence) == 1 else NOT)


def resident_weights(c: Campaigns) -> Settled:
    """3. The text-only estimate keeps the multimodal weights on the card."""
    default = next(iter(c.model.values())).weights_bytes
    bare = [m for w, m in c.axes.items() if w.configuration.model_class == "Qwen3_5ForCausalLM"]
    if not bare:
        raise NotThere("not measured here: no workload of Qwen3_5ForCausalLM ran")
    text = bare[0].weights_bytes
    found = f"{default:,} B with the vision tower, {text:,} B as Qwen3_5ForCausalLM: {default - text:,} B apart"
    return Settled(found=found, verdict="holds only if the default class is loaded" if default > text else NOT)


def monotonic(c: Campaigns) -> Settled:
    """4. Longer context and higher concurrency increase memory monotonically."""
    steps = falls = 0
    for w, m in c.model.items():
        for v, n in c.model.items():
            larger = v.phase == w.phase and v != w and v.batch >= w.batch and v.context_tokens >= w.context_tokens
            steps += larger
            falls += larger and n.warm.requested_bytes <= m.warm.requested_bytes
    return Settled(found=f"{falls} falls in {steps:,} pairs of points", verdict=NOT if falls else HOLDS)


def long_context_growth(c: Campaigns) -> Settled:
    """5. Long-context growth is less aggressive than that of a dense full-attention stack."""
    stacks = c.model, c.all_full, c.dense
    held = slopes("prefill", lambda m: m.held.kv_cache_bytes, *stacks)
    peak = slopes("prefill", lambda m: m.warm.requested_bytes, *stacks)
    found = (
        f"cache {held[0]:,.0f} B a token against {held[1]:,.0f} (same shape, all full) and {held[2]:,.0f} (Qwen2.5-32B "
        f"layout); peak of a single-shot prefill {peak[0]:,.0f} against {peak[1]:,.0f} and {peak[2]:,.0f}"
        f"{up_to(longest('prefill', *stacks))}"
    )
    cache, prefill = held[0] < min(held[1:]), peak[0] < min(peak[1:])
    if cache and prefill:
        return Settled(found=found, verdict=HOLDS)
    return Settled(found=found, verdict="holds only if the prefill's peak is left out" if cache else NOT)


def media_tokens(c: Campaigns) -> Settled:
    """6. Media-token overhead is excluded."""
    text = {w: m for w, m in c.media.items() if w.configuration.images is None}
    alone = {w: m for w, m in c.media.items() if m.vision is not None and w.batch == BATCH}
    if not alone:
        raise NotThere(f"not measured here: no prompt with images ran at batch {BATCH}")
    (per_token,) = slopes("prefill", lambda m: m.warm.requested_bytes, text)
    parts, nothing = [f"left out: a prompt's peak grows by {per_token:,.0f} B a token"], False
    by_size = sorted(alone, key=lambda w: (alone[w].held.media_bytes, w.context_tokens))
    seen = {w.configuration: w for w in reversed(by_size)}  # the shortest prompt of each
    for workload in dict.fromkeys((seen[by_size[0].configuration], seen[by_size[-1].configuration])):
        beside = at(text, "prefill", BATCH, workload.context_tokens).warm.requested_bytes
        parts.append(_images_cost(workload.configuration, alone[workload], beside, per_token))
        nothing = nothing or alone[workload].warm.requested_bytes <= beside
    return Settled(found="; ".join(parts), verdict=NOT if nothing else HOLDS)


def _images_cost(configuration: Configuration, m: Measured, text_peak_bytes: int, per_token: float) -> str:
    """What a prompt's images take, term by term, in words; ``text_peak_bytes`` of a prompt as long without images."""
    images, vision = configuration.images, m.vision
    assert images is not None
    assert vision is not None
    over = m.warm.requested_bytes - text_peak_bytes
    return (
        f"{images.count} of {images.width_pixels}×{images.height_pixels}: {images.prompt_tokens:,} tokens "
        f"({images.prompt_tokens * per_token / GB:.2f} GB of longer prompt), pixels {m.held.media_bytes / GB:.3f} GB, "
        f"vision activations {vision.peak_bytes / GB:.2f} GB of which {vision.kept_bytes / GB:.3f} GB stay "
        f"(embeddings {vision.embeddings_bytes / GB:.3f} GB), peak {over / GB:+.3f} GB beside as long a text"
    )


def page_weights(c: Campaigns) -> Settled:
    """7. Weights: 27B parameters at 2.06 bytes = 55.6 GB."""
    found_bytes = next(iter(c.model.values())).weights_bytes
    error = PAGE_WEIGHTS_BYTES - found_bytes
    why = "most of it MTP, stored but not loaded"
    found = f"{found_bytes / GB:.3f} GB resident; the page's figure is {error / GB:+.3f} GB ({why})"
    return Settled(found=found, verdict=HOLDS if abs(error) < 0.05 * GB else NOT)


def page_state(c: Campaigns) -> Settled:
    """8. Linear state: 158.9 MB a sequence."""
    found_bytes = state(at(c.model, "prefill", BATCH, SHORT))
    error = PAGE_STATE_BYTES - found_bytes
    found = f"{found_bytes / 1e6:.1f} MB; the page's figure is {error / 1e6:+.1f} MB (the conv state is in 16 bits)"
    return Settled(found=found, verdict=HOLDS if abs(error) < 0.05e6 else NOT)


def overhead(c: Campaigns) -> Settled:
    """9. An overhead of 10 % (5.6 GB) covers fragmentation, kernels and scratch."""
    parts, within, last = [], [], longest("prefill", c.model)
    for workload, m in sorted(c.model.items(), key=lambda point: point[0].context_tokens):
        if (workload.phase, workload.batch) != ("prefill", BATCH):
            continue
        context = workload.context_tokens
        core = PAGE_WEIGHTS_BYTES + m.held.kv_cache_bytes + PAGE_STATE_BYTES
        allowed = max(PAGE_LEAST_OVERHEAD_BYTES, PAGE_OVERHEAD_SHARE * core)
        needed = transient_bytes(workload, m)
        within += [context] if needed <= allowed else []
        if context in (SHORT, last):
            parts.append(f"{needed / GB:.2f} GB at {context:,} tokens (allowed {allowed / GB:.2f})")
    found = f"scratch of a single-shot prefill alone, batch 1: {', '.join(parts)}"
    if not within:
        return Settled(found=found, verdict=NOT)
    return Settled(found=found, verdict=f"holds only if prompts stay short ({max(within):,} tokens of those measured)")


CLAIMS: tuple[Callable[[Campaigns], Settled], ...] = (
    kv_layers,
    flat_state,
    resident_weights,
    monotonic,
    long_context_growth,
    media_tokens,
    page_weights,
    page_state,
    overhead,
)


def settle(campaigns: Campaigns) -> Iterator[tuple[str, Settled]]:
    """Each claim, whose words are its function's docstring, and what settled it."""
    for claim in CLAIMS:
        try:
            settled = claim(campaigns)
        except NotThere as missing:
            settled = Settled(found=str(missing), verdict=OPEN)
        yield (claim.__doc__ or "").strip(), settled


def claims_markdown(campaigns: Campaigns) -> Iterator[str]:
    """The table, a line each."""
    yield "# FitMyGPU on Qwen 3.5 27B, claim by claim"
    yield ""
    yield from banner_lines(kind_of(campaigns.environment))
    yield environment_text(campaigns.environment)
    yield ""
    yield "| claim | found | verdict |"
    yield "|---|---|---|"
    for claim, settled in settle(campaigns):
        yield f"| {claim} | {settled.found} | **{settled.verdict}** |"
