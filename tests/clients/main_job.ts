// The main job through the types that openapi-typescript makes of the API's description, over mutual TLS.
// Usage: node main_job.js URL CA.pem CLIENT.pem CLIENT.key, with the API key's secret in CHANCERY_TOKEN.
// Prints what it did as one JSON object; any step that fails ends it with an error.
import { createHash, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import createClient from 'openapi-fetch';
import { Agent, fetch as overTls } from 'undici';
import type { components, paths } from './chancery.js';

const [url, ca, certificate, keyFile] = process.argv.slice(2).map(String);
const pem = (path: string | undefined) => readFileSync(path ?? '');
const dispatcher = new Agent({ connect: { ca: pem(ca), cert: pem(certificate), key: pem(keyFile) } });
const api = createClient<paths>({
  baseUrl: url ?? '',
  headers: { Authorization: `Bearer ${process.env['CHANCERY_TOKEN']}` },
  fetch: async (request: Request) => {
    const body = request.body === null ? null : await request.text();
    const headers = Object.fromEntries(request.headers);
    return (await overTls(request.url, { method: request.method, headers, body, dispatcher })) as unknown as Response;
  },
});

/** The body of an answer that succeeded. */
function good<Body>(answer: { data?: Body; error?: components['schemas']['Problem'] | undefined }): NonNullable<Body> {
  if (answer.error) throw new Error(`${answer.error.code}: ${answer.error.detail}`);
  if (answer.data === undefined || answer.data === null) throw new Error('an answer without a body');
  return answer.data;
}

const key = { path: { key: 'typescript' } };
const made = good(
  await api.POST('/v1/keys', {
    params: { header: { 'Idempotency-Key': randomUUID(), 'Chancery-Deadline-Ms': 60_000 } },
    body: { name: key.path.key, kind: 'p256' },
  }),
);
// 201 is the key; 202, with `state` and no `versions`, would be the workflow that makes it.
if (!('versions' in made)) throw new Error('the key is not made yet');
const read = good(await api.GET('/v1/keys/{key}', { params: key }));
if (read.id !== made.id) throw new Error(`${read.id} is not ${made.id}`);

const digest = createHash('sha256').update('signed by a generated client').digest('base64');
const scheme = 'ecdsa-sha256' as const;
const signed = good(
  await api.POST('/v1/keys/{key}/sign', { params: key, body: { scheme, digest, context: 'main job' } }),
);
const verdict = good(
  await api.POST('/v1/keys/{key}/verify', { params: key, body: { scheme, digest, signature: signed.signature } }),
);
const entry = good(await api.GET('/v1/audit/entries/{seq}', { params: { path: { seq: signed.entry } } }));
if (entry.action !== 'key.sign') throw new Error(`entry ${entry.seq} tells of ${entry.action}`);

// A refusal is a typed problem too.
const refused = await api.GET('/v1/keys/{key}', { params: { path: { key: 'nothing' } } });
if (refused.error?.code !== 'not_found') throw new Error('a key that is not there was found');

const detail = entry.detail as { after: { context?: string } };
console.log(
  JSON.stringify({
    key: made.id,
    signature: signed.signature,
    valid: verdict.valid,
    entry: entry.seq,
    context: detail.after.context,
  }),
);
await dispatcher.close();
