// The core does what the transcripts say, as the one in Python does.
import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";
import { Core } from "../dist/core.js";

const folder = new URL("../../../tests/transcripts/", import.meta.url);
const data = (value) => (Array.isArray(value) ? value.map(data) : value instanceof Uint8Array ? { base64: Buffer.from(value).toString("base64") } : value);
const fromData = (value) => (value && value.base64 !== undefined ? new Uint8Array(Buffer.from(value.base64, "base64")) : value);

function happen(core, { now, ...event }) {
  switch (event.event) {
    case "start": return core.start(now);
    case "token": return core.token(event.token, now);
    case "received": return core.received(fromData(event.frame), now);
    case "closed": return core.closed(event.code, event.reason, now);
    case "send": return core.send(event.ident, fromData(event.body), event);
    case "answer": return core.answer(event.number, fromData(event.body), event.code, event.text);
    case "join": return core.join(event.ident, event.room, fromData(event.body), event.history);
    case "leave": return core.leave(event.ident, event.room);
    case "history": return core.history(event.ident, event.room, event.limit, event.before);
    case "withdraw": core.withdraw(event.ident); return [];
    case "signal": return core.signal(event.room, event.name, fromData(event.body));
    case "watch": return core.watch(event.room);
    case "tick": return core.tick(now);
    case "wake": return core.wake(now, event.is_online);
    case "close": return core.close();
  }
  throw new Error(event.event);
}

for (const name of readdirSync(folder).filter((each) => each.endsWith(".json"))) {
  test(`transcript ${name}`, () => {
    const { options, random, steps } = JSON.parse(readFileSync(new URL(name, folder), "utf-8"));
    const core = new Core({
      random: () => random.shift(),
      hasToken: options.has_token,
      maxMessages: options.max_messages,
      maxBytes: options.max_bytes,
    });
    core.wallOffset = options.wall_offset ?? 0;
    steps.forEach((step, index) => {
      const actions = happen(core, step).map((action) =>
        Object.fromEntries(Object.entries(action).map(([key, value]) => [key, data(value)])));
      const where = `step ${index}: ${JSON.stringify(step.event)} at ${step.now}`;
      assert.deepEqual(actions, step.actions, where);
      assert.equal(core.deadline === Infinity ? null : core.deadline, step.deadline, where);
    });
    assert.equal(random.length, 0);
  });
}
