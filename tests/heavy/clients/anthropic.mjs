// Anthropic's own SDK for Node against the fake, on both surfaces of the Files API; writes what it gave as JSON.
import Anthropic, { toFile } from "@anthropic-ai/sdk";

const [baseURL, apiKey, beta] = process.argv.slice(2);
const client = new Anthropic({ apiKey, baseURL, maxRetries: 0 });
const files = beta ? client.beta.files : client.files;
const more = beta ? [{ betas: [beta] }] : [];
const document = await toFile(Buffer.from("%PDF-1.7"), "document.pdf", { type: "application/pdf" });

const made = await files.upload({ file: document, ...(beta ? { betas: [beta] } : { expires_in_seconds: 7200 }) });
const read = await files.retrieveMetadata(made.id, ...more);
const listed = [];
for await (const file of files.list({ limit: 7, ...(more[0] ?? {}) })) listed.push(file.id);
const asked = { model: "claude-of-the-fake", max_tokens: 100 };
const source = { type: "file", file_id: made.id };
const content = [{ type: "document", source }, { type: "text", text: "What is it about?" }];
const messages = beta ? client.beta.messages : client.messages;
const answer = await messages.create({ ...asked, messages: [{ role: "user", content }], ...(more[0] ?? {}) });
const deleted = await files.delete(made.id, ...more);
let error = "";
try {
  await files.retrieveMetadata(made.id, ...more);
} catch (failure) {
  error = `${failure.constructor.name} ${failure.status}`;
}
console.log(JSON.stringify({ made, read, listed, text: answer.content[0].text, deleted, error }));
