#!/usr/bin/env python3
"""The official openai client for Python: what its users do first."""
import asyncio
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from clients import python_client

python_client()
import openai

from server import Server, main

CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER = [{"role": "user", "content": "What is the weather in Paris?"}]
TOOLS = [{"type": "function", "function": {
    "name": "get_weather", "description": "Weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}},
                   "required": ["city"]}}}]
shared = None


def base_url():
    global shared
    if shared is None:
        shared = Server()
    return "http://127.0.0.1:%d/v1" % shared.port


def client(**more):
    return openai.OpenAI(base_url=base_url(), api_key="any", **more)


def ask(**more):
    return dict({"model": "model", "messages": CAPITAL, "temperature": 0}, **more)


def models_are_listed():
    names = [model.id for model in client().models.list()]
    assert names == ["model"], names
    assert client().models.retrieve("deepseek-chat").id == "model"


def a_chat_is_answered():
    answer = client().chat.completions.create(**ask())
    message = answer.choices[0].message
    assert "Paris" in message.content, message
    assert message.role == "assistant" and message.refusal is None
    assert message.reasoning_content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0


def a_streamed_chat_is_the_same():
    whole = client().chat.completions.create(**ask())
    content = reasoning = ""
    usage = None
    reasons = []
    for chunk in client().chat.completions.create(
            **ask(stream=True, stream_options={"include_usage": True})):
        assert chunk.system_fingerprint == whole.system_fingerprint
        if chunk.usage is not None:
            usage = chunk.usage
        for choice in chunk.choices:
            content += choice.delta.content or ""
            reasoning += getattr(choice.delta, "reasoning_content", None) or ""
            if choice.finish_reason is not None:
                reasons.append(choice.finish_reason)
    assert content == whole.choices[0].message.content
    assert reasoning == whole.choices[0].message.reasoning_content
    assert reasons == ["stop"]
    assert usage == whole.usage, (usage, whole.usage)


def the_accumulator_of_the_client_takes_the_stream():
    with client().chat.completions.stream(**ask(n=2)) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds, kinds
    assert [c.index for c in final.choices] == [0, 1]
    for choice in final.choices:
        assert choice.message.role == "assistant"
        assert "Paris" in choice.message.content


def the_asynchronous_client_works():
    async def both():
        async with openai.AsyncOpenAI(base_url=base_url(), api_key="any") as one:
            whole = await one.chat.completions.create(**ask())
            text = ""
            async for chunk in await one.chat.completions.create(**ask(stream=True)):
                text += chunk.choices[0].delta.content or ""
            many = await asyncio.gather(*[
                one.chat.completions.create(**ask(max_tokens=20 + i)) for i in range(8)])
            return whole, text, many
    whole, text, many = asyncio.run(both())
    assert "Paris" in whole.choices[0].message.content
    assert text == whole.choices[0].message.content
    assert len(many) == 8


def a_tool_loop_ends_in_a_sentence():
    messages = list(WEATHER)
    answer = client().chat.completions.create(**ask(messages=messages, tools=TOOLS))
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls", choice
    call = choice.message.tool_calls[0]
    assert call.type == "function" and call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    assert call.id.startswith("call_") and len(call.id) == 29
    messages += [choice.message,
                 {"role": "tool", "tool_call_id": call.id, "content": "{\"weather\": \"sunny\"}"}]
    final = client().chat.completions.create(**ask(messages=messages, tools=TOOLS))
    assert final.choices[0].finish_reason == "stop", final
    assert "Paris" in final.choices[0].message.content, final
    assert final.choices[0].message.content.strip().endswith("."), final


def a_streamed_tool_call_is_joined_by_the_client():
    with client().chat.completions.stream(**ask(messages=WEATHER, tools=TOOLS)) as stream:
        done = [e for e in stream if e.type == "tool_calls.function.arguments.done"]
        final = stream.get_final_completion()
    assert len(done) == 1 and done[0].name == "get_weather"
    call = final.choices[0].message.tool_calls[0]
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    assert final.choices[0].finish_reason == "tool_calls"


def log_probabilities_are_typed():
    answer = client().chat.completions.create(
        **ask(logprobs=True, top_logprobs=3, extra_body={"thinking": False}))
    entries = answer.choices[0].logprobs.content
    text = b"".join(bytes(entry.bytes) for entry in entries).decode()
    assert text == answer.choices[0].message.content
    for entry in entries:
        assert len(entry.top_logprobs) == 3
        odds = [top.logprob for top in entry.top_logprobs]
        assert odds == sorted(odds, reverse=True) and odds[0] <= 0


def legacy_completions_work():
    one = client().completions.create(model="model", prompt="The capital of Italy", max_tokens=8,
                                      temperature=0, echo=True, logprobs=1)
    assert one.choices[0].text.startswith("The capital of Italy")
    assert one.choices[0].logprobs.token_logprobs[0] is None
    text = ""
    for chunk in client().completions.create(model="model", prompt="The capital of Italy",
                                             max_tokens=8, temperature=0, stream=True):
        text += chunk.choices[0].text
    assert "The capital of Italy" + text == one.choices[0].text


def errors_have_their_classes():
    for fields, kind, code in [
            ({"model": "x"}, openai.NotFoundError, "model_not_found"),
            ({"temperature": 3}, openai.BadRequestError, "invalid_value"),
            ({"messages": []}, openai.BadRequestError, "invalid_value")]:
        for stream in (False, True):
            try:
                client(max_retries=0).chat.completions.create(**ask(stream=stream, **fields))
            except kind as error:
                assert error.code == code, error
                assert error.request_id.startswith("req_")
            else:
                raise AssertionError("no error for %s" % fields)


def the_server_stops():
    assert shared.stop() == 0


main([models_are_listed, a_chat_is_answered, a_streamed_chat_is_the_same,
      the_accumulator_of_the_client_takes_the_stream, the_asynchronous_client_works,
      a_tool_loop_ends_in_a_sentence, a_streamed_tool_call_is_joined_by_the_client,
      log_probabilities_are_typed, legacy_completions_work, errors_have_their_classes,
      the_server_stops])
