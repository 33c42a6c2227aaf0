"""Words of the minimal pairs: frequent ones, for small models."""

from __future__ import annotations

PEOPLE = (  # each has a regular plural in -s
    "author", "doctor", "teacher", "student", "farmer", "singer", "driver", "painter", "lawyer", "pilot", "guard",
    "nurse", "waiter", "visitor", "actor", "manager", "officer", "dancer", "writer", "soldier", "baker", "worker",
    "player", "reporter", "banker",
)  # fmt: skip
THINGS = (
    "book", "chair", "picture", "letter", "house", "car", "hat", "coat", "lamp", "key", "bottle", "cup", "window",
    "door",
    "bridge", "garden", "ticket", "table", "clock", "map", "basket", "boat", "ring", "photo",
)  # fmt: skip
MASSES = (
    "money", "water", "time", "food", "sugar", "salt", "milk", "rice", "luck", "furniture", "bread", "sand",
    "paper",
    "energy", "patience",
)  # fmt: skip
ADJECTIVES = ("old", "new", "small", "large", "red", "green", "heavy", "cheap", "beautiful", "broken")

WOMEN = ("Mary", "Anna", "Susan", "Laura", "Emma", "Sarah", "Karen", "Julia", "Linda", "Alice")
MEN = ("John", "David", "Peter", "Robert", "Thomas", "James", "Henry", "Mark", "Paul", "George")
FEMALE = ("girl", "queen", "sister", "mother", "daughter", "lady", "princess", "actress", "aunt", "grandmother")
MALE = ("boy", "king", "brother", "father", "son", "gentleman", "prince", "priest", "uncle", "grandfather")
PLURALS = {"lady": "ladies", "princess": "princesses", "actress": "actresses", "gentleman": "gentlemen"}

# Singular and plural of a verb, with possible continuations.
VERBS = (
    ("laughs", "laugh", ("every day", "at night", "all the time", "in the garden")),
    ("works", "work", ("every day", "at night", "in the city", "on Sundays")),
    ("sleeps", "sleep", ("every day", "in the garden", "on the floor", "at noon")),
    ("swims", "swim", ("every day", "in the lake", "on Sundays", "at night")),
    ("sings", "sing", ("every day", "in the garden", "at night", "on Sundays")),
    ("lives", "live", ("in the city", "near the river", "by the sea", "on a farm")),
    ("knows", "know", ("the answer", "the way home", "a secret", "the rules")),
    ("wants", "want", ("some water", "a new car", "to go home", "more money")),
    ("is", "are", ("very tired", "in the kitchen", "happy today", "from France")),
    ("was", "were", ("very tired", "in the kitchen", "late again", "from France")),
    ("has", "have", ("a red car", "a large house", "many friends", "no money")),
)
NOUNS_TOO = ("laugh", "work", "sleep", "swim")
BE = (("is", "are"), ("was", "were"))
STATES = ("very old", "quite new", "rather famous", "very important", "not expensive", "really beautiful")
BESIDE = ("near", "behind", "next to", "in front of", "beside")
# Things with a part, and how the part is joined on.
PARTS = (
    ("key", "to", "door"), ("picture", "of", "house"), ("letter", "from", "teacher"), ("story", "about", "king"),
    ("road", "to", "village"), ("door", "of", "car"), ("book", "about", "painter"), ("song", "about", "river"),
    ("photo", "of", "bridge"), ("gift", "for", "visitor"), ("window", "of", "building"),
    ("report", "about", "accident"),
)  # fmt: skip

REFLEXIVE = ("hurt", "blamed", "saw", "helped", "described", "watched", "defended", "cut", "washed", "enjoyed")
WHEN = ("yesterday", "last week", "this morning", "after the party", "on Monday", "in the evening")

# Past, participle, object.
IRREGULAR = (
    ("ate", "eaten", "the cake"), ("broke", "broken", "the window"), ("wrote", "written", "a letter"),
    ("took", "taken", "the keys"), ("gave", "given", "a speech"), ("drove", "driven", "the truck"),
    ("stole", "stolen", "the money"), ("chose", "chosen", "a gift"), ("saw", "seen", "the film"),
    ("drank", "drunk", "the milk"), ("sang", "sung", "a song"), ("wore", "worn", "a coat"),
    ("forgot", "forgotten", "the name"), ("hid", "hidden", "the letter"), ("threw", "thrown", "the ball"),
    ("tore", "torn", "the paper"), ("flew", "flown", "the plane"), ("knew", "known", "the answer"),
    ("spoke", "spoken", "to the crowd"), ("began", "begun", "the work"), ("rode", "ridden", "the horse"),
    ("shook", "shaken", "the tree"), ("grew", "grown", "the flowers"), ("drew", "drawn", "a map"),
)  # fmt: skip

# Need an object.
TRANSITIVE = (
    "praised", "greeted", "thanked", "blamed", "invited", "admired", "found", "liked", "needed", "mentioned",
    "described",
    "trusted", "loved", "hated", "avoided",
)  # fmt: skip
# Take none.
INTRANSITIVE = (
    "arrived", "slept", "fell", "vanished", "coughed", "laughed", "smiled", "sneezed", "appeared", "disappeared",
    "waited",
    "lied", "fainted",
)  # fmt: skip
PLACED = ("in the garden", "in the kitchen", "at the station", "yesterday", "last night", "this morning")
FOUND = ("found", "made", "took", "wanted", "discovered", "mentioned", "received", "brought", "needed", "described")
THINKS = ("knows", "remembers", "forgot", "noticed", "explained", "learned", "discovered", "will find out")
# Bare form and past.
ACTIONS = (
    ("laugh", "laughed"), ("sleep", "slept"), ("dance", "danced"), ("wait", "waited"), ("sing", "sang"),
    ("stay", "stayed"), ("smile", "smiled"), ("complain", "complained"), ("leave", "left"), ("work", "worked"),
)  # fmt: skip
PERFECT = ("arrived", "left", "eaten", "finished", "paid", "called", "answered", "started", "woken up", "come back")
SMALL_THINGS = (
    "book", "picture", "letter", "hat", "coat", "lamp", "key", "bottle", "cup", "ticket", "clock", "map", "basket",
    "ring",
    "photo",
)  # fmt: skip
SPOTS = ("on the table", "in the box", "near the door", "in the kitchen", "on the floor", "under the bed")
OWNED = ("kept", "sold", "bought", "found", "liked", "lost")
PRONOUNS = (("he", "him"), ("she", "her"), ("they", "them"), ("we", "us"), ("I", "me"))  # nominative, accusative
