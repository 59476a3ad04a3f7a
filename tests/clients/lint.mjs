// What `redocly lint` does, by the library that does it there; its command line brings 200 MB of page maker along.
// Usage: node lint.mjs OPENAPI.json REDOCLY.yaml; prints each problem, and ends with 1 if there is one, warnings included.
import { formatProblems, getTotals, lint, loadConfig } from '@redocly/openapi-core';

const [, , ref, configPath] = process.argv;
const config = await loadConfig({ configPath });
const problems = await lint({ ref, config });
const totals = getTotals(problems);
formatProblems(problems, { format: 'codeframe', totals, version: 'lint' });
console.log(`${ref}: ${totals.errors} errors, ${totals.warnings} warnings`);
process.exit(totals.errors + totals.warnings === 0 ? 0 : 1);
