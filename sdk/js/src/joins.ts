/** The rooms that the page has joined, what it reads of their history, and what waits for that. */

import type { Action, Data } from "./core.js";

export type Stored = [number, Data];
type Position = [string, number];

export interface Answer {
  id: string;
  messages: Stored[];
  complete: boolean;
  more: boolean;
  code: string;
  text: string;
}

/** Messages that are being read, in as many answers as it takes. */
interface Read {
  name: string;
  ident: number;
  room: string;
  left: number;
  before: number;
  after: Position | undefined;
  got: Stored[];
  hasGap: boolean;
}

interface Wanted {
  /** Who waits for it; NOBODYS: nobody any more. */
  ident: number;
  data: Data | null;
  history: number;
  isAsked: boolean;
  /** In a new session: up to where it had everything in the last one. */
  since: Position | undefined;
  read: Read | undefined;
  held: Action[];
}

export interface Rejoin {
  ident: number;
  room: string;
  data: Data | null;
}

const MOST = 1000;
/** The ident of what nobody is told of. */
export const NOBODYS = -1;

const asFrame = ({ name, room, left, before, after }: Read): Action => ({
  do: "write",
  frame: JSON.stringify({ t: "history", id: name, r: room, limit: left, before: before || undefined, after }),
});

/** What is to be done is given to `put`. */
export class Joins {
  #rooms = new Map<string, Wanted>();
  #reads = new Map<string, Read>();
  #count = 0;
  constructor(readonly put: (action: Action) => void) {}

  wants(room: string): boolean {
    return this.#rooms.has(room);
  }

  ask(ident: number, room: string, data: Data | null, history: number): void {
    this.leave(room);
    this.#rooms.set(room, { ident, data, history, isAsked: true, since: undefined, read: undefined, held: [] });
  }

  leave(name: string): void {
    const room = this.#rooms.get(name);
    if (room?.read) {
      this.#reads.delete(room.read.name);
      this.put({ do: "history", ident: room.ident, room: name, messages: [], complete: false });
      room.held.forEach(this.put);
    }
    this.#rooms.delete(name);
  }

  history(ident: number, room: string, left: number, before: number, isOpen = true, after?: Position): Read {
    const read = { name: `${++this.#count}`, ident, room, left, before, after, got: [], hasGap: false };
    this.#reads.set(read.name, read);
    if (isOpen) this.put(asFrame(read));
    return read;
  }

  /** The broker has let the client into a room, and it may read so many older messages. */
  joined(ident: number, name: string, n: number, older: number, epoch: string): void {
    const room = this.#rooms.get(name);
    if (!room?.isAsked || room.ident !== ident) { // it was left, or joined again
      if (ident !== NOBODYS) this.put({ do: "history", ident, room: name, messages: [], complete: false });
      return;
    }
    const { since, history } = room;
    room.isAsked = false;
    room.since = undefined;
    room.ident = NOBODYS;
    if (since && ident === NOBODYS) {
      if (since[0] === epoch) room.read = this.history(NOBODYS, name, MOST, n, true, since);
      else this.put({ do: "gap", room: name });
    } else if (older && history) {
      room.ident = ident;
      room.read = this.history(ident, name, Math.min(older, history), n);
    } else this.put({ do: "history", ident, room: name, messages: [], complete: true });
  }

  refused(ident: number, name: string, code: string, text: string): void {
    const room = this.#rooms.get(name);
    if (room?.isAsked && room.ident === ident) this.#rooms.delete(name);
    this.put(ident === NOBODYS ? { do: "left", room: name, why: code } : { do: "settle", ident, code, text });
  }

  answered({ id, messages, complete, more, code, text }: Answer): void {
    const read = this.#reads.get(id);
    if (!read) return;
    const { after, room: name, ident } = read;
    if (after) {
      read.got.push(...messages);
      read.hasGap ||= !complete;
    } else {
      read.got.unshift(...messages);
      read.left -= messages.length;
    }
    const last = messages.at(-1);
    if (more && last && !code && (after || read.left > 0)) {
      if (after) read.after = [after[0], last[0]];
      else read.before = messages[0]![0];
      this.put(asFrame(read));
      return;
    }
    this.#reads.delete(id);
    const room = this.#rooms.get(name);
    if (room?.read === read) {
      room.read = undefined;
      room.ident = NOBODYS;
    }
    if (after) this.#caughtUp(read);
    else if (code && !read.got.length) this.put({ do: "settle", ident, code, text });
    else this.put({ do: "history", ident, room: name, messages: read.got, complete });
    if (room && !room.read) {
      room.held.forEach(this.put);
      room.held = [];
    }
  }

  /** Deliver what was read of what the client has missed. */
  #caughtUp({ room, got, hasGap }: Read): void {
    if (hasGap) this.put({ do: "gap", room });
    for (const [number, body] of got) this.put({ do: "deliver", body, room, number, replayed: true });
  }

  /** A message has come, which may have to wait for the history of its room. */
  deliver(message: Action, name: string | null): void {
    const room = this.#rooms.get(name ?? "");
    if (room?.read) room.held.push(message);
    else this.put(message);
  }

  resumed(): void {
    for (const read of this.#reads.values()) this.put(asFrame(read));
  }

  /** The session is lost; return what joins the rooms again whose joins are not pending anyway. */
  lost(epoch: string, seen: number, pending: (room: string) => boolean): Rejoin[] {
    const again: Rejoin[] = [];
    for (const [name, room] of this.#rooms) {
      if (pending(name)) continue;
      if (room.read) {
        this.#reads.delete(room.read.name);
        room.since = room.read.after;
        if (room.since) this.#caughtUp(room.read); // what has come behind it is read again
        else if (room.held.length) this.put({ do: "gap", room: name });
        room.read = undefined;
        room.held = [];
      }
      room.since ??= [epoch, seen];
      room.isAsked = true;
      again.push({ ident: room.ident, room: name, data: room.data });
    }
    for (const { ident } of this.#reads.values()) {
      this.put({ do: "settle", ident, code: "lost", text: "the session was lost meanwhile: ask again" });
    }
    this.#reads.clear();
    return again;
  }

  clear(code: string, text: string): void {
    for (const { ident } of this.#reads.values()) if (ident !== NOBODYS) this.put({ do: "settle", ident, code, text });
    this.#rooms.clear();
    this.#reads.clear();
  }
}
