// Run http-cache-tests through a forward proxy, and say in JSON what it found.
//
//     npm ci && node run.mjs [--proxy http://HOST:PORT] [--id TEST] >results.json
//
// The rule of the file: what is asked, and what counts as passed, is the suite's own code.
// Here are only the origin's socket and a client that goes through the proxy, both on
// loopback; the origin asks the kernel for its port. Without a proxy the client goes to the
// origin itself. stderr gets the counts, and with --id what both ends of that test saw.

import http from 'node:http'
import { parseArgs } from 'node:util'

import { Agent, ProxyAgent, fetch } from 'undici'

import { getResults, runTests } from 'http-cache-tests/client/runner.mjs'
import { determineTestResult } from 'http-cache-tests/lib/display.mjs'
import handleConfig from 'http-cache-tests/server/handle-config.mjs'
import handleState from 'http-cache-tests/server/handle-state.mjs'
import handleTest from 'http-cache-tests/server/handle-test.mjs'
import suites from 'http-cache-tests/tests/index.mjs'

// Its verdicts have no names outside display.mjs, only these symbols (its README).
const VERDICTS = {
  '✅': 'pass',
  '⛔️': 'fail',
  '⚠️': 'not optimal',
  Y: 'yes',
  N: 'no',
  '🔹': 'setup',
  '⁉️': 'harness',
  '⚪️': 'dependency',
  '↻': 'retry',
  '-': 'untested'
}

// Longer than any pause of the suite (3 s): a proxy that keeps its connections open must
// not meet an origin that is just closing them.
const KEEP_ALIVE = 60_000
// For an answer that does not come; the test that waits for it has failed.
const PATIENCE = 10_000

const HANDLERS = { config: handleConfig, state: handleState, test: handleTest }

function startOrigin () {
  const server = http.createServer((request, response) => {
    const [, kind, ...segments] = new URL(request.url, 'http://origin').pathname.split('/')
    const handle = HANDLERS[kind]
    if (handle) return handle(segments, request, response)
    response.writeHead(404).end()
  })
  server.keepAliveTimeout = KEEP_ALIVE
  return new Promise(resolve => server.listen(0, '127.0.0.1', () => resolve(server)))
}

// The suite's command line has node-fetch, which knows no cache modes. fetch of the
// standard adds "Cache-Control: no-cache" for no-store, and for a conditional request;
// force-cache adds nothing, and undici has no cache here that it could force.
function through (agent) {
  return (url, init) => fetch(url, {
    ...init,
    cache: 'force-cache',
    dispatcher: agent,
    signal: AbortSignal.timeout(PATIENCE)
  })
}

// One test alone is judged without those that it depends on, as the suite does it.
function judge (results, dependencies) {
  return suites.flatMap(suite => suite.tests
    .filter(test => test.id in results)
    .map(test => {
      const result = results[test.id]
      const [, , symbol] = determineTestResult(suites, test.id, results, dependencies)
      const verdict = VERDICTS[symbol]
      const why = result === true ? [] : [result.join(': ')]
      if (verdict === 'dependency') why.unshift(`needs ${test.depends_on.join(', ')}`)
      return {
        id: test.id,
        kind: test.kind ?? 'required',
        verdict,
        why: why.join('; '),
        name: `${suite.name}: ${test.name}`
      }
    }))
}

function count (tests) {
  const counts = {}
  for (const { kind, verdict } of tests) {
    counts[kind] ??= {}
    counts[kind][verdict] = (counts[kind][verdict] ?? 0) + 1
  }
  return counts
}

function only (id) {
  const chosen = suites
    .map(suite => ({ ...suite, tests: suite.tests.filter(test => test.id === id) }))
    .filter(suite => suite.tests.length)
  if (!chosen.length) throw new Error(`no test ${id}`)
  for (const suite of chosen) suite.tests[0].dump = true
  return chosen
}

const { values } = parseArgs({
  options: { proxy: { type: 'string' }, id: { type: 'string' } }
})
console.log = console.error // the suite's own remarks; stdout is for the results

const agent = values.proxy
  ? new ProxyAgent({ uri: values.proxy, proxyTunnel: false })
  : new Agent()
const origin = await startOrigin()
const base = `http://127.0.0.1:${origin.address().port}`
await runTests(values.id ? only(values.id) : suites, through(agent), false, base)
const tests = judge(getResults(), !values.id)
console.error(JSON.stringify(count(tests)))
process.stdout.write(JSON.stringify(tests, null, 1) + '\n')
await agent.destroy()
origin.closeAllConnections()
origin.close()
