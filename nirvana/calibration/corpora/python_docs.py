"""The Python language reference, as it is installed with every Python (`pydoc_data.topics`)."""

from __future__ import annotations

from nirvana.calibration.corpora.corpus import Corpus, CorpusInfo, gather
from nirvana.calibration.corpora.prose import first_seen, paragraphs

INFO = CorpusInfo(
    name="python-docs",
    title="Python language reference",
    description="The topics of Python's help(), cleaned to running prose. Technical English, installed with Python.",
    offline=True,
)
DOCUMENT = 2_500  # characters: some ten paragraphs


def load() -> Corpus:
    from pydoc_data.topics import topics

    seen: set[str] = set()
    documents = []
    # Short topics repeat parts of long ones. Read after them, only their repetitions are dropped.
    for name in sorted(topics, key=lambda topic: (-len(topics[topic]), topic)):
        documents += gather(first_seen(paragraphs(topics[name]), seen), size=DOCUMENT)
    return Corpus.from_documents(documents, name=INFO.name, description=INFO.description, kind="built-in")
