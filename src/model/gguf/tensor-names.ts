/** llama.cpp's names of tensors for Hugging Face's. Used by gguf-checkpoint.ts. */

const plain = new Map([
  ['model.embed_tokens', 'token_embd'],
  ['model.norm', 'output_norm'],
  ['lm_head', 'output'],
]);
/** Within a layer. */
const inLayer = new Map([
  ['input_layernorm', 'attn_norm'],
  ['self_attn.q_proj', 'attn_q'],
  ['self_attn.k_proj', 'attn_k'],
  ['self_attn.v_proj', 'attn_v'],
  ['self_attn.qkv_proj', 'attn_qkv'],
  ['self_attn.o_proj', 'attn_output'],
  ['self_attn.q_norm', 'attn_q_norm'],
  ['self_attn.k_norm', 'attn_k_norm'],
  ['mlp.gate_proj', 'ffn_gate'],
  ['mlp.up_proj', 'ffn_up'],
  ['mlp.gate_up_proj', 'ffn_up'],
  ['mlp.down_proj', 'ffn_down'],
  ['mlp.gate', 'ffn_gate_inp'],
  ['pre_feedforward_layernorm', 'ffn_norm'],
  ['post_feedforward_layernorm', 'post_ffw_norm'],
]);

interface GgufName {
  readonly name: string;
  /** Which matrix of a stack; null: the whole tensor. */
  readonly expert: number | null;
}

/** null: it has no tensor of that name. */
export function ggufName(name: string, architecture: string): GgufName | null {
  const [, module = '', suffix = ''] = /^(.*)\.(weight|bias)$/.exec(name) ?? [];
  const global = plain.get(module);
  if (global !== undefined) return { name: `${global}.${suffix}`, expert: null };
  const [, layer, rest = ''] = /^model\.layers\.(\d+)\.(.*)$/.exec(module) ?? [];
  if (layer === undefined) return null;
  const [, expert, projection] = /^mlp\.experts\.(\d+)\.(gate|up|down)_proj$/.exec(rest) ?? [];
  if (expert !== undefined)
    return { name: `blk.${layer}.ffn_${projection}_exps.${suffix}`, expert: Number(expert) };
  const found = rest === 'post_attention_layernorm' ? secondNorm(architecture) : inLayer.get(rest);
  return found === undefined ? null : { name: `blk.${layer}.${found}.${suffix}`, expert: null };
}

/** Llama calls the norm before feed-forward "post_attention_layernorm"; Gemma 2 has a real one of that
 *  name. */
function secondNorm(architecture: string): string {
  return architecture === 'gemma2' ? 'post_attention_norm' : 'ffn_norm';
}
