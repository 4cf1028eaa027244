// Where a mask's number stands: deep inside a large mask, on the upper edge of a small one.

import { isInside } from "./run_lengths.js";

const CELLS = 72;

/** {x, y} in pixels of the picture; null where the mask is empty. `radius`: of the badge. */
export function badgePlace(phrase, radius) {
  if (phrase.area === 0) return null;
  const [x0, y0, x1, y1] = phrase.box;
  const height = phrase.mask.size[0];
  const cell = Math.max((x1 - x0) / CELLS, (y1 - y0) / CELLS, 1);
  const columns = Math.ceil((x1 - x0) / cell);
  const rows = Math.ceil((y1 - y0) / cell);
  const xs = (column) => Math.min(Math.floor(x0 + (column + 0.5) * cell), x1 - 1);
  const ys = (row) => Math.min(Math.floor(y0 + (row + 0.5) * cell), y1 - 1);
  const depth = depths(rows, columns, (row, column) =>
    isInside(phrase.ends, height, xs(column), ys(row)),
  );
  const deepest = depth.indexOf(Math.max(...depth));
  if (depth[deepest] * cell >= 2.5 * radius) {
    return { x: xs(deepest % columns), y: ys(Math.floor(deepest / columns)) };
  }
  const inside = [...depth.keys()].filter((at) => depth[at] > 0);
  if (inside.length === 0) return { x: (x0 + x1) / 2, y: (y0 + y1) / 2 };
  const row = Math.floor(inside[0] / columns);
  const upper = inside.filter((at) => Math.floor(at / columns) === row);
  return { x: xs(upper[upper.length >> 1] % columns), y: ys(row) };
}

/** Each cell's distance to the nearest one outside, in steps of a chess king. */
function depths(rows, columns, inside) {
  const wide = columns + 2;
  const found = new Array(wide * (rows + 2)).fill(0);
  const spread = (at, around) => {
    if (found[at] > 0) found[at] = Math.min(found[at], ...around.map((one) => found[at + one] + 1));
  };
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const at = (row + 1) * wide + column + 1;
      found[at] = inside(row, column) ? Infinity : 0;
      spread(at, [-1, -wide - 1, -wide, -wide + 1]);
    }
  }
  const result = new Array(rows * columns);
  for (let row = rows - 1; row >= 0; row--) {
    for (let column = columns - 1; column >= 0; column--) {
      const at = (row + 1) * wide + column + 1;
      spread(at, [1, wide - 1, wide, wide + 1]);
      result[row * columns + column] = found[at];
    }
  }
  return result;
}
