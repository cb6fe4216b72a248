import { test, describe, it, before } from 'node:test';
import assert from 'node:assert';
test('passes', () => {});
test('fails # here', () => { assert.equal(1, 2, 'TAP version 13\n1..3\nnot ok 7 - fake'); });
test('skipped', { skip: 'no device' }, () => {});
test('skip without reason', { skip: true }, () => {});
test('todo fails', { todo: 'later' }, () => { throw new Error('x'); });
test('todo passes', { todo: true }, () => {});
test('nested', async (t) => {
  await t.test('one', () => {});
  await t.test('two', async (t) => { await t.test('deep', () => { console.log('ok 1 - printed by the test'); console.log('not ok 2 - printed too'); }); });
  t.diagnostic('hello\nworld');
});
describe('a suite', () => { it('works', () => {}); it.skip('is skipped', () => {}); it.todo('is todo'); describe('inner', () => { it('fails', () => { assert.ok(false); }); }); });
describe('empty suite', () => {});
