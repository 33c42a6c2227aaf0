"""Panel shared by all studies: button with validation, live progress, failed points, and the study as code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels.messages import show_error
from nirvana.errors import NirvanaError
from nirvana.jobs.demo import MINUTES
from nirvana.reporting.figures.chart import count
from nirvana.reporting.text import plain
from nirvana.runs.recipe import Recipe
from nirvana.runs.run import Run
from nirvana.schema import Schema
from nirvana.studies.study import Study

POLL = 1.0  # seconds


@dataclass(frozen=True)
class StudyPanel:
    """Shared parts of one study's panels.

    Attributes:
        study: validates requests and names the task.
        key: prefix of the widget keys.
        noun: of a point, e.g. "trial".
        seconds: of each finished point of a run.
    """

    study: Study[Any]
    key: str
    noun: str
    seconds: Callable[[Run], Sequence[float]]

    def minutes(self, key: str) -> int:
        """Input of the time limit, with widget key `key`, which is in the session state."""
        return int(
            st.number_input(
                "Minutes",
                min_value=1,
                max_value=MINUTES if state.public_demo() else 10_000,
                step=5,
                key=key,
                help=f"The running {self.noun} is finished. A search can be continued later.",
            )
        )

    def is_valid(self, now: state.Context, request: Any, recipe: Recipe, label: str, *, quiet: bool = False) -> bool:
        """Whether the request is valid; otherwise the reason and a disabled button are shown.

        Args:
            label: of the button.
            quiet: omit the reason, e.g. while nothing is chosen yet.
        """
        try:
            self.study.check(state.as_own(now, recipe), request)
        except NirvanaError as error:
            if not quiet:
                show_error(error)
            st.button(label, key=f"{self.key}.run", type="primary", disabled=True)
            return False
        return True

    def start(
        self,
        now: state.Context,
        request: Schema,
        recipe: Recipe,
        *,
        label: str,
        caption: str,
        help: str,
        complete: bool = False,
        kind: Literal["primary", "secondary"] = "primary",
    ) -> None:
        """The cost of the study, and the button that starts or continues it.

        Args:
            complete: every point is measured.
        """
        st.caption(caption)
        if st.button(
            label,
            key=f"{self.key}.run",
            type=kind,
            icon=":material/check:" if complete else ":material/play_arrow:",
            disabled=complete or now.job is not None,
            help=help,
        ):
            state.start_study(self.study.name, recipe, **request.to_json())

    def watch(self, now: state.Context) -> None:
        """Show the number of finished points, and rerun the page at each."""
        if now.job is not None and now.job.task == self.study.name:
            st.fragment(self._watch, run_every=POLL)(now.run.id, len(self.seconds(now.run)))

    def _watch(self, run_id: str, known: int) -> None:
        try:
            seconds = self.seconds(state.store().open(run_id))
        except NirvanaError:  # deleted in another tab
            st.rerun()
        if len(seconds) != known:
            st.rerun()
        st.caption(f"{count(len(seconds), self.noun)} finished.")

    def failures(self, points: Iterable[tuple[str, str]]) -> None:
        """Failed points as pairs of label and error, grouped by error."""
        labels: dict[str, list[str]] = {}
        for label, failure in points:
            labels.setdefault(failure, []).append(label)
        if not labels:
            return
        lines = [
            f"- {plain(failure)}\n" + "\n".join(f"    - {plain(label)}" for label in found)
            for failure, found in labels.items()
        ]
        total = sum(map(len, labels.values()))
        with st.expander(f"{count(total, 'failed ' + self.noun)}", icon=":material/block:", key=f"{self.key}.failures"):
            st.markdown("\n".join(lines))

    def code(self, python: str, command: str) -> None:
        """The study as a Python script and as a command line."""
        with st.expander("Show as code", icon=":material/code:", key=f"{self.key}.code"):
            script, line = st.tabs(["Python", "Command line"], key=f"{self.key}.code.tabs")
            script.code(python, language="python", wrap_lines=True)
            line.code(command, language="bash", wrap_lines=True)
