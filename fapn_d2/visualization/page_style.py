"""Style sheet of report pages: one column, light or dark as the reader's system is, narrower rows on phones."""

STYLE = """\
:root {
  --ink: #1c1e24; --soft: #5d6370; --paper: #fbfaf8; --card: #ffffff; --rule: #dedcd6;
  --first: #c2571a; --second: #1f63c4; --code: #efede8;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e9e7e2; --soft: #a0a4ae; --paper: #14161a; --card: #1c1f25; --rule: #343841;
    --first: #f2955a; --second: #78aef7; --code: #262a32;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 17px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: clamp(20px, 4vw, 56px) clamp(14px, 4vw, 40px) 64px; }
h1 { font-size: clamp(1.7rem, 4.6vw, 2.6rem); line-height: 1.15; margin: 0 0 .5em; letter-spacing: -.015em; }
h2 { font-size: clamp(1.2rem, 3vw, 1.5rem); line-height: 1.25; margin: 0 0 .5em; }
p { margin: 0 0 1em; max-width: 46em; }
.lead { font-size: 1.1em; color: var(--soft); }
section { border-top: 1px solid var(--rule); padding-top: 1.6em; margin-top: 2.2em; }
code { background: var(--code); padding: .1em .35em; border-radius: 4px; font-size: .86em; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: 0 0 1em; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .55em .7em; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th:first-child { text-align: left; }
thead th { font-size: .82em; color: var(--soft); font-weight: 600; }
tbody th::before {
  content: ""; display: inline-block; width: .75em; height: .75em; border-radius: 3px;
  background: currentColor; margin-right: .5em;
}
th.line-0 { color: var(--first); }
th.line-1 { color: var(--second); }
.pictures { margin: 0 0 1.2em; }
.row { display: grid; gap: 10px; grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); margin-bottom: 18px; }
figure { margin: 0; min-width: 0; }
img { display: block; width: 100%; height: auto; border-radius: 6px; background: var(--rule); }
figcaption { font-size: .82em; line-height: 1.35; color: var(--soft); margin-top: .35em; }
.legend {
  list-style: none; display: flex; flex-wrap: wrap; gap: .3em 1.1em; padding: 0; margin: 0 0 1.1em; font-size: .88em;
}
.legend i {
  display: inline-block; width: .85em; height: .85em; border-radius: 3px; margin-right: .4em; vertical-align: -.07em;
}
.charts { display: grid; gap: 18px; grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); margin: 0 0 1em; }
.charts figure { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 10px 12px 6px; }
.charts figcaption { margin: 0 0 4px; font-weight: 600; color: var(--ink); }
svg { display: block; width: 100%; height: auto; }
.grid { stroke: var(--rule); stroke-width: 1; }
.tick { fill: var(--soft); font-size: 10.5px; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
path.line-0 { stroke: var(--first); }
path.line-1 { stroke: var(--second); }
dl {
  display: grid; grid-template-columns: minmax(7em, max-content) minmax(0, 1fr); gap: .35em 1.2em; margin: 0;
  font-size: .92em;
}
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 640px) {
  body { font-size: 16px; }
  .row { grid-template-columns: repeat(var(--columns-phone), minmax(0, 1fr)); gap: 8px; }
  dl { grid-template-columns: minmax(0, 1fr); gap: 0; }
  dd { margin-bottom: .6em; }
}
"""
