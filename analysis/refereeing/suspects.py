"""What an estimator assumes that is wrong, by name: single changes that give its very numbers at every point."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vram_ledger.analysis.estimating.ours import cache_at_peak
from vram_ledger.analysis.estimators.nominal import every_layer_kv_bytes, nominal_parameters
from vram_ledger.analysis.formula.shapes import text_parameters
from vram_ledger.analysis.formula.terms import kv_bytes_per_token, recurrent_bytes_per_sequence
from vram_ledger.analysis.judging.causes import hypotheses
from vram_ledger.analysis.refereeing.score import Error
from vram_ledger.harness.records import Workload

CLOSE = 0.0005  # numbers are published to three or four digits
GIB_FOR_GB = 10**9 / 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """One wrong assumption and the bytes that it gives for one term."""

    term: str
    name: str
    bytes: Callable[[Error], float]


def named(found: Sequence[Error]) -> dict[str, str]:
    """A wrong assumption, or several that give the same bytes, for each term that is wrong and is explained."""
    by_term: dict[str, list[Error]] = {}
    for error in found:
        by_term.setdefault(error.term, []).append(error)
    wrong = {term: own for term, own in by_term.items() if not all(_is_close(e, e.measured_bytes) for e in own)}
    if not wrong:
        return {}
    suspects = _suspects(found[0], len({e.request.context_tokens for e in found}))
    names = {term: _names([s for s in suspects if s.term == term], own) for term, own in wrong.items()}
    if (share := _round_share(wrong.get("weights", []))) and not names["weights"]:
        names["weights"] = [f"{share:+.0%} on all weights"]
    return {term: " or ".join(listed) for term, listed in names.items() if listed}


def _round_share(own: Sequence[Error]) -> float:
    """The whole percentage by which all are off alike; 0 if there is none."""
    shares = {round(error.share, 2) for error in own}
    share = shares.pop() if len(shares) == 1 else 0.0
    return share if all(_is_close(e, e.measured_bytes * (1 + share)) for e in own) else 0.0


def _names(suspects: Sequence[Suspect], own: Sequence[Error]) -> list[str]:
    """Every assumption that gives the numbers; else every one that gives them in the other giga."""
    for factor, added in ((1.0, ""), (GIB_FOR_GB, ", and GiB for GB"), (1 / GIB_FOR_GB, ", and GB for GiB")):
        if found := [s.name for s in suspects if all(_is_close(e, s.bytes(e) * factor) for e in own)]:
            return [f"{name}{added}" for name in dict.fromkeys(found)]
    return []


def _is_close(error: Error, expected_bytes: float) -> bool:
    return abs(error.predicted_bytes - expected_bytes) <= max(1.0, CLOSE * expected_bytes)


def _suspects(example: Error, contexts: int) -> list[Suspect]:
    request = example.request
    shapes, layers = request.shapes, request.shapes.n_full + request.shapes.n_linear
    whole = recurrent_bytes_per_sequence(shapes)
    found = [
        Suspect(
            term="kv_cache",
            name=f"KV on all {layers} layers instead of {shapes.n_full}",
            bytes=lambda e: every_layer_kv_bytes(shapes, e.request.element_bytes) * _tokens(e),
        ),
        Suspect(
            term="kv_cache",
            name="KV in float32",
            bytes=lambda e: kv_bytes_per_token(shapes, 4) * _tokens(e),
        ),
        Suspect(
            term="state",
            name="state in bf16",
            bytes=lambda e: (whole / 2 + _conv_bytes(e)) * e.request.batch,
        ),
        Suspect(
            term="state",
            name="conv state in float32",
            bytes=lambda e: (whole + 2 * _conv_bytes(e)) * e.request.batch,
        ),
        Suspect(
            term="conv_state",
            name="conv state in float32",
            bytes=lambda e: 2 * _conv_bytes(e) * e.request.batch,
        ),
        *_weights(example),
        *_units(),
    ]
    if contexts > 1:
        found += _inputs(example)
    return [*found, *_changed_shapes(example)]


def _tokens(error: Error) -> int:
    return error.request.batch * error.request.context_tokens


def _conv_bytes(error: Error) -> int:
    shapes = error.request.shapes
    return shapes.n_linear * shapes.conv_channels * shapes.conv_width * error.request.element_bytes


def _weights(example: Error) -> list[Suspect]:
    request, shapes = example.request, example.request.shapes
    found = []
    if nominal_parameters(request) != text_parameters(shapes):
        found.append(
            Suspect(
                term="weights",
                name="the round parameters in the model's name",
                bytes=lambda e: nominal_parameters(e.request) * e.request.element_bytes,
            )
        )
    if not shapes.tied_embeddings:
        head = request.element_bytes * shapes.vocabulary * shapes.hidden
        found.append(Suspect(term="weights", name="no lm_head", bytes=lambda e: e.measured_bytes - head))
    return found


def _units() -> list[Suspect]:
    return [
        suspect
        for term in ("weights", "kv_cache", "recurrent_state", "conv_state", "state", "total")
        for suspect in (
            Suspect(term=term, name="GiB for GB", bytes=lambda e: e.measured_bytes * GIB_FOR_GB),
            Suspect(term=term, name="GB for GiB", bytes=lambda e: e.measured_bytes / GIB_FOR_GB),
        )
    ]


def _inputs(example: Error) -> list[Suspect]:
    """Terms that ignore a part of the request."""
    shapes, layers = example.request.shapes, example.request.shapes.n_full + example.request.shapes.n_linear
    per_token = kv_bytes_per_token(shapes, example.request.element_bytes)
    return [
        Suspect(term="kv_cache", name="KV of one sequence only", bytes=lambda e: per_token * e.request.context_tokens),
        Suspect(term="kv_cache", name="KV of 4,096 tokens whatever is asked", bytes=lambda e: per_token * 4096),
        Suspect(
            term="kv_cache",
            name=f"KV on all {layers} layers instead of {shapes.n_full}, of one sequence only",
            bytes=lambda e: every_layer_kv_bytes(e.request.shapes, e.request.element_bytes) * e.request.context_tokens,
        ),
        Suspect(
            term="state",
            name="the state of one sequence only",
            bytes=lambda e: recurrent_bytes_per_sequence(shapes) + _conv_bytes(e),
        ),
        Suspect(
            term="recurrent_state",
            name="the state of one sequence only",
            bytes=lambda e: recurrent_bytes_per_sequence(shapes),
        ),
        Suspect(term="conv_state", name="the state of one sequence only", bytes=_conv_bytes),
        *(
            Suspect(
                term="kv_cache",
                name=f"context clamped to {limit:,} tokens",
                bytes=lambda e, limit=limit: per_token * e.request.batch * min(e.request.context_tokens, limit),  # type: ignore[misc]
            )
            for limit in (131_072, 256_000)
        ),
    ]


def _changed_shapes(example: Error) -> list[Suspect]:
    """The single changes that a drifted measurement is explained by."""
    configuration = example.request.workload.configuration
    found = []
    for hypothesis in hypotheses(example.request.shapes, configuration):
        for term in ("weights", "kv_cache", "recurrent_state", "conv_state"):

            def expected(
                error: Error, terms: Callable[[Workload], dict[str, int]] = hypothesis.terms, name: str = term
            ) -> int:
                workload = error.request.workload
                value = terms(workload)[name]
                return cache_at_peak(workload, value) if name == "kv_cache" else value

            found.append(Suspect(term=term, name=hypothesis.name, bytes=expected))
    return found
