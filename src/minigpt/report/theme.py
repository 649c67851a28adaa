"""How the HTML page looks, by day and by night."""

CSS = """\
:root {
  color-scheme: light dark;
  --paper: #fdfcf9; --ink: #24211d; --quiet: #6c655d; --line: #e5e0d7; --shade: #f4f1ea; --accent: #d55e00;
}
@media (prefers-color-scheme: dark) {
  :root { --paper: #191817; --ink: #e9e5de; --quiet: #a39c92; --line: #37342f; --shade: #24221f; --accent: #f08a3c; }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 1.0625rem/1.6 Charter, "Bitstream Charter", "Sitka Text", Cambria, Georgia, serif;
  -webkit-text-size-adjust: 100%;
}
main { max-width: 47rem; margin: 0 auto; padding: 3rem 1.25rem 5rem; }
h1, h2, caption, table, footer, .note { font-family: system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1.25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 3rem 0 1rem; }
.note { color: var(--quiet); font-size: .875rem; line-height: 1.5; }
figure {
  margin: 2rem 0 0; padding: 1rem; overflow-x: auto; background: #fff;
  border: 1px solid var(--line); border-radius: .5rem;
}
figure svg { display: block; width: 100%; min-width: 32rem; height: auto; }
blockquote { margin: 0 0 1.75rem; padding: 0 0 0 1.1rem; border-left: 3px solid var(--accent); }
blockquote p { margin: 0; white-space: pre-line; overflow-wrap: anywhere; }
footer { margin-top: .4rem; color: var(--quiet); font-size: .8rem; }
.tables { columns: 2 19rem; column-gap: 2.5rem; }
table {
  width: 100%; margin: 0 0 2rem; border-collapse: collapse; break-inside: avoid; font-size: .84rem; line-height: 1.4;
}
caption { padding-bottom: .4rem; text-align: left; font-size: .95rem; font-weight: 600; }
th, td { padding: .3rem 0; border-top: 1px solid var(--line); vertical-align: top; text-align: left; }
th { width: 42%; padding-right: .75rem; color: var(--quiet); font-weight: 400; overflow-wrap: anywhere; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
pre {
  margin: -.5rem 0 1.25rem; padding: .75rem 1rem; background: var(--shade);
  white-space: pre-wrap; overflow-wrap: anywhere;
  border-radius: .4rem; font: .84rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace;
}
"""
