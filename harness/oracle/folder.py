"""A model's folder as a server wants it, without weights: the config, and what stands in for processor and tokenizer.

No tokenizer of the family's is needed to plan memory. In its place is one of the words that the config has ids for,
which is enough for the server to place an image among words; the image processor's bounds are the published ones.
"""

import json
from pathlib import Path
from typing import Any

from vram_ledger.harness.models import read_json

# Qwen/Qwen3.5-2B-Base, "preprocessor_config.json"; all sizes of the family have the same bounds.
_BOTH = {
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "processor_class": "Qwen3VLProcessor",
}
_IMAGES = {
    "size": {"longest_edge": 16_777_216, "shortest_edge": 65_536},
    "image_processor_type": "Qwen2VLImageProcessorFast",
}
_VIDEOS = {"size": {"longest_edge": 25_165_824, "shortest_edge": 4096}, "video_processor_type": "Qwen3VLVideoProcessor"}
_WORDS = {
    "<|vision_start|>": "vision_start_token_id",
    "<|vision_end|>": "vision_end_token_id",
    "<|image_pad|>": "image_token_id",
    "<|video_pad|>": "video_token_id",
}
_END = "<|endoftext|>"


def write_model(folder: Path, config_file: Path) -> None:
    """Writes the folder's files."""
    config = read_json(config_file)
    files: dict[str, Any] = {
        "config.json": config,
        "preprocessor_config.json": _BOTH | _IMAGES,
        "video_preprocessor_config.json": _BOTH | _VIDEOS,
        "tokenizer_config.json": {"tokenizer_class": "Qwen2TokenizerFast", "eos_token": _END, "pad_token": _END},
        "tokenizer.json": _tokenizer(_ids(config)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value), encoding="utf-8")


def _ids(config: dict[str, Any]) -> dict[str, int]:
    ids = {word: config[field] for word, field in _WORDS.items() if field in config}
    end = config["text_config"].get("eos_token_id")
    return ids | {_END: end if isinstance(end, int) else max(ids.values(), default=0) + 1}


def _tokenizer(ids: dict[str, int]) -> dict[str, Any]:
    """A tokenizer of one plain word and these."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": word, **plain} for word, i in sorted(ids.items(), key=lambda x: x[1])],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {"a": 0, **ids}, "unk_token": "a"},
    }
