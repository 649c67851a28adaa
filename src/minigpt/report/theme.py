"""The style sheet of the HTML report, with a light and a dark color scheme."""

CSS = """\
:root {
  color-scheme: light dark;
  --background: #fdfcf9; --text: #24211d; --muted: #6c655d; --border: #e5e0d7; --code: #f4f1ea; --accent: #d55e00;
}
@media (prefers-color-scheme: dark) {
  :root { --background: #191817; --text: #e9e5de; --muted: #a39c92; --border: #37342f; --code: #24221f; --accent: #f08a3c; }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--background); color: var(--text);
  font: 1.0625rem/1.6 Charter, "Bitstream Charter", "Sitka Text", Cambria, Georgia, serif;
  -webkit-text-size-adjust: 100%;
}
main { max-width: 47rem; margin: 0 auto; padding: 3rem 1.25rem 5rem; }
h1, h2, caption, table, footer, .note { font-family: system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1.25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 3rem 0 1rem; }
.note { color: var(--muted); font-size: .875rem; line-height: 1.5; }
figure {
  margin: 2rem 0 0; padding: 1rem; overflow-x: auto; background: #fff;
  border: 1px solid var(--border); border-radius: .5rem;
}
figure svg { display: block; width: 100%; min-width: 32rem; height: auto; }
blockquote { margin: 0 0 1.75rem; padding: 0 0 0 1.1rem; border-left: 3px solid var(--accent); }
blockquote p { margin: 0; white-space: pre-line; overflow-wrap: anywhere; }
footer { margin-top: .4rem; color: var(--muted); font-size: .8rem; }
.tables { columns: 2 19rem; column-gap: 2.5rem; }
table {
  width: 100%; margin: 0 0 2rem; border-collapse: collapse; break-inside: avoid; font-size: .84rem; line-height: 1.4;
}
caption { padding-bottom: .4rem; text-align: left; font-size: .95rem; font-weight: 600; }
th, td { padding: .3rem 0; border-top: 1px solid var(--border); vertical-align: top; text-align: left; }
th { width: 42%; padding-right: .75rem; color: var(--muted); font-weight: 400; overflow-wrap: anywhere; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
pre {
  margin: -.5rem 0 1.25rem; padding: .75rem 1rem; background: var(--code);
  white-space: pre-wrap; overflow-wrap: anywhere;
  border-radius: .4rem; font: .84rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace;
}
"""
