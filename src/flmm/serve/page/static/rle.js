// Decode COCO's compressed RLE: runs column by column, alternately outside and inside the mask.

/** Decode the runs' ends as an array of positions x * height + y. mask: {size, counts}. */
export function decodeRunEnds(mask) {
  const lengths = [];
  const { counts } = mask;
  let index = 0;
  while (index < counts.length) {
    let length = 0;
    let shift = 0;
    let code;
    do {
      code = counts.charCodeAt(index++) - 48;
      length |= (code & 31) << shift;
      shift += 5;
    } while (code & 32);
    // Bit 4 of the last character is the sign; from the fourth run on, the code is the difference
    // to the run two before.
    if (code & 16 && shift < 32) length |= -1 << shift;
    if (lengths.length > 2) length += lengths[lengths.length - 2];
    lengths.push(length);
  }
  const ends = new Float64Array(lengths.length);
  let end = 0;
  lengths.forEach((length, run) => (ends[run] = end += length));
  return ends;
}

/** Tell whether a pixel is inside the mask, by binary search. */
export function isInside(runEnds, height, x, y) {
  const position = x * height + y;
  let low = 0;
  let high = runEnds.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (runEnds[middle] <= position) low = middle + 1;
    else high = middle;
  }
  return low % 2 === 1;
}

/** Decode the part of a mask in a box [x0, y0, x1, y1], row by row, 0 or 1 a pixel. */
export function decodeBox(runEnds, height, [x0, y0, x1, y1]) {
  const width = x1 - x0;
  const pixels = new Uint8Array(width * (y1 - y0));
  let run = 0;
  for (let x = x0; x < x1; x++) {
    const column = x * height;
    for (let y = y0; y < y1; y++) {
      while (runEnds[run] <= column + y) run++;
      if (run % 2 === 1) pixels[(y - y0) * width + x - x0] = 1;
    }
  }
  return pixels;
}

/** Encode the runs' ends, those of a whole mask, as COCO's compressed counts. */
function encodeRunEnds(runEnds) {
  const lengths = [...runEnds].map((end, run) => end - (run ? runEnds[run - 1] : 0));
  let counts = "";
  lengths.forEach((length, run) => {
    let code = run > 2 ? length - lengths[run - 2] : length;
    for (let isLast = false; !isLast; ) {
      const bits = code & 31;
      code >>= 5;
      isLast = bits & 16 ? code === -1 : code === 0;
      counts += String.fromCharCode(48 + (isLast ? bits : bits | 32));
    }
  });
  return counts;
}

/**
 * Return {mask, box, area} of a phrase, scaled to a picture of this size by nearest neighbours.
 */
export function scaleMask({ mask, box, area }, width, height) {
  const [ownHeight, ownWidth] = mask.size;
  if (ownHeight === height && ownWidth === width) return { mask, box, area };
  const source = decodeRunEnds(mask);
  // The first row, or column, of the scaled mask that shows a row or column of the source.
  const toRow = (row) => Math.ceil((row * height) / ownHeight - 0.5);
  const toColumn = (column) => Math.ceil((column * width) / ownWidth - 0.5);
  const ends = [0];
  let run = 0;
  let scaledArea = 0;
  const append = (end, isInside) => {
    if (isInside) scaledArea += end - ends.at(-1);
    if ((ends.length % 2 === 0) === isInside) ends[ends.length - 1] = end;
    else ends.push(end);
  };
  for (let column = 0; column < ownWidth; column++) {
    const first = column * ownHeight;
    while (source[run] <= first) run++;
    const edges = [];
    let last = run;
    for (; source[last] < first + ownHeight; last++) edges.push(toRow(source[last] - first));
    edges.push(height);
    for (let x = toColumn(column); x < toColumn(column + 1); x++) {
      edges.forEach((edge, index) => append(x * height + edge, (run + index) % 2 === 1));
    }
    run = last;
  }
  const [x0, y0, x1, y1] = box;
  return {
    mask: { size: [height, width], counts: encodeRunEnds(ends) },
    box: [toColumn(x0), toRow(y0), toColumn(x1), toRow(y1)],
    area: scaledArea,
  };
}
