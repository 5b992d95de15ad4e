// Numbers as people read them, and the scales of axes.

function plain(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (value !== 0 && (size < 1e-3 || size >= 1e6)) {
    return value.toExponential(2).replace(/-/g, "−").replace("e+", "e");
  }
  const decimals = size >= 1000 ? 0 : size >= 100 ? 1 : size >= 10 ? 2 : digits;
  return value.toFixed(decimals).replace("-", "−");
}

const count = (value) => value.toLocaleString("en");

function counted(value, one, many = `${one}s`) {
  return `${count(value)} ${value === 1 ? one : many}`;
}

function seconds(value) {
  if (value === undefined) return "–";
  if (value >= 7200) return `${(value / 3600).toFixed(1)} h`;
  if (value >= 120) return `${(value / 60).toFixed(1)} min`;
  return `${value >= 10 ? value.toFixed(0) : value.toFixed(2)} s`;
}

// round steps of 1, 2 or 5 times a power of ten that cover [low, high] in about `wanted` ticks;
// never many more, even where the steps are too small to be told apart at these values
function ticks(low, high, wanted) {
  const raw = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((times) => times * power >= raw * 0.999);
  const found = [];
  const first = Math.ceil(low / step - 1e-9);
  for (let i = 0; i <= wanted + 1 && (first + i) * step <= high + step * 1e-9; i += 1) {
    found.push(Number(((first + i) * step).toPrecision(12)));
  }
  return { step, values: found };
}

function tickText(value, step) {
  if (Math.abs(value) >= 1e6 || (value !== 0 && step < 1e-4)) {
    return value.toExponential(1).replace(/-/g, "−").replace("e+", "e");
  }
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return value.toFixed(decimals).replace("-", "−");
}

const scale = (from, to, low, high) => (value) =>
  low + ((value - from) / (to - from || 1)) * (high - low);

function mean(values) {
  const known = (values ?? []).filter((value) => value !== null);
  return known.length ? known.reduce((a, b) => a + b, 0) / known.length : null;
}
