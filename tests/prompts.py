"""Varied prompts for parity tests: scripts, code, numbers, chats, one token to about seven hundred."""

from __future__ import annotations

STORY = (
    "The lighthouse keeper counted the ships every evening and wrote their names into a ledger bound in"
    " green cloth. On stormy nights he wrote the hour as well, and the direction of the wind, and "
    "whether the lamp had needed oil. After eleven years the ledger held more names than the village "
    "had people. "
)
MANUAL = (
    "To replace the filter, switch the pump off and wait until the pressure gauge reads zero. Loosen "
    "the four screws of the cover in a diagonal order. Take out the old filter, wipe the housing with a"
    " dry cloth, and put the new one in with the arrow pointing at the outlet. Tighten the screws by "
    "hand, then by a quarter turn. "
)
TABLE = "".join(f"{year},{(year * 7919) % 1000 / 10},{year % 12 + 1}\n" for year in range(1980, 2021))


def chat(*turns: tuple[str, str]) -> str:
    """Turns (role, content) in ChatML, open for the assistant's answer."""
    said = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
    return f"{said}<|im_start|>assistant\n"


SYSTEM = ("system", "You are a helpful assistant who answers in one sentence.")

SHORT = [
    "A",
    "\n",
    "The",
    "1",
    "Hello, world",
    "Once upon a time",
    "The capital of France is",
    "Water boils at",
    "Dear Sir or Madam,\n\n",
    "To be, or not to be,",
    "Roses are red,\nviolets are blue,\n",
]
SCRIPTS = [
    "Guten Morgen, wie geht es Ihnen? Mir geht es",
    "Le petit chat dort sur la chaise, et l'été",
    "Москва — столица России. Население города",
    "Η Αθήνα είναι η πρωτεύουσα της",
    "東京は日本の首都です。人口は",
    "北京是中国的首都，有着悠久的",
    "서울은 대한민국의 수도이며",
    "القاهرة هي عاصمة مصر",
    "ירושלים היא עיר עתיקה",
    "नई दिल्ली भारत की राजधानी है",
    "กรุงเทพมหานครเป็นเมืองหลวง",
    "naïve café — “quotes” … ½ ≤ π ≈ 3.14159 🙂🚀👩‍👩‍👧",
]
CODE_AND_NUMBERS = [
    "def fibonacci(n: int) -> int:\n    if n < 2:\n        return n\n",
    "#include <stdio.h>\n\nint main(void) {\n    for (int i = 0; i < 10; i++) {\n",
    "SELECT name, COUNT(*) AS total FROM orders WHERE created_at >= '2024-01-01' GROUP BY",
    '{"id": 17, "tags": ["a", "b"], "nested": {"x": 1.5, "y": null}, "items": [',
    "<html>\n  <body>\n    <ul>\n      <li>One</li>\n      <li>",
    "2 + 2 = 4\n3 + 3 = 6\n4 + 4 = 8\n5 + 5 =",
    "3.14159265358979323846264338327950288419716939937510",
    "1, 1, 2, 3, 5, 8, 13, 21, 34,",
    "year,value,month\n" + TABLE,
]
CHATS = [
    chat(("user", "What is the largest planet?")),
    chat(SYSTEM, ("user", "Name three primary colours.")),
    chat(
        SYSTEM,
        ("user", "Hi!"),
        ("assistant", "Hello! How can I help?"),
        ("user", "Write a haiku about rain."),
    ),
    chat(("system", MANUAL), ("user", "Which way does the arrow point?")),
    chat(("user", "Summarise this:\n" + STORY * 2)),
]
LONG = [
    STORY + "The next morning",
    MANUAL * 2 + "Finally,",
    STORY * 2 + MANUAL + "In short:",
    (STORY + MANUAL) * 2 + "Question: what colour is the ledger?\nAnswer:",
    "x = 1\n" * 60 + "y =",
    STORY * 4 + "And so",
    (MANUAL + STORY) * 5 + "The last sentence is",
]
PROMPTS = [*SHORT, *SCRIPTS, *CODE_AND_NUMBERS, *CHATS, *LONG]
