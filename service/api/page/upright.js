/* A WebP that lies on its side by its EXIF orientation: the service turns it, browsers show it as it lies. */

const MOST_CHUNKS = 64;
const ORIENTATION = 0x0112;
/* By orientation, of a picture of that width and height: where its points come to lie. */
const TURNS = {
  2: (width) => [-1, 0, 0, 1, width, 0],
  3: (width, height) => [-1, 0, 0, -1, width, height],
  4: (width, height) => [1, 0, 0, -1, 0, height],
  5: () => [0, 1, 1, 0, 0, 0],
  6: (width, height) => [0, 1, -1, 0, height, 0],
  7: (width, height) => [0, -1, -1, 0, height, width],
  8: (width) => [0, -1, 1, 0, 0, width],
};

/** A picture of the file the right way up; null where browsers show the file so by themselves, or not at all. */
export async function upright(file) {
  try {
    const orientation = await orientationOf(file);
    return orientation in TURNS ? await turned(file, orientation) : null;
  } catch {
    return null; // it is no picture, or a broken one: the service says so
  }
}

async function turned(file, orientation) {
  const bitmap = await createImageBitmap(file, { imageOrientation: "none" });
  const { width, height } = bitmap;
  const canvas = orientation > 4 ? new OffscreenCanvas(height, width) : new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.setTransform(...TURNS[orientation](width, height));
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return canvas.convertToBlob();
}

const view = async (blob) => new DataView(await blob.arrayBuffer());
const word = (data, at) => String.fromCharCode(...[0, 1, 2, 3].map((byte) => data.getUint8(at + byte)));

/** Of a WebP; undefined for other files, and where nothing is said. */
async function orientationOf(file) {
  const head = await view(file.slice(0, 12));
  if (head.byteLength < 12 || word(head, 0) !== "RIFF" || word(head, 8) !== "WEBP") return undefined;
  let at = 12;
  for (let chunks = 0; chunks < MOST_CHUNKS && at + 8 <= file.size; chunks += 1) {
    const chunk = await view(file.slice(at, at + 8));
    const size = chunk.getUint32(4, true);
    if (word(chunk, 0) === "EXIF") return orientationIn(await view(file.slice(at + 8, at + 8 + size)));
    at += 8 + size + (size % 2);
  }
  return undefined;
}

function orientationIn(exif) {
  const begin = word(exif, 0) === "Exif" ? 6 : 0;
  const isLittle = exif.getUint16(begin) === 0x4949;
  const directory = begin + exif.getUint32(begin + 4, isLittle);
  for (let left = exif.getUint16(directory, isLittle), at = directory + 2; left > 0; left -= 1, at += 12) {
    if (exif.getUint16(at, isLittle) === ORIENTATION) return exif.getUint16(at + 8, isLittle);
  }
  return undefined;
}
