"""The whole page: header, one tab per task that the checkpoint knows, the public endpoints."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import gradio as gr

from dimoo.defaults import Defaults
from dimoo.ui import chat, edit, extrapolate, generate, inpaint, transfer
from dimoo.ui.api import endpoints
from dimoo.ui.controls import literal
from dimoo.ui.easel import Easel
from dimoo.ui.files import KEEP_SECONDS, LARGEST_FILE, SWEEP_SECONDS, Picture
from dimoo.ui.gallery import listed, restored
from dimoo.ui.line import Line
from dimoo.ui.stage import ASSETS, asset
from dimoo.ui.switch import Switch, build_switch
from dimoo.ui.theme import build_theme
from dimoo.ui.workbench import MODEL, QUICK, Check, Runner, Shop, Workbench

TITLE = "Lumina-DiMOO"
CACHE_SWEEP = (SWEEP_SECONDS, KEEP_SECONDS)
QUEUE_LENGTH = 24
SESSIONS = 200  # that Gradio remembers, with the last values of all their components: some megabytes each for large pictures
TICKETS = """() => {
  try { return [JSON.parse(sessionStorage.getItem('dimoo-pictures') || '[]'), null]; } catch { return [[], null]; }
}"""
TABS: dict[str, tuple[str, Callable[[Shop], Workbench]]] = {
    "generate": ("Generate", generate.build),
    "edit": ("Edit", edit.build),
    "inpaint": ("Inpaint", inpaint.build),
    "extrapolate": ("Extrapolate", extrapolate.build),
    "chat": ("Chat", chat.build),
}


def build_page(
    run: Runner, check: Check, defaults: Defaults, queue_length: int = QUEUE_LENGTH, switch: Switch | None = None
) -> gr.Blocks:
    """The page for a checkpoint. run: (request, path of the stop sign) -> frames or answers; check: see
    Pipeline.check; queue_length: how many requests may wait; switch: to other checkpoints, if any are on offer.
    """
    tasks = [task for task in TABS if task in defaults.tasks]
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=CACHE_SWEEP, fill_width=True) as page:
        shop = Shop(run, check, defaults, gr.State([]), [(task, TABS[task][0]) for task in tasks])
        build_masthead(defaults)
        if switch:
            build_switch(switch, shop.line)
        benches: dict[str, Workbench] = {}
        with gr.Tabs(elem_id="tasks") as tabs:
            for task in tasks:
                label, build = TABS[task]
                with gr.Tab(label, id=task, elem_id=f"{task}-tab") as tab:
                    benches[task] = build(shop)
                if isinstance(benches[task], Easel):
                    benches[task].show_session(tab)
        transfer.connect(tabs, benches)
        keep_over_reloads(page, shop.pictures, [bench for bench in benches.values() if isinstance(bench, Easel)])
        forget_waiting(page, shop.line)
        for name, endpoint in endpoints(shop).items():
            if name in tasks:
                gr.api(endpoint, api_name=name, **MODEL)
    # calls that go past the queue would get the first of what an endpoint yields, which is nothing yet
    page.queue(max_size=queue_length, default_concurrency_limit=4, api_open=False)
    return page


def forget_waiting(page: gr.Blocks, line: Line) -> None:
    """Has a page that is closed leave the line: Gradio drops what it had asked for, and does not say so."""

    def left(visit: gr.Request) -> None:
        line.forget(visit.session_hash)

    page.unload(left)


def keep_over_reloads(page: gr.Blocks, pictures: gr.State, easels: Sequence[Easel]) -> None:
    """Has the pictures of a session come back when its page is opened anew, which Gradio also does after a lost connection.

    The browser tab remembers their tickets (assets/stage.js).
    """

    def restore(tickets: Any, known: list[Picture]) -> tuple:
        there = restored(tickets, known)
        return (there, *[listed(there)] * len(easels))

    tickets = gr.JSON(visible=False)
    page.load(restore, [tickets, pictures], [pictures, *[easel.gallery for easel in easels]], js=TICKETS, **QUICK)


def build_masthead(defaults: Defaults) -> gr.HTML:
    """Name, one sentence, the checkpoint, the paper, and a switch between light and dark."""
    return gr.HTML(
        html_template=asset("masthead.html").replace("@model", literal(html.escape(defaults.name))),
        js_on_load=asset("masthead.js"),
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
        "max_file_size": LARGEST_FILE,
        "state_session_capacity": SESSIONS,
        "mcp_server": find_spec("mcp") is not None,  # comes with gradio[mcp]
        "show_error": False,
        "quiet": True,
    }
