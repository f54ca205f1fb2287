// Elements and numbers. Text only ever enters the page as text nodes.

const SVG = "http://www.w3.org/2000/svg";

/** The element of an id. */
export const byId = (id) => document.getElementById(id);

/** An element with attributes and children; strings among the children become text. */
export function el(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** The same for SVG. */
export function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Show a text in an element that is hidden while there is none. */
export function say(element, text) {
  element.textContent = text;
  element.hidden = !text;
}

/** A number with a true minus; a plus in front of it where `sign`. */
export function number(value, digits = 2, sign = false) {
  if (value === null || value === undefined) return "–";
  const text = Math.abs(value).toFixed(digits);
  if (Number(text) === 0) return text;
  return (value < 0 ? "−" : sign ? "+" : "") + text;
}

/** As many digits as a figure of that size deserves. */
export function figure(value, sign = false) {
  const size = Math.abs(value ?? 0);
  if (size > 0 && size < 0.001) return value.toExponential(1).replaceAll("-", "−");
  return number(value, Number.isInteger(value) || size >= 1000 ? 0 : size >= 10 ? 1 : 3, sign);
}
