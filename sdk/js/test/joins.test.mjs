// Rooms that a page joins, on sockets that the test speaks for.
import assert from "node:assert/strict";
import { test } from "node:test";
import { connect } from "../dist/index.js";
import { Socket, last } from "./socket.mjs";

const dial = () => {
  const client = connect("http://host/room", { WebSocket: Socket, backoff: { first: 0 } });
  last().welcome();
  last().sent.length = 0;
  return [client, last()];
};
const soon = (milliseconds = 20) => new Promise((done) => setTimeout(done, milliseconds));
const told = (id, ...messages) => {
  const bodies = messages.map(([, body]) => body);
  const header = { t: "history", id, r: "chat", ns: messages.map(([n]) => n), sizes: bodies.map((body) => body.length) };
  return new TextEncoder().encode(JSON.stringify({ ...header, bins: [], complete: true }) + "\n" + bodies.join("")).buffer;
};

test("who has joined goes on with its history, and hears afterwards what came meanwhile", async () => {
  const [client, socket] = dial();
  const room = client.room("chat");
  const joined = room.join({ history: 2, data: { please: 1 } });
  assert.deepEqual(socket.sent, ['{"k":1,"t":"join","r":"chat"}\n{"please":1}']);
  socket.say('{"n":1000001,"t":"joined","r":"chat","re":1,"h":9}');
  assert.equal(socket.sent[1], '{"t":"history","id":"1","r":"chat","limit":2,"before":1000001}');
  socket.say('{"n":1000002,"r":"chat"}\nlive');
  socket.say(told("1", [1000000, "old"]));
  socket.say('{"n":1000003,"r":"chat"}\nlive too');
  const got = (await joined).history.map(({ text, replayed, time }) => [text, replayed, time.getTime()]);
  room.on("message", ({ text, replayed }) => got.push([text, replayed]));
  await soon();
  assert.deepEqual(got, [["old", true, 1000], ["live", false], ["live too", false]]);
  const older = room.history({ limit: 5, before: (await joined).history[0] });
  assert.equal(socket.sent.at(-1), '{"t":"history","id":"2","r":"chat","limit":5,"before":1000000}');
  socket.say(told("2", [999999, "older"]));
  assert.deepEqual((await older).messages.map(({ text }) => text), ["older"]);
  client.close();
});

test("joins are counted, and the last leave waits a second", async () => {
  const [client, socket] = dial();
  const room = client.room("chat");
  const joins = [room.join(), room.join({ history: 3 })];
  assert.equal(socket.sent.length, 1);
  socket.say('{"n":101,"t":"joined","r":"chat","re":1}');
  await joins[0];
  await soon();
  socket.say(told("1", [100, "old"]));
  assert.deepEqual((await joins[1]).history.map(({ text }) => text), ["old"]);
  socket.sent.length = 0;
  await room.leave();
  const leaving = room.leave();
  await soon(500);
  await room.join();
  await leaving;
  await soon(700);
  assert.deepEqual(socket.sent.filter((frame) => frame.includes("k")), []);
  const left = room.leave();
  await soon(1100);
  assert.deepEqual(socket.sent.filter((frame) => frame.includes("k")), ['{"k":2,"t":"leave","r":"chat"}']);
  socket.say('{"done":2}');
  await left;
  await room.leave();
  client.close();
});

test("a refusal rejects, and the next join asks again; who is put out hears why", async () => {
  const [client, socket] = dial();
  const room = client.room("chat");
  const refused = room.join();
  socket.say('{"n":101,"re":1,"err":{"code":"refused","message":"not you"}}');
  await assert.rejects(refused, { code: "refused", message: "not you" });
  const joined = room.join();
  socket.say('{"n":102,"t":"joined","r":"chat","re":2}');
  await joined;
  const events = [];
  room.on("left", ({ why }) => events.push(why));
  await soon();
  socket.say('{"n":103,"t":"left","r":"chat","why":"removed"}');
  assert.deepEqual(events, ["removed"]);
  assert.equal(client.rooms.has("chat"), false);
  const again = room.join();
  assert.equal(socket.sent.at(-1), '{"k":3,"t":"join","r":"chat"}');
  client.close();
  await assert.rejects(again, { code: "closed" });
  await assert.rejects(room.join(), { code: "closed" });
});
