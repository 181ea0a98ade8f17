// A client of Alibaba Cloud's own making: reads from standard input what to call, writes
// the answer, or {"Code": ...} of the refusal, as JSON. NODE_PATH has the packages.
//
//   {"client": "pop-core" | "pop-core-post" | "ecs20140526", "endpoint": "127.0.0.1:1234",
//    "accessKeyId": "...", "accessKeySecret": "...", "action": "...", "params": {...}}
'use strict';

const version = '2014-05-26';

async function popCore(ask, method) {
  const { RPCClient } = require('@alicloud/pop-core');
  const client = new RPCClient({
    endpoint: 'http://' + ask.endpoint, apiVersion: version,
    accessKeyId: ask.accessKeyId, accessKeySecret: ask.accessKeySecret,
  });
  try {
    return await client.request(ask.action, ask.params, { method, timeout: 10000 });
  } catch (e) {
    if (!e.data) throw e;
    return e.data;
  }
}

// Its types spell the parameters in lower case and the answers by their fields.
async function ecs20140526(ask) {
  const { default: Client, ...models } = require('@alicloud/ecs20140526');
  const { $OpenApiUtil } = require('@alicloud/openapi-core');
  const { RuntimeOptions } = require('@darabonba/typescript');
  const client = new Client(new $OpenApiUtil.Config({
    endpoint: ask.endpoint, protocol: 'http', regionId: ask.params.RegionId, signatureAlgorithm: 'v2',
    accessKeyId: ask.accessKeyId, accessKeySecret: ask.accessKeySecret,
  }));
  const lower = (v) => Array.isArray(v) ? v.map(lower)
    : v && typeof v === 'object' ? Object.fromEntries(Object.entries(v).map(([k, x]) => [k[0].toLowerCase() + k.slice(1), lower(x)]))
    : v;
  const method = ask.action[0].toLowerCase() + ask.action.slice(1) + 'WithOptions';
  const runtime = new RuntimeOptions({ connectTimeout: 10000, readTimeout: 10000 });
  try {
    const answer = await client[method](new models[ask.action + 'Request'](lower(ask.params)), runtime);
    return answer.body.toMap();
  } catch (e) {
    if (!e.code || !e.statusCode) throw e;
    return { Code: e.code, Message: e.message, StatusCode: e.statusCode };
  }
}

(async () => {
  const ask = JSON.parse(require('fs').readFileSync(0, 'utf8'));
  const answer = await ({
    'pop-core': () => popCore(ask, 'GET'),
    'pop-core-post': () => popCore(ask, 'POST'),
    'ecs20140526': () => ecs20140526(ask),
  })[ask.client]();
  process.stdout.write(JSON.stringify(answer), () => process.exit(0)); // and no idle connection keeps us
})().catch((e) => { console.error(e); process.exit(1); });
