// Encode files in the browser: PNG of a mask, ZIP of several files.

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

function crc32(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = CRC_TABLE[(value ^ byte) & 255] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}

function concatenate(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.length;
  }
  return whole;
}

/** Encode unsigned integers of `size` bytes, 2 or 4, each. */
function encodeIntegers(size, isLittleEndian, values) {
  const view = new DataView(new ArrayBuffer(size * values.length));
  values.forEach((value, index) => {
    if (size === 2) view.setUint16(2 * index, value, isLittleEndian);
    else view.setUint32(4 * index, value, isLittleEndian);
  });
  return new Uint8Array(view.buffer);
}

// PNG is big-endian, ZIP little-endian.
const uint32BE = (...values) => encodeIntegers(4, false, values);
const uint16LE = (...values) => encodeIntegers(2, true, values);
const uint32LE = (...values) => encodeIntegers(4, true, values);

function encodePngChunk(name, content) {
  const body = concatenate([new TextEncoder().encode(name), content]);
  return concatenate([uint32BE(content.length), body, uint32BE(crc32(body))]);
}

/**
 * Encode an 8-bit grey PNG, 255 where `pixels` (row by row) is 1.
 *
 * A canvas writes RGBA and may alter values to hinder fingerprinting; this is exact.
 */
export async function encodeGreyPng(pixels, width, height) {
  // Each row begins with its filter's number; 0 stands for none.
  const rows = new Uint8Array(height * (width + 1));
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) rows[y * (width + 1) + 1 + x] = 255 * pixels[y * width + x];
  }
  const compressed = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
  const header = concatenate([uint32BE(width, height), Uint8Array.of(8, 0, 0, 0, 0)]);
  return concatenate([
    Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a),
    encodePngChunk("IHDR", header),
    encodePngChunk("IDAT", new Uint8Array(await new Response(compressed).arrayBuffer())),
    encodePngChunk("IEND", new Uint8Array()),
  ]);
}

/** Create a ZIP archive without compression; files: [{name, content}]. */
export function createZip(files) {
  const localEntries = [];
  const directoryEntries = [];
  let offset = 0;
  for (const { name, content } of files) {
    const encodedName = new TextEncoder().encode(name);
    // Version 2.0, names in UTF-8, stored, midnight of 1 January 2026.
    const common = concatenate([
      uint16LE(20, 0x800, 0, 0, (46 << 9) | (1 << 5) | 1),
      uint32LE(crc32(content), content.length, content.length),
      uint16LE(encodedName.length, 0),
    ]);
    const localEntry = concatenate([uint32LE(0x04034b50), common, encodedName, content]);
    const location = concatenate([uint16LE(0, 0, 0), uint32LE(0, offset)]);
    directoryEntries.push(
      concatenate([uint32LE(0x02014b50), uint16LE(20), common, location, encodedName]),
    );
    localEntries.push(localEntry);
    offset += localEntry.length;
  }
  const directory = concatenate(directoryEntries);
  const end = concatenate([
    uint32LE(0x06054b50),
    uint16LE(0, 0, files.length, files.length),
    uint32LE(directory.length, offset),
    uint16LE(0),
  ]);
  return concatenate([...localEntries, directory, end]);
}

/** Make the browser save a file. */
export function downloadFile(name, content, mediaType) {
  const url = URL.createObjectURL(new Blob([content], { type: mediaType }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  // Some browsers read the URL only after the click has returned.
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}
