/** Who is present in rooms, as a client sees it: kept up to date from what the broker tells. */

import type { Action, Data } from "./core.js";

/** Somebody who is present in a room. */
export interface Member {
  /** Who it is; of a client that is nobody's its id. */
  user: string;
  /** What the backend has said of it last. */
  info: unknown;
  /** How many clients it has there. */
  connections: number;
  /** When the first of them came, in seconds since 1970. */
  since: number;
}

interface View {
  members: Map<string, Member>;
  /** The version that is known; 0 where none is. */
  v: number;
  isAsking: boolean;
}

/** What the broker tells: all who are present, or what has changed. */
interface Told {
  full?: Member[];
  joined?: Member[];
  left?: string[];
  updated?: Member[];
}

const json = JSON.stringify;
/** The rooms that the client wants to know of, whether it is in them or not. */
export class Presence {
  #views = new Map<string, View>();

  members(room: string): ReadonlyMap<string, Member> {
    return this.#views.get(room)?.members ?? new Map();
  }

  /** Keep a room up to date from now on; `mayAsk`: the client is in it, and connected. */
  want(room: string, mayAsk: boolean): Action[] {
    if (this.#views.has(room)) return [];
    this.#views.set(room, { members: new Map(), v: 0, isAsking: false });
    return mayAsk ? this.ask(room) : [];
  }

  /** Ask for what is new in a room, if it is to be kept up to date. */
  ask(room: string): Action[] {
    const view = this.#views.get(room);
    if (!view || view.isAsking) return [];
    view.isAsking = true;
    return [{ do: "write", frame: json({ t: "presence", r: room, v: view.v || undefined }) }];
  }

  /** Ask anew, as the connection is. */
  connected(rooms: ReadonlySet<string>, isSame: boolean): Action[] {
    return [...this.#views].flatMap(([room, view]) => {
      view.isAsking = false;
      if (!isSame) view.v = 0;
      return rooms.has(room) ? this.ask(room) : this.left(room);
    });
  }

  /** The client is in a room no more: it sees nobody there. */
  left(room: string): Action[] {
    const view = this.#views.get(room);
    if (!view) return [];
    const left = [...view.members.values()];
    Object.assign(view, { members: new Map(), v: 0, isAsking: false });
    return left.length ? [{ do: "presence", room, joined: [], left, updated: [] }] : [];
  }

  /** Take what the broker tells; throws on what can't be read. */
  told(room: string, v: number, body: Data | null): Action[] {
    const view = this.#views.get(room);
    if (!view) return [];
    if (body === null) {
      view.isAsking = false; // nothing is new
      return [];
    }
    const { members } = view;
    let { full, joined = [], left = [], updated = [] }: Told = JSON.parse(typeof body === "string" ? body : new TextDecoder().decode(body));
    if (full) {
      const users = new Set(full.map(({ user }) => user));
      joined = full.filter(({ user }) => !members.has(user));
      updated = full.filter((each) => members.has(each.user) && json(members.get(each.user)) !== json(each));
      left = [...members.keys()].filter((user) => !users.has(user));
      view.isAsking = false;
    } else if (view.isAsking || v <= view.v) return []; // all will come, and this is in it
    else if (v !== view.v + 1) return this.ask(room);
    view.v = v;
    const gone = left.flatMap((user) => members.get(user) ?? []);
    for (const user of left) members.delete(user);
    for (const each of [...joined, ...updated]) members.set(each.user, each);
    return [{ do: "presence", room, joined, left: gone, updated }];
  }
}
