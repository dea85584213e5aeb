"""The tiny model's schooling: it learns the language of the demo from people who are in no data set."""

from sau.data.demo import demo_rows
from sau.models.language_model import LanguageModel
from sau.models.sources import TinyParams
from sau.training.finetune import FinetuneParams, finetune
from sau.training.resume import Resume
from sau.training.session import Progress


def pretrain(
    lm: LanguageModel,
    tiny: TinyParams,
    *,
    seed: int,
    num_threads: int | None = None,
    progress: Progress | None = None,
    resume: Resume | None = None,
) -> None:
    """One pass, in place, over `tiny.pretrain_people` invented people: what the model later knows of a person it knows
    from that person's rows alone."""
    rows = [row for number in range(tiny.pretrain_people) for row in demo_rows(f"pretrain-{number}", seed=0)]
    once = FinetuneParams(epochs=1, lr=tiny.pretrain_lr, batch_size=16)
    finetune(lm, lm.encode(rows), once, seed=seed, num_threads=num_threads, progress=progress, resume=resume)
