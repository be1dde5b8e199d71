"""A model directory with the tokenizer of DeepSeek-V4 and its 129,280 ids, made from conf/model.

The rows of the tensors that the vocabulary sizes (embedding, head, routing by hash) are repeated:
what the model says means nothing, but it loads, serves and tokenizes as the released one.
"""
import gzip
import json
import os
import shutil
import struct

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SOURCE = os.path.join(ROOT, "conf", "model")
TOKENIZER = os.path.join(ROOT, "tests", "golden", "tokenizer", "tokenizer.json.gz")
VOCAB = 129280


def shard_grow(source, target, vocab):
    with open(source, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    grown, at = {}, 0
    parts = []
    for name, tensor in sorted(((n, t) for n, t in header.items() if n != "__metadata__"),
                               key=lambda pair: pair[1]["data_offsets"][0]):
        begin, end = tensor["data_offsets"]
        part = data[begin:end]
        shape = list(tensor["shape"])
        if shape and shape[0] == vocab:
            row = len(part) // vocab
            part = (part * (VOCAB // vocab + 1))[:row * VOCAB]
            shape[0] = VOCAB
        grown[name] = {"dtype": tensor["dtype"], "shape": shape,
                       "data_offsets": [at, at + len(part)]}
        at += len(part)
        parts.append(part)
    text = json.dumps(grown).encode()
    text += b" " * (-len(text) % 8)
    with open(target, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for part in parts:
            file.write(part)
    return at


def make(place):
    shutil.rmtree(place, ignore_errors=True)
    os.makedirs(place)
    with open(os.path.join(SOURCE, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    vocab = config["vocab_size"]
    total = 0
    for name in sorted(os.listdir(SOURCE)):
        if name.endswith(".safetensors"):
            total += shard_grow(os.path.join(SOURCE, name), os.path.join(place, name), vocab)
    with open(os.path.join(SOURCE, "model.safetensors.index.json"), encoding="utf-8") as file:
        index = json.load(file)
    index.setdefault("metadata", {})["total_size"] = total
    config["vocab_size"] = VOCAB
    for name, value in (("config.json", config), ("model.safetensors.index.json", index)):
        with open(os.path.join(place, name), "w", encoding="utf-8") as file:
            json.dump(value, file)
    with gzip.open(TOKENIZER) as packed, open(os.path.join(place, "tokenizer.json"), "wb") as file:
        shutil.copyfileobj(packed, file)
