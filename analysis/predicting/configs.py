"""Which model is meant: its config by name, path or folder, and the shipped model that it is one of."""

import dataclasses
from pathlib import Path
from typing import Any

from vram_ledger.analysis.derivation.derived_files import MODEL_CLASSES, PLAIN, configuration_of, variant_of
from vram_ledger.analysis.formula.config import Config, ConfigError, read_config, read_shapes
from vram_ledger.analysis.formula.shapes import Shapes
from vram_ledger.harness.records import Configuration, ModelClass
from vram_ledger.home import MODELS
from vram_ledger.names import nearest, plain


def config_of(model: str) -> Path:
    """The config of a model that is given by name, path or folder; :class:`ConfigError` names those that are known."""
    given = Path(model)
    if given.is_dir():
        return given / "config.json"
    if given.suffix == ".json" or given.exists():
        return given
    known = {path.stem: path for path in sorted(MODELS.glob("*.json"))}
    if plain(model) not in known:
        raise ConfigError(
            f"no model is named {model!r}{nearest(model, known)}; known are {', '.join(known)}; or give the path of a "
            "config.json"
        )
    return known[plain(model)]


def name_of(path: Path) -> str:
    """What a config is called: as its file, or as its folder if that is no name."""
    return path.parent.resolve().name if path.stem == "config" else path.stem


def known_as(path: Path, shapes: Shapes, model_class: ModelClass) -> str:
    """The shipped model that a config has the shapes of, as a finetune has; else the config's own name.

    The text class has no vision tower, whatever the config has. A config of other shapes is never called by the name
    of a shipped model, whose numbers are not its own.
    """
    folder = MODELS
    if path.parent.resolve() == folder:
        return path.stem
    for shipped in sorted(folder.glob("*.json")):
        if _resident(read_shapes(shipped), model_class) == _resident(shapes, model_class):
            return shipped.stem
    name = name_of(path)
    return f"{name} (own config)" if (folder / f"{name}.json").exists() else name


def named_as(path: Path, configuration: Configuration) -> Configuration:
    """A configuration of a config by the model's name: see :func:`known_as`."""
    return dataclasses.replace(configuration, model=known_as(path, read_shapes(path), configuration.model_class))


def _resident(shapes: Shapes, model_class: ModelClass) -> Shapes:
    return dataclasses.replace(shapes, vision=None) if model_class == MODEL_CLASSES["text"] else shapes


def default_variant(config: Config) -> str:
    """What such a checkpoint is loaded as: with its vision tower if it has one, in the dtype that it names."""
    own = "default" if config.shapes.vision else "text"
    return own if config.dtype == PLAIN["dtype"] else f"{own}-{config.dtype}"


def variant_with(model: str, variant: str, **fields: Any) -> str:
    """A variant's name with fields of its configuration otherwise; "" is the class and dtype that the config names."""
    path = config_of(model)
    if not variant and "dtype" in fields:
        variant = "default" if read_shapes(path).vision else "text"
    configuration = configuration_of(path.stem, variant or default_variant(read_config(path)))
    return variant_of(dataclasses.replace(configuration, **fields))


def with_chunk(variant: str, chunk: int) -> str:
    """A variant's name with a chunked prefill."""
    return f"{variant}-chunk{chunk}" if chunk else variant
