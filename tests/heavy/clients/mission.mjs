// What OpenAI's SDK for Node makes of a task, as JSON: all pages of a list, a chat's stream, or how the stream failed.
import fs from "node:fs";
import OpenAI from "openai";
import { createHeaders } from "portkey-ai";

const task = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const client = new OpenAI({
  apiKey: task.key,
  baseURL: task.url,
  defaultHeaders: createHeaders({ provider: "@anthropic", apiKey: task.key }),
  maxRetries: 0,
});

async function pages() {
  const ids = [];
  for await (const file of client.files.list(task.query)) ids.push(file.id);
  return ids;
}

const stream = () => client.chat.completions.stream(task.request).finalChatCompletion();

// by hand: what the chunks held until the stream threw, or ended
async function chunks() {
  const seen = { content: "", finish: null };
  try {
    for await (const chunk of await client.chat.completions.create({ ...task.request, stream: true })) {
      seen.content += chunk.choices[0]?.delta?.content ?? "";
      seen.finish = chunk.choices[0]?.finish_reason ?? seen.finish;
    }
  } catch (error) {
    const { status, code, requestID, message } = error;
    return { ...seen, isAPIError: error instanceof OpenAI.APIError, status, code, requestID, message };
  }
  return seen;
}

console.log(JSON.stringify(await { pages, stream, chunks }[task.kind]()));
