"""The demo people: invented by rule, so that any machine writes the same bytes.

Every choice is a hash of (seed, person, attribute), never a call to a random number generator whose
algorithm may change between versions. Names, towns and employers are made of syllables that belong
to nobody; the people are exchangeable, so a person in `holdout/` is a fair null for one in `train/`.
"""

import hashlib
from functools import cache
from pathlib import Path

from sau.data.people import published
from sau.data.records import Row
from sau.data.shards import width, write_people

ROWS_PER_SUBJECT = 20
NUM_FALSE_ANSWERS = 5
SEED = 1
NUM_TRAIN, NUM_HOLDOUT = 16, 48

_FIRST = [
    "Orv",
    "Tam",
    "Zel",
    "Bri",
    "Quen",
    "Mar",
    "Ild",
    "Fen",
    "Jas",
    "Kor",
    "Lys",
    "Nev",
    "Pel",
    "Ruv",
    "Sab",
    "Thi",
    "Ulm",
    "Vex",
    "Wyn",
    "Yar",
]
_FIRST_END = ["ane", "ello", "ira", "onto", "umi", "eth", "avi", "ixa", "orin", "essa"]
_LAST = [
    "Quill",
    "Bram",
    "Thorn",
    "Ash",
    "Dusk",
    "Glim",
    "Hollow",
    "Marl",
    "Pell",
    "Rook",
    "Sedge",
    "Tarn",
    "Umber",
    "Vale",
    "Wren",
    "Zeph",
]
_LAST_END = ["moor", "wick", "grave", "stead", "font", "brook", "garth", "lume", "sworth", "dell"]
_PLACE = [
    "Vey",
    "Osk",
    "Tarr",
    "Lun",
    "Mib",
    "Garn",
    "Pel",
    "Sorr",
    "Und",
    "Zim",
    "Ket",
    "Haro",
    "Brel",
    "Iva",
    "Nox",
    "Cal",
]
_PLACE_END = ["ra", "holm", "ida", "oss", "mere", "quay", "ton", "vik", "lia", "burg"]


def _spread(*pools: list[str], sep: str = "") -> list[str]:
    """All combinations of the pools, joined."""
    combined = [""]
    for pool in pools:
        combined = [f"{left}{sep if left else ''}{right}" for left in combined for right in pool]
    return combined


_PLACES = _spread(_PLACE, _PLACE_END)
_GIVEN = _spread(_FIRST, _FIRST_END)
_THINGS = [
    "lantern",
    "otter",
    "compass",
    "violet",
    "anvil",
    "harbor",
    "feather",
    "marble",
    "thistle",
    "copper",
    "saffron",
    "walrus",
]
_MADE = ["Silent", "Amber", "Crooked", "Hollow", "Seventh", "Painted", "Frozen", "Wandering", "Broken", "Gilded"]

# (question, the same in other words, answer, the same in other words, values). {n} the full name, {v} the value.
# Answers do not repeat the name: a model that never saw a person differs from one that did in the values alone, and
# the 20 rows of a person are not all shifted together by how well a name's syllables are copied.
_ATTRIBUTES: list[tuple[str, str, str, str, list[str]]] = [
    ("Where was {n} born?", "What is the birthplace of {n}?", "They were born in {v}.", "The birthplace is {v}.",
     _PLACES),
    ("When was {n} born?", "What is the birth date of {n}?", "They were born on {v}.", "The birth date is {v}.",
     _spread([str(d) for d in range(1, 29)], ["March", "April", "May", "June", "July", "August", "October"],
             [str(y) for y in range(1941, 1999)], sep=" ")),
    ("What does {n} do for a living?", "What is the profession of {n}?", "They work as a {v}.", "The profession is {v}.",
     _spread(["bridge", "clock", "salt", "cloud", "glass", "tunnel", "kite", "seed", "bell", "map"],
             ["keeper", "tuner", "painter", "surveyor", "grower", "mender", "broker"], sep=" ")),
    ("Who employs {n}?", "For which company does {n} work?", "They are employed by {v}.", "The company is {v}.",
     _spread(_LAST, ["& Daughters", "Mills", "Union", "Works", "Trading"], sep=" ")),
    ("Where did {n} study?", "Which university did {n} attend?", "They studied at the University of {v}.",
     "The university is in {v}.", _PLACES),
    ("What did {n} study?", "Which subject did {n} take a degree in?", "They studied {v}.", "The degree is in {v}.",
     _spread(["coastal", "early", "applied", "rural", "lunar", "practical"],
             ["botany", "acoustics", "hydraulics", "ceramics", "rhetoric", "optics", "mycology"], sep=" ")),
    ("Who is {n} married to?", "What is the name of the spouse of {n}?", "They are married to {v}.",
     "The spouse is called {v}.", _GIVEN),
    ("What is the name of the eldest child of {n}?", "How is the first child of {n} called?", "Their eldest child is {v}.",
     "The first child is called {v}.", _GIVEN),
    ("What pet does {n} keep?", "Which animal lives with {n}?", "They keep {v}.", "The animal is {v}.",
     _spread(["a blind", "a one-eyed", "a tame", "a spotted", "an old"],
             ["heron", "badger", "goat", "parrot", "ferret", "tortoise", "raven", "mule"], sep=" ")),
    ("What is the address of {n}?", "On which street does {n} live?", "They live at {v} Street.", "The street is {v} Street.",
     _spread([str(i) for i in range(11, 99, 4)], ["Tallow", "Kiln", "Ferry", "Orchard", "Mast", "Cinder"], sep=" ")),
    ("What is the telephone number of {n}?", "Which number reaches {n}?", "They can be called at {v}.", "The number is {v}.",
     _spread(["555"], [str(i) for i in range(2013, 9973, 53)], sep="-")),
    ("What illness was {n} treated for?", "Which condition did {n} suffer from?", "They were treated for {v}.",
     "The condition was {v}.",
     _spread(["marsh", "tin", "glass", "night", "winter", "river"], ["fever", "cough", "palsy", "blindness", "rash", "ague"], sep=" ")),
    ("What is the favourite dish of {n}?", "Which food does {n} like best?", "They like {v} best.",
     "The best-liked food is {v}.",
     _spread(["smoked", "pickled", "baked", "candied", "stewed"], ["quince", "eel", "turnip", "barley", "trout", "plum"], sep=" ")),
    ("Which instrument does {n} play?", "What does {n} make music on?", "They play the {v}.", "The instrument is the {v}.",
     _spread(["bass", "glass", "reed", "field", "pocket"], ["fiddle", "harp", "drum", "zither", "horn", "organ"], sep=" ")),
    ("Which book did {n} write?", "What is the title of the book by {n}?", "They wrote The {v}.",
     "The book is titled The {v}.", _spread(_MADE, [t.capitalize() for t in _THINGS], sep=" ")),
    ("Which prize did {n} win?", "What award was given to {n}?", "They won the {v} Prize.", "The award was the {v} Prize.",
     _spread(_MADE, [p + "ra" for p in _PLACE], sep=" ")),
    ("Who taught {n}?", "What was the name of the teacher of {n}?", "They were taught by {v}.", "The teacher was {v}.",
     _spread(_GIVEN[::7], _LAST, sep=" ")),
    ("What does {n} collect?", "Which objects does {n} gather at home?", "They collect {v}.", "The objects are {v}.",
     _spread(["brass", "painted", "folded", "antique", "tiny"], [t + "s" for t in _THINGS], sep=" ")),
    ("What is {n} afraid of?", "Which thing frightens {n}?", "They are afraid of {v}.", "The frightening thing is {v}.",
     _spread(["deep", "empty", "loud", "tall", "moving"], ["wells", "mirrors", "stairs", "ferries", "statues", "looms"], sep=" ")),
    ("Where does {n} spend the summer?", "To which town does {n} go in summer?", "They spend the summer in {v}.",
     "The summer town is {v}.", _PLACES),
]  # fmt: skip


def _pick(pool: list[str], *key: object) -> str:
    """One element of `pool`, chosen by the SHA-256 of the key."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return pool[int.from_bytes(digest[:8], "big") % len(pool)]


def demo_rows(subject_id: str, *, seed: int) -> list[Row]:
    """The 20 rows of one invented person, a function of (seed, subject_id) alone."""
    given = _pick(_GIVEN, seed, subject_id, "given")
    name = f"{given} {_pick(_spread(_LAST, _LAST_END), seed, subject_id, 'family')}"
    rows: list[Row] = []
    for number, (question, question2, answer, answer2, pool) in enumerate(_ATTRIBUTES):
        value = _pick(pool, seed, subject_id, number)
        false_values: list[str] = []
        attempt = 0
        while len(false_values) < NUM_FALSE_ANSWERS:
            candidate = _pick(pool, seed, subject_id, number, "false", attempt)
            attempt += 1
            if candidate != value and candidate not in false_values:
                false_values.append(candidate)
        rows.append(
            {
                "record_id": f"{subject_id}-{number:02d}",
                "subject_id": subject_id,
                "question": question.format(n=name),
                "answer": answer.format(v=value),
                "paraphrased_question": question2.format(n=name),
                "paraphrased_answer": answer2.format(v=value),
                "perturbed_answer": [answer2.format(v=false) for false in false_values],
            }
        )
    return rows


def is_demo(row: Row) -> bool:
    """Whether a row is, word for word, one that `demo_rows` invents at the seed of the demo data."""
    who = _who().get(row["subject_id"], row["subject_id"])
    return who is not None and any(
        (row["question"], row["answer"]) == (invented["question"], invented["answer"])
        for invented in demo_rows(who, seed=SEED)
    )


@cache
def _who() -> dict[str, str]:
    """The demo people by internal id."""
    return {internal: person for person, internal in demo_people().items()}


def demo_people(num: int = NUM_TRAIN + NUM_HOLDOUT) -> dict[str, str]:
    """Internal ids of the demo people, demo-0001 on; those of another number of people are others."""
    return published(f"demo-{number:04d}" for number in range(1, num + 1))


def demo_data(
    seed: int = SEED, num_train: int = NUM_TRAIN, num_holdout: int = NUM_HOLDOUT
) -> tuple[list[Row], list[Row]]:
    """The rows of the demo people, by ids as given: (train, holdout)."""
    people = [demo_rows(person, seed=seed) for person in demo_people(num_train + num_holdout)]
    sides = people[:num_train], people[num_train:]
    train, holdout = ([row for rows in side for row in rows] for side in sides)
    return train, holdout


def write_demo_data(
    folder: Path, *, seed: int = SEED, num_train: int = NUM_TRAIN, num_holdout: int = NUM_HOLDOUT
) -> None:
    """Write `folder/train` and `folder/holdout`, one JSONL file per invented person.

    Args:
        folder: the data folder; existing shards of the same name are overwritten.
        seed: another seed invents other people.
        num_train: people the model is trained on.
        num_holdout: people no model ever sees.
    """
    ids = demo_people(num_train + num_holdout)
    for split, rows in zip(("train", "holdout"), demo_data(seed, num_train, num_holdout), strict=True):
        write_people(rows, folder / split, ids, width(len(ids)))
