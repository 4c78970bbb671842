// Arithmetic over vectors, beside the page: thousands of texts must not freeze it.

const sets = {};

const unit = (from, count, width, dimensions) => {
  const rows = new Float32Array(count * dimensions);
  for (let row = 0; row < count; row++) {
    let sum = 0;
    for (let at = 0; at < dimensions; at++) sum += from[row * width + at] ** 2;
    const scale = sum ? 1 / Math.sqrt(sum) : 0;
    for (let at = 0; at < dimensions; at++) rows[row * dimensions + at] = from[row * width + at] * scale;
  }
  return rows;
};

const cosine = (set, one, other) => {
  const { rows, width } = set;
  let sum = 0;
  for (let at = 0, a = one * width, b = other * width; at < width; at++) sum += rows[a + at] * rows[b + at];
  return sum;
};

const scores = (set, row, first, count) =>
  Float32Array.from({ length: count - first }, (_, number) => cosine(set, row, first + number));

const best = (values, most, except) =>
  Array.from(values.keys()).filter((each) => each !== except)
    .sort((one, other) => values[other] - values[one]).slice(0, most);

// Power iteration on the centred rows; the second direction is kept at a right angle to the first.
const directions = ({ rows, width, count }) => {
  const mean = new Float64Array(width);
  for (let row = 0; row < count; row++) for (let at = 0; at < width; at++) mean[at] += rows[row * width + at] / count;
  const found = [];
  for (let which = 0; which < 2; which++) {
    let direction = Float64Array.from({ length: width }, (_, at) => Math.sin((at + 1) * (which + 1.7)));
    for (let turn = 0; turn < 25; turn++) {
      const next = new Float64Array(width);
      for (let row = 0; row < count; row++) {
        let sum = 0;
        for (let at = 0; at < width; at++) sum += (rows[row * width + at] - mean[at]) * direction[at];
        for (let at = 0; at < width; at++) next[at] += sum * (rows[row * width + at] - mean[at]);
      }
      for (const other of found) {
        const along = next.reduce((sum, value, at) => sum + value * other[at], 0);
        for (let at = 0; at < width; at++) next[at] -= along * other[at];
      }
      const size = Math.hypot(...next) || 1;
      direction = next.map((value) => value / size);
    }
    found.push(direction);
  }
  return { mean, found };
};

const tasks = {
  keep: ({ name, vectors, count, width, dimensions, queries }) => {
    sets[name] = { rows: unit(vectors, count, width, dimensions), count, width: dimensions, queries };
    if (name === "full") sets.raw = { vectors, count, width, queries };
  },
  cut: ({ dimensions }) => {
    const { vectors, count, width, queries } = sets.raw;
    sets.cut = { rows: unit(vectors, count, width, dimensions), count, width: dimensions, queries };
  },
  heat: ({ name, rows, columns }) => {
    const set = sets[name], first = set.queries;
    const values = new Float32Array(rows * columns);
    for (let row = 0; row < rows; row++)
      for (let column = 0; column < columns; column++) values[row * columns + column] = cosine(set, row, first + column);
    return values;
  },
  ranked: ({ row, most }) => {
    const { full, cut } = sets, first = full.queries;
    const exact = scores(full, row, first, full.count), close = scores(cut, row, first, cut.count);
    const except = row >= first ? row - first : -1;
    return best(exact, most, except).map((each) => ({ document: each, full: exact[each], cut: close[each] }));
  },
  agreement: ({ rows }) => {
    const { full, cut } = sets, first = full.queries;
    let kept = 0, asked = 0, moved = 0, pairs = 0;
    for (let row = 0; row < rows; row++) {
      const exact = scores(full, row, first, full.count), close = scores(cut, row, first, cut.count);
      const except = row >= first ? row - first : -1;
      const wanted = new Set(best(exact, 10, except));
      asked += wanted.size;
      kept += best(close, 10, except).filter((each) => wanted.has(each)).length;
      for (let at = 0; at < exact.length; at++) { moved += Math.abs(exact[at] - close[at]); pairs++; }
    }
    return { kept: asked ? kept / asked : 1, moved: pairs ? moved / pairs : 0 };
  },
  map: () => {
    const set = sets.full, { mean, found } = directions(set);
    return Array.from({ length: set.count }, (_, row) => found.map((direction) => {
      let sum = 0;
      for (let at = 0; at < set.width; at++) sum += (set.rows[row * set.width + at] - mean[at]) * direction[at];
      return sum;
    }));
  },
};

self.onmessage = ({ data }) => {
  try {
    self.postMessage({ id: data.id, result: tasks[data.task](data) });
  } catch (error) {
    self.postMessage({ id: data.id, error: String(error) });
  }
};
