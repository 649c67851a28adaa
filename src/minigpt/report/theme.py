"""The colors and the style sheet of the HTML report, with a light and a dark color scheme."""

from collections.abc import Mapping

PAGE_COLORS = {
    "background": ("#fdfcf9", "#191817"),
    "text": ("#24211d", "#e9e5de"),
    "muted": ("#6c655d", "#a39c92"),
    "border": ("#e5e0d7", "#37342f"),
    "code": ("#f4f1ea", "#24221f"),
    "accent": ("#d55e00", "#f08a3c"),
    "line": ("#b4510a", "#cf7a30"),
    **{
        f"level-{i}": colors
        for i, colors in enumerate(
            [
                ("#f4f1ea", "#262421"),
                ("#fdecd2", "#3a2d1e"),
                ("#fcdcae", "#4e3518"),
                ("#f9c584", "#673f12"),
                ("#f5aa5c", "#82490c"),
                ("#ee8b3a", "#9a4f04"),
            ]
        )
    },
}
"Name -> the color in the light and in the dark scheme."

CHART_COLORS = {
    "chart-background": ("#ffffff", "#201e1c"),
    "chart-training": ("#0072b2", "#56b4e9"),
    "chart-validation": ("#d55e00", "#f08a3c"),
    "chart-floor": ("#333333", "#e0dbd2"),
    "chart-gray": ("#5f5f5f", "#aaa398"),
    "chart-edge": ("#b5b5b5", "#5a554d"),
    "chart-grid": ("#ececec", "#322f2b"),
}
"The colors of the plots. Blue and vermillion of the Okabe-Ito palette can be distinguished with any color vision."


def color_variables(colors: Mapping[str, tuple[str, str]]) -> str:
    """Return CSS that defines a variable for each color, with its value in the color scheme of the reader.

    >>> print(color_variables({"ink": ("#000000", "#ffffff")}))
    :root { --ink: #000000; }
    @media (prefers-color-scheme: dark) { :root { --ink: #ffffff; } }
    """
    light, dark = (" ".join(f"--{name}: {pair[i]};" for name, pair in colors.items()) for i in (0, 1))
    return f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"


CSS = (
    f"""\
:root {{ color-scheme: light dark; }}
{color_variables(PAGE_COLORS | CHART_COLORS)}
"""
    + """\
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--background); color: var(--text);
  font: 1.0625rem/1.6 Charter, "Bitstream Charter", "Sitka Text", Cambria, Georgia, serif;
  -webkit-text-size-adjust: 100%;
}
main { max-width: 47rem; margin: 0 auto; padding: 3rem 1.25rem 5rem; }
h1, h2, h3, caption, table, footer, .note, .legend { font-family: system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1.25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 3rem 0 1rem; }
h3 { font-size: .95rem; margin: 0; }
.note { color: var(--muted); font-size: .875rem; line-height: 1.5; }
figure {
  margin: 2rem 0 0; padding: 1rem; background: var(--chart-background);
  border: 1px solid var(--border); border-radius: .5rem;
}
figure svg { display: block; width: 100%; height: auto; }
.narrow { display: none; }
blockquote { margin: 0 0 1.75rem; padding: 0 0 0 1.1rem; border-left: 3px solid var(--accent); }
blockquote p { margin: 0; white-space: pre-line; overflow-wrap: anywhere; }
footer { margin-top: .4rem; color: var(--muted); font-size: .8rem; }
.progress {
  display: grid; grid-auto-flow: column; grid-auto-columns: minmax(14.5rem, 23rem); gap: 1rem;
  justify-content: safe center;
  width: min(100vw - 2.5rem, 78rem); margin-left: calc(50% - min(50vw - 1.25rem, 39rem));
  margin-top: 1.5rem; padding-bottom: .75rem; overflow-x: auto;
}
.progress blockquote { margin: 0; padding: .6rem 0 0; border-left: 0; border-top: 3px solid var(--accent); min-width: 0; }
.progress p { font-size: .875rem; line-height: 1.75; margin-top: .5rem; max-height: calc(1.75em * 18); overflow-y: auto; }
.progress footer { margin-top: 0; }
p.tokens { white-space: pre-wrap; line-height: 1.75; }
.token { margin-right: 1px; border-bottom: 0 solid var(--line); border-radius: .15em; background: var(--level-0); }
.token, .legend span { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.level-1 { background: var(--level-1); border-bottom: 1px dotted var(--line); }
.level-2 { background: var(--level-2); border-bottom-width: 1px; }
.level-3 { background: var(--level-3); border-bottom-width: 2px; }
.level-4 { background: var(--level-4); border-bottom-width: 3px; }
.level-5 { background: var(--level-5); border-bottom-width: 4px; }
.newline::before { content: "↵"; color: var(--muted); }
.legend { color: var(--muted); font-size: .875rem; line-height: 1.5; }
.legend .token { color: var(--text); padding: .1em .45em; white-space: nowrap; line-height: 2; }
.tables { columns: 2 19rem; column-gap: 2.5rem; }
table {
  width: 100%; margin: 0 0 2rem; border-collapse: collapse; break-inside: avoid; font-size: .84rem; line-height: 1.4;
}
caption { padding-bottom: .4rem; text-align: left; font-size: .95rem; font-weight: 600; }
th, td { padding: .3rem 0; border-top: 1px solid var(--border); vertical-align: top; text-align: left; }
th { width: 42%; padding-right: .75rem; color: var(--muted); font-weight: 400; overflow-wrap: anywhere; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.norms th { width: auto; }
.norms thead th { border-top: 0; }
.norms td { width: 26%; padding-right: .75rem; font-size: .8rem; }
.norms svg { display: block; width: 100%; max-width: 9rem; height: auto; color: var(--chart-training); }
pre {
  margin: -.5rem 0 1.25rem; padding: .75rem 1rem; background: var(--code);
  white-space: pre-wrap; overflow-wrap: anywhere;
  border-radius: .4rem; font: .84rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace;
}
@media (max-width: 600px) {
  main { padding-top: 1.5rem; }
  figure { padding: .4rem; }
  .wide { display: none; }
  .narrow { display: block; }
  .progress { grid-auto-flow: row; grid-auto-columns: auto; width: auto; margin-left: 0; gap: 1.5rem; justify-content: stretch; }
  .progress p { max-height: calc(1.75em * 8); }
}
.views {
  width: min(100vw - 2.5rem, 78rem); margin-left: calc(50% - min(50vw - 1.25rem, 39rem));
  font-family: system-ui, -apple-system, "Segoe UI", sans-serif; font-size: 1rem; line-height: 1.5;
}
.views h2 { margin: 1.75rem 0 .5rem; font-size: 1.15rem; }
@media print { .progress { overflow: visible; } .progress p { max-height: none; } }
"""
)
