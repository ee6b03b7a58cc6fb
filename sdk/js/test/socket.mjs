// A WebSocket that the test opens, closes and speaks for.
export class Socket {
  static all = [];
  constructor(url, subprotocols) {
    Object.assign(this, { url, subprotocols, sent: [], closed: null });
    Socket.all.push(this);
  }
  send(frame) {
    this.sent.push(frame);
  }
  close(code) {
    this.closed = code ?? 1005;
  }
  say(frame) {
    this.onmessage?.({ data: frame });
  }
  welcome(members = {}) {
    const n = { n: 100, resumed: false, epoch: "e", client: "ada", session: "b-1~p", rooms: ["a"] };
    this.say(JSON.stringify({ t: "welcome", ...n, ...members }));
  }
}
export const last = () => Socket.all.at(-1);
