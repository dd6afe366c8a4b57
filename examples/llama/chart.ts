import { createRequire } from "node:module";
import { writeFileAtomically } from "@lazuli/lazy-tensor";
import { Resvg } from "@resvg/resvg-js";
import { parse, View } from "vega";
import { compile, type TopLevelSpec } from "vega-lite";

export interface LossPoint {
  readonly step: number;
  readonly loss: number;
  readonly series: "train" | "validation";
}

/** Named and given by file, so that a machine without fonts still writes labels. */
const FONT = "DejaVu Sans";
const fontFiles = ["DejaVuSans.ttf", "DejaVuSans-Bold.ttf"].map((name) =>
  createRequire(import.meta.url).resolve(`dejavu-fonts-ttf/ttf/${name}`),
);

const specOf = (points: readonly LossPoint[], title: string): TopLevelSpec => ({
  $schema: "https://vega.github.io/schema/vega-lite/v6.json",
  title,
  width: 640,
  height: 360,
  background: "white",
  padding: 12,
  data: { values: [...points] },
  encoding: {
    x: { field: "step", type: "quantitative", title: "step" },
    y: { field: "loss", type: "quantitative", title: "loss (nats per byte)", scale: { zero: false } },
    color: {
      field: "series",
      type: "nominal",
      title: null,
      scale: { domain: ["train", "validation"], range: ["#9ecae1", "#d62728"] },
    },
  },
  layer: [
    { transform: [{ filter: "datum.series === 'train'" }], mark: { type: "line", strokeWidth: 1.2 } },
    {
      transform: [{ filter: "datum.series === 'validation'" }],
      mark: { type: "line", point: true, strokeWidth: 2 },
    },
  ],
  config: { font: FONT },
});

/** Draws a loss curve and writes it as `<path>.svg` and `<path>.png`. */
export async function drawLosses(path: string, points: readonly LossPoint[], title: string): Promise<void> {
  const { spec } = compile(specOf(points, title));
  const svg = await new View(parse(spec), { renderer: "none" }).toSVG();
  await writeFileAtomically(`${path}.svg`, svg);
  const font = { fontFiles, loadSystemFonts: false, defaultFontFamily: FONT };
  await writeFileAtomically(
    `${path}.png`,
    new Resvg(svg, { fitTo: { mode: "zoom", value: 2 }, font }).render().asPng(),
  );
}
