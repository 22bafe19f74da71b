// A calculator that vram-ledger can validate:  make validate ESTIMATOR="node examples/calculator.mjs"
//
// One JSON request a line comes in on stdin, one JSON breakdown a line goes out on stdout, in the same order. Nothing
// else may be written to stdout; stderr is free. The formula is FitMyGPU's, in its vLLM setting; replace it by yours.
//
// A request has model, phase ("prefill", "decode"), context_tokens, batch, dtype, runtime, gpu {label, bytes},
// checkpoint_bytes, parameters, and shapes (hidden, n_full and n_linear layers, kv_heads, head_dim, …).
// A breakdown needs predicts ("requested", "allocated", "reserved", "process" or "device": what the total claims to
// be), total_bytes and weights_bytes. It may have kv_cache_bytes, state_bytes (or recurrent_state_bytes and
// conv_state_bytes), activations_bytes and overhead_bytes. Leave out what you don't have; everything is in bytes.

import { createInterface } from "node:readline";

const PROFILE_BYTES = { "qwen3.5-27b": 55.56e9, "qwen3.5-9b": 20e9 };
const ELEMENT_BYTES = { bfloat16: 2, float16: 2, float32: 4 };

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

function stateBytes(s) {
  if (s.n_linear === 0) return 0;
  const perKeyHead = Math.ceil((s.linear_value_heads * s.linear_value_dim) / s.linear_key_heads);
  const matrices = s.linear_key_heads * s.linear_key_dim * perKeyHead;
  const channels = 2 * s.linear_key_heads * s.linear_key_dim + s.linear_value_heads * s.linear_value_dim;
  return s.n_linear * (matrices + s.conv_width * channels) * 4;
}

export function estimate(request) {
  const s = request.shapes;
  const context = clamp(request.context_tokens, 256, 256000);
  const batch = clamp(request.batch, 1, 64);
  const element = ELEMENT_BYTES[request.dtype] ?? 1;
  const weights_bytes = PROFILE_BYTES[request.model] ?? request.checkpoint_bytes;
  const kv_cache_bytes = batch * context * s.n_full * 2 * s.kv_heads * s.head_dim * element;
  const state_bytes = batch * stateBytes(s);
  const overhead_bytes = Math.max(1.5e9, 0.1 * (weights_bytes + kv_cache_bytes + state_bytes));
  const total_bytes = weights_bytes + kv_cache_bytes + state_bytes + overhead_bytes;
  return { predicts: "process", weights_bytes, kv_cache_bytes, state_bytes, overhead_bytes, total_bytes };
}

for await (const line of createInterface({ input: process.stdin })) {
  if (line.trim() !== "") process.stdout.write(JSON.stringify(estimate(JSON.parse(line))) + "\n");
}
