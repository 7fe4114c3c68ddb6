// One Node SDK's part of the matrix: reads what to do from a JSON file, writes what the SDK gave as JSON.
import crypto from "node:crypto";
import fs from "node:fs";
import OpenAI from "openai";
import { createHeaders, Portkey } from "portkey-ai";

const task = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const isPortkey = task.client === "portkey-ai Node";

function client(key, credential) {
  if (isPortkey) {
    const own = credential ? { Authorization: credential } : {};
    return new Portkey({ apiKey: key, provider: task.provider, baseURL: task.url, ...own });
  }
  const defaultHeaders = createHeaders({ provider: task.provider, apiKey: key });
  return new OpenAI({ apiKey: credential || key, baseURL: task.url, defaultHeaders });
}

const { files } = client(task.key, task.credential);

const upload = (name) => files.create({ purpose: "batch", file: fs.createReadStream(`${task.folder}/${name}`) });

// portkey-ai 3.1.0 copies the fields of the response's stream into a plain object: there are no bytes in it
async function sha(id) {
  const answer = await files.content(id);
  if (!isPortkey) return crypto.createHash("sha256").update(Buffer.from(await answer.arrayBuffer())).digest("hex");
  const hasBytes = ["arrayBuffer", "blob", "text", "json", "getReader", "pipe", "read", Symbol.asyncIterator]
    .some((name) => name in answer) || Buffer.isBuffer(answer) || answer instanceof Uint8Array;
  return hasBytes ? "there are bytes after all" : "no bytes";
}

// openai pages by itself; portkey-ai has no paging of its own, so by `after`
async function listed() {
  const query = { limit: 5, purpose: task.purpose };
  const ids = [];
  if (!isPortkey) {
    for await (const file of files.list(query)) ids.push(file.id);
    return ids;
  }
  for (let more = {}; more; ) {
    const page = await files.list({ ...query, ...more });
    for (const file of page.data) ids.push(file.id);
    more = page.has_more ? { after: page.last_id } : null;
  }
  return ids;
}

// what was uploaded, for the SDK that cannot say
async function fetched(id) {
  const authorization = task.credential ? { authorization: `Bearer ${task.credential}` } : {};
  const headers = { "x-portkey-api-key": task.key, "x-portkey-provider": task.provider, ...authorization };
  const answer = await fetch(`${task.url}/files/${id}/content`, { headers });
  return crypto.createHash("sha256").update(Buffer.from(await answer.arrayBuffer())).digest("hex");
}

async function wholeLife(name) {
  const made = await upload(name);
  const digest = await (isPortkey ? fetched : sha)(made.id);
  await files.delete(made.id);
  return { filename: made.filename, bytes: made.bytes, sha: digest };
}

async function refused(call) {
  try {
    await call();
  } catch (error) {
    return { class: error.constructor.name, status: error.status, code: error.code };
  }
  return { class: "none" };
}

const made = await upload(task.small);
const rows = {
  "upload": () => made,
  "list": listed,
  "retrieve": () => files.retrieve(made.id),
  "content": () => sha(made.id),
  "delete": async () => (await files.delete(made.id)).deleted,
  "missing file": () => refused(() => files.retrieve(made.id)),
  "non-ASCII name": () => wholeLife(task.unicode),
  "empty file": () => wholeLife(task.empty),
  "25 MiB file": () => wholeLife(task.big),
  "wrong key": () => refused(() => client(task.wrong_key, task.wrong_credential).files.list()),
};
const seen = {};
for (const [row, call] of Object.entries(rows)) {
  try {
    seen[row] = await call();
  } catch (error) {
    seen[row] = `${error.constructor.name}: ${error.message}`;
  }
}
fs.writeFileSync(process.argv[3], JSON.stringify(seen));
