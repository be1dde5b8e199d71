#!/usr/bin/env python3
"""Eight different requests at a time give, each, exactly the bytes that they give alone: greedy and
seeded, streamed and not, with any chunk size and any number of threads."""
import json
import os
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from server import IS_SANITIZED, Server, main

LONG = "The quick brown fox jumps over the lazy dog. " * 12
TOOLS = [{"type": "function", "function": {
    "name": "get_weather", "description": "Weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}]
ASKED = [
    {"messages": [{"role": "user", "content": "What is the capital of France?"}]},
    {"messages": [{"role": "user", "content": "Tell me a story about a fox."}], "temperature": 0.9,
     "seed": 7, "max_tokens": 60},
    {"messages": [{"role": "user", "content": LONG + "What is the capital of Peru?"}],
     "thinking": False},
    {"messages": [{"role": "user", "content": "What is the weather in Paris?"}], "tools": TOOLS},
    {"messages": [{"role": "user", "content": "What is the opposite of hot?"}], "temperature": 1.3,
     "top_p": 0.9, "seed": 9007199254740993, "logprobs": True, "top_logprobs": 5},
    {"messages": [{"role": "user", "content": "Hello"}], "n": 3, "seed": 3, "temperature": 1,
     "max_tokens": 24},
    {"messages": [{"role": "user", "content": LONG * 3 + "Tell me a story."}], "temperature": 0.7,
     "seed": -5, "max_tokens": 40, "frequency_penalty": 0.5, "repetition_penalty": 1.1},
    {"messages": [{"role": "user", "content": "What sound does a cow make?"}], "stop": ["oo"],
     "logit_bias": {"97": 2}},
]
for one in ASKED:
    one.setdefault("temperature", 0)


def scrubbed(body):
    """What must not differ: all but ids and time."""
    answer = json.loads(body)
    answer["id"] = answer["created"] = None
    for choice in answer["choices"]:
        for call in choice["message"].get("tool_calls", []):
            call["id"] = None
    return json.dumps(answer)


def joined(body):
    """The strings of a stream, choice by choice."""
    choices = {}
    for line in body.decode().split("\n"):
        if not line.startswith("data: {"):
            continue
        for choice in json.loads(line[6:])["choices"]:
            parts = choices.setdefault(choice["index"], ["", "", "", ""])
            delta = choice["delta"]
            parts[0] += delta.get("reasoning_content") or ""
            parts[1] += delta.get("content") or ""
            for call in delta.get("tool_calls", []):
                parts[2] += call["function"].get("name", "") + call["function"]["arguments"]
            parts[3] += choice["finish_reason"] or ""
    return choices


def strings(body):
    """The same of an answer in one piece."""
    choices = {}
    for choice in json.loads(body)["choices"]:
        message = choice["message"]
        calls = "".join(c["function"]["name"] + c["function"]["arguments"]
                        for c in message.get("tool_calls", []))
        choices[choice["index"]] = [message.get("reasoning_content") or "",
                                    message["content"] or "", calls, choice["finish_reason"]]
    return choices


def ask(server, request):
    status, _, body = server.request("POST", "/v1/chat/completions", request, timeout=280)
    assert status == 200, body
    return body


def together(server, requests):
    answers = [None] * len(requests)

    def one(index):
        answers[index] = ask(server, requests[index])
    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


alone = {}


def reference():
    if not alone:
        with Server(engine__threads=1) as server:
            for index, request in enumerate(ASKED):
                alone[index] = ask(server, request)
    return alone


def check(**settings):
    wanted = reference()
    with Server(**settings) as server:
        for _ in range(2):
            for index, body in enumerate(together(server, ASKED)):
                assert scrubbed(body) == scrubbed(wanted[index]), (
                    "request %d with %s:\n%s\n%s" % (index, settings, body, wanted[index]))
        streams = together(server, [dict(request, stream=True) for request in ASKED])
        for index, body in enumerate(streams):
            assert joined(body) == strings(wanted[index]), (
                "stream %d with %s:\n%s\n%s" % (index, settings, joined(body),
                                                 strings(wanted[index])))


def eight_at_a_time_are_as_alone():
    check(engine__threads=1)


def threads_do_not_matter():
    check(engine__threads=2)


def chunk_sizes_do_not_matter():
    for chunk in ([64] if IS_SANITIZED else [1, 7, 64]):
        check(engine__threads=2, sched__chunk_tokens=chunk)


def steps_and_places_do_not_matter():
    check(engine__threads=2, sched__step_tokens=24, sched__chunk_tokens=16, sched__max_sequences=5)


def a_request_alone_is_the_same_twice():
    wanted = reference()
    with Server() as server:
        for index, request in enumerate(ASKED):
            assert scrubbed(ask(server, request)) == scrubbed(wanted[index])


main([eight_at_a_time_are_as_alone, threads_do_not_matter, chunk_sizes_do_not_matter,
      steps_and_places_do_not_matter, a_request_alone_is_the_same_twice])
