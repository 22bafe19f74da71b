"""A model on several cards, in plain accelerate. Prints each card's peak as a JSON list."""

import json

import torch
from accelerate import dispatch_model, infer_auto_device_map, init_empty_weights
from transformers import Qwen3Config, Qwen3ForCausalLM


def main() -> None:
    """Builds on the CPU, spreads, and runs a prefill."""
    config = Qwen3Config(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, vocab_size=50_000)
    with init_empty_weights():
        model = Qwen3ForCausalLM(config)
    room = dict.fromkeys(range(torch.cuda.device_count()), 4 << 30)
    placed = infer_auto_device_map(model, max_memory=room, no_split_module_classes=["Qwen3DecoderLayer"])
    model = dispatch_model(model.to_empty(device="cpu"), placed)
    with torch.no_grad():
        model(input_ids=torch.zeros(1, 512, dtype=torch.long, device="cuda:0"))
    print(json.dumps([torch.cuda.max_memory_allocated(card) for card in range(torch.cuda.device_count())]))


if __name__ == "__main__":
    main()
