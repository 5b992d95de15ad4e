// A long list of which only the rows in sight exist. Arrow keys, Home, End and pages move in it.

const ROW = 62;

class Listbox {
  // `draw(entry)` returns a promise of a row's nodes; `choose(entry)` is told what was chosen
  constructor(host, draw, choose) {
    Object.assign(this, { host, draw, choose, entries: [], at: -1, drawn: new Map() });
    this.space = el("div", { class: "space", role: "presentation" });
    host.replaceChildren(this.space);
    host.addEventListener("scroll", () => this.refresh());
    host.addEventListener("keydown", (event) => this.onkey(event));
    host.addEventListener("click", (event) => {
      const row = event.target.closest("[role=option]");
      if (row) this.go(Number(row.dataset.at), true);
    });
    new ResizeObserver(() => this.refresh()).observe(host);
  }

  set(entries, keep) {
    this.entries = entries;
    for (const node of this.drawn.values()) node.remove();
    this.drawn.clear();
    this.space.style.height = `${entries.length * ROW}px`;
    this.at = keep ? entries.findIndex((e) => e.stage === keep.stage && e.row === keep.row) : -1;
    if (this.at < 0) this.host.scrollTop = 0;
    this.host.removeAttribute("aria-activedescendant");
    this.refresh();
    if (this.at >= 0) this.reveal();
    return this.at >= 0;
  }

  // more of a list that is still being found: what is drawn stays
  grow(entries) {
    this.entries = entries;
    this.space.style.height = `${entries.length * ROW}px`;
    this.refresh();
  }

  get entry() {
    return this.entries[this.at];
  }

  go(at, byHand = false) {
    if (!this.entries.length) return;
    this.at = Math.min(this.entries.length - 1, Math.max(0, at));
    this.reveal();
    this.refresh();
    this.choose(this.entry, byHand);
  }

  reveal() {
    const top = this.at * ROW;
    const { scrollTop, clientHeight } = this.host;
    if (top < scrollTop) this.host.scrollTop = top;
    else if (top + ROW > scrollTop + clientHeight) this.host.scrollTop = top + ROW - clientHeight;
  }

  refresh() {
    const from = Math.max(0, Math.floor(this.host.scrollTop / ROW) - 3);
    const to = Math.min(this.entries.length, from + Math.ceil(this.host.clientHeight / ROW) + 7);
    for (const [at, node] of this.drawn) {
      if (at < from || at >= to) {
        node.remove();
        this.drawn.delete(at);
      }
    }
    for (let at = from; at < to; at += 1) {
      if (!this.drawn.has(at)) this.add(at);
      this.drawn.get(at).setAttribute("aria-selected", String(at === this.at));
    }
    if (this.drawn.has(this.at)) this.host.setAttribute("aria-activedescendant", `option-${this.at}`);
  }

  add(at) {
    const node = el("div", {
      role: "option", id: `option-${at}`, "data-at": at,
      "aria-setsize": this.entries.length, "aria-posinset": at + 1,
    });
    node.style.top = `${at * ROW}px`;
    node.style.height = `${ROW}px`;
    this.drawn.set(at, node);
    this.space.append(node);
    this.draw(this.entries[at]).then((nodes) => node.append(...nodes));
  }

  onkey(event) {
    const page = Math.max(1, Math.floor(this.host.clientHeight / ROW) - 1);
    const to = {
      ArrowDown: this.at + 1, ArrowUp: this.at - 1, PageDown: this.at + page, PageUp: this.at - page,
      Home: 0, End: this.entries.length - 1,
    }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      this.go(to);
    } else if (event.key === "Enter") {
      event.preventDefault();
      $("detail").focus();
    }
  }
}
