#!/usr/bin/env python3
"""Every recorded vector of the released tokenizer, through HTTP on a model of 129,280 ids."""
import json
import os
import shutil
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from real_vocab import ROOT, make
from server import Server, main

GOLDEN = os.path.join(ROOT, "tests", "golden")
place = tempfile.mkdtemp(prefix="fathom-vocab-")
make(os.path.join(place, "model"))
server = Server(model__path=os.path.join(place, "model"), http__max_json_values=10 ** 7)


def golden(name):
    with open(os.path.join(GOLDEN, name), encoding="utf-8") as file:
        return json.load(file)


def texts():
    """The recorded texts that a request may carry: all without U+0000."""
    cases = [case for case in golden("tokenizer/tokens.json") if "\0" not in case["text"]]
    assert len(cases) >= 200
    return cases


def post(path, body, status=200):
    got, _, raw = server.request("POST", path, body)
    assert got == status, (got, raw[:300])
    return json.loads(raw)


def every_text_has_its_tokens():
    for case in texts():
        wanted = case.get("ids_plain", case["ids"])
        got = post("/tokenize", {"prompt": case["text"], "add_special_tokens": False})
        assert got["tokens"] == wanted, (case["text"][:100], got["tokens"][:20], wanted[:20])
        assert got["count"] == len(wanted)
        with_bos = post("/tokenize", {"prompt": case["text"]})["tokens"]
        assert with_bos == [0] + wanted


def every_token_sequence_has_its_text():
    for case in golden("tokenizer/decode.json"):
        assert post("/detokenize", {"tokens": case["ids"]})["prompt"] == case["text"]
    for case in texts():
        ids = case.get("ids_plain", case["ids"])
        assert post("/detokenize", {"tokens": ids})["prompt"] == case["text"]
    assert "no token has the id 129280" in post("/detokenize", {"tokens": [129280]}, 400)[
        "error"]["message"]


def operators_may_let_names_become_tokens():
    with Server(model__path=os.path.join(place, "model"), api__parse_special="true") as one:
        for case in texts() + golden("tokenizer/chat_tokens.json"):
            status, _, raw = one.request("POST", "/tokenize", {
                "prompt": case["text"], "add_special_tokens": False})
            assert status == 200 and json.loads(raw)["tokens"] == case["ids"], (case, raw)


def as_api(messages):
    """A recorded conversation as a client would send it, or None where no client can."""
    sent = []
    for message in messages:
        if message["role"] not in ("system", "user", "assistant", "tool", "latest_reminder"):
            return None
        if set(message) - {"role", "content", "reasoning_content", "tool_calls", "tool_call_id",
                           "tools", "task"}:
            return None
        if message["role"] == "user" and message.get("content") is None:
            return None
        sent.append({k: v for k, v in message.items() if k != "tools"})
    return sent


def recorded_conversations_render_the_same():
    compared = 0
    for case in golden("encoding/cases.json"):
        if not isinstance(case.get("expected"), str) or "messages" not in case:
            continue
        messages = case["messages"]
        tools = messages[0].get("tools") if messages else None
        if any(m.get("tools") for m in messages[1:]) or not case.get("drop_thinking", True):
            continue
        if messages[0]["role"] != "system" and tools:
            continue
        sent = as_api(messages)
        if sent is None or sent[-1]["role"] not in ("user", "tool") or case.get("context"):
            continue
        if case.get("reasoning_effort") or "options" in case or not sent[0].get("content", "x"):
            continue
        body = {"messages": sent, "thinking": case["thinking_mode"] == "thinking",
                "return_prompt": True}
        if tools:
            body["tools"] = tools
        status, _, raw = server.request("POST", "/tokenize", body)
        if status == 400:
            continue
        got = json.loads(raw)
        assert got["prompt"] == case["expected"], (case["name"], got["prompt"], case["expected"])
        compared += 1
    assert compared >= 15, compared


def the_model_answers():
    answer = post("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}],
                                           "max_tokens": 4, "temperature": 0})
    assert answer["usage"]["completion_tokens"] == 4
    models = json.loads(server.request("GET", "/v1/models")[2])
    assert models["data"][0]["capabilities"]["fim"] is True
    high = post("/v1/completions", {"prompt": [129000], "max_tokens": 1}, 200)
    assert high["usage"]["prompt_tokens"] == 1


def the_server_stops():
    status = server.stop()
    shutil.rmtree(place)
    assert status == 0


main([every_text_has_its_tokens, every_token_sequence_has_its_text,
      operators_may_let_names_become_tokens, recorded_conversations_render_the_same,
      the_model_answers, the_server_stops])
