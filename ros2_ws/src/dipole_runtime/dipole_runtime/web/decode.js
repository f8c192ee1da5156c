// The page's data stand in elements that the browser does not run; all of them are base64 or JSON.

function block(id) {
  return document.getElementById(id).textContent;
}

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  // Twenty times as fast as Uint8Array.from with a function, and there are millions of them.
  for (let index = 0; index < text.length; index += 1) bytes[index] = text.charCodeAt(index);
  return bytes;
}

function floatsOf(base64) {
  // Little-endian, as every machine that runs a browser.
  return new Float32Array(bytesOf(base64).buffer);
}

async function inflated(base64) {
  const stream = new Blob([bytesOf(base64)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

// Texts of a bundle get into the page here alone: as the text of an element or as an attribute's value, never as HTML.
function element(tag, attributes = {}, ...children) {
  const svg = SVG_TAGS.has(tag);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

const SVG_TAGS = new Set(["svg", "g", "rect", "line", "path", "circle", "text"]);

function shown(value, digits = 4) {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  const text = size && (size >= 1e6 || size < 1e-4) ? value.toExponential(2) : String(+value.toPrecision(digits));
  return text.replaceAll("-", "−");
}
