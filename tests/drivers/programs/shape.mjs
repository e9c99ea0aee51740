// SPDX-License-Identifier: Apache-2.0
// The shape of the programs for Node.js: as shape.py. Workers are connections whose queries overlap.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

const [workers, count] = process.argv.slice(2).map(Number);
const env = process.env;
export const ROWS = 5000;
export const NOTIFICATIONS = 5;
const ALTER_COUNT = 20;
export const address = {
  host: env.PGHOST,
  port: Number(env.PGPORT),
  user: env.PGUSER,
  database: env.PGDATABASE,
  password: env.PGPASSWORD,
};
export const tls = {
  ca: readFileSync(env.PGSSLROOTCERT),
  cert: readFileSync(env.PGSSLCERT),
  key: readFileSync(env.PGSSLKEY),
};
export const after = (ms) => new Promise((done) => setTimeout(done, ms));

class Tally {
  constructor(check) {
    Object.assign(this, { check, right: 0, wrong: 0, errors: 0, error: "" });
  }
  async add(act) {
    try {
      if (await act()) this.right += 1;
      else this.wrong += 1;
      return true;
    } catch (error) {
      this.errors += 1;
      this.error ||= String(error.message || error).slice(0, 300);
      return false;
    }
  }
  tell() {
    console.log(JSON.stringify(this));
  }
}

const sideBySide = (act) => Promise.all(Array.from({ length: workers }, (_one, worker) => act(worker)));

async function close(client, connection) {
  try {
    await client.close(connection);
  } catch (error) {
    console.error(`close: ${error.message}`);
  }
}

async function statements(client, check, act) {
  const tally = new Tally(check);
  await sideBySide(async (worker) => {
    let connection = await client.connect();
    for (let number = 0; number < count; number += 1) {
      if (!(await tally.add(() => act(connection, worker, number)))) {
        await close(client, connection);
        connection = await client.connect();
      }
    }
    await close(client, connection);
  });
  tally.tell();
}

async function once(client, check, act) {
  const tally = new Tally(check);
  const connection = await client.connect();
  await tally.add(() => act(connection));
  await close(client, connection);
  tally.tell();
}

async function alter(client) {
  const [before, altered, fresh] = ["before", "altered", "altered_new"].map((check) => new Tally(check));
  const read = async (tally, connection) => {
    for (let time = 0; time < ALTER_COUNT; time += 1)
      await tally.add(async () => (await client.select(connection, "SELECT * FROM drivers_altered WHERE id = $1", 1)).id === 1);
  };
  let connections = await sideBySide(() => client.connect());
  await sideBySide((worker) => read(before, connections[worker]));
  before.tell();
  const lines = createInterface({ input: process.stdin });
  await new Promise((done) => lines.once("line", done));
  lines.close();
  await sideBySide((worker) => read(altered, connections[worker]));
  altered.tell();
  for (const connection of connections) await close(client, connection);
  connections = await sideBySide(() => client.connect());
  await sideBySide((worker) => read(fresh, connections[worker]));
  fresh.tell();
  for (const connection of connections) await close(client, connection);
}

export async function main(version, client) {
  console.log(version);
  await statements(client, "read", async (connection, worker, number) => {
    const row = await client.select(connection, `SELECT worker, id FROM drivers_${worker} WHERE id = $1`, number % 100);
    return row.worker === worker && row.id === number % 100;
  });
  await statements(client, "write", async (connection, worker) => {
    await client.select(connection, `INSERT INTO drivers_written_${worker} (worker) VALUES ($1) RETURNING worker`, worker);
    return true;
  });
  await alter(client);
  await statements(client, "freed", (connection, worker) => client.transaction(connection, worker));
  await once(client, "stream", async (connection) => (await client.stream(connection)) === ROWS);
  if (client.copy) await once(client, "copy", async (connection) => (await client.copy(connection)) === ROWS);
  await once(client, "listen", async (connection) => {
    const notify = async () => {
      const other = await client.connect();
      for (let number = 0; number < NOTIFICATIONS; number += 1)
        await client.select(other, "SELECT $1::int, pg_notify('drivers', 'x')", number);
      await client.close(other);
    };
    return (await client.listen(connection, notify)) === NOTIFICATIONS;
  });
  if (client.cancel) await once(client, "cancel", (connection) => client.cancel(connection));
}
