"""Why a term drifted: which part of the machine or the software moved, or which assumption about the model is wrong."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vram_ledger.analysis.formula.shapes import Shapes, mtp_parameters, vision_parameters
from vram_ledger.analysis.formula.terms import (
    batch_cached_tokens,
    cache_counters,
    conv_state,
    element_bytes,
    held_terms,
    kv_bytes_per_token,
    predict,
    recurrent_bytes_per_sequence,
    weights,
)
from vram_ledger.harness.records import Configuration, Measured, ModelClass, Workload

UNEXPLAINED = "no single change of the model's assumptions gives these bytes"

Terms = dict[str, int]


def cause(
    *,
    same_fingerprint: bool,
    standard_moved: bool | None,
    replay_moved: bool | None,
    estimate_moved: bool = False,
    emulation_moved: bool = False,
) -> str:
    """What moved, where bytes differ from the stored ones.

    Same fingerprint: nothing may differ. Else a check standard that moved points to the machine, a replay that moved
    to the model's code, and neither to the kernels, whose own memory no replay sees.

    standard_moved: the check standard (fixed requests, one matrix product) differs from the stored one.
    replay_moved: the fake device's replay does. estimate_moved: the estimator gives another output for the stored
    inputs. emulation_moved: the card is an emulated one, and other stubs or values pretend it. ``None``: not known.
    """
    if estimate_moved:
        return "estimator drift: the same stored inputs give another output"
    if same_fingerprint:
        return "repeatability fault: same fingerprint, other bytes"
    if emulation_moved:
        return "emulation drift: other stubs or values pretend the card, so nothing else can be told"
    runtime = "runtime drift: allocator, cuBLAS or driver"
    code = "model-code drift: transformers"
    if standard_moved and replay_moved:
        return f"{runtime}; and {code}"
    if standard_moved:
        return runtime
    if replay_moved:
        return code
    if standard_moved is None or replay_moved is None:
        return "undecided between runtime, model-code and kernel drift: needs a check standard and a fake-device replay"
    return "kernel drift: fla, Triton or attention"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypothesis:
    """One changed assumption about the model, and the bytes of every exact term if it holds."""

    name: str
    terms: Callable[[Workload], Terms]


def hypotheses(shapes: Shapes, configuration: Configuration) -> tuple[Hypothesis, ...]:
    """Every single change that is tried for a model of these shapes."""
    return (
        *_state_hypotheses(shapes),
        *_cache_hypotheses(shapes),
        *_layer_hypotheses(shapes),
        *_resident_hypotheses(shapes, configuration),
        _logits_hypothesis(shapes, configuration),
    )


def _reshaped(name: str, changed: Shapes) -> Hypothesis:
    return Hypothesis(name=name, terms=lambda w: predict(changed, w))


def _reconfigured(name: str, shapes: Shapes, changed: Configuration) -> Hypothesis:
    return Hypothesis(name=name, terms=lambda w: predict(shapes, dataclasses.replace(w, configuration=changed)))


def _revalued(name: str, shapes: Shapes, term: str, value: Callable[[Workload], int]) -> Hypothesis:
    return Hypothesis(name=name, terms=lambda w: {**predict(shapes, w), term: value(w)})


def _state_hypotheses(shapes: Shapes) -> list[Hypothesis]:
    if not shapes.n_linear:
        return []
    width = shapes.conv_width
    narrow = {w: dataclasses.replace(shapes, conv_width=w) for w in sorted({3, width - 1} - {0, width})}
    shorter = dataclasses.replace(shapes, conv_width=width - 1)
    half = recurrent_bytes_per_sequence(shapes) // 2
    return [
        _revalued("recurrent state in bf16", shapes, "recurrent_state", lambda w: half * w.batch),
        *(_reshaped(f"conv width {w} instead of {width}", changed) for w, changed in narrow.items()),
        # vLLM's and SGLang's layout: the weights stay, the state drops a column.
        _revalued(
            f"conv state of {width - 1} columns instead of {width}", shapes, "conv_state",
            lambda w: conv_state(shorter, w),
        ),
    ]  # fmt: skip


def _cache_hypotheses(shapes: Shapes) -> list[Hypothesis]:
    if not shapes.n_full:
        return []
    heads = [n for n in range(1, shapes.query_heads + 1) if shapes.query_heads % n == 0 and n != shapes.kv_heads]

    def in_bytes(w: Workload) -> int:
        per_token = kv_bytes_per_token(shapes, element_bytes=1)
        return per_token * batch_cached_tokens(w) + cache_counters(shapes, w)

    return [
        _revalued("KV cache in 8 bits", shapes, "kv_cache", in_bytes),
        *(
            _reshaped(f"{n} KV heads instead of {shapes.kv_heads}", dataclasses.replace(shapes, kv_heads=n))
            for n in heads
        ),
    ]


def _layer_hypotheses(shapes: Shapes) -> list[Hypothesis]:
    """One layer of the other kind, at the same depth. A purely full model has no linear shapes to try."""
    found = []
    for n_full in (shapes.n_full - 1, shapes.n_full + 1):
        n_linear = shapes.n_linear + shapes.n_full - n_full
        if n_full >= 0 and n_linear >= 0 and shapes.n_linear:
            changed = dataclasses.replace(shapes, n_full=n_full, n_linear=n_linear)
            found.append(_reshaped(f"{n_full} full-attention layers instead of {shapes.n_full}", changed))
    return found


def _resident_hypotheses(shapes: Shapes, configuration: Configuration) -> list[Hypothesis]:
    found = []
    if vision_parameters(shapes):
        has_tower = configuration.model_class == "Qwen3_5ForConditionalGeneration"
        other: ModelClass = "Qwen3_5ForCausalLM" if has_tower else "Qwen3_5ForConditionalGeneration"
        changed = dataclasses.replace(configuration, model_class=other)
        found.append(_reconfigured(f"vision tower {'absent' if has_tower else 'resident'}", shapes, changed))
    if mtp_parameters(shapes):
        extra = element_bytes(configuration) * mtp_parameters(shapes)
        found.append(_revalued("MTP resident", shapes, "weights", lambda w: weights(shapes, w) + extra))
    return found


def _logits_hypothesis(shapes: Shapes, configuration: Configuration) -> Hypothesis:
    if configuration.logits == "last":
        return _reconfigured("full logits kept", shapes, dataclasses.replace(configuration, logits="all"))
    return _reconfigured("only the last logits kept", shapes, dataclasses.replace(configuration, logits="last"))


def explain(shapes: Shapes, ran: Mapping[Workload, Measured], drifted: set[str]) -> dict[str, str]:
    """A cause for each drifted exact term.

    If one change gives every exact term at every point, the drifted and the unmoved, it is the cause of all. Else
    each term gets the changes that give that term at every point, for two faults may be there at once.
    """
    if not drifted:
        return {}
    observed = {w: {term.name: term.observed(m) for term in held_terms(w.configuration)} for w, m in ran.items()}
    candidates = [(h.name, {w: h.terms(w) for w in ran}) for h in hypotheses(shapes, next(iter(ran)).configuration)]
    if complete := [name for name, terms in candidates if terms == observed]:
        return dict.fromkeys(drifted, " or ".join(complete))
    alone = {
        term: [name for name, terms in candidates if all(terms[w][term] == observed[w][term] for w in ran)]
        for term in drifted
    }
    return {term: f"{' or '.join(names)} (this term alone)" if names else UNEXPLAINED for term, names in alone.items()}
