#!/usr/bin/env python3
"""Make the files beside this script: what the numpy oracle computes on the tiny test models.

usage: tests/golden/oracle/make.py ORACLE_DIR        (from the root of the tree, after `make`)

ORACLE_DIR holds model.py and quant.py of the model's numpy implementation.  The checkpoints are those
of tests/support/tiny.c, so nothing but results is stored.  The input of every layer is synthetic (below)
or, in the case `chain`, the oracle's own streams, which are stored.  Results are stored for some rows.

Files are safetensors; test_engine_ref_model.c reads them and makes the same ids and streams:
    unit(stream, i)    = sum of the four 16-bit parts of fm_prng_u64(SEED, stream, i)
    ids[t]             = fm_prng_u64(SEED, 1000, t) mod vocab_size
    streams_l[t, n, c] = bf16((unit(l, (t N + n) D + c) - 131070) / 37837)      about N(0, 1)
Layer 0 takes the embedding; a draft block i counts as layer L + i.
"""
import json
import os
import subprocess
import sys
import tempfile

import numpy as np

SEED = 20261124
MODEL_SEED = 7
# name: (variant of tests/support/tiny.h, tokens)
CASES = {
    "default": ("TEST_TINY_DEFAULT", 420),
    "bf16": ("TEST_TINY_BF16", 200),
    "dspark": ("TEST_TINY_DSPARK", 150),
    "ratio16": ("TEST_TINY_RATIO_16", 200),
    "pro": ("TEST_TINY_PRO", 420),
    "fp8": ("TEST_TINY_FP8", 130),
    "chain": ("TEST_TINY_DEFAULT", 132),
}
ROWS = [0, 2, 3, 4, 15, 16, 17, 33, 126, 127, 128, 129, 149, 199, 255, 256, 383, 384, 419]


def prng(stream, counter):
    """fm_prng_u64(SEED, stream, counter) over an array of counters."""
    u = np.uint64

    def mix(x):
        x = x ^ (x >> u(30))
        x = x * u(0xbf58476d1ce4e5b9)
        x = x ^ (x >> u(27))
        x = x * u(0x94d049bb133111eb)
        return x ^ (x >> u(31))
    with np.errstate(over="ignore"):
        golden = u(0x9e3779b97f4a7c15)
        key = mix(np.array([SEED], u) + golden)
        key = mix(key ^ (np.array([stream], u) * u(0xd1b54a32d192ed03)))
        return mix(key + (np.asarray(counter, u) + u(1)) * golden)


def streams(bf, layer, T, N, D):
    r = prng(layer, np.arange(T * N * D))
    unit = sum(((r >> np.uint64(s)) & np.uint64(0xffff)).astype(np.float64) for s in (0, 16, 32, 48))
    return bf(((unit - 131070) / 37837).astype(np.float32)).reshape(T, N, D)


def tiny(variant, folder):
    source = """#include <check.h>
#include "tests/support/support.h"
#include "tests/support/tiny.h"
const char *test_dir(void) { return "%s"; }
uint64_t test_seed(void) { return 1; }
START_TEST(write) { test_tiny_model("%s", %s, %d); } END_TEST
int main(void) {
    Suite *s = suite_create("w"); TCase *c = tcase_create("w");
    tcase_add_test(c, write); suite_add_tcase(s, c);
    SRunner *r = srunner_create(s); srunner_set_fork_status(r, CK_NOFORK);
    srunner_run_all(r, CK_SILENT); return srunner_ntests_failed(r); }
""" % (folder, folder, variant, MODEL_SEED)
    path = os.path.join(folder, "write")
    libs = subprocess.check_output(["pkg-config", "--libs", "check", "libcjson"], text=True).split()
    subprocess.run(["cc", "-std=gnu17", "-D_GNU_SOURCE", "-I.", "-x", "c", "-", "tests/support/tiny.c",
                    "-x", "none", "build/release/libfathom.a", "-o", path, *libs, "-lm", "-lpthread"],
                   input=source, text=True, check=True)
    subprocess.run([path], check=True)
    os.remove(path)


def capture(model_class):
    class Capture(model_class):
        """Also keeps how close each choice of experts was."""

        def moe(self, x, ids, layer_prefix, out, tag):
            import model
            l = model.mm(x, self.w(layer_prefix + "ffn.gate.weight")).astype(np.float64)
            s = np.sqrt(np.where(l > 20, l, np.log1p(np.exp(np.minimum(l, 20)))))
            if layer_prefix + "ffn.gate.bias" in self.raw:
                s = -np.sort(-(s + self.w(layer_prefix + "ffn.gate.bias")), 1)
                k = self.c["num_experts_per_tok"]
                out[tag + "expert_margin"] = (s[:, k - 1] - s[:, k])[:, None]
            return super().moe(x, ids, layer_prefix, out, tag)
    return Capture


def block(m, X, ids, l, out, attend=None):
    draft = l >= m.L
    prefix, tag = ("mtp.%d." % (l - m.L),) * 2 if draft else ("layers.%d." % l, "layer.%d." % l)
    return m.block(X, ids, prefix, m.c["compress_ratios"][l], out, tag, attend)


def index_margins(out, topk):
    """How far the last chosen score is above the first one left out, over the largest score."""
    for name in [n for n in out if n.endswith("index_scores")]:
        scores, margin = out[name], np.full((len(out[name]), 1), np.inf)
        for t in range(len(scores)):
            row = -np.sort(-scores[t, :(t + 1) // 4].astype(np.float64))
            if len(row) > topk:
                margin[t] = (row[topk - 1] - row[topk]) / max(np.abs(row).max(), 1e-30)
        out[name.replace("index_scores", "index_margin")] = margin


def dspark(m, q, ids, out, T):
    """The stages with synthetic inputs from the second on; the taps are those of the last layers."""
    c, p, W = m.c, T - 1, m.c["sliding_window"]
    B, lo = c["dspark_block_size"], max(0, p - W + 1)
    taps = [q.bf(out["layer.%d.streams" % l][lo:p + 1].astype(np.float64).mean(1).astype(np.float32))
            for l in c["dspark_target_layer_ids"]]
    out["dspark.taps"] = np.concatenate(taps, 1)
    ctx = m.rms(m.linear(np.concatenate(taps, 1), "mtp.0.main_proj.weight"), "mtp.0.main_norm.weight")
    next_id = int(prng(1000, [T])[0] % np.uint64(c["vocab_size"]))
    block_ids = np.array([next_id] + [c["dspark_noise_token_id"]] * (B - 1))
    pos = np.arange(p + 1, p + 1 + B)
    for s in range(m.stages):
        pre = "mtp.%d.attn." % s
        ring = m.project_kv(ctx, np.arange(lo, p + 1), pre, m.inv_plain)

        def attend(x, pre=pre, ring=ring, s=s):
            _, qh = m.project_q(x, pos, pre, m.inv_plain)
            kv = m.project_kv(x, pos, pre, m.inv_plain)
            rows = np.concatenate([ring, kv])
            o = np.stack([m.sink_attention(t, rows, m.w(pre + "attn_sink")) for t in qh])
            y = m.project_out(o, pos, pre, m.inv_plain)
            out["mtp.%d.q" % s], out["mtp.%d.kv" % s], out["mtp.%d.attn_out" % s] = qh, kv, y
            return y
        X = m.embed(block_ids) if s == 0 else streams(q.bf, m.L + s, T + B, m.N, c["hidden_size"])[p + 1:]
        X = block(m, X, block_ids, m.L + s, out, attend)
    pre = "mtp.%d." % (m.stages - 1)
    h = m.hc_head(X, pre + "hc_head")
    import model
    base = model.mm(m.rms(h, pre + "norm.weight"), m.w("head.weight"))
    prev, tokens, conf = next_id, [], []
    for i in range(B):
        emb = m.w(pre + "markov_head.markov_w1.weight")[prev]
        conf.append(model.mm(np.concatenate([h[i], emb])[None], m.w(pre + "confidence_head.proj.weight"))[0, 0])
        base[i] += model.mm(emb[None], m.w(pre + "markov_head.markov_w2.weight"))[0]
        prev = int(np.argmax(base[i]))
        tokens.append(prev)
    out["dspark.tokens"], out["dspark.confidence"] = np.array(tokens), np.array(conf, np.float32)
    out["dspark.logits"] = base


def run(m, q, name, T):
    c, out = m.c, {}
    ids = (prng(1000, np.arange(T)) % np.uint64(c["vocab_size"])).astype(np.int64)
    D, keep = c["hidden_size"], {}
    if name == "chain":
        out = m.forward(ids)
        for l in range(1, m.L):
            keep["input.%d" % l] = out["layer.%d.streams" % (l - 1)]
    else:
        for l in range(m.L):
            X = m.embed(ids) if l == 0 else streams(q.bf, l, T, m.N, D)
            X = block(m, X, ids, l, out)
        out["logits"] = m.logits(X)
    if m.is_dspark:
        dspark(m, q, ids, out, T)
    elif m.stages and name != "chain":
        X = out["layer.%d.streams" % (m.L - 1)][:-1]
        e = m.linear(m.rms(m.w("embed.weight")[ids[1:]], "mtp.0.enorm.weight"), "mtp.0.e_proj.weight")
        out["mtp.0.input"] = q.bf(e[:, None] + m.linear(m.rms(X, "mtp.0.hnorm.weight"), "mtp.0.h_proj.weight"))
        X = block(m, streams(q.bf, m.L, T - 1, m.N, D), ids[1:], m.L, out)
        out["mtp.logits"] = m.logits(X, "mtp.0.hc_head", "mtp.0.norm.weight")
    index_margins(out, c["index_topk"])
    rows = [r for r in ROWS if r < T]
    for k, v in out.items():
        is_entry = k.endswith(".compressed") or k.endswith(".index_keys")
        is_all = is_entry or k.startswith("dspark.") or (m.is_dspark and k.startswith("mtp."))
        v = np.asarray(v)
        keep[k] = v if is_all else v[[r for r in rows if r < len(v)]]
    return keep, rows


F32_NAMES = ("logits", "expert_weights", "margin", "confidence")


def stored(q, name, v):
    if v.dtype.kind == "i":
        return "I64", v.astype(np.int64)
    if name.endswith(F32_NAMES):
        return "F32", v.astype(np.float32)
    bits = q.bf16_bits(v)
    assert np.array_equal(q.from_bf16(bits), v.astype(np.float32)), name
    return "BF16", bits


def quant_case(q):
    """Blocks of very different sizes through every quantiser."""
    x = streams(q.bf, 2000, 64, 1, 128).reshape(64, 128)
    size = np.exp2((prng(2001, np.arange(64 * 4)) % np.uint64(40)).astype(np.float64) - 24).reshape(64, 4)
    x = q.bf((x * np.repeat(size, 32, 1)).astype(np.float32))
    x[60], x[61, ::2], x[62] = 0, -0.0, q.bf(np.full(128, 448, np.float32))
    codes, e = q.act_quant(x)
    return {"x": ("BF16", q.bf16_bits(x)), "act_codes": ("U8", codes), "act_scales": ("U8", (e + 127).astype(np.uint8)),
            "fp8_sim": ("BF16", q.bf16_bits(q.fp8_sim(x))), "fp4_sim": ("BF16", q.bf16_bits(q.fp4_sim(x))),
            "hadamard": ("BF16", q.bf16_bits(q.hadamard(x)))}


def main():
    sys.path.insert(0, sys.argv[1])
    import model
    import quant as q
    import safetensors_io as st
    here = os.path.dirname(os.path.abspath(__file__))
    for name, (variant, T) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            tiny(variant, folder)
            m = capture(model.Model)(folder)
            keep, rows = run(m, q, name, T)
            if name == "default":
                for w in ("layers.1.attn.wq_a", "layers.1.attn.wo_a", "layers.2.ffn.experts.3.w2", "layers.3.ffn.gate"):
                    keep["weight." + w] = m.w(w + ".weight")
        out = {"rows": ("I64", np.array(rows, np.int64)), "tokens": ("I64", np.array([T], np.int64))}
        out.update((k, stored(q, k, np.asarray(v))) for k, v in keep.items())
        path = os.path.join(here, name + ".safetensors")
        st.write_file(path, out)
        print("%s: %d tensors, %d bytes" % (path, len(out), os.path.getsize(path)))
    st.write_file(os.path.join(here, "quant.safetensors"), quant_case(q))


if __name__ == "__main__":
    main()
