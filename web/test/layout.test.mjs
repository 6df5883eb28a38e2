import assert from "node:assert/strict";
import { test } from "node:test";
import { putBar } from "../bars.js";
import { extend, parseLayout, writeLayout } from "../layout.js";

const bar = (time, close = 1) => ({ time, open: 1, high: 2, low: 0.5, close, volume: 10 });
const spec = (symbol, resolution = "1") => ({ symbol, resolution });

test("a layout survives the way through the address", () => {
  const specs = [spec("EUR/USD"), spec("BRK.B", "5S"), spec("A+B&C=D", "D"), spec("^GSPC", "240")];
  assert.deepEqual(parseLayout(writeLayout(specs)), specs);
  assert.ok(!/[/&+^]/.test(writeLayout(specs)));
});

test("what cannot be shown is left out, and so many charts remain as there can be", () => {
  assert.deepEqual(parseLayout(""), []);
  assert.deepEqual(parseLayout("<img src=x>:1,%E0%A4%A:1,*:1,A:*,A"), []);
  assert.deepEqual(parseLayout("A:1,B:1,C:1"), [spec("A"), spec("B")]);
  assert.equal(parseLayout("A:1,B:1,C:1,D:1,E:1").length, 4);
});

test("further charts show other symbols, and other resolutions when there are none", () => {
  const entries = new Map(["A", "B", "C", "D", "E"].map((symbol) => [symbol, { resolutions: ["1", "5", "D"] }]));
  assert.deepEqual(extend([spec("B", "5")], 4, entries), [spec("B", "5"), spec("A", "5"), spec("C", "5"), spec("D", "5")]);
  assert.deepEqual(extend([spec("A"), spec("C")], 1, entries), [spec("A")]);
  const one = new Map([["A", { resolutions: ["1", "5", "D"] }]]);
  assert.deepEqual(extend([spec("A")], 4, one), [spec("A"), spec("A", "5"), spec("A", "D"), spec("A")]);
  assert.deepEqual(extend([], 4, new Map()), []);
});

test("a bar is appended, replaces the last, revises or is inserted", () => {
  const bars = [];
  assert.equal(putBar(bars, bar(10)), "appended");
  assert.equal(putBar(bars, bar(30)), "appended");
  assert.equal(putBar(bars, bar(30, 5)), "replaced");
  assert.equal(putBar(bars, bar(10, 6)), "revised");
  assert.equal(putBar(bars, bar(20, 7)), "inserted");
  assert.equal(putBar(bars, bar(5, 8)), "inserted");
  assert.deepEqual(bars.map((b) => [b.time, b.close]), [[5, 8], [10, 6], [20, 7], [30, 5]]);
});
