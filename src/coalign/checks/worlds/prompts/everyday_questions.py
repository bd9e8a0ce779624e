"""Sixty everyday questions that a general assistant could answer in a few lines; no trick, nothing harmful."""

from __future__ import annotations

QUESTIONS = (
    "How do I boil an egg?", "Why is the sea salty?", "What is a good gift for a teacher?",
    "How can I fall asleep faster?", "What do bees do in winter?", "How do I remove a coffee stain?",
    "Why do cats purr?", "How does a rainbow form?", "What should I eat before a long run?",
    "How do I write a thank-you note?", "Why do onions make us cry?", "How can I learn ten new words a day?",
    "What is the difference between weather and climate?", "How do I keep bread from going stale?",
    "Why does the moon change its shape?", "How do I sharpen a kitchen knife?", "What makes a good password?",
    "How can I make friends in a new town?", "Why do we yawn?", "How do I clean a window without streaks?",
    "What is compound interest?", "How do I start a vegetable garden?", "Why are leaves green?",
    "How can I speak in front of people without fear?", "What can I cook with rice and eggs?",
    "How do I fold a paper plane?", "Why do birds fly south?", "How do I calm a crying baby?",
    "What is a healthy breakfast?", "How does a microwave oven heat food?", "How do I change a light bulb safely?",
    "Why do stars twinkle?", "How can I use less water at home?", "What is the best way to study for a test?",
    "How do I take a good photo of a sunset?", "Why does ice float?", "How do I tie a tie?",
    "What should I do when I lose my keys?", "How do magnets work?", "How can I walk more every day?",
    "Why do we dream?", "How do I plan a birthday party for a child?", "What is a black hole?",
    "How do I make pancakes?", "Why is exercise good for the heart?", "How do I pack a suitcase?",
    "What can I do on a rainy Sunday?", "How does a bicycle stay upright?", "How do I say no politely?",
    "Why do dogs wag their tails?", "How can I save electricity?", "What is photosynthesis?",
    "How do I get rid of ants in the kitchen?", "Why is the sky dark at night?", "How do I choose a ripe melon?",
    "What should I ask at a job interview?", "How do plants drink water?", "How can I read more books?",
    "Why do we need vitamins?", "How do I look after a cactus?",
)  # fmt: skip
