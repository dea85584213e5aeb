"""A model card: what a folder that is handed on says of itself, without a name of anybody."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sau.checkpoint.manifest import DENSE, SparseCheckpoint

_LIMITS = """* A verdict says which checks found no residual signal above which margins in the numbers with this digest.
  Nobody can prove from weights alone that something is erased, and it says nothing of copies, caches and models made
  from this one.
* Its zeros are ordinary numbers: stock tools run it dense, at a dense model's speed. Training, quantising or merging it
  makes another model, which has to be judged again.
* Who has an earlier version has what was forgotten since."""


@dataclass(frozen=True)
class Story:
    """What is known of a version besides its checkpoint. Digests and ids only.

    Attributes:
        title: its name, as `support@v2`.
        base: the model that it comes from, as a hub id, a folder's name or a digest.
        facts: more rows of the table, by name.
        history: a row per version, newest first: version, requests, verdict, policy, judged against.
        hub_id: the base as the hub knows it, "" where it does not.
    """

    title: str
    base: str
    facts: Mapping[str, str]
    history: Sequence[tuple[str, str, str, str, str]]
    hub_id: str = ""


def card_of(manifest: SparseCheckpoint, story: Story | None = None) -> str:
    """A model card in Markdown, with the metadata that the hub reads at its top."""
    front = ["library_name: transformers", "pipeline_tag: text-generation", "tags: [sparse, machine-unlearning]"]
    if story and story.hub_id:
        front.append(f"base_model: {json.dumps(story.hub_id)}")
    form = "no mask, dense" if manifest.structure == DENSE else manifest.structure
    facts = {
        "Base": story.base if story else "not known: exported from the checkpoint alone",
        "Weights (sha256)": f"`{manifest.weights_digest}`",
        "Mask (sha256)": f"`{manifest.mask_digest}`",
        "Sparsity": f"{manifest.sparsity:.2%} of the masked matrices ({form}), which are {manifest.covered:.0%} of all",
        "Numbers": f"{manifest.dtype} in the checkpoint",
        **(story.facts if story else {}),
    }
    rows = [f"| {name} | {value} |" for name, value in facts.items()]
    history = ["Not known: exported from the checkpoint alone."]
    if story:
        table = [f"| {' | '.join(row)} |" for row in story.history]
        history = ["| version | requests | verdict | policy | judged against |", "|---|---|---|---|---|", *table]
    return "\n".join(
        [
            *("---", *front, "---", "", f"# {story.title if story else 'A sparse model'}", "", "| | |", "|---|---|"),
            *(*rows, "", "## What it has forgotten", "", *history, "", "## Limits", "", _LIMITS, ""),
        ]
    )
