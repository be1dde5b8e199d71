#!/usr/bin/env python3
"""The `tokenizers` package on the texts of bench_tokenizer: prints "NAME TOKENS SECONDS CRC" per file.

    python3 bench_tokenizer.py TOKENIZER.json FILE...

Exit 77 where the package is not installed.  One thread; added tokens are not matched in the text by
either side, since the texts hold none.
"""
import os
import sys
import time
import zlib

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
try:
    import tokenizers
except ImportError:
    print("the Python package `tokenizers` is not installed", file=sys.stderr)
    sys.exit(77)


def main():
    tokenizer = tokenizers.Tokenizer.from_file(sys.argv[1])
    tokenizer.encode("warm up")
    for path in sys.argv[2:]:
        with open(path, encoding="utf-8", newline="") as file:
            texts = file.read().split("\0")
        best = float("inf")
        for _ in range(2):
            begin = time.perf_counter()
            ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
            best = min(best, time.perf_counter() - begin)
        data = b"".join(id.to_bytes(4, "little") for part in ids for id in part)
        print(path, len(data) // 4, f"{best:.6f}", f"{zlib.crc32(data):08x}", flush=True)


if __name__ == "__main__":
    main()
