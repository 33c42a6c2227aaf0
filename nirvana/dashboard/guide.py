"""The pages: order, names and introductions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nirvana.reporting.glossary import meaning
from nirvana.runs.recipe import STEPS


@dataclass(frozen=True)
class PageGuide:
    """`key` is the file's name in pages/ and the prefix of its widget keys; `about` introduces the page. Terms of the
    glossary that it has in bold are defined in its tooltip.
    """

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
STYLE = Path(__file__).with_name("style.css")
STEP_OF_PAGE = {"compare": "evaluate"}  # where their names differ
STEP_SECTION = "Steps"
STUDY_SECTION = "Studies"
LEARN_SECTION = "Learn"

PAGES = (
    PageGuide(
        "home",
        "Nirvana Studio",
        ":material/home:",
        "",
        "Introduction, demo, and recent runs.",
        "Nirvana Studio makes a language model smaller by **structured pruning**: it removes the attention heads "
        "and MLP neurons that matter least to its output. What remains is an ordinary, smaller model. A laptop's "
        "CPU is enough.",
    ),
    PageGuide(
        "model",
        "Model",
        ":material/deployed_code:",
        STEP_SECTION,
        "Choose the model and device; see its architecture and what can be pruned.",
        "A language model is a stack of **layers**, each with an **attention** block, which moves information "
        "between tokens, and an **MLP**, which works on each token alone. Attention and MLP weights can be "
        "pruned.",
    ),
    PageGuide(
        "calibration",
        "Calibration",
        ":material/article:",
        STEP_SECTION,
        "Choose the calibration text, and the sample of it that prunes best.",
        f"A **calibration set** is {meaning('calibration set')}. Several are drawn, a trial model is pruned with each, "
        "and the one whose **KL divergence** from the dense model is lowest wins.",
    ),
    PageGuide(
        "saliency",
        "Saliency",
        ":material/grid_on:",
        STEP_SECTION,
        "See how much the output depends on every KV group and neuron.",
        f"**Saliency** is {meaning('saliency')}. A unit is a **KV group**, {meaning('KV group')}, or a **neuron**, "
        f"{meaning('neuron')}. The lowest are removed first.",
    ),
    PageGuide(
        "allocation",
        "Allocation",
        ":material/tune:",
        STEP_SECTION,
        "Set the sparsity and its distribution over attention and MLP.",
        f"**Sparsity** is {meaning('sparsity')}; **gamma** is {meaning('gamma')}. The plan follows the "
        "sliders at once: layers with low scores lose more.",
    ),
    PageGuide(
        "prune",
        "Prune",
        ":material/content_cut:",
        STEP_SECTION,
        "Remove the units, see sizes before and after, and export the model.",
        "Pruning copies the kept rows and columns into smaller matrices. The result is an ordinary model, smaller"
        " on disk and in memory, that runs without masks or special kernels. The dense model is unchanged.",
    ),
    PageGuide(
        "recover",
        "Recover",
        ":material/healing:",
        STEP_SECTION,
        "Optional: train the pruned model for some minutes, and watch it improve.",
        "Pruning costs quality, and a short training brings part of it back. **Distillation** is "
        f"{meaning('distillation')}. It is measured on held-out text, and the best weights are kept.",
    ),
    PageGuide(
        "compare",
        "Compare",
        ":material/balance:",
        STEP_SECTION,
        "Measure the pruned and the recovered model against the dense one, on the same text.",
        f"All models read the same held-out tokens. **Perplexity** is {meaning('perplexity')}: "
        "lower is better, and 1 would be certainty.",
    ),
    PageGuide(
        "sweep",
        "Sweep",
        ":material/ssid_chart:",
        STUDY_SECTION,
        "Try criteria, allocations, sparsities and seeds, and see which differences are clear.",
        "Is one criterion better than another, and at which sparsity? A **sweep** prunes the model with every "
        "combination of some choices and measures all on the same tokens. Several **seeds** give the significance"
        " of a difference.",
    ),
    PageGuide(
        "tune",
        "Tune",
        ":material/auto_awesome:",
        STUDY_SECTION,
        "Search for the recipe with the lowest divergence from the dense model.",
        "Which recipe suits this model? **Tuning** tries many choices of criterion, gamma, text and compensation,"
        " each measured by the **KL divergence** from the dense model on probe text, and keeps the best.",
    ),
    PageGuide(
        "method",
        "Method",
        ":material/functions:",
        LEARN_SECTION,
        "The paper's formulas beside pictures of the open run, how well they hold, and the glossary.",
        "Each formula of the paper beside a picture of a two-weight network or of the open run, and how well it holds.",
    ),
    PageGuide(
        "unit",
        "Unit",
        ":material/search_insights:",
        LEARN_SECTION,
        "One KV group or neuron: the text that drives it, its scores, and the measured effect of its removal.",
        "What does a single **KV group** or **neuron** do? See the calibration text that drives it most, its rank under"
        " every criterion, and the measured effect of its removal beside the first-order prediction.",
    ),
    PageGuide(
        "experiments",
        "Experiments",
        ":material/science:",
        LEARN_SECTION,
        "Five questions with an observation that is checked, and exercises.",
        "Each **experiment** asks one question and says what to look for. Look at the recorded result, run it on "
        "this machine in under a minute, and see whether the observation appears.",
    ),
    PageGuide(
        "runs",
        "Runs",
        ":material/history:",
        "History",
        "Open, name, compare and delete runs.",
        f"A **run** is {meaning('run')}. A step is computed only "
        "once for the same inputs. Open a run to view or continue it, or select several to compare them.",
    ),
)

GUIDES = {page.key: page for page in PAGES}
STEP_GUIDES = {page.step: page for page in PAGES if page.step}
