/**
 * The client of `pystrands.v1`, without sockets, clocks or timers: events in, actions out.
 *
 * `now` is of any steady clock, in seconds. After each event the driver looks at `deadline`, and calls `tick` then. Of a
 * WebSocket that the core has closed or abandoned, the driver tells nothing more. The same transcripts hold this core
 * and the one in Python.
 */

import { Presence } from "./presence.js";
import type { Member } from "./presence.js";
import { Refresh } from "./refresh.js";
import { Joins, NOBODYS } from "./joins.js";
import type { Answer, Stored } from "./joins.js";

export type Data = string | Uint8Array;

export type Action =
  | { do: "token" }
  | { do: "dial"; subprotocols: string[] }
  | { do: "write"; frame: Data }
  | { do: "close"; code: number; reason: string }
  | { do: "abandon" }
  | { do: "deliver"; body: Data; room: string | null; number: number | null; replayed: boolean }
  | { do: "replied"; ident: number; body: Data; number: number | null }
  | { do: "ask"; body: Data; number: number }
  | { do: "joined"; room: string }
  | { do: "history"; ident: number; room: string; messages: Stored[]; complete: boolean }
  | { do: "gap"; room: string }
  | { do: "left"; room: string; why: string }
  | { do: "signal"; room: string; name: string; sender: string; body: Data }
  | { do: "presence"; room: string; joined: Member[]; left: Member[]; updated: Member[] }
  | { do: "settle"; ident: number; code: string; text: string }
  | { do: "state"; state: State; code: number; reason: string; retry_in: number }
  | { do: "resumed"; resumed: boolean; replayed: number; gaps: (string | null)[] };

export type State = "new" | "connecting" | "open" | "waiting" | "closed";

export interface CoreOptions {
  /** Gives numbers from 0 to 1. */
  random: () => number;
  hasToken?: boolean;
  maxMessages?: number;
  maxBytes?: number;
  firstDelay?: number;
  mostDelay?: number;
  shouldRetry?: (code: number, reason: string) => boolean;
}

export interface SendOptions {
  room?: string | null;
  kind?: string;
  volatile?: boolean | undefined;
  /** Whether it wants a reply: `replied` tells of it, or `settle` why there is none. */
  asks?: boolean;
}

interface Sent {
  /** NOBODYS where nobody is told of it. */
  ident: number;
  body: Data | null;
  room?: string | null;
  kind?: string | undefined;
  asks?: boolean | undefined;
  /** The number of what it answers, and why there is no answer. */
  re?: number;
  err?: { code: string; message: string } | undefined;
  /** What it was called in a session that is lost. */
  name?: string;
  /** Its number; 0 until it is written for the first time. */
  k?: number;
  size: number;
}

interface Header {
  n?: number | null;
  r?: string | null;
  b?: number;
  re?: number;
  err?: { code?: string; message?: string } | null;
  q?: number;
  t?: string;
  done?: number;
  why?: string;
  retry?: [number, number] | null;
  v?: number;
  e?: string;
  from?: string;
  id?: string;
  expires?: number | null;
  h?: number;
}

interface Welcome {
  session: string;
  client: string;
  resumed: boolean;
  n: number;
  epoch: string;
  received?: number;
  done?: number;
  rooms?: string[];
  ping?: number;
  max?: number;
  expires?: number | null;
}

const MAX_HEADER = 8192;
const IN_FLIGHT = 256;
const STABLE = 5;
const WELCOME_WITHIN = 10;
const ANSWER_WITHIN = 10;
const WAKE_ANSWER_WITHIN = 5;
const ACK_MESSAGES = 64;
const ACK_BYTES = 65536;
const ACK_WITHIN = 1;
const EXPIRED = 4401;
const RETRIED = [1001, 1005, 1006, 1008, 1011, 1012, 1013, 1014, 1015, 4408, 4425, 4429];
const HEARTBEAT = "{}";

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const json = JSON.stringify;

/** Split a frame into its header and its body; throws where there can be no header. */
function split(frame: Data): [Record<string, unknown>, Data | null] {
  const end = typeof frame === "string" ? frame.indexOf("\n") : frame.indexOf(10);
  const size = end < 0 ? frame.length : end;
  if (size > MAX_HEADER) throw new Error();
  const head = typeof frame === "string" ? frame.slice(0, size) : decoder.decode(frame.subarray(0, size));
  const header: unknown = JSON.parse(head);
  if (head[0] !== "{") throw new Error();
  return [header as Record<string, unknown>, end < 0 ? null : frame.slice(end + 1)];
}

function join(header: object, body: Data | null): Data {
  const head = json(header);
  if (body === null) return head;
  if (typeof body === "string") return head + "\n" + body;
  const start = encoder.encode(head + "\n");
  const frame = new Uint8Array(start.length + body.length);
  frame.set(start);
  frame.set(body, start.length);
  return frame;
}

const isNumber = Number.isSafeInteger;

/** Throw unless members that are there are as they must be: by type, `?` in front where they may be null. */
function check(header: Record<string, unknown>, types: Record<string, string>, required: string[] = []): void {
  for (const name in types) {
    const value = header[name];
    let type = types[name]!;
    if (value === undefined && !required.includes(name)) continue;
    if (type[0] === "?") {
      if (value === null) continue;
      type = type.slice(1);
    }
    if (type === "int" ? !isNumber(value) : typeof value !== type) throw new Error();
  }
}

function readHeader(header: Record<string, unknown>): Header {
  check(header, {
    n: "?int", r: "?string", b: "int", re: "int", err: "?object", q: "int", t: "string", done: "int", why: "string",
    retry: "?object", v: "int", e: "string", from: "string", id: "string", expires: "?number", h: "int",
  });
  if (header.err) check(header.err as Record<string, unknown>, { code: "string", message: "string" });
  const { n, retry } = header as Header;
  if ((n ?? 0) < 0) throw new Error();
  if (retry && !(Array.isArray(retry) && retry.length === 2 && retry.every((each) => typeof each === "number"))) {
    throw new Error();
  }
  return header as Header;
}

function readWelcome(header: Record<string, unknown>): Welcome {
  check(
    header,
    {
      session: "string", client: "string", resumed: "boolean", n: "int", epoch: "string", received: "int", done: "int",
      rooms: "object", ping: "number", max: "int", expires: "?number",
    },
    ["session", "client", "resumed", "n", "epoch"],
  );
  if (header.rooms !== undefined && !(Array.isArray(header.rooms) && header.rooms.every((each) => typeof each === "string"))) {
    throw new Error();
  }
  return header as unknown as Welcome;
}

/** Read a part of a room's history; throws where it can't be one. */
function readHistory(header: Record<string, unknown>, body: Data | null): Answer {
  const { id, ns = [], sizes = [], bins = [], complete = false, more = false, err } = header as unknown as Answer & {
    ns?: number[]; sizes?: number[]; bins?: number[]; err?: Header["err"];
  };
  const data = typeof body === "string" ? encoder.encode(body) : (body ?? new Uint8Array());
  let at = 0;
  const messages = ns.map((n, index): Stored => {
    const content = data.subarray(at, (at += sizes[index]!));
    if (!isNumber(n) || !(at <= data.length)) throw new Error();
    return [n, bins.includes(index) ? content : decoder.decode(content)];
  });
  return { id, messages, complete, more, code: err ? err.code || "failed" : "", text: err?.message ?? "" };
}

function base64url(text: string): string {
  let binary = "";
  for (const byte of encoder.encode(text)) binary += String.fromCharCode(byte);
  return btoa(binary).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}

const nameOf = (session: string): string => session.split("~", 1)[0]!;

/** What was sent and is not finished: first what is written, then what waits. */
class Outbox {
  #sent: Sent[] = [];
  #waiting: Sent[] = [];
  #k = 0;
  #size = 0;
  constructor(readonly maxMessages: number, readonly maxBytes: number) {}

  get length(): number {
    return this.#sent.length + this.#waiting.length;
  }

  add(message: Sent): boolean {
    if (!message.re && (this.length >= this.maxMessages || this.#size + message.size > this.maxBytes)) return false;
    this.#waiting.push(message);
    this.#size += message.size;
    return true;
  }

  next(): Sent | undefined {
    if (this.#sent.length >= IN_FLIGHT) return undefined;
    const message = this.#waiting.shift();
    if (message) {
      message.k = ++this.#k;
      this.#sent.push(message);
    }
    return message;
  }

  done(k: number): Sent[] {
    let count = 0;
    while (count < this.#sent.length && this.#sent[count]!.k! <= k) this.#size -= this.#sent[count++]!.size;
    return this.#sent.splice(0, count);
  }

  failed(k: number): Sent | undefined {
    return this.#take(this.#sent, (message) => message.k === k);
  }

  withdraw(ident: number): boolean {
    return !!this.#take(this.#waiting, (message) => message.ident === ident && !message.name);
  }

  #take(list: Sent[], is: (message: Sent) => boolean): Sent | undefined {
    const index = list.findIndex(is);
    if (index < 0) return undefined;
    const message = list.splice(index, 1)[0]!;
    this.#size -= message.size;
    return message;
  }

  isJoining(room: string): boolean {
    return [...this.#sent, ...this.#waiting].some((message) => message.kind === "join" && message.room === room);
  }

  putFirst(messages: Sent[]): void {
    this.#waiting.unshift(...messages);
    for (const { size } of messages) this.#size += size;
  }

  after(k: number): Sent[] {
    return this.#sent.filter((message) => message.k! > k);
  }

  lose(name: string): void {
    for (const message of this.#sent) {
      message.name ||= `${name}-${message.k}`;
      message.k = 0;
    }
    const all = this.clear();
    this.#k = 0;
    for (const message of all) {
      if (message.re) continue; // nobody wants the answer any more
      this.#waiting.push(message);
      this.#size += message.size;
    }
  }

  clear(): Sent[] {
    const all = [...this.#sent, ...this.#waiting];
    this.#sent = [];
    this.#waiting = [];
    this.#size = 0;
    return all;
  }
}

function frameOf({ k, kind, asks, re, err, room, name, body }: Sent): Data {
  const header: Record<string, unknown> = { k };
  if (kind) header.t = kind;
  if (asks) header.q = 1;
  if (re) header.re = re;
  if (err) header.err = err;
  if ((room ?? null) !== null) header.r = room;
  if (name) header.id = name;
  return join(header, body);
}

const sizeOf = (body: Data | null): number =>
  body === null ? 0 : typeof body === "string" ? encoder.encode(body).length : body.length;

export class Core {
  state: State = "new";
  /** What `now` has to be added to for seconds since 1970. */
  wallOffset = 0;
  client: string | null = null;
  session: string | null = null;
  epoch = "";
  seen = 0;
  rooms = new Set<string>();
  presence = new Presence();
  max = Infinity;

  #options: CoreOptions;
  #outbox: Outbox;
  #actions: Action[] = [];
  #joins = new Joins((action) => this.#put(action));
  #expires: number | null = null;
  #refresh = new Refresh();
  #attempt = 0;
  #ping = 25;
  #failures = 0;
  #hasRefreshed = false;
  #isWelcome = false;
  #welcomeAt = 0;
  #heardMore = false;
  #bye: [number, number] | null = null;
  #isReplaying = false;
  #replayed = 0;
  #gaps: (string | null)[] = [];
  #done = 0;
  /** What the server has asked in this session, and has no answer. */
  #asked = new Set<number>();
  #unacknowledged = 0;
  #unacknowledgedBytes = 0;
  #heardAt = 0;
  #isProbing = false;
  // The timers: when each is due.
  #welcomeBy = Infinity;
  #answerBy = Infinity;
  #dialAt = Infinity;
  #acknowledgeAt = Infinity;

  constructor(options: CoreOptions) {
    this.#options = options;
    this.#outbox = new Outbox(options.maxMessages ?? 1000, options.maxBytes ?? 4194304);
  }

  /** When `tick` is to be called next. */
  get deadline(): number {
    const probeAt = this.#isWelcome && !this.#isProbing ? this.#heardAt + this.#ping : Infinity;
    return Math.min(this.#welcomeBy, this.#answerBy, this.#dialAt, this.#acknowledgeAt, this.#refresh.at, this.#refresh.by, probeAt);
  }

  #take(): Action[] {
    const actions = this.#actions;
    this.#actions = [];
    return actions;
  }

  #put(...actions: Action[]): void {
    this.#actions.push(...actions);
  }

  #write(frame: Data): void {
    this.#put({ do: "write", frame });
  }

  #settled(ident: number, code = "", text = ""): void {
    this.#put({ do: "settle", ident, code, text });
  }

  #became(state: State, code = 0, reason = "", retry_in = 0): void {
    this.state = state;
    this.#put({ do: "state", state, code, reason, retry_in });
  }

  get #isConnected(): boolean {
    return this.state === "connecting" || this.state === "open";
  }

  // Connecting.

  /** Connect, at first or after it was closed; at once where it waits to do so. */
  start(now: number): Action[] {
    if (!this.#isConnected) this.#beginDial(now);
    return this.#take();
  }

  /** Use this token, which was asked for: dial with it, or show it; null: there is none for now. */
  token(token: string | null, now: number): Action[] {
    if (this.state === "open") {
      const header = token === null ? undefined : this.#refresh.show(now);
      if (token === null) this.#planRefresh(now);
      else if (header) this.#write(join(header, token));
    } else if (this.state === "connecting" && this.#welcomeBy === Infinity) {
      if (token === null) this.#lost(1006, "no token", now);
      else this.#dial(token, now);
    }
    return this.#take();
  }

  #beginDial(now: number): void {
    this.#dialAt = Infinity;
    this.#became("connecting");
    const mayResume =
      this.session !== null &&
      !this.#hasRefreshed &&
      (this.#expires === null || now + this.wallOffset < this.#expires);
    if (this.#options.hasToken && !mayResume) this.#put({ do: "token" });
    else this.#dial(null, now);
  }

  #dial(token: string | null, now: number): void {
    const subprotocols = ["pystrands.v1"];
    if (token !== null) subprotocols.push("token." + base64url(token));
    if (this.session !== null) subprotocols.push(`resume.${this.session}.${++this.#attempt}.${this.seen}`);
    this.#welcomeBy = now + WELCOME_WITHIN;
    this.#put({ do: "dial", subprotocols });
  }

  // What the WebSocket does.

  /** A frame has come. */
  received(frame: Data, now: number): Action[] {
    if (this.#isConnected) {
      this.#heardAt = now;
      try {
        this.#read(frame, now);
      } catch {
        const reason = "a frame could not be read";
        this.#put({ do: "close", code: 4002, reason });
        this.#lost(1006, reason, now);
      }
    }
    return this.#take();
  }

  #read(frame: Data, now: number): void {
    const [members, body] = split(frame);
    const header = readHeader(members);
    if (!this.#isWelcome) {
      if (header.t !== "welcome") throw new Error();
      this.#onWelcome(readWelcome(members), now);
      return;
    }
    this.#heardMore = true;
    if (frame === HEARTBEAT) {
      if (!this.#isProbing) this.#write(HEARTBEAT);
      else {
        this.#isProbing = false;
        this.#answerBy = Infinity;
      }
      return;
    }
    if (this.#isProbing) this.#answerBy = now + ANSWER_WITHIN; // it lives; the answer is still to come
    const n = header.n ?? null;
    if (header.t === "auth") {
      if (this.#refresh.isAnswer(header.id ?? "")) {
        if (!header.err) this.#expires = header.expires ?? null;
        this.#planRefresh(now);
      }
    } else if (n !== null) {
      if (n <= this.seen) return;
      this.seen = n;
      this.#count(header, frame.length, now);
    }
    if (header.t === "history") this.#joins.answered(readHistory(members, body));
    else this.#handle(header, body, n);
  }

  /** The WebSocket was closed, or could not be opened (1006). */
  closed(code: number, reason: string, now: number): Action[] {
    if (this.#isConnected) this.#lost(code, reason, now);
    return this.#take();
  }

  #onWelcome(welcome: Welcome, now: number): void {
    const { session: was, epoch, seen } = this;
    this.#isWelcome = true;
    this.#welcomeAt = now;
    this.#heardMore = false;
    this.#welcomeBy = Infinity;
    this.#isProbing = false;
    this.#bye = null;
    this.session = welcome.session;
    this.client = welcome.client;
    this.epoch = welcome.epoch;
    this.max = welcome.max ?? 1048576;
    this.#ping = welcome.ping ?? 25;
    this.#expires = welcome.expires ?? null;
    const gaps = [null, ...[...this.rooms].filter((room) => !this.#joins.wants(room))];
    this.rooms = new Set(welcome.rooms ?? []);
    this.#became("open");
    this.#done = 0;
    this.#isReplaying = welcome.resumed;
    if (welcome.resumed) this.#done = welcome.done ?? 0;
    else {
      this.seen = welcome.n;
      this.#asked.clear();
      this.#attempt = this.#replayed = 0;
      this.#gaps = [];
      if (was !== null) {
        const again = this.#joins.lost(epoch, seen, (room) => this.#outbox.isJoining(room));
        this.#outbox.lose(nameOf(was));
        this.#outbox.putFirst(
          again.map(({ ident, room, data: body }) => ({ ident, body, room, kind: "join", size: sizeOf(body) })),
        );
        this.#put({ do: "resumed", resumed: false, replayed: 0, gaps });
      }
    }
    this.#acknowledge();
    if (welcome.resumed) for (const message of this.#outbox.after(welcome.received ?? 0)) this.#write(frameOf(message));
    else this.#put(...this.presence.connected(this.rooms, false));
    this.#joins.resumed();
    this.#flush();
    this.#planRefresh(now);
  }

  #planRefresh(now: number): void {
    if (this.#options.hasToken) this.#refresh.plan((this.#expires ?? Infinity) - now - this.wallOffset, now);
  }

  /** Dial again, now or later, or never. */
  #lost(code: number, reason: string, now: number): void {
    if (this.#isWelcome && this.#heardMore && now - this.#welcomeAt >= STABLE) {
      this.#failures = 0;
      this.#hasRefreshed = false;
    }
    this.#rest();
    if (code === EXPIRED && this.#options.hasToken && !this.#hasRefreshed) {
      this.#hasRefreshed = true;
      this.#beginDial(now);
      return;
    }
    const isRetried =
      RETRIED.includes(code) ||
      (code >= 4500 && code <= 4599) ||
      (code >= 3000 && !!this.#options.shouldRetry?.(code, reason));
    if (!isRetried) {
      this.#end(code, reason);
      return;
    }
    const { random, firstDelay = 0.5, mostDelay = 30 } = this.#options;
    const [first, last] = this.#bye ?? [0, Math.min(mostDelay, firstDelay * 2 ** Math.min(this.#failures, 32))];
    const delay = first + random() * (last - first);
    this.#failures++;
    this.#dialAt = now + delay;
    this.#became("waiting", code, reason, delay);
  }

  #rest(): void {
    this.#isWelcome = this.#isProbing = false;
    this.#refresh.rest();
    this.#welcomeBy = this.#answerBy = this.#acknowledgeAt = Infinity;
  }

  #end(code: number, reason: string): void {
    this.session = null;
    this.#asked.clear();
    this.#dialAt = Infinity;
    const text = "the connection is closed";
    for (const { ident } of this.#outbox.clear()) if (ident !== NOBODYS) this.#settled(ident, "closed", text);
    this.#joins.clear("closed", text);
    this.#became("closed", code, reason);
  }

  // Frames.

  #handle({ t = "", r = null, done = -1, re = 0, err, why = "", retry, q = 0, v = 0, e = "", from = "", h = 0 }: Header, body: Data | null, n: number | null) {
    if (t === "joined" && r !== null) {
      this.rooms.add(r);
      this.#put({ do: "joined", room: r });
      if (!this.#isReplaying) this.#put(...this.presence.ask(r));
      const message = re ? this.#outbox.failed(re) : undefined;
      if (message) {
        this.#joins.joined(message.ident, r, n ?? 0, h, this.epoch);
        this.#flush();
      }
    } else if (done >= 0) {
      this.#done = Math.max(this.#done, done);
      if (!this.#isReplaying) this.#settle(false);
    } else if (re) {
      const message = err || body !== null ? this.#outbox.failed(re) : undefined;
      if (message) {
        if (err) this.#failed(message, err.code ?? "", err.message ?? "");
        else this.#put({ do: "replied", ident: message.ident, body: body!, number: n });
        this.#flush();
      }
    } else if (q) {
      if (body !== null && n !== null) {
        this.#asked.add(n);
        this.#put({ do: "ask", body, number: n });
      }
    } else if (t === "left" && r !== null) {
      this.rooms.delete(r);
      if (why) this.#joins.leave(r);
      this.#put({ do: "left", room: r, why }, ...this.presence.left(r));
    } else if (t === "signal" && r !== null && body !== null) {
      this.#put({ do: "signal", room: r, name: e, sender: from, body });
    } else if (t === "presence" && r !== null) {
      this.#put(...this.presence.told(r, v, body));
    } else if (t === "gap") {
      this.#gaps.push(r);
      if (!this.#isReplaying) this.#tellResumed();
    } else if (t === "live") {
      this.#isReplaying = false;
      this.#settle(this.#gaps.includes(null));
      this.#tellResumed();
      this.#put(...this.presence.connected(this.rooms, true));
    } else if (t === "bye") {
      this.#bye = retry ?? null;
    } else if (!t && body !== null) {
      if (this.#isReplaying) this.#replayed++;
      this.#joins.deliver({ do: "deliver", body, room: r, number: n, replayed: false }, r);
    }
  }

  #failed({ ident, kind, room }: Sent, code: string, text: string): void {
    if (kind === "join") this.#joins.refused(ident, room ?? "", code, text);
    else this.#settled(ident, code, text);
  }

  #tellResumed(): void {
    this.#put({ do: "resumed", resumed: true, replayed: this.#replayed, gaps: this.#gaps });
    this.#replayed = 0;
    this.#gaps = [];
  }

  /** Tell of those that are done; after a gap, that one of them was dropped may not have come. */
  #settle(areFailuresLost: boolean): void {
    const finished = this.#outbox.done(this.#done);
    for (const message of finished) {
      const { ident, kind, asks } = message;
      if (kind === "join") this.#failed(message, "unknown", "whether it was let in is not known");
      else if (ident === NOBODYS) continue;
      else if (areFailuresLost || asks) this.#settled(ident, "unknown", "whether it was handled is not known");
      else this.#settled(ident);
    }
    if (finished.length) this.#flush();
  }

  /** Count a frame that the broker keeps for this client alone, and say in time that it is here. */
  #count({ b, r, t }: Header, size: number, now: number): void {
    if (b || ((r ?? null) !== null && !t)) return;
    this.#unacknowledged++;
    this.#unacknowledgedBytes += size;
    if (this.#unacknowledged >= ACK_MESSAGES || this.#unacknowledgedBytes >= ACK_BYTES) this.#acknowledge();
    else if (this.#acknowledgeAt === Infinity) this.#acknowledgeAt = now + ACK_WITHIN;
  }

  #acknowledge(): void {
    this.#unacknowledged = this.#unacknowledgedBytes = 0;
    this.#acknowledgeAt = Infinity;
    this.#write(json({ seen: this.seen }));
  }

  // What the user does.

  /** Send a message, which `settle` will tell of under `ident`; volatile, it is sent now or not at all. */
  send(ident: number, body: Data | null, { room = null, kind, volatile, asks }: SendOptions = {}): Action[] {
    const size = sizeOf(body);
    if (this.state === "closed") this.#settled(ident, "closed", "the connection is closed");
    else if (size > this.max) {
      this.#settled(ident, "too_big", `the message has ${size} bytes, and may have ${this.max}`);
    } else if (volatile) {
      if (this.state === "open") this.#write(join(room === null ? { v: 1 } : { v: 1, r: room }, body));
      this.#settled(ident);
    } else if (!this.#outbox.add({ ident, body, room, kind, asks, size })) {
      this.#settled(ident, "queue_full", "too much waits to be sent");
    } else this.#flush();
    return this.#take();
  }

  /** Be in a room, if the backend allows it, over any number of sessions, until `leave`. */
  join(ident: number, room: string, data: Data | null = null, history = 0): Action[] {
    const actions = this.send(ident, data, { room, kind: "join" });
    if (!actions.some((action) => action.do === "settle")) this.#joins.ask(ident, room, data, history);
    return [...actions, ...this.#take()];
  }

  /** Be in a room no more. */
  leave(ident: number, room: string): Action[] {
    this.#joins.leave(room);
    return [...this.#take(), ...this.send(ident, null, { room, kind: "leave" })];
  }

  /** Read messages of a room that are older than a number, or, where that is 0, the newest. */
  history(ident: number, room: string, limit: number, before = 0): Action[] {
    if (this.state === "closed") this.#settled(ident, "closed", "the connection is closed");
    else this.#joins.history(ident, room, limit, before, this.state === "open");
    return this.#take();
  }

  /**
   * Answer what the server has asked under that number; or, with a `code`, say why there is no answer. Only once, and not
   * when the session was lost meanwhile. An answer that is too long is such a failure.
   */
  answer(number: number, body: Data | null, code = "", text = ""): Action[] {
    if (this.#asked.delete(number)) {
      let size = code ? 0 : sizeOf(body);
      if (size > this.max) {
        code = "too_big";
        text = `an answer may have ${this.max} bytes`;
        size = 0;
      }
      const err = code ? { code, message: text } : undefined;
      this.#outbox.add({ ident: NOBODYS, body: code ? null : body, re: number, err, size });
      this.#flush();
    }
    return this.#take();
  }

  /** Say something to the other members of a room, now or never. */
  signal(room: string, name: string, body: Data): Action[] {
    if (this.state === "open" && this.rooms.has(room) && sizeOf(body) <= this.max) {
      this.#write(join({ t: "signal", r: room, e: name }, body));
    }
    return this.#take();
  }

  /** Keep up to date who is present in a room, whenever the client is in it: `presence` tells. */
  watch(room: string): Action[] {
    return this.presence.want(room, this.state === "open" && !this.#isReplaying && this.rooms.has(room));
  }

  /** Don't send a message, if it was never written; tell whether that is so. */
  withdraw(ident: number): boolean {
    return this.#outbox.withdraw(ident);
  }

  /** End the session. */
  close(): Action[] {
    if (this.state === "open") {
      this.#write('{"t":"bye"}');
      this.#put({ do: "close", code: 1000, reason: "" });
    } else if (this.state === "connecting") this.#put({ do: "abandon" });
    if (this.state !== "closed") {
      this.#rest();
      this.#end(1000, "");
    }
    return this.#take();
  }

  #flush(): void {
    if (this.state !== "open") return;
    for (let message; (message = this.#outbox.next()); ) this.#write(frameOf(message));
  }

  // Time.

  /** The deadline has come. */
  tick(now: number): Action[] {
    if (now >= this.#dialAt) this.#beginDial(now);
    else if (now >= this.#welcomeBy || now >= this.#answerBy) {
      this.#put({ do: "abandon" });
      this.#lost(1006, "no answer", now);
    } else {
      if (now >= this.#acknowledgeAt) this.#acknowledge();
      if (now >= this.#refresh.by) this.#planRefresh(now);
      if (now >= this.#refresh.at) {
        this.#refresh.begin();
        this.#put({ do: "token" });
      }
      if (this.#isWelcome && !this.#isProbing && now >= this.#heardAt + this.#ping) this.#probe(now + ANSWER_WITHIN);
    }
    return this.#take();
  }

  /** The page is shown, time has jumped, or, with `isOnline`, there is a network again. */
  wake(now: number, isOnline = false): Action[] {
    if (this.state === "waiting") {
      if (!isOnline) this.#beginDial(now);
      else this.#dialAt = Math.min(this.#dialAt, now + 0.2 + 0.8 * this.#options.random());
    } else if (this.state === "open") this.#probe(now + WAKE_ANSWER_WITHIN);
    return this.#take();
  }

  #probe(by: number): void {
    this.#answerBy = Math.min(this.#answerBy, by);
    if (this.#isProbing) return;
    this.#isProbing = true;
    this.#write(HEARTBEAT);
  }
}
