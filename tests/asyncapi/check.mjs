// Validates AsyncAPI documents with AsyncAPI's own parser: node check.mjs FILE...
// Prints one line for each finding and exits 1 when any is an error or a warning.
import { readFile } from "node:fs/promises";
import { DiagnosticSeverity, Parser } from "@asyncapi/parser";

const parser = new Parser();
let failed = false;
for (const file of process.argv.slice(2)) {
  const diagnostics = await parser.validate(await readFile(file, "utf8"), { source: file });
  for (const { severity, code, message, path, range } of diagnostics) {
    const level = DiagnosticSeverity[severity];
    failed ||= severity <= DiagnosticSeverity.Warning;
    console.log(`${file}:${range.start.line + 1}: ${level}: ${code}: ${message} (${path.join(".")})`);
  }
}
process.exitCode = failed ? 1 : 0;
