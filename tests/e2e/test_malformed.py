#!/usr/bin/env python3
"""10,000 malformed requests: fuzzed JSON, cut bodies, bad UTF-8, wild sizes, broken chunks.  Each gets
a correct answer or a closed connection, and the server lives on.  FATHOM_SEED replays a run."""
import json
import os
import random
import socket
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from server import Server, error_of, main

COUNT = 10000
SEED = int(os.environ.get("FATHOM_SEED", 0)) or time.time_ns() & 0xffffffff
VALUES = [None, True, False, 0, -1, 1, 2, 1.5, -0.0, 1e308, 10 ** 30, 2 ** 63, "", "a", "\u0000",
          "\ud83d\ude00", [], [None], [1], ["a"], {}, {"a": None}, {"type": "text"},
          {"type": "function", "function": {"name": "f"}}, [[]], [{}], "x" * 3000]
VALUES = [json.dumps(value) for value in VALUES]  # each use is a new one
NAMES = ["messages", "model", "n", "stop", "seed", "temperature", "top_p", "top_k", "min_p", "stream",
         "stream_options", "logit_bias", "logprobs", "top_logprobs", "tools", "tool_choice", "thinking",
         "reasoning_effort", "chat_template_kwargs", "metadata", "response_format", "prompt", "echo",
         "suffix", "best_of", "min_tokens", "bad_words", "allowed_token_ids", "stop_token_ids",
         "continue_final_message", "service_tier", "user", "tokens", "add_special_tokens"]
PATHS = ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"]
random_of = random.Random(SEED)
server = Server(engine__threads=1, auth__failures_per_minute=100000)


def sound(path):
    """A small request that would be answered at once."""
    roles = random_of.choice(["user", "system", "assistant", "tool", "developer", "robot"])
    messages = [{"role": roles, "content": "hi"}, {"role": "user", "content": [
        {"type": "text", "text": "hello"}]}]
    if path == "/detokenize":
        return {"tokens": [5, 6, 7]}
    if path == "/v1/chat/completions":
        return {"messages": messages, "max_tokens": 1}
    return {"prompt": "a b", "max_tokens": 1} if path == "/v1/completions" else {"prompt": "a b"}


def places(value, at=()):
    """Every place within a value."""
    yield at
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], at + (key,))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from places(item, at + (index,))


def mutated(body):
    for _ in range(random_of.randint(1, 3)):
        if random_of.random() < 0.5:
            body[random_of.choice(NAMES)] = json.loads(random_of.choice(VALUES))
            continue
        at = random_of.choice([p for p in places(body) if p] or [("messages",)])
        holder = body
        for key in at[:-1]:
            holder = holder[key]
        holder[at[-1]] = json.loads(random_of.choice(VALUES))
    body["max_tokens"] = random_of.choice([1, 1, 1, 1, None, 0, "1"]) or 1
    for name in ("n", "best_of", "min_tokens", "echo"):
        if isinstance(body.get(name), int) and not isinstance(body.get(name), bool):
            body[name] = min(body[name], 2)
    return json.dumps(body, ensure_ascii=random_of.random() < 0.5).encode("utf-8", "surrogatepass")


def bytes_broken(text):
    data = bytearray(text)
    kind = random_of.randrange(5)
    if kind == 0:
        return bytes(data[:random_of.randrange(len(data) + 1)])
    for _ in range(random_of.randint(1, 4)):
        at = random_of.randrange(len(data) or 1)
        if kind == 1:
            data[at:at + 1] = bytes([random_of.randrange(256)])
        elif kind == 2:
            data[at:at] = random_of.choice([b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\\ud800", b"\\u0000",
                                            b"[" * 200, b"{", b"}", b'"', b",", b"\x00", b"1e", b"-"])
        elif kind == 3:
            del data[at:at + random_of.randint(1, 9)]
        else:
            data += random_of.choice([b" x", b"{}", b"\n\n", b"]", b"\xef\xbb\xbf"])
    return bytes(data)


def head(path, *lines):
    return ("POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n%s\r\n" % (
        path, "".join(line + "\r\n" for line in lines))).encode()


def request():
    """(bytes to send, is the HTTP of it whole)."""
    path = random_of.choice(PATHS)
    body = mutated(sound(path))
    if random_of.random() < 0.4:
        body = bytes_broken(body)
    draw = random_of.random()
    if draw < 0.86:
        return head(path, "Content-Length: %d" % len(body)) + body, True
    if draw < 0.90:
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(body[i:i + 7]), body[i:i + 7])
                          for i in range(0, len(body), 7))
        return head(path, "Transfer-Encoding: chunked") + chunks + b"0\r\n\r\n", True
    broken = random_of.choice([b"zz\r\nab\r\n0\r\n\r\n", b"5\r\nab\r\n0\r\n\r\n", b"-1\r\n\r\n",
                               b"ffffffffffffffffff\r\na\r\n", b"2\r\nabXX0\r\n\r\n", b"\r\n\r\n"])
    if draw < 0.94:
        return head(path, "Transfer-Encoding: chunked") + broken, False
    if draw < 0.97:
        size = random_of.choice(["-1", "abc", "99999999999999999999", "4294967296", "1, 2", "0x10", ""])
        return head(path, "Content-Length: " + size) + body, False
    whole = head(path, "Content-Length: %d" % (len(body) + 5)) + body
    return whole[:random_of.randrange(len(whole))], False


def answer_of(data, is_whole):
    """The answer's status, or 0 when the connection was closed without one."""
    with server.connect(30) as sock:
        try:
            sock.sendall(data)
            if not is_whole:
                sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        got = b""
        while True:
            try:
                part = sock.recv(65536)
            except ConnectionResetError:
                break
            if not part:
                break
            got += part
    if not got:
        return 0, b""
    heads, _, body = got.partition(b"\r\n\r\n")
    if b"100 Continue" in heads.split(b"\r\n")[0]:
        heads, _, body = body.partition(b"\r\n\r\n")
    return int(heads.split()[1]), body


def each_is_answered():
    counts = {}
    for number in range(COUNT):
        data, is_whole = request()
        status, body = answer_of(data, is_whole)
        counts[status] = counts.get(status, 0) + 1
        assert server.process.poll() is None, "it died: seed %d, request %d, %r" % (
            SEED, number, data[:500])
        assert status in (200, 400, 404, 408, 411, 413, 415, 431, 501) or (
            status == 0 and not is_whole), (SEED, number, status, data[:300], body[:300])
        if status in (400, 404, 415) and is_whole:
            error = error_of(body)
            assert error["code"] and error["message"], error
            assert "x" * 101 not in error["message"]
    print(counts)
    assert counts.get(400, 0) > COUNT / 4 and counts.get(200, 0) > COUNT / 50, counts


def it_still_answers():
    status, _, body = server.request("POST", "/v1/chat/completions", {
        "messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0})
    assert status == 200 and b"Paris" in body


def it_stops_without_a_leak():
    assert server.stop(60) == 0, server.lines[-30:]


print("FATHOM_SEED=%d" % SEED)
main([each_is_answered, it_still_answers, it_stops_without_a_leak])
