// What a page loads stays small.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const gz = (data) => gzipSync(data, { level: 9 }).length;

test("the core has at most 6 KB, all of it 8 KB", async () => {
  const entry = new URL("../src/core.ts", import.meta.url).pathname;
  const { outputFiles } = await build({ entryPoints: [entry], bundle: true, format: "esm", minify: true, write: false });
  assert.ok(gz(outputFiles[0].contents) <= 6 * 1024);
  assert.ok(gz(readFileSync(new URL("../../../src/pystrands/broker/pystrands.js", import.meta.url))) <= 8 * 1024);
});
