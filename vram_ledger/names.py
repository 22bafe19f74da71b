"""Names and amounts as people write them: "RTX-4090", "Qwen/Qwen3.5-27B", "128k"; and the nearest that there is."""

import difflib
import re
from collections.abc import Iterable, Mapping

from vram_ledger.errors import InputError

MAKERS = ("nvidia", "geforce", "tesla")
MOST_TOKENS, MOST_BATCH = 2**40, 65_536
TOKENS = re.compile(r"(\d+(?:[,_]\d{3})*|\d+(?:\.\d+)?)\s*([km]?)i?(?:\s*tok(?:ens?)?)?", re.IGNORECASE | re.ASCII)
THOUSANDS = {"": 1, "k": 1024, "m": 1024**2}


def plain(name: str) -> str:
    """A name without what people write differently: case, the maker or organisation before it, blanks and underscores.

    "NVIDIA GeForce RTX 4090" and "rtx_4090" are "rtx-4090"; "Qwen/Qwen3.5-27B" is "qwen3.5-27b".
    """
    words = re.split(r"[\s_-]+", name.strip().rsplit("/", 1)[-1].lower())
    while len(words) > 1 and words[0] in MAKERS:
        del words[0]
    return "-".join(word for word in words if word)


def nearest(given: str, known: Iterable[str], count: int = 4) -> str:
    """What was probably meant: "; near: a, b", or "" if nothing is near."""
    near = difflib.get_close_matches(plain(given), sorted(set(known)), n=count, cutoff=0.4)
    return f"; near: {', '.join(near)}" if near else ""


def cards_meant(name: str, cards: Mapping[str, tuple[str, Iterable[str]]]) -> list[str]:
    """The labels that a card's name can mean: its own, else those of its family, else of what CUDA calls it.

    cards: by label, the family and CUDA's names.
    """
    wanted = plain(name)
    if wanted in cards:
        return [wanted]
    family = [label for label, (own, _) in cards.items() if own == wanted]
    return family or [label for label, (_, names) in cards.items() if wanted in map(plain, names)]


def tokens(text: str, what: str) -> int:
    """Tokens, 1 or more: "131072", "131,072", "128k" (131,072), "1M"; :class:`InputError` names ``what``."""
    found = TOKENS.fullmatch(text.strip()) if len(text) < 40 else None
    value = float(found[1].replace(",", "").replace("_", "")) * THOUSANDS[found[2].lower()] if found else 0.0
    if not 1 <= value <= MOST_TOKENS or not value.is_integer():
        raise InputError(f"{what} is a number of tokens, such as 131072, 131,072 or 128k, from 1 on; got {text!r}")
    return int(value)


def sequences(text: str) -> int:
    """A batch, 1 to :data:`MOST_BATCH`, "1,024" too; :class:`InputError` for anything else."""
    digits = text.strip().replace(",", "").replace("_", "")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20 and 1 <= int(digits) <= MOST_BATCH):
        raise InputError(f"batch is a whole number from 1 to {MOST_BATCH:,}; got {text!r}")
    return int(digits)
