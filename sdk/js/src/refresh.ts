/** When a client shows a new token: before its time is over, on the connection that it has. Times in seconds. */

const PART = 0.8;
const LEAST = 1;
const ANSWER_WITHIN = 10;

export class Refresh {
  /** When to ask for a token, and when its answer has to be here. */
  at = Infinity;
  by = Infinity;
  #isAsking = false;
  #ident = 0;

  /** See when to show the next token, where there are so many seconds left. */
  plan(left: number, now: number): void {
    this.rest();
    const delay = Math.max(PART * left, LEAST);
    if (delay < left) this.at = now + delay;
  }

  rest(): void {
    this.at = this.by = Infinity;
    this.#isAsking = false;
  }

  /** It is time: a token is asked for. */
  begin(): void {
    this.rest();
    this.#isAsking = true;
  }

  /** Give the header of the frame that shows a token; undefined where none was asked for. */
  show(now: number): object | undefined {
    if (!this.#isAsking) return undefined;
    this.rest();
    this.by = now + ANSWER_WITHIN;
    return { t: "auth", id: String(++this.#ident) };
  }

  isAnswer(id: string): boolean {
    return this.by < Infinity && id === String(this.#ident);
  }
}
