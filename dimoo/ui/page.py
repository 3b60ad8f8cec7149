"""The whole page: header, one tab per task that the checkpoint knows, the public endpoint."""

from __future__ import annotations

import html

import gradio as gr

from dimoo.defaults import Defaults
from dimoo.ui import generate
from dimoo.ui.api import generate_endpoint
from dimoo.ui.controls import literal
from dimoo.ui.stage import ASSETS
from dimoo.ui.theme import build_theme
from dimoo.ui.workbench import MODEL, Notes, Runner, Shop

TITLE = "Lumina-DiMOO"
CACHE_SWEEP = (600, 86400)  # every ten minutes, what is older than a day
QUEUE_LENGTH = 24
UPLOAD_LIMIT = "20mb"


def build_page(run: Runner, notes: Notes, defaults: Defaults, queue_length: int = QUEUE_LENGTH) -> gr.Blocks:
    """The page for a checkpoint. run: (request, path of the stop sign) -> frames; notes: see Pipeline.notes;
    queue_length: how many requests may wait.
    """
    shop = Shop(run, notes)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=CACHE_SWEEP, fill_width=True) as page:
        build_masthead(defaults)
        with gr.Tabs(elem_id="tasks"), gr.Tab("Generate", id="generate"):
            generate.build(shop, defaults)
        gr.api(generate_endpoint(shop), api_name="generate", **MODEL)
    page.queue(max_size=queue_length, default_concurrency_limit=4)
    return page


def build_masthead(defaults: Defaults) -> gr.HTML:
    """Name, one sentence, the checkpoint, the paper, and a switch between light and dark."""
    template = (ASSETS / "masthead.html").read_text(encoding="utf-8")
    return gr.HTML(
        html_template=template.replace("@model", literal(html.escape(defaults.name))),
        js_on_load=(ASSETS / "masthead.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        elem_id="masthead",
    )


def launch_options() -> dict:
    """What `launch` needs for this page, wherever it is served."""
    return {
        "theme": build_theme(),
        "css_paths": [ASSETS / "style.css"],
        "footer_links": ["api"],
        "run_history": False,
        "ssr_mode": False,
        "max_file_size": UPLOAD_LIMIT,
        "show_error": False,
        "quiet": True,
    }
