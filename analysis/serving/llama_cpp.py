"""llama.cpp: cells of the KV cache, recurrent state a sequence, and the weights of a GGUF file.

Read in ggml-org/llama.cpp in 2026: a cell, ``src/llama-kv-cache.cpp`` (a row of keys and one of values a layer, in the
cache's type); a state, ``src/llama-hparams.cpp``, ``n_embd_r`` and ``n_embd_s``, in float32, and
``src/llama-memory-recurrent.cpp``: a row a sequence, and one more for each token that may be drafted (``n_rs_seq``);
which tensors are on the card, ``src/llama-model.cpp`` (the embedding is not, unless it is the head as well); what
``--fit`` leaves free, ``common/arg.cpp``, ``--fit-target``.
"""

from vram_ledger.analysis.serving.checkpoint import EMBEDDING, HEAD, MTP, VISION
from vram_ledger.analysis.serving.logs import logs_of
from vram_ledger.analysis.serving.model import Served
from vram_ledger.analysis.serving.plan import (
    POOL,
    Asked,
    CacheType,
    Limit,
    Plan,
    ServingError,
    Span,
    Term,
    cache_type,
    exactly,
    figure,
    term,
)
from vram_ledger.analysis.serving.weights import same_layers

MIB = 2**20
FIT_MARGIN_BYTES = 1024 * MIB
STATE_BYTES = 4
CELLS = 256  # n_ctx is rounded up to as many
# Of the 27B, n_ubatch 512: the least and the most that were seen, the most with drafts.
COMPUTE = Span(least=int(122.00 * MIB), most=int(863.64 * MIB))
CACHE_TYPES = {
    name: CacheType(name=name, elements=elements, bytes=size)
    for name, elements, size in (
        ("f16", 1, 2),
        ("bf16", 1, 2),
        ("f32", 1, 4),
        ("q8_0", 32, 34),
        ("q5_1", 32, 24),
        ("q5_0", 32, 22),
        ("q4_1", 32, 20),
        ("q4_0", 32, 18),
        ("iq4_nl", 32, 18),
    )
}
# Bits a weight of Llama 3.1 8B by the mix's name (ggml-org/llama.cpp, tools/quantize/README.md). Other models have
# more or less of their weights in the head and the embedding, which get more bits: so it is a tenth more or less.
BITS = {
    "IQ1_S": 2.0042,
    "IQ1_M": 2.1460,
    "IQ2_XXS": 2.3824,
    "IQ2_XS": 2.5882,
    "IQ2_S": 2.7403,
    "IQ2_M": 2.9294,
    "IQ3_XXS": 3.2548,
    "IQ3_XS": 3.4977,
    "IQ3_S": 3.6606,
    "IQ3_M": 3.7628,
    "IQ4_XS": 4.4597,
    "IQ4_NL": 4.6818,
    "Q2_K_S": 2.9697,
    "Q2_K": 3.1593,
    "Q3_K_S": 3.6429,
    "Q3_K_L": 4.2979,
    "Q4_K_S": 4.6672,
    "Q4_K_M": 4.8944,
    "Q5_K_S": 5.5704,
    "Q5_K_M": 5.7036,
    "Q6_K": 6.5633,
    "Q8_0": 8.5008,
    "F16": 16.0005,
    "BF16": 16.0005,
}
BITS_EITHER_WAY = 0.1


def cell_bytes(model: Served, kv: CacheType) -> int:
    """A cell: a row of keys and one of values in every layer with full attention."""
    row = model.kv_heads * model.head_dim
    if row % kv.elements:
        raise ServingError(f"a row of {row} elements is no whole number of {kv.name}'s blocks of {kv.elements}")
    return 2 * model.n_full * kv.of(row)


def columns_bytes(model: Served, drafts: int = 0) -> int:
    """R: the last K−1 columns of the convolution of one sequence, in float32, with a copy for each draft."""
    return model.n_linear * (model.conv_width - 1) * model.conv_channels * STATE_BYTES * (1 + drafts)


def matrices_bytes(model: Served, drafts: int = 0) -> int:
    """S: the recurrent matrices of one sequence, in float32, with a copy for each draft."""
    return model.n_linear * model.state_elements * STATE_BYTES * (1 + drafts)


def state_bytes(model: Served, drafts: int = 0) -> int:
    """The recurrent state of one sequence."""
    return columns_bytes(model, drafts) + matrices_bytes(model, drafts)


def bits_of(name: str) -> Span | None:
    """Millibits a weight, the least and the most, of a quantisation by its name; ``None`` if it is no such name."""
    bits = BITS.get(name.upper())
    if bits is None:
        return None
    return Span(least=int(1000 * bits * (1 - BITS_EITHER_WAY)), most=int(1000 * bits * (1 + BITS_EITHER_WAY)))


def plan(asked: Asked) -> Plan:
    """What llama.cpp takes of a card, all layers on it."""
    if asked.cards > 1:
        raise ServingError("llama.cpp over several cards is not known here")
    if asked.utilization is not None or asked.prefix_caching is not None:
        raise ServingError(
            "UTILIZATION= and PREFIX_CACHING= are vLLM's and SGLang's; llama.cpp takes what a context needs"
        )
    kv = cache_type(asked.kv_type, CACHE_TYPES, "f16", "llama.cpp")
    model = asked.model
    cell, state = cell_bytes(model, kv), state_bytes(model, asked.drafts)
    terms = _terms(asked)
    cells = -(-asked.context_tokens // CELLS) * CELLS
    requests = [
        term("KV cache", exactly(cells * cell), f"{cells:,} cells of {cell:,} B", logs_of("llama.cpp", "KV cache"))
    ]
    if state:
        source = f"{model.n_linear} layers in float32" + (f", 1 + {asked.drafts} copies" if asked.drafts else "")
        requests.append(term("recurrent state", exactly(state), source, logs_of("llama.cpp", "recurrent state")))
    pool = next((one for one in terms if one.name == POOL), None)
    limits = (
        ()
        if pool is None
        else (
            Limit(
                name="bytes",
                least=pool.least_bytes,
                most=pool.most_bytes,
                each=state,
                step=CELLS * cell,
                step_tokens=CELLS,
            ),
        )
    )
    return Plan(
        runtime="llama.cpp",
        terms=terms,
        requests=tuple(requests),
        figures=(
            figure("cell", exactly(cell), "bytes", f"keys and values of {kv.name}", logs_of("llama.cpp", "KV cache")),
        ),
        limits=limits,
        notes=_notes(asked),
    )


def _terms(asked: Asked) -> tuple[Term, ...]:
    weights = _weights(asked)
    if asked.pool is not None:
        return weights, term(POOL, asked.pool, "as given: for cells and states")
    compute = term(
        "compute buffer", COMPUTE, "not known: as logs of the 27B print it, 122.00 to 863.64 MiB; the most with drafts"
    )
    if asked.card is None:
        return weights, compute
    outside = asked.outside or Span(least=0, most=1024 * MIB)
    known = "as known of the card, or given" if asked.outside else "not known; assumed"
    room = Span(least=asked.card.least_bytes, most=asked.card.most_bytes)
    taken = Span(least=weights.least_bytes, most=weights.most_bytes) + COMPUTE + outside
    return (
        weights,
        compute,
        term("outside the buffers", outside, known),
        term(POOL, room - taken, "the card less the lines above"),
    )


def _weights(asked: Asked) -> Term:
    stored, model = asked.weights, asked.model
    if stored is not None:
        if not stored.gguf:
            raise ServingError(f"{stored.path}: llama.cpp loads a GGUF file")
        same_layers(stored, model)
        off = [VISION, *([] if asked.drafts else [MTP]), *([EMBEDDING] if stored.parts.get(HEAD) else [])]
        span = exactly(stored.total_bytes - stored.of(*off))
        left = [part for part in off if stored.parts.get(part)]
        said = f", without {' and '.join(left)}" if left else ""
        return term("weights", span, f"header of {stored.path}: {stored.tensors:,} tensors{said}")
    parameters = model.parameters - (0 if model.tied_embeddings else model.vocabulary * model.hidden)
    parameters += model.mtp_parameters if asked.drafts else 0
    if asked.bits is not None:
        span = Span(least=parameters * asked.bits.least // 8000, most=-(-parameters * asked.bits.most // 8000))
        source = f"{parameters:,} parameters of {asked.bits.least / 1000:.2f} to {asked.bits.most / 1000:.2f} bits"
        return term("weights", span, f"{source}: the quantisation's name alone; WEIGHTS=file.gguf is exact")
    if model.quantised:
        raise ServingError(f"{model.name}: its weights are quantised ({model.quantised}); llama.cpp loads a GGUF file")
    return term(
        "weights",
        exactly(parameters * model.element_bytes),
        f"{parameters:,} parameters of {model.element_bytes} B, the embedding left in host memory",
    )


def _notes(asked: Asked) -> tuple[str, ...]:
    notes = []
    if asked.drafts:
        notes.append("the drafting layer's own cache and compute buffer are not counted")
    if asked.card is not None and asked.pool is None:
        notes.append(f"--fit leaves {FIT_MARGIN_BYTES // MIB:,} MiB of the card free beside all of this")
    return tuple(notes)
