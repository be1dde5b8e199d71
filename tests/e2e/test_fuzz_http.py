#!/usr/bin/env python3
"""Malformed requests by the thousand: each gets a correct error or, where its end never comes, none.

FUZZ_COUNT requests (10,000 with a sanitized program, 1,000 otherwise), from FATHOM_SEED.  Ten kinds:
broken JSON made from sound requests, wrong types and wild values, cut bodies, bad UTF-8, wild
lengths, broken chunks, broken heads, deep nesting, random bytes, and sound requests that hang up.
After them the server must answer a sound request, hold no connection, and stop with status 0,
which a leak or any report of a sanitizer would change.
"""
import json
import os
import random
import re
import socket
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from server import IS_SANITIZED, Server, main

SEED = int(os.environ.get("FATHOM_SEED") or time.time_ns() % (1 << 32))
COUNT = int(os.environ.get("FUZZ_COUNT") or (10000 if IS_SANITIZED else 1000))
ROUTES = ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize", "/v1/models",
          "/v1/models/x", "/health", "/metrics", "/nope"]
POSTS = ROUTES[:4]
SOUND = {
    POSTS[0]: {"model": "model", "messages": [{"role": "system", "content": "s"},
                                              {"role": "user", "content": [{"type": "text", "text": "hé"}]}],
               "max_tokens": 2, "temperature": 0.5, "top_p": 0.9, "n": 1, "stream": False, "seed": 7,
               "stop": ["x"], "logprobs": True, "top_logprobs": 2, "logit_bias": {"5": 1},
               "tools": [{"type": "function", "function": {"name": "f", "parameters": {
                   "type": "object", "properties": {"a": {"type": "string"}}}}}],
               "tool_choice": "auto", "stream_options": None, "thinking": {"type": "disabled"}},
    POSTS[1]: {"prompt": ["a", "b"], "max_tokens": 2, "suffix": None, "echo": True, "logprobs": 1,
               "stop": "y", "best_of": 1, "n": 1, "temperature": 0},
    POSTS[2]: {"prompt": "hello", "add_special_tokens": True, "return_token_strs": False},
    POSTS[3]: {"tokens": [5, 6, 7]},
}
WILD = [None, True, False, 0, -1, 1.5, 1e308, -1e308, 1e-320, 2 ** 31, 2 ** 63, 2 ** 64, 10 ** 40, "", "x",
        "\u0000", "\ud7ff\U0010ffff", "a" * 5000, [], {}, [[]], [{}], {"a": None}, [None], [1, "a"],
        {"role": "user"}, {"type": "text"}, "NaN", [[[[[[]]]]]], {"": ""}]
BAD_UTF8 = [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80", b"\xfe\xff"]
random_source = random.Random(SEED)


def nodes(value, path=()):
    """Every place in the tree."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield from nodes(child, path + (key,))


def wild(rng):
    return json.loads(json.dumps(rng.choice(WILD)))


def mutated(rng, body):
    body = json.loads(json.dumps(body))
    for _ in range(rng.randint(1, 3)):
        places = [p for p in nodes(body) if p]
        if not places:
            return body
        path = rng.choice(places)
        parent = body
        for key in path[:-1]:
            parent = parent[key]
        action = rng.random()
        if action < 0.6:
            parent[path[-1]] = wild(rng)
        elif action < 0.8:
            del parent[path[-1]]
        elif isinstance(parent, dict):
            parent[rng.choice(["role", "content", "x", "type", "name", "n", "stop"])] = wild(rng)
        else:
            parent.append(wild(rng))
    return body


def message(path, body, method="POST", headers=()):
    lines = ["%s %s HTTP/1.1" % (method, path), "Host: x", "Connection: close",
             "Content-Type: application/json", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def with_length(path, body, length=None, method="POST"):
    return message(path, body, method, ["Content-Length: %s" % (len(body) if length is None else length)])


def sound_text(rng):
    path = rng.choice(POSTS)
    return path, json.dumps(SOUND[path], ensure_ascii=False).encode()


# Each kind gives (bytes, expected): "error" a 4xx or 501/505 must come; "any" an answer must come;
# "maybe" an error or the end of the connection.

def broken_json(rng):
    path, text = sound_text(rng)
    at = rng.randrange(len(text))
    text = rng.choice([text[:at], text + b"}", text[:at] + rng.choice([b'"', b"{", b"]", b",", b"\\", b":"])
                       + text[at + 1:], b"[" + text, text.replace(b":", b"", 1),
                       text.replace(b'"', b"'", 2), text[:-1] + b",}", text[1:], b""])
    return with_length(path, text), "any"


def wild_values(rng):
    path = rng.choice(POSTS)
    return with_length(path, json.dumps(mutated(rng, SOUND[path])).encode()), "any"


def cut_body(rng):
    path, text = sound_text(rng)
    return with_length(path, text[:rng.randrange(len(text))], len(text)), "maybe"


def bad_utf8(rng):
    path, text = sound_text(rng)
    at = text.index(b'"') + 1 + rng.randrange(3)
    return with_length(path, text[:at] + rng.choice(BAD_UTF8) + text[at:]), "error"


def wild_length(rng):
    path, text = sound_text(rng)
    length = rng.choice(["-1", "99999999999", "18446744073709551616", "9" * 40, "1x", "0x10", "", " ", "+5",
                         "1e3", "67108865", "5, 6", "\x01"])
    return with_length(path, text, length), "maybe"


def broken_chunks(rng):
    path, text = sound_text(rng)
    size = b"%x" % len(text)
    body = rng.choice([b"zz\r\n" + text, size + b"\r\n" + text, size + b"\r\n" + text + b"XX0\r\n\r\n",
                       b"ffffffffffffffff\r\n" + text, b"-1\r\n" + text, b"\r\n\r\n",
                       b"1\r\n" + text + b"\r\n0\r\n\r\n", size + b";" + b"a" * 3000 + b"\r\n" + text,
                       b"0" * 500 + size + b"\r\n" + text, b"5\n" + text, b"7fffffffffffffff\r\n"])
    return message(path, body, "POST", [rng.choice([
        "Transfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"])]), "maybe"


def broken_head(rng):
    path = rng.choice(ROUTES)
    junk = bytes(rng.randrange(1, 256) for _ in range(rng.randint(1, 60)))
    return rng.choice([
        b"GET " + junk + b" HTTP/1.1\r\nHost: x\r\n\r\n", junk + b"\r\n\r\n",
        b"GET %s HTTP/%d.%d\r\nHost: x\r\n\r\n" % (path.encode(), rng.randrange(9), rng.randrange(9)),
        b"GET %s HTTP/1.1\r\n\r\n" % path.encode(), b"GET %s\r\n\r\n" % path.encode(),
        b"GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n" % (path.encode(), junk),
        b"GET %s HTTP/1.1\r\nHost: x\r\nA: %s\r\n\r\n" % (path.encode(), b"a" * rng.choice([70000, 200000])),
        b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"%2e" * rng.choice([100, 5000])),
        b"%s %s HTTP/1.1\r\nHost: x\r\n\r\n" % (rng.choice([b"BREW", b"get", b"P\xc3\x96ST", b"CONNECT", b"TRACE"]),
                                               path.encode()),
        b"POST %s HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n" % path.encode(),
        b"\r\n" * rng.randint(1, 50), b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A:b\r\n" * 5000 + b"\r\n",
    ]), "maybe"


def deep_nesting(rng):
    path = rng.choice(POSTS)
    depth = rng.choice([129, 1000, 200000])
    opening, closing = rng.choice([(b"[", b"]"), (b'{"a":', b"}")])
    inner = opening * depth + b"1" + closing * depth
    key = rng.choice([b"messages", b"prompt", b"tokens", b"x", b"tools"])
    return with_length(path, b'{"' + key + b'":' + inner + b"}"), "error"


def random_bytes(rng):
    body = bytes(rng.randrange(256) for _ in range(rng.randint(1, 400)))
    return (with_length(rng.choice(POSTS), body), "error") if rng.random() < 0.7 else (body, "maybe")


def hang_up(rng):
    path, text = sound_text(rng)
    if path == POSTS[0]:
        text = text.replace(b'"max_tokens": 2', b'"max_tokens": 500').replace(
            b'"stream": false', b'"stream": true')
    return with_length(path, text), "gone"


KINDS = [broken_json, broken_json, wild_values, wild_values, wild_values, cut_body, bad_utf8, wild_length,
         broken_chunks, broken_chunks, broken_head, broken_head, deep_nesting, random_bytes, hang_up]
SHAPE = re.compile(r'\{"error":\{"message":.*,"type":"[a-z_]+","param":.*,"code":.*\}\}\n\Z', re.S)


def exchange(server, data, expected):
    with server.connect(timeout=60) as sock:
        try:
            sock.sendall(data)
            if expected == "gone":
                time.sleep(random_source.random() * 0.01)
                return b""
            if expected == "maybe":
                sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        answer = b""
        while True:
            try:
                part = sock.recv(65536)
            except (ConnectionResetError, BrokenPipeError):
                break
            if not part:
                break
            answer += part
    return answer


def check_answer(answer, expected):
    if answer.startswith(b"HTTP/1.1 100 "):
        answer = answer.partition(b"\r\n\r\n")[2]
    if not answer:
        assert expected in ("maybe", "gone"), "no answer"
        return "none"
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    assert expected != "error" or 400 <= status < 500, "status %d" % status
    assert status in (200, 204) or 400 <= status < 500 or status in (501, 503, 505), "status %d" % status
    assert status != 422
    if status >= 400 and b"x-request-id:" in head and body:
        assert SHAPE.match(body.decode()), body[:300]
        error = json.loads(body)["error"]
        assert list(error) == ["message", "type", "param", "code"], error
        assert isinstance(error["message"], str) and 0 < len(error["message"]) < 700
        assert isinstance(error["code"], str)
    elif status >= 400 and body:
        # What the HTTP library itself finds broken it answers itself, and closes.
        assert b"connection: close" in head.lower(), head
    return status


def malformed_requests_get_correct_errors():
    counts = {}
    print("FATHOM_SEED=%d, %d requests" % (SEED, COUNT))
    with Server(http__body_timeout_s=20) as server:
        for i in range(COUNT):
            kind = random_source.choice(KINDS)
            data, expected = kind(random_source)
            try:
                status = check_answer(exchange(server, data, expected), expected)
            except (AssertionError, ValueError, UnicodeDecodeError) as error:
                raise AssertionError("request %d (%s): %s\nsent: %r\nlog:\n%s" % (
                    i, kind.__name__, error, data[:600], "\n".join(server.lines[-5:]))) from error
            assert server.process.poll() is None, "fathomd has ended after request %d: %r\n%s" % (
                i, data[:600], "\n".join(server.lines[-40:]))
            counts.setdefault(kind.__name__, {}).setdefault(status, 0)
            counts[kind.__name__][status] += 1
        end = time.monotonic() + 60
        while server.metric("fathom_http_connections") > 1 and time.monotonic() < end:
            time.sleep(0.2)
        assert server.metric("fathom_http_connections") <= 1
        status, _, body = server.request("POST", POSTS[0], {
            "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3})
        assert status == 200, body
    for name, statuses in sorted(counts.items()):
        print("  %-14s %s" % (name, " ".join("%s:%d" % item for item in sorted(statuses.items(), key=str))))


if __name__ == "__main__":
    main([malformed_requests_get_correct_errors])
