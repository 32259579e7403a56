// What is painted over a picture: strokes of a round brush, and which pixels they cover.

/** A mask of width x height pixels. Strokes are kept, so that the last one can be taken back. */
export class Strokes {
  constructor(width, height) {
    Object.assign(this, { width, height, done: [], covered: new Uint8Array(width * height) });
  }

  /** Begins a stroke `size` pixels wide; `erases` takes away what is painted. */
  begin(size, erases) {
    this.done.push({ radius: size / 2, erases, points: [] });
  }

  /** Goes on with the stroke to a place in pixels of the picture. */
  to(x, y) {
    const stroke = this.done.at(-1);
    stroke.points.push([x, y]);
    this.#paint(stroke, stroke.points.at(-2) ?? [x, y], [x, y]);
  }

  /** Takes the last stroke back. */
  undo() {
    this.done.pop();
    this.covered.fill(0);
    for (const stroke of this.done) {
      if (!stroke.points.length) this.covered.fill(0);
      stroke.points.forEach((point, i) => this.#paint(stroke, stroke.points[i - 1] ?? point, point));
    }
  }

  /** Takes all away, which can be taken back too: it is a stroke without points. */
  clear() {
    this.done.push({ points: [] });
    this.covered.fill(0);
  }

  /** The share of the picture that is painted. */
  get share() {
    return this.covered.reduce((sum, one) => sum + one, 0) / this.covered.length;
  }

  /** Covers the pixels whose middle is within the radius of the way between two places, and those of its ends. */
  #paint({ radius, erases }, from, to) {
    const value = erases ? 0 : 1;
    const [left, right] = this.#span(from[0], to[0], radius, this.width);
    const [top, bottom] = this.#span(from[1], to[1], radius, this.height);
    for (let y = top; y < bottom; y++) {
      for (let x = left; x < right; x++) {
        if (distance(x + 0.5, y + 0.5, from, to) <= radius) this.covered[y * this.width + x] = value;
      }
    }
    const [x, y] = to.map(Math.floor);
    if (x >= 0 && y >= 0 && x < this.width && y < this.height) this.covered[y * this.width + x] = value;
  }

  #span(one, other, radius, most) {
    const first = Math.floor(Math.min(one, other) - radius);
    return [Math.max(0, first), Math.min(most, Math.ceil(Math.max(one, other) + radius))];
  }
}

/** From a point to the line that ends at two places. */
function distance(x, y, [x0, y0], [x1, y1]) {
  const [dx, dy] = [x1 - x0, y1 - y0];
  const along = dx || dy ? ((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy) : 0;
  const t = Math.min(1, Math.max(0, along));
  return Math.hypot(x - x0 - t * dx, y - y0 - t * dy);
}
