// SPDX-License-Identifier: Apache-2.0
// node-postgres (pg): named statements where the application gives a name, as its documentation recommends for repeated ones.
import { readFileSync } from "node:fs";
import { pipeline } from "node:stream/promises";
import { Readable } from "node:stream";
import pg from "pg";
import Cursor from "pg-cursor";
import copies from "pg-copy-streams";
import { ROWS, address, after, main, tls } from "./shape.mjs";

const version = JSON.parse(readFileSync("node_modules/pg/package.json")).version;
const names = new Map();

class Pg {
  async connect() {
    const client = new pg.Client({ ...address, ssl: { ...tls } });
    client.on("error", (error) => console.error(`lost: ${error.message}`));
    await client.connect();
    return client;
  }
  async close(client) {
    await client.end();
  }
  async select(client, text, argument) {
    if (!names.has(text)) names.set(text, `statement_${names.size}`);
    return (await client.query({ name: names.get(text), text, values: [argument] })).rows[0];
  }
  async transaction(client, worker) {
    await client.query("BEGIN");
    const row = await this.select(client, `SELECT worker FROM drivers_${worker} WHERE id = $1`, 1);
    await client.query("SELECT $1::int", [1]);
    await client.query("COMMIT");
    return row.worker === worker;
  }
  async stream(client) {
    const cursor = client.query(new Cursor("SELECT id FROM drivers_rows"));
    let found = 0;
    for (let rows = await cursor.read(500); rows.length > 0; rows = await cursor.read(500)) found += rows.length;
    await cursor.close();
    return found;
  }
  async copy(client) {
    const rows = Array.from({ length: ROWS }, (_one, number) => `${number}\n`);
    await pipeline(Readable.from(rows), client.query(copies.from("COPY drivers_copied FROM STDIN")));
    let text = "";
    for await (const part of client.query(copies.to("COPY drivers_copied TO STDOUT"))) text += part;
    return text.split("\n").length - 1;
  }
  async listen(client, notify) {
    let found = 0;
    client.on("notification", () => (found += 1));
    await client.query("LISTEN drivers");
    await notify();
    await after(1000);
    return found;
  }
}
await main(`pg ${version}`, new Pg());
