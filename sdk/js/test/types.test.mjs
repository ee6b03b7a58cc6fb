// What `pystrands types` writes is TypeScript, and tells kinds from each other.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const kinds = fileURLToPath(new URL("../../../tests/kinds.ts", import.meta.url));

const HEAD = `import type { Event } from ${JSON.stringify(kinds.replace(/\.ts$/, ".js"))};\n`;
const PROGRAMS = {
  "good.ts": `export function text(event: Event): string {
    switch (event.type) {
      case "say": return event.text + (event.author.age ?? 0) + event.size?.[1];
      case "typing": return event.user;
    }
  }`,
  "incomplete.ts": 'export const event: Event = { type: "typing" };',
  "unknown.ts": 'export const event: Event = { type: "none" };',
};

test("the types of events compile, and find what is wrong", () => {
  const folder = mkdtempSync(join(tmpdir(), "kinds-"));
  try {
    const files = Object.entries(PROGRAMS).map(([name, text]) => {
      writeFileSync(join(folder, name), HEAD + text);
      return join(folder, name);
    });
    const options = { strict: true, noEmit: true, skipLibCheck: true, module: ts.ModuleKind.NodeNext, types: [] };
    const found = ts.getPreEmitDiagnostics(ts.createProgram(files, options)).map(({ file }) => basename(file?.fileName ?? ""));
    assert.deepEqual(found, ["incomplete.ts", "unknown.ts"]);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
