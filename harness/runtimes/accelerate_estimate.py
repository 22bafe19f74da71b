"""accelerate's own estimate as a command: a JSON request a line in, a JSON breakdown a line out.

It is what ``accelerate estimate-memory`` does after it has looked the model up on the hub: the bare ``AutoModel`` on
the meta device in float32, its parameters and buffers counted, halved for 16 bits. With ``--table CONFIG…`` it prints
the same as a table of predictions, which is kept in ``results/estimates/accelerate.csv``.
"""

import csv
import functools
import json
import sys
from pathlib import Path
from typing import TextIO

import torch
from accelerate import init_empty_weights
from accelerate.utils import calculate_maximum_sizes
from transformers import AutoConfig, AutoModel

COLUMNS = ("model", "dtype", "predicts", "weights_bytes", "total_bytes")
PER_FLOAT32 = {"float32": 1, "float16": 2, "bfloat16": 2}  # accelerate has no bfloat16; it is as wide as float16


@functools.cache
def float32_bytes(config: str) -> int:
    """Bytes of parameters and buffers of the ``AutoModel`` of a ``config.json``, in float32."""
    with init_empty_weights():
        model = AutoModel.from_config(AutoConfig.from_pretrained(config), torch_dtype=torch.float32)
    return int(calculate_maximum_sizes(model)[0])


def breakdown(config: str, dtype: str) -> dict[str, object]:
    """accelerate's answer: the memory to load the model, and no other term."""
    total = float32_bytes(config) // PER_FLOAT32[dtype]
    return {"predicts": "allocated", "weights_bytes": total, "total_bytes": total}


def answer(requests: TextIO, answers: TextIO) -> None:
    """Answers every line until there are no more."""
    for line in requests:
        request = json.loads(line)
        print(json.dumps(breakdown(request["config"], request["dtype"])), file=answers, flush=True)


def table(configs: list[str], out: TextIO, dtype: str = "bfloat16") -> None:
    """The answers for each config as a CSV of predictions."""
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for config in sorted(configs):
        writer.writerow({"model": Path(config).stem, "dtype": dtype, **breakdown(config, dtype)})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--table"]:
        table(sys.argv[2:], sys.stdout)
    else:
        answer(sys.stdin, sys.stdout)
