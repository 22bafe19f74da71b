"""The weights that a server loads: of the checkpoint that is named, else counted from the config."""

from vram_ledger.analysis.serving.checkpoint import MTP, VISION, Stored
from vram_ledger.analysis.serving.model import Served
from vram_ledger.analysis.serving.plan import Asked, ServingError, Span, Term, exactly, term


def loaded(asked: Asked, runtime: str, logs: int) -> Term:
    """Weights of the class that is loaded, of one card: the MTP part only where something is drafted."""
    if asked.weights is not None:
        return _of_checkpoint(asked, runtime)
    model = asked.model
    if model.quantised:
        raise ServingError(
            f"{model.name}: its weights are quantised ({model.quantised}); what they take is in the checkpoint itself: "
            "name its folder or its index (WEIGHTS=path)"
        )
    parameters = model.parameters + (0 if asked.text else model.vision_parameters)
    if asked.drafts:
        parameters += model.mtp_parameters
    parts = [
        "text model",
        *(["vision tower"] if model.vision_parameters and not asked.text else []),
        *(["MTP part"] if asked.drafts and model.mtp_parameters else []),
    ]
    source = f"{', '.join(parts)}: {parameters:,} parameters of {model.element_bytes} B, from the config"
    return term("weights", _shared(exactly(parameters * model.element_bytes), asked.cards), source, logs)


def _of_checkpoint(asked: Asked, runtime: str) -> Term:
    stored = asked.weights
    assert stored is not None
    if stored.gguf:
        raise ServingError(f"{stored.path}: a GGUF file is llama.cpp's; {runtime} loads safetensors")
    model = asked.model
    same_layers(stored, model)
    left_out = [VISION] if asked.text else []
    left_out += [] if asked.drafts else [MTP]
    if stored.whole_only:
        at_most = model.vision_parameters if VISION in left_out else 0
        at_most += model.mtp_parameters if MTP in left_out else 0
        span = Span(least=max(0, stored.total_bytes - 2 * at_most), most=stored.total_bytes)
        source = f"total_size of {stored.path}; which part what is left unloaded has, an index does not say"
    else:
        span = exactly(stored.total_bytes - stored.of(*left_out))
        said = f", without {' and '.join(left_out)}" if stored.of(*left_out) else ""
        source = f"headers of {stored.path}: {stored.tensors:,} tensors{said}"
    return term("weights", _shared(span, asked.cards), source)


def same_layers(stored: Stored, model: Served) -> None:
    """:class:`ServingError` where a checkpoint has other layers than the model: it is another one's."""
    layers = model.n_full + model.n_linear
    if stored.layers not in (None, layers):
        raise ServingError(f"{stored.path} has {stored.layers} layers, {model.name} has {layers}: which MODEL?")


def _shared(span: Span, cards: int) -> Span:
    """A card's share. The norms that every card keeps whole are a few MB and left out."""
    return Span(least=span.least // cards, most=-(-span.most // cards))
