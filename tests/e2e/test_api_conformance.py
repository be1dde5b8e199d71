#!/usr/bin/env python3
"""The API contract against the real program and the bundled model.

Each case carries the numbers of the contract's statements that it proves; `--statements` prints
them all.  daemon/README.md lists the same numbers.
"""
import json
import math
import os
import re
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from server import Server, error_of, main, read_all

CHAT = "/v1/chat/completions"
LEGACY = "/v1/completions"
HELLO = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER = [{"role": "user", "content": "What is the weather in Paris?"}]
TOOL = {"type": "function", "function": {
    "name": "get_weather", "description": "Weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}
FIRST, SECOND = "deepseek-chat", "deepseek-reasoner"
CASES = []
servers = {}


def proves(*statements):
    def register(function):
        CASES.append((statements, function))
        return function
    return register


def server(**settings):
    key = tuple(sorted(settings.items()))
    if key not in servers:
        servers[key] = Server(model__aliases="deepseek-chat=off,deepseek-reasoner=on", **settings)
    return servers[key]


def post(path, body, status=200, headers=None, **settings):
    """The parsed answer; (headers, bytes) are kept beside it."""
    got, fields, raw = server(**settings).request("POST", path, body, headers)
    assert got == status, (got, raw[:600], str(body)[:300])
    post.headers, post.raw = fields, raw
    return json.loads(raw)


def chat(status=200, path=CHAT, settings=None, **fields):
    body = dict({"messages": HELLO, "temperature": 0}, **fields)
    return post(path, body, status, **(settings or {}))


def choice(**fields):
    return chat(**fields)["choices"][0]


def refused(code, param, status=400, path=CHAT, settings=None, **fields):
    body = dict({"messages": HELLO} if path == CHAT else {"prompt": "a"}, **fields)
    got, _, raw = server(**(settings or {})).request("POST", path, body)
    assert got == status, (got, raw, fields)
    error = error_of(raw)
    assert error["code"] == code and error["param"] == param, (error, fields)
    return error


def raw_post(data, path=CHAT, content_type="application/json"):
    return server().request("POST", path, data, {"Content-Type": content_type} if content_type else {})


def stream(path=CHAT, settings=None, **fields):
    """The JSON of all chunks; the frames are checked (statements 69, 70)."""
    body = dict({"messages": HELLO, "temperature": 0} if path == CHAT else {"temperature": 0}, **fields)
    status, headers, raw = server(**(settings or {})).request("POST", path, dict(body, stream=True))
    assert status == 200, raw
    stream.headers = headers
    frames = raw.decode().split("\n\n")
    assert frames[-1] == "" and frames[-2] == "data: [DONE]", frames[-3:]
    chunks = []
    for frame in frames[:-2]:
        assert "\n" not in frame, frame
        if frame.startswith(":"):
            continue
        assert frame.startswith("data: {"), frame
        chunks.append(json.loads(frame[6:]))
    return chunks


def merge(into, delta):
    """As openai-python joins deltas: equal keys of strings are concatenated, lists by index."""
    for key, value in delta.items():
        if key not in into or into[key] is None:
            into[key] = value
        elif key in ("index", "type"):
            into[key] = value
        elif isinstance(value, str):
            into[key] += value
        elif isinstance(value, dict):
            merge(into[key], value)
        elif isinstance(value, list):
            for item in value:
                if item["index"] < len(into[key]):
                    merge(into[key][item["index"]], item)
                else:
                    into[key].append(item)
    return into


def joined(chunks):
    """The choices of a stream, joined; statements 72 to 74 are checked on the way."""
    choices = {}
    ended = set()
    for number, chunk in enumerate(chunks):
        for part in chunk["choices"]:
            index, delta = part["index"], part["delta"]
            assert index not in ended, "choice %d goes on after its end" % index
            if index not in choices:
                assert index == len(choices) == number, "role chunks are not first and in order"
                assert delta["role"] == "assistant"
                choices[index] = {"delta": json.loads(json.dumps(delta)), "finish": None,
                                  "logprobs": []}
                continue
            assert "role" not in delta
            assert not ("content" in delta and "reasoning_content" in delta)
            if "reasoning_content" in delta:
                assert not choices[index]["delta"].get("content")
            merge(choices[index]["delta"], json.loads(json.dumps(delta)))
            if part["logprobs"]:
                choices[index]["logprobs"] += part["logprobs"]["content"]
            if part["finish_reason"] is not None:
                assert delta == {}
                choices[index]["finish"] = part["finish_reason"]
                ended.add(index)
    assert len(ended) == len(choices)
    return [choices[i] for i in range(len(choices))]


# ---- transport and JSON input -----------------------------------------------------------------

@proves(1, 69, 70)
def every_answer_of_a_generation_has_an_id():
    stream()
    assert stream.headers["x-request-id"]
    chat(status=400, n=0)
    assert post.headers["x-request-id"]


@proves(4)
def aliases_give_equal_bodies():
    bodies = []
    for path in (CHAT, "/chat/completions", "/beta/chat/completions", "/beta/v1/chat/completions"):
        answer = chat(path=path)
        answer["id"] = answer["created"] = 0
        bodies.append(json.dumps(answer))
    assert len(set(bodies)) == 1


@proves(6, 5)
def slashes_and_queries_are_taken():
    assert server().request("GET", "/v1/models/")[0] == 200
    chat(path=CHAT + "?beta=true&x=1")


@proves(11, 12, 13)
def media_types_are_checked():
    body = json.dumps({"messages": HELLO, "max_tokens": 1}).encode()
    for good in (None, "application/json; charset=utf-8", "application/vnd.x+json"):
        assert raw_post(body, content_type=good)[0] == 200, good
    for bad in ("application/x-www-form-urlencoded", "text/plain"):
        status, _, raw = raw_post(body, content_type=bad)
        assert status == 415 and error_of(raw)["code"] == "unsupported_media_type"
        assert "Send 'Content-Type: application/json'" in error_of(raw)["message"]
    status, _, raw = server().request("POST", CHAT, body, {"Content-Encoding": "gzip"})
    assert status == 415 and error_of(raw)["code"] == "unsupported_content_encoding"


@proves(14, 15, 16, 17, 18, 19, 20, 21, 25, 26)
def bodies_are_checked():
    text = '{"messages":[{"role":"user","content":"%s"}],"max_tokens":1}'
    for body, status, code in [
            (b"", 400, "invalid_json"), (b"{", 400, "invalid_json"),
            ((text % "a" + " x").encode(), 400, "invalid_json"),
            (b'{"a":"\xff"}', 400, "invalid_utf8"), (b'{"a":"\xc0\x80"}', 400, "invalid_utf8"),
            (b'{"a":"\xed\xa0\x80"}', 400, "invalid_utf8"),
            ((text % "\\ud800").encode(), 400, "invalid_json"),
            ((text % "a\\u0000b").encode(), 400, "invalid_value"),
            (b'{"a":' + b"[" * 129 + b"]" * 129 + b"}", 400, "json_too_deep"),
            (b"[" * 100000, 400, "json_too_deep"),
            (b'{"n":1,"n":1}', 400, "invalid_value"),
            (b"[]", 400, "invalid_type"), (b'"x"', 400, "invalid_type")]:
        got, _, raw = raw_post(body)
        assert got == status and error_of(raw)["code"] == code, (body[:60], raw)
    assert "(byte 6)" in error_of(raw_post(b'{"a":"\xff"}')[2])["message"]
    assert error_of(raw_post(b'{"n":1,"n":1}')[2])["param"] == "n"
    assert raw_post((text % "\\ud83d\\ude00").encode())[0] == 200
    assert raw_post(b"\xef\xbb\xbf" + (text % "a").encode())[0] == 200


@proves(22)
def null_is_absence():
    names = ["model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "stop",
             "seed", "user", "metadata", "service_tier", "top_p", "top_k", "min_p",
             "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias",
             "logprobs", "top_logprobs", "min_tokens", "ignore_eos", "stop_token_ids", "bad_words",
             "allowed_token_ids", "return_token_ids", "prompt_logprobs", "thinking",
             "thinking_token_budget", "reasoning_effort", "chat_template_kwargs", "tools",
             "tool_choice", "parallel_tool_calls", "response_format", "functions", "audio"]
    plain, nulls = choice(), choice(**{name: None for name in names})
    assert plain == nulls


@proves(23)
def whole_numbers_are_whole():
    assert len(chat(n=1.0)["choices"]) == 1
    for bad in (1.5, "1", True):
        refused("invalid_type", "n", n=bad)


@proves(24)
def ignored_fields_are_listed():
    messages = [{"role": "user", "content": "hi", "zzz": 1}]
    chat(messages=messages, foo=1, store=True, max_tokens=1)
    assert post.headers["x-fathom-ignored"] == "foo,store"
    chat(max_tokens=1)
    assert "x-fathom-ignored" not in post.headers


@proves(27, 87, 191)
def text_comes_back_as_it_went():
    corpus = ["", "a", "\u00e9\u4e16\u754c", "\U0001f600\u0301", "tab\tnew\nline\r", "\u2028\u2029\u0085\u007f",
              "\"\\/", "data: x\n\ndata: y", "<\uff5cAssistant\uff5c></think>", "\u0001"]
    for text in corpus:
        tokens = post("/tokenize", {"prompt": text, "add_special_tokens": False})["tokens"]
        back = post("/detokenize", {"tokens": tokens})["prompt"]
        assert back == text, (text, back)
    assert b"\\u2028\\u2029\\u0085\\u007f" in server().request(
        "POST", "/detokenize", {"tokens": post("/tokenize", {
            "prompt": corpus[5], "add_special_tokens": False})["tokens"]})[2]
    assert "\u4e16".encode() in server().request(
        "POST", "/detokenize", {"tokens": post("/tokenize", {
            "prompt": corpus[2], "add_special_tokens": False})["tokens"]})[2]


@proves(28)
def bodies_have_a_length_and_end_with_a_newline():
    chat(max_tokens=1)
    assert post.raw.endswith(b"}\n") and not post.raw.endswith(b"\n\n")
    assert int(post.headers["content-length"]) == len(post.raw)


# ---- errors -----------------------------------------------------------------------------------

@proves(29, 30, 32, 34)
def fixed_errors_are_word_for_word():
    def message(body):
        return error_of(raw_post(json.dumps(body).encode())[2])
    assert message({}) == {
        "message": "Missing required parameter: 'messages'.", "type": "invalid_request_error",
        "param": "messages", "code": "missing_required_parameter"}
    assert message({"messages": HELLO, "model": "x"}) == {
        "message": "The model `x` does not exist or you do not have access to it.",
        "type": "invalid_request_error", "param": "model", "code": "model_not_found"}
    assert message({"messages": HELLO, "temperature": 3}) == {
        "message": "Invalid value for 'temperature': expected a number between 0 and 2, but got 3.",
        "type": "invalid_request_error", "param": "temperature", "code": "invalid_value"}
    assert message({"messages": HELLO, "n": "1"})["message"] == (
        "Invalid type for 'n': expected an integer, but got a string instead.")
    error = error_of(raw_post(b"{")[2])
    assert error["message"].startswith("We could not parse the JSON body of your request. ")
    assert error["message"].endswith("(byte 1)")
    refused("invalid_value", "messages", messages=[])
    refused("invalid_type", "messages", messages="hi")
    refused("model_not_found", "model", status=404, model="x")


@proves(31)
def unknown_routes_and_methods_are_told():
    status, _, raw = server().request("GET", "/v1/chat/completions/abc")
    assert status == 404 and error_of(raw)["code"] == "unknown_url"
    status, headers, raw = server().request("GET", CHAT)
    assert status == 405 and "POST" in headers["allow"], headers
    assert server().request("POST", "/v1/messages", {})[0] == 404
    for path in ("/v1/responses", "/v1/embeddings"):
        status, _, raw = server().request("POST", path, {})
        assert status == 404 and error_of(raw)["code"] == "unknown_url"


@proves(33)
def the_model_may_be_left_out():
    assert chat()["model"] == chat(model="model")["model"] == chat(model=FIRST)["model"] == "model"


@proves(35)
def a_bad_role_is_named():
    refused("invalid_value", "messages[1].role",
            messages=HELLO + [{"role": "robot", "content": "x"}])


@proves(36, 94, 106, 115, 142)
def ranges_are_held():
    for name, good, bad in [
            ("temperature", [0, 2], [-0.01, 2.01]), ("top_p", [0, 1], [-0.01, 1.01]),
            ("top_k", [-1, 4096], [-2, 4097]), ("min_p", [0, 1], [-0.01, 1.01]),
            ("presence_penalty", [-2, 2], [-2.01, 2.01]),
            ("frequency_penalty", [-2, 2], [-2.01, 2.01]),
            ("repetition_penalty", [0.01, 2], [0, 2.01]), ("n", [1, 16], [0, 17]),
            ("min_tokens", [0, 1], [-1, 3]), ("max_completion_tokens", [1], [0]),
            ("stop", ["a" * 512, ["a"] * 16], ["", "a" * 513, ["a"] * 17]),
            ("logit_bias", [{"5": 100}, {"5": -100}], [{"5": 101}, {"x": 1}, {"4096": 1}]),
            ("stop_token_ids", [[1] * 64], [[1] * 65, [4096]]),
            ("bad_words", [["a"] * 256], [["a"] * 257]),
            ("thinking_token_budget", [-1, 0], [-2])]:
        for value in good:
            chat(**dict({"max_tokens": 2}, **{name: value}))
        for value in bad:
            refused("invalid_value", name, **dict({"max_tokens": 2}, **{name: value}))
    refused("invalid_value", "top_logprobs", top_logprobs=3)
    refused("invalid_value", "top_logprobs", logprobs=True, top_logprobs=21)
    many = [dict(TOOL, function={"name": "f%d" % i}) for i in range(513)]
    refused("invalid_value", "tools", tools=many)
    refused("invalid_value", "tools", tools=[TOOL, TOOL])
    refused("invalid_value", "tools[0].function.name",
            tools=[{"type": "function", "function": {"name": "a b"}}])
    assert chat(tools=[])["usage"] == chat()["usage"]


@proves(37, 38, 39, 40, 190)
def contexts_have_their_limits():
    small = {"engine__context_max": 64}
    context = json.loads(server(**small).request("GET", "/v1/models")[2])["data"][0]["max_model_len"]
    assert context == 64
    long = [{"role": "user", "content": "dog " * 100}]
    count = post("/tokenize", {"messages": long, "thinking": False}, engine__context_max=64)["count"]
    error = refused("context_length_exceeded", "messages", messages=long, thinking=False,
                    settings=small)
    assert error["message"] == (
        "This model's maximum context length is 64 tokens. However, your messages resulted in %d "
        "tokens. Please reduce the length of the messages." % count), error
    error = refused("context_length_exceeded", "prompt", path=LEGACY, prompt="dog " * 100,
                    settings=small)
    assert "your prompt resulted in" in error["message"]

    def words(number):
        return [{"role": "user", "content": " dog" * number}]
    rest = 64 - post("/tokenize", {"messages": words(1), "thinking": False}, **small)["count"]
    exact = words(1 + rest)
    assert post("/tokenize", {"messages": exact, "thinking": False}, **small)["count"] == 64
    refused("context_length_exceeded", "messages", messages=exact, thinking=False, settings=small)
    one = chat(messages=words(rest), thinking=False, settings=small)
    assert one["usage"]["prompt_tokens"] == 63 and one["usage"]["completion_tokens"] == 1
    assert "x-fathom-warnings" not in post.headers
    cut = chat(messages=words(rest - 9), thinking=False, max_tokens=1000, settings=small)
    assert post.headers["x-fathom-warnings"] == "max_tokens_clamped"
    assert cut["usage"]["completion_tokens"] <= 10
    error = refused("context_length_exceeded", "messages", messages=words(1), thinking=False,
                    max_tokens=100, settings=dict(small, api__max_tokens_overflow="reject"))
    assert "However, you requested %d tokens (%d in the messages, 100 in the completion)." % (
        164 - rest, 64 - rest) in error["message"], error


@proves(42, 43)
def what_is_not_offered_is_refused():
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    refused("unsupported_content", "messages[0].content[0]", messages=image)
    for name, value in [("functions", [{}]), ("audio", {}), ("web_search_options", {}),
                        ("use_beam_search", True), ("response_format", {"type": "json_object"}),
                        ("guided_json", {}), ("structured_outputs", {"json": {}})]:
        refused("unsupported_parameter", name, **{name: value})


@proves(44, 45)
def schema_violations_are_400():
    values = [None, True, 0, -1, 1.5, 1e300, "", "x" * 5000, [], [None], {}, {"a": []}]
    names = ["messages", "model", "stream", "n", "stop", "seed", "temperature", "logit_bias", "tools",
             "tool_choice", "thinking", "metadata", "response_format", "stream_options", "top_k",
             "chat_template_kwargs", "allowed_token_ids", "reasoning_effort"]
    for name in names:
        for value in values:
            status, _, raw = server().request("POST", CHAT, dict(
                {"messages": HELLO, "max_tokens": 1}, **{name: value}))
            assert status in (200, 400, 404), (status, name, value)
            if status != 200:
                assert "x" * 101 not in error_of(raw)["message"]


# ---- chat -------------------------------------------------------------------------------------

@proves(48, 49)
def an_answer_has_its_keys():
    answer = chat()
    assert list(answer) == ["id", "object", "created", "model", "system_fingerprint", "choices",
                            "usage"]
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{32}", answer["id"])
    assert re.fullmatch(r"fp_[0-9a-f]{10}", answer["system_fingerprint"])
    assert isinstance(answer["created"], int) and abs(answer["created"] - time.time()) < 60
    one = answer["choices"][0]
    assert list(one) == ["index", "message", "logprobs", "finish_reason", "stop_reason"]
    assert one["message"]["refusal"] is None and one["logprobs"] is None
    assert one["finish_reason"] == "stop"
    assert "Paris" in one["message"]["content"]


@proves(50, 51, 61, 62, 122)
def thinking_is_switched():
    ways = [{"thinking": {"type": "disabled"}}, {"reasoning_effort": "none"},
            {"chat_template_kwargs": {"thinking": False}}, {"enable_thinking": False},
            {"model": FIRST}]
    counts = set()
    for way in ways:
        answer = chat(**way)
        message = answer["choices"][0]["message"]
        assert "reasoning_content" not in message
        assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0
        counts.add((message["content"], answer["usage"]["prompt_tokens"]))
    assert len(counts) == 1
    for way in ({}, {"model": SECOND}, {"model": FIRST, "thinking": {"type": "enabled"}}):
        answer = chat(**way)
        message = answer["choices"][0]["message"]
        assert message["reasoning_content"]
        assert 0 < answer["usage"]["completion_tokens_details"]["reasoning_tokens"] \
            <= answer["usage"]["completion_tokens"]
        assert "think>" not in message["content"] + message["reasoning_content"]


@proves(52, 113, 123)
def several_choices_come_in_order():
    three = chat(n=3)
    assert [c["index"] for c in three["choices"]] == [0, 1, 2]
    assert len({json.dumps(c["message"]) for c in three["choices"]}) == 1
    one = chat()
    assert three["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"]
    assert three["usage"]["completion_tokens"] == 3 * one["usage"]["completion_tokens"]
    assert three["choices"][0]["message"] == one["choices"][0]["message"]


def count_of(messages, **more):
    return post("/tokenize", dict({"messages": messages}, **more))["tokens"]


@proves(53, 54, 65, 124, 191)
def messages_become_the_same_tokens():
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "up?"}]
    for role in ("system", "assistant"):
        whole = HELLO + [{"role": role, "content": "What is up?"}] + HELLO
        cut = HELLO + [{"role": role, "content": parts}] + HELLO
        assert count_of(whole) == count_of(cut)
    assert count_of([{"role": "user", "content": "What is \n\nup?"}]) == count_of(
        [{"role": "user", "content": parts}])
    assert count_of([{"role": "system", "content": "x"}] + HELLO) == count_of(
        [{"role": "developer", "content": "x"}] + HELLO)
    for more in ({}, {"thinking": False}, {"tools": [TOOL]}, {"reasoning_effort": "max"}):
        tokens = count_of(HELLO, **more)
        assert len(tokens) == chat(max_tokens=1, **more)["usage"]["prompt_tokens"]
    spelt = count_of([{"role": "user", "content": "<\uff5cAssistant\uff5c></think><\uff5cUser\uff5c>"}])
    plain = count_of([{"role": "user", "content": "x"}])
    for control in {t for t in plain if plain.count(t) == 1 and t < 64 and t != plain[2]}:
        assert spelt.count(control) <= plain.count(control), control


@proves(55, 56, 57, 58, 60, 141)
def histories_are_checked():
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather",
                                                         "arguments": '{"city": "Paris"}'}}
    other = dict(call, id="c2")
    turn = {"role": "assistant", "content": None, "tool_calls": [call, other]}
    result = {"role": "tool", "tool_call_id": "c1", "content": "sunny"}
    good = dict(max_tokens=2, tools=[TOOL])
    chat(messages=WEATHER + [turn, result], **good)
    assert "reasoning_replay_missing" in post.headers["x-fathom-warnings"]
    for arguments in ({"city": "Paris"}, "{broken", ""):
        changed = dict(call, function={"name": "get_weather", "arguments": arguments})
        chat(messages=WEATHER + [dict(turn, tool_calls=[changed]), result], **good)
    refused("invalid_value", "messages[1].tool_call_id", messages=WEATHER + [result])
    refused("invalid_value", "messages[0].content", messages=[{"role": "user", "content": None}])
    refused("invalid_value", "messages[0].prefix",
            messages=[{"role": "user", "content": "a", "prefix": True}])
    refused("invalid_value", "messages", messages=WEATHER + [turn, result], tools=[TOOL],
            settings={"api__require_reasoning_replay": "true"})


@proves(59)
def a_prefix_is_continued():
    start = "The capital of France"
    for way in ({"messages": HELLO + [{"role": "assistant", "content": start, "prefix": True}]},
                {"messages": HELLO + [{"role": "assistant", "content": start}],
                 "continue_final_message": True, "add_generation_prompt": False}):
        one = choice(thinking=False, **way)
        assert "Paris" in one["message"]["content"]
        assert start not in one["message"]["content"]
        tokens = count_of(way["messages"], thinking=False, **{
            k: v for k, v in way.items() if k != "messages"})
        tail = post("/tokenize", {"prompt": start, "add_special_tokens": False})["tokens"]
        assert tokens[-len(tail):] == tail


@proves(63)
def efforts_are_words():
    for word in ("none", "minimal", "low", "medium", "high", "xhigh", "max", "ultra"):
        chat(reasoning_effort=word, max_tokens=1)
    refused("invalid_value", "reasoning_effort", reasoning_effort="huge")
    assert count_of(HELLO, reasoning_effort="max") != count_of(HELLO, reasoning_effort="low")


@proves(64)
def a_budget_ends_reasoning():
    answer = chat(thinking_token_budget=5)
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] <= 6
    assert answer["choices"][0]["message"]["content"]


@proves(66, 67)
def hints_are_taken():
    answer = chat(metadata={"a": "b"}, store=True, user="me", verbosity="low", max_tokens=1)
    assert "service_tier" not in answer
    assert chat(service_tier="flex", max_tokens=1)["service_tier"] == "default"


# ---- streams ----------------------------------------------------------------------------------

@proves(68, 71, 72, 73, 74, 76, 78, 79)
def a_stream_joins_to_the_whole_answer():
    for fields in ({}, {"thinking": False}, {"messages": WEATHER, "tools": [TOOL]},
                   {"seed": 11, "temperature": 1, "max_tokens": 30}):
        whole = chat(**fields)
        chunks = stream(**fields)
        headers = stream.headers
        assert headers["content-type"] == "text/event-stream; charset=utf-8"
        assert headers["cache-control"] == "no-cache, no-transform"
        assert headers["x-accel-buffering"] == "no" and "content-length" not in headers
        assert headers["transfer-encoding"] == "chunked"
        for key in ("id", "created", "model", "system_fingerprint", "object"):
            assert len({chunk[key] for chunk in chunks}) == 1
        assert chunks[0]["object"] == "chat.completion.chunk"
        assert all("usage" not in chunk and chunk["choices"] for chunk in chunks)
        one, = joined(chunks)
        message = whole["choices"][0]["message"]
        assert (one["delta"].get("content") or "") == (message["content"] or "")
        assert (one["delta"].get("reasoning_content") or "") == message.get("reasoning_content", "")
        assert one["finish"] == whole["choices"][0]["finish_reason"]
        calls, wanted = one["delta"].get("tool_calls", []), message.get("tool_calls", [])
        assert [c["function"] for c in calls] == [c["function"] for c in wanted]


@proves(75, 77)
def usage_comes_last():
    whole = chat()["usage"]
    chunks = stream(stream_options={"include_usage": True})
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"] == whole
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in chunks[:-1])
    chunks = stream(stream_options={"include_usage": True, "continuous_usage_stats": True})
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts) and chunks[-2]["usage"] == chunks[-1]["usage"] == whole


@proves(84)
def errors_before_a_stream_are_json():
    refused("invalid_value", "n", n=0, stream=True)
    refused("model_not_found", "model", status=404, model="x", stream=True)


@proves(86)
def four_choices_interleave():
    four = joined(stream(n=4, temperature=1, seed=5, max_tokens=20))
    whole = chat(n=4, temperature=1, seed=5, max_tokens=20)["choices"]
    assert [c["delta"].get("reasoning_content", "") for c in four] == [
        c["message"]["reasoning_content"] for c in whole]


@proves(82, 83)
def keepalives_flow_while_nothing_is_said():
    slow = {"http__keepalive_interval_s": 0.2, "engine__threads": 1, "sched__chunk_tokens": 8,
            "sched__step_tokens": 8, "sched__max_sequences": 4}
    long = [{"role": "user", "content": "dog " * 3000}]
    status, _, raw = server(**slow).request("POST", CHAT, {
        "messages": long, "stream": True, "max_tokens": 3}, timeout=120)
    assert status == 200
    frames = raw.decode().split("\n\n")
    assert frames[0] == ": keep-alive", frames[0]
    finish = max(i for i, f in enumerate(frames) if '"finish_reason":"' in f)
    assert not any(f.startswith(":") for f in frames[finish:])
    status, _, raw = server().request("POST", CHAT, {"messages": HELLO, "stream": True})
    assert b": keep-alive" not in raw


# ---- sampling, stop, length -------------------------------------------------------------------

@proves(89)
def greedy_is_deterministic():
    wanted = choice()["message"]
    for _ in range(20):
        assert choice()["message"] == wanted
    assert choice(temperature=1.5, top_k=1)["message"] == wanted


@proves(90, 91)
def seeds_are_told_apart():
    def draw(seed):
        return json.dumps(choice(seed=seed, temperature=2, max_tokens=30)["message"])
    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in (1, 2, -1, 9007199254740992, 9007199254740993)}) == 5


@proves(94, 95)
def bias_and_nuclei_choose():
    wanted = choice(thinking=False, max_tokens=4)["message"]
    for fields in ({"top_p": 1e-6}, {"min_p": 1}, {"top_p": 0}):
        assert choice(thinking=False, max_tokens=4, temperature=1, **fields)["message"] == wanted
    x = post("/tokenize", {"prompt": "x", "add_special_tokens": False})["tokens"][0]
    forced = choice(thinking=False, max_tokens=4, logit_bias={str(x): 100})["message"]["content"]
    assert forced == "xxxx", forced
    free = choice(thinking=False, max_tokens=4, return_token_ids=True)
    first = free["token_ids"][0]
    banned = choice(thinking=False, max_tokens=4, return_token_ids=True,
                    logit_bias={str(first): -100})
    assert first not in banned["token_ids"]
    allowed = choice(thinking=False, max_tokens=4, return_token_ids=True, allowed_token_ids=[x])
    assert allowed["token_ids"] == [x] * 4
    assert " Paris" not in choice(bad_words=["Paris"])["message"]["content"]


@proves(98, 99, 100, 101, 103, 105)
def stop_strings_cut_the_answer():
    text = choice(thinking=False)["message"]["content"]
    for begin in range(0, len(text) - 4, 3):
        for length in (1, 2, 4, 9):
            stop = text[begin:begin + length]
            at = text.index(stop)
            one = choice(thinking=False, stop=stop)
            assert one["message"]["content"] == text[:at], (stop, one)
            assert one["finish_reason"] == "stop" and one["stop_reason"] == stop
            assert joined(stream(thinking=False, stop=stop))[0]["delta"]["content"] == text[:at]
    one = choice(thinking=False, stop="Paris", include_stop_str_in_output=True)
    assert one["message"]["content"] == text[:text.index("Paris") + 5]
    near = text[:8] + "\u00ff"
    assert choice(thinking=False, stop=near)["message"]["content"] == text
    both = choice(thinking=False, stop=["apit", "cap", "capit"])
    assert both["stop_reason"] == "capit" and both["message"]["content"] == text[:text.index("cap")]
    reasoning = choice()["message"]["reasoning_content"]
    word = next(w for w in reasoning.split() if w not in text)
    assert choice(stop=word)["message"]["content"] == text
    call = choice(messages=WEATHER, tools=[TOOL], stop="city")
    assert call["finish_reason"] == "tool_calls"


@proves(104)
def the_echo_is_not_searched():
    one = post(LEGACY, {"prompt": "The capital of Italy", "echo": True, "stop": "capital",
                        "temperature": 0, "max_tokens": 3})["choices"][0]
    assert one["text"].startswith("The capital of Italy") and one["finish_reason"] == "length"


@proves(107)
def stop_tokens_end():
    ids = choice(thinking=False, return_token_ids=True)["token_ids"]
    one = choice(thinking=False, stop_token_ids=[ids[3]])
    text = post("/detokenize", {"tokens": ids[:3]})["prompt"]
    assert one["message"]["content"] == text and one["stop_reason"] == ids[3]
    assert one["finish_reason"] == "stop"


@proves(108, 109, 110, 111, 112)
def lengths_are_kept():
    for fields in ({"min_tokens": 40}, {"ignore_eos": True, "max_tokens": 40}):
        answer = chat(thinking=False, **fields)
        assert answer["usage"]["completion_tokens"] >= 40
    assert answer["choices"][0]["finish_reason"] == "length"
    refused("invalid_value", "min_tokens", min_tokens=5, max_tokens=4)
    one = chat(max_tokens=9, max_completion_tokens=1)
    assert one["usage"]["completion_tokens"] == 1
    assert one["choices"][0]["finish_reason"] == "length"
    assert one["choices"][0]["message"]["content"] == ""
    assert one["choices"][0]["message"]["reasoning_content"]
    refused("invalid_value", "max_tokens", max_tokens=0)


# ---- log probabilities and usage ---------------------------------------------------------------

@proves(114, 116, 117, 118, 119)
def log_probabilities_fit_the_text():
    def entries(**fields):
        one = choice(logprobs=True, top_logprobs=5, **fields)
        return one["message"], one["logprobs"]["content"]
    message, wanted = entries()
    assert b"".join(bytes(e["bytes"]) for e in wanted) == message["content"].encode()
    for entry in wanted:
        odds = [top["logprob"] for top in entry["top_logprobs"]]
        assert len(odds) == 5 and odds == sorted(odds, reverse=True) and odds[0] <= 0
        assert sum(math.exp(o) for o in odds) <= 1.0001
        assert {"token": entry["token"], "logprob": entry["logprob"], "bytes": entry["bytes"]} \
            in entry["top_logprobs"]
    assert b"NaN" not in post.raw and b"Infinity" not in post.raw
    assert entries(temperature=1.7, top_k=1)[1] == wanted
    assert joined(stream(logprobs=True, top_logprobs=5))[0]["logprobs"] == wanted
    stopped = choice(logprobs=True, thinking=False, stop="Paris")
    shown = b"".join(bytes(e["bytes"]) for e in stopped["logprobs"]["content"])
    assert shown.decode().startswith(stopped["message"]["content"])
    assert stopped["logprobs"]["content"][0]["top_logprobs"] == []


@proves(120)
def usage_adds_up():
    usage = chat()["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_cache_hit_tokens"] + usage["prompt_cache_miss_tokens"] == \
        usage["prompt_tokens"]
    assert usage["prompt_cache_hit_tokens"] <= usage["prompt_tokens"] - 1
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_cache_hit_tokens"]


# ---- tools ------------------------------------------------------------------------------------

@proves(125, 127)
def a_call_is_parsed():
    one = choice(messages=WEATHER, tools=[TOOL])
    assert one["finish_reason"] == "tool_calls"
    call, = one["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}
    assert re.fullmatch(r"call_[0-9A-Za-z]{24}", call["id"])
    assert "DSML" not in json.dumps(one)
    deltas = [part["delta"]["tool_calls"] for chunk in stream(messages=WEATHER, tools=[TOOL])
              for part in chunk["choices"] if "tool_calls" in part["delta"]]
    first, rest = deltas[0], deltas[1:]
    assert list(first[0]) == ["index", "id", "type", "function"]
    assert first[0]["function"] == {"name": "get_weather", "arguments": ""}
    for delta in rest:
        assert list(delta[0]) == ["index", "function"] and list(delta[0]["function"]) == ["arguments"]
    assert "".join(d[0]["function"]["arguments"] for d in rest) == call["function"]["arguments"]


@proves(137)
def a_cut_call_keeps_its_part():
    whole = chat(messages=WEATHER, tools=[TOOL])["usage"]["completion_tokens"]
    cut = chat(messages=WEATHER, tools=[TOOL], max_tokens=whole - 12)
    assert cut["choices"][0]["finish_reason"] == "length"
    assert "DSML" not in json.dumps(cut)
    joined(stream(messages=WEATHER, tools=[TOOL], max_tokens=whole - 12))


@proves(131)
def choices_of_tools_are_checked():
    refused("invalid_value", "tool_choice", tool_choice="required")
    refused("invalid_value", "tool_choice.function.name", tools=[TOOL],
            tool_choice={"type": "function", "function": {"name": "other"}})
    one = choice(messages=WEATHER, tools=[TOOL], tool_choice="none")
    assert "tool_calls" not in one["message"] and "DSML" not in json.dumps(one)
    assert count_of(WEATHER, tools=[TOOL]) == count_of(WEATHER, tools=[TOOL], tool_choice="none")


# ---- completions ------------------------------------------------------------------------------

@proves(151, 152)
def prompts_come_in_four_kinds():
    ids = post("/tokenize", {"prompt": "The capital of Italy"})["tokens"]
    texts = set()
    for prompt in ("The capital of Italy", ids):
        answer = post(LEGACY, {"prompt": prompt, "temperature": 0, "ignore_eos": True})
        assert answer["object"] == "text_completion"
        assert re.fullmatch(r"cmpl-[0-9a-f]{32}", answer["id"])
        assert answer["usage"]["completion_tokens"] == 16
        texts.add(answer["choices"][0]["text"])
    assert len(texts) == 1
    for prompt in (["a", "The capital of Italy"], [ids[:2], ids]):
        answer = post(LEGACY, {"prompt": prompt, "n": 2, "temperature": 0, "ignore_eos": True})
        assert [c["index"] for c in answer["choices"]] == [0, 1, 2, 3]
        assert {c["text"] for c in answer["choices"][2:]} == texts


@proves(153, 154)
def a_prompt_is_scored():
    one = post(LEGACY, {"prompt": "a\U0001f600b c", "echo": True, "max_tokens": 0, "logprobs": 1})
    assert one["usage"]["completion_tokens"] == 0
    one = one["choices"][0]
    assert one["text"] == "a\U0001f600b c" and one["finish_reason"] == "length"
    lists = one["logprobs"]
    assert list(lists) == ["text_offset", "token_logprobs", "tokens", "top_logprobs"]
    assert len({len(values) for values in lists.values()}) == 1
    assert lists["token_logprobs"][0] is None and lists["top_logprobs"][0] is None
    assert all(value <= 0 for value in lists["token_logprobs"][1:])
    assert lists["text_offset"][-1] == 3 and lists["text_offset"][:3] == [0, 0, 1]
    scored = post(LEGACY, {"prompt": "a\U0001f600b c", "max_tokens": 1, "prompt_logprobs": 1})
    odds = scored["choices"][0]["prompt_logprobs"]
    assert odds[0] is None and len(odds) == len(lists["tokens"])


@proves(155)
def the_best_are_returned():
    body = {"prompt": "The", "max_tokens": 8, "temperature": 1.5, "seed": 4}
    all_four = post(LEGACY, dict(body, n=4, logprobs=0))["choices"]
    means = {c["text"]: sum(c["logprobs"]["token_logprobs"]) / len(c["logprobs"]["token_logprobs"])
             for c in all_four}
    best = post(LEGACY, dict(body, n=2, best_of=4))
    assert len(best["choices"]) == 2
    if all(c["finish_reason"] == "length" for c in all_four):
        wanted = sorted(means, key=means.get, reverse=True)[:2]
        assert [c["text"] for c in best["choices"]] == wanted
    refused("invalid_value", "best_of", path=LEGACY, n=3, best_of=2)
    refused("invalid_value", "best_of", path=LEGACY, best_of=2, stream=True)


@proves(156)
def a_suffix_makes_the_middle():
    answer = post(LEGACY, {"prompt": "a", "suffix": "c", "max_tokens": 4})
    assert answer["usage"]["prompt_tokens"] == 6
    refused("invalid_value", "suffix", path=LEGACY, prompt=[5], suffix="c")
    refused("invalid_value", "suffix", path=LEGACY, suffix="c", echo=True)


@proves(157)
def completions_stream():
    fields = {"prompt": "The capital of Italy", "max_tokens": 6}
    whole = post(LEGACY, dict(fields, temperature=0))["choices"][0]
    chunks = stream(path=LEGACY, **fields)
    parts = [chunk["choices"][0] for chunk in chunks]
    assert "".join(part["text"] for part in parts) == whole["text"]
    assert parts[-1]["text"] == "" and parts[-1]["finish_reason"] == whole["finish_reason"]
    assert all("role" not in part and "delta" not in part for part in parts)
    assert stream(path=LEGACY, echo=True, **fields)[0]["choices"][0]["text"] == fields["prompt"]


@proves(158)
def completions_are_checked():
    refused("invalid_value", "prompt", path=LEGACY, prompt=[4096])
    refused("invalid_value", "prompt", path=LEGACY, prompt=[])
    refused("invalid_value", "prompt", path=LEGACY, prompt=[[]])
    refused("missing_required_parameter", "prompt", path=LEGACY, prompt=None)
    refused("invalid_value", "max_tokens", path=LEGACY, max_tokens=0)
    refused("unsupported_parameter", "tools", path=LEGACY, tools=[TOOL])


# ---- models -----------------------------------------------------------------------------------

@proves(189)
def models_are_listed():
    listed = json.loads(server().request("GET", "/v1/models")[2])
    assert listed["object"] == "list" and listed["data"][0]["id"] == "model"
    for name in ("model", FIRST):
        assert json.loads(server().request("GET", "/v1/models/" + name)[2]) == listed["data"][0]
    status, _, raw = server().request("GET", "/v1/models/a%2Fb")
    assert status == 404 and error_of(raw)["message"].startswith("The model `a/b` does not exist")
    other = json.loads(server().request("GET", "/v1/models", headers={
        "anthropic-version": "2023-06-01"})[2])
    assert other["data"][0]["type"] == "model" and other["has_more"] is False
    assert other["first_id"] == other["last_id"] == "model"


@proves(44)
def tokenizing_is_checked():
    for path, body, code, param in [
            ("/tokenize", {}, "missing_required_parameter", "prompt"),
            ("/tokenize", {"prompt": 5}, "invalid_type", "prompt"),
            ("/tokenize", {"prompt": "a", "messages": HELLO}, "invalid_value", "prompt"),
            ("/detokenize", {}, "missing_required_parameter", "tokens"),
            ("/detokenize", {"tokens": [4096]}, "invalid_value", "tokens"),
            ("/detokenize", {"tokens": ["a"]}, "invalid_type", "tokens")]:
        error = error_of(json.dumps(post(path, body, 400)))
        assert error["code"] == code and error["param"] == param, (path, body, error)
    whole = post("/v1/tokenize", {"messages": HELLO, "return_prompt": True,
                                  "return_token_strs": True})
    assert "".join(whole["token_strs"]) == whole["prompt"]


# ---- the end ----------------------------------------------------------------------------------

@proves(207)
def a_client_that_leaves_frees_its_place():
    body = json.dumps({"messages": HELLO, "ignore_eos": True, "max_tokens": 8000}).encode()
    head = ("POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            "Content-Length: %d\r\n\r\n" % (CHAT, len(body))).encode()
    sock = server().connect()
    sock.sendall(head + body)
    until = time.monotonic() + 10
    while server().metric('fathom:num_requests_running{model_name="model",engine="0"}') < 1:
        assert time.monotonic() < until
    sock.close()
    until = time.monotonic() + 3
    while server().metric('fathom:num_requests_running{model_name="model",engine="0"}') > 0:
        assert time.monotonic() < until, "the request still runs"


@proves(211)
def a_request_that_takes_too_long_ends():
    hasty = {"limits__request_timeout_s": 0.5}
    endless = {"messages": HELLO, "ignore_eos": True, "max_tokens": 8000, "temperature": 0}
    status, _, raw = server(**hasty).request("POST", CHAT, endless)
    error = error_of(raw)
    assert status == 504 and error["code"] == "timeout" and error["type"] == "server_error"
    status, _, raw = server(**hasty).request("POST", CHAT, dict(endless, stream=True))
    frames = raw.decode().split("\n\n")
    assert status == 200 and frames[-2:] == ["data: [DONE]", ""]
    error = error_of(frames[-3][6:])
    assert error["code"] == "timeout" and error["param"] is None
    assert '"finish_reason":"' not in raw.decode()


def every_statement_is_in_the_readme():
    place = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "daemon",
                         "README.md")
    text = open(place, encoding="utf-8").read()
    listed = re.search(r"Proved by `tests/e2e/test_api_conformance.py`: ([0-9, \n]+)\.", text)
    numbers = {int(n) for n in re.findall(r"\d+", listed.group(1))}
    proved = {n for statements, _ in CASES for n in statements}
    assert numbers == proved, (sorted(numbers - proved), sorted(proved - numbers))


def the_servers_stop():
    for one in servers.values():
        assert one.stop() == 0, one.lines[-5:]


if "--statements" in sys.argv:
    print(", ".join(str(n) for n in sorted({n for s, _ in CASES for n in s})))
    sys.exit(0)
main([function for _, function in CASES] + [every_statement_is_in_the_readme, the_servers_stop])
