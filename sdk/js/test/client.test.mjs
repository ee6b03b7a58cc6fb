// The driver, on sockets that the test opens, closes and speaks for.
import assert from "node:assert/strict";
import { test } from "node:test";
import { SendError, connect } from "../dist/index.js";
import { Socket, last } from "./socket.mjs";

const dial = (options = {}) => {
  const client = connect("http://host/room", { WebSocket: Socket, backoff: { first: 0 }, ...options });
  return [client, last()];
};
const soon = () => new Promise((done) => setTimeout(done, 20));

test("send() is kept when the handler has finished, and else says why", async () => {
  const [client, socket] = dial();
  assert.equal(socket.url, "ws://host/room");
  const sent = [client.send("x"), client.room("a").send({ y: 1 }), client.send(new Uint8Array([255]))];
  socket.welcome();
  await client.ready();
  assert.deepEqual(socket.sent.slice(0, 3), ['{"seen":100}', '{"k":1}\nx', '{"k":2,"r":"a"}\n{"y":1}']);
  assert.deepEqual([...socket.sent[3]], [...new TextEncoder().encode('{"k":3}\n'), 255]);
  socket.say('{"done":1}');
  await sent[0];
  socket.say('{"n":101,"re":2,"err":{"code":"given_up","message":"why"}}');
  await assert.rejects(sent[1], { name: "SendError", code: "given_up", message: "why" });
  client.close();
  await assert.rejects(sent[2], { code: "closed" });
  assert.equal(socket.closed, 1000);
});

test("messages come to the client and to their room, and a listener that throws hinders nobody", async () => {
  const [client, socket] = dial();
  const seen = [];
  globalThis.reportError = () => seen.push("error");
  const off = client.on("message", () => {
    throw new Error("mine");
  });
  client.on("message", (message) => seen.push([message.room, message.text]));
  assert.equal(client.room("a"), client.room("a"));
  client.room("a").on("message", (message) => seen.push(message.json()));
  socket.welcome();
  socket.say('{"n":1000000,"r":"a"}\n[1]');
  socket.say('{"n":1000000,"r":"a"}\n[1]');
  off();
  socket.say(new TextEncoder().encode("{}\n\u00e4").buffer);
  assert.deepEqual(seen, [[1], "error", ["a", "[1]"], [undefined, "\u00e4"]]);
  client.close();
});

test("a socket that closes is replaced, and the session goes on", async () => {
  const [client, socket] = dial();
  const events = [];
  client.on("state", ({ state }) => events.push(state));
  client.on("resumed", (event) => events.push(event));
  client.room("a").on("gap", () => events.push("gap"));
  socket.welcome();
  const sent = client.send("x");
  socket.onclose({ code: 1006, reason: "" });
  await soon();
  assert.deepEqual(last().subprotocols, ["pystrands.v1", "resume.b-1~p.1.100"]);
  last().welcome({ resumed: true, received: 0 });
  assert.deepEqual(last().sent, ['{"seen":100}', '{"k":1}\nx']);
  last().say('{"t":"gap","r":"a"}');
  last().say('{"t":"live"}');
  last().say('{"done":1}');
  await sent;
  assert.deepEqual(events, ["open", "waiting", "connecting", "open", "gap", { resumed: true, replayed: 0, gaps: ["a"] }]);
  client.close();
});

test("tokens are asked for, and what fails there is tried again", async () => {
  let calls = 0;
  const token = async () => {
    if (!calls++) throw new Error("offline");
    return "secret";
  };
  globalThis.reportError = () => undefined;
  const before = Socket.all.length;
  const client = connect("ws://host/", { WebSocket: Socket, backoff: { first: 0 }, token });
  await soon();
  assert.equal(calls, 2);
  assert.equal(Socket.all.length, before + 1);
  assert.deepEqual(last().subprotocols, ["pystrands.v1", "token.c2VjcmV0"]);
  client.close();
});

test("a message can be given up", async () => {
  const [client, socket] = dial();
  const controller = new AbortController();
  const sent = [client.send("x", { timeout: 0.01 }), client.send("y", { signal: controller.signal })];
  controller.abort();
  await assert.rejects(sent[1], { code: "aborted" });
  await assert.rejects(sent[0], { code: "timeout" });
  await assert.rejects(client.send("z", { signal: controller.signal }), { code: "aborted" });
  socket.welcome();
  assert.deepEqual(socket.sent, ['{"seen":100}']);
  await client.send("v", { volatile: true });
  assert.equal(socket.sent[1], '{"v":1}\nv');
  client.close();
});

test("a close that is final says so to all who wait", async () => {
  const [client, socket] = dial();
  const ready = client.ready();
  socket.onclose({ code: 4403, reason: "no" });
  await assert.rejects(ready, { code: "closed", message: "no" });
  await assert.rejects(client.ready(), { code: "closed" });
  client.reconnect();
  last().welcome();
  await client.ready();
  client.close();
});

test("a request has the reply, or says why there is none", async () => {
  const [client, socket] = dial();
  socket.welcome();
  const asked = [client.request("x"), client.room("a").request({ y: 1 }), client.request("z")];
  assert.deepEqual(socket.sent.slice(1), ['{"k":1,"q":1}\nx', '{"k":2,"q":1,"r":"a"}\n{"y":1}', '{"k":3,"q":1}\nz']);
  socket.say('{"n":1000000,"re":1}\n{"b":2}');
  const reply = await asked[0];
  assert.deepEqual([reply.json(), reply.room, reply.time.getTime()], [{ b: 2 }, undefined, 1000]);
  socket.say('{"n":1000001,"re":2,"err":{"code":"not_found","message":"why"}}');
  await assert.rejects(asked[1], { name: "SendError", code: "not_found", message: "why" });
  socket.say('{"done":3}');
  await assert.rejects(asked[2], { code: "unknown" });
  client.close();
});

test("a page answers what it is asked", async () => {
  const [client, socket] = dial();
  const seen = [];
  globalThis.reportError = (error) => seen.push(error.message);
  socket.welcome();
  const answers = async (question, answer) => {
    const off = answer && client.onRequest(answer);
    socket.say(question);
    await soon();
    off?.();
    return socket.sent.at(-1);
  };
  assert.equal(await answers('{"n":101,"q":1}\nx', (message) => message.text + "!"), '{"k":1,"re":101}\nx!');
  assert.equal(await answers('{"n":102,"q":1}\nx', async () => ({ a: 1 })), '{"k":2,"re":102}\n{"a":1}');
  assert.equal(await answers('{"n":103,"q":1}\nx', () => undefined), '{"k":3,"re":103}\n');
  const busy = await answers('{"n":104,"q":1}\nx', () => {
    throw new SendError("busy", "later");
  });
  assert.equal(busy, '{"k":4,"re":104,"err":{"code":"busy","message":"later"}}');
  const failed = await answers('{"n":105,"q":1}\nx', async () => {
    throw new Error("mine");
  });
  assert.equal(failed, '{"k":5,"re":105,"err":{"code":"failed","message":""}}');
  assert.deepEqual(seen, ["mine"]);
  assert.match(await answers('{"n":106,"q":1}\nx'), /"code":"not_supported"/);
  client.close();
});
