// Made by `pystrands types tests.kinds:EVENTS`; what is changed here is lost.

/** Who said it. */
export interface Author {
  name: string;
  age?: number | null;
}

/**
 * Somebody says something.
 *
 * Everybody in the room hears it.
 */
export interface Say {
  type: "say";
  /** As it was typed. */
  text: string;
  author: Author;
  tags?: string[];
  size?: [number, number];
  colour?: "green" | "red";
  extra?: Record<string, unknown>;
  answers?: Say[];
}

/** Somebody types. */
export interface Typing {
  type: "typing";
  user: string;
  since?: number | null;
}

export type Event = Say | Typing;
