// The colours of the states differ for each kind of colour blindness, and texts have the contrast
// of WCAG 2.2, in the light and in the dark palette of `style.css`.

import assert from "node:assert/strict";
import fs from "node:fs";
import { test } from "node:test";

const STATES = ["success", "skipped", "failed", "running", "waiting", "delayed"];
/** Least distance of two states, as CIE76 colour difference; 2.3 is just noticeable. */
const LEAST_DISTANCE = 15;
/** https://www.w3.org/TR/WCAG22/#contrast-minimum and #non-text-contrast */
const TEXT_CONTRAST = 4.5;
const SHAPE_CONTRAST = 3;

// Machado, Oliveira, Fernandes 2009: matrices of severity 1.0 on linear RGB.
// https://www.inf.ufrgs.br/~oliveira/pubs_files/CVD_Simulation/CVD_Simulation.html
const VISION = {
  trichromacy: [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
  protanopia: [
    [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
  ],
  deuteranopia: [
    [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
    [-0.01182, 0.04294, 0.968881],
  ],
  tritanopia: [
    [1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
    [0.004733, 0.691367, 0.3039],
  ],
};

function palettes() {
  const path = new URL("../../coordinator/page/style.css", import.meta.url);
  const text = fs.readFileSync(path, "utf8");
  const read = (block) => Object.fromEntries([...block.matchAll(/--([\w-]+): (#[0-9a-f]+);/g)]
    .map(([, name, value]) => [name, linear(value)]));
  const [light, dark] = [...text.matchAll(/:root \{[^}]*\}/g)].map(([block]) => read(block));
  return { light, dark };
}

function linear(hex) {
  const long = hex.length === 4 ? hex.replace(/[0-9a-f]/g, "$&$&") : hex;
  return [1, 3, 5].map((place) => {
    const value = parseInt(long.slice(place, place + 2), 16) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
}

const times = (matrix, colour) => matrix.map((row) => {
  const sum = row.reduce((total, factor, place) => total + factor * colour[place], 0);
  return Math.min(1, Math.max(0, sum));
});

// CIE 1976 L*a*b* with white D65.
const XYZ = [
  [0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505],
];
const WHITE = [0.9505, 1, 1.089];

function lab(colour) {
  const [x, y, z] = XYZ.map((row, axis) => {
    const value = row.reduce((sum, factor, place) => sum + factor * colour[place], 0) / WHITE[axis];
    return value > 0.008856 ? Math.cbrt(value) : 7.787 * value + 16 / 116;
  });
  return [116 * y - 16, 500 * (x - y), 200 * (y - z)];
}

const distance = (one, other) => Math.hypot(...lab(one).map((value, axis) =>
  value - lab(other)[axis]));

const luminance = ([red, green, blue]) => 0.2126 * red + 0.7152 * green + 0.0722 * blue;

function contrast(one, other) {
  const [low, high] = [luminance(one), luminance(other)].sort((first, second) => first - second);
  return (high + 0.05) / (low + 0.05);
}

for (const [palette, colours] of Object.entries(palettes())) {
  for (const [vision, matrix] of Object.entries(VISION)) {
    test(`states differ with ${vision} in the ${palette} palette`, () => {
      for (const [place, one] of STATES.entries()) {
        for (const other of STATES.slice(place + 1)) {
          const far = distance(times(matrix, colours[one]), times(matrix, colours[other]));
          assert.ok(far >= LEAST_DISTANCE, `${one} and ${other}: ${far.toFixed(1)}`);
        }
      }
    });
  }
  test(`texts and frames are readable in the ${palette} palette`, () => {
    for (const name of ["text", "dim", "link", "failed", "mark"]) {
      const found = contrast(colours[name], colours.panel);
      assert.ok(found >= TEXT_CONTRAST, `${name}: ${found.toFixed(2)}`);
    }
    for (const name of ["success", "failed", "focus", "good"]) {
      const found = contrast(colours[name], colours.panel);
      assert.ok(found >= SHAPE_CONTRAST, `${name}: ${found.toFixed(2)}`);
    }
  });
}
