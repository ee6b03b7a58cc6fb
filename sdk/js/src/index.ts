/**
 * PyStrands for browsers: `connect("/room")` gives a connection that loses nothing over a cut.
 *
 * It runs wherever there is a `WebSocket`; what it asks of a page (`document`, `addEventListener`) may be missing.
 */

import { Core } from "./core.js";
import type { Action, Data, State } from "./core.js";
import type { Member } from "./presence.js";

export type { State } from "./core.js";
export type { Member } from "./presence.js";

/** What can be sent: text, bytes, or a value that becomes JSON. */
export type Sendable = string | ArrayBuffer | Uint8Array | object;

/** Takes a listener back. */
export type Off = () => void;

export interface Options {
  /** Gives what shows the backend who this is: its `request.token`. Called for each dial that needs one. */
  token?: () => string | Promise<string>;
  /** How much may wait to be sent; more is refused. */
  queue?: { messages?: number; bytes?: number };
  /** Seconds before a dial: at most `first`, twice as many after each failure, and `most`. */
  backoff?: { first?: number; most?: number };
  /** Whether to dial again after a close whose code, from 3000 on, would be final. */
  shouldRetry?: (closed: { code: number; reason: string }) => boolean;
  /** Makes the sockets, where there is no global one. */
  WebSocket?: typeof WebSocket;
}

export interface SendOptions {
  /** Send it now or never, and keep it nowhere. */
  volatile?: boolean;
  /** Seconds after which the promise is rejected; only a message that was never written is withdrawn. */
  timeout?: number;
  /** The same when this is aborted. */
  signal?: AbortSignal;
}

/** Why a message was not handled: `code` is for programs. */
export class SendError extends Error {
  constructor(readonly code: string, message: string) {
    super(message);
    this.name = "SendError";
  }
}

/** A message that came. */
export class Message {
  readonly #body: Data;
  constructor(
    body: Data,
    /** The room that it was sent to; undefined where it was for this client, or for everyone. */
    readonly room: string | undefined,
    /** When the broker got it. */
    readonly time: Date,
    /** Whether it is of the room's history. */
    readonly replayed = false,
    /** @internal */
    readonly number = 0,
  ) {
    this.#body = body;
  }
  get text(): string {
    return typeof this.#body === "string" ? this.#body : new TextDecoder().decode(this.#body);
  }
  get bytes(): Uint8Array {
    return typeof this.#body === "string" ? new TextEncoder().encode(this.#body) : this.#body;
  }
  json<T = unknown>(): T {
    return JSON.parse(this.text) as T;
  }
}

export interface StateEvent {
  state: State;
  code?: number;
  reason?: string;
  /** Seconds until the next dial. */
  retryIn?: number;
}

export interface ResumedEvent {
  /** Whether it is the same session, so that what was missed has come. */
  resumed: boolean;
  /** How many messages that were. */
  replayed: number;
  /** Rooms in which messages may be missing; null stands for those that are in no room. */
  gaps: (string | null)[];
}

/** How it has changed who is present in a room. */
export interface PresenceEvent {
  joined: Member[];
  left: Member[];
  /** Those of whom something else is told now. */
  updated: Member[];
}

class Listeners {
  #by = new Map<string, Set<(event: never) => void>>();
  on(name: string, listener: (event: never) => void): Off {
    const all = this.#by.get(name) ?? new Set();
    this.#by.set(name, all.add(listener));
    return () => all.delete(listener);
  }
  emit(name: string, event: unknown): void {
    for (const listener of [...(this.#by.get(name) ?? [])]) {
      try {
        listener(event as never);
      } catch (error) {
        reportError(error);
      }
    }
  }
}

/** What answers a question; a `SendError` that it throws says why it does not. */
export type Answer = (message: Message) => Sendable | void | Promise<Sendable | void>;

/** What a listener throws is the page's, and no reason for others not to hear. */
function reportError(error: unknown): void {
  if (typeof globalThis.reportError === "function") globalThis.reportError(error);
  else console.error(error);
}

export interface JoinOptions {
  /** How many older messages are wanted; the backend may allow fewer, or none. */
  history?: number;
  /** What the backend gets with the question. */
  data?: Sendable;
  /** Keep `presence` up to date. */
  presence?: boolean;
}

/** Older messages of a room. */
export interface History {
  /** The oldest first. */
  messages: Message[];
  /** Whether they go back to the first that may be read. */
  complete: boolean;
}

const LINGER = 1000; // milliseconds before the last one who leaves has left: pages leave and join again at once

/** One room, as this client sees it. */
export class Room {
  /** @internal */
  readonly listeners = new Listeners();
  readonly #client: Client;
  #joins = 0;
  #joined: Promise<History> | undefined;
  #stay: (() => void) | undefined;
  constructor(client: Client, readonly id: string) {
    this.#client = client;
  }
  /**
   * Be in the room, if the backend allows it, until as many leave as have joined. Messages that come afterwards are
   * newer than the history.
   */
  async join({ history = 0, data, presence }: JoinOptions = {}): Promise<{ history: Message[] }> {
    if (presence) this.#client.watch(this.id);
    this.#joins++;
    this.#stay?.();
    const before = this.#joined;
    if (before) {
      await before;
      return { history: history ? (await this.history({ limit: history })).messages : [] };
    }
    const joined = (this.#joined = this.#client.joinRoom(this.id, history, data));
    try {
      return { history: (await joined).messages };
    } catch (error) {
      if (this.#joined === joined) this.out();
      throw error;
    }
  }
  /** Leave the room; the last one who has joined it waits a second, and stays if somebody joins meanwhile. */
  async leave(): Promise<void> {
    if (!this.#joined || --this.#joins > 0) return;
    const leaves = await new Promise<boolean>((done) => {
      const timer = setTimeout(() => done(true), LINGER);
      this.#stay = () => {
        clearTimeout(timer);
        done(false);
      };
    });
    this.#stay = undefined;
    if (!leaves) return;
    this.out();
    await this.#client.leaveRoom(this.id);
  }
  /** Read messages that are older than one, or the newest; as many as the backend allows. */
  history({ before, limit }: { before?: Message; limit: number }): Promise<History> {
    return this.#client.readRoom(this.id, limit, before?.number);
  }
  /** @internal The client is not in it any more. */
  out(): void {
    this.#joins = 0;
    this.#joined = undefined;
    this.#stay?.();
  }
  /** Send a message to the backend, as one to this room. */
  send(data: Sendable, options?: SendOptions): Promise<void> {
    return this.#client.sendTo(this.id, data, options) as Promise<void>;
  }
  /** The same with a reply. */
  request(data: Sendable, options?: SendOptions): Promise<Message> {
    return this.#client.sendTo(this.id, data, options, true) as Promise<Message>;
  }
  /** Who is present, by user; the backend says who that is. */
  get presence(): ReadonlyMap<string, Member> {
    return this.#client.watch(this.id);
  }
  /** Say something to the other members, past the backend, which has to allow it; who is not there now misses it. */
  signal(name: string, data: Sendable = ""): void {
    this.#client.signalTo(this.id, name, data);
  }
  on(name: "message", listener: (message: Message) => void): Off;
  /** `from` is the sender's user, or its id where it has none. */
  on(name: "signal", listener: (signal: { name: string; from: string; message: Message }) => void): Off;
  on(name: "gap" | "joined", listener: () => void): Off;
  on(name: "left", listener: (event: { why: string }) => void): Off;
  /** From the first listener on, or the first look at `presence`, it is kept up to date. */
  on(name: "presence", listener: (event: PresenceEvent) => void): Off;
  on(name: string, listener: (event: never) => void): Off {
    if (name === "presence") this.#client.watch(this.id);
    return this.listeners.on(name, listener);
  }
}

const seconds = (): number => performance.now() / 1000;
const LONGEST_TIMER = 2 ** 31 - 1; // ms; what is longer would be over at once
const LATE = 2; // seconds by which a timer is late where the machine has slept

/** A connection to a broker, over any number of WebSockets. */
export class Client {
  readonly #url: string;
  readonly #options: Options;
  readonly #core: Core;
  readonly #listeners = new Listeners();
  readonly #rooms = new Map<string, Room>();
  readonly #waiting = new Map<number, { done: (value?: never) => void; failed: (error: SendError) => void }>();
  #later: Action[] | undefined;
  #answer: Answer | undefined;
  #socket: WebSocket | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #due = Infinity;
  #idents = 0;

  constructor(url: string | URL, options: Options = {}) {
    this.#url = address(url);
    this.#options = options;
    const { queue, backoff, shouldRetry } = options;
    this.#core = new Core({
      random: Math.random,
      hasToken: !!options.token,
      maxMessages: queue?.messages ?? 1000,
      maxBytes: queue?.bytes ?? 4194304,
      firstDelay: backoff?.first ?? 0.5,
      mostDelay: backoff?.most ?? 30,
      shouldRetry: (code, reason) => !!shouldRetry?.({ code, reason }),
    });
    this.#listen();
    this.#do(this.#core.start(this.#now()));
  }

  get state(): State {
    return this.#core.state;
  }

  /** The id that the backend gave this client; null before it was let in. */
  get id(): string | null {
    return this.#core.client;
  }

  /** The rooms that it is in. */
  get rooms(): ReadonlySet<string> {
    return this.#core.rooms;
  }

  /** Send a message; the promise is kept when the backend's handler has finished with it, and else gives `SendError`. */
  send(data: Sendable, options?: SendOptions): Promise<void> {
    return this.sendTo(null, data, options) as Promise<void>;
  }

  /** Send a message that wants a reply, which the promise gives: what the backend's `on_request` returns. */
  request(data: Sendable, options?: SendOptions): Promise<Message> {
    return this.sendTo(null, data, options, true) as Promise<Message>;
  }

  /** Answer what the backend asks; a later call takes the place of this one. */
  onRequest(answer: Answer): Off {
    this.#answer = answer;
    return () => {
      if (this.#answer === answer) this.#answer = undefined;
    };
  }

  /** @internal */
  sendTo(
    room: string | null, data: Sendable, { volatile, ...options }: SendOptions = {}, asks = false,
  ): Promise<Message | void> {
    const how = { room, volatile: volatile && !asks, asks };
    return this.#settled((ident) => this.#core.send(ident, dataOf(data), how), options);
  }

  /** @internal */
  joinRoom(room: string, history: number, data?: Sendable): Promise<History> {
    return this.#settled((ident) => this.#core.join(ident, room, data === undefined ? null : dataOf(data), history));
  }

  /** @internal */
  leaveRoom(room: string): Promise<void> {
    return this.#settled((ident) => this.#core.leave(ident, room));
  }

  /** @internal */
  readRoom(room: string, limit: number, before?: number): Promise<History> {
    return this.#settled((ident) => this.#core.history(ident, room, limit, before));
  }

  #settled<T>(start: (ident: number) => Action[], { timeout, signal }: SendOptions = {}): Promise<T> {
    const ident = ++this.#idents;
    return new Promise((done, failed) => {
      if (signal?.aborted) {
        failed(new SendError("aborted", "it was aborted"));
        return;
      }
      let timer: ReturnType<typeof setTimeout> | undefined;
      const aborted = (): void => giveUp("aborted", "it was aborted");
      const over = (): void => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", aborted);
        this.#waiting.delete(ident);
      };
      const giveUp = (code: string, text: string): void => {
        this.#core.withdraw(ident);
        over();
        failed(new SendError(code, text));
      };
      this.#waiting.set(ident, {
        done: (value) => (over(), done(value as T)),
        failed: (error) => (over(), failed(error)),
      });
      if (timeout !== undefined) timer = setTimeout(() => giveUp("timeout", `not handled in ${timeout} s`), timeout * 1000);
      signal?.addEventListener("abort", aborted);
      this.#do(start(ident));
    });
  }

  /** @internal */
  signalTo(room: string, name: string, data: Sendable): void {
    this.#do(this.#core.signal(room, name, dataOf(data)));
  }

  /** @internal */
  watch(room: string): ReadonlyMap<string, Member> {
    this.#do(this.#core.watch(room));
    return this.#core.presence.members(room);
  }

  /** Return a room: the same object each time. */
  room(id: string): Room {
    let room = this.#rooms.get(id);
    if (!room) this.#rooms.set(id, (room = new Room(this, id)));
    return room;
  }

  on(name: "message", listener: (message: Message) => void): Off;
  on(name: "state", listener: (event: StateEvent) => void): Off;
  on(name: "resumed", listener: (event: ResumedEvent) => void): Off;
  on(name: string, listener: (event: never) => void): Off {
    return this.#listeners.on(name, listener);
  }

  /** Wait until it is open; rejected when it is closed for good. */
  ready(): Promise<void> {
    return new Promise((done, failed) => {
      const look = (event: StateEvent): void => {
        if (event.state === "open") done();
        else if (event.state === "closed") failed(new SendError("closed", event.reason || "the connection is closed"));
        else return;
        off();
      };
      const off = this.on("state", look);
      look({ state: this.state });
    });
  }

  /** Connect now: after a close, or instead of waiting. */
  reconnect(): void {
    this.#do(this.#core.start(this.#now()));
  }

  /** End the session; what was not handled is rejected. */
  close(): void {
    this.#do(this.#core.close());
  }

  #now(): number {
    const now = seconds();
    this.#core.wallOffset = Date.now() / 1000 - now;
    return now;
  }

  #do(actions: Action[]): void {
    for (const action of actions) this.#one(action);
    const due = this.#core.deadline;
    if (due === this.#due) return;
    clearTimeout(this.#timer);
    this.#due = due;
    if (due === Infinity) return;
    this.#timer = setTimeout(() => this.#tick(), Math.min(Math.max(0, due - seconds()) * 1000, LONGEST_TIMER));
  }

  #tick(): void {
    const now = this.#now();
    const slept = now - this.#due > LATE;
    this.#due = Infinity;
    if (slept) this.#do(this.#core.wake(now));
    this.#do(this.#core.tick(now));
  }

  #one(action: Action): void {
    if (this.#later && (action.do === "deliver" || action.do === "left")) {
      this.#later.push(action);
      return;
    }
    switch (action.do) {
      case "token":
        void this.#token();
        break;
      case "dial":
        this.#dial(action.subprotocols);
        break;
      case "write":
        this.#socket?.send(action.frame as string);
        break;
      case "close":
        this.#letGo()?.close(action.code, action.reason);
        break;
      case "abandon":
        this.#letGo()?.close();
        break;
      case "deliver": {
        const { room } = action;
        const message = messageOf(action);
        if (room !== null) this.#rooms.get(room)?.listeners.emit("message", message);
        this.#listeners.emit("message", message);
        break;
      }
      case "replied":
        this.#waiting.get(action.ident)?.done(messageOf(action) as never);
        break;
      case "ask":
        void this.#ask(action.number, messageOf(action));
        break;
      case "joined":
        this.#rooms.get(action.room)?.listeners.emit("joined", undefined);
        break;
      case "left": {
        const room = this.#rooms.get(action.room);
        if (action.why) room?.out();
        room?.listeners.emit("left", { why: action.why });
        break;
      }
      case "history": {
        const { room, messages: all, complete } = action;
        const messages = all.map(([number, body]) => messageOf({ body, room, number, replayed: true }));
        this.#waiting.get(action.ident)?.done({ messages, complete } as never);
        this.#pause();
        break;
      }
      case "gap":
        this.#rooms.get(action.room)?.listeners.emit("gap", undefined);
        break;
      case "signal": {
        const { room, name, sender: from, body } = action;
        this.#rooms.get(room)?.listeners.emit("signal", { name, from, message: messageOf({ body, room, number: null }) });
        break;
      }
      case "presence": {
        const { room, joined, left, updated } = action;
        this.#rooms.get(room)?.listeners.emit("presence", { joined, left, updated });
        break;
      }
      case "settle": {
        const waiting = this.#waiting.get(action.ident);
        if (action.code) waiting?.failed(new SendError(action.code, action.text));
        else waiting?.done();
        break;
      }
      case "state": {
        const { state, code, reason, retry_in: retryIn } = action;
        if (state === "closed") for (const room of this.#rooms.values()) room.out();
        this.#listeners.emit("state", { state, code, reason, retryIn });
        break;
      }
      case "resumed": {
        const { resumed, replayed, gaps } = action;
        for (const room of gaps) if (room !== null) this.#rooms.get(room)?.listeners.emit("gap", undefined);
        this.#listeners.emit("resumed", { resumed, replayed, gaps });
      }
    }
  }

  async #ask(number: number, message: Message): Promise<void> {
    let data: Data | null = null;
    let code = "";
    let text = "";
    if (!this.#answer) {
      code = "not_supported";
      text = "this page answers no requests";
    } else {
      try {
        data = dataOf((await this.#answer(message)) ?? "");
      } catch (error) {
        code = "failed";
        if (error instanceof SendError) ({ code, message: text } = error);
        else reportError(error);
      }
    }
    this.#do(this.#core.answer(number, data, code, text));
  }

  /** Let who has waited for a room go on first, and listen, before messages come. */
  #pause(): void {
    if (this.#later) return;
    this.#later = [];
    setTimeout(() => {
      const later = this.#later ?? [];
      this.#later = undefined;
      for (const action of later) this.#one(action);
    });
  }

  async #token(): Promise<void> {
    let token: string | null = null;
    try {
      token = await this.#options.token!();
    } catch (error) {
      reportError(error);
    }
    this.#do(this.#core.token(token, this.#now()));
  }

  #dial(subprotocols: string[]): void {
    this.#letGo();
    let socket: WebSocket;
    try {
      socket = new (this.#options.WebSocket ?? WebSocket)(this.#url, subprotocols);
    } catch {
      setTimeout(() => this.#do(this.#core.closed(1006, "the address is none", this.#now())));
      return;
    }
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({ data }) => {
      if (this.#socket !== socket) return;
      this.#do(this.#core.received(typeof data === "string" ? data : new Uint8Array(data as ArrayBuffer), this.#now()));
    };
    socket.onclose = ({ code, reason }) => {
      if (this.#socket !== socket) return;
      this.#socket = undefined;
      this.#do(this.#core.closed(code, reason, this.#now()));
    };
  }

  /** Hear no more of the socket, and return it. */
  #letGo(): WebSocket | undefined {
    const socket = this.#socket;
    this.#socket = undefined;
    if (socket) socket.onmessage = socket.onclose = null;
    return socket;
  }

  #listen(): void {
    if (typeof addEventListener !== "function") return;
    const wake = (): void => this.#do(this.#core.wake(this.#now()));
    addEventListener("pageshow", (event) => {
      if ((event as PageTransitionEvent).persisted) wake();
    });
    addEventListener("online", () => this.#do(this.#core.wake(this.#now(), true)));
    if (typeof document !== "undefined") {
      document.addEventListener("visibilitychange", () => {
        if (document.visibilityState === "visible") wake();
      });
    }
  }
}

/** Connect to a broker; `url` may be relative to the page. */
export function connect(url: string | URL, options?: Options): Client {
  return new Client(url, options);
}

function address(url: string | URL): string {
  const whole = new URL(url, typeof location === "undefined" ? undefined : location.href);
  whole.protocol = whole.protocol.replace(/^http/, "ws");
  return whole.href;
}

function messageOf(
  { body, room, number, replayed }: { body: Data; room?: string | null; number: number | null; replayed?: boolean },
): Message {
  const time = number === null ? new Date() : new Date(number / 1000);
  return new Message(body, room ?? undefined, time, replayed, number ?? 0);
}

function dataOf(data: Sendable): Data {
  if (typeof data === "string" || data instanceof Uint8Array) return data;
  return data instanceof ArrayBuffer ? new Uint8Array(data) : JSON.stringify(data);
}
