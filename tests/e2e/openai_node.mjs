// What a user of openai for Node does first.  Arguments: base URL, directory of node_modules.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import path from 'node:path';

const [baseURL, place] = process.argv.slice(2);
const require = createRequire(path.join(place, 'package.json'));
const { default: OpenAI } = await import(pathToFileURL(require.resolve('openai')).href);
const client = new OpenAI({ baseURL, apiKey: 'any' });
const capital = [{ role: 'user', content: 'What is the capital of France?' }];
const weather = [{ role: 'user', content: 'What is the weather in Paris?' }];
const parameters = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] };
const tool = { name: 'get_weather', description: 'Weather of a city', parameters };
const tools = [{ type: 'function', function: tool }];
const ask = { model: 'model', temperature: 0 };

const tests = {
  async a_chat_is_answered() {
    const answer = await client.chat.completions.create({ ...ask, messages: capital });
    assert.match(answer.choices[0].message.content, /Paris/);
    assert.equal(answer.choices[0].finish_reason, 'stop');
  },
  async a_streamed_chat_is_the_same() {
    const whole = await client.chat.completions.create({ ...ask, messages: capital });
    const stream = await client.chat.completions.create({ ...ask, messages: capital, stream: true });
    let text = '';
    for await (const chunk of stream) text += chunk.choices[0].delta.content ?? '';
    assert.equal(text, whole.choices[0].message.content);
  },
  async the_stream_helper_joins_the_chunks() {
    const stream = client.chat.completions.stream({ ...ask, messages: capital, n: 2 });
    const final = await stream.finalChatCompletion();
    assert.equal(final.choices.length, 2);
    assert.match(final.choices[1].message.content, /Paris/);
    assert.equal(final.choices[0].message.role, 'assistant');
  },
  async the_tool_helper_runs_the_loop() {
    const asked = [];
    const run = async (args) => { asked.push(args); return '{"weather": "sunny"}'; };
    for (const stream of [false, true]) {
      const runner = client.chat.completions.runTools({
        ...ask, messages: weather, stream,
        tools: [{ type: 'function', function: { ...tool, parse: JSON.parse, function: run } }],
      });
      const text = await runner.finalContent();
      assert.match(text, /Paris/);
    }
    assert.deepEqual(asked, [{ city: 'Paris' }, { city: 'Paris' }]);
  },
  async a_streamed_tool_call_is_joined() {
    const stream = client.chat.completions.stream({ ...ask, messages: weather, tools });
    const final = await stream.finalChatCompletion();
    const call = final.choices[0].message.tool_calls[0];
    assert.deepEqual(JSON.parse(call.function.arguments), { city: 'Paris' });
    assert.equal(final.choices[0].finish_reason, 'tool_calls');
  },
  async errors_are_typed() {
    await assert.rejects(
      client.chat.completions.create({ ...ask, model: 'x', messages: capital }),
      (error) => error instanceof OpenAI.NotFoundError && error.code === 'model_not_found');
  },
};

let passed = 0;
let failed = 0;
for (const [name, test] of Object.entries(tests)) {
  try {
    await test();
    passed++;
  } catch (error) {
    failed++;
    console.log(`FAILED ${name}\n${error.stack}`);
  }
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
