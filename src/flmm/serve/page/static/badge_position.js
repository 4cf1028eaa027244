// The position of a mask's numbered badge.

import { isInside } from "./rle.js";

// As in flmm/answers/overlay.py and legend.py.
const MIN_LONGER_SIDE = 720;
const MAX_OVERLAY_PIXELS = 2500000;

/** Return the scale of a picture's overlay and its font's size, in the overlay's pixels. */
export function overlayScale({ width, height }) {
  const pixels = width * height;
  const enlarged = Math.max(1, MIN_LONGER_SIDE / Math.max(width, height));
  const scale = pixels > MAX_OVERLAY_PIXELS ? Math.sqrt(MAX_OVERLAY_PIXELS / pixels) : enlarged;
  return { scale, fontSize: Math.round(Math.min(Math.max((width * scale) / 34, 16), 34)) };
}

/** Return a badge's radius in pixels of the picture: on the page as in the overlay. */
export function badgeRadius(picture) {
  const { scale, fontSize } = overlayScale(picture);
  return (0.68 * fontSize) / scale;
}

/** The mask's box is sampled on a grid of at most so many cells a side. */
const MAX_CELLS = 72;

/**
 * Find where the badge of a phrase's mask is centred: {x, y} in pixels of the picture.
 *
 * Deep inside a large mask; on the upper edge of a small one, which the badge would hide.
 * null if the mask is empty. `radius`: the badge's, in pixels of the picture.
 */
export function findBadgePosition(phrase, radius) {
  if (phrase.area === 0) return null;
  const [x0, y0, x1, y1] = phrase.box;
  const height = phrase.mask.size[0];
  const cell = Math.max((x1 - x0) / MAX_CELLS, (y1 - y0) / MAX_CELLS, 1);
  const columns = Math.ceil((x1 - x0) / cell);
  const rows = Math.ceil((y1 - y0) / cell);
  const toX = (column) => Math.min(Math.floor(x0 + (column + 0.5) * cell), x1 - 1);
  const toY = (row) => Math.min(Math.floor(y0 + (row + 0.5) * cell), y1 - 1);
  const distances = chessboardDistances(rows, columns, (row, column) =>
    isInside(phrase.runEnds, height, toX(column), toY(row)),
  );
  const deepest = distances.indexOf(Math.max(...distances));
  if (distances[deepest] * cell >= 2.5 * radius) {
    return { x: toX(deepest % columns), y: toY(Math.floor(deepest / columns)) };
  }
  const inside = [...distances.keys()].filter((index) => distances[index] > 0);
  if (inside.length === 0) return { x: (x0 + x1) / 2, y: (y0 + y1) / 2 };
  const row = Math.floor(inside[0] / columns);
  const upper = inside.filter((index) => Math.floor(index / columns) === row);
  return { x: toX(upper[upper.length >> 1] % columns), y: toY(row) };
}

/**
 * Compute each cell's chessboard distance to the nearest cell outside, row by row.
 *
 * One pass forward and one backward; a border of one cell counts as outside.
 */
function chessboardDistances(rows, columns, isCellInside) {
  const stride = columns + 2;
  const padded = new Array(stride * (rows + 2)).fill(0);
  const relax = (index, neighbours) => {
    if (padded[index] > 0) {
      padded[index] = Math.min(
        padded[index],
        ...neighbours.map((offset) => padded[index + offset] + 1),
      );
    }
  };
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const index = (row + 1) * stride + column + 1;
      padded[index] = isCellInside(row, column) ? Infinity : 0;
      relax(index, [-1, -stride - 1, -stride, -stride + 1]);
    }
  }
  const distances = new Array(rows * columns);
  for (let row = rows - 1; row >= 0; row--) {
    for (let column = columns - 1; column >= 0; column--) {
      const index = (row + 1) * stride + column + 1;
      relax(index, [1, stride - 1, stride, stride + 1]);
      distances[row * columns + column] = padded[index];
    }
  }
  return distances;
}
