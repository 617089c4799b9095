// The flow of the npm client "etcd3" on the server whose address is the argument. It ends with code 0 after
// its last line, "done"; anything unexpected is an exception.
'use strict';

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { Etcd3, EtcdLockFailedError, EtcdLeaseInvalidError } = require('etcd3');

const client = new Etcd3({ hosts: `http://${process.argv[2]}` });

async function kv() {
  await client.put('a/1').value('one');
  await client.put('a/2').value('two');
  await client.put('b').value('elsewhere');
  assert.equal(await client.get('a/1').string(), 'one');
  assert.equal(await client.get('none').string(), null);
  assert.deepEqual(await client.getAll().prefix('a/').strings(), { 'a/1': 'one', 'a/2': 'two' });
  assert.deepEqual(await client.getAll().prefix('a/').sort('Key', 'Descend').limit(1).keys(), ['a/2']);
  assert.equal(await client.getAll().count(), 3);
  assert.equal((await client.delete().key('b').exec()).deleted, '1');
  const swap = (old, value) => client.if('a/1', 'Value', '==', old).then(client.put('a/1').value(value)).else(client.get('a/1')).commit();
  assert.equal((await swap('one', 'swapped')).succeeded, true);
  const refused = await swap('one', 'never');
  assert.equal(refused.succeeded, false);
  assert.equal(refused.responses[0].response_range.kvs[0].value.toString(), 'swapped');
  const inside = client.namespace('a/');
  assert.deepEqual(await inside.getAll().strings(), { 1: 'swapped', 2: 'two' });
}

async function watch() {
  const watcher = await client.watch().prefix('w/').create();
  const put = once(watcher, 'put');
  await client.put('w/1').value('seen');
  const [kv] = await put;
  assert.equal(`${kv.key}=${kv.value}`, 'w/1=seen');
  const gone = once(watcher, 'delete');
  await client.delete().key('w/1');
  assert.equal((await gone)[0].key.toString(), 'w/1');
  await watcher.cancel();
}

async function lease() {
  const held = client.lease(10);
  await held.put('leased').value('v');
  assert.equal(await client.get('leased').string(), 'v');
  await held.keepaliveOnce();
  await held.revoke();
  assert.equal(await client.get('leased').string(), null);
  await assert.rejects(held.put('leased').value('v'), EtcdLeaseInvalidError);
}

async function locks() {
  const lock = client.lock('resource');
  await lock.acquire();
  await assert.rejects(client.lock('resource').acquire(), EtcdLockFailedError);
  await lock.release();
  assert.equal(await client.lock('resource').do(async () => 'inside'), 'inside');
}

async function transactions() {
  await client.put('n').value(0);
  const increment = () => client.stm({ retries: 50 }).transact((tx) => tx.get('n').number().then((n) => tx.put('n').value(n + 1)));
  await Promise.all(Array.from({ length: 5 }, increment));
  assert.equal(await client.get('n').number(), 5);
}

async function election() {
  const first = client.election('e', 10);
  const second = client.election('e', 10);
  const one = first.campaign('one');
  await once(one, 'elected');
  assert.equal(await first.leader(), 'one');
  const observer = await second.observe();
  const proclaimed = once(observer, 'change');
  await one.proclaim('one again');
  assert.equal((await proclaimed)[0], 'one again');
  const two = second.campaign('two');
  const elected = once(two, 'elected');
  await one.resign();
  await elected;
  assert.equal(await second.leader(), 'two');
  await observer.cancel();
  await two.resign();
  assert.equal(await second.leader(), undefined);
}

async function main() {
  for (const part of [kv, watch, lease, locks, transactions, election]) {
    await part();
    console.log(part.name);
  }
  client.close();
  console.log('done');
}

main().catch((err) => {
  console.error(err);
  process.exit(1);
});
