"""Slides of the notebooks, for a lecture: one deck each, which need no network.

A slide shows what an audience looks at: headings, questions and predictions, displayed formulas,
tables, lists, short code, what it printed, and pictures. The text around them is in the speaker's
notes, which the key S opens.
"""

import html
import re
import shutil
from pathlib import Path

import nbformat
import sphinx_revealjs
from nbconvert.filters import markdown2html

LONGEST_CODE = 14  # lines

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="reveal.css">
<link rel="stylesheet" href="slides.css">
<div class="reveal"><div class="slides">
{slides}
</div></div>
<script>window.MathJax = {{tex: {{inlineMath: [["$", "$"]]}}}};</script>
<script src="../_static/tex-svg.js"></script>
<script src="reveal.js"></script>
<script src="notes.js"></script>
<script>
  // heights are known when the formulas are rendered
  MathJax.startup.promise.then(() => Reveal.initialize({{
    hash: true, slideNumber: "c/t", width: 1280, height: 760, margin: 0.03, plugins: [RevealNotes],
  }}));
</script>
</html>
"""

STYLE = """
body { background: #fff; color: #222; }
.reveal { font: 26px/1.35 system-ui, sans-serif; }
.reveal .slides { text-align: left; }
.reveal .slides section { max-height: 740px; overflow: auto; }
.reveal h1 { font-size: 1.9em; line-height: 1.15; }
.reveal h2 { font-size: 1.4em; }
.reveal pre { font-size: 0.68em; background: #f4f4f4; padding: 0.6em; overflow: auto; }
.reveal pre.printed { background: none; border-left: 4px solid #bbb; }
.reveal section img { max-height: 560px; max-width: 100%; margin: 0.3em auto; display: block; }
.reveal table { font-size: 0.8em; border-collapse: collapse; }
.reveal td, .reveal th { padding: 0.25em 0.7em; border-bottom: 1px solid #ccc; text-align: left; }
.anchor-link { display: none; }
"""


def blocks_of(markdown):
    """Return paragraphs, lists, tables and formulas of a cell; a formula holds no blank line."""
    folded = re.sub(
        r"<details>.*?</details>", lambda m: m[0].replace("\n\n", "\n"), markdown, flags=re.S
    )
    return [block for block in re.split(r"\n\s*\n", folded) if block.strip()]


def is_shown(block):
    """Whether an audience looks at it; the rest is said."""
    return block.startswith(("#", "**", "|", "- ", "* ", "1. ")) or "$$" in block


def slide_of_text(markdown):
    """Return what is shown of a cell, and what is said."""
    blocks = blocks_of(markdown)
    shown = [block for block in blocks if is_shown(block)]
    return to_html(shown), to_html([block for block in blocks if not is_shown(block)])


def to_html(blocks):
    """Return blocks of Markdown as HTML; links between notebooks lead to their slides."""
    linked = [re.sub(r"\((\d\d_\w+)\.ipynb", r"(\1.html", block) for block in blocks]
    return markdown2html("\n\n".join(linked))


def slide_of_code(cell):
    """Return short code, what it printed and drew."""
    shown = []
    if len(cell.source.splitlines()) <= LONGEST_CODE:
        shown.append(f"<pre><code>{html.escape(cell.source)}</code></pre>")
    for output in cell.outputs:
        data = output.get("data", {})
        if "image/png" in data:
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            png = data["image/png"].replace("\n", "")
            shown.append(f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{png}">')
        elif "text" in output:
            shown.append(f'<pre class="printed">{html.escape(output["text"])}</pre>')
    return "\n".join(shown)


def only_imports(cell):
    """Whether a cell prepares what others use, and shows nothing."""
    return (
        cell.cell_type == "code" and not cell.outputs and cell.source.startswith(("import", "from"))
    )


def slides_of(notebook):
    """Return slides; a cell of which only something is said belongs to the slide before."""
    slides = []
    for cell in notebook.cells:
        if "hide-input" in cell.metadata.get("tags", []) or only_imports(cell):
            continue
        is_code = cell.cell_type == "code"
        shown, said = (slide_of_code(cell), "") if is_code else slide_of_text(cell.source)
        if shown:
            slides.append([shown, said])
        elif slides:
            slides[-1][1] += said
    return [f'{shown}<aside class="notes">{said}</aside>' for shown, said in slides]


def write(folder, notebooks):
    """Write a deck for each notebook, and what it is shown by, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    reveal = Path(sphinx_revealjs.__file__).parent / "_static/revealjs"
    for name in ("dist/reveal.js", "dist/reveal.css", "plugin/notes/notes.js"):
        shutil.copy2(reveal / name, folder)
    (folder / "slides.css").write_text(STYLE)
    for path in notebooks:
        notebook = nbformat.read(path, 4)
        title = notebook.cells[0].source.splitlines()[0].removeprefix("# ")
        slides = "\n".join(f"<section>{content}</section>" for content in slides_of(notebook))
        page = PAGE.format(title=html.escape(title), slides=slides)
        (folder / f"{path.stem}.html").write_text(page, encoding="utf-8")
