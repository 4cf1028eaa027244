// Files made in the page: PNG of a mask, ZIP of several files.

const CRC = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

function crc32(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = CRC[(value ^ byte) & 255] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}

function joined(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function numbers(bytes, isLittle, values) {
  const view = new DataView(new ArrayBuffer(bytes * values.length));
  values.forEach((value, at) => {
    if (bytes === 2) view.setUint16(2 * at, value, isLittle);
    else view.setUint32(4 * at, value, isLittle);
  });
  return new Uint8Array(view.buffer);
}

const short = (...values) => numbers(2, true, values);
const long = (...values) => numbers(4, true, values);

function chunk(name, content) {
  const body = joined([new TextEncoder().encode(name), content]);
  return joined([numbers(4, false, [content.length]), body, numbers(4, false, [crc32(body)])]);
}

/** An 8-bit grey PNG, 255 where `pixels` (row by row) is 1. Exact, unlike a canvas' own. */
export async function greyPng(pixels, width, height) {
  const rows = new Uint8Array(height * (width + 1));
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) rows[y * (width + 1) + 1 + x] = 255 * pixels[y * width + x];
  }
  const packed = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
  const header = joined([numbers(4, false, [width, height]), Uint8Array.of(8, 0, 0, 0, 0)]);
  return joined([
    Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a),
    chunk("IHDR", header),
    chunk("IDAT", new Uint8Array(await new Response(packed).arrayBuffer())),
    chunk("IEND", new Uint8Array()),
  ]);
}

/** A ZIP, nothing packed further; files: [{name, content}]. */
export function zipped(files) {
  const bodies = [];
  const listed = [];
  let offset = 0;
  for (const { name, content } of files) {
    const named = new TextEncoder().encode(name);
    // Version 2.0, names in UTF-8, stored, 1 January 2026.
    const common = joined([
      short(20, 0x800, 0, 0, (46 << 9) | (1 << 5) | 1),
      long(crc32(content), content.length, content.length),
      short(named.length, 0),
    ]);
    const body = joined([long(0x04034b50), common, named, content]);
    const place = joined([short(0, 0, 0), long(0, offset)]);
    listed.push(joined([long(0x02014b50), short(20), common, place, named]));
    bodies.push(body);
    offset += body.length;
  }
  const list = joined(listed);
  const end = joined([
    long(0x06054b50),
    short(0, 0, files.length, files.length),
    long(list.length, offset),
    short(0),
  ]);
  return joined([...bodies, list, end]);
}

/** Lets the browser save a file. */
export function save(name, content, kind) {
  const url = URL.createObjectURL(new Blob([content], { type: kind }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}
