// Builds what the wheel carries: one minified ES module. `--check` only tells whether that is up to date.
import { build } from "esbuild";
import { readFileSync, writeFileSync } from "node:fs";

const file = new URL("../../src/pystrands/broker/pystrands.js", import.meta.url);
// Properties that only these modules know get short names: none of a frame's, of a page's options, or of what it gets.
const own = [
  "ident", "subprotocols", "retry_in", "isAsked", "held", "got", "hasGap", "kind", "asks", "maxMessages", "maxBytes",
  "firstDelay", "mostDelay", "hasToken", "wallOffset", "deadline", "listeners", "joinRoom", "leaveRoom", "readRoom", "sendTo",
  "putFirst", "isJoining", "withdraw", "deliver", "answered", "refused", "lost", "wants", "tick", "wake", "out", "frame",
  "emit", "body", "number", "failed", "isAsking", "want", "told", "connected", "begin", "plan", "rest", "isAnswer",
];
const { outputFiles } = await build({
  entryPoints: [new URL("src/index.ts", import.meta.url).pathname],
  bundle: true,
  format: "esm",
  minify: true,
  mangleProps: new RegExp(`^(${own.join("|")})$`),
  target: "es2022",
  legalComments: "none",
  write: false,
});
const built = outputFiles[0].text;
if (!process.argv.includes("--check")) {
  writeFileSync(file, built);
} else if (readFileSync(file, "utf-8") !== built) {
  console.error("src/pystrands/broker/pystrands.js is not what sdk/js makes: npm run build");
  process.exit(1);
}
