"""The files of derived formulas: how they are named, written and read, and the configuration that a name stands for.

Schema history
    1  the first published layout
    2  the whole program, of which formula and ledger are views
"""

import re
from pathlib import Path
from typing import Any

from vram_ledger.analysis.derivation.derived import Derived, derived_key
from vram_ledger.analysis.ground.files import put, stored, with_tables
from vram_ledger.errors import InputError
from vram_ledger.harness.records import Configuration, Phase, encode
from vram_ledger.home import RESULTS

SCHEMA, SHORTEST_KEY = 2, 4
MODEL_CLASSES = {"text": "Qwen3_5ForCausalLM", "default": "Qwen3_5ForConditionalGeneration"}
PLAIN = {"dtype": "bfloat16", "kernels": "fla", "attention": "sdpa", "cache": "dynamic", "logits": "last"}
WORDS = {
    "float16": {"dtype": "float16"},
    "float32": {"dtype": "float32"},
    "reference": {"kernels": "torch"},
    "eager": {"attention": "eager"},
    "static": {"cache": "static"},
    "nocache": {"cache": "none"},
    "second": {"cache": "second"},
    "logits": {"logits": "all"},
    "loss": {"logits": "loss"},
}


class DerivedError(InputError):
    """A derived formula that can't be read; the message starts with its file."""


class UnknownVariant(InputError):
    """A variant's name with a word that is none."""


def configuration_of(model: str, variant: str) -> Configuration:
    """The configuration that a variant's name stands for, such as "text", "default-static" or "text-chunk2048"."""
    first, *words = variant.split("-")
    fields: dict[str, Any] = {**PLAIN, "prefill_chunk_tokens": 0}
    for word in words:
        if word.startswith("chunk") and word[5:].isdigit() and int(word[5:]):
            fields["prefill_chunk_tokens"] = int(word[5:])
        elif word in WORDS:
            if other := next((w for w in words[: words.index(word)] if WORDS.get(w, {}).keys() & WORDS[word]), None):
                raise UnknownVariant(f"variant {variant!r}: {other!r} and {word!r} contradict each other")
            fields |= WORDS[word]
        else:
            raise UnknownVariant(f"variant {variant!r}: {word!r} is none of {', '.join(WORDS)}, chunk<tokens>")
    if first not in MODEL_CLASSES:
        raise UnknownVariant(f"variant {variant!r} starts with {first!r}, not with {' or '.join(MODEL_CLASSES)}")
    return Configuration(model=model, model_class=MODEL_CLASSES[first], **fields)  # type: ignore[arg-type]


def variant_of(configuration: Configuration) -> str:
    """The name that :func:`configuration_of` reads."""
    first = next(name for name, cls in MODEL_CLASSES.items() if cls == configuration.model_class)
    words = [w for w, f in WORDS.items() if all(getattr(configuration, n) == v for n, v in f.items())]
    chunk = configuration.prefill_chunk_tokens
    return "-".join([first, *words, *([f"chunk{chunk}"] if chunk else [])])


def phases_of(configuration: Configuration) -> tuple[Phase, ...]:
    """The phases that a configuration has a formula of: a decode keeps one token's logits and has no prefill.

    Without a cache there is none.
    """
    prefill_only = configuration.logits != "last" or configuration.cache == "none" or configuration.prefill_chunk_tokens
    return ("prefill",) if prefill_only else ("prefill", "decode")


def derived_path(results: Path, derived: Derived) -> Path:
    """Where a formula belongs."""
    name = f"{derived.configuration.model}.{variant_of(derived.configuration)}.{derived.phase}.{derived.key}.json"
    return results / derived.environment.gpu_label / "derived" / name


def to_json(derived: Derived) -> str:
    """The file's text; a line of text an origin or a regime, so that changes can be read."""
    data = {"schema": SCHEMA, **encode(derived)}
    del data["name"]
    tables = {name: data.pop(name) for name in ("origins", "regimes")}
    return with_tables(data, tables)


def write_derived(derived: Derived, path: Path) -> None:
    """Puts the file in place."""
    put(path, to_json(derived))


def read_derived(path: Path) -> Derived:
    """A stored formula; :class:`DerivedError` names the file and what in it is not as written."""
    derived: Derived = stored(path, Derived, "derived", SCHEMA, DerivedError)
    if derived.key != derived_key(derived.environment, derived.configuration, derived.phase, derived.kernels):
        raise DerivedError(f"{path}: the key is not that of the program; was the file edited?")
    return derived


def named_formula(text: str, what: str, results: Path = RESULTS) -> Derived:
    """The formula of a path; or of words, such as "qwen3.5-27b text prefill 5.23.0", the newest that has them all.

    The words are of model, variant, phase, the versions of transformers and torch, the card, and the key in the file's
    name. :class:`DerivedError` lists what there is where no formula has them or several kinds do; ``what``: the option.
    """
    if text and Path(text).is_file():
        return read_derived(Path(text))
    words = {word.rpartition("/")[2].removesuffix(".json") for word in re.split(r"[\s·,]+", text.lower()) if word}
    every = [read_derived(path) for path in sorted(results.glob("*/derived/*.json"))]
    found = [formula for formula in every if _is_named(formula, words)] if words else []
    kinds = {(f.configuration, f.phase, f.environment.gpu_label) for f in found}
    if len(kinds) == 1:
        return max(found, key=lambda f: (version(f.environment.transformers), version(f.environment.torch)))
    why = "is missing" if not text else f"{text!r} is {'several formulas' if found else 'neither a file nor a formula'}"
    listed = "".join(f"\n{_text(formula)}" for formula in found or every)
    raise DerivedError(f"{what}: {why}; above are the stored ones, each known by any of its words{listed}")


def _is_named(formula: Derived, words: set[str]) -> bool:
    """Whether each word is one of a formula's, or begins its key."""
    own = _words(formula)
    return all(word in own or (len(word) >= SHORTEST_KEY and formula.key.startswith(word)) for word in words)


def _words(formula: Derived) -> set[str]:
    environment = formula.environment
    versions = (environment.transformers, environment.torch, environment.torch.partition("+")[0])
    own = (formula.configuration.model, variant_of(formula.configuration), formula.phase, formula.key)
    return {*own, *versions, environment.gpu_label, formula.name.removesuffix(".json")}


def version(text: str) -> tuple[int, ...]:
    """A version's numbers, by which the newest is found."""
    return tuple(int(part) for part in re.findall(r"\d+", text))


def _text(formula: Derived) -> str:
    e = formula.environment
    kind = f"{formula.configuration.model} {variant_of(formula.configuration)} {formula.phase}"
    return f"{kind} {e.transformers} (transformers; torch {e.torch}, fla {e.fla}) {e.gpu_label} {formula.key}"


def stored_formulas(folder: Path, model: str = "") -> tuple[Derived, ...]:
    """All formulas in a folder, or those of a model, by name; none if there is no such folder."""
    pattern = f"{model}.*.json" if model else "*.json"
    return tuple(read_derived(path) for path in sorted(folder.glob(pattern)))
