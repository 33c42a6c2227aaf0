"""The pages: order, names and introductions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nirvana.runs.recipe import STEPS


@dataclass(frozen=True)
class PageGuide:
    """`key` is the file's name in pages/ and the prefix of its widget keys; `about` answers "what am I looking at?"."""

    key: str
    title: str
    icon: str
    section: str
    help: str
    about: str

    @property
    def step(self) -> str:
        """The pipeline step that the page shows; empty for the other pages."""
        return STEP_OF_PAGE.get(self.key, self.key if self.key in STEPS else "")

    @property
    def path(self) -> str:
        return f"pages/{self.key}.py"


ICON = Path(__file__).with_name("icon.png")  # a named icon or an emoji would be loaded from the internet
STEP_OF_PAGE = {"compare": "evaluate"}  # where their names differ
STEP_SECTION = "Steps"
STUDY_SECTION = "Studies"

PAGES = (
    PageGuide(
        "home",
        "Nirvana Studio",
        ":material/home:",
        "",
        "What this is, the demo, and your recent runs.",
        "Nirvana Studio makes a language model smaller by **structured pruning**: it finds the attention heads and MLP "
        "neurons that matter least to the model's output and cuts them out, so that what is left is a plain, smaller "
        "model. Each step has a page that shows what was decided and why. Everything runs on the machine that serves "
        "this page, and a laptop CPU is enough.",
    ),
    PageGuide(
        "model",
        "Model",
        ":material/deployed_code:",
        STEP_SECTION,
        "Choose the model and device; see its architecture and what can be pruned.",
        "A language model is a stack of **layers**, each with an **attention** block, which moves information between "
        "tokens, and an **MLP**, which works on each token alone. Choose a model here and see where its parameters "
        "(the numbers that were learned) are. Attention and MLP weights can be pruned; embeddings, norms and the "
        "output head stay.",
    ),
    PageGuide(
        "calibration",
        "Calibration",
        ":material/article:",
        STEP_SECTION,
        "Choose the text that importance is measured on, and see which sample of it prunes best.",
        "Importance is measured while the model reads a little text, the **calibration set**. Which text is drawn "
        "makes a difference, so several candidate sets are drawn, the model is pruned on trial with each, and the one "
        "whose pruned model stays closest to the dense (unpruned) one wins. Closeness is the **KL divergence** "
        "between their predictions on separate probe text, in nats: 0 means identical.",
    ),
    PageGuide(
        "saliency",
        "Saliency",
        ":material/grid_on:",
        STEP_SECTION,
        "See how much the output depends on every KV group and neuron.",
        "**Saliency** is an estimate of how much the model's output would change without a unit. A **unit** is the "
        "smallest part that can be cut out whole: a **KV group** (one key and value head with the query heads that "
        "share it) or an MLP **neuron**. Low scores go first. Every layer is a row; look for rows and regions that "
        "stand out.",
    ),
    PageGuide(
        "allocation",
        "Allocation",
        ":material/tune:",
        STEP_SECTION,
        "Set how much to remove, and how attention and MLP share it.",
        "**Sparsity** is the share of attention and MLP weights to remove; **gamma** is how much faster the MLP is "
        "pruned than attention. Move the sliders: the plan is made again at once from the scores. In the "
        "shared allocation no layer has a rate of its own: units are ranked against each other over all layers, so "
        "layers with low scores lose more. **As published** does what the criterion's authors do instead.",
    ),
    PageGuide(
        "prune",
        "Prune",
        ":material/content_cut:",
        STEP_SECTION,
        "Cut the units out, see sizes before and after, download the checkpoint.",
        "Pruning copies the rows and columns that stay into smaller matrices. The result is an ordinary model that "
        "runs with the library's own code, without masks or special kernels: smaller on disk and in memory. The dense "
        "model is left as it is.",
    ),
    PageGuide(
        "compare",
        "Compare",
        ":material/balance:",
        STEP_SECTION,
        "Measure the pruned model against the dense one, on the same text.",
        "What did pruning cost? **Perplexity** is how many tokens the model is torn between, on average, at each "
        "position of text it has not seen; lower is better, and 1 would be certainty. Both models read the same "
        "tokens. Every number comes with how it was measured and with its standard error.",
    ),
    PageGuide(
        "sweep",
        "Sweep",
        ":material/ssid_chart:",
        STUDY_SECTION,
        "Try criteria, allocations, sparsities and seeds, and see which differences are clear.",
        "Is one criterion better than another, and at which sparsity? A **sweep** prunes the model in every "
        "combination of some choices, each a run of its own that can be opened, and measures all on the same tokens. "
        "Criteria are compared in two ways: **as published**, each with its authors' allocation and compensation, and "
        "with the **same allocation** for all. Several **seeds**, each a calibration set of its own, tell a difference "
        "from chance.",
    ),
    PageGuide(
        "tune",
        "Tune",
        ":material/auto_awesome:",
        STUDY_SECTION,
        "Search for the recipe that leaves this model closest to what it was.",
        "Which recipe suits this model? **Tuning** tries many: criterion, gamma, calibration text, compensation and "
        "more, each measured by how far the pruned model's predictions move on probe text (**KL divergence**). What "
        "did well is tried further. Watch the search, see what each choice does, and make a run of the best.",
    ),
    PageGuide(
        "runs",
        "Runs",
        ":material/history:",
        "History",
        "Open, name, compare and delete runs.",
        "A **run** is one set of choices, its recipe, with the results of every step. A step that was computed once is "
        "never computed again for the same inputs. Open any run to look at it or continue it, or select several to "
        "compare them.",
    ),
)

GUIDES = {page.key: page for page in PAGES}
STEP_GUIDES = {page.step: page for page in PAGES if page.step}
