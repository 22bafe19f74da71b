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
ALIKE = 0.005  # a smaller share of every point is no assumption
GIB_FOR_GB = 10**9 / 2**30


TERM_NAMES = {"kv_cache": "KV", "state": "the state", "recurrent_state": "recurrent state", "conv_state": "conv state"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """One wrong assumption and the bytes that it gives for one term."""

    term: str
    name: str
    bytes: Callable[[Error], float]


def named(found: Sequence[Error]) -> dict[str, str]:
    """A wrong assumption, or several that give the same bytes, for each term that is wrong and is explained.

    Where none is known, and the term is off by the same share or the same bytes everywhere, that is said.
    """
    by_term: dict[str, list[Error]] = {}
    for error in found:
        by_term.setdefault(error.term, []).append(error)
    wrong = {term: own for term, own in by_term.items() if not all(_is_close(e, e.measured_bytes) for e in own)}
    if not wrong:
        return {}
    suspects = _suspects(found[0], len({e.request.context_tokens for e in found}))
    if len({e.request.batch for e in found}) > 1:
        suspects += [_of_one_sequence(s) for s in suspects if s.term in TERM_NAMES and "whatever" not in s.name]
    names = {term: _names([s for s in suspects if s.term == term], own) for term, own in wrong.items()}
    return {term: " or ".join(listed) for term, listed in names.items() if listed}


def _names(suspects: Sequence[Suspect], own: Sequence[Error]) -> list[str]:
    """The assumptions that give the numbers, those with the fewest faults; else in what they are off alike."""
    for factor, added in ((1.0, ""), (GIB_FOR_GB, "GiB for GB"), (1 / GIB_FOR_GB, "GB for GiB")):
        for faults in (0, 1, 2):
            listed = [s for s in suspects if _faults(s.name) == faults]
            if found := [s.name for s in listed if all(_is_close(e, s.bytes(e) * factor) for e in own)]:
                return [", and ".join(filter(None, (name, added))) for name in dict.fromkeys(found)]
    return _alike(own)


def _faults(name: str) -> int:
    return name.count(", of one") + 1 if name else 0


def _alike(own: Sequence[Error]) -> list[str]:
    """That every point is off by one share or by one amount; nothing if they differ."""
    first = own[0]
    if abs(first.share) < ALIKE:
        return []
    factor = first.predicted_bytes / first.measured_bytes if first.measured_bytes else 0.0
    if factor and all(_is_close(e, e.measured_bytes * factor) for e in own):
        return [f"{first.share:+,.1%} at every point".replace("%", " %")]
    if all(abs(e.bytes - first.bytes) <= max(1.0, CLOSE * abs(first.bytes)) for e in own):
        return [f"{first.bytes / 1e9:+,.3f} GB at every point"]
    return []


def _is_close(error: Error, expected_bytes: float) -> bool:
    return abs(error.predicted_bytes - expected_bytes) <= max(1.0, CLOSE * expected_bytes)


def _of_one_sequence(suspect: Suspect) -> Suspect:
    name = f"{suspect.name or TERM_NAMES[suspect.term]}{', ' if suspect.name else ' '}of one sequence only"
    return Suspect(term=suspect.term, name=name, bytes=lambda e: suspect.bytes(e) / e.request.batch)


def _suspects(example: Error, contexts: int) -> list[Suspect]:
    request = example.request
    shapes, layers = request.shapes, request.shapes.n_full + request.shapes.n_linear
    per_token = kv_bytes_per_token(shapes, request.element_bytes)
    whole = recurrent_bytes_per_sequence(shapes)
    found: list[tuple[str, str, Callable[[Error], float]]] = [
        *((term, "", lambda e: e.measured_bytes) for term in ("weights", "total", *TERM_NAMES)),
        (
            "kv_cache",
            f"KV on all {layers} layers instead of {shapes.n_full}",
            lambda e: every_layer_kv_bytes(shapes, e.request.element_bytes) * _tokens(e),
        ),
        (
            "kv_cache",
            f"KV on the {shapes.n_linear} linear layers instead of the {shapes.n_full} others",
            lambda e: per_token * _tokens(e) * shapes.n_linear / max(1, shapes.n_full),
        ),
        ("kv_cache", "KV in float32", lambda e: kv_bytes_per_token(shapes, 4) * _tokens(e)),
        ("kv_cache", "keys or values only", lambda e: per_token * _tokens(e) / 2),
        ("kv_cache", "no KV", lambda e: 0),
        ("state", "no state", lambda e: 0),
        ("state", "state in bf16", lambda e: (whole / 2 + _conv_bytes(e)) * e.request.batch),
        ("state", "conv state in float32", lambda e: (whole + 2 * _conv_bytes(e)) * e.request.batch),
        ("conv_state", "conv state in float32", lambda e: 2 * _conv_bytes(e) * e.request.batch),
        *(("weights", f"weights in {bits} bits", lambda e, b=bits: _in_bits(e, b)) for bits in (4, 8, 32)),
        *_weights(example),
    ]
    if contexts > 1:
        found.append(("kv_cache", "KV of 4,096 tokens whatever is asked", lambda e: per_token * 4096))
        found += [
            (
                "kv_cache",
                f"context clamped to {limit:,} tokens",
                lambda e, limit=limit: per_token * e.request.batch * min(e.request.context_tokens, limit),  # type: ignore[misc]
            )
            for limit in (131_072, 256_000)
        ]
    return [*(Suspect(term=term, name=name, bytes=b) for term, name, b in found), *_changed_shapes(example)]


def _tokens(error: Error) -> int:
    return error.request.batch * error.request.context_tokens


def _conv_bytes(error: Error) -> int:
    shapes = error.request.shapes
    return shapes.n_linear * shapes.conv_channels * shapes.conv_width * error.request.element_bytes


def _in_bits(error: Error, bits: int) -> float:
    return error.measured_bytes * bits / 8 / error.request.element_bytes


def _weights(example: Error) -> list[tuple[str, str, Callable[[Error], float]]]:
    request, shapes = example.request, example.request.shapes
    found: list[tuple[str, str, Callable[[Error], float]]] = []
    if nominal_parameters(request) != text_parameters(shapes):
        name = "the round parameters in the model's name"
        found.append(("weights", name, lambda e: nominal_parameters(e.request) * e.request.element_bytes))
    if not shapes.tied_embeddings:
        head = request.element_bytes * shapes.vocabulary * shapes.hidden
        found.append(("weights", "no lm_head", lambda e: e.measured_bytes - head))
    return found


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
