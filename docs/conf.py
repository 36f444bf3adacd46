"""The site: the course, its reference and its results, built from the repository's own pages.

pip install "kru_ref[train,sklearn,docs]"
sphinx-build --fail-on-warning --keep-going docs docs/_build
"""

import shutil
import sys
from pathlib import Path

import mathjax

import kru_ref

project = "kru_ref"
author = "The kru_ref developers"
version = release = kru_ref.__version__

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "_extra"]

templates_path = ["_templates"]
html_theme = "pydata_sphinx_theme"
html_title = f"kru_ref {version}"
html_context = {"default_mode": "auto"}
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
    "navigation_with_keys": True,
}
html_show_sourcelink = False
# excerpts would be fetched, which no browser allows of files that are opened from a disk
html_show_search_summary = False
html_static_path = ["_static"]
html_css_files = ["site.css"]

# Mathematics is rendered by a file of the site's own: a reader needs no network.
html_static_path.append(str(Path(mathjax.__file__).parent / "static/mathjax/es5/tex-svg.js"))
mathjax_path = "tex-svg.js"
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# The notebooks are committed as they ran; a test runs each again and compares. Links between pages
# are found within this folder only.
here = Path(__file__).parent
for notebook in (here.parent / "notebooks").glob("*.ipynb"):
    (here / "notebooks").mkdir(exist_ok=True)
    shutil.copy2(notebook, here / "notebooks")
nb_execution_mode = "off"

# The figures that move find their numbers in a script.
sys.path.insert(0, str(here))
import figures  # noqa: E402

figures.write(here / "_static/figures/numbers.js")

# Slides of the notebooks lie beside the pages.
import slides  # noqa: E402

slides.write(here / "_extra/slides", sorted((here / "notebooks").glob("*.ipynb")))
html_extra_path = ["_extra"]

autosummary_generate = True
numpydoc_show_class_members = False
autodoc_default_options = {
    # what scikit-learn adds to every estimator, and documents itself
    "exclude-members": ", ".join(
        f"set_{method}_request"
        for method in ("fit", "partial_fit", "predict", "score", "transform")
    ),
}
