// SPDX-License-Identifier: Apache-2.0
// postgres.js: one connection for each worker.
import { readFileSync } from "node:fs";
import { pipeline } from "node:stream/promises";
import { Readable } from "node:stream";
import postgres from "postgres";
import { ROWS, address, after, main, tls } from "./shape.mjs";

const version = JSON.parse(readFileSync("node_modules/postgres/package.json")).version;

class Postgres {
  async connect() {
    return postgres({ ...address, ssl: { ...tls }, max: 1, onnotice: () => {} });
  }
  async close(sql) {
    await sql.end({ timeout: 5 });
  }
  async select(sql, text, argument) {
    return (await sql.unsafe(text, [argument], { prepare: true }))[0];
  }
  async transaction(sql, worker) {
    return sql.begin(async (inner) => {
      const row = await this.select(inner, `SELECT worker FROM drivers_${worker} WHERE id = $1`, 1);
      await inner`SELECT ${1}::int`;
      return row.worker === worker;
    });
  }
  async stream(sql) {
    let found = 0;
    for await (const rows of sql`SELECT id FROM drivers_rows`.cursor(500)) found += rows.length;
    return found;
  }
  async copy(sql) {
    const rows = Array.from({ length: ROWS }, (_one, number) => `${number}\n`);
    await pipeline(Readable.from(rows), await sql`COPY drivers_copied FROM STDIN`.writable());
    let text = "";
    for await (const part of await sql`COPY drivers_copied TO STDOUT`.readable()) text += part;
    return text.split("\n").length - 1;
  }
  async listen(sql, notify) {
    let found = 0;
    const { unlisten } = await sql.listen("drivers", () => (found += 1));
    await notify();
    await after(1000);
    await unlisten();
    return found;
  }
  async cancel(sql) {
    const begun = Date.now();
    const query = sql`SELECT pg_sleep(30)`.execute();
    setTimeout(() => query.cancel(), 500);
    try {
      await query;
    } catch (error) {
      return error.code === "57014" && Date.now() - begun < 15000;
    }
    return false;
  }
}
await main(`postgres.js ${version}`, new Postgres());
