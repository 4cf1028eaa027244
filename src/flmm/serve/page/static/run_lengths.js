// COCO's compressed run lengths: column by column, outside and inside by turns.

/** Where each run ends, as an array of positions x * height + y. */
export function runEnds(mask) {
  const lengths = [];
  const { counts } = mask;
  let at = 0;
  while (at < counts.length) {
    let length = 0;
    let shift = 0;
    let code;
    do {
      code = counts.charCodeAt(at++) - 48;
      length |= (code & 31) << shift;
      shift += 5;
    } while (code & 32);
    // The sixth bit of the last letter is the sign, and from the fourth run on the difference to
    // the run two before is written.
    if (code & 16 && shift < 32) length |= -1 << shift;
    if (lengths.length > 2) length += lengths[lengths.length - 2];
    lengths.push(length);
  }
  const ends = new Float64Array(lengths.length);
  let end = 0;
  lengths.forEach((length, index) => (ends[index] = end += length));
  return ends;
}

/** Whether a pixel is inside. */
export function isInside(ends, height, x, y) {
  const place = x * height + y;
  let low = 0;
  let high = ends.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ends[middle] <= place) low = middle + 1;
    else high = middle;
  }
  return low % 2 === 1;
}

/** The part of a mask in a box [x0, y0, x1, y1], row by row, 0 or 1 a pixel. */
export function pixelsIn(ends, height, [x0, y0, x1, y1]) {
  const width = x1 - x0;
  const pixels = new Uint8Array(width * (y1 - y0));
  let run = 0;
  for (let x = x0; x < x1; x++) {
    const column = x * height;
    for (let y = y0; y < y1; y++) {
      while (ends[run] <= column + y) run++;
      if (run % 2 === 1) pixels[(y - y0) * width + x - x0] = 1;
    }
  }
  return pixels;
}
