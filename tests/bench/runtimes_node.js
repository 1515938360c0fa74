// Runs one network in onnxruntime-node for bench_runtimes.py, one thread.
// The request is a file of JSON, its path the argument: model, feeds and seconds, as bench_web.html
// has them. The answer is a line of JSON: outputs of each feed, and CPU seconds of a run.
const fs = require("node:fs");
const ort = require("onnxruntime-node");

function seconds(since) {
  const { user, system } = process.cpuUsage(since);
  return (user + system) / 1e6;
}

async function main() {
  const request = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
  const options = { intraOpNumThreads: 1, interOpNumThreads: 1, logSeverityLevel: 3 };
  const session = await ort.InferenceSession.create(request.model, options);
  const samples = request.feeds.map((feed) =>
    Object.fromEntries(
      Object.entries(feed).map(([name, { shape, values }]) => [
        name,
        new ort.Tensor("float32", Float32Array.from(values), shape),
      ]),
    ),
  );
  const outputs = [];
  for (const sample of samples) {
    const results = await session.run(sample);
    outputs.push(session.outputNames.map((name) => Array.from(results[name].data)));
  }
  // The CPU clock's steps are those of a microsecond, and other threads of the process count.
  const begin = process.cpuUsage();
  let runs = 0;
  for (; runs < 5 || seconds(begin) < request.seconds; runs++) await session.run(samples[0]);
  console.log(JSON.stringify({ outputs, seconds: seconds(begin) / runs }));
}

main().catch((error) => console.log(JSON.stringify({ error: String(error) })));
