"""What a server makes of a card: vLLM, SGLang and llama.cpp, from their sources and held against their logs."""
