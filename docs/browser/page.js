// Runs an ANN and its SNN with onnxruntime-web and shows what the SNN's neurons fire.
// prepare.py writes the folder of a network; docs/browser.md says how to use it.

const ORT = new URL("ort/node_modules/onnxruntime-web/dist/", import.meta.url);
const MOST_SCORES = 10;
// Milliseconds before the runs that count, of those, and of a group of them at least: where a page
// is not isolated its clock has steps of 0.1 ms.
const TIMES = { warmUp: 500, measured: 600, group: 20 };
// Canvas pixels per value of the input that is drawn.
const FINE = 16;

const element = (id) => document.getElementById(id);

// What is open: its sessions, its description, the samples and the values that are shown.
let network;
let samples = [];
let position = 0;
let shown;
// One thing at a time: a session runs one feed at a time, and the clock should see nothing else.
let work = Promise.resolve();

function inTurn(task) {
  work = work.then(task).catch((error) => say(error.message ?? String(error), true));
  return work;
}

function say(text, wrong = false) {
  element("status").textContent = text;
  element("status").classList.toggle("wrong", wrong);
}

// Loading

async function bytesOf(url) {
  const answer = await fetch(url).catch((error) => {
    throw new Error(`${url}: cannot be loaded (${error.message})`);
  });
  if (!answer.ok) {
    throw new Error(`${url}: cannot be loaded (${answer.status}). Is this the folder that prepare.py wrote?`);
  }
  return new Uint8Array(await answer.arrayBuffer());
}

function parse(bytes, what) {
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    throw new Error(`${what}: is not JSON`);
  }
}

async function runtime() {
  const ort = await import(new URL("ort.wasm.min.mjs", ORT)).catch(() => {
    throw new Error(`${ORT}: onnxruntime-web is not there; npm install --prefix ort onnxruntime-web (docs/browser.md)`);
  });
  ort.env.wasm.wasmPaths = ORT.href;
  ort.env.wasm.numThreads = 1;
  ort.env.logLevel = "error";
  return ort;
}

async function open(folder) {
  element("result").hidden = true;
  for (const session of Object.values(network?.sessions ?? {})) await session.release();
  network = undefined;
  say(`loading ${folder}`);
  const at = (file) => new URL(file, new URL(`${folder.replace(/\/+$/, "")}/`, document.baseURI));
  const described = parse(await bytesOf(at("network.json")), at("network.json"));
  const given = parse(await bytesOf(at("samples.json")), at("samples.json"));
  const ort = await runtime();
  const sessions = {};
  const sizes = {};
  for (const name of ["ann", "snn", "spikes"]) {
    const model = await bytesOf(at(`${name}.onnx`));
    sizes[name] = model.length;
    try {
      sessions[name] = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
    } catch (error) {
      throw new Error(`${at(`${name}.onnx`)}: onnxruntime-web cannot run it: ${error.message ?? error}`);
    }
  }
  network = { ...described, folder, ort, sessions, sizes };
  samples = checked(given, "samples.json");
  position = 0;
  prepareDrawing();
  element("result").hidden = false;
  await show(samples[0].values, caption());
  await measure();
}

// Samples, each with as many values as the input has.
function checked(given, what) {
  const count = network.input.shape.reduce((product, dim) => product * dim, 1);
  const fits = (sample) => Array.isArray(sample?.values) && sample.values.length === count;
  if (!Array.isArray(given?.samples) || !given.samples.length || !given.samples.every(fits)) {
    throw new Error(`${what}: expected {"samples": [{"values": [${count} numbers], "label": 0}, ...]}`);
  }
  return given.samples;
}

function caption() {
  const { label } = samples[position];
  return `sample ${position}${label === undefined ? "" : `, label ${label}`}`;
}

// Running

function feed(values) {
  const { ort, input } = network;
  return { [input.name]: new ort.Tensor("float32", Float32Array.from(values), [1, ...input.shape]) };
}

async function show(values, title) {
  shown = values;
  const { sessions, output, neurons } = network;
  const [ann, spikes] = [await sessions.ann.run(feed(values)), await sessions.spikes.run(feed(values))];
  const snn = await sessions.snn.run(feed(values));
  paint(element("seen"), picture(values, network.input));
  element("shown").textContent = title;
  showScores(Array.from(ann[output].data, Number), Array.from(snn[output].data, Number));
  showLayers(neurons.map(({ name, output: key }) => layer(name, spikes[key])));
  say(`${network.folder}: ${title}`);
}

async function measure() {
  const { sessions, folder } = network;
  const inputs = feed(shown);
  say(`${folder}: measuring`);
  const times = { ann: [], snn: [] };
  const group = {};
  for (const name of ["ann", "snn"]) {
    // By time, not by count: the browser compiles the hot functions a second time meanwhile.
    const start = performance.now();
    let runs = 0;
    for (; performance.now() - start < TIMES.warmUp; runs++) await sessions[name].run(inputs);
    group[name] = Math.max(1, Math.ceil((TIMES.group * runs) / (performance.now() - start)));
  }
  const begin = performance.now();
  while (times.snn.length < 5 || performance.now() - begin < 2 * TIMES.measured) {
    for (const name of ["ann", "snn"]) {
      const start = performance.now();
      for (let i = 0; i < group[name]; i++) await sessions[name].run(inputs);
      times[name].push((performance.now() - start) / group[name]);
    }
  }
  const [ann, snn] = [median(times.ann), median(times.snn)];
  element("latency").replaceChildren(
    cell("span", `ANN ${figures(ann)} ms`, "ann"), ", ",
    cell("span", `SNN ${figures(snn)} ms`, "snn"), `: ${(snn / ann).toFixed(2)} of the ANN. `,
    `Median of ${times.ann.length} groups of runs, one thread. `,
    `Files: ${figures(network.sizes.ann / 1000)} kB and ${figures(network.sizes.snn / 1000)} kB.`,
  );
  say(`${folder}: ready`);
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
}

// Three digits that count, and no exponent of large numbers.
const figures = (value) => (value < 1000 ? value.toPrecision(3) : value.toFixed(0));

// What a neuron node fired: k at each value, of either sign.
function layer(name, { data, dims }) {
  let [spikes, silent] = [0, 0];
  for (const k of data) {
    spikes += Math.abs(k);
    silent += k === 0;
  }
  return { name, data, dims, spikes, neurons: data.length, mean: spikes / data.length, silent: silent / data.length };
}

// Showing

function cell(tag, content, kind = "") {
  const made = document.createElement(tag);
  made.className = kind;
  made.append(content);
  return made;
}

function bar(kind, from, to) {
  const made = cell("div", document.createElement("i"), `bar ${kind}`);
  made.firstChild.style.left = `${100 * Math.min(from, to)}%`;
  made.firstChild.style.width = `${100 * Math.abs(to - from)}%`;
  return made;
}

const largest = (values) => values.reduce((best, value, i) => (value > values[best] ? i : best), 0);

function showScores(ann, snn) {
  let classes = [...snn.keys()];
  if (classes.length > MOST_SCORES) {
    classes = classes.sort((a, b) => snn[b] - snn[a]).slice(0, MOST_SCORES);
  }
  const values = classes.flatMap((i) => [ann[i], snn[i]]);
  const low = Math.min(0, ...values);
  const range = Math.max(0, ...values) - low || 1;
  const [first, second] = [largest(ann), largest(snn)];
  const rows = classes.map((i) => {
    const bars = cell("td", bar("ann", -low / range, (ann[i] - low) / range), "bars");
    bars.append(bar("snn", -low / range, (snn[i] - low) / range));
    const number = (scores, best) => cell("td", scores[i].toPrecision(4), i === best ? "largest" : "");
    const row = cell("tr", cell("th", String(i), "name"));
    row.append(bars, number(ann, first), number(snn, second));
    return row;
  });
  element("scores").replaceChildren(...rows);
}

function showLayers(layers) {
  const most = Math.max(...layers.map(({ mean }) => mean)) || 1;
  const rows = layers.map(({ name, data, dims, spikes, neurons, mean, silent }) => {
    const map = cell("canvas", "", "map");
    paint(map, heat(data, dims));
    const bars = cell("td", bar("snn", 0, mean / most), "bars");
    bars.append(bar("silent", 0, silent));
    const row = cell("tr", cell("th", name, "name"));
    row.append(cell("td", map), bars);
    for (const text of [neurons, spikes, mean.toFixed(2), `${(100 * silent).toFixed(1)} %`]) {
      row.append(cell("td", String(text)));
    }
    return row;
  });
  element("layers").replaceChildren(...rows);
}

// A picture: its height, width and colour at a pixel, each part from 0 to 1.

// The last two axes; where there is one, its values in the rows of a square.
function plane(dims, count) {
  if (dims.length > 1) return dims.slice(-2);
  const width = Math.ceil(Math.sqrt(count));
  return [Math.ceil(count / width), width];
}

function picture(values, { shape, low, high }) {
  const [height, width] = plane(shape, values.length);
  const size = height * width;
  const planes = Math.max(1, Math.floor(values.length / size));
  const part = (i) => ((values[i] ?? low) - low) / (high - low || 1);
  const mean = (pixel) => {
    let sum = 0;
    for (let i = 0; i < planes; i++) sum += part(i * size + pixel);
    return sum / planes;
  };
  const colour = (pixel) =>
    planes === 3 ? [0, 1, 2].map((i) => part(i * size + pixel)) : Array(3).fill(mean(pixel));
  return { height, width, colour };
}

// |k|, the mean over all axes but the last two.
function heat(data, dims) {
  const [height, width] = plane(dims.length > 2 ? dims : dims.slice(1), data.length);
  const sums = new Float64Array(height * width);
  data.forEach((k, i) => (sums[i % sums.length] += Math.abs(k)));
  const most = sums.reduce((a, b) => Math.max(a, b), 0) || 1;
  const colour = (pixel) => {
    const share = sums[pixel] / most;
    return [share, 0.8 * share ** 1.5, 0.4 * share ** 3];
  };
  return { height, width, colour };
}

function paint(canvas, { height, width, colour }) {
  [canvas.height, canvas.width] = [height, width];
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let pixel = 0; pixel < height * width; pixel++) {
    const [red, green, blue] = colour(pixel);
    image.data.set([255 * red, 255 * green, 255 * blue, 255], 4 * pixel);
  }
  context.putImageData(image, 0, 0);
}

// Drawing

function prepareDrawing() {
  const { shape } = network.input;
  const [height, width] = shape.slice(-2);
  const values = shape.reduce((product, dim) => product * dim, 1);
  // An input of one picture.
  element("drawing").hidden = element("clear").hidden = shape.length < 2 || values !== height * width;
  const ink = element("ink");
  [ink.height, ink.width] = [FINE * height, FINE * width];
}

function stroke(event) {
  const ink = element("ink");
  const scale = ink.width / ink.clientWidth;
  const [x, y] = [event.offsetX * scale, event.offsetY * (ink.height / ink.clientHeight)];
  const context = ink.getContext("2d", { willReadFrequently: true });
  context.strokeStyle = "#fff";
  context.lineCap = context.lineJoin = "round";
  context.lineWidth = ink.height / 10;
  context.beginPath();
  context.moveTo(...(ink.last ?? [x, y]));
  context.lineTo(x, y);
  context.stroke();
  ink.last = [x, y];
}

// The drawing as the bundled digits are made: cropped to its ink, as large as fits, in the middle,
// and each value the share of its square that is ink.
function drawn() {
  const ink = element("ink");
  const [height, width] = network.input.shape.slice(-2);
  const { low, high } = network.input;
  const alpha = ink.getContext("2d").getImageData(0, 0, ink.width, ink.height).data.filter((_, i) => i % 4 === 3);
  let [left, right, top, bottom] = [ink.width, -1, ink.height, -1];
  alpha.forEach((a, i) => {
    if (a < 128) return;
    const [x, y] = [i % ink.width, Math.floor(i / ink.width)];
    [left, right] = [Math.min(left, x), Math.max(right, x)];
    [top, bottom] = [Math.min(top, y), Math.max(bottom, y)];
  });
  if (right < 0) return undefined;
  const [tall, wide] = [bottom - top + 1, right - left + 1];
  const zoom = Math.min(ink.height / tall, ink.width / wide);
  const fitted = new OffscreenCanvas(ink.width, ink.height).getContext("2d");
  const [x, y] = [(ink.width - wide * zoom) / 2, (ink.height - tall * zoom) / 2];
  fitted.drawImage(ink, left, top, wide, tall, x, y, wide * zoom, tall * zoom);
  const pixels = fitted.getImageData(0, 0, ink.width, ink.height).data;
  const sums = new Float64Array(height * width);
  for (let i = 0; i < ink.width * ink.height; i++) {
    const row = Math.floor(i / ink.width / FINE);
    sums[row * width + Math.floor((i % ink.width) / FINE)] += pixels[4 * i + 3] / 255;
  }
  return Array.from(sums, (sum) => low + ((high - low) * sum) / FINE ** 2);
}

// What the reader does

function step(by) {
  return inTurn(() => {
    position = (position + by + samples.length) % samples.length;
    return show(samples[position].values, caption());
  });
}

element("previous").onclick = () => step(-1);
element("next").onclick = () => step(1);
element("measure").onclick = () => inTurn(measure);
element("clear").onclick = () => element("ink").getContext("2d").clearRect(0, 0, 1e4, 1e4);
element("file").onchange = ({ target }) =>
  inTurn(async () => {
    const [file] = target.files;
    if (!file) return;
    samples = checked(parse(new Uint8Array(await file.arrayBuffer()), file.name), file.name);
    position = 0;
    await show(samples[0].values, caption());
  });
element("ink").onpointerdown = (event) => {
  event.target.setPointerCapture(event.pointerId);
  event.target.last = undefined;
  stroke(event);
};
element("ink").onpointermove = (event) => event.buttons && stroke(event);
element("ink").onpointerup = () =>
  inTurn(async () => {
    const values = drawn();
    if (values) await show(values, "drawing");
  });
element("open").onsubmit = (event) => {
  event.preventDefault();
  const folder = element("model").value.trim();
  history.replaceState(null, "", `?model=${encodeURIComponent(folder)}`);
  if (folder) inTurn(() => open(folder));
};

const asked = new URLSearchParams(location.search).get("model");
if (asked) {
  element("model").value = asked;
  inTurn(() => open(asked));
} else {
  say("Give the folder of a network, as prepare.py wrote it, beside this page.");
}
